"""The tables of outcomes, read with errors made by hand; no driver and no server is needed.

``tests/faults/test_outcomes_on_servers.py`` asks real servers whether the tables are right.
"""

from __future__ import annotations

import ast
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import QueuePool, create_engine
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.exc import OperationalError as SQLAlchemyOperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from flask_uow._drivers import outcomes as _outcomes
from flask_uow._drivers.outcomes import (
    Moment,
    Outcome,
    aborts_transaction,
    code_of,
    is_disconnect,
    is_transient,
    outcome_of,
)

NOT_APPLIED, UNKNOWN, FAILED = Outcome.NOT_APPLIED, Outcome.UNKNOWN, Outcome.FAILED


def made(module: str, *args: Any, name: str = "OperationalError", **attributes: Any) -> Exception:
    """An error as the driver *module* would raise it."""
    attributes["__module__"] = module
    error: Exception = type(name, (Exception,), attributes)(*args)
    return error


def wrapped(orig: BaseException, *, invalidated: bool = False) -> DBAPIError:
    """*orig* as SQLAlchemy raises it."""
    return DBAPIError("SELECT 1", {}, orig, connection_invalidated=invalidated)


def outcomes(error: BaseException) -> tuple[Outcome, Outcome]:
    """Before COMMIT and at COMMIT."""
    return outcome_of(error, Moment.BEFORE_COMMIT), outcome_of(error, Moment.AT_COMMIT)


def mysql_errors(*numbers: int) -> list[Exception]:
    return [made("pymysql.err", number, "text") for number in numbers]


def oracle_errors(*numbers: int) -> list[Exception]:
    details = [SimpleNamespace(code=number, full_code=f"ORA-{number:05}") for number in numbers]
    return [made("oracledb.exceptions", one) for one in details]


def psycopg_error(sqlstate: str | None, severity: str | None = None, **more: Any) -> Exception:
    diagnosis = SimpleNamespace(severity_nonlocalized=severity)
    return made("psycopg.errors", "text", sqlstate=sqlstate, diag=diagnosis, **more)


CONFLICTS = [
    psycopg_error("40001", "ERROR"),
    psycopg_error("40P01", "ERROR"),
    psycopg_error("55P03", "ERROR"),
    made("psycopg2.errors", "text", pgcode="40001"),
    *mysql_errors(1213, 1205, 1020),
    made("MySQLdb._exceptions", 1213, "Deadlock found"),
    made("sqlite3", "database is locked", sqlite_errorname="SQLITE_BUSY"),
    made("sqlite3", "database is locked", sqlite_errorname="SQLITE_BUSY_SNAPSHOT"),
    made("sqlite3", "database table is locked", sqlite_errorname="SQLITE_LOCKED_SHAREDCACHE"),
    made("sqlite3", "locking protocol", sqlite_errorname="SQLITE_PROTOCOL"),
    made("pyodbc", "40001", "[40001] deadlocked on lock resources (1205)"),
    *[made("pymssql._pymssql", number, b"text") for number in (1205, 1222, 3960)],
    *mysql_errors(3572, 1206, 1613, 1614),
    *oracle_errors(60, 8177),
]


@pytest.mark.parametrize("error", CONFLICTS, ids=repr)
def test_a_conflict_is_transient_at_both_moments(error: Exception) -> None:
    """Serialization failures, deadlocks and lock timeouts have certainly stored nothing."""
    assert outcomes(error) == (NOT_APPLIED, NOT_APPLIED)
    assert is_transient(error)
    assert not is_disconnect(error)


LOST = [
    psycopg_error(None),  # what libpq itself reports has no SQLSTATE
    made("psycopg.errors", "text", name="ConnectionTimeout", sqlstate="08006"),
    psycopg_error("57P01", "FATAL"),
    *[psycopg_error(code) for code in ("57P01", "57P02", "57P03", "57P05", "25P04", "08P01")],
    psycopg_error("57P05", "FATAL"),
    psycopg_error("25P04", "FATAL"),
    psycopg_error("08P01", "FATAL"),
    psycopg_error("58000", "FATAL"),  # in no row: the severity is enough
    psycopg_error("XX000", "PANIC"),
    made("psycopg2", "server closed the connection unexpectedly", pgcode=None),
    made("psycopg2", "connection already closed", pgcode=None, name="InterfaceError"),
    made("psycopg2", "error with status PGRES_TUPLES_OK", pgcode=None, name="DatabaseError"),
    *mysql_errors(1047, 1053, 1158, 1159, 1160, 1161, 1927, 2002, 2003, 2005, 2006, 2013),
    *mysql_errors(2014, 2027, 2045, 2055, 3169, 4031),
    made("pymysql.err", 0, "", name="InterfaceError"),
    made("MySQLdb._exceptions", 2013, "Lost connection"),
    made("sqlite3", "Cannot operate on a closed database.", name="ProgrammingError"),
    *oracle_errors(28, 1012, 3113, 3114, 3135),
    *[made("pyodbc", code, "text") for code in ("08S01", "08001")],
]


