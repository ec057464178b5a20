"""What the listeners of an engine notice."""

from __future__ import annotations

from weakref import WeakMethod

import pytest
from sqlalchemy import Connection, Engine, create_engine, inspect, text
from sqlalchemy.exc import IntegrityError, OperationalError

from flask_uow._config import reading
from flask_uow._drivers import mysql
from flask_uow._engine import build, lost_transactions
from flask_uow._transaction.record import TransactionRecord, attach
from flask_uow._transaction.statements import StatementEffect
from flask_uow.errors import TransactionLost


def test_the_strongest_effect_is_kept() -> None:
    """A read after a write does not make the transaction a reading one."""
    engine = create_engine("sqlite://")
    lost_transactions.watch_transactions(engine)
    record = TransactionRecord()
    with engine.connect() as connection:
        attach(connection, record)
        connection.execute(text("CREATE TABLE t (id INTEGER)"))
        connection.execute(text("SELECT id FROM t"))
        assert record.effect is StatementEffect.WRITE
        assert record.error is None
    engine.dispose()


def test_a_failed_statement_is_noted() -> None:
    """An error of the database marks the transaction, and the thread has left the database."""
    engine = create_engine("sqlite://")
    lost_transactions.watch_transactions(engine)
    record = TransactionRecord()
    with engine.connect() as connection:
        attach(connection, record)
        with pytest.raises(OperationalError):
            connection.execute(text("SELECT * FROM nowhere"))
        assert record.error is not None
    engine.dispose()


def test_a_connection_that_nobody_observes_is_left_alone() -> None:
    """``engine.connect()`` outside of any unit works as without the listeners."""
    engine = create_engine("sqlite://")
    lost_transactions.watch_transactions(engine)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
        with pytest.raises(OperationalError):
            connection.execute(text("SELECT * FROM nowhere"))
    engine.dispose()


def test_an_error_while_the_engine_looks_at_its_database_is_told_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That connection is not one of the pool's, and has no transaction."""
    engine = create_engine("sqlite://")
    lost_transactions.watch_transactions(engine)

    def look(connection: Connection) -> None:
        connection.exec_driver_sql("SELECT * FROM nowhere")

    monkeypatch.setattr(engine.dialect, "initialize", look)
    with pytest.raises(OperationalError, match="nowhere"):
        engine.connect()
    engine.dispose()


@pytest.fixture
def memory() -> Engine:
    """An engine in memory, with all that an app's has, and one row."""
    engine = build.build(reading.read({"SQLALCHEMY_DATABASE_URI": "sqlite://"}), "")["default"]
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (id INTEGER PRIMARY KEY)"))
        connection.execute(text("INSERT INTO t VALUES (1)"))
    return engine


def test_an_error_ends_with_its_transaction(memory: Engine) -> None:
    """What was handled, and committed, is no reason to refuse what comes later."""
    with memory.connect() as connection:
        connection.execute(text("INSERT INTO t VALUES (2)"))
        with pytest.raises(IntegrityError):
            connection.execute(text("INSERT INTO t VALUES (1)"))
        connection.commit()
        connection.execute(text("PRAGMA user_version")).all()
        assert inspect(connection).get_table_names() == ["t"]
        connection.commit()
    memory.dispose()


def test_a_driver_that_keeps_its_state_to_itself_is_judged_by_the_errors(
    memory: Engine,
) -> None:
    """PostgreSQL by pg8000: an error costs the transaction, unless its savepoint is undone."""
    memory.dialect.name, memory.dialect.driver = "postgresql", "pg8000"

    def fail(connection: Connection) -> None:
        with pytest.raises(IntegrityError):
            connection.execute(text("INSERT INTO t VALUES (1)"))

    with memory.connect() as connection:
        with connection.begin_nested() as savepoint:
            fail(connection)
            savepoint.rollback()
        connection.execute(text("INSERT INTO t VALUES (2)"))
        connection.commit()
        fail(connection)
        with pytest.raises(TransactionLost):
            connection.execute(text("INSERT INTO t VALUES (3)"))
        with pytest.raises(TransactionLost):
            connection.commit()
        connection.rollback()
        assert connection.scalars(text("SELECT id FROM t ORDER BY id")).all() == [1, 2]
    memory.dispose()


@pytest.mark.parametrize(("autocommit", "aborts_transaction"), [(True, False), (False, True)])
def test_a_deadlock_on_a_cursor_dooms_a_transaction_only(
    autocommit: bool, aborts_transaction: bool
) -> None:
    """In autocommit mode there is none, and each statement stands for itself."""

    class Deadlock(Exception):
        __module__ = "pymysql.err"

    class PyMySQLConnection:
        def get_autocommit(self) -> bool:
            return autocommit

        def query(self, sql: str) -> None:
            raise Deadlock(1213, sql)

    connection = PyMySQLConnection()
    with pytest.raises(Deadlock):
        mysql.noting_query(WeakMethod(connection.query), "UPDATE t SET id = id")
    assert mysql.PyMySQL().is_aborted(connection, None) is aborts_transaction
