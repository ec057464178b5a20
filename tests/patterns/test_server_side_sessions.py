"""Server-side sessions: rows that stay, whatever becomes of the request."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, flash, get_flashed_messages, session
from sqlalchemy import text

from flask_uow import Database
from tests.support.databases import TestDatabase
from tests.support.recipes import Recipe
from tests.support.witness import Witness


@pytest.fixture
def sessions(database: TestDatabase, tmp_path: Path) -> Witness:
    """Where sessions are stored: on SQLite in a file of their own."""
    is_file = database.is_sqlite
    return Witness(f"sqlite:///{tmp_path / 'sessions.db'}" if is_file else database.url)


@pytest.fixture
def shop(recipe: Recipe, app: Flask, db: Database, models: Any, sessions: Witness) -> Any:
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 1}
    url = sessions.engine.url.render_as_string(hide_password=False)
    names = recipe("Server-side sessions", sessions_url=url)

    @app.post("/login/<int:status>")
    def login(status: int) -> tuple[str, int]:
        session["attempts"] = session.get("attempts", 0) + 1
        flash("Sorry", "error")
        db.session.add(models.User(name=f"user {session['attempts']}"))
        db.session.flush()  # the request has the write lock of SQLite, and its only connection
        if status == 500:
            raise LookupError
        return "", status

    @app.get("/")
    def read() -> list[Any]:
        return [session.get("attempts"), get_flashed_messages(with_categories=True)]

    @app.post("/forget")
    def forget() -> str:
        session.clear()
        return ""

    return names


def keys(sessions: Witness) -> list[str]:
    return sessions.ask("SELECT key FROM web_sessions")


@pytest.mark.parametrize(("status", "stored"), [(200, ["user 1"]), (401, []), (500, [])])
def test_a_session_stays_if_the_view_fails(
    status: int, stored: list[str], shop: Any, app: Flask, witness: Witness, sessions: Witness
) -> None:
    """And the rows of the view do not."""
    client = app.test_client()
    assert client.post(f"/login/{status}").status_code == status
    assert client.get("/").json == [1, [["error", "Sorry"]]]
    assert client.get("/").json == [1, []]
    assert witness.names() == stored
    assert len(keys(sessions)) == 1


def test_a_session_belongs_to_its_cookie(shop: Any, app: Flask, sessions: Witness) -> None:
    """An unknown or expired key begins a new session, with a key of its own."""
    client = app.test_client()
    client.set_cookie("session", "chosen by an attacker")
    client.post("/login/401")
    assert "chosen by an attacker" not in keys(sessions)
    assert app.test_client().get("/").json == [None, []]
    assert client.get("/").json[0] == 1  # type: ignore[index]
    with sessions.engine.begin() as connection:
        connection.execute(text("UPDATE web_sessions SET expires = :now"), {"now": time.time()})
    assert client.get("/").json == [None, []]


def test_a_cleared_session_is_empty(shop: Any, app: Flask) -> None:
    client = app.test_client()
    client.post("/login/401")
    client.post("/forget")
    assert client.get("/").json == [None, []]


def test_a_new_key_after_the_login(shop: Any, app: Flask, sessions: Witness) -> None:
    """The session has another key, and the data are those of before."""

    @app.post("/rotate")
    def rotate() -> str:
        session.key = None  # type: ignore[attr-defined]
        session["user"] = 1
        return ""

    client = app.test_client()
    client.post("/login/401")
    (before,) = keys(sessions)
    client.post("/rotate")
    cookie = client.get_cookie("session")
    assert cookie is not None
    assert cookie.value != before
    assert client.get("/").json[0] == 1  # type: ignore[index]


def test_the_options_of_a_view_hold(shop: Any, app: Flask, db: Database) -> None:
    """The session was read before the route was known; and what the view sets is stored."""

    @app.post("/unit")
    @db.unit(commit="explicit", read_only=True)
    def view() -> str:
        session["attempts"] = 100
        unit = db.current_unit()
        db.session.execute(text("SELECT 1"))
        return str((unit is None, db.current_unit().read_only))  # type: ignore[union-attr]

    client = app.test_client()
    client.post("/login/401")
    assert client.post("/unit").text == "(True, True)"
    assert client.get("/").json[0] == 100  # type: ignore[index]
