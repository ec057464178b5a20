"""Failures on demand: each is what the database does, and happens where the test wants it."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from flask import Blueprint, Flask
from flask.testing import FlaskClient
from sqlalchemy import event, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from flask_uow import Database, PartialCommit, PoolExhausted, TransactionLost, testing
from flask_uow._drivers import outcomes
from flask_uow._drivers.outcomes import Moment, Outcome
from flask_uow.errors import (
    BlockRefused,
    ConfigError,
    OutsideContext,
    SetupError,
    UnknownEngine,
)
from tests.conftest import MakeApp
from tests.support.databases import TestDatabase, anywhere, on
from tests.support.models import Post, User
from tests.support.witness import Witness

on_servers = on("postgresql", "mariadb")
DRIVERS = [("postgresql", "psycopg"), ("postgresql", "psycopg2"), ("mariadb", "pymysql")]
if find_spec("MySQLdb"):
    DRIVERS.append(("mariadb", "mysqldb"))
every_driver = pytest.mark.parametrize(
    ("database", "driver"), [("sqlite-file", "pysqlite"), *DRIVERS], indirect=["database"]
)

MakeFailure = Callable[..., testing.Failure]


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    app = make_app(UOW_RETRY_PAUSE=0.001)
    add_views(app, app.extensions["sqlalchemy"])
    return app


def add_views(app: Flask, db: Database) -> None:
    """A shop: one view that writes, one that retries, one that reads; errors have their status."""
    shop = Blueprint("shop", __name__)

    @shop.post("/<name>")
    def create(name: str) -> str:
        db.session.add(User(name=name))
        return "stored"

    @shop.post("/again/<name>")
    @db.unit(retries=2)
    def again(name: str) -> str:
        db.session.add(User(name=name))
        return "stored"

    @shop.get("/")
    def index() -> list[str]:
        return list(db.session.scalars(select(User.name).order_by(User.name)))

    @app.errorhandler(IntegrityError)
    def refused(error: IntegrityError) -> tuple[str, int]:
        app.config["ERROR"] = error
        return "taken", 409

    @app.errorhandler(DBAPIError)
    def unavailable(error: DBAPIError) -> tuple[str, int]:
        app.config["ERROR"] = error
        return "try again", 503

    app.register_blueprint(shop)


def with_driver(make_app: MakeApp, db: Database, database: TestDatabase, driver: str) -> Flask:
    kind = database.url.partition(":")[0].partition("+")[0]
    app = make_app(url=f"{kind}+{driver}:{database.url.partition(':')[2]}")
    add_views(app, db)
    return app


# A commit that fails --------------------------------------------------------------------------


@every_driver
def test_failed_commit_is_an_integrity_error_of_the_driver(
    make_app: MakeApp, db: Database, database: TestDatabase, driver: str, witness: Witness
) -> None:
    """It reaches the error handler, with the name of the constraint; nothing is stored."""
    app = with_driver(make_app, db, database, driver)
    client = app.test_client()
    with testing.fail_commit(db, app=app, constraint="uq_it's") as failure:
        assert client.post("/ada").status_code == 409
        assert client.post("/bob").status_code == 200
    assert failure.hits == 1
    error = app.config["ERROR"]
    with app.app_context():
        assert isinstance(error.orig, db.engine.dialect.loaded_dbapi.IntegrityError)
    assert "uq_it's" in str(error.orig)
    code = {"sqlite-file": "SQLITE_CONSTRAINT_CHECK", "postgresql": "23505", "mariadb": "1062"}
    assert outcomes.code_of(error) == code[database.name]
    if database.name == "postgresql":
        assert error.orig.diag.constraint_name == "uq_it's"
        assert error.orig.diag.severity_nonlocalized == "ERROR"
    assert witness.names() == ["bob"]


def test_failed_commit_raises_what_it_is_given(
    app: Flask, db: Database, client: FlaskClient, database: TestDatabase, witness: Witness
) -> None:
    """An error of the driver is wrapped by SQLAlchemy, one of SQLAlchemy's too; others are not."""
    with app.app_context():
        driver: Any = db.engine.dialect.loaded_dbapi
    wrapped = driver.IntegrityError("of the driver")
    for error in (wrapped, IntegrityError("INSERT", {}, wrapped)):
        with testing.fail_commit(db, error, app=app):
            assert client.post("/ada").status_code == 409
        assert app.config["ERROR"].orig is wrapped
        assert app.config["ERROR"] is not error
    own = IntegrityError("INSERT", {}, Exception("not of the driver"))
    with testing.fail_commit(db, own, app=app):
        assert client.post("/ada").status_code == 409
    assert app.config["ERROR"] is own
    app.testing = True
    with testing.fail_commit(db, ZeroDivisionError(), app=app), pytest.raises(ZeroDivisionError):
        client.post("/ada")
    assert witness.names() == []


