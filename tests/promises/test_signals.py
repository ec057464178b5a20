"""The signals of ``flask_uow.signals``: what becomes of units of work."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest
from flask import Flask, abort, stream_with_context
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError, OperationalError

from flask_uow import Database, DiscardedWork, Rollback, signals, testing
from flask_uow._request import context
from flask_uow._request.observed import ObservedUnit
from flask_uow._unit.unit import UnitOfWork
from tests.conftest import MakeApp
from tests.support.databases import anywhere, concurrently
from tests.support.models import User
from tests.support.witness import Witness


class Sent(NamedTuple):
    """A signal that was sent."""

    name: str
    details: dict[str, Any]


@pytest.fixture
def sent(app: Flask) -> Iterator[list[Sent]]:
    """The signals of the app, in their order."""
    log: list[Sent] = []
    with ExitStack() as stack:
        for signal in signals.SIGNALS:

            def note(sender: object, name: str = signal.name, **details: Any) -> None:
                assert sender is app
                log.append(Sent(name, details))

            stack.enter_context(signal.connected_to(note, sender=app))
        yield log


def names(sent: list[Sent]) -> list[str]:
    return [signal.name for signal in sent]


@concurrently
def test_a_commit_is_signalled_after_it(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """A second connection finds the row, and the response is still to come."""
    seen: list[tuple[list[str], float]] = []

    @app.post("/")
    def store() -> str:
        db.session.add(User(name="ada"))
        return ""

    def note(_: Flask, duration: float, **__: object) -> None:
        seen.append((witness.names(), duration))

    with signals.unit_committed.connected_to(note, app):
        assert client.post("/").status_code == 200
    ((stored, duration),) = seen
    assert stored == ["ada"]
    assert 0 < duration < 60


@concurrently
def test_each_way_to_commit_is_signalled_once(
    app: Flask, db: Database, client: FlaskClient, sent: list[Sent], witness: Witness
) -> None:
    """The request, ``commit()``, ``atomic()`` outside of a request, ``independent()``."""

    @app.post("/")
    def store() -> str:
        with db.atomic():  # a savepoint
            db.session.add(User(name="a"))
        return ""

    @app.post("/explicit")
    def explicit() -> str:
        db.session.add(User(name="b"))
        db.session.commit()
        db.session.add(User(name="c"))
        return ""

    @app.post("/independent")
    def independent() -> str:
        with db.independent() as session:
            session.add(User(name="d"))
        abort(400)

    for path, times in [("/", 1), ("/explicit", 2), ("/independent", 1)]:
        sent.clear()
        client.post(path)
        assert names(sent) == ["unit-committed"] * times
    sent.clear()
    with app.app_context(), db.atomic():
        with db.atomic():
            db.session.add(User(name="e"))
        db.session.add(User(name="f"))
    assert names(sent) == ["unit-committed"]
    assert witness.names() == ["a", "b", "c", "d", "e", "f"]


@concurrently
def test_a_unit_that_wrote_nothing_sends_nothing(
    app: Flask, db: Database, client: FlaskClient, sent: list[Sent]
) -> None:
    """One that was never opened, one without a statement, one that has only read, also in a block.

    A read whose view fails undoes nothing either.
    """

    @app.get("/untouched")
    def untouched() -> str:
        return ""

    @app.get("/opened")
    def opened() -> str:
        return str(db.session())

    @app.get("/read")
    def read() -> str:
        return str(db.session.scalars(select(User)).all())

    @app.get("/read/fail")
    def fail() -> str:
        db.session.scalars(select(User)).all()
        abort(404)

    @app.get("/block")
    def block() -> str:
        with db.atomic():
            return str(db.session.scalars(select(User)).all())

    for path in ["/untouched", "/opened", "/read", "/read/fail", "/block"]:
        client.get(path)
    with app.app_context():
        db.session.scalars(select(User)).all()
    assert sent == []


@concurrently
@pytest.mark.parametrize("flush", [True, False])
def test_a_rollback_is_signalled_with_its_cause(
    app: Flask, db: Database, client: FlaskClient, sent: list[Sent], flush: bool, witness: Witness
) -> None:
    """An exception, or None for a status; objects that were never flushed count as work."""

    @app.post("/<way>")
    def store(way: str) -> tuple[str, int]:
        db.session.add(User(name="ada"))
        if flush:
            db.session.flush()
        if way == "raise":
            raise ZeroDivisionError
        if way == "only":
            db.set_rollback_only()
        return "", 409 if way == "status" else 200

    causes: dict[str, type] = {"raise": ZeroDivisionError, "only": type(None), "status": type(None)}
    for way, cause in causes.items():
        sent.clear()
        try:
            raise LookupError  # which the server of the app may be handling
        except LookupError:
            client.post(f"/{way}")
        assert names(sent) == ["unit-rolled-back"]
        assert isinstance(sent[0].details["error"], cause)
        assert 0 < sent[0].details["duration"] < 60
    assert witness.names() == []


@concurrently
def test_a_savepoint_sends_nothing(app: Flask, db: Database, sent: list[Sent]) -> None:
    """Neither its release nor its rollback is the outcome of the unit."""
    with app.app_context(), db.atomic():
        db.session.add(User(name="ada"))
        db.session.flush()
        with db.atomic():
            db.session.add(User(name="grace"))
            db.session.flush()
            raise Rollback
        with db.atomic():
            db.session.add(User(name="joan"))
        assert sent == []
    assert names(sent) == ["unit-committed"]


@concurrently
def test_a_commit_that_fails_is_a_rollback(
    app: Flask, db: Database, client: FlaskClient, sent: list[Sent]
) -> None:
    """In its flush, and at COMMIT itself; the work of the error handler is a commit of its own."""

    @app.post("/<name>")
    def store(name: str) -> str:
        db.session.add(User(name=name))
        if name == "twice":
            db.session.add(User(id=1, name="one"))
            db.session.add(User(id=1, name="two"))
        return ""

    @app.errorhandler(OperationalError)
    def handle(_: Exception) -> tuple[str, int]:
        db.session.add(User(name="noted"))
        return "", 503

    client.post("/twice")
    assert names(sent) == ["unit-rolled-back"]
    assert isinstance(sent[0].details["error"], IntegrityError)
    sent.clear()
    with testing.lose_connection(db, at="commit", app=app):
        assert client.post("/ada").status_code == 503
    assert names(sent) == ["unit-rolled-back", "unit-committed"]
    assert isinstance(sent[0].details["error"], OperationalError)


@concurrently
def test_a_rollback_by_hand_is_signalled(app: Flask, db: Database, sent: list[Sent]) -> None:
    """With the exception that is being handled, if there is one."""
    with app.app_context():
        db.session.add(User(name="ada"))
        db.session.flush()
        db.session.rollback()
        assert [signal.details["error"] for signal in sent] == [None]
        db.session.add(User(name="ada"))
        db.session.flush()
        cause = ZeroDivisionError()
        try:
            raise cause
        except ZeroDivisionError:
            db.session.rollback()
        assert sent[-1].details["error"] is cause


@anywhere
def test_a_discarded_work_is_signalled(app: Flask, db: Database, sent: list[Sent]) -> None:
    """What was lost, and where its unit was opened."""
    with pytest.warns(DiscardedWork), app.app_context():
        db.session.add_all([User(name="ada"), User(name="grace")])
    discarded = next(signal for signal in sent if signal.name == "work-discarded")
    assert discarded.details["work"] == {("User", "new"): 2}
    assert __file__ in discarded.details["location"]
    assert "unit-rolled-back" in names(sent)


@anywhere
def test_a_failing_hook_is_signalled(
    app: Flask,
    db: Database,
    client: FlaskClient,
    sent: list[Sent],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Beside the log line; the response stands."""

    def fail() -> None:
        raise ZeroDivisionError

    @app.post("/")
    def store() -> str:
        db.session.add(User(name="ada"))
        db.on_commit(fail)
        return ""

    assert client.post("/").status_code == 200
    assert names(sent) == ["unit-committed", "hook-failed"]
    assert sent[1].details["function"] is fail
    assert isinstance(sent[1].details["error"], ZeroDivisionError)
    assert "db.on_commit" in caplog.text


