"""Failures inside isolation: the same errors, and the shared connection stays."""

from __future__ import annotations

import pytest
from flask import Flask
from sqlalchemy.exc import IntegrityError, OperationalError

from flask_uow import Database, testing
from tests.conftest import MakeApp
from tests.support.databases import on
from tests.support.models import User
from tests.support.witness import Witness
from tests.testing.test_failures import add_views

pytestmark = on("sqlite-file", "postgresql", "mariadb")


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    app = make_app(UOW_RETRY_PAUSE=0.001)
    add_views(app, app.extensions["sqlalchemy"])
    return app


def test_failed_commit(app: Flask, db: Database, witness: Witness) -> None:
    """Also one in which nothing has happened; the work before stays, and goes at the end."""
    client = app.test_client()
    with testing.isolated(db, app=app):
        assert client.post("/first").status_code == 200
        with testing.fail_commit(db, app=app):
            assert client.post("/ada").status_code == 409
        assert client.post("/bob").status_code == 200
        assert client.get("/").json == ["bob", "first"]
        with app.app_context(), testing.fail_commit(db), pytest.raises(IntegrityError):
            with db.engine.connect() as connection, connection.begin():
                pass  # not even a savepoint has begun
        assert client.get("/").json == ["bob", "first"]
    assert witness.names() == []


@pytest.mark.parametrize("stored", [False, True])
def test_lost_commit(app: Flask, db: Database, witness: Witness, stored: bool) -> None:
    """Stored or not, and at a statement: the connection of the test is still there."""
    client = app.test_client()
    with testing.isolated(db, app=app):
        assert client.post("/first").status_code == 200
        with testing.lose_connection(db, at="commit", stored=stored, app=app):
            assert client.post("/ada").status_code == 503
        assert isinstance(app.config["ERROR"], OperationalError)
        assert client.get("/").json == sorted(["first", *["ada"] * stored])
        with testing.lose_connection(db, at="execute", app=app):
            assert client.get("/").status_code == 503
        with testing.lose_connection(db, at=1, app=app):
            assert client.post("/eve").status_code == 503
        assert client.post("/bob").status_code == 200
        assert client.get("/").json == sorted(["first", "bob", *["ada"] * stored])
    assert witness.names() == []


def test_deadlock(app: Flask, db: Database, witness: Witness) -> None:
    """Run again, and not."""
    client = app.test_client()
    with testing.isolated(db, app=app):
        assert client.post("/first").status_code == 200
        with testing.deadlock_once(db, app=app):
            assert client.post("/again/ada").status_code == 200
        with testing.deadlock_once(db, app=app):
            assert client.post("/eve").status_code == 503
        assert client.get("/").json == ["ada", "first"]
    assert witness.names() == []


def test_slow(app: Flask, db: Database, witness: Witness) -> None:
    """The server sleeps in its savepoint."""
    client = app.test_client()
    with testing.isolated(db, app=app), testing.slow(db, 0.01, app=app):
        assert client.post("/first").status_code == 200
        assert client.get("/").json == ["first"]
    assert witness.names() == []


def test_hooks(app: Flask, db: Database) -> None:
    """As in production, after the commit of a unit."""
    ran: list[str] = []
    with testing.isolated(db, app=app), testing.capture_on_commit(db) as hooks:
        with app.app_context(), db.atomic() as session:
            session.add(User(name="ada"))
            db.on_commit(ran.append, "ada")
    assert len(hooks) == 1
    assert ran == []