def test_lost_transaction_has_no_commit_to_fail(
    app: Flask, db: Database, client: FlaskClient
) -> None:
    """As in production, where the commit is refused before it is sent."""
    errors: list[BaseException] = []

    @app.post("/swallowed")
    def swallowed() -> str:
        db.session.add(User(name="ada"))
        db.session.flush()
        with contextlib.suppress(IntegrityError):
            db.session.execute(text("INSERT INTO users (name) VALUES (NULL)"))
        return ""

    @app.errorhandler(TransactionLost)
    def lost(error: TransactionLost) -> str:
        errors.append(error)
        return "lost"

    with testing.fail_commit(db, app=app, required=False) as failure:
        client.post("/swallowed")
    is_lost = app.extensions["uow"].engines["default"].dialect.name == "postgresql"
    assert (len(errors), failure.hits) == ((1, 0) if is_lost else (0, 1))


def test_failure_of_one_endpoint(app: Flask, db: Database, witness: Witness) -> None:
    """Other requests, and units outside of requests, are left alone."""
    client = app.test_client()
    with testing.fail_commit(db, endpoint="shop.again", app=app):
        assert client.post("/ada").status_code == 200
        with app.app_context(), db.atomic():
            db.session.add(User(name="bob"))
        assert client.post("/again/eve").status_code == 409
    assert witness.names() == ["ada", "bob"]


def test_failure_of_a_unit_outside_of_a_request(app: Flask, db: Database, witness: Witness) -> None:
    """A command or a worker: the app of the context is meant."""
    with app.app_context(), testing.fail_commit(db):
        with pytest.raises(IntegrityError), db.atomic():
            db.session.add(User(name="ada"))
        with db.engine.begin() as connection:
            connection.execute(text("INSERT INTO users (name) VALUES ('bob')"))
    assert witness.names() == ["bob"]


@on("sqlite-file", "postgresql", "mariadb")
def test_failure_of_one_engine(
    make_app: MakeApp, db: Database, tmp_path: Path, witness: Witness
) -> None:
    """The second one of two that commit: a part is stored, and the error says so."""
    binds = {"audit": f"sqlite:///{tmp_path / 'audit.db'}"}
    app = make_app(SQLALCHEMY_BINDS=binds)
    insert = text("INSERT INTO posts (title) VALUES ('x')")
    with app.app_context():
        Post.metadata.create_all(db.engines["audit"])
        db.session.add(User(name="ada"))
        db.session.execute(insert, bind_arguments={"bind": db.engines["audit"]})
        with testing.fail_commit(db, engine="audit"), pytest.raises(PartialCommit) as caught:
            db.session.commit()
    assert (caught.value.committed, caught.value.failed) == (["default"], "audit")
    assert witness.names() == ["ada"]


@anywhere
def test_commit_in_autocommit_is_none(app: Flask, db: Database) -> None:
    """Nothing is sent that could fail."""
    with app.app_context(), testing.fail_commit(db, required=False) as failure:
        options = {"isolation_level": "AUTOCOMMIT"}
        with db.engine.connect().execution_options(**options) as connection:
            connection.execute(text("SELECT 1"))
            connection.commit()
    assert failure.hits == 0