class Conflict(OperationalError):
    """A conflict with another transaction, as SQLite reports it."""

    def __init__(self) -> None:
        import sqlite3

        cause = sqlite3.OperationalError("database is locked")
        super().__init__("UPDATE", {}, cause)


@anywhere
def test_retries_are_signalled(
    make_app: MakeApp, app: Flask, db: Database, client: FlaskClient, sent: list[Sent]
) -> None:
    """Of a view and of a function: each run that follows a conflict."""
    app.config["UOW_RETRY_PAUSE"] = 0.001
    runs: list[int] = []

    @app.post("/")
    @db.unit(retries=3)
    def store() -> str:
        db.session.add(User(name="ada"))
        db.session.flush()
        runs.append(1)
        if len(runs) < 3:
            raise Conflict
        return ""

    @db.atomic(retries=3)
    def work() -> None:
        runs.append(1)
        if len(runs) < 3:
            raise Conflict

    assert client.post("/").status_code == 200
    retries = [signal for signal in sent if signal.name == "unit-retried"]
    assert [signal.details["attempt"] for signal in retries] == [2, 3]
    assert all(isinstance(signal.details["error"], Conflict) for signal in retries)
    rolled_back = "unit-rolled-back"
    assert names(sent) == [rolled_back, "unit-retried"] * 2 + ["unit-committed"]
    sent.clear()
    runs.clear()
    with app.app_context():
        work()
    assert [s.details["attempt"] for s in sent if s.name == "unit-retried"] == [2, 3]


