"""``UnitSession`` and the proxy by themselves: binds, reads that are committed, small print."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Response, after_this_request, stream_with_context
from sqlalchemy import Engine, String, create_engine, event, func, insert, join, select, text
from sqlalchemy.exc import SAWarning
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    aliased,
    column_property,
    mapped_column,
)
from sqlalchemy.orm.exc import FlushError

from flask_uow import Database, DiscardedWork, Flask
from flask_uow._engine import lost_transactions
from flask_uow._request.flask_private import SEPARATE_REQUEST_CONTEXT
from flask_uow._transaction.record import TransactionRecord, attach
from flask_uow._transaction.statements import StatementEffect
from flask_uow._unit.session import UnitSession


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20), unique=True)


class Audit(Base):
    __tablename__ = "audit"
    __bind_key__ = "audit"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int]


class Both(Base):
    """A class on a join: its engine is that of the first table that names one."""

    __table__ = join(Audit.__table__, User.__table__, Audit.user_id == User.id)
    audit_id = column_property(Audit.__table__.c.id)
    id = column_property(User.__table__.c.id)


@pytest.fixture
def db() -> Database:
    return Database(Base)


@pytest.fixture
def two_engines(db: Database, tmp_path: Path) -> Iterator[Flask]:
    app = Flask("tests", instance_path=str(tmp_path))
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///default.db"
    app.config["SQLALCHEMY_BINDS"] = {"audit": "sqlite:///audit.db"}
    db.init_app(app)
    with app.app_context():
        db.create_all()
        yield app


def commits_of(engine: Engine) -> list[str]:
    seen: list[str] = []
    event.listen(engine, "commit", lambda _: seen.append("COMMIT"))
    return seen


class Named(Base):
    """The key of a class is stronger than that of the tables below it."""

    __bind_key__ = "default"
    __table__ = join(Audit.__table__, User.__table__, Audit.user_id == User.id)
    audit_id = column_property(Audit.__table__.c.id)
    id = column_property(User.__table__.c.id)


def test_a_mapped_join_goes_to_the_engine_of_its_table(two_engines: Flask, db: Database) -> None:
    """What is mapped may be more than a table."""
    assert db.session.get_bind(Both) is db.engines["audit"]
    assert db.session.get_bind(Named) is db.engine


def test_a_bind_that_is_given_is_used(two_engines: Flask, db: Database) -> None:
    """``bind=`` and ``bind_arguments`` are stronger than any key."""
    audit = db.engines["audit"]
    assert db.session.get_bind(User, bind=audit) is audit
    with db.sessionmaker(bind=audit) as session:
        assert session.get_bind(User) is audit


def test_reads_on_several_engines_commit_on_none(two_engines: Flask, db: Database) -> None:
    """No transaction has begun on either."""
    seen = {name: commits_of(engine) for name, engine in db.engines.items()}

    @two_engines.get("/")
    def read() -> str:
        return f"{db.session.get(User, 1)} {db.session.get(Audit, 1)}"

    assert two_engines.test_client().get("/").text == "None None"
    assert seen == {"default": [], "audit": []}


def test_a_savepoint_left_open_by_a_reader_is_released(two_engines: Flask, db: Database) -> None:
    """A view that forgets its savepoint still ends with a COMMIT, and no connection stays out."""
    seen = commits_of(db.engine)

    @two_engines.get("/")
    def read() -> str:
        db.session.begin_nested()
        return str(db.session.get(User, 1))

    assert two_engines.test_client().get("/").text == "None"
    assert seen == ["COMMIT"]
    assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def test_an_engine_that_is_not_ours_commits_last(
    two_engines: Flask, db: Database, tmp_path: Path
) -> None:
    """A connection that the view asked for on another engine is part of the unit."""
    order = []
    stranger = create_engine(f"sqlite:///{tmp_path}/stranger.db")
    for name, engine in (*db.engines.items(), ("stranger", stranger)):
        event.listen(engine, "commit", lambda _, name=name: order.append(name))
    db.session.connection(bind_arguments={"bind": stranger}).execute(text("SELECT 1"))
    db.session.add(Audit(user_id=1))
    db.session.add(User(name="ada"))
    db.session.commit()
    stranger.dispose()
    assert order == ["default", "audit", "stranger"]


def test_an_engine_that_is_not_ours_is_looked_at(
    two_engines: Flask, db: Database, tmp_path: Path
) -> None:
    """What a failed view has written there is undone before the error handler's work is stored."""
    stranger = create_engine(f"sqlite:///{tmp_path}/stranger.db")
    Base.metadata.create_all(stranger)
    there = {"bind": stranger}

    @two_engines.errorhandler(LookupError)
    def answer(error: LookupError) -> str:
        db.session.execute(insert(User).values(name="handler"), bind_arguments=there)
        return "fine"

    @two_engines.post("/")
    def fail() -> str:
        db.session.execute(insert(User).values(name="view"), bind_arguments=there)
        raise LookupError

    assert two_engines.test_client().post("/").text == "fine"
    with stranger.connect() as connection:
        assert connection.scalars(select(User.name)).all() == ["handler"]
    stranger.dispose()


