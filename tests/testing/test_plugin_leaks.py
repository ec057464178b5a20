"""``uow_leaks``: what a test leaves open is an error, with the place where it was opened."""

from __future__ import annotations

import unittest
from pathlib import Path

import pytest
from flask import Flask

from flask_uow import Database, testing
from tests.support.databases import anywhere, concurrently
from tests.support.models import User
from tests.testing.conftest import Run

LEAKS = """
import threading
kept = []

def test_app_context(app):
    app.app_context().push()  # app context

def test_request_context(app):
    app.test_request_context("/secret").push()  # request context

def test_both(app):
    app.app_context().push()
    app.test_request_context("/inner").push()
    db.session.add(User(name="dan"))
    db.session.flush()

def test_session(app):
    with app.app_context():
        kept.append(db.sessionmaker())
        kept[-1].scalars(select(User)).all()  # session that has read

def test_session_that_wrote(app):
    with app.app_context():
        session = db.sessionmaker()
        session.add(User(name="dan"))
        session.flush()
        kept.append(session)

def test_connection(app):
    with app.app_context():
        kept.append(db.engine.connect())  # connection
        kept[-1].execute(select(User))

def test_thread(app):
    def work():
        with app.app_context():
            kept.append(db.engine.connect())  # thread
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

def test_clean(client):
    client.post("/users/dan")
    assert client.get("/posts").json == ["ada", "bob", "eve"]
"""


def line_of(mark: str, tests: Path) -> int:
    lines = tests.read_text(encoding="utf-8").splitlines()
    return next(n for n, text in enumerate(lines, 1) if text.endswith(f"# {mark}"))


@concurrently
@pytest.mark.parametrize("isolation", ["off", "isolated"])
def test_each_kind_of_leak_is_an_error_with_its_place(
    run_tests: Run, pytester: pytest.Pytester, isolation: str
) -> None:
    """It is closed, so that the next test starts clean."""
    ini = f"uow_isolation = {isolation}"
    result = run_tests(LEAKS, "-W", "ignore::flask_uow.DiscardedWork", ini=ini)
    result.assert_outcomes(passed=8, errors=7)
    tests = next(pytester.path.glob("test_*.py"))
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_app_context*",
            "The test has left open:",
            f"  an app context of 'shop', pushed in {tests}:{line_of('app context', tests)} in *",
            "*ERROR at teardown of test_request_context*",
            "  a request context (GET '/secret'), pushed in"
            f" {tests}:{line_of('request context', tests)} in *",
            "*ERROR at teardown of test_both*",
            "  a request context (GET '/inner'), *",
            "  an app context of 'shop', pushed in *",
            "*ERROR at teardown of test_session*",
            "  a session, which began a transaction in"
            f" {tests}:{line_of('session that has read', tests)} in *",
            "*ERROR at teardown of test_session_that_wrote*",
            "  a session, which began a transaction in *",
            "*ERROR at teardown of test_connection*",
            f"  a connection, checked out by *, from {tests}:{line_of('connection', tests)} in *",
            "*ERROR at teardown of test_thread*",
            f"  a connection, checked out by *{tests}:{line_of('thread', tests)} in *",
        ]
    )


@anywhere
def test_off_means_off(run_tests: Run) -> None:
    result = run_tests(
        "def test_context(app):\n    kept = app.app_context()\n    kept.push()\n"
        "def test_it_is_still_there():\n    import flask\n    flask.globals._cv_app.get().pop()",
        ini="uow_leaks = off",
    )
    result.assert_outcomes(passed=2)


