"""``assert_queries``, ``assert_max_queries`` and ``pytest --uow-queries``."""

from __future__ import annotations

import pytest

from tests.support.databases import anywhere, concurrently
from tests.testing.conftest import LoadedModules, Run


@concurrently
def test_the_right_number_passes(run_tests: Run) -> None:
    """The request reads the posts, and the author of each."""
    result = run_tests("""
def test_exact(client, assert_queries):
    with assert_queries(4) as queries:
        assert client.get("/posts").json == ["ada", "bob", "eve"]
    assert len(queries) == 4
    with assert_queries(1):
        client.post("/users/dan")

def test_at_most(client, assert_max_queries):
    with assert_max_queries(4):
        client.get("/posts")
    with assert_max_queries(40):
        client.get("/posts")

def test_inside_a_context(app, assert_queries):
    with app.app_context(), assert_queries(1):
        db.session.scalars(select(User)).all()
""")
    result.assert_outcomes(passed=3)


@anywhere
def test_a_failure_lists_the_statements(run_tests: Run, pytester: pytest.Pytester) -> None:
    """Numbered, each with its line; what was repeated, with its count and place."""
    result = run_tests("""
def test_exact(client, assert_queries):
    with assert_queries(1):
        client.get("/posts")

def test_at_most(client, assert_max_queries):
    with assert_max_queries(2):
        client.get("/posts")

def test_too_few(client, assert_queries):
    with assert_queries(5):
        client.get("/posts")
""")
    result.assert_outcomes(failed=3)
    conftest = (pytester.path / "conftest.py").read_text().splitlines()
    line = next(n for n, text in enumerate(conftest, 1) if text.endswith("# the loop"))
    place = f"{pytester.path}/conftest.py:{line} in *"
    result.stdout.fnmatch_lines(
        [
            "E*Expected 1 statement, but the block sent 4 statements:",
            "E*1. SELECT posts.id*FROM posts ORDER BY posts.id",
            f"E*{pytester.path}/conftest.py:{line - 1} in *",
            "E*2. SELECT users.id*",
            f"E*{place}",
            "E*4. SELECT users.id*",
            "E*Sent repeatedly*(N+1):",
            "E*  3 times SELECT users.id*",
            f"E*{place}",
            "E*Expected at most 2 statements, but the block sent 4 statements:",
            "E*Expected 5 statements, but the block sent 4 statements:",
        ]
    )
    assert "flask_uow/pytest_plugin" not in result.stdout.str()  # the traceback ends in the test


@anywhere
def test_an_error_in_the_block_is_the_failure(run_tests: Run) -> None:
    """It is not hidden by a wrong number of statements, and nothing counts after it."""
    result = run_tests("""
def test_error(client, assert_queries):
    with assert_queries(1):
        raise LookupError("mine")
""")
    result.stdout.fnmatch_lines(["E*LookupError: mine"])
    assert "Expected" not in result.stdout.str()


@anywhere
@pytest.mark.parametrize(
    ("fixture", "call", "sentence"),
    [
        ("def app(): return 42", "assert_queries(1)", "*'app' returned 42, which is not a Flask*"),
        ("def app(): return Flask('bare')", "assert_queries(1)", "*'bare' is not registered with*"),
        ("def app(): return make_app()", "assert_queries('1')", "*number of statements*not 'str'*"),
        ("def app(missing): pass", "assert_queries(1)", "*fixture 'missing' not found*"),
    ],
    ids=["other", "bare", "number", "broken"],
)
def test_bad_input_gets_a_sentence(fixture: str, call: str, sentence: str, run_tests: Run) -> None:
    result = run_tests(f"""
@pytest.fixture
{fixture}

def test_it(assert_queries):
    with {call}:
        pass
""")
    assert not result.parseoutcomes().get("passed")
    result.stdout.fnmatch_lines([sentence])


def test_a_suite_without_the_fixture_app_gets_a_sentence(
    libraries: LoadedModules, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile("def test_it(assert_max_queries): pass")
    options = ["-p", "flask_uow.pytest_plugin"]
    result = pytester.runpytest_inprocess(*options, plugins=[libraries])
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["The fixture 'assert_max_queries' needs a fixture named 'app'*"])


HEAVY = """
def test_light(client):
    client.post("/users/dan")

def test_heavy(client):
    client.get("/posts")

def test_none():
    pass
"""


@anywhere
def test_the_heaviest_tests_are_shown(run_tests: Run) -> None:
    """With what they repeat; what the fixtures send is not counted."""
    result = run_tests(HEAVY, "--uow-queries")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        [
            "*tests that send the most SQL statements*",
            "     4 *::test_heavy",
            "         3 times SELECT users.id*",
            "         *conftest.py:* in *",
            "     1 *::test_light",
        ]
    )
    assert "0 test" not in result.stdout.str()
    assert "most SQL statements" not in run_tests(HEAVY).stdout.str()


@anywhere
def test_nothing_to_show(run_tests: Run) -> None:
    result = run_tests("def test_none(): pass", "--uow-queries")
    result.stdout.fnmatch_lines(["No test has sent a statement."])


@pytest.mark.slow
@anywhere
def test_the_heaviest_tests_of_all_workers_are_shown(run_tests: Run) -> None:
    """Under pytest-xdist, in random order."""
    result = run_tests(HEAVY, "--uow-queries", "-n", "2", in_process=False)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["     4 *::test_heavy", "*3 times*", "*", "     1 *::test_light"])
