"""PostgreSQL: psycopg and psycopg2; a part of pg8000."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Collection, Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from sqlalchemy import Engine, event

from .._text import escaped
from .base import (
    CONFLICT,
    DISCONNECTED,
    DISCONNECTED_EARLIER,
    IN_DOUBT,
    REFUSED,
    UNNAMED,
    WRONG,
    Driver,
    Meaning,
    Missing,
    is_integer_of,
)

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect
    from sqlalchemy.pool import PoolProxiedConnection

logger = logging.getLogger(__name__)

# The status of a transaction in libpq.
_IDLE, _IN_TRANSACTION, _IN_ERROR = 0, 2, 3
_OPEN = frozenset([_IN_TRANSACTION, _IN_ERROR])
# A service file or a connection string may set the same parameters, and would be overridden.
_ELSEWHERE = {"service", "conninfo", "dsn"}

# By SQLSTATE, or by its class: the first two characters. An error without a row is WRONG: the
# server has replied, and an ERROR in reply to COMMIT means that it has rolled back.
_POSTGRESQL = {
    "40001": CONFLICT,  # serialization failure; also a replica's conflict with recovery
    "40P01": CONFLICT,  # deadlock
    "55P03": CONFLICT,  # lock_timeout, NOWAIT
    "40003": IN_DOUBT,  # documentation: CockroachDB's "result is ambiguous"
    "08007": IN_DOUBT,  # documentation: transaction resolution unknown
    "57014": REFUSED,  # statement_timeout, canceled by request
    "25006": REFUSED,  # read-only: the primary is another server now
    "53300": REFUSED,  # too many connections
    "57P01": DISCONNECTED,  # terminated, server shut down; at COMMIT, perhaps waiting for a standby
    "57P02": DISCONNECTED,  # documentation: another server process crashed
    "57P03": DISCONNECTED,  # documentation: the server is starting up or shutting down
    "57P05": DISCONNECTED,  # idle_session_timeout
    "25P04": DISCONNECTED,  # transaction_timeout
    "25P03": DISCONNECTED_EARLIER,  # idle_in_transaction_session_timeout, before COMMIT is read
    "08": DISCONNECTED,  # the connection; 08P01 is PgBouncer's query_wait_timeout (documentation)
    "28": WRONG,  # no such role, wrong password
    "3D": WRONG,  # no such database
}
# Only these severities end the session. A foreign data wrapper may report an error of class 08,
# and the session continues.
_ENDS_SESSION = frozenset(["FATAL", "PANIC"])
_IS_NULL = "23502"  # the SQLSTATE of a violated NOT NULL
_MISSING = {"42P01": Missing.TABLE, "42703": Missing.COLUMN}
_NO_FROM = "errorMissingRTE"  # raises 42P01 for a table that is not in the FROM of the statement


_KNOWN = "flask_uow.is_read_committed"  # in the "info" of a connection
_GUARDED = "_flask_uow_guarded"  # on a connection of psycopg
_WRITES = "25006"  # the SQLSTATE of a write in a read-only transaction
_IS_READ_COMMITTED = """
    current_setting('default_transaction_isolation') IN ('read committed', 'read uncommitted')
"""
_GUARD = f"""
    SELECT is_plain, CASE
        WHEN is_plain AND NOT pg_is_in_recovery() AND pg_backend_pid() = %s
            AND current_setting('default_transaction_read_only') = 'off'
        THEN set_config('default_transaction_read_only', 'on', false) = 'on'
    END
    FROM (SELECT {_IS_READ_COMMITTED} AS is_plain) AS server
