"""A search index that is told of each change after its commit."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from flask_uow import Database
from tests.support.recipes import Recipe


class Search:
    """An index, by the key of a post."""

    def __init__(self) -> None:
        self.titles: dict[int, str] = {}

    def add(self, key: int, title: str) -> None:
        self.titles[key] = title

    def remove(self, key: int) -> None:
        self.titles.pop(key, None)


@pytest.fixture
def search() -> Search:
    return Search()


@pytest.fixture
def client(recipe: Recipe, search: Search, app: Flask, db: Database, models: Any) -> Any:
    recipe("Search index", search=search)
    post = models.Post

    @app.post("/<title>/<int:status>")
    def create(title: str, status: int) -> tuple[str, int]:
        db.session.add(post(title=title))
        db.session.add(models.User(name=title))
        db.session.scalars(select(post)).all()  # which flushes, before the commit
        return "", status

    @app.put("/<int:key>/<title>")
    def change(key: int, title: str) -> str:
        db.session.get_one(post, key).title = title
        return ""

    @app.delete("/<int:key>")
    def delete(key: int) -> str:
        db.session.delete(db.session.get_one(post, key))
        return ""

    return app.test_client()


def test_the_index_has_what_is_stored(client: Any, search: Search) -> None:
    """Also of objects that were flushed before the commit."""
    client.post("/one/200")
    client.post("/two/200")
    assert search.titles == {1: "one", 2: "two"}
    client.put("/1/changed")
    client.delete("/2")
    assert search.titles == {1: "changed"}


def test_the_index_has_nothing_that_was_undone(client: Any, search: Search) -> None:
    """By a status, and by a commit that failed."""
    assert client.post("/one/400").status_code == 400
    client.post("/two/200")
    assert client.post("/two/200").status_code == 500  # the name of the user is taken
    assert list(search.titles.values()) == ["two"]


def test_a_command_is_heard_as_well(
    client: Any, search: Search, app: Flask, db: Database, models: Any
) -> None:
    with app.app_context(), db.atomic() as session:
        session.add(models.Post(title="by a command"))
    assert search.titles == {1: "by a command"}