@pytest.mark.parametrize("error", LOST, ids=repr)
def test_a_lost_connection_is_unknown_at_commit(error: Exception) -> None:
    """Before COMMIT nothing is stored; at COMMIT the answer may have been lost, or the question."""
    assert outcomes(error) == (NOT_APPLIED, UNKNOWN)
    assert is_disconnect(error)
    assert not is_transient(error)


IN_DOUBT = [
    psycopg_error("40003", "ERROR"),
    psycopg_error("08007", "ERROR"),
    made("pymysql.err", 1180, "Got error 'Operation not permitted' during COMMIT"),
]


@pytest.mark.parametrize("error", IN_DOUBT, ids=repr)
def test_a_server_that_does_not_know_itself_is_believed(error: Exception) -> None:
    """These errors are about a COMMIT, wherever they turn up: an implicit one, a function's."""
    assert outcomes(error) == (UNKNOWN, UNKNOWN)
    assert not is_transient(error)


REFUSED = [
    psycopg_error("57014", "ERROR"),
    psycopg_error("25006", "ERROR"),
    psycopg_error("53300", "FATAL"),
    psycopg_error("25P03", "FATAL"),  # PostgreSQL ends a session that is idle, not one in COMMIT
]


@pytest.mark.parametrize("error", REFUSED, ids=repr)
def test_a_refusal_is_certain_at_both_moments(error: Exception) -> None:
    """Timeouts and limits of PostgreSQL are definite, but no matter of other transactions."""
    assert outcomes(error) == (NOT_APPLIED, NOT_APPLIED)
    assert not is_transient(error)


STOPPED = [
    psycopg_error("08006", "ERROR"),  # the connection of a foreign server, not this one
    *mysql_errors(1317, 1969, 3024, 1290, 1836, 1040, 1203, 1226),
    made("sqlite3", "interrupted", sqlite_errorname="SQLITE_INTERRUPT"),
]


@pytest.mark.parametrize("error", STOPPED, ids=repr)
def test_what_was_stopped_is_certain_before_commit_only(error: Exception) -> None:
    """The connection is good, and of an interrupted COMMIT nobody promises anything."""
    assert outcomes(error) == (NOT_APPLIED, UNKNOWN)
    assert not is_disconnect(error)
    assert not is_transient(error)


WRONG = [
    psycopg_error("23505", "ERROR"),
    psycopg_error("23503", "ERROR"),  # deferred: at COMMIT
    psycopg_error("42601", "ERROR"),
    psycopg_error("25P02", "ERROR"),
    psycopg_error("UOW01", "ERROR"),  # a function's own code
    psycopg_error("53100", "ERROR"),
    psycopg_error("28P01", "FATAL"),
    psycopg_error("3D000", "FATAL"),
    made("psycopg2.errors", "text", pgcode="23505", name="UniqueViolation"),
    made("sqlite3", "text", sqlite_errorname="SQLITE_CONSTRAINT_UNIQUE", name="IntegrityError"),
    made("sqlite3", "text", sqlite_errorname="SQLITE_FULL"),
    made("sqlite3", "text", sqlite_errorname="SQLITE_READONLY_DBMOVED"),
    made("sqlite3", "text", sqlite_errorname="SQLITE_ERROR"),
]


@pytest.mark.parametrize("error", WRONG, ids=repr)
def test_an_answer_of_the_server_is_definite(error: Exception) -> None:
    """A violated constraint has rolled back, deferred to COMMIT or not, and would fail again."""
    assert outcomes(error) == (FAILED, FAILED)
    assert not is_transient(error)


