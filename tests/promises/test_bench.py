"""The test bench itself: what it promises to all other tests."""

from __future__ import annotations

import pytest
from flask import Flask
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

from flask_uow import Database, testing
from tests.conftest import MakeApp
from tests.support import databases, engines
from tests.support.databases import anywhere, on
from tests.support.faults import Faults, Step, backend_id, kill_backend
from tests.support.models import User
from tests.support.witness import Witness


@anywhere
@pytest.mark.parametrize("kind", ["app_context", "test_request_context"])
def test_leak_check_finds_a_pushed_context(kind: str, app: Flask) -> None:
    """It names the context, and pops it so that the next test starts clean."""
    with pytest.raises(AssertionError, match=r"context.*, pushed in"):
        with testing.no_leaks():
            getattr(app, kind)().push()
    with testing.no_leaks():
        pass


@anywhere
def test_leak_check_finds_a_connection(app: Flask, db: Database) -> None:
    """It closes what is checked out of the pool of an engine."""
    kept = []
    with pytest.raises(AssertionError, match="a connection, checked out by"):
        with testing.no_leaks(), app.app_context():
            kept.append(db.engine.connect())
    assert engines.checked_out() == 0


def test_plain_engines_are_watched_as_well() -> None:
    connection = create_engine("sqlite://").connect()
    with pytest.raises(AssertionError, match=r"1 connection\(s\) checked out"):
        engines.dispose()
    connection.close()


def test_missing_database_is_a_skip_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a failure for those that ``UOW_TEST_REQUIRE`` names."""
    monkeypatch.setenv("UOW_TEST_REQUIRE", "mariadb, other")
    with pytest.raises(pytest.skip.Exception, match="no postgresql: nothing answers"):
        databases.missing("postgresql", "nothing answers")
    with pytest.raises(pytest.fail.Exception, match="asks for mariadb, but nothing answers"):
        databases.missing("mariadb", "nothing answers")


def test_witness_sees_only_what_is_committed(
    app: Flask, db: Database, witness: Witness, database: databases.TestDatabase
) -> None:
    """It looks with a connection of its own."""
    with app.app_context():
        db.session.add(User(name="ada"))
        db.session.flush()
        if database.name != "sqlite-memory":  # its shared cache refuses a reader meanwhile
            assert witness.names() == []
        db.session.commit()
    assert witness.names() == ["ada"]


@pytest.mark.parametrize("step", ["statement", "commit"])
def test_fault_fails_the_chosen_call_and_no_other(
    step: Step, app: Flask, db: Database, faults: Faults
) -> None:
    """The second call fails with the driver's own error, the first and the third do not."""
    with app.app_context():
        engine = db.engine
    faults.fail(step, nth=2)
    outcomes = []
    for _ in range(3):
        with engine.connect() as connection:
            try:
                connection.exec_driver_sql("SELECT 1")
                connection.commit()
                outcomes.append("fine")
            except OperationalError as error:
                outcomes.append(str(error.orig))
                faults.stop()
    failed = f"the {step} failed on demand"
    assert outcomes == ["fine", failed, "fine"]


@on("postgresql", "mariadb")
def test_killed_backend_is_gone(app: Flask, db: Database, witness: Witness) -> None:
    """The next statement of that connection fails."""
    with app.app_context():
        engine = db.engine
    with engine.connect() as connection:
        kill_backend(witness, backend_id(connection))
        with pytest.raises(OperationalError):
            connection.exec_driver_sql("SELECT 1")


@pytest.mark.parametrize("turn", [1, 2])
def test_database_is_empty_at_the_start(turn: int, make_app: MakeApp, witness: Witness) -> None:
    """Whatever the test before has left in it, and keys start at 1."""
    make_app()
    assert witness.names() == []
    witness.store(User(name="ada"))
    assert witness.ask("SELECT id FROM users") == [1]
