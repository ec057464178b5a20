"""The pytest plugin as a whole: how it is loaded, and beside other plugins."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.databases import anywhere
from tests.testing.conftest import Run

ROOT = Path(__file__).parents[2]


def test_the_entry_point_has_the_name_of_the_module() -> None:
    """Then ``-p flask_uow.pytest_plugin`` beside it does not load the module a second time."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    entry = '[project.entry-points.pytest11]\n"flask_uow.pytest_plugin" = "flask_uow.pytest_plugin"'
    assert entry in text


@pytest.mark.slow
def test_a_suite_that_does_not_use_it_does_not_load_flask(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither Flask nor SQLAlchemy, with fixtures of wide scope and at the end of the run, too."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest("""
import sys

def pytest_unconfigure():
    print("loaded:", sorted({"flask", "sqlalchemy", "flask_uow.pytest_plugin"} & set(sys.modules)))
""")
    pytester.makepyfile("""
import pytest

@pytest.fixture(scope="session")
def wide():
    pass

def test_it(wide):
    pass
""")
    result = pytester.runpytest_subprocess("-p", "flask_uow.pytest_plugin")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["loaded: ['flask_uow.pytest_plugin']"])


PYTEST_FLASK = """
def test_client(client, assert_queries):
    with assert_queries(4):
        assert client.get("/posts").json == ["ada", "bob", "eve"]

@pytest.mark.usefixtures("client_class")
class TestClientClass:
    def test_it(self, assert_max_queries):
        with assert_max_queries(4):
            assert self.client.get("/posts").json == ["ada", "bob", "eve"]

def test_the_context_that_it_pushes(app, assert_queries):
    import flask
    assert flask.has_request_context()
    with assert_queries(1):
        assert len(db.session.scalars(select(User)).all()) == 3

kept = []

def test_what_it_pushes_is_no_leak_but_this_is(app):
    kept.append(db.engine.connect())
"""


@pytest.mark.slow
@anywhere
@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_pytest_flask(options: tuple[str, ...], run_tests: Run) -> None:
    """Its clients, and the request context that it pushes around each test, in random order."""
    conftest = "del client  # pytest-flask has one"
    result = run_tests(PYTEST_FLASK, *options, conftest=conftest, in_process=False)
    outcomes = result.parseoutcomes()
    assert (outcomes["passed"], outcomes["errors"]) == (4, 1), outcomes
    result.stdout.fnmatch_lines(["The test has left open:", "  a connection, checked out by *"])


LIVE_SERVER = """
from urllib.request import urlopen

def test_live_server(live_server, assert_queries):
    with assert_queries(0):  # it is another process
        assert urlopen(live_server.url("/posts"), timeout=30).status == 200

def test_beside_it(client, assert_queries):
    with assert_queries(4):
        client.get("/posts")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="pytest-flask needs to fork")
@anywhere
def test_the_live_server_is_another_process(run_tests: Run) -> None:
    """Its statements are not counted."""
    result = run_tests(
        LIVE_SERVER,
        "-W",
        "ignore:.*fork.*:DeprecationWarning",
        scope="session",
        in_process=False,
    )
    result.assert_outcomes(passed=2)
