"""SQLite done right: real transactions, one writer after the other, and a file that is there (P12).

Python's driver by default begins a transaction with the first write, which loses updates, and none
for a SAVEPOINT or DDL. Here a transaction begins with its first statement, these included:

- ``BEGIN IMMEDIATE`` if it is going to write: it has the write lock before it reads. Writers wait
  for each other in a queue (:mod:`~flask_uow._sqlite.write_queue`), which they leave right after
  the COMMIT;
- ``BEGIN`` if it reads. In WAL mode readers and the writer do not wait for each other. It may still
  write, and waits in the queue then; if another transaction has written since, it is refused,
  because what it has read is out of date.

The second is for Core, for transactions with options, and for rows that are streamed. A unit of
work that is not expected to write reads without a transaction
(:mod:`~flask_uow._engine.plain_reads`), and its first write begins one with ``BEGIN IMMEDIATE``.

PRAGMA, VACUUM, ATTACH and DETACH begin no transaction. Nothing does in the isolation level
AUTOCOMMIT, which does not use the queue either.

Nothing here knows Flask or sessions.
"""

from __future__ import annotations

import os
import sqlite3
import time
import warnings
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from sqlalchemy import Engine, event
from sqlalchemy.engine import Dialect, ExceptionContext, ExecutionContext
from sqlalchemy.pool import ConnectionPoolEntry, Pool

from .._config.checks import CHECKS
from .._config.settings import SqliteProfile
from .._transaction.record import before_statements, deferred_record_of, record_of
from .._transaction.statements import SqliteKind, sqlite_kind_of
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
from .database import SqliteDatabase
from .profile import has_temporary_file, is_memory, path_of, refuse_network


def set_up_transactions(
    engine: Engine,
    profile: SqliteProfile | None = None,
    *,
    on_wal_growth: Callable[[int], object] | None = None,
) -> None:
    """Let *engine* use SQLite as *profile* says; before any other listener of statements.

    :param on_wal_growth: called with a number of bytes, after a COMMIT, every few seconds at most:
        the log has grown beyond :data:`~flask_uow._sqlite.database.WAL_LIMIT`, because a
        transaction keeps reading from it.
    :raises ConfigError: the file is on a network file system.
    """
    refuse_isolation_level(engine.dialect)
    profile, in_memory = profile or SqliteProfile(), is_memory(engine.url)
    if not in_memory:
        path, _ = path_of(engine.url.database or "", is_uri="uri" in engine.url.query)
        refuse_network(path, profile)
    database = SqliteDatabase(profile, in_memory=in_memory, on_wal_growth=on_wal_growth)
    listeners = _Listeners(engine, profile, database)
    event.listen(engine, "do_connect", listeners.on_do_connect)
    event.listen(engine, "connect", listeners.on_connect)
    if has_temporary_file(engine):  # only there: it makes each statement slower
        event.listen(engine, "engine_disposed", listeners.on_disposed)
    event.listen(engine, "handle_error", listeners.on_error)
    name = "do_rollback"  # there is no event for the rollback of the pool
    setattr(engine.dialect, name, partial(roll_back, getattr(engine.dialect, name)))
    before_statements(engine, listeners.on_statement)


