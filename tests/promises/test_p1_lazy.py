"""P1: a request that never touches ``db.session`` pays nothing."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import flask.globals
import pytest
import sqlalchemy
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from flask_uow import Database
from tests.support.databases import TestDatabase
from tests.support.models import Base, User
from tests.support.threads import in_threads


class CountedSession(Session):
    opened = 0

    def __init__(self, **options: Any) -> None:
        CountedSession.opened += 1
        super().__init__(**options)


@pytest.fixture
def db() -> Database:
    """A ``Database`` that counts the sessions it opens."""
    CountedSession.opened = 0
    return Database(Base, session_options={"class_": CountedSession})


def registered(app: Flask) -> list[Any]:
    """Every function that Flask would call in a request, for the app or for this one request."""
    context: Any = getattr(flask.globals, "_cv_request", flask.globals._cv_app).get()
    groups = (app.before_request_funcs, app.after_request_funcs, app.teardown_request_funcs)
    return [
        *(list(group.get(None, [])) for group in groups),
        list(app.teardown_appcontext_funcs),
        list(context._after_request_functions),
    ]


def test_untouched_request_opens_nothing(
    app: Flask, db: Database, client: FlaskClient, traffic: list[str]
) -> None:
    """No session, no connection, no SQL; not even where the view passes ``db.session`` on."""

    @app.get("/")
    def index() -> str:
        return f"{type(db.session).__name__} {db.session!r}"

    assert client.get("/").text == "SessionProxy <SessionProxy without a unit>"
    assert (CountedSession.opened, traffic) == (0, [])


@pytest.mark.parametrize("status", [200, 302, 404, 500])
def test_untouched_request_opens_nothing_whatever_its_answer(
    status: int, app: Flask, db: Database, client: FlaskClient, traffic: list[str]
) -> None:
    """An answer that decides about a commit elsewhere decides about nothing here."""

    @app.get("/")
    def index() -> tuple[str, int]:
        if status == 500:
            raise RuntimeError("without any unit")
        return "", status

    assert client.get("/").status_code == status
    assert (CountedSession.opened, traffic) == (0, [])


def test_untouched_request_registers_no_callback(
    app: Flask, db: Database, client: FlaskClient
) -> None:
    """Flask calls no function of ours in a request; touching the session adds none either."""

    @app.get("/")
    def index() -> str:
        before = registered(app)
        db.session.info["touched"] = True
        assert registered(app) == before == [[], [], [], [], []]
        return ""

    assert client.get("/").status_code == 200


def test_untouched_app_builds_no_engine(
    database: TestDatabase, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engines are made at the first use of the database, not by ``init_app`` nor by a request."""
    create = Mock(wraps=sqlalchemy.create_engine)
    monkeypatch.setattr(sqlalchemy, "create_engine", create)
    app = Flask("untouched")
    app.config["SQLALCHEMY_DATABASE_URI"] = database.url
    db.init_app(app)
    app.add_url_rule("/", view_func=lambda: "")
    app.test_client().get("/")
    assert create.call_count == 0
    with app.app_context():
        assert db.engine is db.engine
    assert create.call_count == 1


def test_touched_session_connects_at_its_first_statement(
    app: Flask, db: Database, client: FlaskClient, traffic: list[str]
) -> None:
    """A session that was opened and not used asks the pool for nothing, nor does its commit."""

    @app.get("/")
    def index() -> str:
        db.session.info["seen"] = True
        db.session.expunge_all()
        return ""

    client.get("/")
    assert (CountedSession.opened, traffic) == (1, [])


def test_read_costs_one_checkout_and_no_more_statements(
    app: Flask, db: Database, client: FlaskClient, traffic: list[str], database: TestDatabase
) -> None:
    """A request that reads one row sends that SELECT, and no transaction begins but on MariaDB.

    SQLAlchemy's own events begin one and roll it back.
    """
    end = "COMMIT" if database.name == "mariadb" else "ROLLBACK"

    @app.get("/")
    def index() -> str:
        return str(db.session.get(User, 1))

    client.get("/")
    assert traffic == ["checkout", "BEGIN", "SELECT", end, "checkin"]


def test_engines_are_built_once_by_many_threads(database: TestDatabase, db: Database) -> None:
    """Whichever thread is first, all see the same engine."""
    app = Flask("fresh")
    app.config["SQLALCHEMY_DATABASE_URI"] = database.url
    db.init_app(app)

    def look() -> object:
        with app.app_context():
            return db.engine

    engines = in_threads(look, times=8)
    assert len(set(map(id, engines))) == 1
