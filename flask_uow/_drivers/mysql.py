"""MySQL and MariaDB: PyMySQL and mysqlclient; parts of two other drivers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MethodType
from typing import TYPE_CHECKING, Protocol, cast
from weakref import WeakMethod

from sqlalchemy import Engine, event

from .base import (
    CONFLICT,
    DISCONNECTED,
    IN_DOUBT,
    STOPPED,
    UNNAMED,
    Driver,
    Meaning,
    set_tcp_options,
    whole_seconds,
)

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import PoolProxiedConnection

logger = logging.getLogger(__name__)

_ABORTED = replace(CONFLICT, aborts=True)
# The setting innodb_rollback_on_timeout decides whether it rolls back the transaction.
_PERHAPS_ABORTED = replace(_ABORTED, may_abort=True)

# By number. An error without a row is UNNAMED, because no rule covers a failed COMMIT.
_MYSQL = {
    1213: _ABORTED,  # deadlock; Galera's certification conflict, also at COMMIT (documentation)
    1205: _PERHAPS_ABORTED,  # lock wait timeout, NOWAIT
    1020: _ABORTED,  # innodb_snapshot_isolation, on by default from MariaDB 11.6.2 on
    3572: CONFLICT,  # documentation: NOWAIT on MySQL 8
    1206: _ABORTED,  # documentation: the lock table is full
    1613: _ABORTED,  # documentation: XA, lock wait timeout
    1614: _ABORTED,  # documentation: XA, deadlock
    1402: replace(UNNAMED, aborts=True),  # documentation: XA, rolled back
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

    def judge(self, error: BaseException) -> tuple[str | None, Meaning]:
        number = error.args[0] if error.args else None
        if not isinstance(number, int):
            return None, UNNAMED
        return str(number) if number else None, _MYSQL.get(number, UNNAMED)


_UNSEEN = "_flask_uow_unseen"  # on a connection of PyMySQL: an error that ended its transaction


class _Connection(Protocol):
    """A connection of PyMySQL, as far as it is used here."""

    query: Callable[..., object]

    def get_autocommit(self) -> bool: ...


@dataclass(frozen=True)
class PyMySQL(_MySQL):
    """The private names ``_sock`` and ``_read_timeout`` have no public counterparts."""

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
            # Weak: only the garbage collector frees a connection that refers to itself.
            connection.query = partial(noting_query, WeakMethod(connection.query))

        def rollback(proxy: PoolProxiedConnection) -> None:
            getattr(proxy.dbapi_connection, "__dict__", {}).pop(_UNSEEN, None)
            do_rollback(proxy)

        event.listen(engine, "connect", on_connect)
        setattr(engine.dialect, "do_rollback", rollback)  # noqa: B010


def noting_query(method: WeakMethod[Callable[..., object]], sql: str, **options: bool) -> object:
    """Replace ``connection.query()``, by which each cursor sends its statements.

    It notes an error that has ended the transaction.
    """
    query = cast("MethodType", method())  # alive while it is called
    try:
        return query(sql, **options)
    except Exception as error:
        meaning = _PYMYSQL.judge(error)[1]
        # After a lock wait timeout a savepoint may help, and none is visible here.
        is_gone = meaning.disconnected or (meaning.aborts and not meaning.may_abort)
        connection = cast("_Connection", query.__self__)
        if is_gone and not connection.get_autocommit():
            setattr(connection, _UNSEEN, error)
        raise


_BOTH = ("mysql", "mariadb")
_INSTEAD = "Use 'mysql+pymysql://'."
_PYMYSQL = PyMySQL("pymysql", "pymysql", "PyMySQL", _BOTH)
DRIVERS = (
    _MySQL("mysqldb", "MySQLdb", "mysqlclient", _BOTH, _INSTEAD),
    _PYMYSQL,
    Driver("mariadbconnector", "mariadb", "mariadb", (), _INSTEAD),
    Driver("mysqlconnector", "mysql.connector", "mysql-connector-python"),
)
