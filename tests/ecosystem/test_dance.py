"""Flask-Dance: the token is a row."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from flask_uow import Database
from tests.support.recipes import Recipe
from tests.support.witness import Witness

consumer = pytest.importorskip("flask_dance.consumer")
pytest.importorskip("flask_dance.consumer.storage.sqla", exc_type=ImportError)


@pytest.mark.parametrize(("status", "tokens"), [(200, ["new"]), (400, [])])
def test_a_token_is_stored_with_its_request(
    status: int, tokens: list[str], recipe: Recipe, app: Flask, db: Database, witness: Witness
) -> None:
    """Or not at all, and it is read in the next one."""
    blueprint: Any = consumer.OAuth2ConsumerBlueprint("service", __name__, client_id="id")
    recipe("Flask-Dance", blueprint=blueprint)

    @app.post("/")
    def view() -> tuple[str, int]:
        blueprint.token = {"access_token": "new"}
        return "", status

    @app.get("/")
    def show() -> dict[str, Any]:
        return {"token": blueprint.token}

    client = app.test_client()
    assert client.post("/").status_code == status
    rows = witness.ask("SELECT token FROM flask_dance_oauth")
    assert [("new" in str(row)) for row in rows] == [True for _ in tokens]
    token = client.get("/").get_json()["token"]
    assert token == ({"access_token": "new"} if tokens else None)
