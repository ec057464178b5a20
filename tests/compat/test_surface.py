"""What ``SQLAlchemy`` accepts and refuses, where the oracle has nothing to compare."""

from __future__ import annotations

import ast
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy import orm
from sqlalchemy.exc import IntegrityError
from sqlalchemy.pool import StaticPool

import flask_uow.compat
from flask_uow import ConfigError, Database, SetupError, UnknownEngine
from flask_uow._unit.session_class import ChoosingSession
from flask_uow.compat import SQLAlchemy
from flask_uow.compat.model import Model
from flask_uow.testing import fail_commit
from tests.compat.conftest import Moved

Make = Callable[..., Moved]

PACKAGE = Path(flask_uow.compat.__file__).parent
NAMED = ("postgresql://", "sqlite:////srv/x.db")


def app_on(uri: Any = "sqlite://", **config: Any) -> Flask:
    app = Flask("surface")
    app.config.update(SQLALCHEMY_DATABASE_URI=uri, **config)
    return app


def test_flask_sqlalchemy_is_never_imported() -> None:
    """By no line of the package, and by nothing that it imports."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
            assert not [name for name in names if name.startswith("flask_sqlalchemy")]


@pytest.mark.slow
def test_import_brings_in_nothing_of_it() -> None:
    """Also where it is installed."""
    code = "import sys, flask_uow.compat.extension; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "flask_sqlalchemy" not in run.stdout.split()


def test_modules_have_the_names_of_flask_sqlalchemy() -> None:
    """So that a moved app replaces the name of the package, wherever it imports from it."""
    from flask_uow.compat.cli import add_models_to_shell
    from flask_uow.compat.model import (
        BindMetaMixin,
        BindMixin,
        DefaultMeta,
        DefaultMetaNoName,
        NameMetaMixin,
        NameMixin,
        camel_to_snake_case,
        should_set_tablename,
    )
    from flask_uow.compat.pagination import Pagination, QueryPagination, SelectPagination
    from flask_uow.compat.query import Query
    from flask_uow.compat.record_queries import get_recorded_queries
    from flask_uow.compat.session import Session
    from flask_uow.compat.track_modifications import before_models_committed, models_committed

    class NoNames(BindMetaMixin, orm.DeclarativeMeta):  # a metaclass as its documentation has it
        pass

    assert (camel_to_snake_case("UserName"), should_set_tablename(object)) == ("user_name", False)
    assert issubclass(DefaultMeta, NameMetaMixin)
    assert issubclass(SelectPagination, Pagination)
    assert issubclass(QueryPagination, Pagination)
    assert {BindMixin, NameMixin, DefaultMetaNoName, Query, Session, NoNames}
    assert {add_models_to_shell, get_recorded_queries}
    assert models_committed.name, before_models_committed.name
    assert isinstance(SQLAlchemy(), Database)


@pytest.mark.parametrize("root", [orm.DeclarativeBase, orm.DeclarativeBaseNoMeta])
def test_dataclasses(root: Any) -> None:
    """``MappedAsDataclass``, with which Flask-SQLAlchemy 3.1 fails on SQLAlchemy 2.1."""
    base = types.new_class("Base", (orm.MappedAsDataclass, root))
    app = app_on(SQLALCHEMY_BINDS={"other": "sqlite://"})
    db: Any = SQLAlchemy(app, model_class=base)

    class BlogPost(db.Model):  # type: ignore[misc]
        id: orm.Mapped[int] = orm.mapped_column(primary_key=True, init=False)
        title: orm.Mapped[str] = orm.mapped_column(default="none")

    class Elsewhere(db.Model):  # type: ignore[misc]
        __bind_key__ = "other"
        id: orm.Mapped[int] = orm.mapped_column(primary_key=True)

    with app.app_context():
        db.create_all()
        db.session.add_all([BlogPost("first"), Elsewhere(id=1)])
        db.session.commit()
        assert repr(BlogPost.query.one()).endswith("BlogPost(id=1, title='first')")
        assert db.session.get_bind(Elsewhere) is db.engines["other"]
    assert (BlogPost.__tablename__, issubclass(BlogPost, base)) == ("blog_post", True)


def test_metadata_beside_a_base_has_no_effect() -> None:
    """As there, with a warning that says where it belongs."""

    class Base(orm.DeclarativeBase):
        pass

    with pytest.warns(DeprecationWarning, match="Write 'metadata = ...' in that class"):
        db = SQLAlchemy(model_class=Base, metadata=sa.MetaData())
    assert db.metadata is Base.metadata


def test_two_bases() -> None:
    """The names of both are said."""

    class Base(orm.DeclarativeBase, orm.DeclarativeBaseNoMeta):
        pass

    with pytest.raises(ConfigError, match="'DeclarativeBase' and 'DeclarativeBaseNoMeta'"):
        SQLAlchemy(model_class=Base)


def test_engines_are_made_at_once() -> None:
    """``init_app()`` says what is wrong, and later changes have no effect."""
    with pytest.raises(SetupError, match=r"Set SQLALCHEMY_DATABASE_URI or SQLALCHEMY_BINDS"):
        SQLAlchemy(Flask("empty"))
    with pytest.raises(ConfigError, match="SQLALCHEMY_DATABASE_URI cannot be read"):
        SQLAlchemy(app_on("nonsense"))
    with pytest.raises(ConfigError, match=r"SQLALCHEMY_BINDS\['a'\] has no 'url'"):
        SQLAlchemy(app_on(SQLALCHEMY_BINDS={"a": {"pool_size": 1}}))
    db = SQLAlchemy(app := app_on())
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///other.db"
    with app.app_context():
        assert str(db.engine.url) == "sqlite://"


def test_another_extension_is_there() -> None:
    """``app.extensions["sqlalchemy"]`` is one extension's."""
    app = app_on()
    app.extensions["sqlalchemy"] = object()
    with pytest.raises(SetupError, match="another extension"):
        SQLAlchemy(app)


