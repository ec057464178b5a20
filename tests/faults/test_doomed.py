"""Transactions that the database threw away while the code went on: no success is answered.

The views of these tests swallow every error of a statement, as no reviewer would let them. The
witness tells what was stored.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from flask import Flask, got_request_exception
from sqlalchemy import Connection, Engine, bindparam, create_engine, event, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from flask_uow import Database
from flask_uow.errors import TransactionLost
from tests.faults.drivers import DRIVERS, address
from tests.support import databases
from tests.support.faults import backend_id, kill_backend
from tests.support.models import Base, Post
from tests.support.witness import Witness

SQL: TypeAlias = Session | Connection
Fault: TypeAlias = "Callable[[SQL, Rival], object]"
Step: TypeAlias = Callable[[SQL], object]

ONE, TWO = 901, 902  # posts that are there; the database itself counts from 1


class Rival:
    """Another client of the database, which locks rows and waits for rows."""

    def __init__(self, url: str) -> None:
        self.engine = create_engine(url)
        self.backend = self.engine.dialect.name
        self._thread: threading.Thread | None = None

    @cached_property
    def connection(self) -> Connection:
        return self.engine.connect()

    def settle(self) -> None:
        """Stop waiting and let go of everything."""
        if self._thread:
            self._thread.join(timeout=30)
        self._thread = None
        if "connection" in self.__dict__:
            self.connection.close()
            del self.connection

    def lock(self, number: int) -> None:
        """Change a post, and see to it that a deadlock is at the cost of the other."""
        if self.backend == "postgresql":  # of who looks for it first
            self.connection.execute(text("SET LOCAL deadlock_timeout = '1min'"))
        else:  # of who has changed less
            heavy = "INSERT INTO posts (id, title) VALUES (:id, 'heavy')"
            rows = [{"id": 2000 + number} for number in range(200)]
            self.connection.execute(text(heavy), rows)
        self.connection.execute(text(touch(number)))

    def wait_for(self, number: int) -> None:
        """Ask for a post that the unit has changed, in a thread."""

        def wait() -> None:
            with contextlib.suppress(DBAPIError):
                self.connection.execute(text(touch(number)))
            self.connection.rollback()

        self.do_meanwhile(wait)
        if self.backend == "postgresql":
            self._until("wait_event_type = 'Lock'")

    def cancel(self, pid: int) -> None:
        """Cancel what this backend does as soon as it sleeps."""

        def cancel() -> None:
            self._until(f"pid = {pid} AND wait_event = 'PgSleep'")
            self.connection.execute(text(f"SELECT pg_cancel_backend({pid})"))

        self.do_meanwhile(cancel)

    def do_meanwhile(self, work: Callable[[], None]) -> None:
        self._thread = threading.Thread(target=work)
        self._thread.start()

    def _until(self, condition: str) -> None:
        query = text(
            "SELECT count(*) FROM pg_stat_activity"
            f" WHERE datname = current_database() AND {condition}"
        )
        with self.engine.connect() as connection:
            while not connection.execute(query).scalar_one():
                connection.rollback()  # a transaction sees what it has seen
                time.sleep(0.005)


def touch(number: int) -> str:
    return f"UPDATE posts SET author_id = NULL WHERE id = {number}"


def write(connection: SQL, name: str) -> None:
    connection.execute(text("INSERT INTO users (name) VALUES (:name)"), {"name": name})


# What goes wrong ------------------------------------------------------------------------------


def sending(sql: str) -> Fault:
    return lambda connection, _: connection.execute(text(sql))


def timed_out(connection: SQL, _: Rival) -> None:
    connection.execute(text("SET LOCAL statement_timeout = 20"))
    connection.execute(text("SELECT pg_sleep(20)"))


def canceled(connection: SQL, rival: Rival) -> None:
    rival.cancel(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
    connection.execute(text("SELECT pg_sleep(20)"))


def deadlock(connection: SQL, rival: Rival) -> None:
    connection.execute(text(touch(ONE)))
    rival.lock(TWO)
    rival.wait_for(ONE)
    if rival.backend == "postgresql":
        connection.execute(text("SET LOCAL deadlock_timeout = '10ms'"))
    connection.execute(text(touch(TWO)))


def lock_timeout(connection: SQL, rival: Rival) -> None:
    rival.lock(TWO)
    if rival.backend == "postgresql":
        connection.execute(text("SET LOCAL lock_timeout = 10"))
        connection.execute(text(touch(TWO)))
    else:
        connection.execute(text(f"SET STATEMENT innodb_lock_wait_timeout = 0 FOR {touch(TWO)}"))


def stale_snapshot(connection: SQL, rival: Rival) -> None:
    """What is the default from MariaDB 11.6 on: error 1020, which undoes everything."""
    connection.execute(text("SET innodb_snapshot_isolation = ON"))
    connection.execute(text("SELECT * FROM posts"))
    rival.connection.execute(text(f"UPDATE posts SET title = concat(title, '!') WHERE id = {ONE}"))
    rival.connection.commit()
    connection.execute(text(touch(ONE)))


def broken_server_side_cursor(connection: SQL, _: Rival) -> None:
    """The error comes with a later batch of rows."""
    rows = text("SELECT 1 / (10 - g) FROM generate_series(1, 20) g")
    connection.execute(rows, execution_options={"yield_per": 3}).all()


def full(connection: SQL, _: Rival) -> None:
    driver = driver_connection(connection)
    (pages,) = driver.execute("PRAGMA page_count").fetchone()
    driver.execute(f"PRAGMA max_page_count = {pages + 1}")
    try:
        write(connection, "x" * 50_000)
    finally:
        driver.execute("PRAGMA max_page_count = 1000000")


def driver_connection(connection: SQL) -> Any:
    if isinstance(connection, Session):
        connection = connection.connection()
    return connection.connection.driver_connection


POSTGRESQL: dict[str, Fault] = {
    "division by zero": sending("SELECT 1/0"),
    "duplicate key": sending("INSERT INTO users (name) VALUES ('first')"),
    "broken cursor": broken_server_side_cursor,
    "statement_timeout": timed_out,
    "pg_cancel_backend": canceled,
    "deadlock": deadlock,
    "lock_timeout": lock_timeout,
}
WHOLE: dict[str, dict[str, Fault]] = {
    "pymysql": {"deadlock": deadlock, "stale snapshot": stale_snapshot},
    "sqlite": {
        "full": full,
        "on conflict rollback": sending("INSERT OR ROLLBACK INTO users (name) VALUES ('first')"),
    },
}
"""By driver: what undoes the whole transaction, savepoints or not."""

DOOMING: dict[str, dict[str, Fault]] = {
    "psycopg": POSTGRESQL,
    "psycopg2": {name: POSTGRESQL[name] for name in ("broken cursor", "statement_timeout")},
    "pymysql": {**WHOLE["pymysql"], "lock wait timeout": lock_timeout},
    "sqlite": WHOLE["sqlite"],
}
"""By driver: what no transaction outlives, if it happens outside of a savepoint."""

HARMLESS: dict[str, dict[str, Fault]] = {
    "pymysql": {
        "duplicate key": sending("INSERT INTO users (name) VALUES ('first')"),
        "unknown column": sending("SELECT nothing FROM users"),
        "max_statement_time": sending(
            "SET STATEMENT max_statement_time = 0.01 FOR SELECT sleep(9)"
        ),
    },
    "sqlite": {
        "duplicate key": sending("INSERT INTO users (name) VALUES ('first')"),
        "on conflict fail": sending("INSERT OR FAIL INTO users (name) VALUES ('first')"),
        "unknown column": sending("SELECT nothing FROM users"),
    },
}
"""By driver: what costs a statement and not the transaction."""

RECOVERABLE: dict[str, dict[str, Fault]] = {
    "psycopg": POSTGRESQL,
    "psycopg2": DOOMING["psycopg2"],
    "pymysql": {**HARMLESS["pymysql"], "lock wait timeout": lock_timeout},
    "sqlite": HARMLESS["sqlite"],
}
"""By driver: what a savepoint makes good that is rolled back."""

TYPICAL: dict[str, dict[str, Fault]] = {
    "psycopg": {"division by zero": POSTGRESQL["division by zero"]},
    "psycopg2": {"statement_timeout": timed_out},
    "pymysql": {"deadlock": deadlock},
    "sqlite": WHOLE["sqlite"],
}
"""Some of :data:`DOOMING`, for rules that do not depend on the fault."""

INSTANT: dict[str, dict[str, Fault]] = {
    "psycopg": {"division by zero": POSTGRESQL["division by zero"]},
    "psycopg2": {"duplicate key": POSTGRESQL["duplicate key"]},
    "pymysql": {**HARMLESS["pymysql"], "lock wait timeout": lock_timeout},
    "sqlite": {**HARMLESS["sqlite"], **WHOLE["sqlite"]},
}
"""By driver: what needs no transaction to go wrong."""


def on(*drivers: str) -> pytest.MarkDecorator:
    """Run a test on these drivers only."""
    return pytest.mark.parametrize("unit", drivers, indirect=True)


def cases(faults: dict[str, dict[str, Fault]]) -> pytest.MarkDecorator:
    """Each fault on its driver."""
    return pytest.mark.parametrize(
        ("unit", "fault"),
        [
            pytest.param(driver, fault, id=f"{driver}: {name}")
            for driver, found in faults.items()
            for name, fault in found.items()
        ],
        indirect=["unit"],
    )


# What the code does ---------------------------------------------------------------------------


class Unit:
    """What a view does, step by step, swallowing the errors of each.

    :ivar swallowed: the errors of the steps.
    :ivar error: what the request failed with in the end, if it did.
    """

    def __init__(self, app: Flask, db: Database) -> None:
        url = app.config["SQLALCHEMY_DATABASE_URI"]
        self.app = app
        self.db = db
        self.rival = Rival(url)
        self.witness = Witness(url)
        self.swallowed: list[BaseException] = []
        self.error: BaseException | None = None
        self._steps: tuple[Step, ...] = ()
        self._way: Way = automatic
        app.add_url_rule("/unit", view_func=self._view, methods=["POST"])
        app.add_url_rule("/next", view_func=self._next, methods=["POST"])
        Base.metadata.create_all(self.witness.engine)

    def start_anew(self) -> None:
        """Let nothing be stored but two posts."""
        with self.witness.engine.begin() as connection:
            for sql in _START:
                connection.execute(text(sql))

    def run(self, *steps: Step, way: Way) -> int:
        """Run *steps* in a request; its status."""
        self._steps, self._way, self.swallowed, self.error = steps, way, [], None
        with got_request_exception.connected_to(self._note, self.app):
            status = self.app.test_client().post("/unit").status_code
        self.rival.settle()
        return status

    def try_all(self, connection: SQL) -> None:
        for step in self._steps:
            try:
                step(connection)
            except Exception as error:
                self.swallowed.append(error)

    def breaks(self, fault: Fault) -> Step:
        return lambda connection: fault(connection, self.rival)

    def assert_lost(self) -> None:
        """The request and each step after the first error failed, and all say with what."""
        original, *others = self.swallowed
        assert isinstance(original, DBAPIError)
        for error in (*others, self.error):
            assert isinstance(error, TransactionLost)
            assert error.__cause__ in {original, original.orig}
            assert str(original.orig).splitlines()[0] in str(error)

    def assert_nothing_stayed(self) -> None:
        """Nothing is stored, no transaction is open in the pool, and the next request works."""
        assert self.witness.names() == []
        with self.app.app_context():
            assert open_transactions(self.db) == 0
        assert self.app.test_client().post("/next").text == "undisturbed"

    def _view(self) -> str:
        self._way(self)
        return "done"

    def _next(self) -> str:
        write(self.db.session(), "not stored")
        self.db.set_rollback_only()
        return "undisturbed"

    def _note(self, _: Flask, exception: BaseException, **__: Any) -> None:
        self.error = exception


Way: TypeAlias = Callable[[Unit], None]

_START = [
    "DELETE FROM users",
    "DELETE FROM posts",
    f"INSERT INTO posts (id, title) VALUES ({ONE}, 'one'), ({TWO}, 'two')",
]


def automatic(unit: Unit) -> None:
    unit.try_all(unit.db.session())


def commit(unit: Unit) -> None:
    unit.try_all(unit.db.session())
    unit.db.session.commit()


def engine_begin(unit: Unit) -> None:
    with unit.db.engine.begin() as connection:
        unit.try_all(connection)


def connection_commit(unit: Unit) -> None:
    with unit.db.engine.connect() as connection:
        unit.try_all(connection)
        connection.commit()


def connection_begin(unit: Unit) -> None:
    with unit.db.engine.connect() as connection, connection.begin():
        unit.try_all(connection)


WAYS = (automatic, commit, engine_begin, connection_commit, connection_begin)


@pytest.fixture(scope="module")
def units(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Unit]:
    """Makes one app for each driver, on an empty database."""

    @cache
    def make(driver: str) -> Unit:
        app, db = Flask(driver), Database(Base)
        app.config["SQLALCHEMY_DATABASE_URI"] = address(
            driver, request, tmp_path_factory.mktemp("doomed")
        )
        db.init_app(app)
        return Unit(app, db)

    return make


@pytest.fixture(params=DRIVERS)
def unit(request: pytest.FixtureRequest, units: Callable[[str], Unit]) -> Unit:
    """What a view does, with every driver in turn, on a database that holds two posts."""
    unit = units(request.param)
    unit.start_anew()
    return unit


def first(connection: SQL) -> None:
    write(connection, "first")


def later(connection: SQL) -> None:
    write(connection, "later")


def in_savepoint(*steps: Step) -> Step:
    def run(connection: SQL) -> None:
        with connection.begin_nested():
            for step in steps:
                step(connection)

    return run


def swallowing(step: Step) -> Step:
    def run(connection: SQL) -> None:
        with contextlib.suppress(SQLAlchemyError):
            step(connection)

    return run


def open_transactions(db: Database) -> int:
    """How many of the idle connections in the pool have a transaction open, asked of the driver."""
    pool: Any = db.engine.pool
    with contextlib.ExitStack() as stack:
        idle = [
            stack.enter_context(contextlib.closing(db.engine.raw_connection()))
            for _ in range(pool.checkedin())
        ]
        return sum(_in_transaction(connection.driver_connection) for connection in idle)


def _in_transaction(driver: Any) -> bool:
    if hasattr(driver, "in_transaction"):  # sqlite3
        return bool(driver.in_transaction)
    if hasattr(driver, "info"):  # psycopg, psycopg2: IDLE is 0
        return bool(driver.info.transaction_status)
    with contextlib.closing(driver.cursor()) as cursor:
        cursor.execute("SELECT @@in_transaction")
        return bool(cursor.fetchone()[0])


# No silent loss -------------------------------------------------------------------------------


@pytest.mark.fault(
    "D1",
    fault="A view on PostgreSQL swallows the error of a statement",
    then="The commit raises TransactionLost, which names the error; nothing is stored",
)
@pytest.mark.fault(
    "D2",
    fault="A view on PostgreSQL swallows a statement_timeout or a canceled statement",
    then="The commit raises TransactionLost, which names the error; nothing is stored",
)
@pytest.mark.fault(
    "D3",
    fault="A view on MariaDB or PostgreSQL swallows a deadlock error",
    then="The commit raises TransactionLost, which names the error; nothing is stored",
)
@pytest.mark.fault(
    "D5",
    fault="A view on MariaDB or PostgreSQL swallows a lock timeout",
    then="The commit raises TransactionLost, which names the error; nothing is stored",
)
@pytest.mark.fault(
    "D6",
    fault="SQLite rolls back by itself (full disk, ON CONFLICT ROLLBACK), and the view continues",
    then="The commit raises TransactionLost, which names the error; nothing is stored",
)
@cases(DOOMING)
def test_no_commit_succeeds_after_a_swallowed_error(fault: Fault, unit: Unit) -> None:
    """P3: the commit fails, and names the error that cost the transaction."""
    for way in WAYS:
        assert unit.run(first, unit.breaks(fault), way=way) == 500
        assert len(unit.swallowed) == 1
        unit.assert_lost()
        unit.assert_nothing_stayed()


@pytest.mark.fault(
    "D3",
    fault="A view swallows such an error, and sends more statements",
    then="Each is refused with TransactionLost, so half of the work is never stored",
)
@cases(DOOMING)
def test_no_statement_runs_after_a_swallowed_error(fault: Fault, unit: Unit) -> None:
    """P3: not in a new transaction in place of the old one, and the first error is named still."""
    for way in (automatic, engine_begin):
        assert unit.run(first, unit.breaks(fault), later, later, way=way) == 500
        assert len(unit.swallowed) == 3
        unit.assert_lost()
        unit.assert_nothing_stayed()


@cases(DOOMING)
def test_mistake_behind_a_swallowed_error_does_not_hide_it(fault: Fault, unit: Unit) -> None:
    """P3: what SQLAlchemy refuses has not reached the database, and heals nothing."""

    def mistake(connection: SQL) -> None:
        connection.execute(text("SELECT :value"), {"another": 1})

    for way in (automatic, engine_begin):
        assert unit.run(first, unit.breaks(fault), mistake, later, way=way) == 500
        assert len(unit.swallowed) == 3
        assert isinstance(unit.error, TransactionLost)
        unit.assert_nothing_stayed()


@cases(TYPICAL)
def test_objects_are_not_stored_without_those_before_the_error(fault: Fault, unit: Unit) -> None:
    """P3: what was flushed before it and what is flushed after it is one unit."""
    for way in (automatic, commit):
        status = unit.run(
            lambda session: add(session, "before"),
            first,
            unit.breaks(fault),
            lambda session: add(session, "after"),
            way=way,
        )
        assert status == 500
        unit.assert_lost()
        assert unit.witness.titles() == ["one", "two"]
        unit.assert_nothing_stayed()


def add(session: SQL, title: str) -> None:
    assert isinstance(session, Session)
    session.add(Post(title=title))


@pytest.mark.fault(
    "D4",
    fault="A deadlock inside begin_nested() on MariaDB, which also ends the savepoint",
    then="The whole unit fails, and nothing is stored",
)
@cases(WHOLE)
def test_savepoint_does_not_outlive_its_transaction(fault: Fault, unit: Unit) -> None:
    """P3: where the database undoes everything, a savepoint is no help; nothing is stored."""
    for way in WAYS:
        status = unit.run(first, in_savepoint(later, unit.breaks(fault)), later, way=way)
        assert status == 500
        assert isinstance(unit.error, TransactionLost)
        unit.assert_nothing_stayed()


@cases(DOOMING)
def test_savepoint_is_stored_as_a_whole_or_not_at_all(fault: Fault, unit: Unit) -> None:
    """P3: an error that is swallowed inside a savepoint does not leave half of it."""
    for way in (automatic, engine_begin):
        unit.start_anew()
        inner = in_savepoint(later, swallowing(unit.breaks(fault)))
        status = unit.run(first, inner, way=way)
        assert (status, unit.witness.names()) in [(500, []), (200, ["first"])]
        assert len(unit.swallowed) == 1


@on("psycopg", "psycopg2", "sqlite")
def test_error_on_a_cursor_of_the_driver_counts(unit: Unit) -> None:
    """P3: SQLAlchemy has not seen the error, but the driver knows that the transaction is gone."""
    sql = "SELECT 1/0"
    if unit.rival.backend == "sqlite":
        sql = "INSERT OR ROLLBACK INTO users (name) VALUES ('first')"
    for way in (automatic, commit):
        fails = unit.run(first, lambda at: driver_connection(at).cursor().execute(sql), way=way)
        assert len(unit.swallowed) == 1
        assert fails == 500
        assert isinstance(unit.error, TransactionLost)
        unit.assert_nothing_stayed()


class OwnCursor(sqlite3.Cursor):
    """As an app may have one."""


@on("sqlite")
@pytest.mark.parametrize("cursor_class", [sqlite3.Cursor, OwnCursor])
def test_error_on_a_cursor_of_a_class_of_its_own_counts(
    unit: Unit, cursor_class: type[sqlite3.Cursor]
) -> None:
    """P3: the driver begins anew with the next INSERT, which would be all that is stored."""

    def lose(connection: SQL) -> None:
        cursor = driver_connection(connection).cursor(cursor_class)
        with contextlib.suppress(sqlite3.IntegrityError):
            cursor.execute("INSERT OR ROLLBACK INTO users (name) VALUES ('first')")
        cursor.execute("INSERT INTO users (name) VALUES ('later')")

    for way in (automatic, commit):
        assert unit.run(first, lose, way=way) == 500
        assert isinstance(unit.error, TransactionLost)
        unit.assert_nothing_stayed()


@on("pymysql")
@pytest.mark.parametrize("cursor_class", [None, "DictCursor"])
def test_deadlock_on_a_cursor_of_the_driver_counts(unit: Unit, cursor_class: str | None) -> None:
    """P3: the server goes on with a new transaction, and no later answer tells of it."""

    def lose(connection: SQL) -> None:
        own = getattr(import_module("pymysql.cursors"), cursor_class) if cursor_class else None
        cursor = driver_connection(connection).cursor(own)
        cursor.execute(touch(ONE))
        unit.rival.lock(TWO)
        unit.rival.wait_for(ONE)
        cursor.execute(touch(TWO))

    for way in WAYS:
        assert unit.run(first, lose, later, way=way) == 500
        assert unit.swallowed[0].args[0] == 1213
        assert isinstance(unit.error, TransactionLost)
        assert unit.error.__cause__ is unit.swallowed[0]
        unit.assert_nothing_stayed()
    again = [first, lose, lambda connection: connection.rollback(), first, later]
    for way in (automatic, connection_commit):
        unit.start_anew()
        assert unit.run(*again, way=way) == 200
        assert unit.witness.names() == ["first", "later"]


@on("pymysql")
def test_duplicate_key_on_a_cursor_of_the_driver_is_no_alarm(unit: Unit) -> None:
    """It costs one statement there as well."""
    sql = "INSERT INTO users (name) VALUES ('first')"
    for way in WAYS:
        unit.start_anew()
        steps = first, lambda at: driver_connection(at).cursor().execute(sql), later
        assert unit.run(*steps, way=way) == 200
        assert len(unit.swallowed) == 1
        assert unit.witness.names() == ["first", "later"]


@on("psycopg", "psycopg2")
def test_error_inside_of_an_event_counts(unit: Unit) -> None:
    """P3: also where nobody has asked the session for its connection."""

    def fail(_mapper: Any, connection: Connection, _post: Post) -> None:
        with contextlib.suppress(Exception):
            driver_connection(connection).cursor().execute("SELECT 1/0")

    event.listen(Post, "after_insert", fail)
    try:
        for way in (automatic, commit):
            assert unit.run(lambda session: add(session, "lost"), way=way) == 500
            assert isinstance(unit.error, TransactionLost)
            assert unit.witness.titles() == ["one", "two"]
            unit.assert_nothing_stayed()
    finally:
        event.remove(Post, "after_insert", fail)


@on("psycopg", "psycopg2")
def test_error_that_a_listener_swallows_counts(unit: Unit) -> None:
    """P3: of the statement that failed SQLAlchemy has seen nothing but its success."""

    def swallow(cursor: Any, statement: str, *_: Any) -> bool:
        if "1/0" in statement:
            with contextlib.suppress(Exception):
                cursor.execute(statement)
        return "1/0" in statement

    with unit.app.app_context():
        engine = unit.db.engine
    event.listen(engine, "do_execute", swallow)
    try:
        for way in WAYS:
            assert unit.run(first, lambda at: at.execute(text("SELECT 1/0")), way=way) == 500
            assert isinstance(unit.error, TransactionLost)
            unit.assert_nothing_stayed()
    finally:
        event.remove(engine, "do_execute", swallow)


@pytest.mark.fault(
    "D11",
    fault="A view rolls back the connection of its session, not the session, and continues",
    then="The commit raises TransactionLost: later work is not stored without the earlier work",
)
def test_rollback_of_the_connection_itself_leaves_no_half(unit: Unit) -> None:
    """P3: ``session.connection().rollback()`` is none of the session, which would commit more."""

    def roll_back(session: SQL) -> None:
        assert isinstance(session, Session)
        session.connection().rollback()

    assert unit.run(first, roll_back, later, way=automatic) == 500
    assert unit.swallowed == []
    assert isinstance(unit.error, TransactionLost)
    unit.assert_nothing_stayed()


@pytest.fixture
def strange_engine(unit: Unit) -> Iterator[Engine]:
    """An engine that the app has made itself, for the database of the unit."""
    engine = create_engine(unit.app.config["SQLALCHEMY_DATABASE_URI"])
    yield engine
    engine.dispose()


@cases({driver: TYPICAL[driver] for driver in ("psycopg", "psycopg2", "pymysql")})
def test_engine_of_the_app_s_own_is_looked_at_too(
    fault: Fault, unit: Unit, strange_engine: Engine
) -> None:
    """P3: it takes part in the unit, by ``bind_arguments``."""

    def there(step: Step) -> Step:
        def run(session: SQL) -> None:
            assert isinstance(session, Session)
            step(session.connection(bind_arguments={"bind": strange_engine}))

        return run

    assert unit.run(there(first), there(unit.breaks(fault)), there(later), way=automatic) == 500
    assert len(unit.swallowed) == 2
    unit.assert_lost()
    unit.assert_nothing_stayed()


@pytest.mark.fault(
    "D1",
    fault="A view swallows the loss of its connection",
    then="The commit fails: later work is not stored without the earlier work",
)
@on("psycopg", "psycopg2", "pymysql")
def test_swallowed_disconnect_is_no_success(unit: Unit) -> None:
    """P3: nor is what follows stored on a new connection without what came before."""

    def lose(connection: SQL) -> None:
        bound = connection.connection() if isinstance(connection, Session) else connection
        kill_backend(unit.witness, backend_id(bound))
        connection.execute(text("SELECT 1"))

    for way in WAYS:
        assert unit.run(first, lose, later, way=way) == 500
        assert isinstance(unit.error, SQLAlchemyError)
        unit.assert_nothing_stayed()


@pytest.mark.fault(
    "C14",
    fault="One of two engines has lost its transaction before the commit",
    then="The other engine stores nothing either",
)
@cases(TYPICAL)
def test_healthy_engine_stores_nothing_without_the_other(
    fault: Fault, unit: Unit, tmp_path: Path
) -> None:
    """P3, P8: of two engines one has lost its transaction: the other does not store its half."""
    app, db = Flask("two engines"), Database(Base)
    healthy = databases.sqlite_file(tmp_path).url
    app.config["SQLALCHEMY_DATABASE_URI"] = healthy
    app.config["SQLALCHEMY_BINDS"] = {"doomed": unit.app.config["SQLALCHEMY_DATABASE_URI"]}
    db.init_app(app)

    @app.post("/")
    def create() -> str:
        write(db.session(), "healthy")
        connection = db.session.connection(bind_arguments={"bind": db.engines["doomed"]})
        first(connection)
        swallowing(unit.breaks(fault))(connection)
        return "done"

    with app.app_context():
        Base.metadata.create_all(db.engine)
    assert app.test_client().post("/").status_code == 500
    unit.rival.settle()
    assert Witness(healthy).names() == unit.witness.names() == []


class Routed(Session):
    """It chooses the engine itself."""

    def get_bind(self, *_: Any, **__: Any) -> Engine:
        engine: Engine = self.info["engine"]
        return engine


@cases({"psycopg": TYPICAL["psycopg"], "pymysql": TYPICAL["pymysql"]})
def test_each_engine_of_a_routed_session_is_looked_at(fault: Fault, unit: Unit) -> None:
    """P3, P8: an error on the first one does not hide that of the second, nor commit its half."""
    app, db = Flask("routed"), Database(Base, session_options={"class_": Routed})
    url = unit.app.config["SQLALCHEMY_DATABASE_URI"]
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    app.config["SQLALCHEMY_BINDS"] = {"second": url}
    db.init_app(app)

    @app.post("/")
    def create() -> str:
        for engine in db.engines.values():
            db.session.info["engine"] = engine
            with contextlib.suppress(DBAPIError), db.session.begin_nested():
                db.session.execute(text("SELECT nothing FROM users"))
            write(db.session(), f"on {id(engine)}")
        swallowing(unit.breaks(fault))(db.session())
        return "done"

    assert app.test_client().post("/").status_code == 500
    unit.rival.settle()
    assert unit.witness.names() == []


@pytest.mark.fault(
    "D12",
    fault="A view on MariaDB sends DDL or START TRANSACTION, and fails later",
    then="Work before that statement stays: the server has committed it by itself",
)
@on("pymysql")
@pytest.mark.parametrize(
    "sql", ["CREATE TABLE other (id int)", "TRUNCATE TABLE other", "START TRANSACTION"]
)
def test_server_commits_by_itself(sql: str, unit: Unit) -> None:
    """No client can undo it, so it is documented."""
    with unit.witness.engine.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS other"))
        if sql.startswith("TRUNCATE"):
            connection.execute(text("CREATE TABLE other (id int)"))

    def failing(unit: Unit) -> None:
        unit.try_all(unit.db.session())
        raise LookupError

    steps = first, lambda connection: connection.execute(text(sql)), later
    assert unit.run(*steps, way=failing) == 500
    assert unit.swallowed == []
    assert unit.witness.names() == ["first"]
    with unit.witness.engine.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS other"))


# No false alarm -------------------------------------------------------------------------------


@pytest.mark.fault(
    "D8",
    fault="A duplicate key on MariaDB or SQLite, which undoes one statement",
    then="No TransactionLost: the rest is stored",
)
@cases(HARMLESS)
def test_handled_error_of_a_statement_is_no_alarm(fault: Fault, unit: Unit) -> None:
    """Where a duplicate key costs one statement, the rest of the unit is stored."""
    for way in WAYS:
        unit.start_anew()
        assert unit.run(first, unit.breaks(fault), later, way=way) == 200
        assert len(unit.swallowed) == 1
        assert unit.witness.names() == ["first", "later"]


@pytest.mark.fault(
    "D7",
    fault="An error inside begin_nested(), which is rolled back",
    then="No TransactionLost: the rest is stored",
)
@cases(RECOVERABLE)
def test_error_in_a_savepoint_that_is_rolled_back_is_no_alarm(fault: Fault, unit: Unit) -> None:
    """What was before the savepoint and what comes after it is stored."""
    for way in (automatic, engine_begin):
        unit.start_anew()
        inner = in_savepoint(lambda connection: write(connection, "inner"), unit.breaks(fault))
        assert unit.run(first, inner, later, way=way) == 200
        assert len(unit.swallowed) == 1
        assert unit.witness.names() == ["first", "later"]


@pytest.mark.fault(
    "D7",
    fault="An error between a SAVEPOINT and a ROLLBACK TO that the app sends as SQL",
    then="No TransactionLost: the rest is stored",
)
@cases(RECOVERABLE)
def test_savepoint_written_by_hand_is_no_alarm(fault: Fault, unit: Unit) -> None:
    """Who writes SAVEPOINT and ROLLBACK TO as SQL is not refused on the way back."""
    status = unit.run(
        first,
        lambda connection: connection.execute(text("SAVEPOINT mine")),
        unit.breaks(fault),
        lambda connection: connection.execute(text("ROLLBACK TO SAVEPOINT mine")),
        later,
        way=automatic,
    )
    assert status == 200
    assert len(unit.swallowed) == 1
    assert unit.witness.names() == ["first", "later"]


@on("sqlite", "psycopg", "psycopg2")  # PyMySQL sends whatever it is given
def test_value_that_the_driver_cannot_send_is_no_alarm(unit: Unit) -> None:
    """An error that never reached the database has cost nothing."""
    unsendable = text("SELECT :value")
    for way in WAYS:
        unit.start_anew()
        status = unit.run(
            first,
            lambda connection: connection.execute(unsendable, {"value": object()}),
            later,
            way=way,
        )
        assert len(unit.swallowed) == 1
        assert status == 200
        assert unit.witness.names() == ["first", "later"]


def test_commit_of_the_driver_itself_is_no_alarm(unit: Unit) -> None:
    """It has stored what was there; to say that nothing is stored would be a lie."""
    for way in (automatic, connection_commit):
        unit.start_anew()
        assert unit.run(first, lambda at: driver_connection(at).commit(), way=way) == 200
        assert (unit.swallowed, unit.witness.names()) == ([], ["first"])


@on("sqlite")
@pytest.mark.parametrize(
    "end",
    [
        pytest.param(sending("COMMIT"), id="COMMIT"),
        pytest.param(
            lambda at, _: driver_connection(at).execute("COMMIT"), id="COMMIT by the driver"
        ),
        pytest.param(lambda at, _: driver_connection(at).executescript("SELECT 1"), id="script"),
    ],
)
def test_transaction_that_was_ended_on_purpose_is_no_alarm(end: Fault, unit: Unit) -> None:
    """SQLite's driver commits before a script; a COMMIT may be typed; what follows is new."""
    for way in (automatic, connection_commit):
        for rest in ((), (later,)):
            unit.start_anew()
            duplicate = HARMLESS["sqlite"]["duplicate key"]
            steps = first, unit.breaks(duplicate), unit.breaks(end), *rest
            assert unit.run(*steps, way=way) == 200
            assert len(unit.swallowed) == 1
            assert unit.witness.names() == ["first", "later"][: 1 + len(rest)]