"""  # noqa: S608  # constants


class _PostgreSQLConnection(Protocol):
    """A connection of psycopg or psycopg2; the latter's ``readonly`` is the former's ``read_only``.

    :ivar info: what psycopg knows of the session.
    :ivar pgconn: psycopg's connection of libpq.
    """

    autocommit: bool
    deferrable: bool | None
    isolation_level: int | None
    read_only: bool | None
    readonly: bool | None
    info: Any
    pgconn: Any

    def close(self) -> None: ...

    def cursor(self) -> Any: ...


def _is_guarded(connection: object) -> bool:
    return hasattr(connection, _GUARDED)


def _reset_read_only(dialect: Any, connection: _PostgreSQLConnection) -> None:
    dialect.set_readonly(connection, False if _is_guarded(connection) else None)


def _leave_autocommit(connection: _PostgreSQLConnection) -> None:
    try:
        connection.autocommit = False
    except BaseException as error:  # it is broken, or a timeout has struck just here
        connection.close()  # else all that it writes later would be stored at once
        if not isinstance(error, Exception):
            raise


def _set_guard(connection: Any, value: str) -> None:
    """Set the read-only default of a connection in autocommit, or close it if that fails.

    SQLAlchemy does not expect an error here, and would not return the connection to its pool. A
    closed connection is noticed by its next statement or its next checkout.
    """
    try:
        connection.execute(f"SET default_transaction_read_only = {value}")
    except BaseException as error:
        connection.close()
        if not isinstance(error, Exception):
            raise


@dataclass(frozen=True)
class _Family(Driver):
    """The server converts each parameter to the type of its column, or raises an error."""

    def can_compare(self, value: int | str, bits: int) -> bool:
        return is_integer_of(value, bits) if isinstance(value, int) else "\0" not in value


@dataclass(frozen=True)
class PostgreSQL(_Family):
    """A driver that does not expose the state of its transaction."""

    def is_aborted(self, connection: object, error: BaseException | None) -> bool:
        return error is not None


@dataclass(frozen=True)
class PG8000(PostgreSQL):
    """Its errors have a dict of the server's fields, with the letters of the protocol as keys."""

    def judge(self, error: BaseException) -> tuple[str | None, Meaning]:
        fields = _fields_of(error)
        if "C" not in fields:
            return None, DISCONNECTED if _is_about_a_connection(error) else UNNAMED
        return fields["C"], _meaning_of(fields["C"], fields.get("V") or fields.get("S"))

    def missing_in(self, error: BaseException) -> Missing | None:
        fields = _fields_of(error)
        return None if fields.get("R") == _NO_FROM else _MISSING.get(fields.get("C", ""))

    def constraint_of(self, error: BaseException, statement: object) -> str | None:
        fields = _fields_of(error)
        is_null = fields.get("C") == _IS_NULL
        return fields.get("n") or _column(is_null, fields.get("t"), fields.get("c"))


def _fields_of(error: BaseException) -> Mapping[str, str]:
    fields = error.args[0] if error.args else None
    return fields if isinstance(fields, Mapping) else {}