@concurrently
def test_an_error_of_a_receiver_changes_nothing(
    app: Flask,
    db: Database,
    client: FlaskClient,
    caplog: pytest.LogCaptureFixture,
    witness: Witness,
) -> None:
    """It is logged, the other receivers run, and the response stands."""
    ran: list[str] = []

    def fail(_: Flask, **__: object) -> None:
        ran.append("fail")
        raise ZeroDivisionError

    def run(_: Flask, **__: object) -> None:
        ran.append("run")

    @app.post("/")
    def store() -> str:
        db.session.add(User(name="ada"))
        return ""

    signal = signals.unit_committed
    with signal.connected_to(fail), signal.connected_to(run), caplog.at_level(logging.ERROR):
        assert client.post("/").status_code == 200
    assert sorted(ran) == ["fail", "run"]
    assert "unit-committed" in caplog.text
    assert witness.names() == ["ada"]


@anywhere
def test_receivers_may_be_coroutine_functions(
    app: Flask, db: Database, client: FlaskClient
) -> None:
    """As those of Flask's own ``before_request``; a muted signal is not sent."""
    ran: list[float] = []

    async def note(_: Flask, duration: float, **__: object) -> None:
        ran.append(duration)

    @app.post("/")
    def store() -> str:
        db.session.add(User(name="ada"))
        return ""

    with signals.unit_committed.connected_to(note):
        client.post("/")
        with signals.unit_committed.muted():
            client.post("/")
    assert len(ran) == 1


@anywhere
def test_a_stream_that_writes_signals_what_is_lost(
    app: Flask, db: Database, client: FlaskClient, sent: list[Sent]
) -> None:
    """The unit is committed before the body; later work is discarded at its end (P7)."""

    @app.post("/")
    def store() -> Any:
        db.session.add(User(name="ada"))

        def body() -> Iterator[str]:
            db.session.add(User(name="lost"))
            yield "x"

        return app.response_class(stream_with_context(body()))

    with pytest.warns(DiscardedWork), client.post("/") as response:
        assert response.get_data() == b"x"
    assert names(sent) == ["unit-committed", "unit-rolled-back", "work-discarded"]


@anywhere
def test_without_receivers_units_know_no_signals(app: Flask, db: Database) -> None:
    """So they cost nothing: the class is that of every unit, as soon as the last one has gone."""

    def note(_: object, **__: object) -> None: ...

    def class_of_a_unit() -> type:
        with app.app_context():
            db.session()
            return type(db.current_unit())

    assert class_of_a_unit() is UnitOfWork
    with signals.hook_failed.connected_to(note):
        assert class_of_a_unit() is ObservedUnit
    assert class_of_a_unit() is UnitOfWork
    assert context._unit_class is UnitOfWork