@pytest.mark.parametrize("in_savepoint", [True, False])
def test_a_listener_that_adds_while_others_are_flushed_is_heard(
    in_savepoint: bool, two_engines: Flask, db: Database
) -> None:
    """The commit of several engines flushes until nothing is left, and savepoints end first."""

    heard: list[None] = []

    @event.listens_for(db.session(), "before_commit")
    def add(session: Any) -> None:
        if not heard:
            heard.append(session.add(User(name="added")))

    db.session.add_all([User(name="ada"), Audit(user_id=1)])
    if in_savepoint:
        db.session.begin_nested()
    db.session.add(User(name="grace"))
    db.session.commit()
    names = select(User.name).order_by(User.name)
    assert db.session.scalars(names).all() == ["ada", "added", "grace"]
    db.session.remove()


def test_the_proxy_has_what_scoped_session_leaves_out(two_engines: Flask, db: Database) -> None:
    """The state of the transaction can be asked of ``db.session`` too."""
    assert not db.session.in_transaction()
    assert db.session.get_transaction() is None
    db.session.get(User, 1)
    assert db.session.in_transaction()
    assert db.session.get_transaction() is not None
    assert not db.session.in_nested_transaction()
    with db.session.begin_nested() as savepoint:
        assert db.session.in_nested_transaction()
        assert db.session.get_nested_transaction() is savepoint
    assert "UnitSession" in repr(db.session)
    db.session.remove()
    assert repr(db.session) == "<SessionProxy without a unit>"


def test_remove_and_invalidate_without_a_unit_do_nothing(two_engines: Flask, db: Database) -> None:
    """They may be called by somebody who does not know."""
    db.session.remove()
    db.session.invalidate()
    assert not db.session.registry.has()


def test_remove_forgets_what_was_not_committed(two_engines: Flask, db: Database) -> None:
    """It is asked for, so there is no warning; the next use is a new unit."""
    db.session.add(User(name="ada"))
    before = db.session()
    db.session.remove()
    assert db.session() is not before
    assert db.session.scalars(select(User)).all() == []
    db.session.remove()


def test_remove_inside_a_stream_ends_it_once(two_engines: Flask, db: Database) -> None:
    """The end of the response finds nothing left to close."""

    @two_engines.get("/")
    def read() -> Any:
        db.session.get(User, 1)

        def body() -> Iterator[str]:
            yield str(db.session.get(User, 1))
            db.session.remove()

        return stream_with_context(body())

    response = two_engines.test_client().get("/")
    assert response.text == "None"
    response.close()
    assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def test_a_statement_without_parameters_is_noticed() -> None:
    """The driver is called in three ways, and each of them counts."""
    engine = create_engine("sqlite://")
    lost_transactions.watch_transactions(engine)
    record = TransactionRecord()
    with engine.connect() as connection:
        attach(connection, record)
        bare = connection.execution_options(no_parameters=True)
        bare.exec_driver_sql("CREATE TABLE t (id INTEGER)")
        assert record.effect is StatementEffect.WRITE
    engine.dispose()


