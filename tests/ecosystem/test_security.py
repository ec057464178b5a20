"""Flask-Security-Too: registration, login, and a datastore that commits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from sqlalchemy.orm import DeclarativeBase

from flask_uow import Database
from tests.support.recipes import Recipe
from tests.support.witness import Witness

pytest.importorskip("flask_security")
PASSWORD = "correct horse battery"


@pytest.fixture
def db() -> Database:
    """Without other models: the package wants to define ``User``."""

    class Base(DeclarativeBase):
        pass

    return Database(Base)


@pytest.fixture
def models(db: Database) -> Any:
    return SimpleNamespace(Base=db.Model)


@pytest.fixture
def security(recipe: Recipe, app: Flask) -> Any:
    app.config.update(
        SECURITY_PASSWORD_SALT="salt",
        SECURITY_PASSWORD_HASH="plaintext",
        SECURITY_PASSWORD_SCHEMES=["plaintext"],
        SECURITY_PASSWORD_SINGLE_HASH=["plaintext"],
        SECURITY_REGISTERABLE=True,
        SECURITY_TRACKABLE=True,
        SECURITY_SEND_REGISTER_EMAIL=False,
        SECURITY_USE_REGISTER_V2=True,
        SECURITY_EMAIL_VALIDATOR_ARGS={"check_deliverability": False},
        WTF_CSRF_ENABLED=False,
        TESTING=True,
        PROPAGATE_EXCEPTIONS=False,
    )
    return recipe("Flask-Security-Too")


def test_a_user_registers_and_logs_in(security: Any, app: Flask, witness: Witness) -> None:
    """By Flask-Security's own views, which count the logins."""
    client = app.test_client()
    form = {"email": "ada@example.org", "password": PASSWORD, "password_confirm": PASSWORD}
    response = client.post("/register", json=form)
    assert response.status_code == 200, response.get_json()
    assert witness.ask('SELECT email FROM "user"') == ["ada@example.org"]
    before = witness.ask('SELECT login_count FROM "user"')[0] or 0
    client = app.test_client()
    assert client.post("/login", json=form | {"password": "wrong"}).status_code == 400
    assert client.post("/login", json=form).status_code == 200
    assert witness.ask('SELECT login_count FROM "user"') == [before + 1]


@pytest.mark.parametrize(("mode", "emails"), [("flush", []), ("allow", ["bob@example.org"])])
def test_a_view_that_fails_after_the_commit_of_the_datastore(
    mode: str, emails: list[str], security: Any, app: Flask, db: Database, witness: Witness
) -> None:
    """Stores nothing if the package only flushes."""
    app = Flask("other")
    app.config["SQLALCHEMY_DATABASE_URI"] = security.app.config["SQLALCHEMY_DATABASE_URI"]
    app.config["UOW_EXPLICIT_COMMIT"] = {"flask_security": mode}
    app.config["SECURITY_PASSWORD_SALT"] = "salt"
    db.init_app(app)

    @app.post("/")
    def create() -> tuple[str, int]:
        security.datastore.create_user(email="bob@example.org", password="x")
        security.datastore.commit()
        return "", 400

    security.Security(app, security.datastore, register_blueprint=False)
    app.config["SECRET_KEY"] = "test"
    assert app.test_client().post("/").status_code == 400
    assert witness.ask('SELECT email FROM "user"') == emails
