"""APIFlask, flask-smorest and Flask-RESTX: an API, its errors and its pages."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_uow import Database
from tests.support.databases import TestDatabase
from tests.support.recipes import Recipe
from tests.support.witness import Witness


def names(witness: Witness) -> list[str]:
    return witness.ask("SELECT name FROM users ORDER BY id")


@pytest.fixture
def apiflask(recipe: Recipe, database: TestDatabase) -> Any:
    pytest.importorskip("apiflask")
    found = recipe("APIFlask", uri=database.url)
    with found.app.app_context():
        found.db.create_all()
    return found.app


def test_apiflask_returns_the_id_of_what_it_stores(apiflask: Any, witness: Witness) -> None:
    """The response was validated before the commit."""
    response = apiflask.test_client().post("/users", json={"name": "ada"})
    assert (response.status_code, response.get_json()) == (201, {"name": "ada", "id": 1})
    assert names(witness) == ["ada"]


def test_apiflask_shows_a_page_of_a_select(apiflask: Any, models: Any, witness: Witness) -> None:
    """Its ``pagination_builder()`` takes what ``db.paginate()`` returns."""
    witness.store(*[models.User(name=f"user {number}") for number in range(5)])
    client = apiflask.test_client()
    response = client.get("/users?page=2").get_json()
    assert [user["name"] for user in response["users"]] == ["user 2", "user 3"]
    page = response["pagination"]
    assert (page["page"], page["pages"], page["total"], page["per_page"]) == (2, 3, 5, 2)
    assert page["next"].endswith("/users?page=3&per_page=2")
    assert client.get("/users?page=4").status_code == 404


def test_apiflask_stores_nothing_of_a_request_that_it_refuses(
    apiflask: Any, db: Database, models: Any, witness: Witness
) -> None:
    """Its ``abort()`` raises; wrong data never reaches the view."""
    abort = pytest.importorskip("apiflask").abort

    @apiflask.post("/refused")
    def refused() -> None:
        db.session.add(models.User(name="ada"))
        db.session.flush()
        abort(409, "no")

    client = apiflask.test_client()
    assert client.post("/users", json={}).status_code == 422
    response = client.post("/refused")
    assert (response.status_code, response.get_json()["message"]) == (409, "no")
    assert names(witness) == []


@pytest.fixture
def smorest(recipe: Recipe, app: Flask) -> FlaskClient:
    pytest.importorskip("flask_smorest")
    recipe("flask-smorest")
    return app.test_client()


def test_flask_smorest_shows_a_page_of_a_select(
    smorest: FlaskClient, models: Any, witness: Witness
) -> None:
    """With the total in a header; a page that cannot be is refused, one beyond the end is empty."""
    witness.store(*[models.User(name=f"user {number}") for number in range(5)])
    response = smorest.get("/users/?page=2&page_size=2")
    assert [user["name"] for user in response.get_json()] == ["user 2", "user 3"]
    assert '"total": 5' in response.headers["X-Pagination"]
    assert smorest.get("/users/?page=0").status_code == 422
    assert smorest.get("/users/?page=9").get_json() == []


def test_flask_smorest_stores_what_its_schema_accepts(
    smorest: FlaskClient, witness: Witness
) -> None:
    """And returns the id."""
    assert smorest.post("/users/", json={"nam": "ada"}).status_code == 422
    response = smorest.post("/users/", json={"name": "ada"})
    assert (response.status_code, response.get_json()) == (201, {"id": 1, "name": "ada"})
    assert names(witness) == ["ada"]


@pytest.fixture
def restx(recipe: Recipe, app: Flask) -> FlaskClient:
    pytest.importorskip("flask_restx")
    recipe("Flask-RESTX")
    return app.test_client()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_handler_of_flask_restx_gets_the_error_of_the_commit(
    restx: FlaskClient, witness: Witness
) -> None:
    """The view has returned 201 when the duplicate is found."""
    assert restx.post("/users", json={"name": "ada"}).status_code == 201
    response = restx.post("/users", json={"name": "ada"})
    assert response.status_code == 409
    assert response.get_json()["message"] == "This name is taken."
    assert names(witness) == ["ada"]
    assert restx.get("/users").get_json() == [{"id": 1, "name": "ada"}]
