"""The effect of SQL statements, and what the listeners of an engine notice."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from flask_uow import _guard
from flask_uow._activity import Activity, observe
from flask_uow._effects import Effect, effect_of

READS = [
    "SELECT 1",
    "select users.id, users.name from users where users.name in ('a', 'b')",
    "  \n SELECT count(*) AS n, max(users.id) FROM users GROUP BY lower(name)",
    "(SELECT 1) UNION ALL (SELECT 2)",
    "WITH recent AS (SELECT * FROM posts) SELECT title FROM recent",
    "SELECT updated_at, last_insert, deleted FROM updates",
    "SELECT CAST(a AS NUMERIC(10, 2)) FROM t",
    "SELECT row_number() OVER (PARTITION BY a ORDER BY b) FROM t",
    "VALUES (1), (2)",
    "SHOW transaction_isolation",
    "SELECT 1;",
    "SAVEPOINT sa_savepoint_1",
    "RELEASE SAVEPOINT sa_savepoint_1",
]
UNKNOWN = [
    "SELECT create_order(1)",
    "SELECT nextval('numbers')",
    'SELECT "quoted_function"(1)',
    "SELECT * FROM users FOR UPDATE",
    "SELECT * FROM users FOR NO KEY UPDATE SKIP LOCKED",
    "SELECT * INTO copy FROM users",
    "CALL create_order(1)",
    "DO $$ BEGIN NULL; END $$",
    "SET LOCAL statement_timeout = 100",
    "PRAGMA user_version = 3",
    "SELECT 1; DELETE FROM users",
    "SELECT 1;\nUPDATE users SET name = 'b'",
    "SELECT app.rank(1)",
    "-- a comment first\nSELECT 1",
    "",
]
WRITES = [
    "INSERT INTO users (name) VALUES ('a')",
    "  update users set name = 'b'",
    "DELETE FROM users",
    "MERGE INTO users USING new ON (users.id = new.id) WHEN MATCHED THEN DELETE",
    "REPLACE INTO users (name) VALUES ('a')",
    "CREATE TABLE t (id INTEGER)",
    "DROP TABLE t",
    "TRUNCATE users",
    "WITH gone AS (DELETE FROM users RETURNING id) SELECT id FROM gone",
    "WITH new AS (SELECT 1 AS id) INSERT INTO users SELECT id FROM new",
]


@pytest.mark.parametrize("statement", READS)
def test_a_statement_that_only_reads_is_a_read(statement: str) -> None:
    """Plain queries, known functions and savepoints change nothing."""
    assert effect_of(statement) is Effect.READ


@pytest.mark.parametrize("statement", UNKNOWN)
def test_a_doubt_is_unknown(statement: str) -> None:
    """What calls an unknown function, locks or is no query may change something."""
    assert effect_of(statement) is Effect.UNKNOWN


@pytest.mark.parametrize("statement", WRITES)
def test_a_statement_that_stores_is_a_write(statement: str) -> None:
    """DML and DDL are writes, inside a WITH as well."""
    assert effect_of(statement) is Effect.WRITE


def test_a_query_with_a_locking_cte_is_not_called_a_write() -> None:
    """FOR UPDATE inside a WITH is a doubt, not a certain write."""
    statement = "WITH x AS (SELECT 1 FROM t FOR UPDATE) SELECT * FROM x"
    assert effect_of(statement) is Effect.UNKNOWN


def test_the_strongest_effect_is_kept() -> None:
    """A read after a write does not make the transaction a reading one."""
    engine = create_engine("sqlite://")
    _guard.install(engine)
    activity = Activity()
    with engine.connect() as connection:
        observe(connection, activity)
        connection.execute(text("CREATE TABLE t (id INTEGER)"))
        connection.execute(text("SELECT id FROM t"))
        assert activity.effect is Effect.WRITE
        assert activity.error is None
    engine.dispose()


def test_a_failed_statement_is_noted() -> None:
    """An error of the database marks the transaction, and the thread has left the database."""
    engine = create_engine("sqlite://")
    _guard.install(engine)
    activity = Activity()
    with engine.connect() as connection:
        observe(connection, activity)
        with pytest.raises(OperationalError):
            connection.execute(text("SELECT * FROM nowhere"))
        assert activity.error is not None
    engine.dispose()


def test_a_connection_that_nobody_observes_is_left_alone() -> None:
    """``engine.connect()`` outside of any unit works as without the listeners."""
    engine = create_engine("sqlite://")
    _guard.install(engine)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
        with pytest.raises(OperationalError):
            connection.execute(text("SELECT * FROM nowhere"))
    engine.dispose()
