"""``testing.truncated()``: the code really commits, and the tables are empty afterwards."""

from __future__ import annotations

import pytest
from flask import Flask
from sqlalchemy import Column, ForeignKey, Integer, MetaData, Table, create_engine, inspect, select

from flask_uow import Database, IsolationError, OutsideContext, testing
from flask_uow.testing import truncation
from tests.conftest import MakeApp
from tests.support.databases import TestDatabase, concurrently, on
from tests.support.models import Post, User
from tests.support.witness import Witness

servers = on("postgresql", "mariadb")


@concurrently
def test_tables_are_empty_after_the_block(app: Flask, db: Database, witness: Witness) -> None:
    """Inside it, a second connection sees what was committed; all rows go."""
    with app.app_context(), db.atomic():
        db.session.add(User(name="before"))
    with testing.truncated(db, app=app):
        with app.app_context(), db.atomic():
            db.session.add(User(name="ada", posts=[Post(title="first")]))
        assert witness.names() == ["ada", "before"]
    assert witness.names() == []
    assert witness.titles() == []
    with app.app_context(), testing.truncated(db), db.atomic():
        db.session.add(User(name="ada"))
    assert witness.names() == []


@concurrently
def test_work_that_was_left_open_is_no_obstacle(app: Flask, db: Database, witness: Witness) -> None:
    """That of the current context, read or written."""
    with app.app_context(), testing.truncated(db):
        with db.atomic():
            db.session.add(User(name="ada"))
        db.session.scalars(select(User)).all()
        db.session.add(User(name="open"))
        db.session.flush()
    assert witness.names() == []


@concurrently
def test_an_error_in_the_block_empties_the_tables_too(
    app: Flask, db: Database, witness: Witness
) -> None:
    """It passes through."""

    def fail() -> None:
        with testing.truncated(db, app=app):
            witness.store(User(name="ada"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert witness.names() == []


@concurrently
def test_circles_of_foreign_keys(make_app: MakeApp, database: TestDatabase) -> None:
    """Two tables that refer to each other, one that refers to itself, and one without rows."""
    metadata = MetaData()
    Table(
        "ring_a",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("b", ForeignKey("ring_b.id", name="ring_a_b", use_alter=True)),
    )
    Table(
        "ring_b",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("a", ForeignKey("ring_a.id", name="ring_b_a")),
    )
    Table(
        "ring_c",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("c", ForeignKey("ring_c.id", name="ring_c_c")),
    )
    Table("ring_d", metadata, Column("id", Integer, primary_key=True))
    db = Database(metadata=metadata)
    engine = create_engine(database.url)
    metadata.drop_all(engine)
    app = make_app(db)
    a, b, c, d = (metadata.tables[f"ring_{name}"] for name in "abcd")
    with testing.truncated(db, app=app), engine.begin() as connection:
        connection.execute(a.insert(), {"id": 1})
        connection.execute(b.insert(), {"id": 1, "a": 1})
        connection.execute(a.update().values(b=1))
        connection.execute(c.insert(), {"id": 1})
        connection.execute(c.insert(), {"id": 2, "c": 1})
    with engine.connect() as connection:
        for table in (a, b, c, d):
            assert connection.execute(select(table)).all() == []
    metadata.drop_all(engine)
    engine.dispose()


@concurrently
def test_tables_of_others_and_missing_ones(
    app: Flask, db: Database, database: TestDatabase
) -> None:
    """What is no model is left alone, and a model whose table is missing is no error."""
    engine = create_engine(database.url)
    others = MetaData()
    other = Table("others", others, Column("id", Integer, primary_key=True))
    others.drop_all(engine)
    others.create_all(engine)
    with engine.begin() as connection:
        connection.execute(other.insert(), {"id": 1})
    try:
        with testing.truncated(db, app=app):
            Post.__table__.drop(engine)  # type: ignore[attr-defined]
        with engine.connect() as connection:
            assert connection.execute(select(other)).all() == [(1,)]
            assert "posts" not in inspect(connection).get_table_names()
    finally:
        others.drop_all(engine)
        engine.dispose()


@servers
def test_a_lock_that_is_held_is_told(
    app: Flask, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instead of waiting for ever: what holds it, and what to end."""
    short = {"postgresql": ["SET LOCAL lock_timeout = '50ms'"]}
    short["mysql"] = short["mariadb"] = ["SET innodb_lock_wait_timeout = 1"]
    monkeypatch.setattr(truncation, "_PREPARE", short)
    with app.app_context():
        with db.atomic():
            db.session.add(User(name="ada"))
        connection = db.engine.connect()
        with pytest.raises(IsolationError, match=r"(?s)emptied.*test_truncation\.py"):
            with testing.truncated(db):
                connection.execute(User.__table__.update().values(email="x"))  # type: ignore[attr-defined]
        connection.close()


def test_an_app_is_needed(db: Database) -> None:
    """The current one, or a given one."""
    with pytest.raises(OutsideContext), testing.truncated(db):
        pass  # pragma: no cover
