"""``Database``: what it can be made of, several apps, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flask
import pytest
from flask import Blueprint
from sqlalchemy import Column, Integer, MetaData, String, Table, inspect, select
from sqlalchemy.orm import (
    DeclarativeBase,
    DeclarativeBaseNoMeta,
    Mapped,
    MappedAsDataclass,
    Session,
    declarative_base,
    mapped_column,
    registry,
    scoped_session,
)

from flask_uow import ConfigError, Database, Flask, OutsideContext, SetupError, UnknownEngine


def make_app(db: Database, folder: Path, name: str = "shop", **config: Any) -> Flask:
    app = Flask(name, instance_path=str(folder))
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{name}.db"
    app.config.update(config)
    app.register_extension(db)
    return app


def declarative() -> Any:
    class Base(DeclarativeBase):
        pass

    return Base


def no_meta() -> Any:
    class Base(DeclarativeBaseNoMeta):
        pass

    return Base


def dataclass() -> Any:
    class Base(MappedAsDataclass, DeclarativeBase):
        pass

    return Base


@pytest.mark.parametrize("make_base", [declarative, no_meta, dataclass, declarative_base])
def test_any_declarative_base_works(make_base: Any, tmp_path: Path) -> None:
    """Every kind of base of SQLAlchemy is taken as it is, dataclasses included."""
    base = make_base()

    fields: dict[str, Any] = {"__tablename__": "things"}
    if make_base is dataclass:
        fields["__annotations__"] = {"id": Mapped[int], "name": Mapped[str]}
        fields["id"] = mapped_column(primary_key=True, init=False)
        fields["name"] = mapped_column(String(20))
    else:
        fields["id"] = Column(Integer, primary_key=True)
        fields["name"] = Column(String(20))
    thing: Any = type("Thing", (base,), fields)
    db = Database(base)
    assert db.Model is base
    assert db.metadata is base.metadata
    with make_app(db, tmp_path).app_context():
        db.create_all()
        db.session.add(thing(name="one"))
        db.session.commit()
        assert db.session.scalars(select(thing.name)).all() == ["one"]
        db.session.remove()


def test_a_registry_works(tmp_path: Path) -> None:
    """Classes mapped by a plain registry are found through it."""
    mapper_registry = registry()

    @mapper_registry.mapped
    class Thing:
        __tablename__ = "things"
        id = Column(Integer, primary_key=True)

    db = Database(mapper_registry)
    with make_app(db, tmp_path).app_context():
        db.create_all()
        db.session.add(Thing())
        db.session.commit()
        assert db.session.scalar(select(Thing.id)) == 1
        db.session.remove()


def test_imperative_tables_come_with_their_metadata(tmp_path: Path) -> None:
    """``metadata=`` brings tables, and classes mapped onto them work in the session."""
    metadata = MetaData()
    table = Table("things", metadata, Column("id", Integer, primary_key=True))

    class Thing:
        pass

    registry(metadata=metadata).map_imperatively(Thing, table)
    db = Database(metadata=metadata)
    assert db.metadata is metadata
    assert db.Model.metadata is metadata
    with make_app(db, tmp_path).app_context():
        db.create_all()
        db.session.add(Thing())
        db.session.commit()
        assert db.session.execute(select(table)).all() == [(1,)]
        db.session.remove()


def test_model_is_ours_when_none_was_given(tmp_path: Path) -> None:
    """``db.Model`` is a declarative base of this ``Database`` alone."""
    db, other = Database(), Database()

    class Thing(db.Model):  # type: ignore[name-defined, misc]
        __tablename__ = "things"
        id: Mapped[int] = mapped_column(primary_key=True)

    assert other.metadata is not db.metadata
    assert list(db.metadata.tables) == ["things"]
    assert not other.metadata.tables
    with make_app(db, tmp_path).app_context():
        db.create_all()
        assert inspect(db.engine).get_table_names() == ["things"]


@pytest.mark.parametrize(
    ("part", "hint"),
    [
        (DeclarativeBase, "class Base"),
        ("sqlite://", "a declarative base"),
        (42, "a declarative base"),
        (Session, "a declarative base"),
    ],
)
def test_a_part_that_is_no_base_is_refused(part: Any, hint: str) -> None:
    """The message shows the part and says what it can be."""
    with pytest.raises(SetupError, match=f"has no registry of models. Write '?{hint}"):
        Database(part)


# Apps -----------------------------------------------------------------------------------------


def test_database_takes_the_app_at_once() -> None:
    """``Database(app)`` is ``Database()`` and ``init_app``, with a plain ``flask.Flask`` too."""
    app = flask.Flask("tests")
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    db = Database(app)
    with app.app_context():
        assert db.session.connection().engine is db.engine
        db.session.remove()


@pytest.fixture
def two(tmp_path: Path) -> tuple[Database, Flask, Flask]:
    db = Database()
    return db, make_app(db, tmp_path, "one"), make_app(db, tmp_path, "two")


def test_several_apps_never_mix(two: tuple[Database, Flask, Flask]) -> None:
    """Two apps on one ``Database`` have engines and sessions of their own, nested as well."""
    db, one, other = two
    with one.app_context():
        engine, session = db.engine, db.session()
        with other.app_context():
            assert db.engine is not engine
            assert db.session() is not session
            assert str(db.engine.url).endswith("two.db")
        assert db.engine is engine
        assert db.session() is session


def test_a_request_of_one_app_inside_a_request_of_another(
    two: tuple[Database, Flask, Flask],
) -> None:
    """The innermost context decides which app is meant, whatever kind it is."""
    db, one, other = two
    with one.test_request_context("/"):
        session = db.session()
        with other.app_context():
            inner = db.session()
            assert inner is not session
            assert inner.get_bind().url.database.endswith("two.db")  # type: ignore[union-attr]
        with other.test_request_context("/"):
            assert db.session() not in (inner, session)
        assert db.session() is session


def test_an_app_context_inside_a_request_has_a_unit_of_its_own(
    two: tuple[Database, Flask, Flask],
) -> None:
    """Also if the request itself lives in an app context that was there before it."""
    db, one, _ = two
    with one.app_context():
        outer = db.session()
        with one.test_request_context("/"):
            session = db.session()
            with one.app_context():
                inner = db.session()
            assert db.session() is session
        assert db.session() is outer
    assert len({outer, session, inner}) == 3


def test_no_app_and_no_context_is_stored_on_the_object(
    two: tuple[Database, Flask, Flask],
) -> None:
    """After use, nothing that the ``Database`` holds leads to an app or a context."""
    db, one, _ = two
    with one.app_context():
        db.session.connection()
    held = [vars(db), vars(db._units)]
    assert not any(isinstance(value, flask.Flask) for part in held for value in part.values())
    with pytest.raises(OutsideContext):
        db.engine  # noqa: B018


def test_a_second_registration_is_refused(tmp_path: Path) -> None:
    """``init_app`` twice on one app would finish every request twice."""
    db = Database()
    app = make_app(db, tmp_path)
    with pytest.raises(SetupError, match="'shop' is registered with this Database already"):
        db.init_app(app)
    with pytest.raises(SetupError, match="'shop' is registered with another Database already"):
        Database().init_app(app)


@pytest.mark.parametrize("wrong", [None, "app", object(), Flask])
def test_something_that_is_no_app_is_refused(wrong: Any) -> None:
    """``init_app`` says what it was given and what to write."""
    with pytest.raises(SetupError, match=r"is not a Flask app. Write 'db.init_app"):
        Database().init_app(wrong)


def test_a_misspelt_rule_is_refused_when_the_app_is_made(tmp_path: Path) -> None:
    """``UOW_COMMIT`` is looked at in ``init_app`` already, and the app is left as it was."""
    app = Flask("shop", instance_path=str(tmp_path))
    app.config["UOW_COMMIT"] = "on_sucess"
    db = Database()
    with pytest.raises(ConfigError, match="Did you mean 'on_success'"):
        db.init_app(app)
    assert "uow" not in app.extensions
    app.config["UOW_COMMIT"] = "on_success"
    db.init_app(app)


def test_the_keys_in_app_extensions(tmp_path: Path) -> None:
    """``"uow"`` is ours always; ``"sqlalchemy"`` is the ``Database``, if it is free."""
    db = Database()
    app = make_app(db, tmp_path)
    assert "uow" in app.extensions
    assert app.extensions["sqlalchemy"] is db
    taken = Flask("other")
    taken.extensions["sqlalchemy"] = "somebody else's"
    db.init_app(taken)
    assert taken.extensions["sqlalchemy"] == "somebody else's"


# register_extension ---------------------------------------------------------------------------


class Mail:
    """An extension like any other."""

    def init_app(self, app: flask.Flask, *, sender: str = "nobody") -> None:
        app.extensions["mail"] = sender


def test_any_extension_can_be_registered() -> None:
    """``register_extension`` calls ``init_app`` and hands its options on."""
    app = Flask("shop")
    app.register_extension(Mail(), sender="us")
    assert app.extensions["mail"] == "us"


def test_what_is_no_extension_is_refused() -> None:
    """A class, a blueprint and nothing get a sentence each."""
    app = Flask("shop")
    with pytest.raises(SetupError, match=r"given the class 'Mail'.*extension = Mail\(\)"):
        app.register_extension(Mail)  # type: ignore[arg-type]
    with pytest.raises(SetupError, match=r"has no 'init_app'.*register_blueprint"):
        app.register_extension(Blueprint("b", "b"))  # type: ignore[arg-type]
    with pytest.raises(SetupError, match="given None"):
        app.register_extension(None)  # type: ignore[arg-type]


def test_registration_after_the_first_request_is_refused_by_flask() -> None:
    """It is a setup method like ``register_blueprint``."""
    app = Flask("shop")
    app.test_client().get("/")
    with pytest.raises(AssertionError, match="register_extension"):
        app.register_extension(Mail())


# The session and its options ------------------------------------------------------------------


def test_session_is_a_scoped_session_before_any_app_exists() -> None:
    """Other libraries can take ``db.session`` and keep it, without any context."""
    db = Database()
    assert isinstance(db.session, scoped_session)
    assert repr(db.session) == "<SessionProxy without a unit>"
    assert "Model" in repr(db)


def test_session_options_reach_the_session(tmp_path: Path) -> None:
    """Options and an own class are used, and the class keeps its methods."""

    class Own(Session):
        def answer(self) -> int:
            return 42

    db = Database(session_options={"autoflush": False, "class_": Own})
    with make_app(db, tmp_path).app_context():
        session: Any = db.session()
        assert not session.autoflush
        assert isinstance(session, Own)
        assert session.answer() == 42


def test_a_session_class_that_is_none_is_refused() -> None:
    """``class_`` must be a ``Session``."""
    with pytest.raises(SetupError, match=r"not a subclass of 'sqlalchemy.orm.Session'"):
        Database(session_options={"class_": dict})


def test_a_session_of_its_own(tmp_path: Path) -> None:
    """``db.sessionmaker()`` makes sessions that belong to no unit."""
    db = Database()
    with make_app(db, tmp_path).app_context():
        with db.sessionmaker() as session:
            assert session is not db.session()
            assert session.connection().engine is db.engine
        db.session.remove()


def test_the_first_call_may_bring_options(tmp_path: Path) -> None:
    """``db.session(autoflush=False)`` opens the unit so, as a ``scoped_session`` does."""
    db = Database()
    with make_app(db, tmp_path).app_context():
        session = db.session(autoflush=False)
        assert db.session() is session
        assert not session.autoflush


def test_a_foreign_session_is_refused_as_the_units(tmp_path: Path) -> None:
    """Only sessions of ``db.sessionmaker`` can become a unit's."""
    db = Database()
    with (
        make_app(db, tmp_path).app_context(),
        pytest.raises(SetupError, match="'Session' cannot become the session"),
    ):
        db.session.registry.set(Session())


