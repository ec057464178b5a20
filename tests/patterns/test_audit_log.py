"""An audit log in the same transaction."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask, g
from sqlalchemy import select

from flask_uow import Database
from tests.support.recipes import Recipe
from tests.support.witness import Witness

LOG = "SELECT user_id, action, model, key, columns FROM changes ORDER BY id"


@pytest.fixture
def views(recipe: Recipe, app: Flask, db: Database, models: Any) -> None:
    recipe("Audit log")
    user = models.User

    @app.before_request
    def log_in() -> None:
        g.user_id = 7

    @app.post("/<name>")
    def create(name: str) -> tuple[str, int]:
        db.session.add(user(name=name))
        db.session.scalars(select(user)).all()  # which flushes
        return "", 400 if name == "wrong" else 201

    @app.put("/<name>")
    def change(name: str) -> str:
        found = db.session.scalars(select(user)).one()
        found.email, found.name = name, found.name
        return ""

    @app.delete("/")
    def delete() -> str:
        db.session.delete(db.session.scalars(select(user)).one())
        return ""


def test_each_change_is_noted_with_its_key(views: None, app: Flask, witness: Witness) -> None:
    """What was created, changed and deleted, and by which user."""
    client = app.test_client()
    for response in (
        client.post("/ada"),
        client.put("/a@b"),
        client.put("/a@b"),
        client.delete("/"),
    ):
        assert response.status_code < 400
    insert, update, delete = witness.ask(LOG)
    assert insert[:4] == (7, "insert", "User", "(1,)") or insert[:4] == (7, "insert", "User", "[1]")
    assert "name" in insert[4]
    assert update == (7, "update", "User", insert[3], "email")
    assert delete[:4] == (7, "delete", "User", insert[3])
    assert witness.ask("SELECT at FROM changes WHERE at IS NULL") == []


def test_what_is_undone_is_not_noted(views: None, app: Flask, witness: Witness) -> None:
    assert app.test_client().post("/wrong").status_code == 400
    assert witness.ask(LOG) == []


def test_a_command_has_no_user(views: None, app: Flask, db: Database, models: Any) -> None:
    """Its changes are noted as well."""
    with app.app_context(), db.atomic() as session:
        session.add(models.User(name="ada"))
    assert Witness(app.config["SQLALCHEMY_DATABASE_URI"]).ask(LOG)[0][0] is None
