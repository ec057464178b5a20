"""A connection whose session on the server was changed does not go back to the pool (P13).

``SET TIME ZONE``, a temporary table, a session lock: what a statement leaves in the session beyond
its transaction would affect the next request that checks the connection out. Resetting it costs a
round trip on each return, and no server can reset all of it, so such a connection is closed
instead. The log says once, for each kind of change by a unit of work, what to write instead.

What is set up when a connection is made stays. Listeners for "connect" get the connection of the
driver, whose cursors are not watched; what the app sends through such a cursor is not seen, either.

Connections that do not go back are left alone, and so is a database that would end with its
connection: SQLite in memory with a pool of the user's own.

Nothing here knows Flask or sessions of SQLAlchemy.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, NullPool, StaticPool
from sqlalchemy.engine import Dialect

from .._sqlite.profile import ends_with_its_connections
from .._transaction.record import record_of
from .._transaction.statements import SessionChange, session_changes_of
from ..errors import escaped
from .checkouts import caller_location
from .pool import ConnectionPool

logger = logging.getLogger(__name__)

_EVERY_CONNECTION = "a listener for the event 'connect', for a setting of every connection"
_BIND_PARAMETERS = "an ordinary statement with bind parameters; the driver may prepare it"
_ORDINARY_TABLE = (
    "a common table expression ('WITH'), or an ordinary table with a key for each task"
)
_LOCKED_ROW = "'SELECT ... FOR UPDATE', whose locks end with the transaction"
_FOR_A_STATEMENT = (
    f"'SET STATEMENT ... FOR' (MariaDB) or the hint SET_VAR (MySQL), or {_EVERY_CONNECTION}"
)
_MYSQL = {
    SessionChange.SETTING: _FOR_A_STATEMENT,
    SessionChange.LOCAL: _FOR_A_STATEMENT,
    SessionChange.VARIABLE: "a bind parameter, or a window function",
    SessionChange.TEMPORARY: _ORDINARY_TABLE,
    SessionChange.PREPARED: _BIND_PARAMETERS,
    SessionChange.NAMED_LOCK: _LOCKED_ROW,
    SessionChange.TABLE_LOCK: _LOCKED_ROW,
    SessionChange.DATABASE: "the schema of the table, or an engine for each database",
}
_INSTEAD: Mapping[str, Mapping[SessionChange, str]] = {
    "postgresql": {
        SessionChange.SETTING: f"'SET LOCAL' or 'SET TRANSACTION', or {_EVERY_CONNECTION}",
        SessionChange.CONFIG: "'set_config(name, value, true)'",
        SessionChange.CONFIG_BOUND: "'set_config(name, value, true)'",
        SessionChange.TEMPORARY: "'ON COMMIT DROP' in 'CREATE TEMPORARY TABLE'",
        SessionChange.PREPARED: _BIND_PARAMETERS,
        SessionChange.CURSOR: "a cursor without 'WITH HOLD', or 'yield_per'",
        SessionChange.LISTEN: "LISTEN in a process of its own, on a connection of the driver",
        SessionChange.ADVISORY_LOCK: "'pg_advisory_xact_lock()' or 'pg_try_advisory_xact_lock()'",
    },
    "mysql": _MYSQL,
    "mariadb": _MYSQL,
    "sqlite": {
        SessionChange.TEMPORARY: _ORDINARY_TABLE,
        SessionChange.ATTACHED: "an engine for each file (SQLALCHEMY_BINDS)",
        SessionChange.PRAGMA: _EVERY_CONNECTION,
    },
}
"""By dialect, the changes that outlive a transaction there, and what to write instead."""


class _Watch:
    """What is known about one engine.

    :param name: its name, for the log.
    :param instead: the changes that matter, and what to write instead.
    """

    def __init__(self, name: str, instead: Mapping[SessionChange, str]) -> None:
        self.instead = instead
        self._name = name
        self._told: set[SessionChange] = set()

    def tell(self, change: SessionChange) -> None:
        """Log *change*, once."""
        if change in self._told:
            return
        self._told.add(change)
        logger.warning(
            "A statement of the engine %r has changed the session of its connection (%s), from %s."
            " The next request would find that change, so the connection is closed instead of going"
            " back to the pool, and another one has to be opened. Write %s instead. If several"
            " transactions need the change, use a connection of your own: 'with"
            " db.engine.connect():'. This is logged once for each kind of change.",
            self._name,
            change.value,
            escaped(caller_location(4)),
            self.instead[change],
        )


_watches: WeakKeyDictionary[Dialect, _Watch] = WeakKeyDictionary()


def close_changed_connections(engine: Engine, name: str) -> None:
    """Let :func:`note_statement` close connections of *engine* when they come back.

    :param name: the name of the engine, for the log.
    """
    if engine.dialect.name not in _INSTEAD or isinstance(engine.pool, (NullPool, StaticPool)):
        return
    if not ends_with_its_connections(engine):
        _watches[engine.dialect] = _Watch(name, _INSTEAD[engine.dialect.name])


def note_statement(connection: Connection, statement: str, parameters: tuple[Any, ...]) -> None:
    """Note the change that *statement* makes in the session of *connection*.

    :param parameters: those of the statement, or none.
    """
    watch = _watches.get(connection.dialect)
    if watch is None or connection.get_transaction() is None:
        return  # without a transaction, SQLAlchemy itself sets up a new connection
    if connection.connection.is_detached:
        return
    for change in session_changes_of(statement) & watch.instead.keys():
        if change is SessionChange.CONFIG_BOUND and _is_for_transaction(parameters):
            continue
        pool = connection.engine.pool
        if isinstance(pool, ConnectionPool):
            pool.close_at_return(connection.info)
        connection.connection.invalidate(soft=True)  # other pools replace it before its next use
        # Code with a connection of its own may need the change, so nothing is logged.
        if record_of(connection) is not None:
            watch.tell(change)


def _is_for_transaction(parameters: tuple[Any, ...]) -> bool:
    """Tell whether ``is_local`` of ``set_config()`` is a true parameter of the statement."""
    values = list(_values_in(parameters))
    return True in values and False not in values


def _values_in(parameters: Any) -> Iterator[bool]:
    """Yield the booleans among *parameters*: named, positional, or of several executions."""
    if isinstance(parameters, bool):
        yield parameters
    elif isinstance(parameters, Mapping):
        yield from _values_in(list(parameters.values()))
    elif isinstance(parameters, (tuple, list)):
        for value in parameters:
            yield from _values_in(value)
