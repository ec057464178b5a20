"""marshmallow-sqlalchemy and Flask-Marshmallow: data becomes objects of the request's session."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask, request

from flask_uow import Database
from tests.support.recipes import Recipe
from tests.support.witness import Witness

PACKAGES = {
    "marshmallow-sqlalchemy": "marshmallow_sqlalchemy",
    "Flask-Marshmallow": "flask_marshmallow.sqla",
}


@pytest.mark.parametrize(("status", "emails"), [(200, ["new"]), (400, [None])])
@pytest.mark.parametrize("package", PACKAGES)
def test_a_loaded_instance_is_stored_with_its_request(
    package: str,
    status: int,
    emails: list[str | None],
    recipe: Recipe,
    app: Flask,
    db: Database,
    models: Any,
    witness: Witness,
) -> None:
    """Or not, if the view fails."""
    pytest.importorskip(PACKAGES[package])
    schema = recipe(package).UserSchema()
    witness.store(models.User(name="ada"))

    @app.put("/")
    def change() -> tuple[Any, int]:
        user = schema.load(request.get_json(), instance=db.session.get(models.User, 1))
        return schema.dump(user), status

    response = app.test_client().put("/", json={"name": "ada", "email": "new"})
    assert response.get_json() == {"id": 1, "name": "ada", "email": "new"}
    assert witness.ask("SELECT email FROM users") == emails


@pytest.mark.parametrize("package", PACKAGES)
def test_a_new_instance_is_stored(
    package: str, recipe: Recipe, app: Flask, db: Database, witness: Witness
) -> None:
    """``load()`` makes it, and the view adds it."""
    pytest.importorskip(PACKAGES[package])
    schema = recipe(package).UserSchema()

    @app.post("/")
    def create() -> str:
        db.session.add(schema.load(request.get_json()))
        return ""

    assert app.test_client().post("/", json={"name": "ada"}).status_code == 200
    assert witness.ask("SELECT name FROM users") == ["ada"]
