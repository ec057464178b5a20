"""The recipes of ``docs/how-to/integrations.md``, run as the page shows them.

A test names the heading of a recipe. The fixtures are the app, the ``db`` and the models that the
page says are the reader's.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import ForeignKey, MetaData, String, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from flask_uow import Database
from tests.support import databases
from tests.support.databases import TestDatabase

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "integrations.md"

Recipe = Callable[..., Any]


def code_under(heading: str, language: str = "python") -> str:
    """The code below *heading* of the page."""
    _, found, section = PAGE.read_text(encoding="utf-8").partition(f"\n### {heading}\n")
    assert found, f"docs/how-to/integrations.md has no heading {heading!r}"
    section = re.split(r"\n##+ ", section)[0]
    fences = re.findall(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    return "\n".join(fences)


@pytest.fixture(params=["sqlite-file", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> TestDatabase:
    if request.param == "sqlite-file":
        return databases.sqlite_file(tmp_path)
    url = request.getfixturevalue("postgresql_url")
    databases.wipe(url, MetaData())  # without the tables that the last recipe made
    return TestDatabase(request.param, url)


@pytest.fixture
def models() -> Any:
    """A base, and the models ``User`` and ``Post``, new for each test: some recipes map more."""

    class Base(DeclarativeBase):
        __allow_unmapped__ = True

    class User(Base):
        __tablename__ = "users"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str] = mapped_column(String(50), unique=True)
        email: Mapped[str | None] = mapped_column(String(100))
        posts: Any = relationship("Post", back_populates="author")

    class Post(Base):
        __tablename__ = "posts"
        id: Mapped[int] = mapped_column(primary_key=True)
        title: Mapped[str] = mapped_column(String(100))
        author_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
        author: Any = relationship("User", back_populates="posts")

    return SimpleNamespace(Base=Base, User=User, Post=Post)


@pytest.fixture
def db(models: Any) -> Database:
    return Database(models.Base)


@pytest.fixture
def app(database: TestDatabase, tmp_path: Path) -> Flask:
    """A plain app that knows its database; the recipe may register ``db``, or leave that."""
    app = Flask("shop", instance_path=str(tmp_path))
    app.config.update(SECRET_KEY="test", SQLALCHEMY_DATABASE_URI=database.url)
    return app


@pytest.fixture
def recipe(app: Flask, db: Database, models: Any, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Runs what the page says under a heading, and returns its names.

    Keyword arguments are names that the reader has: models, and what else the text speaks of.
    """

    def run(heading: str, *, create_all: bool = True, **names: Any) -> Any:
        module = ModuleType("shop")  # models look for the names of their annotations in it
        monkeypatch.setitem(sys.modules, "shop", module)
        vars(module).update({"app": app, "db": db, "select": select} | vars(models) | names)
        where = f"docs/how-to/integrations.md ({heading})"
        exec(compile(code_under(heading), where, "exec", dont_inherit=True), vars(module))
        ready(app, module.db, create_all=create_all)
        return module

    return run


def ready(app: Flask, db: Database, *, create_all: bool = True) -> None:
    """Register *db* unless that is done, and create the tables."""
    if "uow" not in app.extensions:
        db.init_app(app)
    if create_all:
        with app.app_context():
            db.create_all()
