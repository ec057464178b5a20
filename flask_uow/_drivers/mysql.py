"""MySQL and MariaDB: PyMySQL and mysqlclient; parts of two other drivers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Protocol, cast
from weakref import ref

from sqlalchemy import Engine, event

from .base import (
    CONFLICT,
    DISCONNECTED,
    IN_DOUBT,
    STOPPED,
    UNNAMED,
    Driver,
    Verdict,
    set_tcp_options,
    whole_seconds,
)

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import PoolProxiedConnection

logger = logging.getLogger(__name__)

# By number. An error without a row is UNNAMED, because no rule covers a failed COMMIT.
_MYSQL = {
    1213: CONFLICT,  # deadlock; Galera's certification conflict, also at COMMIT (documentation)
    1205: CONFLICT,  # lock wait timeout, NOWAIT
    1020: CONFLICT,  # innodb_snapshot_isolation, on by default from MariaDB 11.6.2 on
    3572: CONFLICT,  # documentation: NOWAIT on MySQL 8
    1206: CONFLICT,  # documentation: the lock table is full
    1613: CONFLICT,  # documentation: XA, lock wait timeout
    1614: CONFLICT,  # documentation: XA, deadlock
    1180: IN_DOUBT,  # error during COMMIT. On Galera one of four such commits was stored
    1047: DISCONNECTED,  # a Galera node without its cluster; a new connection may reach another
    1317: STOPPED,  # KILL QUERY
    1969: STOPPED,  # max_statement_time
    3024: STOPPED,  # documentation: max_execution_time on MySQL
    1290: STOPPED,  # documentation: --read-only; another server is the primary now
    1836: STOPPED,  # documentation: read-only mode
    1040: STOPPED,  # documentation: too many connections
    1203: STOPPED,  # documentation: too many connections of this user
    1226: STOPPED,  # max_user_connections
    0: DISCONNECTED,  # PyMySQL: the connection was closed earlier
    1053: DISCONNECTED,  # documentation: the server shuts down
    1158: DISCONNECTED,  # documentation, and the next three: the server could not read or write
    1159: DISCONNECTED,
    1160: DISCONNECTED,
    1161: DISCONNECTED,
    1927: DISCONNECTED,  # documentation: KILL, on MariaDB
    2002: DISCONNECTED,  # cannot connect
    2003: DISCONNECTED,  # cannot connect
    2005: DISCONNECTED,  # unknown host
    2006: DISCONNECTED,  # gone away: wait_timeout, idle_transaction_timeout, KILL
    2013: DISCONNECTED,  # lost during a statement
    2014: DISCONNECTED,  # documentation: commands out of sync
    2027: DISCONNECTED,  # documentation: malformed packet
    2045: DISCONNECTED,  # documentation: shared memory
    2055: DISCONNECTED,  # documentation: lost connection, with a system error
    3169: DISCONNECTED,  # documentation: the session was killed
    4031: DISCONNECTED,  # documentation: wait_timeout, on MySQL 8
}
_ROLLS_BACK = frozenset("1213 1205 1020 1206 1402 1613 1614 1180 1047".split())
# The setting innodb_rollback_on_timeout decides whether it rolls back the transaction.
_LOCK_WAIT_TIMEOUT = "1205"


@dataclass(frozen=True)
class _MySQL(Driver):
    """A driver that does not notice when the server rolls back the transaction."""

    def _timeouts(self, own: Mapping[str, object], seconds: int) -> dict[str, object]:
        return {"connect_timeout": seconds}

    def finish_connecting(
        self, connection: DBAPIConnection, own: Mapping[str, object], seconds: float
    ) -> None:
        if descriptor := self.descriptor_of(connection):
            set_tcp_options(descriptor(), whole_seconds(seconds))

    def judge(self, error: BaseException) -> Verdict:
        number = error.args[0] if error.args else None
        if not isinstance(number, int):
            return Verdict(None, UNNAMED)
        return Verdict(str(number) if number else None, _MYSQL.get(number, UNNAMED))

    def aborts_transaction(self, verdict: Verdict) -> bool:
        return verdict.meaning.disconnected or verdict.code in _ROLLS_BACK

    def may_abort_transaction(self, verdict: Verdict) -> bool:
        return verdict.code == _LOCK_WAIT_TIMEOUT


_UNSEEN = "_flask_uow_unseen"  # on a connection of PyMySQL: the error that a cursor has raised


class _Connection(Protocol):
    """A connection of PyMySQL, as far as it is used here."""

    cursorclass: type[_Cursor]
    cursor: Callable[..., _Cursor]

    def get_autocommit(self) -> bool: ...


class _Cursor(Protocol):
    """A cursor of PyMySQL; its private method sends each statement."""

    connection: _Connection

    def __init__(self, connection: _Connection) -> None: ...

    def _query(self, sql: str) -> int: ...


@dataclass(frozen=True)
class PyMySQL(_MySQL):
    """The private names ``_sock``, ``_read_timeout`` and ``_query`` have no public counterparts."""

    def _timeouts(self, own: Mapping[str, object], seconds: int) -> dict[str, object]:
        # PyMySQL's connect_timeout does not cover the greeting; this read_timeout does, and is
        # removed after it.
        greeting = own.get("connect_timeout", seconds)
        return {"connect_timeout": seconds, "read_timeout": float(cast("float", greeting))}

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
                "The 'read_timeout' of this version of PyMySQL cannot be changed after connecting,"
                " so each statement ends after 'connect_timeout'. Set 'read_timeout' in"
                " 'connect_args'."
            )

    def descriptor_of(self, connection: object) -> Callable[[], int] | None:
        return super().descriptor_of(getattr(connection, "_sock", connection))

    def is_aborted(self, connection: object, error: BaseException | None) -> bool:
        return getattr(connection, _UNSEEN, None) is not None

    def is_open(self, connection: object) -> bool:
        return bool(getattr(connection, "server_status", 0) & 1)

    def unseen_error_of(self, connection: object) -> BaseException | None:
        error: BaseException | None = getattr(connection, _UNSEEN, None)
        return error

    def watch_transactions(self, engine: Engine) -> None:
        """Notice a deadlock on any cursor, also on one that the app got from the driver itself.

        After a deadlock the server silently begins a new transaction with the next statement.
        """
        do_rollback = engine.dialect.do_rollback

        def on_connect(connection: _Connection, _entry: object) -> None:
            connection.cursorclass = reporting(connection.cursorclass)
            connection.cursor = partial(_reporting_cursor, ref(connection))

        def rollback(proxy: PoolProxiedConnection) -> None:
            getattr(proxy.dbapi_connection, "__dict__", {}).pop(_UNSEEN, None)
            do_rollback(proxy)

        event.listen(engine, "connect", on_connect)
        setattr(engine.dialect, "do_rollback", rollback)  # noqa: B010


def _reporting_cursor(connection: ref[_Connection], cursor: type[_Cursor] | None = None) -> _Cursor:
    """Replace ``connection.cursor()``, which the app may call with a cursor class of its own."""
    owner = cast("_Connection", connection())  # alive while its method is called
    return reporting(cursor or owner.cursorclass)(owner)


@cache
def reporting(cursor_class: type[_Cursor]) -> type[_Cursor]:
    """Return a subclass of *cursor_class* that notes an error which ends the transaction."""
    if getattr(cursor_class, "_flask_uow_reports", False):
        return cursor_class

    def _query(cursor: _Cursor, sql: str) -> int:
        try:
            return cursor_class._query(cursor, sql)
        except Exception as error:
            verdict = _PYMYSQL.judge(error)
            # After a lock wait timeout a savepoint may help, and none is visible here.
            is_certain = not _PYMYSQL.may_abort_transaction(verdict)
            is_gone = _PYMYSQL.aborts_transaction(verdict) and is_certain
            if is_gone and not cursor.connection.get_autocommit():
                setattr(cursor.connection, _UNSEEN, error)
            raise

    own = {"_query": _query, "_flask_uow_reports": True}
    return cast("type[_Cursor]", type(cursor_class.__name__, (cursor_class,), own))


_BOTH = ("mysql", "mariadb")
_INSTEAD = "Use 'mysql+pymysql://'."
_PYMYSQL = PyMySQL("pymysql", "pymysql", "PyMySQL", _BOTH)
DRIVERS = (
    _MySQL("mysqldb", "MySQLdb", "mysqlclient", _BOTH, _INSTEAD),
    _PYMYSQL,
    Driver("mariadbconnector", "mariadb", "mariadb", (), _INSTEAD),
    Driver("mysqlconnector", "mysql.connector", "mysql-connector-python"),
)
