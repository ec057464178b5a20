"""MySQL and MariaDB: PyMySQL, mysqlclient, and what is known of two other drivers."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any
from weakref import ref

from sqlalchemy import Engine, event

from .base import (
    CONFLICT,
    IN_DOUBT,
    LOST,
    STOPPED,
    UNNAMED,
    Driver,
    Verdict,
    borrowed_socket,
    set_tcp_options,
    whole_seconds,
)

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import PoolProxiedConnection

logger = logging.getLogger(__name__)

# By number. An error that is no row is UNNAMED: COMMIT fails so rarely that no rule is known.
_MYSQL = {
    1213: CONFLICT,  # deadlock; Galera's certification conflict, also at COMMIT (documentation)
    1205: CONFLICT,  # lock wait timeout, NOWAIT
    1020: CONFLICT,  # innodb_snapshot_isolation, on by default from MariaDB 11.6.2 on
    3572: CONFLICT,  # documentation: NOWAIT on MySQL 8
    1206: CONFLICT,  # documentation: the lock table is full
    1613: CONFLICT,  # documentation: XA, lock wait timeout
    1614: CONFLICT,  # documentation: XA, deadlock
    1180: IN_DOUBT,  # error during COMMIT. On Galera one of four such commits was stored
    1047: LOST,  # a Galera node without its cluster; another connection may find another node
    1317: STOPPED,  # KILL QUERY
    1969: STOPPED,  # max_statement_time
    3024: STOPPED,  # documentation: max_execution_time on MySQL
    1290: STOPPED,  # documentation: --read-only; the primary is another server now
    1836: STOPPED,  # documentation: read-only mode
    1040: STOPPED,  # documentation: too many connections
    1203: STOPPED,  # documentation: too many connections of this user
    1226: STOPPED,  # max_user_connections
    0: LOST,  # PyMySQL: its connection has been closed before
    1053: LOST,  # documentation: the server shuts down
    1158: LOST,  # documentation, and the next three: the server could not read or write
    1159: LOST,
    1160: LOST,
    1161: LOST,
    1927: LOST,  # documentation: KILL, on MariaDB
    2002: LOST,  # cannot connect
    2003: LOST,  # cannot connect
    2005: LOST,  # unknown host
    2006: LOST,  # gone away: wait_timeout, idle_transaction_timeout, KILL
    2013: LOST,  # lost in mid-statement
    2014: LOST,  # documentation: commands out of sync
    2027: LOST,  # documentation: malformed packet
    2045: LOST,  # documentation: shared memory
    2055: LOST,  # documentation: lost connection, with a system error
    3169: LOST,  # documentation: the session was killed
    4031: LOST,  # documentation: wait_timeout, on MySQL 8
}
_ROLLS_BACK = frozenset("1213 1205 1020 1206 1402 1613 1614 1180 1047".split())
# Whether it rolls back the transaction depends on innodb_rollback_on_timeout.
_LOCK_WAIT_TIMEOUT = "1205"


@dataclass(frozen=True)
class _MySQL(Driver):
    """A driver that does not notice when the server rolls back."""

    def _timeouts(self, own: Mapping[str, object], seconds: int) -> dict[str, object]:
        return {"connect_timeout": seconds}

    def finish_connecting(
        self, connection: DBAPIConnection, own: Mapping[str, object], seconds: float
    ) -> None:
        with self.socket_of(connection) as sock:
            if sock.family in {socket.AF_INET, socket.AF_INET6}:
                set_tcp_options(sock, whole_seconds(seconds))

    @contextlib.contextmanager
    def socket_of(self, connection: Any) -> Iterator[socket.socket]:
        """Yield the socket under *connection*, which stays the driver's."""
        with borrowed_socket(connection.fileno()) as sock:
            yield sock

    def judge(self, error: BaseException) -> Verdict:
        number = error.args[0] if error.args else None
        if not isinstance(number, int):
            return Verdict(None, UNNAMED)
        return Verdict(str(number) if number else None, _MYSQL.get(number, UNNAMED))

    def aborts_transaction(self, verdict: Verdict) -> bool:
        return verdict.meaning.lost or verdict.code in _ROLLS_BACK

    def may_abort_transaction(self, verdict: Verdict) -> bool:
        return verdict.code == _LOCK_WAIT_TIMEOUT