@dataclass(frozen=True)
class _LibPQ(_Family):
    """A driver built on libpq. Its failed transaction can continue after ROLLBACK TO SAVEPOINT.

    :cvar reporter: the attribute of a connection that has the ``transaction_status`` of libpq.
    """

    reporter: ClassVar[str]

    defers: ClassVar[bool] = True
    levels: ClassVar[Collection[int | None]] = (None,)

    def may_read_plainly(self, connection: _PostgreSQLConnection, info: dict[Any, Any]) -> bool:
        """Look at *connection*, and ask its server once for the default isolation level.

        The default may be set for the server, the database or the role.
        """
        if self.status_of(connection) != _IDLE or connection.autocommit or connection.deferrable:
            return False
        if connection.isolation_level not in self.levels or self.is_read_only(connection):
            return False
        known: bool | None = info.get(_KNOWN)
        if known is None:
            known = info[_KNOWN] = self._is_read_committed(connection)
        return known

    def read_plainly(self, execute: Callable[..., None], cursor: Any, *others: Any) -> bool:
        connection: _PostgreSQLConnection = cursor.connection
        if self.status_of(connection) != _IDLE:  # a listener has used a cursor of its own
            return False
        connection.autocommit = True  # without a round trip
        try:
            execute(cursor, *others)
        except BaseException as error:
            _leave_autocommit(connection)
            if self.is_refused_write(error):
                return False
            raise
        _leave_autocommit(connection)
        return True

    def is_refused_write(self, error: BaseException) -> bool:
        """Tell whether the server has refused a plain read because it would write."""
        return False

    def is_read_only(self, connection: _PostgreSQLConnection) -> bool:
        raise NotImplementedError

    def _is_read_committed(self, connection: _PostgreSQLConnection) -> bool:
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                return self.ask(connection, cursor)
        except Exception:  # not PostgreSQL itself, perhaps; a lost connection is noticed next
            return False
        finally:
            _leave_autocommit(connection)

    def ask(self, connection: _PostgreSQLConnection, cursor: Any) -> bool:
        """Tell whether the default isolation level is READ COMMITTED."""
        cursor.execute(f"SELECT {_IS_READ_COMMITTED}")
        (is_read_committed,) = cursor.fetchone()
        return bool(is_read_committed)

    def status_of(self, connection: object) -> int | None:
        """Return the transaction status of libpq; None if a wrapper hides it."""
        reporter = getattr(connection, self.reporter, None)
        status: int | None = getattr(reporter, "transaction_status", None)
        return status

    def is_aborted(self, connection: object, error: BaseException | None) -> bool:
        return self.status_of(connection) == _IN_ERROR

    def is_open(self, connection: object) -> bool:
        return self.status_of(connection) in _OPEN

    def judge(self, error: BaseException) -> tuple[str | None, Meaning]:
        code = _sqlstate_of(error)
        if code is None:
            return None, DISCONNECTED if _is_about_a_connection(error) else UNNAMED
        return code, _meaning_of(code, _severity(error))

    def missing_in(self, error: BaseException) -> Missing | None:
        diagnosis = getattr(error, "diag", None)
        if getattr(diagnosis, "source_function", None) == _NO_FROM:
            return None
        return _MISSING.get(_sqlstate_of(error) or "")

    def constraint_of(self, error: BaseException, statement: object) -> str | None:
        code, told = _sqlstate_of(error), getattr(error, "diag", None)
        names = (getattr(told, f"{name}_name", None) for name in ("constraint", "table", "column"))
        constraint, table, column = names
        return constraint or _column(code == _IS_NULL, table, column)

    def watch_transactions(self, engine: Engine) -> None:
        """Let a connection that was read-only go back to the default of its server.

        SQLAlchemy makes it read-write instead: a standby refuses ``BEGIN READ WRITE``, and a server
        may be read-only by default. A guarded connection does need the ``READ WRITE``.
        """
        dialect: Any = engine.dialect
        options = dialect.connection_characteristics
        read_only = copy(options["postgresql_readonly"])
        read_only.reset_characteristic = _reset_read_only
        dialect.connection_characteristics = {**options, "postgresql_readonly": read_only}

    def _timeouts(self, own: Mapping[str, object], seconds: int) -> dict[str, object]:
        if _ELSEWHERE & own.keys() or "PGSERVICE" in os.environ:
            return {}
        arguments: dict[str, object] = {
            "keepalives": 1,
            "keepalives_idle": max(1, seconds // 2),
            "keepalives_interval": max(1, seconds // 4),
            "keepalives_count": 2,
            "tcp_user_timeout": seconds * 1000,
        }
        if "PGCONNECT_TIMEOUT" not in os.environ:
            arguments["connect_timeout"] = seconds
        return arguments


@dataclass(frozen=True)
class Psycopg(_LibPQ):
    reporter = "pgconn"

    levels = (None, 1, 2)  # READ UNCOMMITTED, which is the same here, and READ COMMITTED

    def may_read_plainly(self, connection: _PostgreSQLConnection, info: dict[Any, Any]) -> bool:
        """As in the base class; and guard a connection again that ``DISCARD ALL`` has reset."""
        if _KNOWN in info and _is_guarded(connection) and not connection.autocommit:
            # As the server reports it, from version 14 on.
            report = connection.pgconn.parameter_status(b"default_transaction_read_only")
            if report == b"off":
                del info[_KNOWN]
        return super().may_read_plainly(connection, info)

    def is_read_only(self, connection: _PostgreSQLConnection) -> bool:
        return bool(connection.read_only)

    def ask(self, connection: _PostgreSQLConnection, cursor: Any) -> bool:
        """As in the base class; and *guard* the connection: let the server refuse hidden writes.

        Words do not show that a database view calls a function that writes, or that ``t.f`` calls
        ``f(t)``. A session whose default is read-only refuses to write outside of a transaction.
        Then the statement is sent again inside of one, which ``BEGIN READ WRITE`` begins.

        There is no guard through a pooler such as PgBouncer, where one session of the server serves
        several clients (the pooler shows: it tells its clients process ids of its own); nor on a
        standby, which refuses such a BEGIN; nor where an administrator has made read-only the
        default already.
        """
        try:
            cursor.execute(_GUARD, [connection.info.backend_pid])
            is_read_committed, is_guarded = cursor.fetchone()
            if is_guarded:
                connection.read_only = False  # BEGIN READ WRITE
                setattr(connection, _GUARDED, True)
        except BaseException as error:
            # Not an error of the server: whether the guard is set is unknown.
            if getattr(error, "sqlstate", None) is None:
                connection.close()
            raise
        return bool(is_read_committed)

    def is_refused_write(self, error: BaseException) -> bool:
        return getattr(error, "sqlstate", None) == _WRITES

    def finish_deferring(self, dialect: Dialect) -> None:
        """Let a connection in the isolation level AUTOCOMMIT write, though it is guarded."""
        set_level = dialect.set_isolation_level

        def set_isolation_level(connection: Any, level: Any) -> None:
            guarded = _is_guarded(connection)
            if guarded and connection.autocommit and level != "AUTOCOMMIT":
                _set_guard(connection, "on")
            if not connection.closed:
                set_level(connection, level)
            if guarded and level == "AUTOCOMMIT":
                _set_guard(connection, "off")

        setattr(dialect, "set_isolation_level", set_isolation_level)  # noqa: B010

    def watch_transactions(self, engine: Engine) -> None:
        """Skip a rollback if no transaction is open.

        The pool calls it for each returned connection. Psycopg would take its lock and start a
        generator before it finds nothing to do, which is half a percent of a reading request.
        """
        super().watch_transactions(engine)
        do_rollback = engine.dialect.do_rollback

        def rollback(proxy: PoolProxiedConnection) -> None:
            pgconn = getattr(proxy.dbapi_connection, "pgconn", None)
            if getattr(pgconn, "transaction_status", None) != _IDLE:
                do_rollback(proxy)

        setattr(engine.dialect, "do_rollback", rollback)  # noqa: B010

    def watch_notices(self, engine: Engine, name: str) -> None:
        """Log each commit that did not wait for its standby.

        With ``synchronous_standby_names``, COMMIT waits until a standby server has the work too. If
        the wait is canceled (``pg_cancel_backend``, or the driver itself after Ctrl-C), the server
        cannot undo the commit. It reports success with a notice: a failover before the standby has
        the work would discard it. The request succeeds, but the operators have to know.
        """

        def on_notice(diagnostic: _Diagnostic) -> None:
            if diagnostic.source_function == "SyncRepWaitForLSN":  # the same in every language
                text = f"{diagnostic.message_primary}: {diagnostic.message_detail}"
                logger.error(_NOT_WAITED, name, escaped(text))

        def on_connect(connection: _WithNotices, _entry: object) -> None:
            connection.add_notice_handler(on_notice)

        event.listen(engine, "connect", on_connect)

    def how_not_to_block(self, library: str) -> str | None:
        # Psycopg chooses its function when it is imported, and looks only for gevent.
        waiting = sys.modules["psycopg.waiting"]
        if waiting.wait is not getattr(waiting, "wait_c", None):
            return None
        earlier = f" Or let {library} patch before psycopg is imported." * (library == "gevent")
        return f"Set the environment variable PSYCOPG_WAIT_FUNC=wait_select.{earlier}"


@dataclass(frozen=True)
class Psycopg2(_LibPQ):
    reporter = "info"

    # 'levels' stays as in the base class: with a level of its own, the driver would send a SET for
    # each change of autocommit.

    is_lazy = True  # its cursors are closed with their connection

    def is_read_only(self, connection: _PostgreSQLConnection) -> bool:
        return connection.readonly is not None

    def how_not_to_block(self, library: str) -> str | None:
        if sys.modules["psycopg2.extensions"].get_wait_callback() is not None:
            return None
        return (
            "Use 'postgresql+psycopg://', or install psycogreen and call"
            f" 'psycogreen.{library}.patch_psycopg()' before the first request."
        )


DRIVERS = (
    Psycopg("psycopg", "psycopg", "psycopg[binary]", ("postgresql",)),
    Psycopg2("psycopg2", "psycopg2", "psycopg2-binary", ("postgresql",)),
    PG8000("pg8000", "pg8000", "pg8000"),
)

_NOT_WAITED = (
    "PostgreSQL has committed work of the engine %r and has not waited for its standby: the wait"
    " for synchronous replication was canceled. The work is stored on this server only, and a"
    " failover before a standby has it would discard it. Check that pg_stat_replication shows"
    " the servers of 'synchronous_standby_names', and find the program that has called"
    " pg_cancel_backend(). The notice of the server: %s"
)


class _Diagnostic(Protocol):
    """A notice of psycopg."""

    source_function: str | None
    message_primary: str | None
    message_detail: str | None


class _WithNotices(Protocol):
    def add_notice_handler(self, handler: Callable[[_Diagnostic], None]) -> None: ...


def _meaning_of(code: str, severity: str | None) -> Meaning:
    row = _POSTGRESQL.get(code) or _POSTGRESQL.get(code[:2])
    if severity is None:
        return row or WRONG
    is_end = severity in _ENDS_SESSION
    row = row or (DISCONNECTED if is_end else WRONG)
    return replace(row, disconnected=is_end)


def _sqlstate_of(error: BaseException) -> str | None:
    code: str | None = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return code


def _column(is_null: bool, table: str | None, column: str | None) -> str | None:
    """Return the table and column of a NOT NULL constraint, which the server does not name."""
    return f"{table}.{column}" if is_null and table and column else None


def _severity(error: BaseException) -> str | None:
    diagnosis = getattr(error, "diag", None)
    severity: str | None = getattr(diagnosis, "severity_nonlocalized", None)
    return severity or getattr(diagnosis, "severity", None)  # PgBouncer sends the latter only


def _is_about_a_connection(error: BaseException) -> bool:
    """Tell whether an error of libpq or the driver, without SQLSTATE, is about the connection."""
    names, text = [class_.__name__ for class_ in type(error).__mro__], str(error)
    if "InterfaceError" in names:  # most of them are misuse
        return "connection" in text
    # Too many parameters: libpq refuses before it sends anything.
    if text.startswith("sending ") and "65535" in text:
        return False
    # psycopg2 raises a plain DatabaseError if libpq gets out of step with the server.
    return "OperationalError" in names or names[0] == "DatabaseError"
