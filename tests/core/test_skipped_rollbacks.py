"""PyMySQL: the pool's ROLLBACK is skipped right after a COMMIT or ROLLBACK that has succeeded.

The server counts: ``SHOW SESSION STATUS``, asked on the one connection of the pool.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, TypeAlias, cast
from weakref import WeakMethod

import pymysql
import pytest
from flask import Flask
from pymysql.constants import CLIENT
from pymysql.cursors import SSCursor
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError, OperationalError

from flask_uow import Database
from flask_uow._drivers import mysql
from tests.conftest import MakeApp
from tests.support.databases import TestDatabase, on
from tests.support.models import User
from tests.support.witness import Witness

Step: TypeAlias = Callable[[Connection], object]

INSERT = "INSERT INTO users (name) VALUES ('{}')"
PENDING = INSERT.format("pending")
# The error packet carries no status of the server: the driver takes the transaction for ended.
INSERT_AND_FAIL = f"BEGIN NOT ATOMIC {PENDING}; SIGNAL SQLSTATE '45000'; END"


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    """An app with one connection, which takes several statements at once."""
    arguments = {"client_flag": CLIENT.MULTI_STATEMENTS}
    options = {"pool_size": 1, "max_overflow": 0, "connect_args": arguments}
    return make_app(SQLALCHEMY_ENGINE_OPTIONS=options)


@pytest.fixture
def engine(app: Flask, db: Database) -> Iterator[Engine]:
    with app.app_context():
        engine = db.engine
    yield engine
    engine.dispose()


def count(engine: Engine, counter: str) -> int:
    """Ask the server; that costs it one question and one ROLLBACK."""
    with engine.connect() as connection:
        row = connection.exec_driver_sql(f"SHOW SESSION STATUS LIKE '{counter}'").one()
        return int(row[1])


def driver_of(connection: Connection) -> Any:
    return connection.connection.dbapi_connection


def on_cursor(*statements: str) -> Step:
    """Send *statements* by a cursor of the driver."""

    def send(connection: Connection) -> None:
        with driver_of(connection).cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    return send


def failing_on_cursor(statement: str) -> Step:
    def send(connection: Connection) -> None:
        with pytest.raises(pymysql.Error):
            on_cursor(statement)(connection)

    return send


def by_sqlalchemy(*statements: str) -> Step:
    """Send *statements* in a transaction, and commit it."""

    def send(connection: Connection) -> None:
        for statement in statements:
            connection.exec_driver_sql(statement)
        connection.commit()

    return send


def leave_rows_unread(connection: Connection) -> None:
    driver_of(connection).cursor(SSCursor).execute("SELECT seq FROM seq_1_to_9, users")


def begin_in_autocommit_mode(connection: Connection) -> None:
    driver_of(connection).autocommit(True)
    driver_of(connection).begin()


def prepare_two_phases(connection: Connection) -> None:
    with connection.begin_twophase() as transaction:
        connection.exec_driver_sql(INSERT.format("later"))
        transaction.prepare()


# Requests -------------------------------------------------------------------------------------


@on("mariadb")
@pytest.mark.parametrize(
    ("method", "trips"), [("GET", 2), ("POST", 2), ("PUT", 3)], ids=["read", "insert", "update"]
)
def test_a_request_costs_its_statements_and_one_commit(
    method: str, trips: int, app: Flask, engine: Engine, db: Database, witness: Witness
) -> None:
    """P14: one trip less than with the ROLLBACK of the pool."""
    witness.store(User(id=1, name="ada"))

    @app.route("/", methods=["GET", "POST", "PUT"])
    def view() -> str:
        if method == "POST":
            db.session.add(User(name="grace"))
            return "created"
        user = db.session.get_one(User, 1)
        if method == "PUT":
            user.name = "grace"
        return user.name

    client = app.test_client()
    count(engine, "Questions")  # the first connection asks the server what it is
    before = count(engine, "Questions")
    asking = count(engine, "Questions") - before
    assert client.open("/", method=method).status_code == 200
    assert count(engine, "Questions") - before - 2 * asking == trips
    expected = {"GET": ["ada"], "POST": ["ada", "grace"], "PUT": ["grace"]}
    assert witness.names() == expected[method]


# Ends -----------------------------------------------------------------------------------------

NO_ROLLBACK: dict[str, Step] = {
    "commit": by_sqlalchemy(PENDING),
    "commit without a statement": lambda connection: connection.commit(),
    "ping": lambda connection: driver_of(connection).ping(reconnect=False),
    "mode": lambda connection: driver_of(connection).autocommit(False),
}
ROLLBACK: dict[str, Step] = {
    "cursor of the driver": on_cursor(PENDING),
    "reading cursor of the driver": on_cursor("SELECT * FROM users"),
    "unread rows": leave_rows_unread,
    "several statements": on_cursor(f"SELECT 1; {PENDING}"),
    "COMMIT as text": on_cursor(PENDING.replace("pending", "later"), "COMMIT"),
    "COMMIT AND CHAIN": on_cursor("COMMIT AND CHAIN"),
    "chained commit": lambda connection: (
        on_cursor("SET SESSION completion_type = 'CHAIN'")(connection),
        by_sqlalchemy("DO 1")(connection),
    ),
    "begin": lambda connection: driver_of(connection).begin(),
    "begin in autocommit mode": begin_in_autocommit_mode,
    "commit of the driver": lambda connection: (
        on_cursor("DO 1")(connection),
        driver_of(connection).commit(),
    ),
    "duplicate key": failing_on_cursor(INSERT.format("first")),
    "statement that stores and fails": failing_on_cursor(INSERT_AND_FAIL),
    "statement after the error of a deadlock": lambda connection: (
        failing_on_cursor("SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213")(connection),
        on_cursor(PENDING)(connection),
    ),
    "two phases": prepare_two_phases,
}


def run(engine: Engine, step: Step) -> int:
    """Store a row and commit, then do *step*; return the number of ROLLBACKs after the commit."""
    before = count(engine, "Com_rollback")
    with engine.connect() as connection:
        connection.exec_driver_sql(INSERT.format("first"))
        connection.commit()
        step(connection)
    return count(engine, "Com_rollback") - before - 1


def commit_something(engine: Engine) -> None:
    """Commit, as the next user of the connection does."""
    with engine.connect() as connection:
        connection.exec_driver_sql("DO 1")
        connection.commit()


@on("mariadb")
@pytest.mark.parametrize("step", NO_ROLLBACK.values(), ids=NO_ROLLBACK)
def test_no_rollback_after_an_end_that_succeeded(
    step: Step, engine: Engine, witness: Witness
) -> None:
    """Nor after what begins no transaction."""
    assert run(engine, step) == 0
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT @@in_transaction").scalar_one() == 0
    assert witness.names()[0] == "first"


@on("mariadb")
@pytest.mark.parametrize("step", ROLLBACK.values(), ids=ROLLBACK)
@pytest.mark.filterwarnings("ignore:Previous unbuffered result was left incomplete")
def test_in_doubt_a_rollback_is_sent(step: Step, engine: Engine, witness: Witness) -> None:
    """The next user of the connection stores nothing of what was left in it."""
    assert run(engine, step) >= 1
    commit_something(engine)
    assert [name for name in witness.names() if name not in {"first", "later"}] == []


@on("mariadb")
def test_a_rollback_is_no_reason_for_another_one(engine: Engine, witness: Witness) -> None:
    """``close()`` rolls back, and returns the connection."""
    before = count(engine, "Com_rollback")
    with engine.connect() as connection:
        connection.exec_driver_sql(PENDING)
        connection.rollback()
    assert count(engine, "Com_rollback") - before == 1 + 1
    commit_something(engine)
    assert witness.names() == []


@on("mariadb")
def test_a_transaction_that_the_driver_has_begun_is_rolled_back_within_a_checkout(
    engine: Engine,
) -> None:
    """``begin()`` of the driver is no statement of a cursor."""
    with engine.connect() as connection:
        by_sqlalchemy("DO 1")(connection)
        driver_of(connection).begin()
        with connection.begin() as transaction:
            transaction.rollback()
        assert connection.exec_driver_sql("SELECT @@in_transaction").scalar_one() == 0


@on("mariadb")
def test_each_checkout_of_a_connection_without_transactions_ends_with_a_rollback(
    engine: Engine, witness: Witness
) -> None:
    """A statement that the driver commits by itself is followed by no COMMIT."""
    before = count(engine, "Com_rollback")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(INSERT.format("first"))
        assert witness.names() == ["first"]
    assert count(engine, "Com_rollback") - before - 1 >= 1
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT @@autocommit").scalar_one() == 0


@on("mariadb")
def test_a_commit_that_fails_is_followed_by_a_rollback(engine: Engine, witness: Witness) -> None:
    """The server refuses to commit in the middle of XA, and refuses the ROLLBACK, too."""
    with engine.connect() as connection:
        connection.exec_driver_sql(INSERT.format("first"))
        connection.commit()
        broken = driver_of(connection)
        on_cursor("XA START 'unfinished'", PENDING)(connection)
        with pytest.raises(OperationalError):
            by_sqlalchemy("DO 1")(connection)
        with contextlib.suppress(DBAPIError):
            connection.rollback()
    commit_something(engine)
    with engine.connect() as connection:
        assert driver_of(connection) is not broken
    assert witness.names() == ["first"]


@on("mariadb")
def test_a_connection_that_its_driver_has_closed_does_not_go_back(engine: Engine) -> None:
    """The rollback fails, by which the pool knows."""
    with engine.connect() as connection:
        by_sqlalchemy("DO 1")(connection)
        driver_of(connection).close()
        entry = cast("Any", connection.connection)._connection_record
    assert entry.dbapi_connection is None


@on("mariadb")
def test_connections_that_are_older_than_the_listeners_are_left_alone(
    database: TestDatabase, engine: Engine, witness: Witness
) -> None:
    """Their statements are not seen."""
    own = create_engine(database.url, pool_size=1, max_overflow=0)
    own.connect().close()
    mysql.PyMySQL().watch_transactions(own)
    assert run(own, failing_on_cursor(INSERT_AND_FAIL)) == 1
    commit_something(own)
    assert witness.names() == ["first"]
    own.dispose()


def test_after_a_reply_that_was_not_read_to_its_end_no_success_is_believed() -> None:
    """What the driver takes for the reply to ROLLBACK may be the rest of the one before."""

    class Broken:
        open = True
        server_status = 0
        error: BaseException = ValueError("raised by a converter")
        rollbacks = 0

        def query(self, _sql: str) -> None:
            raise self.error

        def rollback(self) -> None:
            self.rollbacks += 1

    connection = Broken()
    engine = create_engine("mysql+pymysql://")
    mysql.PyMySQL().watch_transactions(engine)
    proxy: Any = SimpleNamespace(dbapi_connection=connection, rollback=connection.rollback)
    duplicate = pymysql.IntegrityError(1062, "Duplicate entry")
    for error, expected in ((ValueError(), 2), (KeyboardInterrupt(), 2), (duplicate, 1)):
        connection.error, connection.rollbacks = error, 0
        with pytest.raises(type(error)):
            mysql.noting_query(WeakMethod(connection.query), "SELECT 1")
        engine.dialect.do_rollback(proxy)
        engine.dialect.do_rollback(proxy)
        assert connection.rollbacks == expected