@pytest.mark.slow
@on("psycopg")
def test_too_many_values_are_no_alarm(unit: Unit) -> None:
    """libpq counts them and sends nothing; its error has no code, as that of a lost connection."""
    names = text("SELECT name FROM users WHERE name IN :names")
    many = names.bindparams(bindparam("names", [str(n) for n in range(70_000)], expanding=True))
    for way in WAYS:
        unit.start_anew()
        assert unit.run(first, lambda at: at.execute(many), later, way=way) == 200
        assert "65535" in str(unit.swallowed[0])
        assert unit.witness.names() == ["first", "later"]


@cases(INSTANT)
def test_autocommit_has_no_transaction_to_lose(fault: Fault, unit: Unit) -> None:
    """Each statement stands for itself, so one that failed takes no other with it."""

    def autocommit(unit: Unit) -> None:
        plain = unit.db.engine.connect()
        with plain.execution_options(isolation_level="AUTOCOMMIT") as connection:
            unit.try_all(connection)

    assert unit.run(first, unit.breaks(fault), later, way=autocommit) == 200
    assert len(unit.swallowed) == 1
    assert unit.witness.names() == ["first", "later"]


@pytest.mark.fault(
    "D9",
    fault="A view swallows such an error, calls rollback() and does the work again",
    then="All of the work is stored, once",
)
@cases(DOOMING)
def test_after_a_rollback_the_work_can_be_done_again(fault: Fault, unit: Unit) -> None:
    """``rollback()`` by hand is an answer to the error: what follows is a new transaction."""
    for way in (automatic, connection_commit):
        unit.start_anew()
        status = unit.run(
            first,
            unit.breaks(fault),
            lambda connection: connection.rollback(),
            first,
            later,
            way=way,
        )
        assert len(unit.swallowed) == 1
        assert status == 200
        assert unit.witness.names() == ["first", "later"]