def too_many_values() -> Iterator[Exception]:
    """psycopg's, around the words of libpq, which has them in many languages."""
    for what in "query and params", "prepared query":
        for why in (
            "number of parameters must be between 0 and 65535",
            "Anzahl der Parameter muss zwischen 0 und 65535 sein",
        ):
            yield made("psycopg", f"sending {what} failed: {why}", name="OperationalError")


UNNAMED = [
    made("psycopg", "the query has 1 placeholder", sqlstate=None, name="ProgrammingError"),
    made("psycopg2", "cursor already closed", pgcode=None, name="InterfaceError"),
    made("pymysql.err", 1062, "Duplicate entry", name="IntegrityError"),
    *too_many_values(),
    made("pymysql.err", 1026, "Error writing file"),
    made("pymysql.err", "not enough arguments", name="ProgrammingError"),
    made("pymysql.err"),
    made("MySQLdb._exceptions", 1062, "Duplicate entry", name="IntegrityError"),
    made("sqlite3", "disk I/O error", sqlite_errorname="SQLITE_IOERR_FSYNC"),
    made("sqlite3", "Incorrect number of bindings supplied", name="ProgrammingError"),
    *oracle_errors(1),
    made("oracledb.exceptions", "text"),
    made("pyodbc", "23000", "Violation of UNIQUE KEY constraint"),
    made("pymssql._pymssql", (2627, b"Violation of UNIQUE KEY constraint")),
    wrapped(made("somedriver", "text")),
]


@pytest.mark.parametrize("error", UNNAMED, ids=repr)
def test_what_no_row_names_is_unknown_at_commit(error: Exception) -> None:
    """Nobody is told that nothing was stored because a table has no such row."""
    assert outcomes(error) == (FAILED, UNKNOWN)
    assert not is_transient(error)
    assert not is_disconnect(error)


@pytest.mark.parametrize(
    "error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit(), ValueError()]
)
def test_an_interruption_says_when_and_not_what(error: BaseException) -> None:
    """What is no error of the database is never a reason to run a unit again."""
    assert outcomes(error) == (FAILED, UNKNOWN)
    assert code_of(error) is None
    for question in (is_transient, is_disconnect, lambda one: aborts_transaction(one)):
        assert not question(error)


def test_a_refusal_of_sqlalchemy_is_unknown_at_commit() -> None:
    """It may be about a second ``commit()``, after a first one whose outcome is unknown."""
    assert outcomes(PendingRollbackError("text")) == (FAILED, UNKNOWN)


def test_an_exhausted_pool_has_done_nothing() -> None:
    """The unit waited for its connection in vain."""
    engine = create_engine(
        "sqlite://", poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=0
    )
    with engine.connect(), pytest.raises(PoolTimeout) as caught:
        engine.connect()
    assert outcome_of(caught.value, Moment.BEFORE_COMMIT) is NOT_APPLIED
    engine.dispose()


def test_the_error_of_sqlalchemy_is_as_good_as_the_drivers() -> None:
    """A ``DBAPIError`` is judged by its ``orig``."""
    error = wrapped(made("pymysql.err", 1213, "Deadlock found"))
    assert outcomes(error) == (NOT_APPLIED, NOT_APPLIED)
    assert is_transient(error)
    assert code_of(error) == "1213"
    assert aborts_transaction(error)


def test_a_subclass_is_known_by_its_base() -> None:
    """An app or a pool may derive errors of its own from the driver's."""

    class Impatient(sqlite3.OperationalError):
        pass

    assert is_transient(Impatient("database is locked"))


def test_an_invalidated_connection_makes_the_unnamed_a_loss() -> None:
    """SQLAlchemy knows disconnects by more than codes, and those of drivers without a table."""
    for orig in made("somedriver", "text"), made("pymysql.err", "Already closed", name="Error"):
        error = wrapped(orig, invalidated=True)
        assert outcomes(error) == (NOT_APPLIED, UNKNOWN)
        assert is_disconnect(error)


def test_an_invalidated_connection_does_not_change_a_definite_outcome() -> None:
    """A deadlock stays one, whatever else has happened to the connection."""
    error = wrapped(psycopg_error("40001", "ERROR"), invalidated=True)
    assert outcomes(error) == (NOT_APPLIED, NOT_APPLIED)
    assert is_disconnect(error)


