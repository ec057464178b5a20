"""The whole set-up of a project that is tested with pytest-flask."""

from __future__ import annotations

import multiprocessing
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from flask_uow import Database, Flask
from tests.support.models import Base, User

# The process of 'live_server' runs a nested function, which no other method can start.
multiprocessing.set_start_method("fork")

database = Database(Base)


@pytest.fixture
def db() -> Database:
    return database


@pytest.fixture(scope="session")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("database") / "test.db"


@pytest.fixture(scope="session")
def app(file: Path) -> Flask:
    app = Flask("project")
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{file}"
    app.config["SERVER_NAME"] = "localhost"  # 'live_server' adds its port
    app.register_extension(database)
    with app.app_context():
        database.create_all()

    @app.post("/users/<name>")
    def create(name: str) -> tuple[str, int]:
        database.session.add(User(name=name))
        return "", 201

    @app.post("/users/<name>/broken")
    def break_off(name: str) -> tuple[str, int]:
        database.session.add(User(name=name))
        database.session.flush()
        return "", 400

    @app.get("/users/<name>")
    def show(name: str) -> str:
        return str(database.session.query(User).filter_by(name=name).count())

    return app


@pytest.fixture
def stored(file: Path) -> Callable[[str], bool]:
    """Asks the file itself whether a user of that name is stored."""

    def stored(name: str) -> bool:
        connection = sqlite3.connect(file)
        found = connection.execute("SELECT 1 FROM users WHERE name = ?", [name]).fetchone()
        connection.close()
        return found is not None

    return stored
