"""Query tags: a comment with the route in each statement of a request."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from flask_uow import Database
from tests.support.recipes import Recipe
from tests.support.witness import Witness


@pytest.fixture
def sent(recipe: Recipe, app: Flask, db: Database) -> list[str]:
    """What the driver is given from now on."""
    recipe("Query tags")
    statements: list[str] = []
    with app.app_context():
        dialect: Any = db.engine.dialect
    for name in ("do_execute", "do_executemany", "do_execute_no_params"):
        setattr(dialect, name, _noting(getattr(dialect, name), statements))
    return statements


def _noting(method: Any, statements: list[str]) -> Any:
    def noted(cursor: Any, statement: str, *arguments: Any) -> Any:
        statements.append(statement)
        return method(cursor, statement, *arguments)

    return noted


def test_each_statement_of_a_request_names_its_route(
    sent: list[str], app: Flask, db: Database, models: Any, witness: Witness
) -> None:
    """Whatever characters the route has; statements outside of a request have no tag."""

    @app.post("/100%/*/users/<int:number>")
    def create(number: int) -> str:
        db.session.add_all(models.User(name=f"{number} {letter}") for letter in "ab")
        db.session.flush()
        db.session.execute(select(models.User).where(models.User.name.like("%a%"))).all()
        return ""

    assert app.test_client().post("/100%25/*/users/7").status_code == 200
    assert len(sent) >= 2
    for statement in sent:
        if not statement.startswith("BEGIN"):
            assert statement.endswith("/*route='/100_/_/users/<int:number>'*/"), statement
    assert witness.names() == ["7 a", "7 b"]
    sent.clear()
    with app.app_context():
        db.session.scalars(select(models.User)).all()
    assert "route" not in sent[-1]


def test_a_tagged_read_needs_no_transaction(
    sent: list[str], app: Flask, db: Database, models: Any
) -> None:
    """The connection is free after it."""

    @app.get("/users")
    def users() -> dict[str, int]:
        db.session.scalars(select(models.User)).all()
        return {"in use": db.engine.pool.checkedout()}  # type: ignore[attr-defined]

    assert app.test_client().get("/users").json == {"in use": 0}
    assert sent[-1].endswith("/*route='/users'*/")