# A lost connection ----------------------------------------------------------------------------


@every_driver
@pytest.mark.parametrize("stored", [False, True])
def test_connection_lost_at_the_commit(
    make_app: MakeApp,
    db: Database,
    database: TestDatabase,
    driver: str,
    stored: bool,
    witness: Witness,
) -> None:
    """The outcome is unknown, and it is one or the other; the next request has a new connection."""
    app = with_driver(make_app, db, database, driver)
    client = app.test_client()
    assert client.post("/first").status_code == 200
    with testing.lose_connection(db, at="commit", stored=stored, app=app):
        assert client.post("/ada").status_code == 503
        assert client.post("/bob").status_code == 200
    error = app.config["ERROR"]
    assert isinstance(error, OperationalError)
    assert outcomes.outcome_of(error, Moment.AT_COMMIT) is Outcome.UNKNOWN
    assert error.connection_invalidated is not database.is_sqlite
    assert witness.names() == sorted(["bob", "first", *["ada"] * stored])


@every_driver
@pytest.mark.parametrize("path", ["read", "write"])
def test_connection_lost_at_a_statement(
    make_app: MakeApp,
    db: Database,
    database: TestDatabase,
    driver: str,
    path: str,
    witness: Witness,
) -> None:
    """Whether it reads or writes: nothing of the unit is stored, and the connection is replaced."""
    app = with_driver(make_app, db, database, driver)
    client = app.test_client()
    assert client.post("/first").status_code == 200
    with testing.lose_connection(db, at="execute", app=app):
        response = client.get("/") if path == "read" else client.post("/ada")
    assert response.status_code == 503
    error = app.config["ERROR"]
    assert error.connection_invalidated is not database.is_sqlite
    if database.name == "postgresql" and path == "read":  # the call itself has failed
        frames = traceback.extract_tb(error.orig.__traceback__)
        assert "read_plainly" in {frame.name for frame in frames}
    assert client.get("/").json == ["first"]
    assert witness.names() == ["first"]


def test_connection_lost_at_the_nth_statement(db: Database, database: TestDatabase) -> None:
    """The third from now; those by which SQLAlchemy gets to know a new engine do not count."""
    app = Flask("new")
    app.config["SQLALCHEMY_DATABASE_URI"] = database.url
    db.init_app(app)
    add_views(app, db)
    reached: list[int] = []

    @app.post("/four/statements")
    def four_statements() -> str:
        for number in range(4):
            reached.append(number)
            db.session.execute(text("SELECT 1"))
        return ""

    with testing.lose_connection(db, at=3, app=app):
        assert app.test_client().post("/four/statements").status_code == 503
    assert reached == [0, 1, 2]


@on_servers
def test_connection_is_cut_for_real(app: Flask, db: Database, witness: Witness) -> None:
    """The server ends the session: its locks are free, and another connection comes next."""
    number = {"postgresql": "pg_backend_pid()", "mysql": "connection_id()"}
    with app.app_context():
        name = "postgresql" if db.engine.dialect.name == "postgresql" else "mysql"
        ask = text(f"SELECT {number[name]}")
        with db.engine.connect() as connection:
            before = connection.execute(ask).scalar_one()
            with testing.lose_connection(db, at="execute"), pytest.raises(OperationalError):
                connection.execute(text("SELECT 1"))
            assert connection.invalidated
        with db.engine.connect() as connection:
            assert connection.execute(ask).scalar_one() != before
    table = (
        "SELECT count(*) FROM pg_stat_activity WHERE pid = :id"
        if name == "postgresql"
        else "SELECT count(*) FROM information_schema.processlist WHERE id = :id"
    )
    end = time.monotonic() + 10
    while witness.ask(table, id=before) != [0]:
        assert time.monotonic() < end


