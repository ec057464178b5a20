"""PostgreSQL: psycopg and psycopg2; a part of pg8000."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Protocol

from sqlalchemy import Engine, event

from ..errors import escaped
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
)

if TYPE_CHECKING:
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
    "57014": REFUSED,  # statement_timeout, cancelled by request
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


@dataclass(frozen=True)
class PostgreSQL(Driver):
    """A driver that does not expose the state of its transaction."""

    def is_aborted(self, connection: object, error: BaseException | None) -> bool:
        return error is not None


@dataclass(frozen=True)
class _LibPQ(Driver):
    """A driver built on libpq. Its failed transaction can continue after ROLLBACK TO SAVEPOINT.

    :cvar reporter: the attribute of a connection that has the ``transaction_status`` of libpq.
    """

    reporter: ClassVar[str]

    # By getattr: a wrapper around a connection may not have all attributes.

    def is_aborted(self, connection: object, error: BaseException | None) -> bool:
        reporter = getattr(connection, self.reporter, None)
        return getattr(reporter, "transaction_status", None) == _IN_ERROR

    def is_open(self, connection: object) -> bool:
        reporter = getattr(connection, self.reporter, None)
        return getattr(reporter, "transaction_status", None) in _OPEN

    def judge(self, error: BaseException) -> tuple[str | None, Meaning]:
        code: str | None = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
        if code is None:
            return None, DISCONNECTED if _is_about_a_connection(error) else UNNAMED
        row = _POSTGRESQL.get(code) or _POSTGRESQL.get(code[:2])
        severity = _severity(error)
        if severity is None:
            return code, row or WRONG
        is_end = severity in _ENDS_SESSION
        row = row or (DISCONNECTED if is_end else WRONG)
        return code, replace(row, disconnected=is_end)

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

    def watch_transactions(self, engine: Engine) -> None:
        """Skip a rollback if no transaction is open.

        The pool calls it for each returned connection. Psycopg would take its lock and start a
        generator before it finds nothing to do, which is half a percent of a reading request.
        """
        do_rollback = engine.dialect.do_rollback

        def rollback(proxy: PoolProxiedConnection) -> None:
            pgconn = getattr(proxy.dbapi_connection, "pgconn", None)
            if getattr(pgconn, "transaction_status", None) != _IDLE:
                do_rollback(proxy)

        setattr(engine.dialect, "do_rollback", rollback)  # noqa: B010

    def watch_notices(self, engine: Engine, name: str) -> None:
        """Log each commit that did not wait for its standby.

        With ``synchronous_standby_names``, COMMIT waits until a standby server has the work too. If
        the wait is cancelled (``pg_cancel_backend``, or the driver itself after Ctrl-C), the server
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
    PostgreSQL("pg8000", "pg8000", "pg8000"),
)

_NOT_WAITED = (
    "PostgreSQL has committed work of the engine %r and has not waited for its standby: the wait"
    " for synchronous replication was cancelled. The work is stored on this server only, and a"
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
