"""``SQLALCHEMY_RECORD_QUERIES`` and ``db.recorded_queries()``: the statements of a context."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError

from flask_uow import ConfigError, Database, OutsideContext, RecordedQuery
from flask_uow._engine import recording
from tests.conftest import MakeApp
from tests.support.databases import anywhere, concurrently
from tests.support.models import User


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    return make_app(SQLALCHEMY_RECORD_QUERIES=True)


def line_of(mark: str) -> str:
    """The place of the line of this file that ends with the comment *mark*."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    (number,) = (n for n, line in enumerate(lines, 1) if line.endswith(f"# {mark}"))
    return f"{__file__}:{number} in "


@concurrently
def test_the_statements_of_a_request_are_recorded(app: Flask, db: Database) -> None:
    """In their order, with parameters, times, engine and line; the flush of the commit, too."""
    seen: list[list[RecordedQuery]] = []

    @app.post("/")
    def store() -> str:
        db.session.add(User(name="ada"))
        db.session.flush()  # the insert
        db.session.scalars(select(User).where(User.name == "ada")).all()  # the select
        db.session.add(User(name="grace"))
        seen.append(db.recorded_queries())
        return ""

    @app.teardown_request
    def look(_: object) -> None:
        seen.append(db.recorded_queries())

    app.test_client().post("/")
    in_view, at_end = seen
    assert in_view == at_end[:2]
    first, second, third = at_end
    assert [query.statement.split()[0] for query in at_end] == ["INSERT", "SELECT", "INSERT"]
    assert first.location.startswith(line_of("the insert"))
    assert second.location.startswith(line_of("the select"))
    assert third.location == "the commit at the end of the request"
    assert "ada" in str(second.parameters)
    assert {query.engine for query in at_end} == {"default"}
    assert {query.error for query in at_end} == {None}
    assert all(0 < query.duration < 60 for query in at_end)
    assert first.end_time <= second.start_time


@concurrently
def test_statements_with_many_parameters_and_those_that_fail(app: Flask, db: Database) -> None:
    """One ``executemany`` is one statement; an error is kept as a text."""
    with app.app_context():
        db.session.execute(text("UPDATE users SET name = :name"), [{"name": "a"}, {"name": "b"}])
        (many,) = db.recorded_queries()
        assert isinstance(many.parameters, (list, tuple))
        assert len(many.parameters) == 2
        with pytest.raises(DBAPIError) as failure:
            db.session.execute(text("SELECT x FROM no_such_table"))
        failed = db.recorded_queries()[-1]
        assert "no_such_table" in failed.statement
        assert failed.error == f"{type(failure.value.orig).__name__}: {failure.value.orig}"
        db.session.rollback()


@anywhere
def test_each_context_has_statements_of_its_own(app: Flask, db: Database) -> None:
    """A request inside the context of a test, and one after another."""

    @app.get("/")
    def index() -> str:
        db.session.scalars(select(User)).all()
        return str(len(db.recorded_queries()))

    with app.app_context():
        db.session.scalar(select(1))
        assert app.test_client().get("/").text == "1"
        assert app.test_client().get("/").text == "1"
        assert [query.statement for query in db.recorded_queries()] == ["SELECT 1"]


@anywhere
def test_engines_without_the_session_are_recorded(app: Flask, db: Database) -> None:
    """What ``db.engine.connect()`` sends; ``CREATE TABLE``, too."""
    with app.app_context():
        with db.engine.begin() as connection:
            connection.execute(insert(User), [{"name": "ada"}])
            connection.exec_driver_sql("CREATE TABLE notes (id INTEGER)")
        assert [query.statement[:6] for query in db.recorded_queries()] == ["INSERT", "CREATE"]


@anywhere
def test_what_is_sent_outside_of_a_context_is_not_kept(app: Flask, db: Database) -> None:
    """It has no place to be kept in."""
    with app.app_context():
        engine = db.engine
    with engine.connect() as connection:
        assert connection.scalar(select(1)) == 1
    with pytest.raises(OutsideContext):
        db.recorded_queries()


@anywhere
def test_the_last_ones_are_kept(app: Flask, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that runs for days does not fill the memory."""
    monkeypatch.setattr(recording, "_MOST", 2)
    with app.app_context():
        for number in range(4):
            db.session.execute(text(f"SELECT {number}"))
        assert [q.statement for q in db.recorded_queries()] == ["SELECT 2", "SELECT 3"]


@anywhere
def test_without_the_key_nothing_listens(make_app: MakeApp, db: Database) -> None:
    """No listener, so no cost; the list is empty."""
    app = make_app()
    with app.app_context():
        db.session.scalar(select(1))
        assert db.recorded_queries() == []
        quiet = len(list(db.engine.dispatch.before_cursor_execute))
    recording_app = make_app(SQLALCHEMY_RECORD_QUERIES=True)
    with recording_app.app_context():
        assert len(list(db.engine.dispatch.before_cursor_execute)) == quiet + 1


@anywhere
def test_the_key_is_a_switch(make_app: MakeApp) -> None:
    """A text such as ``"False"`` would be true."""
    with pytest.raises(ConfigError, match="SQLALCHEMY_RECORD_QUERIES"):
        make_app(SQLALCHEMY_RECORD_QUERIES="False")
