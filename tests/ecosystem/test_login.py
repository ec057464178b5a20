"""Flask-Login: the current user is an object of the request's session."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from flask_uow import Database
from tests.support.recipes import Recipe
from tests.support.witness import Witness

flask_login: Any = pytest.importorskip("flask_login")


@pytest.fixture
def account(recipe: Recipe, models: Any, witness: Witness) -> Any:
    """A model that Flask-Login takes, with one stored row."""

    class Account(flask_login.UserMixin, models.User):
        pass

    recipe("Flask-Login", User=Account)
    witness.store(models.User(name="ada"))
    return Account


@pytest.mark.parametrize(("status", "emails"), [(200, ["new"]), (400, [None])])
def test_what_a_view_changes_in_the_current_user_is_stored_with_it(
    status: int, emails: list[str | None], account: Any, app: Flask, db: Database, witness: Witness
) -> None:
    """Or not, if the view fails."""

    @app.post("/login")
    def login() -> str:
        flask_login.login_user(db.session.get(account, 1), remember=True)
        return ""

    @app.post("/email")
    @flask_login.login_required
    def change() -> tuple[str, int]:
        flask_login.current_user.email = "new"
        return "", status

    client = app.test_client()
    assert client.post("/email").status_code == 401
    client.post("/login")
    client.delete_cookie("session")  # the cookie to remember is enough
    assert client.post("/email").status_code == status
    assert witness.ask("SELECT email FROM users") == emails


def test_an_error_page_shows_the_user(
    account: Any, app: Flask, db: Database, models: Any, witness: Witness
) -> None:
    """After a view that has written and failed, the user is loaded again."""
    app.register_error_handler(LookupError, lambda error: f"{flask_login.current_user.name}, sorry")

    @app.post("/")
    def fail() -> str:
        flask_login.login_user(db.session.get(account, 1))
        db.session.add(models.User(name="bob"))
        db.session.flush()
        raise LookupError

    assert app.test_client().post("/").text == "ada, sorry"
    assert witness.ask("SELECT name FROM users") == ["ada"]
