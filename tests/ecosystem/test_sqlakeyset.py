"""sqlakeyset: pages by key, with the session of the request."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from tests.support.recipes import Recipe
from tests.support.witness import Witness

pytest.importorskip("sqlakeyset")


def test_pages_follow_each_other(recipe: Recipe, app: Flask, models: Any, witness: Witness) -> None:
    """A bookmark that was made up is the client's mistake."""
    recipe("sqlakeyset")
    witness.store(*[models.User(name=f"user {number}") for number in range(3)])
    client = app.test_client()
    first = client.get("/users").get_json()
    assert first["names"] == ["user 0", "user 1"]
    assert client.get("/users", query_string={"page": first["next"]}).get_json()["names"] == [
        "user 2"
    ]
    assert client.get("/users?page=nonsense").status_code == 400
