"""SQLite in memory: whose transaction it is, what others see of it, how long the database lives."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import suppress
from contextvars import copy_context
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import QueuePool

from flask_uow._config.settings import SqliteProfile
from flask_uow._engine import fork
from flask_uow._sqlite import engine as _sqlite_engine
from flask_uow._sqlite import profile
from flask_uow._transaction.record import TransactionRecord, attach
from flask_uow.errors import TransactionLost
from tests.support.threads import in_thread

SHARED = "sqlite:///file:uow_memory?mode=memory&cache=shared&uri=true"


@pytest.fixture
def engine() -> Iterator[Engine]:
    """One connection for everybody, and a table ``t`` with the rows 1 and 2."""
    yield (made := make("sqlite://", profile.memory_options()))
    made.dispose()


@pytest.fixture
def pooled() -> Iterator[Engine]:
    """Several connections to one cache, which lives as long as one of them is open."""
    arguments = {"check_same_thread": False}
    yield (made := make(SHARED, {"poolclass": QueuePool, "connect_args": arguments}))
    made.dispose()


def make(url: str, options: dict[str, Any]) -> Engine:
    engine = create_engine(url, **options)
    _sqlite_engine.install(engine, SqliteProfile(busy_timeout=0.2))
    with engine.begin() as connection:
        run(connection, "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)")
        run(connection, "INSERT INTO t VALUES (1, 0), (2, 0)")
    return engine


def run(connection: Connection, statement: str) -> Any:
    return connection.exec_driver_sql(statement)


def rows(connection: Connection) -> list[int]:
    return [row[0] for row in run(connection, "SELECT n FROM t ORDER BY id")]


def stored(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        return rows(connection)


def set_n(connection: Connection, number: int) -> None:
    run(connection, f"UPDATE t SET n = {number}")


def write(engine: Engine, number: int) -> None:
    with engine.begin() as connection:
        set_n(connection, number)


def rows_of_a_writer(engine: Engine) -> list[int]:
    with will_write(engine.connect()) as connection:
        return rows(connection)


def will_write(connection: Connection) -> Connection:
    record = TransactionRecord()
    record.will_write = True
    attach(connection, record)
    return connection


# Units in units -------------------------------------------------------------------------------


def test_nobody_writes_between_a_nested_unit_and_the_outer_one(engine: Engine) -> None:
    """The turn is lent, and comes back: what the outer one has read is not overtaken."""
    with will_write(engine.connect()) as outer:
        found = rows(outer)[0]
        for number in (3, 4):
            with engine.begin() as inner:
                run(inner, f"INSERT INTO t VALUES ({number}, 0)")
            with pytest.raises(OperationalError, match="was held by the thread"):
                in_thread(lambda: write(engine, 9))
        set_n(outer, found + 1)
        outer.commit()
    assert stored(engine) == [1, 1, 1, 1]
    in_thread(lambda: write(engine, 9))


@pytest.mark.parametrize("end", ["commit", "rollback", "close", "invalidate"])
def test_an_outer_unit_that_ends_without_another_statement_leaves_the_queue(
    end: str, engine: Engine
) -> None:
    """It has nothing to commit, and only its place to give back."""
    with will_write(engine.connect()) as outer:
        rows(outer)
        write(engine, 1)
        getattr(outer, end)()
        in_thread(lambda: write(engine, 2))
    assert stored(engine) == [2, 2]


def test_two_requests_that_share_a_thread_are_not_nested(engine: Engine) -> None:
    """An executor with one thread, in which each does a part of its work."""
    one, two = copy_context(), copy_context()
    with will_write(engine.connect()) as first, will_write(engine.connect()) as second:
        one.run(rows, first)
        with pytest.raises(OperationalError, match="was held by this very thread"):
            two.run(rows, second)
        one.run(set_n, first, 1)
        first.commit()


# Out of date ----------------------------------------------------------------------------------


def test_what_was_read_and_is_out_of_date_is_refused(engine: Engine) -> None:
    """As with a file: until a rollback, after which it works."""
    with engine.connect() as connection:
        found = rows(connection)[0]
        in_thread(lambda: write(engine, 10))
        for _ in range(2):
            with pytest.raises(OperationalError, match="what it has read is out of date"):
                set_n(connection, found + 1)
        connection.rollback()
        set_n(connection, rows(connection)[0] + 1)
        connection.commit()
    assert stored(engine) == [11, 11]


@pytest.mark.parametrize("other", ["rolls back", "only reads", "commits before"])
def test_what_is_not_out_of_date_is_not_refused(other: str, engine: Engine) -> None:
    """Only a commit of somebody else who has written makes it so."""
    with engine.connect() as connection:
        if other == "commits before":
            write(engine, 1)
        rows(connection)
        with will_write(engine.connect()) as another:
            rows(another)
            if other == "rolls back":
                set_n(another, 5)
                another.rollback()
            else:
                another.commit()
        set_n(connection, 2)
        connection.commit()
    assert stored(engine) == [2, 2]


# What others see, and do ----------------------------------------------------------------------


def test_rows_that_were_asked_for_do_not_change(engine: Engine) -> None:
    """SQLite reads them one by one, and on one connection sees what is not committed."""
    with engine.begin() as connection:
        run(connection, "INSERT INTO t VALUES (3, 0), (4, 0)")
    with engine.connect() as reader, engine.connect() as writer:
        result = run(reader, "SELECT n FROM t")
        first = result.fetchone()
        set_n(writer, 5)
        found = [first, *result.fetchmany(1), *result.fetchmany(1), *result.fetchall()]
        assert found == [(0,)] * 4
        writer.rollback()


@pytest.mark.parametrize(
    "statement", ["COMMIT", "END", "ROLLBACK", "RELEASE one", "ROLLBACK TO one"]
)
def test_nobody_types_the_end_of_the_transaction_of_another(statement: str, engine: Engine) -> None:
    """It does nothing, as it is not meant for that."""
    with engine.connect() as connection:
        run(connection, "SAVEPOINT one")
        set_n(connection, 1)
        with engine.connect() as other:
            in_thread(lambda: run(other, statement))
        set_n(connection, 2)
        run(connection, "ROLLBACK TO one")
        connection.commit()
    assert stored(engine) == [0, 0]


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_one_may_type_ones_own_end(end: str, engine: Engine) -> None:
    """The turn is free at once, and what comes next is a transaction of its own."""
    with engine.connect() as connection:
        set_n(connection, 1)
        run(connection, end)
        in_thread(lambda: rows_of_a_writer(engine))
        set_n(connection, 2)
        connection.rollback()
    assert stored(engine) == ([1, 1] if end == "COMMIT" else [0, 0])


def test_a_typed_begin_belongs_to_who_typed_it(engine: Engine) -> None:
    """Others wait for its end."""
    with engine.connect() as connection:
        run(connection, "BEGIN")
        set_n(connection, 1)
        with pytest.raises(OperationalError, match="was held by the thread"):
            in_thread(lambda: write(engine, 2))
        connection.rollback()
    assert stored(engine) == [0, 0]


def test_autocommit_ends_only_its_own_statement(engine: Engine) -> None:
    """It waits for its turn, and the transaction of another thread stays one."""
    automatic = engine.execution_options(isolation_level="AUTOCOMMIT")

    def count() -> None:
        with automatic.connect() as other:
            set_n(other, 7)

    with engine.connect() as connection:
        set_n(connection, 1)
        with pytest.raises(OperationalError, match="was held by the thread"):
            in_thread(count)
        connection.rollback()
    assert stored(engine) == [0, 0]
    with automatic.connect() as other, engine.connect() as connection:
        set_n(other, 7)
        other.rollback()
        set_n(connection, 8)
        connection.rollback()
    assert stored(engine) == [7, 7]
    in_thread(count)


# Losses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_loss_that_only_a_cursor_of_the_driver_has_seen(meanwhile: bool, engine: Engine) -> None:
    """P3: also if somebody else has used the connection since."""
    with engine.connect() as connection:
        set_n(connection, 1)
        with pytest.raises(sqlite3.IntegrityError):
            connection.connection.cursor().execute("INSERT OR ROLLBACK INTO t VALUES (1, 1)")
        if meanwhile:
            in_thread(lambda: write(engine, 3))
        with pytest.raises(TransactionLost):
            set_n(connection, 2)
        with pytest.raises(TransactionLost):
            connection.commit()
        connection.rollback()
        set_n(connection, 4)
        connection.rollback()
    assert stored(engine) == ([3, 3] if meanwhile else [0, 0])


def test_a_rollback_of_the_driver_is_a_loss_and_a_commit_is_none(engine: Engine) -> None:
    """P3: what is stored is stored, and what is not is said."""
    with engine.connect() as connection:
        set_n(connection, 1)
        connection.connection.rollback()
        with pytest.raises(TransactionLost):
            connection.commit()
        connection.rollback()
        set_n(connection, 2)
        connection.connection.commit()
        connection.commit()
    assert stored(engine) == [2, 2]


# The life of the database ---------------------------------------------------------------------


def test_a_connection_that_is_dropped_takes_only_its_own_work_along(engine: Engine) -> None:
    """An interruption drops the connection of its unit, and it is everybody's."""
    with engine.connect() as interrupted:
        set_n(interrupted, 1)
        interrupted.invalidate()
        in_thread(lambda: write(engine, 2))
    assert stored(engine) == [2, 2]


