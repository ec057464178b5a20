"""The pool of an engine that works in one transaction on one connection, until it is rolled back.

The module :mod:`.shared_connection` turns the transactions of the code into savepoints.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.engine import Dialect
from sqlalchemy.pool import ConnectionPoolEntry, Pool

from .._engine.plain_reads import without_deferring
from .._engine.pool import ConnectionPool
from .._transaction import sqlalchemy_private
from ..errors import IsolationError
from .facades import Facade
from .shared_connection import SharedConnection

_DIALECTS = {"postgresql", "mysql", "mariadb"}


@contextmanager
def isolate(engine: Engine, name: str) -> Iterator[None]:
    """Let *engine* work in one transaction on one connection, and roll it back at the end.

    :raises IsolationError: the database has no savepoints that are known here.
    """
    if engine.dialect.name not in _DIALECTS:
        raise IsolationError(
            f"The engine {name!r} cannot be isolated: {engine.dialect.name!r} is not one of SQLite,"
            " PostgreSQL, MariaDB and MySQL, whose savepoints the testing kit knows. Use"
            " 'testing.truncated(db)', which empties the tables after the test."
        )
    pool = engine.pool
    if isinstance(pool, SharedPool):
        with pool.shared.undoing():
            yield
        return
    with engine.connect() as connection:
        proxy = connection.connection
        shared = SharedConnection(engine, proxy.dbapi_connection, name)
        shared.begin()
        engine.pool = SharedPool(shared, pool)
        try:
            with without_deferring(engine), _replaced(engine.dialect):
                yield
        finally:
            engine.pool = pool
            shared.end()
            if shared.has_changed_session:  # which no rollback sets back
                connection.invalidate()


@contextmanager
def _replaced(dialect: Dialect) -> Iterator[None]:
    """Replace what *dialect* does to a connection of the driver and must not do to a shared one.

    - Isolation levels have no effect but AUTOCOMMIT: they are those of the real transaction. To set
      them differs by driver: attributes, methods, and that of MySQL sends a COMMIT.
    - Cursors of the server become plain ones: on MySQL, the next statement would end their rows.
    """

    def set_isolation_level(connection: Any, level: object) -> None:
        connection.autocommit = level == "AUTOCOMMIT"

    def reset_isolation_level(connection: Any) -> None:
        connection.autocommit = connection.shared.is_autocommit

    def ignore(*_: object) -> None: ...

    replacements = {
        "set_isolation_level": set_isolation_level,
        "reset_isolation_level": reset_isolation_level,
        "set_readonly": ignore,
        "set_deferrable": ignore,
        "supports_server_side_cursors": False,
    }
    own = vars(dialect)
    before = {name: own[name] for name in replacements if name in own}
    own.update(replacements)
    try:
        yield
    finally:
        for name in replacements:
            del own[name]
        own.update(before)


class SharedPool(Pool):
    """Lends a :class:`Facade` of the shared connection for each checkout.

    :param original: the pool that it stands in for, whose listeners are called.
    """

    def __init__(self, shared: SharedConnection, original: Pool) -> None:
        self._facade: Any = partial(Facade, shared)
        super().__init__(self._facade, dialect=shared.dialect, _dispatch=original.dispatch)
        self.shared = shared
        self._original = original
        self._process = os.getpid()

    def _do_get(self) -> ConnectionPoolEntry:
        # Listeners for "connect" have had the real connection.
        entry = sqlalchemy_private.unconnected_entry(self, self._facade)
        if isinstance(self._original, ConnectionPool) and self._original.tracker is not None:
            self._original.tracker.add(entry)
        return entry

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        """Keep nothing: the next checkout gets another facade."""

    def status(self) -> str:
        return "one connection, shared by all code of a test"

    def dispose(self) -> None:
        """Do nothing: the connection belongs to the isolation."""

    def recreate(self) -> Pool:
        """Return itself: 'engine.dispose()' does not end isolation. A forked child is not in it."""
        return self if self._process == os.getpid() else self._original.recreate()
