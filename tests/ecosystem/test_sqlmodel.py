"""SQLModel: ``Database(SQLModel)``, and its ``exec()`` on ``db.session``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, request
from sqlalchemy.orm import registry

from flask_uow import Database
from tests.support.databases import on
from tests.support.recipes import Recipe
from tests.support.witness import Witness

sqlmodel = pytest.importorskip(
    "sqlmodel", reason="SQLModel is installed by 'nox -s ecosystem': pip install sqlmodel"
)

everywhere = on("sqlite-file", "postgresql")


@pytest.fixture
def base() -> Any:
    """A base with a registry of its own: the models of one test are not those of another."""

    class Base(sqlmodel.SQLModel, registry=registry()):  # type: ignore[name-defined, call-arg]
        pass

    return Base


def a_hero(base: Any, class_name: str = "Hero", **attributes: Any) -> Any:
    fields = {"id": int | None, "name": str}
    values = {"id": sqlmodel.Field(default=None, primary_key=True)}
    namespace = {"__annotations__": fields, "__module__": __name__, **values, **attributes}
    return type(base)(class_name, (base,), namespace, table=True)


@pytest.mark.parametrize("database", ["sqlite-file", "postgresql"], indirect=True)
def test_the_recipe_stores_what_is_valid(
    base: Any, recipe: Recipe, app: Flask, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the model's own rules, and lists it."""
    monkeypatch.setattr(sqlmodel, "SQLModel", base)
    app.config["PROPAGATE_EXCEPTIONS"] = False
    recipe("SQLModel")
    client = app.test_client()
    assert client.post("/heroes", json={"name": "Deadpond"}).json == {"id": 1, "name": "Deadpond"}
    assert client.post("/heroes", json={"name": ""}).status_code == 500
    assert client.post("/heroes", json={}).status_code == 500
    assert client.get("/heroes").json == [{"id": 1, "name": "Deadpond"}]
    assert witness.ask("SELECT name FROM hero") == ["Deadpond"]


@everywhere
def test_a_request_is_one_unit(base: Any, make_app: Callable[..., Flask], witness: Witness) -> None:
    """Stored with the response, undone with an error; ``exec`` is SQLModel's."""
    hero = a_hero(base)
    db = Database(base, session_options={"class_": sqlmodel.Session})
    session: Any = db.session
    app = make_app(db)

    @app.post("/")
    def create() -> tuple[dict[str, Any], int]:
        new = hero.model_validate(request.get_json())
        db.session.add(new)
        found = session.exec(sqlmodel.select(hero).where(hero.name == new.name)).one()
        return found.model_dump(), 201 if new.name != "wrong" else 422

    client = app.test_client()
    response = client.post("/", json={"name": "Deadpond"})
    assert (response.status_code, response.json) == (201, {"id": 1, "name": "Deadpond"})
    assert client.post("/", json={"name": "wrong"}).status_code == 422
    assert witness.ask("SELECT name FROM hero") == ["Deadpond"]
    with app.app_context(), db.atomic() as inner:
        inner.add(hero(name="Rusty"))
        assert len(session.exec(sqlmodel.select(hero)).all()) == 2
    assert len(witness.ask("SELECT name FROM hero")) == 2


@on("sqlite-file")
def test_bind_keys_shell_names_and_metadatas(base: Any, make_app: Callable[..., Flask]) -> None:
    """As for any other base."""
    hero, entry = a_hero(base), a_hero(base, "Entry", __bind_key__="audit")
    db = Database(base)
    app = make_app(db, SQLALCHEMY_BINDS={"audit": "sqlite://"})
    assert db.Model is base
    assert list(db.metadatas["audit"].tables) == ["entry"]
    names = app.make_shell_context()
    assert (names["Hero"], names["Entry"], names["db"]) == (hero, entry, db)
    with app.app_context():
        db.session.add(entry(name="a"))
        db.session.commit()
        with db.engines["audit"].connect() as connection:
            assert connection.exec_driver_sql("SELECT name FROM entry").all() == [("a",)]


def test_sqlmodel_itself_is_a_base() -> None:
    """Not only a subclass of it."""
    db = Database(sqlmodel.SQLModel)
    assert db.Model is sqlmodel.SQLModel
    assert db.metadata is sqlmodel.SQLModel.metadata


CHECKED = """
from sqlmodel import Field, Session, SQLModel, select
from typing_extensions import assert_type

from flask_uow import Database

class Hero(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str

db = Database[Session](SQLModel, session_options={"class_": Session})
assert_type(db.session().exec(select(Hero)).one(), Hero)
with db.sessionmaker() as session:
    assert_type(session.exec(select(Hero)).one(), Hero)
"""


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_types(checker: str, tmp_path: Path) -> None:
    """``db.session()`` has the type of SQLModel's session."""
    pytest.importorskip(checker, reason=f"pip install {checker}")
    (tmp_path / "checked.py").write_text(CHECKED)
    options = ["--strict"] if checker == "mypy" else ["--pythonpath", sys.executable]
    command = [sys.executable, "-m", checker, *options, "checked.py"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
