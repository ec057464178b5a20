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
import re
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, PoolProxiedConnection, event
from sqlalchemy.engine import Dialect, ExceptionContext
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.pool import ConnectionPoolEntry

_KEY = "flask_uow.migrations"
_LONGEST = 2_000_000  # seconds, 23 days; PostgreSQL counts milliseconds in 31 bits
_SECOND = 10.0

Restore = Callable[[], None]


@contextlib.contextmanager
def prepared(
    engines: Mapping[str, Engine], *, lock_timeout: float | None, statement_timeout: float | None
) -> Iterator[None]:
    """Prepare the connections that this thread takes inside the block.

    On SQLite foreign keys are not enforced: 'batch' migrations drop a table and rename its copy,
    and the drop would delete, or cascade to, every row that points to it.

    A second connection, as ``db.session`` has one, may wait for what the first has locked, and this
    thread would wait for itself. So it does not wait longer than 10 seconds for a lock.

    :param lock_timeout: seconds that a statement waits for a lock: of a table or a row, on SQLite
        of the database; None for what is set. MySQL and MariaDB count in whole seconds, so it is
        rounded up there.
    :param statement_timeout: seconds that a statement may take; None for what is set. Only for
        servers that :func:`can_end_statements`.
    """
    limits = _Limits(lock_timeout, statement_timeout)
    with contextlib.ExitStack() as stack:
        for engine in {id(engine.dialect): engine for engine in engines.values()}.values():
            stack.enter_context(_watch_of(engine).during(_Checkouts(limits)))
        yield


def can_end_statements(engine: Engine) -> bool:
    """Tell whether the database has a timeout for statements that change something.

    MySQL has one for queries only, SQLite has none.
    """
    return engine.dialect.name == "postgresql" or _is_mariadb(engine)


def _is_mariadb(engine: Engine) -> bool:
    """Also after a URL that says 'mysql', once the engine has connected."""
    dialect = engine.dialect
    return dialect.name == "mariadb" or bool(getattr(dialect, "is_mariadb", False))


@dataclass(frozen=True)
class _Limits:
    lock: float | None
    statement: float | None


@dataclass
class _Checkouts:
    """The connections that one thread has from one engine now.

    :ivar entries: the ids of the entries of the pool.
    """

    limits: _Limits
    entries: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class _Checkout:
    """One connection.

    :ivar restore: puts back what was set.
    :ivar second: the thread had another one when it took it.
    """

    among: _Checkouts
    restore: Restore
    second: bool


class _Watch:
    """The listeners of one engine.

    Installed once and never removed: a listener added later does not reach connections that are
    checked out, and a connection may go back after the migration.
    """

    def __init__(self, engine: Engine) -> None:
        name = "mariadb" if _is_mariadb(engine) else engine.dialect.name
        self._prepare = _without_foreign_keys if name == "sqlite" else _Server(name).prepare
        self._by_thread: dict[int, _Checkouts] = {}
        event.listen(engine.pool, "checkout", self._on_checkout)
        event.listen(engine.pool, "checkin", self._on_checkin)
        event.listen(engine, "handle_error", self._on_error)

    @contextlib.contextmanager
    def during(self, checkouts: _Checkouts) -> Iterator[None]:
        thread = threading.get_ident()
        self._by_thread[thread] = checkouts
        try:
            yield
        finally:
            del self._by_thread[thread]

    def _on_checkout(
        self,
        connection: DBAPIConnection,
        entry: ConnectionPoolEntry,
        _proxy: PoolProxiedConnection,
    ) -> None:
        checkouts = self._by_thread.get(threading.get_ident())
        if checkouts is None or id(entry) in checkouts.entries:
            return
        second = bool(checkouts.entries)
        restore = self._prepare(connection, checkouts.limits, second=second)
        checkouts.entries.add(id(entry))
        entry.info[_KEY] = _Checkout(checkouts, restore, second)

    def _on_checkin(self, connection: DBAPIConnection | None, entry: ConnectionPoolEntry) -> None:
        checkout: _Checkout | None = entry.info.pop(_KEY, None)  # none also if invalidated
        among = checkout.among if checkout else self._by_thread.get(threading.get_ident())
        if among is not None:
            among.entries.discard(id(entry))
        if checkout is not None and connection is not None:
            try:
                checkout.restore()
            except Exception as error:  # its settings are unknown now
                entry.invalidate(error)

    def _on_error(self, context: ExceptionContext) -> None:
        """Name the timeout and the remedy in the driver's message."""
        checkouts = self._by_thread.get(threading.get_ident())
        if checkouts is None:
            return
        error, wrapped = context.original_exception, context.sqlalchemy_exception
        before = str(error).rstrip()
        text = _explained(error, before, checkouts.limits, second=_is_second(context))
        if text == before or not error.args:
            return
        if wrapped is not None and wrapped.args:
            wrapped.args = (str(wrapped.args[0]).replace(before, text), *wrapped.args[1:])
        # PyMySQL puts a number before the message.
        number, message = error.args[:-1], str(error.args[-1]).rstrip()
        error.args = (*number, text.replace(before, message) if number else text)


_watches: weakref.WeakKeyDictionary[Dialect, _Watch] = weakref.WeakKeyDictionary()
_installing = threading.Lock()