_DOOMED = "_flask_uow_doomed"  # of PyMySQL's connection: the error that a cursor has raised


@dataclass(frozen=True)
class PyMySQL(_MySQL):
    """Its private names ``_sock``, ``_read_timeout`` and ``_query`` have no public counterparts."""

    def _timeouts(self, own: Mapping[str, object], seconds: int) -> dict[str, object]:
        # Its connect_timeout ends before the greeting; this one is lifted after it.
        greeting: Any = own.get("connect_timeout", seconds)
        return {"connect_timeout": seconds, "read_timeout": float(greeting)}

    def finish_connecting(
        self, connection: DBAPIConnection, own: Mapping[str, object], seconds: float
    ) -> None:
        super().finish_connecting(connection, own, seconds)
        if "read_timeout" in own:
            return
        if hasattr(connection, "_read_timeout"):
            setattr(connection, "_read_timeout", None)  # noqa: B010
        else:  # pragma: no cover  # no known version
            logger.warning(
                "This version of PyMySQL keeps its 'read_timeout' for good: no statement may take"
                " longer than 'connect_timeout'. Set 'read_timeout' in 'connect_args'."
            )

    @contextlib.contextmanager
    def socket_of(self, connection: Any) -> Iterator[socket.socket]:
        """Yield the socket under *connection*, which stays the driver's."""
        yield connection._sock

    def descriptor_of(self, connection: object) -> Callable[[], int] | None:
        return super().descriptor_of(getattr(connection, "_sock", connection))

    def is_aborted(self, connection: object, error: BaseException | None) -> bool:
        return getattr(connection, _DOOMED, None) is not None

    def is_open(self, connection: object) -> bool:
        return bool(getattr(connection, "server_status", 0) & 1)

    def unseen_error_of(self, connection: object) -> BaseException | None:
        error: BaseException | None = getattr(connection, _DOOMED, None)
        return error

    def watch_transactions(self, engine: Engine) -> None:
        """Let PyMySQL's cursors report a deadlock, also those that SQLAlchemy does not know of.

        The server does not: with the next statement it begins a new transaction, without a word.
        """
        do_rollback = engine.dialect.do_rollback

        def on_connect(connection: Any, _entry: object) -> None:
            connection.cursorclass = reporting(connection.cursorclass)
            connection.cursor = partial(_reporting_cursor, ref(connection))

        def rollback(proxy: PoolProxiedConnection) -> None:
            getattr(proxy.dbapi_connection, "__dict__", {}).pop(_DOOMED, None)
            do_rollback(proxy)

        event.listen(engine, "connect", on_connect)
        setattr(engine.dialect, "do_rollback", rollback)  # noqa: B010


def _reporting_cursor(connection: ref[Any], cursor: Any = None) -> Any:
    """Return a cursor, of a class of the app's own if it asks for one, as the driver's method."""
    owner: Any = connection()
    return reporting(cursor or owner.cursorclass)(owner)


@cache
def reporting(cursor_class: Any) -> Any:
    """Return a subclass of *cursor_class* that notes on its connection what ends a transaction."""
    if getattr(cursor_class, "_flask_uow_reports", False):
        return cursor_class

    def _query(cursor: Any, sql: Any) -> Any:
        try:
            return cursor_class._query(cursor, sql)
        except Exception as error:
            verdict = _PYMYSQL.judge(error)
            # A savepoint may help against a lock wait timeout, and is not seen here.
            is_certain = not _PYMYSQL.may_abort_transaction(verdict)
            if _PYMYSQL.aborts_transaction(verdict) and is_certain:
                connection = cursor.connection
                if not connection.get_autocommit():
                    setattr(connection, _DOOMED, error)
            raise

    own = {"_query": _query, "_flask_uow_reports": True}
    return type(cursor_class.__name__, (cursor_class,), own)


_BOTH = ("mysql", "mariadb")
_INSTEAD = "Use 'mysql+pymysql://'."
_PYMYSQL = PyMySQL("pymysql", "pymysql", "PyMySQL", _BOTH)
DRIVERS = (
    _MySQL("mysqldb", "MySQLdb", "mysqlclient", _BOTH, _INSTEAD),
    _PYMYSQL,
    Driver("mariadbconnector", "mariadb", "mariadb", (), _INSTEAD),
    Driver("mysqlconnector", "mysql.connector", "mysql-connector-python"),
)
