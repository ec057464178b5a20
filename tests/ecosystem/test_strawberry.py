"""Strawberry: a mutation that fails returns 200."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from flask_uow import Database
from tests.support.recipes import Recipe
from tests.support.witness import Witness

strawberry = pytest.importorskip("strawberry")

MUTATION = 'mutation {{ create(name: "{}", fails: {}) }}'


@pytest.fixture(params=[False, True], ids=["plain", "atomic"])
def is_atomic(request: pytest.FixtureRequest) -> bool:
    """Whether the mutation is a block of its own."""
    return bool(request.param)


@pytest.fixture
def schema(db: Database, models: Any, is_atomic: bool) -> Any:
    def hello() -> str:
        return ""

    def create(name: str, fails: bool) -> int | None:
        user = models.User(name=name)
        db.session.add(user)
        db.session.flush()
        if fails:
            raise LookupError
        number: int = user.id
        return number

    query = strawberry.type(
        type("Query", (), {"__annotations__": {"hello": str}, "hello": strawberry.field(hello)})
    )
    created = strawberry.mutation(db.atomic(create) if is_atomic else create)
    mutation = strawberry.type(type("Mutation", (), {"create": created}))
    return strawberry.Schema(query=query, mutation=mutation)


def test_a_mutation_that_fails_stores_nothing(
    schema: Any, recipe: Recipe, app: Flask, witness: Witness
) -> None:
    """Although its status is 200; one that succeeds is stored."""
    recipe("Strawberry", schema=schema)
    client = app.test_client()
    failed = client.post("/graphql", json={"query": MUTATION.format("ada", "true")})
    assert failed.status_code == 200
    assert failed.get_json()["errors"]
    assert witness.ask("SELECT name FROM users") == []
    done = client.post("/graphql", json={"query": MUTATION.format("bob", "false")})
    assert done.get_json()["data"]["create"]
    assert witness.ask("SELECT name FROM users") == ["bob"]
    duplicate = client.post("/graphql", json={"query": MUTATION.format("bob", "false")})
    assert duplicate.status_code == 200
    assert duplicate.get_json()["errors"]


TWO = 'mutation { a: create(name: "ada", fails: true) b: create(name: "bob", fails: false) }'


@pytest.mark.parametrize("is_atomic", [True], indirect=True)
@pytest.mark.parametrize(("has_rule", "names"), [(True, []), (False, ["bob"])])
def test_mutations_of_one_request(
    has_rule: bool,
    names: list[str],
    schema: Any,
    recipe: Recipe,
    app: Flask,
    db: Database,
    witness: Witness,
) -> None:
    """By the rule, one error undoes all; without it, a block is undone by itself."""
    module = recipe("Strawberry", schema=schema)
    bare = module.GraphQLView.as_view("bare", schema=schema)
    app.add_url_rule("/bare", view_func=bare, methods=["POST"])
    path = "/graphql" if has_rule else "/bare"
    response = app.test_client().post(path, json={"query": TWO})
    assert (response.status_code, len(response.get_json()["errors"])) == (200, 1)
    assert witness.names() == names
