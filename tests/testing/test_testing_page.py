"""The files of ``docs/how-to/testing.md``, typed into an empty folder and run with pytest."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, fences, place_of
from tests.testing.conftest import LoadedModules


def write(folder: Path) -> None:
    """Type the files that the page names."""
    for fence in fences(DOCS / "how-to" / "testing.md"):
        if place := place_of(fence):
            place.write(folder, fence["body"])


# A test and a command that do not commit, and a test that finds nothing of their work.
FORGETFUL = """
from shop import User, db

def test_forgetful(client):
    db.session.add(User(name="ada"))
    assert client.get("/users").json == []

def test_forgetful_command(app):
    @app.cli.command("forget")
    def forget():
        db.session.add(User(name="ada"))
    assert app.test_cli_runner().invoke(args=["forget"]).exit_code == 0

def test_next(client):
    assert client.get("/users").json == []
"""


@pytest.fixture
def run(
    libraries: LoadedModules, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., pytest.RunResult]:
    """Type the files, and run pytest with the arguments."""
    write(pytester.path)
    pytester.syspathinsert()
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    options = ("-p", "flask_uow.pytest_plugin", "-p", "no:cacheprovider")
    return partial(pytester.runpytest_inprocess, *options, plugins=[libraries])


def test_the_ten_lines(run: Callable[..., pytest.RunResult]) -> None:
    """They pass as they stand."""
    run().assert_outcomes(passed=4)


def test_forgotten_work(run: Callable[..., pytest.RunResult], pytester: pytest.Pytester) -> None:
    """It is an error of its own test."""
    pytester.makepyfile(test_forgetful=FORGETFUL)
    result = run("test_forgetful.py")
    result.assert_outcomes(passed=3, errors=2)
    result.stdout.fnmatch_lines_random(["*ERROR*::test_forgetful -*", "*ERROR*_command -*"])


@pytest.mark.slow
def test_the_ten_lines_need_isolation(pytester: pytest.Pytester) -> None:
    """Without the line in the configuration, tests find the rows of others; in another process."""
    write(pytester.path)
    (pytester.path / "pytest.ini").write_text("[pytest]\n")
    outcomes = pytester.runpytest_subprocess("-p", "no:randomly").parseoutcomes()
    assert outcomes["failed"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize("options", [("-p", "randomly"), ("-n", "2")], ids=["random", "xdist"])
def test_the_ten_lines_in_any_order(
    pytester: pytest.Pytester, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random, and in two processes."""
    write(pytester.path)
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p flask_uow.pytest_plugin")
    result = pytester.runpytest_subprocess(*(options if options[0] == "-n" else ()))
    result.assert_outcomes(passed=4)
