"""A moved app: models on ``db.Model``, and a witness of what is stored."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from flask_uow.compat import SQLAlchemy
from tests.support import databases
from tests.support.databases import TestDatabase


@dataclass
class Moved:
    """An app, its extension and its model.

    :ivar stored: asks another connection for the names of all users.
    """

    app: Flask
    db: SQLAlchemy
    User: Any
    stored: Callable[[], list[str]]


@pytest.fixture(params=["sqlite-file", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> TestDatabase:
    """Two of the databases; compat does nothing that depends on them."""
    if request.param == "sqlite-file":
        return databases.sqlite_file(tmp_path)
    url = request.getfixturevalue("postgresql_url")
    databases.wipe(url, sa.MetaData())  # the last test may have left its revision there
    return TestDatabase("postgresql", url)


@pytest.fixture
def make(database: TestDatabase, tmp_path: Path) -> Callable[..., Moved]:
    """Makes a moved app; keyword arguments are config values, *options* are the extension's."""

    def make(options: dict[str, Any] | None = None, **config: Any) -> Moved:
        app = Flask("moved", instance_path=str(tmp_path))
        app.config.update(SECRET_KEY="test", SQLALCHEMY_DATABASE_URI=database.url, **config)
        db = SQLAlchemy(app, **(options or {}))
        content = {
            "__tablename__": "compat_user",
            "id": db.Column(db.Integer, primary_key=True),
            "name": db.Column(db.String(50), unique=True),
        }
        User = types.new_class("User", (db.Model,), exec_body=lambda body: body.update(content))
        with app.app_context():
            db.drop_all()
            db.create_all()
        engine = sa.create_engine(database.url, poolclass=sa.NullPool)

        def stored() -> list[str]:
            with engine.connect() as connection:
                query = sa.text("SELECT name FROM compat_user ORDER BY id")
                return [row.name for row in connection.execute(query)]

        return Moved(app, db, User, stored)

    return make


@pytest.fixture
def moved(make: Callable[..., Moved]) -> Moved:
    """A moved app with the defaults."""
    return make()