def test_a_connection_that_is_dropped_is_still_that_of_the_others(engine: Engine) -> None:
    """A reader is interrupted while another one is in mid-transaction."""
    with engine.connect() as connection:
        set_n(connection, 1)
        with engine.connect() as interrupted:
            rows(interrupted)
            interrupted.invalidate()
        assert in_thread(lambda: engine.connect().close()) is None
        connection.commit()
    assert stored(engine) == [1, 1]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interruption_of_a_statement_leaves_the_database(
    kind: type[BaseException], engine: Engine
) -> None:
    """SQLAlchemy itself drops a connection then."""

    def interrupt(_cursor: object, statement: str, *_: object) -> None:
        if statement == "SELECT 'long'":
            raise kind

    event.listen(engine, "do_execute", interrupt)
    with engine.connect() as connection:
        set_n(connection, 1)
        with pytest.raises(kind):
            run(connection, "SELECT 'long'")
        assert connection.invalidated
    in_thread(lambda: write(engine, 2))
    assert stored(engine) == [2, 2]


def test_the_last_connection_to_a_shared_cache_is_kept(pooled: Engine) -> None:
    """However many there are, the database is gone with the last one."""
    with pooled.connect() as connection:
        set_n(connection, 1)
        connection.invalidate()
    assert stored(pooled) == [0, 0]
    pooled.dispose()
    with pooled.connect() as connection, pytest.raises(OperationalError, match="no such table"):
        rows(connection)


def test_a_fork_leaves_a_shared_cache_to_the_parent(pooled: Engine) -> None:
    """The connections to files are closed before a fork; a database in memory would be gone."""
    fork.protect_from_fork(pooled)
    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert stored(pooled) == [0, 0]


def test_dispose_ends_the_database(engine: Engine) -> None:
    """As ever; also after a connection was dropped."""
    with engine.connect() as connection:
        connection.invalidate()
    engine.dispose()
    with engine.connect() as connection, pytest.raises(OperationalError, match="no such table"):
        rows(connection)


def test_a_child_does_not_wait_for_a_thread_of_its_parent(engine: Engine) -> None:
    """What a thread had begun, which is not in the child, is rolled back there."""
    begun, end = threading.Event(), threading.Event()

    def hold() -> None:
        with engine.connect() as connection:
            set_n(connection, 1)
            begun.set()
            end.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert begun.wait(10)
    if (child := os.fork()) == 0:
        code = 1
        with suppress(BaseException):
            write(engine, 2)
            code = int(stored(engine) != [2, 2])
        os._exit(code)
    status = os.waitpid(child, 0)[1]
    end.set()
    thread.join(20)
    assert status == 0
    assert stored(engine) == [0, 0]