def test_missing_bind() -> None:
    """A bind key that no engine has: for ``create_all()``, for a model, for ``engines``."""
    db = SQLAlchemy(app := app_on())

    class Lost(db.Model):  # type: ignore[name-defined,misc]
        __bind_key__ = "lost"
        id = sa.Column(sa.Integer, primary_key=True)

    with app.app_context():
        for action in (
            db.create_all,
            lambda: db.create_all("lost"),
            lambda: db.session.get_bind(Lost),
        ):
            with pytest.raises(UnknownEngine, match=r"There is no engine 'lost'.*SQLALCHEMY_BINDS"):
                action()
        with pytest.raises(KeyError):
            db.get_engine(bind="lost")
        assert db.get_engine() is db.engine


def test_mapping_of_engines() -> None:
    """By bind key; the testing kit and Flask-Alembic find the names of the core."""
    db = SQLAlchemy(app := app_on(SQLALCHEMY_BINDS={"other": "sqlite://"}))
    with app.app_context():
        assert dict(db.engines) == {None: db.engine, "other": db.engines["other"]}
        assert (db.engines.get("lost"), len(db.engines)) == (None, 2)
        assert list(db.engines.copy()) == ["default", "other"]
        with fail_commit(db, engine="default"):  # which has to happen
            db.session.execute(sa.text("CREATE TABLE t (n INTEGER)"))
            with pytest.raises(IntegrityError):
                db.session.commit()
            db.session.rollback()


def test_engines_cannot_be_replaced(moved: Moved) -> None:
    """As fixtures do; what the sentence names undoes the commits of a test."""
    app, db, User = moved.app, moved.db, moved.User
    with app.app_context(), db.engine.connect() as connection:
        with pytest.raises(SetupError, match=r"'db.engines\[None\]' cannot be set") as caught:
            db.engines[None] = connection
    assert "with app.app_context(), db.test_isolation():" in str(caught.value)
    with app.app_context(), db.test_isolation():
        db.session.add(User(name="ada"))
        db.session.commit()
        db.session.rollback()
        assert User.query.count() == 1
    assert moved.stored() == []


@pytest.mark.parametrize("key", ["SQLALCHEMY_BINDS", "SQLALCHEMY_ENGINE_OPTIONS"])
def test_dicts_of_the_config(key: str) -> None:
    """None, which was a default of older versions, is an empty one; another value has a message."""
    db = SQLAlchemy(app := app_on(**{key: None}))
    with app.app_context():
        assert list(db.engines) == [None]
    with pytest.raises(ConfigError, match=f"{key} must be a dict"):
        SQLAlchemy(app_on(**{key: ["other"]}))


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:"])
def test_memory_is_one_connection(uri: str) -> None:
    """A test may write in its context, and drop its tables beside that."""
    db = SQLAlchemy(app := app_on(uri, SQLALCHEMY_BINDS={"own": {"url": uri, "echo": False}}))
    table = db.Table("numbers", sa.Column("n", sa.Integer))
    with app.app_context():
        assert [type(engine.pool) for engine in db.engines.values()] == [StaticPool] * 2
        db.create_all()
        db.session.execute(table.insert().values(n=1))
        db.drop_all()


