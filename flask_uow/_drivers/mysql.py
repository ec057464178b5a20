"""MySQL and MariaDB: PyMySQL and mysqlclient; of two other drivers only the errors."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MethodType
from typing import TYPE_CHECKING, Protocol, cast
from weakref import WeakMethod

from sqlalchemy import Engine, event

from . import constraints
from .base import (
    CONFLICT,
    DISCONNECTED,
    IN_DOUBT,
    STOPPED,
    UNNAMED,
    Driver,
    Meaning,
    Missing,
    set_tcp_options,
    whole_seconds,
)

if TYPE_CHECKING:
    from sqlalchemy import Table, UpdateBase
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


# By number: where the name is in the text of the server, which may be in another language. Before
# the name of a key is a value that a client has sent, so the last word in quotes is taken.
_KEY = re.compile(r".*'([^']+)'", re.DOTALL)
_QUOTED = re.compile(r"[^']*'([^']+)'")
_NAMES = {
    **dict.fromkeys((1062, 1586, 1859), _KEY),
    **dict.fromkeys((1451, 1452), re.compile(r".*?CONSTRAINT `((?:[^`]|``)+)`", re.DOTALL)),
    4025: re.compile(r"[^`]*`((?:[^`]|``)+)`"),  # CHECK, on MariaDB
    **dict.fromkeys((1048, 1364), _QUOTED),  # NOT NULL; the second if no value was given
    3819: _QUOTED,  # documentation: CHECK, on MySQL
}
_NOT_NULL = {1048, 1364}
_MISSING = {1146: Missing.TABLE, 1054: Missing.COLUMN}


@dataclass(frozen=True)
class _Errors(Driver):
    """The errors of the server. Drivers keep the number and the text in different places."""

    def judge(self, error: BaseException) -> tuple[str | None, Meaning]:
        number = _number_of(error)
        if number is None:
            return None, UNNAMED
        return str(number) if number else None, _MYSQL.get(number, UNNAMED)

    def missing_in(self, error: BaseException) -> Missing | None:
        return _MISSING.get(_number_of(error) or 0)

    def constraint_of(self, error: BaseException, statement: UpdateBase | None) -> str | None:
        number, table = _number_of(error), constraints.table_of(statement)
        text = next((part for part in error.args if isinstance(part, str)), "")
        pattern = _NAMES.get(number or 0)
        match = None if pattern is None else pattern.match(text)
        if match is None:
            return None
        name = match[1].replace("``", "`")
        if number in _NOT_NULL:
            return name if table is None else f"{table.name}.{name}"
        if pattern is _KEY:
            return _key_name(name, table)
        return name


def _number_of(error: BaseException) -> int | None:
    for number in (
        *error.args[:1],
        getattr(error, "errno", None),
    ):  # MariaDB's own driver has only 'errno'
        if isinstance(number, int):
            return number
    return None


def _key_name(name: str, table: Table | None) -> str:
    name = name.rpartition(".")[2]  # MySQL names the table, too
    if name == "PRIMARY" and table is not None:
        return constraints.name_of_primary_key(table) or name
    return name


@dataclass(frozen=True)
class _MySQL(_Errors):
    """A driver that does not notice when the server rolls back the transaction."""

    def _timeouts(self, own: Mapping[str, object], seconds: int) -> dict[str, object]:
        return {"connect_timeout": seconds}

    def finish_connecting(
        self, connection: DBAPIConnection, own: Mapping[str, object], seconds: float
    ) -> None:
        if descriptor := self.descriptor_of(connection):
            set_tcp_options(descriptor(), whole_seconds(seconds))


# On a connection of PyMySQL:
_UNSEEN = "_flask_uow_unseen"  # an error that ended its transaction
_ENDED = "_flask_uow_ended"  # whether its last statement was a successful COMMIT or ROLLBACK


class _Connection(Protocol):
    """A connection of PyMySQL, as far as it is used here."""

    query: Callable[..., object]
    open: bool

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

        Also skip the rollback of the pool directly after a COMMIT or ROLLBACK that has succeeded:
        it would cost each unit a round trip.
        """
        do_commit, do_rollback = engine.dialect.do_commit, engine.dialect.do_rollback

        def on_connect(connection: _Connection, _entry: object) -> None:
            # Weak: only the garbage collector frees a connection that refers to itself.
            connection.query = partial(noting_query, WeakMethod(connection.query))

        def commit(proxy: PoolProxiedConnection) -> None:
            do_commit(proxy)
            _note_end(_state_of(proxy))

        def rollback(proxy: PoolProxiedConnection) -> None:
            state = _state_of(proxy)
            state.pop(_UNSEEN, None)
            connection = cast("_Connection", proxy.dbapi_connection)
            # A chained COMMIT has begun another transaction, and so has 'connection.begin()',
            # which does not come by noting_query(). Both have updated the state of the server.
            if not state.get(_ENDED) or self.is_open(connection) or not connection.open:
                do_rollback(proxy)
                _note_end(state)

        event.listen(engine, "connect", on_connect)
        setattr(engine.dialect, "do_commit", commit)  # noqa: B010
        setattr(engine.dialect, "do_rollback", rollback)  # noqa: B010


def _state_of(proxy: PoolProxiedConnection) -> dict[str, object]:
    return getattr(proxy.dbapi_connection, "__dict__", {})


def _note_end(state: dict[str, object]) -> None:
    # If there is no entry, noting_query() does not see the statements of this connection, or the
    # last one was interrupted: what was read as the reply to COMMIT may be the rest of its reply.
    if _ENDED in state:
        state[_ENDED] = True


def noting_query(method: WeakMethod[Callable[..., object]], sql: str, **options: bool) -> object:
    """Replace ``connection.query()``, by which each cursor sends its statements.

    It notes that there was a statement, and an error that has ended the transaction.
    """
    query = cast("MethodType", method())  # alive while it is called
    connection = cast("_Connection", query.__self__)
    state = vars(connection)
    state.pop(_ENDED, None)
    try:
        result: object = query(sql, **options)
    except Exception as error:
        code, meaning = _PYMYSQL.judge(error)
        if code is not None and not meaning.disconnected:
            state[_ENDED] = False  # the server has replied
        # After a lock wait timeout a savepoint may help, and none is visible here.
        is_gone = meaning.disconnected or (meaning.aborts and not meaning.may_abort)
        if is_gone and not connection.get_autocommit():
            state[_UNSEEN] = error
        raise
    state[_ENDED] = False
    return result


_BOTH = ("mysql", "mariadb")
_INSTEAD = "Use 'mysql+pymysql://'."
_PYMYSQL = PyMySQL("pymysql", "pymysql", "PyMySQL", _BOTH)
DRIVERS = (
    _MySQL("mysqldb", "MySQLdb", "mysqlclient", _BOTH, _INSTEAD),
    _PYMYSQL,
    _Errors("mariadbconnector", "mariadb", "mariadb", (), _INSTEAD),
    _Errors("mysqlconnector", "mysql.connector", "mysql-connector-python"),
)