def test_the_severity_tells_whether_the_session_lives() -> None:
    """``RAISE ... USING ERRCODE '08006'`` ends nothing; a FATAL of any code does."""
    assert not is_disconnect(psycopg_error("08006", "ERROR"))
    assert is_disconnect(psycopg_error("42501", "FATAL"))
    assert is_disconnect(psycopg_error("40001", "FATAL"))  # a replica: conflict with recovery
    assert is_transient(psycopg_error("40001", "FATAL"))


def test_the_severity_is_read_in_the_words_of_every_server() -> None:
    """PostgreSQL sends it twice, once in its own language; PgBouncer has one word."""
    for name in ("severity_nonlocalized", "severity"):
        diagnosis = SimpleNamespace(**{name: "FATAL"})
        assert is_disconnect(made("psycopg", "text", sqlstate="53300", diag=diagnosis))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (psycopg_error("40001"), "40001"),
        (made("psycopg2", "text", pgcode="57014"), "57014"),
        (made("pymysql.err", 1205, "text"), "1205"),
        (made("pymysql.err", 0, ""), None),
        (made("sqlite3", "text", sqlite_errorname="SQLITE_BUSY_SNAPSHOT"), "SQLITE_BUSY_SNAPSHOT"),
        (oracle_errors(60)[0], "ORA-00060"),
        (made("pyodbc", "40001", "text"), "40001"),
        (made("somedriver", "text"), None),
    ],
    ids=repr,
)
def test_the_code_is_the_word_of_the_database(error: Exception, code: str | None) -> None:
    """What a message shows, and a reader can look up."""
    assert code_of(error) == code


@pytest.mark.parametrize(
    ("text", "code", "expected"),
    [
        ("database is locked", "SQLITE_BUSY", NOT_APPLIED),
        ("database table is locked: users", "SQLITE_LOCKED", NOT_APPLIED),
        ("interrupted", "SQLITE_INTERRUPT", NOT_APPLIED),
        ("database or disk is full", "SQLITE_FULL", FAILED),
        ("attempt to write a readonly database", "SQLITE_READONLY", FAILED),
        ("unable to open database file", "SQLITE_CANTOPEN", FAILED),
        ("disk I/O error", "SQLITE_IOERR", FAILED),
        ("UNIQUE constraint failed: users.name", "SQLITE_CONSTRAINT", FAILED),
        ("no such table: interrupted", None, FAILED),
    ],
)
def test_sqlite_without_a_code_is_known_by_its_text(
    text: str, code: str | None, expected: Outcome
) -> None:
    """Python 3.10 does not tell the code."""
    error = sqlite3.OperationalError(text)
    assert not hasattr(error, "sqlite_errorname")
    assert code_of(error) == code
    assert outcome_of(error, Moment.BEFORE_COMMIT) is expected


@pytest.mark.parametrize("number", [1213, 1205, 1020, 1180, 1047, 1614, 2006, 2013])
def test_errors_that_doom_a_transaction_of_mysql(number: int) -> None:
    """The driver would go on, in a transaction that holds nothing of what came before."""
    assert aborts_transaction(made("pymysql.err", number, "text"))
    assert aborts_transaction(made("MySQLdb._exceptions", number, "text"))


@pytest.mark.parametrize("number", [1062, 1451, 1064, 1317, 1969, 1146])
def test_errors_that_undo_their_statement_only(number: int) -> None:
    """No false alarm: what came before is still there."""
    assert not aborts_transaction(made("pymysql.err", number, "text"))


def test_other_databases_are_asked_instead() -> None:
    """A doom is a matter of the table where no driver knows better."""
    assert not aborts_transaction(psycopg_error("40001", "ERROR"))
    assert not aborts_transaction(sqlite3.OperationalError("database or disk is full"))


def test_an_error_of_the_wrong_dialect_is_no_surprise() -> None:
    """SQLAlchemy's own class of an error does not matter."""
    error = SQLAlchemyOperationalError("SELECT 1", {}, ValueError("text"))
    assert outcomes(error) == (FAILED, UNKNOWN)


def test_the_tables_import_no_driver() -> None:
    """They can be read where none is installed."""
    folder = Path(_outcomes.__file__).parent
    trees = [ast.parse(path.read_text()) for path in folder.glob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    modules = {node.module for node in nodes if isinstance(node, ast.ImportFrom) if not node.level}
    modules |= {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    packages = {str(module).partition(".")[0] for module in modules} - {"sqlalchemy"}
    assert packages <= sys.stdlib_module_names - {"sqlite3"}