def test_numbers_of_the_environment() -> None:
    """Options of engines may be texts."""
    options = {"pool_size": "3", "pool_recycle": "-1", "max_overflow": "2"}
    db = SQLAlchemy(app := app_on("sqlite:///x.db", SQLALCHEMY_ENGINE_OPTIONS=options))
    with app.app_context():
        assert (db.engine.pool.size(), db.engine.pool._max_overflow) == (3, 2)  # type: ignore[attr-defined]


def test_echo() -> None:
    """``SQLALCHEMY_ECHO`` is for statements and for the pool, of each engine without its own."""
    binds = {"quiet": {"url": "sqlite://", "echo": False}, "other": "sqlite://"}
    db = SQLAlchemy(app := app_on(SQLALCHEMY_BINDS=binds, SQLALCHEMY_ECHO=True))
    with app.app_context():
        echoes = {key: [engine.echo, engine.pool.echo] for key, engine in db.engines.items()}
    assert echoes == {None: [True, True], "quiet": [False, True], "other": [True, True]}


def test_engines_of_another_key() -> None:
    """``SQLALCHEMY_ENGINES`` is not Flask-SQLAlchemy's: an app may have it for something else."""
    engines = {"other": "sqlite:///lite.db", "default": "sqlite:///lite.db"}
    binds = {"other": "sqlite://"}
    db = SQLAlchemy(app := app_on(SQLALCHEMY_BINDS=binds, SQLALCHEMY_ENGINES=engines))
    with app.app_context():
        assert [str(engine.url) for engine in db.engines.values()] == ["sqlite://"] * 2


def test_sessions_find_engines_as_those_of_the_core(moved: Moved) -> None:
    """Only a class with its own ``get_bind()`` chooses; else units commit in the fast way."""
    with moved.app.app_context():
        assert not isinstance(moved.db.session(), ChoosingSession)


def test_charset_of_mysql() -> None:
    """As there; a charset that is given stays."""
    binds = {"given": "mysql+pymysql://u@h/d?charset=latin1", "maria": "mariadb+pymysql://u@h/d"}
    db = SQLAlchemy(app := app_on("mysql+pymysql://u@h/d", SQLALCHEMY_BINDS=binds))
    with app.app_context():
        charsets = {key: engine.url.query.get("charset") for key, engine in db.engines.items()}
    assert charsets == {None: "utf8mb4", "given": "latin1", "maria": None}


def test_foreign_keys_of_sqlite(tmp_path: Path) -> None:
    """Not checked, as there, unless the app asks for it."""
    for config, expected in (({}, 0), ({"UOW_SQLITE_FOREIGN_KEYS": True}, 1)):
        db = SQLAlchemy(app := app_on(f"sqlite:///{tmp_path}/keys.db", **config))
        with app.app_context():
            assert db.session.scalar(sa.text("PRAGMA foreign_keys")) == expected
            db.session.remove()
            db.engine.dispose()


def test_overridden_internals() -> None:
    """A method that is never called is not overridden in silence."""

    class Own(SQLAlchemy):
        def _make_engine(self, *_: Any) -> None: ...

    with pytest.raises(SetupError, match=r"'Own' has a method '_make_engine'.*engine_options"):
        Own()


def test_unknown_name() -> None:
    """``db.__getattr__`` looks in two modules."""
    with pytest.raises(AttributeError, match=r"no attribute 'Colunm', and neither 'sqlalchemy'"):
        _ = SQLAlchemy().Colunm


def test_own_migrations(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``flask db`` finds the tables of each engine."""
    monkeypatch.chdir(tmp_path)
    moved = make(SQLALCHEMY_BINDS={"other": f"sqlite:///{tmp_path}/other.db"})
    moved.db.Table("tags", sa.Column("id", sa.Integer, primary_key=True), bind_key="other")
    runner = moved.app.test_cli_runner()
    with moved.app.app_context():
        moved.db.drop_all()
    for command in (["init"], ["migrate", "-m", "first"], ["upgrade"], ["check"]):
        result = runner.invoke(args=["db", *command])
        assert result.exit_code == 0, result.output
    with moved.app.app_context():
        assert moved.User.query.all() == []
        names = [sa.inspect(engine).get_table_names() for engine in moved.db.engines.values()]
        assert ["compat_user" in names[0], "tags" in names[0], "tags" in names[1]] == [1, 0, 1]
        moved.db.session.execute(sa.text("DROP TABLE alembic_version"))
        moved.db.session.commit()


def test_base_of_the_app_without_a_metaclass_is_a_parent() -> None:
    """``isinstance(user, Base)`` holds, where Flask-SQLAlchemy copies what is in ``Base``."""

    class Base(orm.DeclarativeBase):
        def shout(self) -> str:
            return "!"

    db = SQLAlchemy(model_class=Base)
    assert issubclass(db.Model, Base)
    assert issubclass(db.Model, Model)