@cases(DOOMING)
def test_after_a_refused_commit_a_rollback_is_enough(fault: Fault, unit: Unit) -> None:
    """What came before has been said once; the connection is as good as new."""

    def commit_twice(unit: Unit) -> None:
        with unit.db.engine.connect() as connection:
            unit.try_all(connection)
            with pytest.raises(TransactionLost):
                connection.commit()
            connection.rollback()
            first(connection)
            connection.commit()
            later(connection)
            connection.commit()

    assert unit.run(first, unit.breaks(fault), way=commit_twice) == 200
    assert unit.witness.names() == ["first", "later"]


@pytest.mark.fault(
    "D9",
    fault="A view calls commit() or rollback() itself",
    then="The call does what it does in SQLAlchemy; later work is a new transaction",
)
def test_commit_and_rollback_by_hand_are_as_they_were(unit: Unit) -> None:
    """P7: what came before is stored or undone there and then, the rest is a new transaction."""
    for way in (automatic, connection_commit):
        assert unit.run(first, lambda at: at.commit(), later, way=way) == 200
        assert (unit.swallowed, unit.witness.names()) == ([], ["first", "later"])
        unit.start_anew()
        assert unit.run(first, lambda at: at.rollback(), later, way=way) == 200
        assert (unit.swallowed, unit.witness.names()) == ([], ["later"])
        unit.start_anew()
