"""``db.metadatas``: a list, and the tables of one engine; two tables of one name."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Column, ForeignKey, Integer, MetaData, Table, inspect

from flask_uow import Database, Flask, SetupError, UnknownEngine
from tests.conftest import MakeApp
from tests.support.databases import anywhere


def a_table(metadata: MetaData, name: str, key: str | None = None, *more: Any) -> Table:
    info = {"bind_key": key} if key else {}
    return Table(name, metadata, Column("id", Integer, primary_key=True), *more, info=info)


def test_it_is_a_list() -> None:
    """By number, by slice, in a loop, compared with a list."""
    one, two = MetaData(), MetaData()
    db = Database(metadata=[one, two])
    assert db.metadatas == [one, two]
    assert db.metadatas[0] is one
    assert db.metadatas[-1] is two
    assert db.metadatas[:1] == [one]
    assert list(db.metadatas) == [one, two]
    assert len(db.metadatas) == 2


def test_metadata_of_one_engine_is_itself() -> None:
    """``None`` and ``"default"`` are the same."""
    metadata = MetaData()
    a_table(metadata, "users")
    db = Database(metadata=metadata)
    assert db.metadatas[None] is db.metadatas["default"] is metadata


def test_metadata_of_several_engines_is_divided() -> None:
    """Into copies, with their foreign keys and their convention."""
    metadata = MetaData(naming_convention={"pk": "pk_%(table_name)s"}, schema="s")
    a_table(metadata, "users")
    a_table(metadata, "posts", None, Column("user", ForeignKey("s.users.id")))
    a_table(metadata, "log", "audit")
    db = Database(metadata=metadata)
    default = db.metadatas[None]
    assert set(default.tables) == {"s.users", "s.posts"}
    assert set(db.metadatas["audit"].tables) == {"s.log"}
    assert default.tables["s.posts"].c.user.references(default.tables["s.users"].c.id)
    assert db.metadatas["audit"].tables["s.log"].primary_key.name == "pk_log"
    assert set(metadata.tables) == {"s.users", "s.posts", "s.log"}


def test_a_copy_keeps_the_engine_of_its_metadata() -> None:
    """So its tables still belong to it."""
    metadata = MetaData(info={"bind_key": "audit"})
    a_table(metadata, "log")
    a_table(metadata, "users", "default")
    copy = Database(metadata=metadata).metadatas["audit"]
    assert (set(copy.tables), copy.info) == ({"log"}, {"bind_key": "audit"})


def test_several_of_one_engine_are_merged() -> None:
    """Flask-Migrate expects one ``MetaData``."""
    one, two, audit = MetaData(), MetaData(schema="s"), MetaData(info={"bind_key": "audit"})
    a_table(one, "users")
    a_table(two, "users")
    a_table(one, "log", "audit")
    a_table(audit, "more")
    db = Database(metadata=[one, two, audit])
    assert set(db.metadatas[None].tables) == {"users", "s.users"}
    assert set(db.metadatas["audit"].tables) == {"log", "more"}


def test_without_tables() -> None:
    """The default engine always has metadata; another name without a table is no engine's."""
    empty, audit = MetaData(), MetaData(info={"bind_key": "audit"})
    db = Database(metadata=[audit, empty])
    assert db.metadatas[None] is empty
    assert db.metadatas["audit"] is audit
    assert not Database(metadata=audit).metadatas[None].tables
    with pytest.raises(UnknownEngine, match=r"no metadata for 'nonesuch' in 'db.metadatas'"):
        db.metadatas["nonesuch"]


@anywhere
def test_tables_of_one_engine_are_created_by_its_metadata(make_app: MakeApp) -> None:
    """As the sentence about ``create_all(bind_key=)`` says."""
    metadata = MetaData()
    a_table(metadata, "users")
    a_table(metadata, "log", "audit")
    db = Database(metadata=metadata)
    app = make_app(db, SQLALCHEMY_BINDS={"audit": "sqlite://"})
    with app.app_context():
        db.drop_all()
        db.metadatas["audit"].create_all(db.engines["audit"])
        assert inspect(db.engines["audit"]).get_table_names() == ["log"]
        assert inspect(db.engine).get_table_names() == []
        db.metadatas["audit"].drop_all(db.engines["audit"])
        assert inspect(db.engines["audit"]).get_table_names() == []


def test_two_tables_of_one_name_on_one_engine_are_refused() -> None:
    """One of them would never be created. On two engines they are two tables."""
    one, two = MetaData(), MetaData()
    a_table(one, "other")
    a_table(one, "users")
    table = a_table(two, "users")
    db = Database(metadata=[one, two])
    app = Flask("tests")
    app.config["SQLALCHEMY_BINDS"] = {"default": "sqlite://", "audit": "sqlite://"}
    db.init_app(app)
    with app.app_context():
        for method in (db.create_all, db.drop_all):
            with pytest.raises(SetupError, match="engine 'default' has two tables of the name"):
                method()
        assert inspect(db.engine).get_table_names() == []
        table.info["bind_key"] = "audit"
        db.create_all()
        assert inspect(db.engines["audit"]).get_table_names() == ["users"]
