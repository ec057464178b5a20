"""What servers really answer, and whether the tables of outcomes are right about it.

The engines here are SQLAlchemy's own: the tables are to be true of any. Every test asks two
questions, of the error what became of the unit, and of a second connection what did.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, NullPool, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError

from flask_uow._drivers.outcomes import (
    Moment,
    Outcome,
    aborts_transaction,
    code_of,
    is_disconnect,
    is_transient,
    outcome_of,
)
from tests.faults.conftest import ON_MARIADB, Server, failure, insert, sees
from tests.support.proxy import FaultProxy

NOT_APPLIED, UNKNOWN, FAILED = Outcome.NOT_APPLIED, Outcome.UNKNOWN, Outcome.FAILED
BEFORE_COMMIT, AT_COMMIT = Moment.BEFORE_COMMIT, Moment.AT_COMMIT


def expect(
    error: DBAPIError,
    moment: Moment,
    outcome: Outcome,
    *,
    code: str | None,
    transient: bool = False,
    lost: bool = False,
) -> None:
    """Hold the tables against *error*, as SQLAlchemy raises it and as the driver did."""
    assert error.orig is not None
    for one in (error, error.orig):
        assert code_of(one) == code
        assert outcome_of(one, moment) is outcome
        assert is_transient(one) == transient
        assert is_disconnect(one) == lost


def in_background(action: Callable[[], object]) -> Callable[[], DBAPIError]:
    """Start *action* in a thread; a function that waits for it and returns its error."""
    errors: list[DBAPIError] = []
    thread = threading.Thread(target=lambda: errors.append(failure(action)))
    thread.start()

    def wait() -> DBAPIError:
        thread.join(timeout=30)
        return errors[0]

    return wait


def lock(connection: Connection, number: int) -> None:
    connection.exec_driver_sql(f"UPDATE items SET n = n + 1 WHERE id = {number}")


def deadlock(first: Connection, second: Connection) -> tuple[Connection, DBAPIError]:
    """Let two transactions wait for each other; the victim and its error."""
    lock(first, 1)
    lock(second, 2)
    errors: dict[Connection, DBAPIError] = {}

    def cross(connection: Connection, number: int) -> None:
        try:
            lock(connection, number)
        except DBAPIError as error:
            errors[connection] = error

    thread = threading.Thread(target=cross, args=[first, 2])
    thread.start()
    cross(second, 1)
    thread.join(timeout=30)
    [(victim, error)] = errors.items()
    return victim, error


# PostgreSQL: conflicts ------------------------------------------------------------------------


def test_a_serialization_failure_in_a_statement(postgresql: Server) -> None:
    """REPEATABLE READ: the row was changed after the snapshot."""
    engine = postgresql.engine.execution_options(isolation_level="REPEATABLE READ")
    with engine.connect() as connection:
        insert(connection, 10)
        postgresql.command("UPDATE items SET n = 5 WHERE id = 1")
        error = failure(lambda: lock(connection, 1))
    expect(error, BEFORE_COMMIT, NOT_APPLIED, code="40001", transient=True)
    assert not postgresql.is_stored(10)


@pytest.mark.fault(
    "C9",
    fault="COMMIT fails because of a conflict with another transaction (SERIALIZABLE)",
    then="Nothing is stored, and the error says that the work can be run again",
)
def test_a_serialization_failure_at_commit(postgresql: Server) -> None:
    """SERIALIZABLE: two that read what the other writes; the second COMMIT is refused."""
    engine = postgresql.engine.execution_options(isolation_level="SERIALIZABLE")
    with engine.connect() as first, engine.connect() as second:
        for connection, number in (first, 1), (second, 2):
            connection.exec_driver_sql("SELECT sum(n) FROM items")
            lock(connection, number)
            insert(connection, 10 + number)
        first.commit()
        error = failure(second.commit)
    expect(error, AT_COMMIT, NOT_APPLIED, code="40001", transient=True)
    assert postgresql.is_stored(11)
    assert not postgresql.is_stored(12)


def test_a_deadlock_on_postgresql(postgresql: Server) -> None:
    """The victim is told; the other one goes on."""
    with postgresql.engine.connect() as first, postgresql.engine.connect() as second:
        for connection in (first, second):  # a second is the default; not everybody may set it
            with contextlib.suppress(DBAPIError), connection.begin_nested():
                connection.exec_driver_sql("SET LOCAL deadlock_timeout = '50ms'")
        victim, error = deadlock(first, second)
        insert(second if victim is first else first, 10)
    expect(error, BEFORE_COMMIT, NOT_APPLIED, code="40P01", transient=True)


def test_a_lock_timeout_on_postgresql(postgresql: Server) -> None:
    """``lock_timeout`` and NOWAIT have one code."""
    with postgresql.engine.connect() as holder, postgresql.engine.connect() as connection:
        lock(holder, 1)
        for statement in (
            "SELECT n FROM items WHERE id = 1 FOR UPDATE",
            "SELECT n FROM items WHERE id = 1 FOR UPDATE NOWAIT",
        ):
            connection.exec_driver_sql("SET LOCAL lock_timeout = '20ms'")
            error = failure(lambda sql=statement: connection.exec_driver_sql(sql))  # type: ignore[misc]
            expect(error, BEFORE_COMMIT, NOT_APPLIED, code="55P03", transient=True)
            connection.rollback()


# PostgreSQL: stopped and refused --------------------------------------------------------------


def test_a_statement_timeout(postgresql: Server) -> None:
    """The connection is good, the transaction is not."""
    with postgresql.engine.connect() as connection:
        connection.exec_driver_sql("SET LOCAL statement_timeout = '20ms'")
        error = failure(lambda: connection.exec_driver_sql("SELECT pg_sleep(10)"))
    expect(error, BEFORE_COMMIT, NOT_APPLIED, code="57014")


def test_a_statement_timeout_does_not_bound_commit(postgresql: Server) -> None:
    """PostgreSQL turns it off before it commits, deferred triggers and all."""
    with postgresql.engine.connect() as connection:
        sleep_at_commit(connection, 0.1)
        connection.exec_driver_sql("SET LOCAL statement_timeout = '20ms'")
        insert(connection, 10)
        connection.commit()
    assert postgresql.is_stored(10)


def test_a_lock_timeout_at_commit(postgresql: Server) -> None:
    """A deferred trigger waits for a lock: the server says that it has rolled back."""
    with postgresql.engine.connect() as holder, postgresql.engine.connect() as connection:
        lock(holder, 1)
        at_commit(connection, "UPDATE items SET n = 0 WHERE id = 1")
        connection.exec_driver_sql("SET LOCAL lock_timeout = '20ms'")
        insert(connection, 10)
        error = failure(connection.commit)
    expect(error, AT_COMMIT, NOT_APPLIED, code="55P03", transient=True)
    assert not postgresql.is_stored(10)


def test_a_canceled_statement(postgresql: Server) -> None:
    """``pg_cancel_backend``: an administrator, or a client of its own."""
    with postgresql.engine.connect() as connection:
        number = backend(connection)
        wait = in_background(lambda: connection.exec_driver_sql("SELECT pg_sleep(10)"))
        wait_until(postgresql, number, "wait_event = 'PgSleep'")
        postgresql.command(f"SELECT pg_cancel_backend({number})")
        error = wait()
    expect(error, BEFORE_COMMIT, NOT_APPLIED, code="57014")


def test_a_canceled_commit(postgresql: Server) -> None:
    """It was in a deferred trigger: the server says that it has rolled back."""
    with postgresql.engine.connect() as connection:
        sleep_at_commit(connection)
        number = backend(connection)
        insert(connection, 10)
        wait = in_background(connection.commit)
        wait_until(postgresql, number, "wait_event = 'PgSleep'")
        postgresql.command(f"SELECT pg_cancel_backend({number})")
        error = wait()
    expect(error, AT_COMMIT, NOT_APPLIED, code="57014")
    assert not postgresql.is_stored(10)


def test_a_read_only_server(postgresql: Server) -> None:
    """A demoted primary answers as a transaction does that was set to read only."""
    with postgresql.engine.connect() as connection:
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        error = failure(lambda: insert(connection, 10))
    expect(error, BEFORE_COMMIT, NOT_APPLIED, code="25006")


def test_a_constraint_is_a_failure(postgresql: Server) -> None:
    """A duplicate key would be one again."""
    with postgresql.engine.connect() as connection:
        error = failure(lambda: insert(connection, 1))
        later = failure(lambda: insert(connection, 10))
    expect(error, BEFORE_COMMIT, FAILED, code="23505")
    expect(later, BEFORE_COMMIT, FAILED, code="25P02")


@pytest.mark.fault(
    "C9",
    fault="A deferred constraint fails at COMMIT",
    then="Nothing is stored, and the app's error handler returns a response",
)
def test_a_deferred_constraint_fails_at_commit(postgresql: Server) -> None:
    """The answer to COMMIT is an error, and nothing is in doubt."""
    with postgresql.engine.connect() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE detail (id INTEGER REFERENCES items DEFERRABLE INITIALLY DEFERRED)"
        )
        insert(connection, 10)
        connection.exec_driver_sql("INSERT INTO detail VALUES (99)")
        error = failure(connection.commit)
    expect(error, AT_COMMIT, FAILED, code="23503")
    assert not postgresql.is_stored(10)


@pytest.mark.parametrize(
    ("code", "before", "at_commit", "lost"),
    [
        ("UOW01", FAILED, FAILED, False),
        ("57Z99", FAILED, FAILED, False),  # of a class whose errors are OperationalErrors
        ("08006", NOT_APPLIED, UNKNOWN, False),  # as a foreign data wrapper reports its server
        ("40003", UNKNOWN, UNKNOWN, False),
        ("08007", UNKNOWN, UNKNOWN, False),
    ],
)
def test_codes_that_a_function_raises(
    postgresql: Server, code: str, before: Outcome, at_commit: Outcome, lost: bool
) -> None:
    """The session lives on: an ERROR is not a FATAL, whatever its code."""
    function = f"DO $$ BEGIN RAISE 'on purpose' USING ERRCODE = '{code}'; END $$"
    with postgresql.engine.connect() as connection:
        error = failure(lambda: connection.exec_driver_sql(function))
        connection.rollback()
        assert sees(connection, 1)
    expect(error, BEFORE_COMMIT, before, code=code, lost=lost)
    expect(error, AT_COMMIT, at_commit, code=code, lost=lost)


# PostgreSQL: ended sessions -------------------------------------------------------------------

# psycopg2 asks libpq for an answer, finds the connection closed, and has no SQLSTATE to tell.


def seen_code(server: Server, code: str) -> str | None:
    return None if server.driver == "psycopg2" else code


@pytest.mark.parametrize("moment", [BEFORE_COMMIT, AT_COMMIT])
def test_a_session_that_was_terminated(postgresql: Server, moment: Moment) -> None:
    """Between two statements: the next one hears of it, and if it is COMMIT, it cannot know."""
    with postgresql.engine.connect() as connection:
        insert(connection, 10)
        postgresql.command(f"SELECT pg_terminate_backend({backend(connection)}, 5000)")
        action = connection.commit if moment is AT_COMMIT else lambda: sees(connection, 1)
        error = failure(action)
    outcome = UNKNOWN if moment is AT_COMMIT else NOT_APPLIED
    expect(error, moment, outcome, code=seen_code(postgresql, "57P01"), lost=True)
    assert not postgresql.is_stored(10)


def test_a_session_that_was_terminated_in_a_statement(postgresql: Server) -> None:
    """The statement is over, and so is the connection."""
    with postgresql.engine.connect() as connection:
        number = backend(connection)
        wait = in_background(lambda: connection.exec_driver_sql("SELECT pg_sleep(10)"))
        wait_until(postgresql, number, "wait_event = 'PgSleep'")
        postgresql.command(f"SELECT pg_terminate_backend({number}, 5000)")
        error = wait()
    expect(error, BEFORE_COMMIT, NOT_APPLIED, code=seen_code(postgresql, "57P01"), lost=True)


@pytest.mark.fault(
    "C8",
    fault="The server ends the session in the middle of COMMIT",
    then="The error says that the outcome is unknown; here nothing is stored",
)
def test_a_commit_that_was_terminated_and_is_not_stored(postgresql: Server) -> None:
    """The administrator does what he does in the next test, and the outcome is the other one."""
    with postgresql.engine.connect() as connection:
        sleep_at_commit(connection)
        number = backend(connection)
        insert(connection, 10)
        wait = in_background(connection.commit)
        wait_until(postgresql, number, "wait_event = 'PgSleep'")
        postgresql.command(f"SELECT pg_terminate_backend({number}, 5000)")
        error = wait()
    expect(error, AT_COMMIT, UNKNOWN, code=seen_code(postgresql, "57P01"), lost=True)
    assert not postgresql.is_stored(10)


@pytest.mark.slow
@pytest.mark.fault(
    "C8",
    fault="The server ends the session while COMMIT waits for a standby",
    then="The error says that the outcome is unknown; here the work is stored",
)
def test_a_commit_that_was_terminated_and_is_stored(postgresql: Server) -> None:
    """It was waiting for a standby server: committed here, and not yet acknowledged there."""
    with a_standby_that_never_answers(postgresql), postgresql.engine.connect() as connection:
        number = backend(connection)
        insert(connection, 10)
        wait = in_background(connection.commit)
        wait_until(postgresql, number, "wait_event = 'SyncRep'")
        postgresql.command(f"SELECT pg_terminate_backend({number}, 5000)")
        error = wait()
    expect(error, AT_COMMIT, UNKNOWN, code=None, lost=True)  # 57P01 is but a warning here
    assert postgresql.is_stored(10)


@pytest.mark.parametrize("moment", [BEFORE_COMMIT, AT_COMMIT])
def test_a_session_that_was_idle_in_a_transaction(postgresql: Server, moment: Moment) -> None:
    """It was ended because it was idle, so COMMIT was not read; if the driver tells the code."""
    with postgresql.engine.connect() as connection:
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = '20ms'")
        number = backend(connection)
        insert(connection, 10)
        wait_until_gone(postgresql, number)
        action = connection.commit if moment is AT_COMMIT else lambda: sees(connection, 1)
        error = failure(action)
    in_doubt = moment is AT_COMMIT and postgresql.driver == "psycopg2"
    outcome = UNKNOWN if in_doubt else NOT_APPLIED
    expect(error, moment, outcome, code=seen_code(postgresql, "25P03"), lost=True)
    assert not postgresql.is_stored(10)


def test_a_session_that_was_idle(postgresql: Server) -> None:
    """Between two units: nothing has begun."""
    with postgresql.engine.connect() as connection:
        if postgresql.witness.ask("SHOW server_version_num") < ["140000"]:
            pytest.skip("idle_session_timeout came with PostgreSQL 14")
        number = backend(connection)
        connection.exec_driver_sql("SET idle_session_timeout = '20ms'")
        connection.commit()
        wait_until_gone(postgresql, number)
        error = failure(lambda: insert(connection, 10))
    expect(error, BEFORE_COMMIT, NOT_APPLIED, code=seen_code(postgresql, "57P05"), lost=True)


def test_a_transaction_that_took_too_long(postgresql: Server) -> None:
    """The server ends the session, not only the transaction."""
    if postgresql.witness.ask("SHOW server_version_num") < ["170000"]:
        pytest.skip("transaction_timeout came with PostgreSQL 17")
    with postgresql.engine.connect() as connection:
        connection.exec_driver_sql("SET LOCAL transaction_timeout = '20ms'")
        number = backend(connection)
        wait_until_gone(postgresql, number)
        error = failure(lambda: sees(connection, 1))
    expect(error, BEFORE_COMMIT, NOT_APPLIED, code=seen_code(postgresql, "25P04"), lost=True)


def test_a_commit_that_took_too_long(postgresql: Server) -> None:
    """``transaction_timeout`` does bound COMMIT, and ends the session in the middle of it."""
    if postgresql.witness.ask("SHOW server_version_num") < ["170000"]:
        pytest.skip("transaction_timeout came with PostgreSQL 17")
    with postgresql.engine.connect() as connection:
        sleep_at_commit(connection)
        connection.exec_driver_sql("SET LOCAL transaction_timeout = '50ms'")
        insert(connection, 10)
        error = failure(connection.commit)
    expect(error, AT_COMMIT, UNKNOWN, code=seen_code(postgresql, "25P04"), lost=True)
    assert not postgresql.is_stored(10)


@pytest.mark.fault(
    "N12",
    fault="The server has no connection left for the app",
    then="An error says that nothing is stored; the other connections keep working",
)
def test_the_limit_of_connections(postgresql: Server) -> None:
    """53300, but libpq tells no code of a connect that failed."""
    role = f"uow_limited_{os.getpid()}"
    postgresql.command(f"CREATE ROLE {role} LOGIN PASSWORD 'limited' CONNECTION LIMIT 1")
    try:
        url = make_url(postgresql.url).set(username=role, password="limited")
        engine = postgresql.other_engine(url.render_as_string(hide_password=False))
        with engine.connect():
            error = failure(engine.connect)
        assert "too many connections" in str(error)
        expect(error, BEFORE_COMMIT, NOT_APPLIED, code=None, lost=True)
    finally:
        postgresql.command(f"DROP ROLE {role}")


def backend(connection: Connection) -> int:
    number: int = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
    return number


def wait_until(server: Server, number: int, condition: str) -> None:
    """Wait for a state of another session."""
    query = f"SELECT count(*) FROM pg_stat_activity WHERE pid = {number} AND {condition}"
    for _ in range(1000):
        if server.witness.ask(query) == [1]:
            return
        time.sleep(0.01)
    raise AssertionError(f"the session never came to {condition}")


def wait_until_gone(server: Server, number: int) -> None:
    for _ in range(1000):
        if server.witness.ask(f"SELECT 1 FROM pg_stat_activity WHERE pid = {number}") == []:
            return
        time.sleep(0.01)
    raise AssertionError("the session did not end")


def at_commit(connection: Connection, statement: str) -> None:
    """Let the COMMIT of *connection* execute *statement*."""
    connection.exec_driver_sql("CREATE TEMPORARY TABLE late (id INTEGER) ON COMMIT DROP")
    connection.exec_driver_sql(
        "CREATE FUNCTION pg_temp.late() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN {statement}; RETURN NULL; END $$"
    )
    connection.exec_driver_sql(
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION pg_temp.late()"
    )
    connection.exec_driver_sql("INSERT INTO late VALUES (1)")


def sleep_at_commit(connection: Connection, seconds: float = 10) -> None:
    at_commit(connection, f"PERFORM pg_sleep({seconds})")


@contextlib.contextmanager
def a_standby_that_never_answers(server: Server) -> Iterator[None]:
    """Let every COMMIT of the server wait for a standby server that does not exist."""
    if os.environ.get("TEST_POSTGRESQL_URL"):
        pytest.skip("the settings of a server that is not our own are left alone")
    server.command("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    try:
        server.command("SELECT pg_reload_conf()")
        time.sleep(0.3)  # the process that publishes it to the others says nothing
        yield
    finally:
        server.command("ALTER SYSTEM RESET synchronous_standby_names")
        server.command("SELECT pg_reload_conf()")


# MariaDB --------------------------------------------------------------------------------------


def doomed(error: DBAPIError) -> bool:
    return aborts_transaction(error)


def test_mysqlclient_as_well() -> None:
    """Each test of this part runs with PyMySQL, and with mysqlclient where that is installed."""
    if "mysqldb" not in ON_MARIADB:
        pytest.skip("mysqlclient is not installed")


def test_a_deadlock_on_mariadb(mariadb: Server) -> None:
    """The victim has lost everything, and its driver would go on."""
    with mariadb.engine.connect() as first, mariadb.engine.connect() as second:
        insert(first, 10)
        insert(second, 20)
        victim, error = deadlock(first, second)
        lost = 10 if victim is first else 20
        assert not sees(victim, lost)
        insert(victim, lost + 1)
        victim.commit()
    expect(error, BEFORE_COMMIT, NOT_APPLIED, code="1213", transient=True)
    expect(error, AT_COMMIT, NOT_APPLIED, code="1213", transient=True)  # as Galera raises it
    assert doomed(error)
    assert not mariadb.is_stored(lost)
    assert mariadb.is_stored(lost + 1)


def test_a_deadlock_inside_a_savepoint_on_mariadb(mariadb: Server) -> None:
    """The savepoint is gone with the rest: to roll back to it is an error of its own."""
    with mariadb.engine.connect() as first, mariadb.engine.connect() as second:
        for number, connection in enumerate([first, second]):
            insert(connection, 10 + number)
            connection.exec_driver_sql("SAVEPOINT before_it")
        victim, error = deadlock(first, second)
        assert doomed(error)
        later = failure(lambda: victim.exec_driver_sql("ROLLBACK TO SAVEPOINT before_it"))
        assert not sees(victim, 10 + [first, second].index(victim))
    expect(later, BEFORE_COMMIT, FAILED, code="1305")


def test_a_lock_timeout_on_mariadb(mariadb: Server) -> None:
    """Only the statement is undone, but a server can be set to undo the transaction."""
    with mariadb.engine.connect() as holder, mariadb.other_engine().connect() as connection:
        lock(holder, 1)
        insert(connection, 10)
        statement = "SELECT n FROM items WHERE id = 1 FOR UPDATE NOWAIT"
        error = failure(lambda: connection.exec_driver_sql(statement))
        assert sees(connection, 10)
        connection.exec_driver_sql("SET SESSION innodb_lock_wait_timeout = 1")
        waited = failure(lambda: lock(connection, 1))
    for one in (error, waited):
        expect(one, BEFORE_COMMIT, NOT_APPLIED, code="1205", transient=True)
        assert doomed(one)


def test_a_changed_row_on_mariadb(mariadb: Server) -> None:
    """``innodb_snapshot_isolation`` throws the transaction away as a deadlock does."""
    engine = mariadb.other_engine(isolation_level="REPEATABLE READ")
    with engine.connect() as connection:
        known = connection.exec_driver_sql("SHOW VARIABLES LIKE 'innodb_snapshot_isolation'")
        if not known.all():
            pytest.skip("this server has no innodb_snapshot_isolation")
        connection.exec_driver_sql("SET SESSION innodb_snapshot_isolation = ON")
        connection.commit()
        assert sees(connection, 1)  # the snapshot
        insert(connection, 10)
        mariadb.command("UPDATE items SET n = 5 WHERE id = 1")
        error = failure(lambda: lock(connection, 1))
        assert not sees(connection, 10)
    expect(error, BEFORE_COMMIT, NOT_APPLIED, code="1020", transient=True)
    assert doomed(error)


@pytest.mark.parametrize("moment", [BEFORE_COMMIT, AT_COMMIT])
def test_a_connection_that_was_killed(mariadb: Server, moment: Moment) -> None:
    """Between two statements."""
    with mariadb.engine.connect() as connection:
        insert(connection, 10)
        kill(mariadb, session(connection))
        action = connection.commit if moment is AT_COMMIT else lambda: sees(connection, 1)
        error = failure(action)
    assert code_of(error) in {"2006", "2013"}
    outcome = UNKNOWN if moment is AT_COMMIT else NOT_APPLIED
    expect(error, moment, outcome, code=code_of(error), lost=True)
    assert doomed(error)
    assert not mariadb.is_stored(10)


def test_a_connection_that_was_killed_in_a_statement(mariadb: Server) -> None:
    """In the middle of waiting for a lock."""
    with mariadb.engine.connect() as holder, mariadb.engine.connect() as connection:
        lock(holder, 1)
        number = session(connection)
        wait = in_background(lambda: lock(connection, 1))
        wait_until_busy(mariadb, number)
        kill(mariadb, number)
        error = wait()
    expect(error, BEFORE_COMMIT, NOT_APPLIED, code=code_of(error), lost=True)
    assert doomed(error)


def test_a_query_that_was_killed(mariadb: Server) -> None:
    """``KILL QUERY`` undoes one statement."""
    with mariadb.engine.connect() as holder, mariadb.engine.connect() as connection:
        lock(holder, 1)
        insert(connection, 10)
        number = session(connection)
        wait = in_background(lambda: lock(connection, 1))
        wait_until_busy(mariadb, number)
        mariadb.command(f"KILL QUERY {number}")
        error = wait()
        assert sees(connection, 10)
    expect(error, BEFORE_COMMIT, NOT_APPLIED, code="1317")
    assert not doomed(error)


def test_a_statement_that_took_too_long(mariadb: Server) -> None:
    """``max_statement_time`` undoes one statement."""
    with mariadb.other_engine().connect() as connection:
        insert(connection, 10)
        connection.exec_driver_sql("SET SESSION max_statement_time = 0.05")
        error = failure(lambda: connection.exec_driver_sql("SELECT SLEEP(10)"))
        assert sees(connection, 10)
    expect(error, BEFORE_COMMIT, NOT_APPLIED, code="1969")
    assert not doomed(error)


def test_a_connection_that_was_idle_on_mariadb(mariadb: Server) -> None:
    """``wait_timeout`` and ``idle_transaction_timeout`` say goodbye in the same way: not at all."""
    engine = mariadb.other_engine()
    with engine.connect() as idle, engine.connect() as in_transaction:
        idle.exec_driver_sql("SET SESSION wait_timeout = 1")
        in_transaction.exec_driver_sql("SET SESSION idle_transaction_timeout = 1")
        insert(idle, 10)
        insert(in_transaction, 11)
        time.sleep(1.5)
        errors = [failure(idle.commit), failure(in_transaction.commit)]
    for error in errors:
        assert code_of(error) in {"2006", "2013"}
        expect(error, AT_COMMIT, UNKNOWN, code=code_of(error), lost=True)
    assert not mariadb.is_stored(10)
    assert not mariadb.is_stored(11)


def test_a_duplicate_key_on_mariadb(mariadb: Server) -> None:
    """Only the statement is undone, and the unit may go on."""
    with mariadb.engine.connect() as connection:
        insert(connection, 10)
        error = failure(lambda: insert(connection, 1))
        assert sees(connection, 10)
        connection.commit()
    expect(error, BEFORE_COMMIT, FAILED, code="1062")
    assert not doomed(error)
    assert mariadb.is_stored(10)


@pytest.mark.fault(
    "N12",
    fault="The server has no connection left for the app",
    then="An error says that nothing is stored; the other connections keep working",
)
def test_the_limit_of_connections_of_a_user(mariadb: Server) -> None:
    """Nothing was begun; unlike libpq, the drivers tell the code."""
    user = f"uow_limited_{os.getpid()}"
    mariadb.command(f"CREATE USER {user} IDENTIFIED BY 'limited' WITH MAX_USER_CONNECTIONS 1")
    try:
        mariadb.command(f"GRANT ALL ON {make_url(mariadb.url).database}.* TO {user}")
        url = make_url(mariadb.url).set(username=user, password="limited")
        engine = mariadb.other_engine(url.render_as_string(hide_password=False))
        with engine.connect():
            error = failure(engine.connect)
        expect(error, BEFORE_COMMIT, NOT_APPLIED, code="1226")
    finally:
        mariadb.command(f"DROP USER {user}")


@pytest.mark.fault(
    "C10",
    fault="A node of a Galera cluster does not know whether a COMMIT has succeeded (1180, 1047)",
    then="The error says that the outcome is unknown, and the connection is dropped",
)
@pytest.mark.parametrize(
    ("number", "before", "at_commit", "lost"),
    [
        (1180, UNKNOWN, UNKNOWN, True),
        (1047, NOT_APPLIED, UNKNOWN, True),
        (1614, NOT_APPLIED, NOT_APPLIED, False),
    ],
)
def test_errors_of_a_cluster(
    mariadb: Server, number: int, before: Outcome, at_commit: Outcome, lost: bool
) -> None:
    """A single server signals what a Galera node says, and the driver makes its error of it."""
    signal = f"SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {number}, MESSAGE_TEXT = 'on purpose'"
    with mariadb.engine.connect() as connection:
        error = failure(lambda: connection.exec_driver_sql(signal))
    transient = number == 1614
    code = str(number)
    expect(error, BEFORE_COMMIT, before, code=code, lost=lost, transient=transient)
    expect(error, AT_COMMIT, at_commit, code=code, lost=lost, transient=transient)
    assert doomed(error)


def session(connection: Connection) -> int:
    number: int = connection.exec_driver_sql("SELECT connection_id()").scalar_one()
    return number


def kill(server: Server, number: int) -> None:
    """End a connection, and wait until it is gone."""
    server.command(f"KILL {number}")
    query = f"SELECT id FROM information_schema.processlist WHERE id = {number}"
    for _ in range(1000):
        if not server.witness.ask(query):
            return
        time.sleep(0.01)
    raise AssertionError("the connection did not end")


def wait_until_busy(server: Server, number: int) -> None:
    query = f"SELECT command FROM information_schema.processlist WHERE id = {number}"
    for _ in range(1000):
        if server.witness.ask(query) == ["Query"]:
            return
        time.sleep(0.01)
    raise AssertionError("the statement did not start")


# On every server ------------------------------------------------------------------------------


def test_a_server_that_refuses(server: Server) -> None:
    """Nothing listens on the port."""
    with FaultProxy.of(server.url) as proxy:
        url = proxy.url_for(server.url)
    error = failure(server.other_engine(url).connect)
    expect(error, BEFORE_COMMIT, NOT_APPLIED, code=code_of(error), lost=True)
    assert code_of(error) in {None, "2002", "2003"}


def test_a_login_that_is_cut(server: Server) -> None:
    """The connection ends before it was one."""
    with FaultProxy.of(server.url) as proxy:
        user = make_url(server.url).username or ""
        proxy.cut("before", at=user.encode())
        error = failure(server.other_engine(proxy.url_for(server.url)).connect)
        assert proxy.cuts == 1
    expect(error, BEFORE_COMMIT, NOT_APPLIED, code=code_of(error), lost=True)


def test_a_statement_that_is_cut(server: Server) -> None:
    """The connection ends in the middle of a unit; COMMIT is never reached."""
    with FaultProxy.of(server.url) as proxy:
        engine = server.other_engine(proxy.url_for(server.url))
        with engine.connect() as connection:
            insert(connection, 10)
            proxy.cut("after_send", at=b"INSERT")
            error = failure(lambda: insert(connection, 11))
            proxy.settle()
    expect(error, BEFORE_COMMIT, NOT_APPLIED, code=code_of(error), lost=True)
    assert not server.is_stored(10)
    assert not server.is_stored(11)


@pytest.mark.parametrize("reset", [True, False])
def test_a_connection_that_died_while_idle(server: Server, reset: bool) -> None:
    """By RST or by FIN, between two statements."""
    with FaultProxy.of(server.url) as proxy:
        engine = server.other_engine(proxy.url_for(server.url))
        with engine.connect() as connection:
            insert(connection, 10)
            proxy.drop(reset=reset)
            error = failure(lambda: insert(connection, 11))
    expect(error, BEFORE_COMMIT, NOT_APPLIED, code=code_of(error), lost=True)
    assert not server.is_stored(10)


@pytest.mark.parametrize("moment", [BEFORE_COMMIT, AT_COMMIT])
def test_a_connection_that_was_closed_before(server: Server, moment: Moment) -> None:
    """By the app, by a watchdog: the driver refuses by itself, each in its own words.

    At COMMIT that is unknown as well: it may be the second try, after a first that was cut.
    """
    with server.other_engine().connect() as connection:
        insert(connection, 10)
        driver_connection = connection.connection.driver_connection
        assert driver_connection is not None
        driver_connection.close()
        action = connection.commit if moment is AT_COMMIT else lambda: sees(connection, 1)
        error = failure(action)
        connection.invalidate()
    outcome = UNKNOWN if moment is AT_COMMIT else NOT_APPLIED
    expect(error, moment, outcome, code=code_of(error), lost=True)
    assert not server.is_stored(10)


# SQLite ---------------------------------------------------------------------------------------


class File:
    """A SQLite file and engines on it that begin their transactions themselves."""

    def __init__(self, path: Path, journal: str = "WAL") -> None:
        self.path = path
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute(f"PRAGMA journal_mode = {journal}")
            connection.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, n INTEGER)")
            connection.execute("INSERT INTO items VALUES (1, 0), (2, 0)")
            connection.commit()

    def engine(self, query: str = "", begin: str = "BEGIN") -> Engine:
        engine = create_engine(
            f"sqlite:///file:{self.path}?uri=true{query}",
            poolclass=NullPool,
            connect_args={"timeout": 0.05, "isolation_level": None, "check_same_thread": False},
        )

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql(begin)

        return engine

    def is_stored(self, number: int) -> bool:
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            found = connection.execute("SELECT id FROM items WHERE id = ?", [number])
            return bool(found.fetchall())


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "items.db")


def name(full: str) -> str:
    """The code as this Python can tell it: 3.10 knows the text only."""
    return full if hasattr(sqlite3, "SQLITE_BUSY") else "_".join(full.split("_")[:2])


def test_a_busy_file(file: File) -> None:
    """Another one writes, and goes on longer than the timeout."""
    engine = file.engine(begin="BEGIN IMMEDIATE")
    with engine.connect() as holder:
        insert(holder, 10)
        with engine.connect() as connection:
            error = failure(lambda: sees(connection, 1))
    expect(error, BEFORE_COMMIT, NOT_APPLIED, code="SQLITE_BUSY", transient=True)


def test_a_stale_snapshot(file: File) -> None:
    """A reader that wants to write after somebody else has written: no timeout helps."""
    engine = file.engine()
    with engine.connect() as connection:
        assert sees(connection, 1)
        with engine.connect() as other:
            insert(other, 10)
            other.commit()
        error = failure(lambda: insert(connection, 11))
    code = name("SQLITE_BUSY_SNAPSHOT")
    expect(error, BEFORE_COMMIT, NOT_APPLIED, code=code, transient=True)
    assert not file.is_stored(11)


def test_a_commit_that_waits_for_a_reader(tmp_path: Path) -> None:
    """With a rollback journal a reader can hold up the COMMIT itself."""
    file = File(tmp_path / "items.db", journal="DELETE")
    engine = file.engine()
    with engine.connect() as reader, engine.connect() as writer:
        assert sees(reader, 1)
        insert(writer, 10)
        error = failure(writer.commit)
    expect(error, AT_COMMIT, NOT_APPLIED, code="SQLITE_BUSY", transient=True)
    assert not file.is_stored(10)


def test_a_table_that_is_locked_in_a_shared_cache(file: File) -> None:
    """Between connections of one process that share their cache."""
    engine = file.engine("&cache=shared")
    with engine.connect() as writer, engine.connect() as reader:
        insert(writer, 10)
        error = failure(lambda: sees(reader, 1))
    expected = name("SQLITE_LOCKED_SHAREDCACHE")
    expect(error, BEFORE_COMMIT, NOT_APPLIED, code=expected, transient=True)


def test_a_database_that_may_not_grow(file: File) -> None:
    """SQLite rolls back by itself, and the driver goes on; the table says what became of it."""
    with file.engine().connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        error = failure(
            lambda: connection.exec_driver_sql(
                "INSERT INTO items WITH RECURSIVE many(id) AS"
                " (VALUES (10) UNION ALL SELECT id + 1 FROM many WHERE id < 90000)"
                " SELECT id, 0 FROM many"
            )
        )
    expect(error, BEFORE_COMMIT, FAILED, code="SQLITE_FULL")
    assert not file.is_stored(10)


@pytest.mark.fault("C9", fault="The disk is full at COMMIT, on SQLite", then="Nothing is stored")
def test_a_disk_that_is_full_at_commit(tmp_path: Path) -> None:
    """The log of the transaction is written by COMMIT; without space there is no COMMIT."""
    with small_disk(tmp_path / "disk") as folder:
        file = File(folder / "items.db")
        with file.engine().connect() as connection:
            connection.exec_driver_sql("PRAGMA cache_size = 10000")
            connection.exec_driver_sql(
                "INSERT INTO items WITH RECURSIVE many(id) AS"
                " (VALUES (10) UNION ALL SELECT id + 1 FROM many WHERE id < 90000)"
                " SELECT id, 0 FROM many"
            )
            error = failure(connection.commit)
        expect(error, AT_COMMIT, FAILED, code="SQLITE_FULL")
        assert not file.is_stored(10)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a small disk, where mounting is allowed")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_file_that_may_only_be_read(file: File) -> None:
    """It would be refused again."""
    with file.engine("&mode=ro").connect() as connection:
        assert sees(connection, 1)
        error = failure(lambda: insert(connection, 10))
    expect(error, BEFORE_COMMIT, FAILED, code="SQLITE_READONLY")


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    """A folder is no database."""
    engine = create_engine(f"sqlite:///{tmp_path}")
    error = failure(engine.connect)
    expect(error, BEFORE_COMMIT, FAILED, code="SQLITE_CANTOPEN")


def test_constraints_of_sqlite(file: File) -> None:
    """A duplicate key at once, a deferred foreign key at COMMIT."""
    with file.engine().connect() as connection:
        expected = name("SQLITE_CONSTRAINT_PRIMARYKEY")
        expect(failure(lambda: insert(connection, 1)), BEFORE_COMMIT, FAILED, code=expected)
        connection.rollback()
    with file.engine(begin="PRAGMA foreign_keys = ON").connect() as connection:
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql(
            "CREATE TABLE detail (id INTEGER REFERENCES items DEFERRABLE INITIALLY DEFERRED)"
        )
        insert(connection, 10)
        connection.exec_driver_sql("INSERT INTO detail VALUES (99)")
        error = failure(connection.commit)
    expect(error, AT_COMMIT, FAILED, code=name("SQLITE_CONSTRAINT_FOREIGNKEY"))
    assert not file.is_stored(10)


def test_an_interrupted_statement_of_sqlite(file: File) -> None:
    """``interrupt()`` from another thread."""
    with file.engine().connect() as connection:
        driver_connection = connection.connection.driver_connection
        assert isinstance(driver_connection, sqlite3.Connection)
        timer = threading.Timer(0.1, driver_connection.interrupt)
        timer.start()
        endless = (
            "WITH RECURSIVE many(id) AS (VALUES (1) UNION ALL SELECT id + 1 FROM many)"
            " SELECT count(*) FROM many"
        )
        error = failure(lambda: connection.exec_driver_sql(endless))
        timer.join()
    expect(error, BEFORE_COMMIT, NOT_APPLIED, code="SQLITE_INTERRUPT")


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """It will not be one at the next try."""
    path = tmp_path / "letter.db"
    path.write_text("Dear reader, " * 100)
    with create_engine(f"sqlite:///{path}").connect() as connection:
        error = failure(lambda: connection.exec_driver_sql("SELECT * FROM items"))
    expect(error, BEFORE_COMMIT, FAILED, code="SQLITE_NOTADB")


def test_a_closed_database(file: File) -> None:
    """Somebody has closed the driver's connection."""
    with file.engine().connect() as connection:
        driver_connection = connection.connection.driver_connection
        assert isinstance(driver_connection, sqlite3.Connection)
        driver_connection.close()
        error = failure(lambda: connection.exec_driver_sql("SELECT 1"))
    expect(error, BEFORE_COMMIT, NOT_APPLIED, code=None, lost=True)
