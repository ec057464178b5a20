"""What became of a unit of work after an error: one table for each family of drivers.

Whether a unit may be run again depends on the error and on the moment. Before COMMIT a lost
connection has stored nothing; the same error at COMMIT says nothing at all, because the server
may have carried it out before the answer got lost. A conflict is certain at both moments.

The rows were seen on real servers (``tests/faults/``), or are marked as taken from documentation.
What no row names is ``FAILED`` before COMMIT; at COMMIT it is ``FAILED`` where the server's error
proves that it has rolled back, and ``UNKNOWN`` where it does not.

Nothing here imports a driver: an error is known by the module that its class comes from.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout


class Outcome(enum.Enum):
    """What is known of a unit that ended in an error."""

    NOT_APPLIED = "not applied"
    """Nothing is stored, and the whole unit may be run again."""
    UNKNOWN = "unknown"
    """It is stored or it is not: only the database can tell, asked anew."""
    FAILED = "failed"
    """It would fail again, or nobody here knows better."""


class Phase(enum.Enum):
    """How far the unit was."""

    BEFORE_COMMIT = "before COMMIT"
    """In a statement, while connecting, in the flush of a ``commit()``."""
    AT_COMMIT = "at COMMIT"
    """COMMIT had been handed to the driver, in this attempt or an earlier one."""


def outcome_of(error: BaseException, phase: Phase) -> Outcome:
    """Tell what became of the unit that *error* ended, as far as anybody can.

    One transaction for each unit is assumed: a unit that has committed in between is not to be
    run again, whatever this says.

    :param error: of SQLAlchemy, or a driver's own, or anything else that was raised there.
    """
    verdict = _judge(error)
    if verdict is not None:
        kind = verdict.kind
        return kind.before if phase is Phase.BEFORE_COMMIT else kind.at_commit
    if phase is Phase.AT_COMMIT:  # an interruption: it says when, not what the server did
        return Outcome.UNKNOWN
    # Of the errors that are not the database's, only this one has certainly done nothing.
    return Outcome.NOT_APPLIED if isinstance(error, PoolTimeout) else Outcome.FAILED


def code_of(error: BaseException) -> str | None:
    """The SQLSTATE, MySQL's number or SQLite's name of *error*, for messages.

    None if the driver has none: libpq keeps the SQLSTATE of a failed connect to itself, and
    psycopg2 that of a terminated session as well.
    """
    verdict = _judge(error)
    return verdict.code if verdict else None


def is_transient(error: BaseException) -> bool:
    """Was another transaction in the way? The unit is likely to succeed when it is run again."""
    verdict = _judge(error)
    return verdict is not None and verdict.kind.transient


def is_disconnect(error: BaseException) -> bool:
    """Is the connection lost, or in a state that nobody knows? It must not be used again.

    SQLAlchemy asks psycopg whether its connection is closed, and psycopg may not have noticed:
    an RST that arrives while it waits raises an error and leaves the connection open.
    """
    verdict = _judge(error)
    return verdict is not None and verdict.kind.lost


def aborts_transaction(error: BaseException, backend: str) -> bool:
    """Has the server thrown away the transaction, in which the driver would go on?

    Answered for the MySQL family, whose drivers do not notice it. Those of PostgreSQL and SQLite
    know the state of their transaction, and can be asked.

    :param backend: ``dialect.name``.
    """
    verdict = _judge(error) if backend in _MYSQL_BACKENDS else None
    return verdict is not None and (verdict.kind.lost or verdict.code in _MYSQL_ROLLS_BACK)


# Kinds of errors ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Kind:
    """
    :ivar before: the outcome, if the error came before COMMIT.
    :ivar at_commit: the outcome, if it came at COMMIT.
    :ivar transient: another transaction was in the way.
    :ivar lost: the connection must not be used again.
    """

    before: Outcome
    at_commit: Outcome
    transient: bool = False
    lost: bool = False


# Another transaction was in the way, and the server has certainly rolled this one back.
_CONFLICT = _Kind(Outcome.NOT_APPLIED, Outcome.NOT_APPLIED, transient=True)
# The server would not, and says so; later it may.
_REFUSED = _Kind(Outcome.NOT_APPLIED, Outcome.NOT_APPLIED)
# As before, but nobody promises that of a COMMIT.
_STOPPED = _Kind(Outcome.NOT_APPLIED, Outcome.UNKNOWN)
_LOST = _Kind(Outcome.NOT_APPLIED, Outcome.UNKNOWN, lost=True)
# It was lost before COMMIT could be read.
_LOST_EARLIER = _Kind(Outcome.NOT_APPLIED, Outcome.NOT_APPLIED, lost=True)
# The server does not know itself, and the error may be about an implicit COMMIT.
_IN_DOUBT = _Kind(Outcome.UNKNOWN, Outcome.UNKNOWN, lost=True)
# The unit is to blame, and nothing of it is stored.
_WRONG = _Kind(Outcome.FAILED, Outcome.FAILED)
_UNNAMED = _Kind(Outcome.FAILED, Outcome.UNKNOWN)


# PostgreSQL: psycopg, psycopg2, asyncpg -------------------------------------------------------

# By SQLSTATE, or by its class: the first two characters. An error that is no row is _WRONG: the
# server has answered, and an ERROR in answer to COMMIT means that it has rolled back.
_POSTGRESQL = {
    "40001": _CONFLICT,  # serialization failure; also a replica's conflict with recovery
    "40P01": _CONFLICT,  # deadlock
    "55P03": _CONFLICT,  # lock_timeout, NOWAIT
    "40003": _IN_DOUBT,  # documentation: CockroachDB's "result is ambiguous"
    "08007": _IN_DOUBT,  # documentation: transaction resolution unknown
    "57014": _REFUSED,  # statement_timeout, cancelled by request
    "25006": _REFUSED,  # read-only: the primary is another server now
    "53300": _REFUSED,  # too many connections. Of a failed connect only asyncpg tells a code
    "57P01": _LOST,  # terminated, server shut down. At COMMIT it may be waiting for a standby
    "57P02": _LOST,  # documentation: another server process crashed
    "57P03": _LOST,  # documentation: the server is starting up or shutting down
    "57P05": _LOST,  # idle_session_timeout
    "25P04": _LOST,  # transaction_timeout
    "25P03": _LOST_EARLIER,  # idle_in_transaction_session_timeout: COMMIT was not read any more
    "08": _LOST,  # the connection; 08P01 is PgBouncer's query_wait_timeout (documentation)
    "28": _WRONG,  # no such role, wrong password
    "3D": _WRONG,  # no such database
}
# These severities, and no others, end the session: a foreign data wrapper may report a class 08
# of its own, and the session lives on.
_ENDS_SESSION = frozenset(["FATAL", "PANIC"])


def _judge_postgresql(error: BaseException) -> _Verdict:
    code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if code is None:
        return _Verdict(None, _LOST if _tells_of_a_connection(error) else _UNNAMED)
    row = _POSTGRESQL.get(code) or _POSTGRESQL.get(code[:2])
    severity = _severity(error)
    if severity is None:
        return _Verdict(code, row or _WRONG)
    lost = severity in _ENDS_SESSION
    return _Verdict(code, replace(row or (_LOST if lost else _WRONG), lost=lost))


def _severity(error: BaseException) -> str | None:
    diagnosis = getattr(error, "diag", error)
    for name in ("severity_nonlocalized", "severity_en", "severity"):
        severity: str | None = getattr(diagnosis, name, None)
        if severity:
            return severity
    return None


def _tells_of_a_connection(error: BaseException) -> bool:
    """Of an error without SQLSTATE, so one of libpq or the driver: is it about the connection?"""
    names, text = [class_.__name__ for class_ in type(error).__mro__], str(error)
    if "InterfaceError" in names:  # most of them are misuse
        return "connection" in text
    # libpq counts the parameters, in the language of the system, and has sent nothing then.
    if text.startswith("sending ") and "65535" in text:
        return False
    # psycopg2 raises a bare DatabaseError if libpq has lost the thread.
    return "OperationalError" in names or names[0] == "DatabaseError"


# MySQL and MariaDB: PyMySQL, mysqlclient ------------------------------------------------------

# By number. An error that is no row is _UNNAMED: COMMIT fails so rarely that no rule is known.
_MYSQL = {
    1213: _CONFLICT,  # deadlock; Galera's certification conflict, also at COMMIT (documentation)
    1205: _CONFLICT,  # lock wait timeout, NOWAIT
    1020: _CONFLICT,  # innodb_snapshot_isolation, on by default from MariaDB 11.6.2 on
    3572: _CONFLICT,  # documentation: NOWAIT on MySQL 8
    1206: _CONFLICT,  # documentation: the lock table is full
    1613: _CONFLICT,  # documentation: XA, lock wait timeout
    1614: _CONFLICT,  # documentation: XA, deadlock
    1180: _IN_DOUBT,  # error during COMMIT. On Galera one of four such commits was stored
    1047: _LOST,  # a Galera node without its cluster; another connection may find another node
    1317: _STOPPED,  # KILL QUERY
    1969: _STOPPED,  # max_statement_time
    3024: _STOPPED,  # documentation: max_execution_time on MySQL
    1290: _STOPPED,  # documentation: --read-only; the primary is another server now
    1836: _STOPPED,  # documentation: read-only mode
    1040: _STOPPED,  # documentation: too many connections
    1203: _STOPPED,  # documentation: too many connections of this user
    1226: _STOPPED,  # max_user_connections
    0: _LOST,  # PyMySQL: its connection has been closed before
    1053: _LOST,  # documentation: the server shuts down
    1158: _LOST,  # documentation, and the next three: the server could not read or write
    1159: _LOST,
    1160: _LOST,
    1161: _LOST,
    1927: _LOST,  # documentation: KILL, on MariaDB
    2002: _LOST,  # cannot connect
    2003: _LOST,  # cannot connect
    2005: _LOST,  # unknown host
    2006: _LOST,  # gone away: wait_timeout, idle_transaction_timeout, KILL
    2013: _LOST,  # lost in mid-statement
    2014: _LOST,  # documentation: commands out of sync
    2027: _LOST,  # documentation: malformed packet
    2045: _LOST,  # documentation: shared memory
    2055: _LOST,  # documentation: lost connection, with a system error
    3169: _LOST,  # documentation: the session was killed
    4031: _LOST,  # documentation: wait_timeout, on MySQL 8
}
_MYSQL_BACKENDS = frozenset(["mysql", "mariadb"])
# After a lock wait timeout it depends on innodb_rollback_on_timeout, which a client cannot see.
_MYSQL_ROLLS_BACK = frozenset("1213 1205 1020 1206 1402 1613 1614 1180 1047".split())


def _judge_mysql(error: BaseException) -> _Verdict:
    number = error.args[0] if error.args else None
    if not isinstance(number, int):
        return _Verdict(None, _UNNAMED)
    return _Verdict(str(number) if number else None, _MYSQL.get(number, _UNNAMED))


# SQLite: sqlite3 ------------------------------------------------------------------------------

# By name, of the primary code: SQLITE_BUSY_SNAPSHOT is a SQLITE_BUSY. An error that is no row is
# _WRONG: SQLite has no server that could go on alone.
_SQLITE = {
    "SQLITE_BUSY": _CONFLICT,  # at COMMIT as well: a reader is in the way (rollback journal)
    "SQLITE_LOCKED": _CONFLICT,  # the same, between connections with a shared cache
    "SQLITE_PROTOCOL": _CONFLICT,  # documentation: a race for the locks of the WAL
    "SQLITE_INTERRUPT": _STOPPED,
    "SQLITE_IOERR": _UNNAMED,  # documentation: a COMMIT may be in the file, and fsync have failed
}
# Python 3.10 keeps the code to itself. The texts are SQLite's, the same in every language.
_SQLITE_TEXTS = {
    "database is locked": "SQLITE_BUSY",
    "database table is locked": "SQLITE_LOCKED",
    "database schema is locked": "SQLITE_LOCKED",
    "locking protocol": "SQLITE_PROTOCOL",
    "interrupted": "SQLITE_INTERRUPT",
    "disk I/O error": "SQLITE_IOERR",
    "database or disk is full": "SQLITE_FULL",
    "attempt to write a readonly database": "SQLITE_READONLY",
    "unable to open database file": "SQLITE_CANTOPEN",
    "database disk image is malformed": "SQLITE_CORRUPT",
    "file is not a database": "SQLITE_NOTADB",
}


def _judge_sqlite(error: BaseException) -> _Verdict:
    name: str | None = getattr(error, "sqlite_errorname", None)
    text = str(error)
    if name is None:
        name = next((name for start, name in _SQLITE_TEXTS.items() if text.startswith(start)), None)
    if name is None and "constraint failed" in text:
        name = "SQLITE_CONSTRAINT"
    if name is None:  # a misuse of the module
        return _Verdict(None, _LOST if "closed database" in text else _UNNAMED)
    primary = "_".join(name.split("_")[:2])
    return _Verdict(name, _SQLITE.get(primary, _WRONG))


# Oracle and SQL Server: from documentation only -----------------------------------------------

_ORACLE = {
    60: _CONFLICT,  # deadlock
    8177: _CONFLICT,  # serialization failure
    28: _LOST,  # the session was killed
    1012: _LOST,  # not logged on
    3113: _LOST,  # end of file on communication channel
    3114: _LOST,  # not connected
    3135: _LOST,  # lost contact
}
_SQL_SERVER: Mapping[object, _Kind] = {
    "40001": _CONFLICT,  # 1205, in the words of ODBC
    1205: _CONFLICT,  # deadlock
    1222: _CONFLICT,  # lock timeout
    3960: _CONFLICT,  # snapshot isolation
    "08S01": _LOST,
    "08001": _LOST,
}


def _judge_oracle(error: BaseException) -> _Verdict:
    details = error.args[0] if error.args else None
    number = getattr(details, "code", None)
    code: str | None = getattr(details, "full_code", None)
    return _Verdict(code, _ORACLE.get(number, _UNNAMED) if isinstance(number, int) else _UNNAMED)


def _judge_sql_server(error: BaseException) -> _Verdict:
    code = error.args[0] if error.args else None
    if not isinstance(code, (int, str)):
        return _Verdict(None, _UNNAMED)
    return _Verdict(str(code), _SQL_SERVER.get(code, _UNNAMED))


# Which table? ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Verdict:
    """The code of an error, and what it means."""

    code: str | None
    kind: _Kind


_DRIVERS: Mapping[str, Callable[[BaseException], _Verdict]] = {
    "psycopg": _judge_postgresql,
    "psycopg2": _judge_postgresql,
    "asyncpg": _judge_postgresql,
    "pymysql": _judge_mysql,
    "MySQLdb": _judge_mysql,
    "sqlite3": _judge_sqlite,
    "oracledb": _judge_oracle,
    "pyodbc": _judge_sql_server,
    "pymssql": _judge_sql_server,
}


def _judge(error: BaseException) -> _Verdict | None:
    """Look *error* up; None if it is not the database's."""
    if not isinstance(error, DBAPIError):
        return _judge_driver_error(error)
    verdict = _judge_driver_error(error.orig) if error.orig else None
    if verdict is None:  # a driver that is in no table
        verdict = _Verdict(None, _UNNAMED)
    if not error.connection_invalidated or verdict.kind.lost:
        return verdict
    # SQLAlchemy, or a listener, knows more of the connection; of the unit the code does.
    kind = _LOST if verdict.kind is _UNNAMED else replace(verdict.kind, lost=True)
    return replace(verdict, kind=kind)


def _judge_driver_error(error: BaseException) -> _Verdict | None:
    for class_ in type(error).__mro__:
        package, _, rest = class_.__module__.partition(".")
        if package == "sqlalchemy":  # its asyncpg dialect raises errors of its own
            package = rest.rpartition(".")[2]
        if package in _DRIVERS:
            return _DRIVERS[package](error)
    return None