def test_an_answer_that_fails_to_close_is_logged(
    two_engines: Flask, db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer that a failing commit replaces cannot spoil the one that is sent."""
    two_engines.register_error_handler(ZeroDivisionError, lambda _: ("no", 409))

    @two_engines.get("/")
    @db.unit(commit=lambda response: 1 // 0 == 0)
    def read() -> Any:
        response = two_engines.make_response(str(db.session.get(User, 1)))

        @response.call_on_close
        def fail() -> None:
            raise OSError("the file is gone")

        return response

    response = two_engines.test_client().get("/")
    assert (response.status_code, response.text) == (409, "no")
    assert "could not be closed" in caplog.text


def test_a_connection_that_cannot_be_dropped_is_logged(
    two_engines: Flask,
    db: Database,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not even that hides what came before."""

    def fail() -> None:
        raise OSError("stuck")

    db.session.add(User(name="ada"))
    monkeypatch.setattr(db.session(), "invalidate_unchecked", fail)
    with caplog.at_level(logging.ERROR, "flask_uow"):
        db.session.invalidate()
    assert "failed to drop its connections" in caplog.text


def test_rows_written_by_sql_are_named_as_such(two_engines: Flask, db: Database) -> None:
    """A context that loses Core statements says so, though no class is known."""
    with pytest.warns(DiscardedWork, match=r"SQL statements \(sent with execute\(\)\)"):
        with two_engines.app_context():
            db.session.execute(text("INSERT INTO users (name) VALUES ('ada')"))


def test_a_listener_is_heard_at_the_end_of_a_request_that_only_read(
    two_engines: Flask, db: Database
) -> None:
    """What it adds before the commit is stored, as with any commit."""

    @two_engines.get("/")
    def read() -> str:
        @event.listens_for(db.session(), "before_commit")
        def add(session: Any) -> None:
            session.add(User(name="added"))

        return str(db.session.get(User, 1))

    assert two_engines.test_client().get("/").text == "None"
    assert db.session.scalars(select(User.name)).all() == ["added"]
    db.session.remove()


def test_a_session_class_with_methods_of_its_own_keeps_them(tmp_path: Path) -> None:
    """Its ``get_bind`` chooses the engine, and its ``commit`` is called even after reads."""
    called = []

    class Own(Session):
        def get_bind(self, *args: Any, **kwargs: Any) -> Any:
            called.append("get_bind")
            return database.engines["audit"]

        def commit(self) -> None:
            called.append("commit")
            super().commit()

    database = Database(Base, session_options={"class_": Own})
    app = Flask("tests", instance_path=str(tmp_path))
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///default.db"
    app.config["SQLALCHEMY_BINDS"] = {"audit": "sqlite:///audit.db"}
    database.init_app(app)

    @app.get("/")
    def read() -> str:
        return str(database.session.connection().engine.url.database)

    assert app.test_client().get("/").text == f"{tmp_path}/audit.db"
    assert called == ["get_bind", "commit"]


def test_what_a_savepoint_has_undone_is_not_named(two_engines: Flask, db: Database) -> None:
    """Only what would have been stored is lost."""
    with pytest.warns(DiscardedWork, match=r"rolled back: 1 User \(new\)\."):
        with two_engines.app_context():
            db.session.add(User(name="lost"))
            db.session.flush()
            savepoint = db.session.begin_nested()
            db.session.add_all([User(name="undone"), Audit(user_id=1)])
            db.session.flush()
            savepoint.rollback()
    with two_engines.app_context():  # nothing is lost here
        savepoint = db.session.begin_nested()
        db.session.add(User(name="undone"))
        db.session.flush()
        savepoint.rollback()


@pytest.mark.parametrize("view_writes", [True, False])
def test_a_stream_that_writes_is_warned_under_the_rule_explicit_too(
    view_writes: bool, two_engines: Flask, db: Database
) -> None:
    """What the view left uncommitted was meant so; what the body writes is lost by mistake."""

    @two_engines.get("/")
    @db.unit(commit="explicit")
    def read() -> Any:
        db.session.get(User, 1)
        if view_writes:
            db.session.add(User(name="view"))

        def body() -> Iterator[str]:
            yield "body"
            db.session.add(User(name="body"))

        return stream_with_context(body())

    with pytest.warns(DiscardedWork, match=r"rolled back: 1 User \(new\)\."):
        response = two_engines.test_client().get("/")
        assert response.text == "body"
        response.close()
    assert db.session.scalars(select(User)).all() == []
    db.session.remove()


def test_an_answer_whose_late_work_fails_is_closed(two_engines: Flask, db: Database) -> None:
    """The 500 takes its place, and what it held is let go."""
    closed = []

    @two_engines.get("/")
    def read() -> Any:
        response = two_engines.make_response("")
        response.call_on_close(lambda: closed.append("closed"))
        return response

    @two_engines.after_request
    def write(response: Any) -> Any:
        if not closed:
            db.session.add(User(name=None))
        return response

    assert two_engines.test_client().get("/").status_code == 500
    assert closed == ["closed"]


def test_a_context_that_is_pushed_again_starts_afresh(two_engines: Flask, db: Database) -> None:
    """That its first request failed says nothing about its second."""
    dispatch: Any = two_engines.full_dispatch_request

    @two_engines.get("/")
    def view() -> tuple[str, int]:
        db.session.add(User(name=f"user {len(tries)}"))
        tries.append("")
        if len(tries) == 1:
            raise LookupError
        return "", 400

    tries: list[str] = []
    two_engines.register_error_handler(LookupError, lambda _: ("", 404))
    context: Any = two_engines.test_request_context("/")
    for _ in range(2):
        with context:
            dispatch(*[context][: 0 if SEPARATE_REQUEST_CONTEXT else 1])
    assert db.session.scalars(select(User)).all() == []
    db.session.remove()


def test_the_wrapped_methods_take_keywords_as_flask_s_own_do(two_engines: Flask) -> None:
    """And outside of a request they say what Flask says."""
    if SEPARATE_REQUEST_CONTEXT:
        with two_engines.test_request_context("/"):
            response = two_engines.process_response(response=Response("x"))
            assert response.get_data() == b"x"
            two_engines.do_teardown_appcontext(exc=None)
    with pytest.raises((RuntimeError, AttributeError), match=r"request|session"):
        two_engines.process_response(Response("x"))


def test_objects_stay_readable_behind_a_commit_that_is_listened_to(
    two_engines: Flask, db: Database
) -> None:
    """The automatic commit expires nothing, on several engines either (P8)."""
    heard: list[str] = []

    @two_engines.get("/")
    def write() -> str:
        event.listen(db.session(), "after_commit", lambda _: heard.append("after_commit"))
        user = User(name="ada")
        db.session.add_all([user, Audit(user_id=1)])

        @after_this_request
        def look(response: Response) -> Response:
            response.headers["X-Name"] = vars(user)["name"]
            return response

        return ""

    assert two_engines.test_client().get("/").headers["X-Name"] == "ada"
    assert heard == ["after_commit"]


# The automatic commit -------------------------------------------------------------------------


def test_own_commit_sees_what_is_new(tmp_path: Path) -> None:
    """A session class whose ``commit()`` stamps new objects does so at the automatic commit."""

    class Stamping(Session):
        def commit(self) -> None:
            for instance in self.new:
                instance.name = "stamped"
            super().commit()

    database = Database(Base, session_options={"class_": Stamping})
    app = Flask("tests", instance_path=str(tmp_path))
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///own.db"
    database.init_app(app)
    with app.app_context():
        database.metadata.create_all(database.engine, tables=[Base.metadata.tables["users"]])

    @app.post("/")
    def create() -> str:
        database.session.add(User(name="ada"))
        return ""

    assert app.test_client().post("/").status_code == 200
    with app.app_context():
        assert database.session.scalars(select(User.name)).all() == ["stamped"]


def test_own_commit_may_follow_a_commit_of_several_engines(tmp_path: Path) -> None:
    """There is nothing to be looked at any more: its connections have gone back."""

    class Own(Session):
        def commit(self) -> None:
            super().commit()

    database = Database(Base, session_options={"class_": Own})
    app = Flask("tests", instance_path=str(tmp_path))
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///default.db"
    app.config["SQLALCHEMY_BINDS"] = {"audit": "sqlite:///audit.db"}
    database.init_app(app)
    with app.app_context():
        database.create_all()
        database.session.add_all([User(name="ada"), Audit(user_id=1)])
        database.session.flush()
        database.session.commit()
        database.session.commit()
        assert database.session.scalars(select(User.name)).all() == ["ada"]


def test_endless_flushes_are_an_error(tmp_path: Path) -> None:
    """A listener that adds an object in each flush loses none of them in silence."""
    engine = create_engine(f"sqlite:///{tmp_path / 'endless.db'}")
    Base.metadata.create_all(engine, tables=[Base.metadata.tables["users"]])
    session = UnitSession(engines={"default": engine})

    @event.listens_for(session, "after_flush")
    def add(*_: object) -> None:
        session.add(User(name=f"user {len(session.record.flushed)}"))

    session.add(User(name="first"))
    with pytest.raises(FlushError, match="100 flushes"):
        session.commit_keeping_objects()
    session.rollback()
    session.close()


def test_connection_that_was_handed_in_is_not_committed(tmp_path: Path) -> None:
    """Its transaction belongs to whoever began it."""
    engine = create_engine(f"sqlite:///{tmp_path / 'foreign.db'}")
    Base.metadata.create_all(engine, tables=[Base.metadata.tables["users"]])
    session = UnitSession(engines={"default": engine})
    with engine.connect() as foreign, foreign.begin() as transaction:
        bound = session.connection(bind_arguments={"bind": foreign})
        bound.execute(insert(User).values(name="ada"))
        session.commit_keeping_objects()
        session.close()
        assert transaction.is_active
        transaction.rollback()
    with engine.connect() as witness:
        assert witness.scalar(select(func.count()).select_from(User)) == 0


def test_a_warning_of_sqlalchemy_names_the_line_of_the_app(
    two_engines: Flask, db: Database
) -> None:
    """Not a line of ours, which is the same for every statement."""
    first, second = aliased(User), aliased(User)
    with pytest.warns(SAWarning, match="cartesian product") as warned:
        db.session.execute(select(User.id, first.id))
        with db.atomic() as session:
            session.scalars(select(first.id, second.id, User.id))
    assert {warning.filename for warning in warned} == {__file__}
    assert len({warning.lineno for warning in warned}) == 2