@on("postgresql")
@pytest.mark.parametrize("at", ["commit", "execute"])
def test_shared_connection_is_not_cut(at: Any, app: Flask, db: Database) -> None:
    """What marks its connections as shared keeps them; the error is the same."""
    with app.app_context():
        db.engine.dispose()

        @event.listens_for(db.engine, "connect")
        def mark(connection: Any, _: object) -> None:
            connection.is_shared = True

        answers: list[Any] = []

        @event.listens_for(db.engine, "handle_error")
        def ask(context: Any) -> None:  # before SQLAlchemy closes the connection
            answers.append(context.connection.connection.dbapi_connection.execute("SELECT 7"))

        with db.engine.connect() as connection:
            sent = [lambda: connection.execute(text("SELECT 1")), connection.commit]
            if at == "commit":
                sent.pop(0)()
            with testing.lose_connection(db, at=at), pytest.raises(OperationalError) as caught:
                sent[0]()
    assert "server closed the connection unexpectedly" in str(caught.value.orig)
    assert caught.value.connection_invalidated
    assert [answer.fetchone() for answer in answers] == [(7,)]


# A deadlock -----------------------------------------------------------------------------------


@every_driver
def test_deadlock_is_run_again(
    make_app: MakeApp, db: Database, database: TestDatabase, driver: str, witness: Witness
) -> None:
    """A view with retries succeeds, after as many conflicts as there are blocks; another fails."""
    app = with_driver(make_app, db, database, driver)
    app.config["UOW_RETRY_PAUSE"] = 0.001
    client = app.test_client()
    with testing.deadlock_once(db, app=app), testing.deadlock_once(db, app=app) as failure:
        assert client.post("/again/ada").status_code == 200
    assert failure.hits == 1
    with testing.deadlock_once(db, app=app):
        assert client.post("/bob").status_code == 503
    error = app.config["ERROR"]
    assert outcomes.is_transient(error)
    code = {"sqlite-file": "SQLITE_BUSY", "postgresql": "40P01", "mariadb": "1213"}
    assert outcomes.code_of(error) == code[database.name]
    assert witness.names() == ["ada"]


@on_servers
def test_deadlock_ends_the_transaction(app: Flask, db: Database, witness: Witness) -> None:
    """Its locks are free at once, and code that swallows the error is refused."""
    with app.app_context():
        db.session.add(User(name="ada"))
        db.session.flush()
        with testing.deadlock_once(db), pytest.raises(OperationalError):
            db.session.execute(text("UPDATE users SET name = 'bob'"))
        witness.store(User(name="ada", email="of another"))
        with pytest.raises(TransactionLost):
            db.session.execute(text("SELECT 1"))
        db.session.rollback()
    assert witness.ask(select(User.email)) == ["of another"]


def test_deadlock_waits_for_a_write(app: Flask, db: Database, client: FlaskClient) -> None:
    """What only reads waits for no lock."""
    with testing.deadlock_once(db, app=app):
        assert client.get("/").status_code == 200
        assert client.post("/ada").status_code == 503


# A slow database ------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["execute", "commit"])
def test_slow_database(at: Any, app: Flask, db: Database, client: FlaskClient) -> None:
    """Each statement, or each COMMIT, takes longer; afterwards none does."""
    with testing.slow(db, 0.05, at=at, app=app) as failure:
        begin = time.monotonic()
        assert client.post("/ada").status_code == 200
        assert client.post("/bob").status_code == 200
        assert time.monotonic() - begin >= 0.1
    assert failure.hits == 2


@on_servers
def test_timeout_of_the_server_ends_a_slow_statement(make_app: MakeApp, db: Database) -> None:
    """With its own error."""
    app = make_app()
    with app.app_context():
        set_timeout = (
            "SET LOCAL statement_timeout = '50ms'"
            if db.engine.dialect.name == "postgresql"
            else "SET max_statement_time = 0.05"
        )
        with db.engine.connect() as connection:
            connection.execute(text(set_timeout))
            begin = time.monotonic()
            with testing.slow(db, 5), pytest.raises(DBAPIError) as caught:
                connection.execute(text("SELECT 1"))
            assert time.monotonic() - begin < 4  # of 5 that the statement would take
            connection.rollback()
            connection.invalidate()
    assert outcomes.code_of(caught.value) in {"57014", "1969"}