# Several engines ------------------------------------------------------------------------------


def test_tables_are_made_on_their_own_engines(tmp_path: Path) -> None:
    """The bind key of the model, of the table and of the metadata are all understood."""

    class Base(DeclarativeBase):
        pass

    class OfDefault(Base):
        __tablename__ = "a"
        id: Mapped[int] = mapped_column(primary_key=True)

    class OfModel(Base):
        __tablename__ = "b"
        __bind_key__ = "b"
        id: Mapped[int] = mapped_column(primary_key=True)

    class OfTable(Base):
        __tablename__ = "c"
        __table_args__ = {"info": {"bind_key": "c"}}  # noqa: RUF012
        id: Mapped[int] = mapped_column(primary_key=True)

    class OfMetadata(Base):
        __abstract__ = True
        metadata = MetaData(info={"bind_key": "d"})

    class InMetadata(OfMetadata):
        __tablename__ = "d"
        id: Mapped[int] = mapped_column(primary_key=True)

    db = Database(Base)
    binds = {name: f"sqlite:///{name}.db" for name in "bcd"}
    with make_app(db, tmp_path, SQLALCHEMY_BINDS=binds).app_context():
        db.create_all()
        tables = {name: inspect(engine).get_table_names() for name, engine in db.engines.items()}
        assert tables == {"default": ["a"], "b": ["b"], "c": ["c"], "d": ["d"]}
        db.session.add_all([OfDefault(), OfModel(), OfTable(), InMetadata()])
        db.session.commit()
        for model in (OfDefault, OfModel, OfTable, InMetadata):
            assert db.session.scalars(select(model.id)).all() == [1]
            assert db.session.execute(select(model.__table__)).all() == [(1,)]
        db.session.remove()
        db.drop_all()
        assert not any(inspect(engine).get_table_names() for engine in db.engines.values())