class _Listeners:
    """The listeners of one engine."""

    def __init__(self, engine: Engine, profile: SqliteProfile, database: SqliteDatabase) -> None:
        self._profile = profile
        self._database = database
        self._is_temporary = has_temporary_file(engine)
        self._engine = weakref.ref(engine)
        # The pool of the last connection. The reference is weak, because a mapper keeps the
        # dialects for which it has compiled statements, and the dialect keeps these listeners.
        self._pool: Callable[[], Pool | None] = lambda: None
        self._told = False

    # A new connection -------------------------------------------------------------------------

    def on_do_connect(
        self, _dialect: Dialect, _entry: object, args: list[Any], options: dict[str, Any]
    ) -> None:
        """Choose the class of the connection; look for the file before SQLite creates one."""
        engine, database = self._engine(), self._database
        if self._is_temporary:
            args[0] = temporary.path_for(cast(Engine, engine))
            options.update(uri=False, check_same_thread=False)
        refuse_contradictions(options)
        database.timeout = options.setdefault("timeout", database.timeout)
        where = "The 'timeout' in 'connect_args' or in the URL"
        CHECKS["UOW_SQLITE_BUSY_TIMEOUT"](database.timeout, where)
        options["factory"] = connection_class(options.get("factory", SqliteConnection))
        path, query = path_of(str(args[0]), is_uri=bool(options.get("uri")))
        is_immutable = query.get("immutable") in {"1", "on", "true"}
        database.read_only = query.get("mode") == "ro" or is_immutable
        was_opened = bool(path and database.path) and path == database.asked_for
        database.asked_for = path
        if path and not os.path.exists(path):  # noqa: PTH110
            was_in_use = was_opened and engine is not None and engine.pool is self._pool()
            explain.refuse_missing(path, name=database.name, was_in_use=was_in_use)
        elif was_opened and engine is not None and database.is_replaced():
            engine.dispose()  # the connections to the old file
            self._pool = weakref.ref(engine.pool)
            explain.refuse_leftovers(database)

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
        if self._profile.foreign_keys:  # else it is off, unless a listener of the app wants it
            connection.execute("PRAGMA foreign_keys = ON")
        if path:
            connection.execute(f"PRAGMA synchronous = {self._profile.synchronous}")
        self._database.note_path(path)
        if (engine := self._engine()) is not None:
            self._pool = weakref.ref(engine.pool)
        if isinstance(connection, SqliteConnection):
            connection.database, connection.queue = self._database, self._database.queue
            connection.timeout = self._database.timeout
        elif self._profile.queue and not self._told:
            self._told = True
            warnings.warn(
                "The connections to SQLite are made by a 'creator' of your own, so their writers"
                " do not wait in the queue of UOW_SQLITE_QUEUE, but for SQLite's lock, which is"
                " not fair. Drop the 'creator', and give what it does to 'connect_args'.",
                ConfigNotice,
                stacklevel=2,
            )
        is_protected = os.path.exists(path) and not os.access(path, os.W_OK)  # noqa: PTH110
        if path and not (self._database.read_only or is_protected):
            self._set_journal_mode(connection)
        if path:
            self._database.note_identity()
        if isinstance(connection, SqliteConnection):
            connection.identity = self._database.identity

    def _set_journal_mode(self, connection: sqlite3.Connection) -> None:
        wanted, name = self._profile.journal_mode, self._database.name
        end = time.monotonic() + self._database.timeout
        found = "unknown"
        while True:
            try:
                (found,) = connection.execute("PRAGMA journal_mode").fetchone()
                if found != wanted:
                    (found,) = connection.execute(f"PRAGMA journal_mode = {wanted}").fetchone()
                break
            except sqlite3.OperationalError as error:
                # SQLite does not wait for this lock. Several processes may be starting just now.
                if str(error) != explain.LOCKED:
                    raise
                if time.monotonic() > end:
                    raise explain.locked(
                        f"the journal mode of {name!r} is {found!r}, and it can become {wanted!r}"
                        " (UOW_SQLITE_JOURNAL_MODE) only while no other program has the file open."
                        " Stop these programs"
                    ) from error
                time.sleep(0.01)
        if found != wanted:
            raise sqlite3.OperationalError(
                f"the journal mode of {name!r} stays {found!r}: its file system, or the way it"
                f" is opened, does not allow {wanted!r}. Set UOW_SQLITE_JOURNAL_MODE = {found!r}."
            )

    # Statements -------------------------------------------------------------------------------

    def on_statement(self, cursor: Any, statement: str, *others: Any) -> None:
        """Begin the transaction, or wait for the turn to write, if *statement* needs it.

        :raises TransactionLost: the transaction that it would continue is gone.
        """
        connection, context = cursor.connection, others[-1]
        if not isinstance(connection, SqliteConnection):
            self._begin_without_queue(connection, sqlite_kind_of(statement), context)
        elif not connection.in_transaction:
            self._begin(connection, statement, context)
        elif connection.lost and not _is_lost(context):
            raise TransactionLost(None)  # the driver has begun another one
        elif not connection.has_work:
            record = record_of(context.root_connection)
            keeps_snapshot = record is None or record.keeps_snapshot
            connection.prepare(sqlite_kind_of(statement), keeps_snapshot=keeps_snapshot)

    def _begin(
        self, connection: SqliteConnection, statement: str, context: ExecutionContext
    ) -> None:
        kind, is_autocommit = sqlite_kind_of(statement), connection.isolation_level is None
        # As a COMMIT does; reading may continue for a moment.
        is_stored_at_once = is_autocommit and kind is SqliteKind.WRITE
        if is_stored_at_once or time.monotonic() > connection.next_check:
            connection.refuse_replaced()
        if is_autocommit or deferred_record_of(context) is not None:
            return
        connection.has_read = connection.has_work = False
        if kind is SqliteKind.OUTSIDE:
            connection.expect_begin(statement)
        elif kind is SqliteKind.END:
            return
        elif not connection.has_lost:
            # A connection that has lent its turn has it still.
            immediate = connection.resting or self._locks_at_once(kind, context)
            connection.begin(immediate=immediate)
            connection.prepare(kind, keeps_snapshot=True)
        elif not _is_lost(context):
            raise TransactionLost(None)

    def _begin_without_queue(
        self, connection: sqlite3.Connection, kind: SqliteKind, context: ExecutionContext
    ) -> None:
        if connection.in_transaction or connection.isolation_level is None or _is_lost(context):
            return
        if deferred_record_of(context) is not None:
            return
        if kind not in {SqliteKind.OUTSIDE, SqliteKind.END}:
            immediate = self._locks_at_once(kind, context)
            connection.execute("BEGIN IMMEDIATE" if immediate else "BEGIN")

    def _locks_at_once(self, kind: SqliteKind, context: ExecutionContext) -> bool:
        """Tell whether a transaction that a statement of *kind* begins takes the write lock."""
        if self._profile.begin == "deferred" or self._database.read_only:
            return False
        if self._profile.begin == "immediate" or kind is SqliteKind.WRITE:
            return True
        record = record_of(context.root_connection)
        if record is None:
            return False
        # A unit that sets a savepoint is about to write something that it may undo.
        return record.will_write or (kind is SqliteKind.SAVEPOINT and not record.read_only)

    def on_error(self, context: ExceptionContext) -> None:
        error = context.original_exception
        if isinstance(error, explain.Replaced):
            context.is_disconnect = True
        elif isinstance(error, sqlite3.OperationalError):
            if str(error) == explain.READ_ONLY and explain.is_on_replaced_file(context):
                context.is_disconnect = True  # with a rollback journal, SQLite sees it itself
            explain.extend(context, self._database)


def _is_lost(context: ExecutionContext) -> bool:
    record = record_of(context.root_connection)
    return record is not None and record.is_lost


def _path_of(connection: sqlite3.Connection) -> str:
    """Return the path of the main database; empty in memory."""
    for _, name, path in connection.execute("PRAGMA database_list"):
        if name == "main":
            return str(path or "")
    return ""