@on("postgresql")
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_slow_plain_read_begins_no_transaction(
    make_app: MakeApp, db: Database, database: TestDatabase, driver: str
) -> None:
    """It takes longer, and is what it was (P14)."""
    app = with_driver(make_app, db, database, driver)
    with app.app_context(), testing.slow(db, 0.01):
        assert db.session.scalars(select(User.name)).all() == []
        assert db.session().record.deferred  # type: ignore[attr-defined]


@on("postgresql")
def test_slow_statement_that_heals_a_transaction(
    app: Flask, db: Database, witness: Witness
) -> None:
    """The ROLLBACK TO SAVEPOINT after an error."""
    with app.app_context(), testing.slow(db, 0.01), db.atomic() as session:
        session.add(User(name="ada"))
        with pytest.raises(DBAPIError), session.begin_nested():
            session.execute(text("SELECT nonsense"))
    assert witness.names() == ["ada"]


def test_slow_database_exhausts_a_pool(
    make_app: MakeApp, db: Database, database: TestDatabase
) -> None:
    """The connection is in use while it is slow."""
    options = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.05}
    app = make_app(SQLALCHEMY_ENGINE_OPTIONS=options)

    @app.post("/<name>")
    def create(name: str) -> str:
        db.session.add(User(name=name))
        return ""

    app.register_error_handler(PoolExhausted, lambda error: ("busy", 503))
    app.register_error_handler(DBAPIError, lambda error: ("busy", 503))
    with testing.slow(db, 0.5, at="commit", app=app) as failure:
        first = threading.Thread(target=lambda: app.test_client().post("/ada"))
        first.start()
        while not failure.hits:
            time.sleep(0.005)
        assert app.test_client().post("/bob").status_code == 503
        first.join()


# The end of a block ---------------------------------------------------------------------------


FAILURES: list[tuple[str, MakeFailure, str]] = [
    ("fail_commit", testing.fail_commit, "a COMMIT"),
    ("lose_connection", lambda db, **k: testing.lose_connection(db, at="commit", **k), "a COMMIT"),
    ("lose_connection", lambda db, **k: testing.lose_connection(db, at=2, **k), "2 statements"),
    ("deadlock_once", testing.deadlock_once, "a statement that may write"),
    ("slow", lambda db, **k: testing.slow(db, 0.01, **k), "a statement"),
]
each_failure = pytest.mark.parametrize(("name", "make", "awaited"), FAILURES)


@anywhere
@each_failure
def test_what_has_not_happened_fails_the_test(
    name: str, make: MakeFailure, awaited: str, app: Flask, db: Database
) -> None:
    """Unless the test says so, or has failed already."""
    with pytest.raises(AssertionError, match=f"'testing.{name}' .* waited for {awaited} of"):
        with make(db, app=app, endpoint="shop.create"):
            pass
    with make(db, app=app, required=False) as failure:
        pass
    assert failure.hits == 0
    with pytest.raises(ZeroDivisionError), make(db, app=app):
        raise ZeroDivisionError


@each_failure
def test_nothing_is_left(
    name: str, make: MakeFailure, awaited: str, app: Flask, db: Database, client: FlaskClient
) -> None:
    """Of the dialect, of its listeners; in whichever order the blocks end, errors or not."""
    client.get("/")  # SQLAlchemy has asked the server what it is
    with app.app_context():
        engine = db.engine
    before, listeners = methods_of(engine), listeners_of(engine)
    first = make(db, app=app, required=False)
    second = testing.fail_commit(db, app=app, required=False)
    with first, second:
        client.post("/ada")
    with pytest.raises(ZeroDivisionError), first:
        raise ZeroDivisionError
    assert methods_of(engine) == before
    third, fourth = make(db, app=app, required=False), make(db, app=app, required=False)
    third.__enter__()
    fourth.__enter__()
    assert methods_of(engine) != before
    third.__exit__(None, None, None)
    fourth.__exit__(None, None, None)
    assert methods_of(engine) == before
    assert listeners_of(engine) == listeners
    assert client.post("/bob").status_code == 200


