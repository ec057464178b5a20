"""SQLite done right: real transactions, one writer after the other, and a file that is there (P12).

What Python's driver does by default loses updates: it begins a transaction with the first write,
and what was read before may be out of date by then. Here a transaction begins with its first
statement, a SAVEPOINT and DDL included:

- ``BEGIN IMMEDIATE`` if it is going to write: it has the write lock before it reads. Writers wait
  for each other in a queue (:mod:`~flask_uow._sqlite.write_queue`), which they leave right after
  the COMMIT;
- ``BEGIN`` if it reads. In WAL mode readers and the writer do not wait for each other. It may still
  write, and waits in the queue then; if another transaction has written since, it is refused,
  because what it has read is out of date.

PRAGMA, VACUUM, ATTACH and DETACH begin no transaction. Nothing does in the isolation level
AUTOCOMMIT, which does not use the queue either.

Nothing here knows Flask or sessions.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from sqlalchemy import Engine, event
from sqlalchemy.engine import Dialect, ExceptionContext, ExecutionContext
from sqlalchemy.pool import ConnectionPoolEntry

from .._config.checks import CHECKS
from .._config.settings import SqliteProfile
from .._transaction.record import before_statements, record_of
from .._transaction.statements import SQLITE_WORK, SqliteKind, sqlite_kind_of
from ..errors import ConfigNotice, TransactionLost
from . import explain, temporary
from .connection import (
    LEGACY,
    SqliteConnection,
    connection_class,
    refuse_contradictions,
    refuse_isolation_level,
    roll_back,
)
from .profile import has_temporary_file, is_memory, path_of, refuse_network
from .write_queue import WriteQueue

WAL_LIMIT = 16 * 2**20
"""Bytes. SQLite writes the log back at 4 MB and starts it again, unless a transaction reads it."""

_WAL_PERIOD = 5.0  # seconds between two looks at it
_CHECK_PERIOD = 1.0  # seconds for which reading from a deleted file may go unnoticed


def set_up_transactions(
    engine: Engine,
    profile: SqliteProfile | None = None,
    *,
    on_wal_growth: Callable[[int], object] | None = None,
) -> None:
    """Let *engine* use SQLite as *profile* says; before any other listener of statements.

    :param on_wal_growth: called with a number of bytes, after a COMMIT, every few seconds at most:
        the log has grown beyond :data:`WAL_LIMIT`, because a transaction keeps reading from it.
    :raises ConfigError: the file is on a network file system.
    """
    refuse_isolation_level(engine.dialect)
    _Database(engine, profile or SqliteProfile(), on_wal_growth).listen_to(engine)


class _Database:
    """The database of one engine, and the listeners of that engine.

    :ivar path: of the file; empty before the first connection, and without a file.
    :ivar asked_for: the path to which a connection was asked for last.
    :ivar read_only: it was opened for reading only, so no connection waits for the write lock.
    :ivar timeout: how long a connection waits for a lock, in seconds.
    """

    def __init__(
        self, engine: Engine, profile: SqliteProfile, on_wal_growth: Callable[[int], object] | None
    ) -> None:
        self.profile = profile
        self.on_wal_growth = on_wal_growth
        self.path = self.asked_for = ""
        self.read_only = False
        self.timeout = profile.busy_timeout
        self.queue: WriteQueue | None = None
        self._is_temporary = has_temporary_file(engine)
        self._in_memory = is_memory(engine.url)
        self._engine = weakref.ref(engine)
        self._pool: Any = None
        self._lock = threading.Lock()
        self._next_look = 0.0
        self._next_check = 0.0
        self._told = False

    def listen_to(self, engine: Engine) -> None:
        if self._is_temporary:
            event.listen(engine, "engine_disposed", self.on_disposed)
        elif not self._in_memory:
            path, _ = path_of(engine.url.database or "", is_uri="uri" in engine.url.query)
            refuse_network(path, self.profile)
        event.listen(engine, "do_connect", self.on_do_connect)
        event.listen(engine, "connect", self.on_connect)
        event.listen(engine, "handle_error", self.on_error)
        name = "do_rollback"  # there is no event for the rollback of the pool
        setattr(engine.dialect, name, partial(roll_back, getattr(engine.dialect, name)))
        before_statements(engine, self.on_statement)

    @property
    def name(self) -> str:
        """What messages call the database: its path, or its URL if it is in memory."""
        return "sqlite://" if self._in_memory else self.path or self.asked_for

    # A new connection -------------------------------------------------------------------------

    def on_do_connect(
        self, _dialect: Dialect, _entry: object, args: list[Any], options: dict[str, Any]
    ) -> None:
        """Choose the class of the connection; look for the file before SQLite creates one."""
        if self._is_temporary:
            args[0] = temporary.path_for(cast(Engine, self._engine()))
            options.update(uri=False, check_same_thread=False)
        refuse_contradictions(options)
        self.timeout = options.setdefault("timeout", self.profile.busy_timeout)
        where = "The 'timeout' in 'connect_args' or in the URL"
        CHECKS["UOW_SQLITE_BUSY_TIMEOUT"](self.timeout, where)
        options["factory"] = connection_class(options.get("factory"))
        path, query = path_of(str(args[0]), is_uri=bool(options.get("uri")))
        self.read_only = query.get("mode") == "ro" or query.get("immutable") in {"1", "on", "true"}
        self.asked_for = path
        if path and not os.path.exists(path):  # noqa: PTH110
            engine = self._engine()
            was_in_use = path == self.path and engine is not None and engine.pool is self._pool
            error = explain.missing_file(path, name=self.name, was_in_use=was_in_use)
            if error is not None:
                raise error

    def on_disposed(self, _engine: Engine) -> None:  # perhaps one with other execution options
        temporary.remove(cast(Engine, self._engine()))

    def on_connect(self, connection: Any, _entry: ConnectionPoolEntry) -> None:
        try:
            self._set_up(connection)
        except BaseException:
            connection.close()
            raise

    def _set_up(self, connection: sqlite3.Connection) -> None:
        refuse_contradictions({"autocommit": getattr(connection, "autocommit", LEGACY)})
        path = _path_of(connection)
        connection.execute(f"PRAGMA foreign_keys = {int(self.profile.foreign_keys)}")
        if path:
            connection.execute(f"PRAGMA synchronous = {self.profile.synchronous}")
        self._note_path(path)
        if isinstance(connection, SqliteConnection):
            self._prepare(connection)
        elif self.profile.queue and not self._told:
            self._told = True
            warnings.warn(
                "The connections to SQLite are made by a 'creator' of your own, so their writers"
                " do not wait in the queue of UOW_SQLITE_QUEUE, but for SQLite's lock, which is"
                " not fair. Drop the 'creator', and give what it does to 'connect_args'.",
                ConfigNotice,
                stacklevel=2,
            )
        is_protected = os.path.exists(path) and not os.access(path, os.W_OK)  # noqa: PTH110
        if path and not (self.read_only or is_protected):
            self._set_journal_mode(connection)
        if isinstance(connection, SqliteConnection) and path:
            connection.identity = _identity(path)

    def _note_path(self, path: str) -> None:
        with self._lock:
            engine = self._engine()
            if path != self.path:  # a new temporary file: the queue beside the old one is gone
                self.queue = None
            self.path, self._pool = path, engine.pool if engine is not None else None
            if self.queue is None and self.profile.queue and not self.read_only:
                self.queue = WriteQueue(f"{path}-queue", path) if path else WriteQueue()

    def _prepare(self, connection: SqliteConnection) -> None:
        connection.queue, connection.name = self.queue, self.name
        connection.timeout = self.timeout
        connection.patient = self.profile.journal_mode == "wal"
        if self.path:
            connection.before_commit = self.notice_replaced
        if self.path and self.on_wal_growth is not None:
            connection.after_commit = self.look_at_wal

    def _set_journal_mode(self, connection: sqlite3.Connection) -> None:
        wanted, end = self.profile.journal_mode, time.monotonic() + self.timeout
        found = "unknown"
        while True:
            try:
                found = _pragma(connection, "journal_mode")
                if found != wanted:
                    found = _pragma(connection, f"journal_mode = {wanted}")
                break
            except sqlite3.OperationalError as error:
                # SQLite does not wait for this lock. Several processes may be starting just now.
                if str(error) != explain.LOCKED:
                    raise
                if time.monotonic() > end:
                    raise explain.locked(
                        f"the journal mode of {self.name!r} is {found!r}, and it can become"
                        f" {wanted!r} (UOW_SQLITE_JOURNAL_MODE) only while no other program has"
                        " the file open. Stop the programs that have"
                    ) from error
                time.sleep(0.01)
        if found != wanted:
            raise sqlite3.OperationalError(
                f"the journal mode of {self.name!r} stays {found!r}: its file system, or the way it"
                f" is opened, does not allow {wanted!r}. Set UOW_SQLITE_JOURNAL_MODE = {found!r}."
            )

    # The file ---------------------------------------------------------------------------------

    def notice_replaced(self, connection: SqliteConnection) -> None:
        """
        :raises sqlite3.OperationalError: the file was deleted, or is another one.
        """
        self._next_check = time.monotonic() + _CHECK_PERIOD
        if connection.identity not in {None, _identity(self.path)}:
            raise _Replaced(
                f"{explain.READ_ONLY}: the file {self.name!r} was deleted or replaced while it was"
                " in use. This connection to the old one is dropped; the next unit connects again,"
                " if there is a new one."
            )

    def _refuse_replaced(self, connection: SqliteConnection, kind: SqliteKind) -> None:
        """Notice it before a statement, as a COMMIT does; reading may continue for a moment."""
        writes = kind is SqliteKind.WRITE and connection.isolation_level is None
        if self.path and (writes or time.monotonic() > self._next_check):
            self.notice_replaced(connection)

    def look_at_wal(self, connection: SqliteConnection) -> None:
        now = time.monotonic()
        if now < self._next_look or self.on_wal_growth is None:
            return
        self._next_look = now + _WAL_PERIOD
        try:
            if os.stat(f"{self.path}-wal").st_size < WAL_LIMIT:  # noqa: PTH116
                return
            # The file stays long after a long transaction. What counts is what cannot go.
            _, pages, written_back = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            size = (pages - written_back) * _pragma(connection, "page_size")
        except (OSError, sqlite3.Error):  # the commit has succeeded, and that is what counts
            return
        if size >= WAL_LIMIT:
            self.on_wal_growth(size)

    # Statements -------------------------------------------------------------------------------

    def on_statement(self, cursor: Any, statement: str, *others: Any) -> None:
        connection = cursor.connection
        if not connection.in_transaction:
            if connection.isolation_level is not None:
                self._begin(connection, statement, others[-1])
            elif isinstance(connection, SqliteConnection):
                self._refuse_replaced(connection, sqlite_kind_of(statement))
            return
        if getattr(connection, "lost", False) and not _is_lost(others[-1]):
            raise TransactionLost(None)  # the driver has begun another one
        if getattr(connection, "has_work", True):
            return
        kind = sqlite_kind_of(statement)
        if connection.writing:
            connection.has_work = kind in SQLITE_WORK
        elif kind is SqliteKind.READ:
            connection.has_read = True
        elif kind is SqliteKind.WRITE:
            connection.begin_to_write()
            connection.has_work = True

    def _begin(self, connection: Any, statement: str, context: ExecutionContext) -> None:
        kind, own = sqlite_kind_of(statement), isinstance(connection, SqliteConnection)
        if own:
            self._refuse_replaced(connection, kind)
        if kind is SqliteKind.OUTSIDE and own:
            connection.expect_begin(statement)
        if kind is SqliteKind.END or kind is SqliteKind.OUTSIDE or _is_lost(context):
            return
        if own and connection.has_lost:
            raise TransactionLost(None)
        writes = kind is SqliteKind.WRITE and not self.read_only
        immediate = (writes and self.profile.begin != "deferred") or (
            self.writes_from_the_start(context)
        )
        immediate = immediate or (own and connection.resting)  # its turn is still there
        if not own:
            connection.execute("BEGIN IMMEDIATE" if immediate else "BEGIN")
            return
        connection.begin(immediate=immediate)
        if immediate:
            connection.has_work = kind in SQLITE_WORK
        elif writes:
            connection.begin_to_write()
            connection.has_work = True
        else:
            connection.has_read = kind is SqliteKind.READ

    def writes_from_the_start(self, context: ExecutionContext) -> bool:
        """Tell whether this transaction takes the write lock, whatever its first statement is."""
        if self.profile.begin != "auto" or self.read_only:
            return self.profile.begin == "immediate" and not self.read_only
        record = record_of(context.root_connection)
        return record is not None and record.will_write

    def on_error(self, context: ExceptionContext) -> None:
        if isinstance(context.original_exception, _Replaced):
            context.is_disconnect = True
        elif isinstance(context.original_exception, sqlite3.OperationalError):
            explain.extend(context, self)


class _Replaced(sqlite3.OperationalError):
    """The connection is one to a file that has no name any more."""


def _is_lost(context: ExecutionContext) -> bool:
    record = record_of(context.root_connection)
    return record is not None and record.is_lost


def _path_of(connection: sqlite3.Connection) -> str:
    """Return the path of the main database; empty in memory."""
    for _, name, path in connection.execute("PRAGMA database_list"):
        if name == "main":
            return str(path or "")
    return ""


def _pragma(connection: sqlite3.Connection, name: str) -> Any:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def _identity(path: str) -> tuple[int, int] | None:
    """What a file is, whatever its name; None if there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116  # at every checkout
    except OSError:
        return None
    return status.st_dev, status.st_ino
