"""What the connections of a migration get, and lose when they go back to their pool.

Installed as pool events, because an ``env.py`` that does not call ``run()`` takes its connections
from the pool; limited to the migrating thread, because other threads may be serving requests.

Timeouts are settings of the session. A pooler that gives each transaction another session
(PgBouncer, ``pool_mode = transaction``) may give a transaction a session without them, and the
settings to another client: there, leave them out, and write ``SET LOCAL lock_timeout = ...`` into
the revision.
"""

from __future__ import annotations

import contextlib
import math
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Engine, PoolProxiedConnection, event
from sqlalchemy.engine import Dialect
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

_KEY = "flask_uow.migrations"  # in the ``info`` of a connection: what restores it
_SECOND = 10.0  # seconds that a second connection waits for a lock


class _Limits(NamedTuple):
    lock: float | None
    statement: float | None


class _Current(threading.local):
    """What the migration of this thread asks for; None where there is none."""

    limits: _Limits | None = None


_current = _Current()
_watched: weakref.WeakSet[Dialect] = weakref.WeakSet()
_watching = threading.Lock()


@contextlib.contextmanager
def prepared(
    engines: Mapping[str, Engine], *, lock_timeout: float | None, statement_timeout: float | None
) -> Iterator[None]:
    """Prepare the connections that this thread takes inside the block.

    On SQLite foreign keys are not enforced: 'batch' migrations drop a table and rename its copy,
    and the drop would delete, or cascade to, every row that points to it.

    A second connection, such as that of ``db.session`` in a revision, would wait without end for
    what the first one has locked. It waits for at most 10 seconds, unless *lock_timeout* is given.

    :param lock_timeout: seconds that a statement waits for a lock: of a table or a row, on SQLite
        of the database; None for what is set. MySQL and MariaDB count in whole seconds, so it is
        rounded up there.
    :param statement_timeout: seconds that a statement may take; None for what is set. Only for
        servers that :func:`can_end_statements`.
    """
    with _watching:
        for engine in engines.values():
            if engine.dialect not in _watched:
                _watched.add(engine.dialect)
                _watch(engine)
    before, _current.limits = _current.limits, _Limits(lock_timeout, statement_timeout)
    try:
        yield
    finally:
        _current.limits = before


def can_end_statements(engine: Engine) -> bool:
    """Tell whether the database has a timeout for statements that change something.

    MySQL has one for queries only, SQLite has none.
    """
    return _database_of(engine) in {"postgresql", "mariadb"}


def _database_of(engine: Engine) -> str:
    """The name of the database; MariaDB's also after a URL that says 'mysql'."""
    return "mariadb" if getattr(engine.dialect, "is_mariadb", False) else engine.dialect.name


def _watch(engine: Engine) -> None:
    """Install the listeners. They stay: a connection may go back after the migration."""
    database = _database_of(engine)
    taken: set[ConnectionPoolEntry] = set()

    def on_checkout(
        connection: DBAPIConnection, entry: ConnectionPoolEntry, _proxy: PoolProxiedConnection
    ) -> None:
        limits = _current.limits
        if limits is None or _KEY in entry.info:
            return
        if database == "sqlite":
            entry.info[_KEY] = _prepare_sqlite(connection, limits)
            return
        if taken and limits.lock is None:
            limits = limits._replace(lock=_SECOND)
        taken.add(entry)
        if settings := _settings(database, limits):
            with contextlib.closing(connection.cursor()) as cursor:
                for name, value in settings.items():
                    cursor.execute(f"SET SESSION {name} = {value}")
            connection.commit()
            entry.info[_KEY] = entry.invalidate  # another use of it gets a new session

    def on_checkin(connection: DBAPIConnection | None, entry: ConnectionPoolEntry) -> None:
        taken.discard(entry)
        restore: Callable[[], object] | None = entry.info.pop(_KEY, None)
        if restore is not None and connection is not None:
            try:
                restore()
            except Exception as error:  # its settings are unknown now
                entry.invalidate(error)

    event.listen(engine.pool, "checkout", on_checkout)
    event.listen(engine.pool, "checkin", on_checkin)


def _settings(database: str, limits: _Limits) -> dict[str, str]:
    """The settings of a session, by the names of one kind of server."""
    settings: dict[str, str] = {}
    if database == "postgresql":
        if limits.lock is not None:
            settings["lock_timeout"] = str(max(1, math.ceil(limits.lock * 1000)))
        if limits.statement is not None:
            settings["statement_timeout"] = str(max(1, math.ceil(limits.statement * 1000)))
    elif database in {"mysql", "mariadb"}:
        if limits.lock is not None:
            seconds = str(max(1, math.ceil(limits.lock)))
            settings["lock_wait_timeout"] = settings["innodb_lock_wait_timeout"] = seconds
        if limits.statement is not None and database == "mariadb":
            settings["max_statement_time"] = f"{limits.statement:f}"
    return settings


def _prepare_sqlite(connection: Any, limits: _Limits) -> Callable[[], object]:
    pragmas = {"foreign_keys": 0}
    queue_timeout = getattr(connection, "timeout", None)
    if limits.lock is not None:
        pragmas["busy_timeout"] = math.ceil(limits.lock * 1000)
        if queue_timeout is not None:
            connection.timeout = limits.lock
    before = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas}
    for name, value in pragmas.items():
        connection.execute(f"PRAGMA {name} = {value}")

    def restore() -> None:
        if queue_timeout is not None:
            connection.timeout = queue_timeout
        for name, value in before.items():
            connection.execute(f"PRAGMA {name} = {value}")

    return restore