def methods_of(engine: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(engine.dialect).items() if callable(value)}


def listeners_of(engine: Any) -> dict[str, int]:
    names = ["do_execute", "do_executemany", "do_execute_no_params", "handle_error"]
    return {name: len(getattr(engine.dialect.dispatch, name)) for name in names}


@anywhere
def test_failures_stand_in_one_another(app: Flask, db: Database, client: FlaskClient) -> None:
    """The outer one comes first, and the same block cannot be open twice, but again."""
    outer = testing.fail_commit(db, ZeroDivisionError("outer"), app=app)
    app.testing = True
    with outer, testing.fail_commit(db, ZeroDivisionError("inner"), app=app):
        for name in ("outer", "inner"):
            with pytest.raises(ZeroDivisionError, match=name):
                client.post("/ada")
        with pytest.raises(BlockRefused, match="is open already"):
            outer.__enter__()
    with outer, pytest.raises(ZeroDivisionError, match="outer"):
        client.post("/ada")


# Bad input ------------------------------------------------------------------------------------


untyped: Any = testing


@anywhere
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda db: untyped.lose_connection(db, at="flush"), "'at' of .* is 'flush'"),
        (lambda db: untyped.lose_connection(db, at=0), "'at' of .* is 0"),
        (lambda db: untyped.lose_connection(db, at=True), "'at' of .* is True"),
        (lambda db: untyped.lose_connection(db, at=2, stored=True), "'stored' .* about a COMMIT"),
        (lambda db: untyped.slow(db, -1), "'seconds' .* is -1"),
        (lambda db: untyped.slow(db, float("nan")), "'seconds' .* is nan"),
        (lambda db: untyped.slow(db, "1"), "'seconds' .* is '1'"),
        (lambda db: untyped.slow(db, 1, at="flush"), "'at' of 'testing.slow' is 'flush'"),
        (lambda db: untyped.fail_commit(db, IntegrityError), "is not an exception"),
        (lambda db: untyped.fail_commit(db, "no"), "was given 'no', which is not an exception"),
        (lambda db: untyped.fail_commit(db, constraint=""), "'constraint' .* is ''"),
        (lambda db: untyped.fail_commit(db, endpoint="shop.make"), "no endpoint 'shop.make'"),
        (lambda db: untyped.slow(db, 1, endpoint="crate"), "no endpoint 'crate'"),
    ],
)
def test_bad_input_gets_a_sentence(  # from code that no type checker has seen
    make: Callable[[Any], object], sentence: str, app: Flask, db: Database
) -> None:
    with app.app_context(), pytest.raises(ConfigError, match=sentence):
        make(db)


@anywhere
def test_endpoint_with_a_slip_is_guessed(app: Flask, db: Database) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'shop"):
        testing.deadlock_once(db, app=app, endpoint="shop.creat")


@anywhere
@each_failure
def test_place_of_a_failure_must_be_known(
    name: str, make: MakeFailure, awaited: str, app: Flask, db: Database
) -> None:
    """An app in a context or by name, registered with this Database; an engine of it."""
    with pytest.raises(OutsideContext):
        make(db)
    with pytest.raises(SetupError, match="is not registered with this Database"):
        make(db, app=Flask("other"))
    with pytest.raises(UnknownEngine, match="'audit'"):
        make(db, app=app, engine="audit")


@anywhere
def test_unknown_database_is_refused(app: Flask, db: Database) -> None:
    """But for an error of one's own."""
    with app.app_context():
        db.engine.dialect.name = "oracle"
        try:
            with pytest.raises(ConfigError, match="cannot be made on 'oracle'"):
                testing.deadlock_once(db)
            assert testing.fail_commit(db, sqlite3.OperationalError()).hits == 0
        finally:
            del db.engine.dialect.name
