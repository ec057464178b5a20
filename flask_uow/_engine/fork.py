"""A forked process leaves the connections of its parent alone (P13).

Two processes that write to one socket get each other's rows. So a child starts with empty pools,
and neither uses nor closes the connections that it inherited: a goodbye to the server, or a
ROLLBACK, would end the session of the parent. They are kept until the process ends, out of reach of
garbage collection. Code that keeps using a parent's connection, outside of a unit, meets an
:class:`_InheritedConnection`, which refuses.

SQLite is different: it keeps what it knows of its file locks for each file and process, and a child
that inherits an open connection believes that it has locks which only the parent has. Its commits
would be lost when the parent closes the file. So idle connections are closed before the fork, and
if one was in use, or about to be opened, the child may not open that file. (A thread that is not in
the child may also hold a lock inside of SQLite's library for ever.)

All that the package does at a fork is in this module. Python runs it by ``os.register_at_fork``.
Servers that fork in C (uWSGI) do not, so the process id is compared as well, when a unit opens:
:func:`notice`.

Nothing here knows Flask or sessions.
"""

from __future__ import annotations

import os
import threading
import weakref
from functools import partial
from typing import Any, NoReturn

from sqlalchemy import Engine, event
from sqlalchemy.pool import ConnectionPoolEntry, Pool, StaticPool

from .._sqlite.file_lock import close_inherited
from .._sqlite.profile import ends_with_its_connections
from .._transaction import sqlalchemy_private
from ..errors import ForkedUnit

generation = 0
"""The number of forks between the first process and this one, as far as they were noticed."""

_process = os.getpid()
_lock = threading.Lock()
# Not a WeakSet: its keyrefs() are safe while other threads build engines.
_engines: weakref.WeakKeyDictionary[Engine, None] = weakref.WeakKeyDictionary()
_entries: weakref.WeakKeyDictionary[ConnectionPoolEntry, weakref.ref[Engine]] = (
    weakref.WeakKeyDictionary()
)
_opening: dict[int, weakref.ref[Engine]] = {}  # by thread; until it is done, or after a failure
_pools: weakref.WeakKeyDictionary[Pool, None] = weakref.WeakKeyDictionary()  # of SQLite's engines
_forbidden: weakref.WeakSet[Engine] = weakref.WeakSet()
_abandoned: list[object] = []


def protect_from_fork(engine: Engine) -> None:
    """Let a child of this process begin with an empty pool for *engine*."""
    if isinstance(engine.pool, StaticPool) or ends_with_its_connections(engine):
        return  # a database in memory: the child has a copy of its own, and nothing but this one
    _engines[engine] = None
    reference = weakref.ref(engine)
    event.listen(engine, "connect", partial(_note_connection, reference))
    if _is_sqlite(engine):
        event.listen(engine, "do_connect", partial(_note_opening, reference))


def notice() -> None:
    """If this is another process than before, disown its parent's connections."""
    if os.getpid() != _process:
        _disown(announced=False)


def _is_sqlite(engine: Engine) -> bool:
    return engine.dialect.name == "sqlite"


def _note_connection(
    reference: weakref.ref[Engine], _connection: object, entry: ConnectionPoolEntry
) -> None:
    _entries[entry] = reference
    _opening.pop(threading.get_ident(), None)
    # Here, not when an engine is disposed of: with a listener for that event, SQLAlchemy would look
    # for listeners at each connection and statement of the engine.
    engine = reference()
    if engine is not None and _is_sqlite(engine):
        _pools[engine.pool] = None


def _note_opening(engine: weakref.ref[Engine], *_: object) -> None:
    if engine() in _forbidden:
        raise ForkedUnit(
            "This process forked while a connection to a SQLite file was in use, and SQLite cannot"
            " be used in such a child: the locks on the file belong to its parent, so commits could"
            " be lost. Fork while no unit of work is open in any thread, or start the child as a"
            " new program (multiprocessing's 'spawn')."
        )
    _opening[threading.get_ident()] = engine


def _disown(*, announced: bool) -> None:
    """Empty the pools of this process without closing the connections in them.

    :param announced: Python announced the fork before; a fork in C it does not.
    """
    global generation, _process  # noqa: PLW0603  # of the process, as the sockets are
    with _lock:
        if os.getpid() == _process:
            return
        for entry, reference in list(_entries.items()):
            _abandon(entry, reference(), announced=announced)
        _forbidden.update(filter(None, (reference() for reference in _opening.values())))
        _entries.clear()
        _opening.clear()
        _pools.clear()  # a thread that is not here may hold the lock of one
        for engine in list(_engines):
            _abandoned.append(engine.pool)
            engine.dispose(close=False)
        _process = os.getpid()
        generation += 1


def _abandon(entry: Any, engine: Engine | None, *, announced: bool) -> None:
    """Cut *entry*, and the code that has checked it out, off from the driver's connection."""
    if engine is not None and _is_sqlite(engine) and entry.dbapi_connection is not None:
        if entry.in_use or announced:  # what is idle now was in use when they were closed
            _forbidden.add(engine)
        else:  # there is no transaction to disturb
            entry.dbapi_connection.close()
    _abandoned.append(entry.dbapi_connection)
    proxy: Any = sqlalchemy_private.proxy_of(entry)
    if proxy is not None:
        proxy.dbapi_connection = _InheritedConnection()
    entry.dbapi_connection = None


class _InheritedConnection:
    """Stands in for the driver's connection in a ``Connection`` of the parent, and for its cursors.

    Asking for a cursor raises nothing, because SQLAlchemy wraps what is raised before there is one.
    """

    def cursor(self, *_: object, **__: object) -> _InheritedConnection:
        return self

    pgconn = None  # where psycopg keeps the state of a transaction

    def rollback(self) -> None:
        """Do nothing: returning the connection, or dropping it, must not fail."""

    def close(self) -> None:
        """Do nothing, as for :meth:`rollback`."""

    def __getattr__(self, name: str) -> NoReturn:
        raise ForkedUnit(
            "This connection was open when the process forked: it belongs to the parent process,"
            " which continues to use it. Let the child open its own ('with db.engine.connect():'"
            " in it), or close the connection before the fork."
        )


def _before_fork() -> None:
    _opening.pop(threading.get_ident(), None)  # has failed
    used = [reference() for reference in _pools.keyrefs()]  # another thread may add to it meanwhile
    for reference in _engines.keyrefs():
        engine = reference()
        if engine is not None and _is_sqlite(engine):
            # Not 'engine.dispose()', which removes a database in memory.
            engine.pool.dispose()
            engine.pool = engine.pool.recreate()
    # A connection that was in use when its pool was replaced has gone back to that since.
    for pool in used:
        if pool is not None:
            pool.dispose()


def _after_fork() -> None:
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()  # the parent's may be held by a thread that is not here
    _disown(announced=True)
    close_inherited()


if hasattr(os, "register_at_fork"):  # pragma: no branch  # not on Windows, which does not fork
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