@anywhere
def test_what_lives_longer_than_a_test_is_no_leak(run_tests: Run) -> None:
    """A context, session or connection of a wider fixture, of a class or of a module."""
    result = run_tests(
        """
import unittest

shop = make_app()
context = shop.app_context()
context.push()  # by the module

def teardown_module():
    context.pop()

@pytest.fixture(scope="module", autouse=True)
def wide(app):
    with app.app_context():
        db.session.scalars(select(User)).all()
        session = db.sessionmaker()
        session.scalars(select(User)).all()
        with db.engine.connect() as connection:
            connection.execute(select(User))
            yield session

def test_one(app, wide):
    db.session.scalars(select(User)).all()
    wide.rollback()
    wide.scalars(select(User)).all()

def test_two(client):
    client.post("/users/dan")

class TestClass(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.context = shop.app_context()
        cls.context.push()

    @classmethod
    def tearDownClass(cls):
        cls.context.pop()

    def setUp(self):
        self.inner = shop.test_request_context()
        self.inner.push()

    def tearDown(self):
        self.inner.pop()

    def test_it(self):
        db.session.scalars(select(User)).all()

def test_last(wide):
    wide.close()
""",
        scope="session",
    )
    result.assert_outcomes(passed=4)


@anywhere
def test_what_a_fixture_closes_is_no_leak(run_tests: Run) -> None:
    """Flask-SQLAlchemy's and the Mega-Tutorial's fixtures; a client that keeps its context."""
    result = run_tests("""
@pytest.fixture(autouse=True)
def context(app):
    with app.app_context():
        yield

def test_it(client):
    with client:
        client.post("/users/dan")
        assert db.session.scalars(select(User)).all()
    ada = db.session.scalars(select(User)).first()
    ada.name = "dan 2"
    db.session.commit()
""")
    result.assert_outcomes(passed=1)


@anywhere
def test_a_thread_has_a_moment_to_finish(run_tests: Run) -> None:
    """A server in a thread sends its response before its unit ends."""
    result = run_tests("""
import threading, time

def test_it(app):
    began = threading.Event()
    def work():
        with app.app_context(), db.engine.connect() as connection:
            began.set()
            time.sleep(0.3)
    threading.Thread(target=work).start()
    began.wait()
""")
    result.assert_outcomes(passed=1)


@anywhere
def test_the_end_of_a_context_may_fail(run_tests: Run) -> None:
    """It is told with the leak: work that was discarded, where warnings are errors."""
    result = run_tests("""
def test_it(app):
    app.app_context().push()
    db.session.add(User(name="dan"))

def test_next(client):
    client.post("/users/dan")
""")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["  an app context of 'shop', *; its end raised DiscardedWork: *"])


@anywhere
def test_a_fixture_that_fails_does_not_keep_leaks_alive(run_tests: Run) -> None:
    """Its own error is reported, and the next test starts clean."""
    result = run_tests("""
@pytest.fixture
def broken(app):
    context = app.app_context()
    context.push()
    db.session.execute(User.__table__.insert().values(name="dan"))
    yield
    raise LookupError("mine")

def test_it(broken):
    pass

def test_next(client):
    import flask
    assert not flask.has_app_context()
    client.post("/users/dan")
""")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["E*LookupError: mine"])


@anywhere
def test_bad_values_of_the_options_get_a_sentence(run_tests: Run) -> None:
    result = run_tests("def test_it(): pass", ini="uow_leaks = maybe")
    result.stderr.fnmatch_lines(["ERROR: uow_leaks is 'maybe'*Write one of 'error' or 'off'."])


@pytest.mark.slow
@anywhere
def test_leaks_are_found_by_workers_in_random_order(run_tests: Run) -> None:
    result = run_tests(
        LEAKS, "-W", "ignore::flask_uow.DiscardedWork", "-n", "2", "-p", "no:flask",
        in_process=False,
    )  # fmt: skip
    result.assert_outcomes(passed=8, errors=7)


@pytest.mark.slow
@anywhere
def test_without_pytest(app: Flask, db: Database) -> None:
    """``no_leaks()`` for unittest: a failure, and what is open is closed."""

    class Leaky(unittest.TestCase):
        def runTest(self) -> None:
            with testing.no_leaks():
                app.app_context().push()
                db.session.get(User, 1)

    outer = app.app_context()
    outer.push()
    result = unittest.TestResult()
    Leaky().run(result)
    ((_, text),) = result.failures
    assert "AssertionError: The test has left open:\n  an app context of 'tests', pushed in" in text
    outer.pop()  # which no_leaks() has left alone
    with testing.no_leaks(), app.app_context():
        db.session.get(User, 1)
