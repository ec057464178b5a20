"""A session class with a ``get_bind()`` of its own: its engines get what the unit asks for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Connection, Engine, String, create_engine, func, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from flask_uow import ConfigError, Database, ReadOnly
from tests.conftest import MakeApp
from tests.promises.test_p10_atomic import _LEVEL
from tests.support.databases import TestDatabase, anywhere, concurrently, on
from tests.support.engines import checked_out
from tests.support.models import Base, User
from tests.support.witness import Witness


class Routed(Session):
    """Writes go to the default engine and reads to its replica, unless a test says otherwise."""

    chosen: Any = None

    def get_bind(self, *_: Any, **__: Any) -> Engine | Connection:
        if self.chosen is not None:
            bind: Engine | Connection = self.chosen
            return bind
        return db.engines["default" if self._flushing else "replica"]


db = Database(Base, session_options={"class_": Routed})


@pytest.fixture
def app(make_app: MakeApp, database: TestDatabase) -> Iterator[Flask]:
    app = make_app(db, SQLALCHEMY_BINDS={"replica": database.url})
    yield app
    Routed.chosen = None


def level() -> str:
    """At which isolation level the server runs the current transaction."""
    dialect = db.engine.dialect.name
    found: str = db.session.execute(text(_LEVEL[dialect])).scalar_one()
    return found.upper().replace("-", " ")


@on("postgresql", "mariadb")
def test_replica_runs_at_the_isolation_level(app: Flask, witness: Witness) -> None:
    """Of a block, of a view, and of no other."""

    @app.post("/")
    @db.unit(isolation_level="SERIALIZABLE")
    def create() -> str:
        db.session.add(User(name="ada"))
        db.session.flush()
        return level()

    with app.app_context():
        with db.atomic():
            usual = level()
        with db.atomic(isolation_level="SERIALIZABLE"):
            assert level() == "SERIALIZABLE" != usual
        with db.atomic():
            assert level() == usual
    assert app.test_client().post("/").text == "SERIALIZABLE"
    assert witness.names() == ["ada"]


@on("postgresql", "mariadb")
@pytest.mark.parametrize("plain_too", [False, True])
def test_engine_with_its_own_options_keeps_them(plain_too: bool, app: Flask) -> None:
    """A tenant's engine: its options, the level of the block, and one connection."""
    with app.app_context():
        tenant = db.engine.execution_options(schema_translate_map={"tenant": None}, seen="yes")
        Routed.chosen = tenant
        with db.atomic(isolation_level="SERIALIZABLE"):
            assert level() == level() == "SERIALIZABLE"
            assert db.session.connection().get_execution_options()["seen"] == "yes"
            assert checked_out() == 1
            if plain_too:
                Routed.chosen = db.engine
                assert level() == "SERIALIZABLE"
                assert "seen" not in db.session.connection().get_execution_options()
                Routed.chosen = tenant
        with db.atomic():
            assert level() != "SERIALIZABLE"
            assert db.session.connection().engine is tenant


@concurrently
def test_read_only_holds_for_the_replica(
    app: Flask, database: TestDatabase, witness: Witness
) -> None:
    """Statements that write are refused; PostgreSQL also refuses hidden writes."""
    with app.app_context():
        with db.atomic(read_only=True):
            assert db.session.scalar(select(func.count()).select_from(User)) == 0
            if database.name == "postgresql":
                assert db.session.scalar(text("SHOW transaction_read_only")) == "on"
            with pytest.raises(ReadOnly):
                db.session.execute(text("INSERT INTO users (name) VALUES ('ada')"))
        with db.atomic():
            db.session.add(User(name="bob"))
    assert witness.names() == ["bob"]


@concurrently
@pytest.mark.parametrize(
    "options", [{"read_only": True}, {"isolation_level": "SERIALIZABLE"}], ids=str
)
def test_what_cannot_get_the_options_is_refused(
    options: dict[str, Any], app: Flask, database: TestDatabase
) -> None:
    """Another engine, or a connection; without options, both are used unchanged."""
    other = create_engine(database.url)
    with app.app_context(), other.connect() as connection:
        for chosen, kind in (other, "an engine"), (connection, "a connection"):
            Routed.chosen = chosen
            with pytest.raises(ConfigError, match=f"'Routed' returned {kind}"):
                with db.atomic(**options):
                    db.session.execute(text("SELECT 1"))
            with db.atomic():
                assert db.session.scalar(text("SELECT 1")) == 1
        with db.atomic(**options):  # nothing of it is left
            Routed.chosen = db.engine
            assert db.session.scalar(text("SELECT 1")) == 1
    other.dispose()


@on("postgresql", "mariadb")
def test_engine_that_is_named_for_one_statement_runs_at_the_isolation_level(
    make_app: MakeApp, database: TestDatabase
) -> None:
    """Without a ``get_bind()`` of the app's own: by ``bind_arguments``, or by ``bind``."""
    plain = Database(Base)
    with make_app(plain, SQLALCHEMY_BINDS={"replica": database.url}).app_context():
        sql, named = text(_LEVEL[plain.engine.dialect.name]), {"bind": plain.engines["replica"]}
        with plain.atomic(isolation_level="SERIALIZABLE"):
            by_argument = plain.session.execute(sql, bind_arguments=dict(named)).scalar_one()
            connection = plain.session.connection(bind_arguments=dict(named))
            by_connection = connection.execute(sql).scalar_one()
            assert checked_out() == 1
        assert by_argument.upper() == by_connection.upper() == "SERIALIZABLE"
        assert plain.session.connection(dict(named)).engine is named["bind"]


class OwnBase(DeclarativeBase):
    pass


class Here(OwnBase):
    __tablename__ = "here"

    id: Mapped[int] = mapped_column(primary_key=True)


class There(OwnBase):
    __tablename__ = "there"
    __bind_key__ = "there"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))


class Mixin:
    """As in SQLAlchemy's recipes, a class between the session class and its base."""

    asked: list[object]

    def get_bind(self, mapper: Any = None, **kwargs: Any) -> Engine | Connection:
        bind: Engine | Connection
        bind = super().get_bind(mapper, **kwargs)  # type: ignore[misc]
        type(self).asked.append(bind)
        return bind


class Asking(Mixin, Session):
    asked: list[object] = []  # noqa: RUF012


@anywhere
@pytest.mark.parametrize("options", [{}, {"read_only": True}], ids=str)
def test_super_routes_by_bind_key(
    options: dict[str, Any], make_app: MakeApp, database: TestDatabase
) -> None:
    """As for a session class without a method of its own."""
    own = Database(OwnBase, session_options={"class_": Asking})
    app = make_app(own, SQLALCHEMY_BINDS={"there": database.url + "-2"})
    with app.app_context():
        with own.atomic():
            own.session.add_all([Here(), There(name="there")])
        Asking.asked.clear()
        with own.atomic(**options):
            assert own.session.scalar(select(func.count()).select_from(Here.__table__)) == 1
            assert own.session.scalars(select(There)).one().name == "there"
            assert own.session.scalar(text("SELECT 1")) == 1
        named = own.engines
        assert Asking.asked == [named["default"], named["there"], named["default"]]
        with pytest.raises(ConfigError, match="no engine 'nowhere'"):
            own.session.scalars(select(Nowhere))


class OtherBase(DeclarativeBase):
    pass


class Nowhere(OtherBase):
    __tablename__ = "nowhere"
    __table_args__ = {"info": {"bind_key": "nowhere"}}  # noqa: RUF012

    id: Mapped[int] = mapped_column(primary_key=True)