def test_a_model_on_an_engine_that_nobody_configured(tmp_path: Path) -> None:
    """The message names the model, the engine, the known ones and the key to set."""

    class Base(DeclarativeBase):
        pass

    class Audit(Base):
        __tablename__ = "audit"
        __bind_key__ = "audit"
        id: Mapped[int] = mapped_column(primary_key=True)

    db = Database(Base)
    app = make_app(db, tmp_path)
    sentence = r"no engine 'audit', which the model 'Audit'.*'default'.*SQLALCHEMY_BINDS\['audit'\]"
    with app.app_context():
        with pytest.raises(UnknownEngine, match=sentence):
            db.session.get(Audit, 1)
        with pytest.raises(UnknownEngine, match="which the table 'audit' asks for"):
            db.create_all()
        with pytest.raises(UnknownEngine, match="'nonesuch', which the code"):
            db.get_engine("nonesuch")


def test_a_table_on_an_engine_that_nobody_configured(tmp_path: Path) -> None:
    """A Core statement is looked at as well, once there are several engines to choose from."""
    metadata = MetaData()
    table = Table("t", metadata, Column("id", Integer), info={"bind_key": "nonesuch"})
    db = Database(metadata=metadata)
    app = make_app(db, tmp_path, SQLALCHEMY_BINDS={"b": "sqlite:///b.db"})
    with app.app_context(), pytest.raises(UnknownEngine, match="which this statement asks for"):
        db.session.execute(select(table))


# db.unit --------------------------------------------------------------------------------------


def test_unit_refuses_a_misspelt_rule() -> None:
    """``@db.unit(commit=...)`` is checked where it is written."""
    with pytest.raises(ConfigError, match=r"'commit' of '@db.unit.*Did you mean 'explicit'"):
        Database().unit(commit="explict")  # type: ignore[arg-type]


def test_unit_without_parentheses_is_refused() -> None:
    """``@db.unit`` on its own says nothing, so it says so."""
    with pytest.raises(ConfigError, match="written without its options"):
        Database().unit(lambda: "")


def test_unit_on_something_that_is_no_view_is_refused() -> None:
    """The options belong on a function."""
    with pytest.raises(ConfigError, match="which is not a view function"):
        Database().unit(commit="always")("view")  # type: ignore[type-var]
