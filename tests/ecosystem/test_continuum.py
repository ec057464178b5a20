"""SQLAlchemy-Continuum: versions are rows of the same unit of work."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from sqlalchemy.orm import DeclarativeBase

from flask_uow import Database
from tests.support.recipes import Recipe
from tests.support.witness import Witness

continuum = pytest.importorskip("sqlalchemy_continuum")


@pytest.fixture
def models() -> Any:
    class Base(DeclarativeBase):
        pass

    return SimpleNamespace(Base=Base)


@pytest.fixture
def articles(recipe: Recipe) -> Iterator[Any]:
    manager = continuum.versioning_manager
    factory = manager.transaction_cls
    yield recipe("SQLAlchemy-Continuum")
    continuum.remove_versioning()
    manager.transaction_cls = factory


@pytest.mark.parametrize("status", [200, 400])
def test_a_version_is_stored_with_its_change(
    status: int, articles: Any, app: Flask, db: Database, witness: Witness
) -> None:
    """Or not at all; the transaction has the address of the client."""

    @app.post("/<int:status>/<title>")
    def write(status: int, title: str) -> tuple[str, int]:
        article = db.session.get(articles.Article, 1) or articles.Article(id=1)
        article.title = title
        db.session.add(article)
        db.session.flush()
        return "", status

    client = app.test_client()
    client.post("/200/first")
    client.post(f"/{status}/second")
    titles = ["first", "second"][: 1 if status == 400 else 2]
    assert witness.ask("SELECT title FROM articles") == titles[-1:]
    versions = witness.ask("SELECT title FROM articles_version ORDER BY transaction_id")
    assert versions == titles
    addresses = witness.ask('SELECT remote_addr FROM "transaction" ORDER BY id')
    assert addresses == ["127.0.0.1"] * len(titles)


def test_an_article_goes_back_to_an_earlier_version(
    articles: Any, app: Flask, db: Database, witness: Witness
) -> None:
    """``revert()`` changes it like any other work of the view."""

    @app.post("/<title>")
    def write(title: str) -> str:
        article = db.session.get(articles.Article, 1) or articles.Article(id=1)
        article.title = title
        db.session.add(article)
        return ""

    @app.post("/revert")
    def revert() -> str:
        db.session.get_one(articles.Article, 1).versions[0].revert()
        return ""

    client = app.test_client()
    for path in ("first", "second", "revert"):
        assert client.post(f"/{path}").status_code == 200
    assert witness.ask("SELECT title FROM articles") == ["first"]