def _watch_of(engine: Engine) -> _Watch:
    with _installing:
        watch = _watches.get(engine.dialect)
        if watch is None:
            watch = _watches[engine.dialect] = _Watch(engine)
    return watch


# Servers --------------------------------------------------------------------------------------

_LOCKS_OF_MYSQL = ("lock_wait_timeout", "innodb_lock_wait_timeout")


class _Server:
    """The settings of a session, by the names of one kind of server."""

    def __init__(self, dialect: str) -> None:
        self._dialect = dialect

    def prepare(self, connection: DBAPIConnection, limits: _Limits, *, second: bool) -> Restore:
        settings = self._settings(limits, second=second)
        if not settings:
            return _nothing
        with contextlib.closing(connection.cursor()) as cursor:
            before = self._read(cursor, list(settings))
            if second and limits.lock is None:  # a shorter timeout of the app stays
                settings = {
                    name: value
                    for name, value in settings.items()
                    if not 0 < float(before[name]) < float(value)
                }
            self._write(cursor, settings)
        connection.commit()

        def restore() -> None:
            with contextlib.closing(connection.cursor()) as cursor:
                self._write(cursor, {name: before[name] for name in settings})
            connection.commit()

        return restore

    def _settings(self, limits: _Limits, *, second: bool) -> dict[str, str]:
        lock = _SECOND if second and limits.lock is None else limits.lock
        settings: dict[str, str] = {}
        if self._dialect == "postgresql":
            both = {"lock_timeout": lock, "statement_timeout": limits.statement}
            settings = {
                name: str(max(1, math.ceil(min(value, _LONGEST) * 1000)))
                for name, value in both.items()
                if value is not None
            }
        elif self._dialect in {"mysql", "mariadb"}:
            if lock is not None:
                whole = str(max(1, math.ceil(min(lock, _LONGEST))))
                settings = dict.fromkeys(_LOCKS_OF_MYSQL, whole)
            if limits.statement is not None and self._dialect == "mariadb":
                settings["max_statement_time"] = f"{min(limits.statement, _LONGEST):f}"
        return settings

    def _read(self, cursor: DBAPICursor, names: list[str]) -> dict[str, str]:
        if self._dialect == "postgresql":
            column = "(SELECT setting FROM pg_settings WHERE name = '{}')"
        else:
            column = "@@SESSION.{}"
        cursor.execute(f"SELECT {', '.join(map(column.format, names))}")
        return dict(zip(names, map(str, cursor.fetchone() or ()), strict=True))

    @staticmethod
    def _write(cursor: DBAPICursor, settings: Mapping[str, str]) -> None:
        for name, value in settings.items():
            cursor.execute(f"SET SESSION {name} = {value}")


def _nothing() -> None:
    """Restore nothing: nothing was changed."""


# SQLite ---------------------------------------------------------------------------------------


def _without_foreign_keys(connection: Any, limits: _Limits, *, second: bool) -> Restore:
    del second  # it is refused at once if it waits for the first
    pragmas = {"foreign_keys": "0"}
    if limits.lock is not None:
        pragmas["busy_timeout"] = str(math.ceil(min(limits.lock, _LONGEST) * 1000))
    before = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas}
    queue_timeout = getattr(connection, "timeout", None)
    if limits.lock is not None and queue_timeout is not None:
        connection.timeout = limits.lock
    for name, value in pragmas.items():
        connection.execute(f"PRAGMA {name} = {value}")

    def restore() -> None:
        if queue_timeout is not None:
            connection.timeout = queue_timeout
        for name, value in before.items():
            connection.execute(f"PRAGMA {name} = {value}")

    return restore


# Errors ---------------------------------------------------------------------------------------

# PostgreSQL's, also that of a statement that was cancelled; MariaDB's.
_STATEMENT_ERRORS: set[object] = {"57014", 1969}
_LOCK_ERRORS: set[object] = {"55P03", 1205}
_BUSY_TIMEOUT = re.compile(r"within \S+ s \(UOW_SQLITE_BUSY_TIMEOUT\)")


def _is_second(context: ExceptionContext) -> bool:
    connection = context.connection
    if connection is None or connection.invalidated or connection.closed:
        return False
    checkout: _Checkout | None = connection.info.get(_KEY)
    return checkout is not None and checkout.second


def _explained(error: BaseException, text: str, limits: _Limits, *, second: bool) -> str:
    codes = {getattr(error, name, None) for name in ("sqlstate", "pgcode")}
    codes.update(error.args[:1])  # a number of PyMySQL; SQLite has words only
    if codes & _STATEMENT_ERRORS and limits.statement is not None:
        return f"{text} (--statement-timeout is {limits.statement:g} s)"
    if limits.lock is not None:
        text = _BUSY_TIMEOUT.sub(f"within {limits.lock:g} s (--lock-timeout)", text)
    if codes & _LOCK_ERRORS:
        if limits.lock is not None:
            text += f" (--lock-timeout is {limits.lock:g} s)"
        if second:
            text += (
                ": a second connection, as that of 'db.session', waits for what the revision itself"
                " has locked. Use 'op.get_bind()' or 'Session(op.get_bind())'"
            )
    return text
