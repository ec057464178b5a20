"""A connection to SQLite that waits for its turn before it writes.

Nothing here knows Flask, sessions or engines.
"""

from __future__ import annotations

import sqlite3
import threading
import weakref
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, cast

from sqlalchemy.engine import Dialect

from .._transaction.statements import is_locking_begin
from ..errors import ConfigError, TransactionLost
from . import explain
from .write_queue import QueueTimeout, WriteQueue


class SqliteCursor(sqlite3.Cursor):
    """SQLite's cursor, which tells its connection how a transaction has ended.

    Code that uses a cursor of the driver may swallow its errors, and continue regardless.
    """

    def execute(self, *arguments: Any) -> SqliteCursor:
        return self._tell(super().execute, arguments)

    def executemany(self, *arguments: Any) -> SqliteCursor:
        return self._tell(super().executemany, arguments)

    def _tell(self, method: Callable[..., object], arguments: tuple[Any, ...]) -> SqliteCursor:
        connection: Any = self.connection
        try:
            method(*arguments)
        except BaseException:
            connection.note_loss()
            raise
        # What succeeds, and leaves no transaction, is a COMMIT or a ROLLBACK.
        connection.began = connection.in_transaction
        return self

    def executescript(self, script: str) -> SqliteCursor:
        """Commit what there is, as the driver does, and run *script*."""
        connection: Any = self.connection
        if connection.in_transaction:
            connection.commit()
        super().executescript(script)
        connection.began = connection.in_transaction
        return self


class SqliteConnection(sqlite3.Connection):
    """SQLite's connection, which leaves the queue when its transaction ends.

    :ivar queue: the queue of its database; None if there is none.
    :ivar name: of its database, for messages.
    :ivar identity: which file that was when it was opened.
    :ivar timeout: how long it waits in the queue, in seconds.
    :ivar patient: the writer does not wait for readers (WAL), so a reader may wait for the writer.
    :ivar writing: it waits for its turn or has it, and must leave the queue at the end.
    :ivar has_read: the running transaction began by reading, and keeps its snapshot.
    :ivar has_work: the running transaction has written, or has set a savepoint.
    :ivar began: a transaction was begun, and neither commit() nor rollback(), nor a typed COMMIT or
        ROLLBACK, has ended it. If there is none any more, it was lost.
    :ivar lost: an error has undone its work, or the app by means of the driver; perhaps the driver
        has begun another transaction since.
    :ivar resting: it has lent its turn, and begins again with the next statement.
    :ivar before_commit: called before the COMMIT of a transaction that may have written.
    :ivar after_commit: called after it.
    """

    queue: WriteQueue | None = None
    name = ""
    identity: tuple[int, int] | None = None
    timeout = 0.0
    patient = True
    writing = False
    has_read = False
    has_work = False
    began = False
    lost = False
    resting = False
    before_commit: Callable[[SqliteConnection], object] | None = None
    after_commit: Callable[[SqliteConnection], object] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._place = Place(weakref.ref(self))

    @property
    def has_lost(self) -> bool:
        """Tell whether the transaction is gone, as after a full disk or ON CONFLICT ROLLBACK."""
        return self.lost or (self.began and not self.in_transaction)

    def note_loss(self) -> None:
        self.lost = self.has_lost

    def cursor(self, factory: Any = None) -> Any:
        return super().cursor(_telling(factory))

    # The driver's own methods do not call cursor().

    def execute(self, *arguments: Any) -> Any:
        return self._with_cursor("execute", *arguments)

    def executemany(self, *arguments: Any) -> Any:
        return self._with_cursor("executemany", *arguments)

    def executescript(self, script: str) -> Any:
        return self._with_cursor("executescript", script)

    def _with_cursor(self, method: str, *arguments: Any) -> Any:
        cursor = self.cursor()
        try:
            return getattr(cursor, method)(*arguments)
        except BaseException:
            cursor.close()  # the traceback keeps it, and it would keep the file open
            raise

    def begin(self, *, immediate: bool) -> None:
        """Begin a transaction, after a wait for the turn if it writes.

        :raises sqlite3.OperationalError: that took longer than the timeout.
        """
        self.has_read = self.has_work = False
        if not immediate:
            super().execute("BEGIN")
            self.began = True
            return
        try:
            self.wait_in_queue()
            self.resting = False
            super().execute("BEGIN IMMEDIATE")
            self.began = True
        finally:
            self._leave_queue()

    def expect_begin(self, statement: str) -> None:
        """Note that *statement* is run outside of a transaction, and is perhaps a BEGIN itself."""
        self.has_read = self.has_work = False
        if is_locking_begin(statement):
            self.wait_in_queue()

    def begin_to_write(self) -> None:
        """Wait for the turn in a transaction that has not written yet.

        :raises sqlite3.OperationalError: that took longer than the timeout, or cannot succeed.
        """
        try:
            # With a rollback journal the writer, in its COMMIT, waits for us to stop reading.
            self.wait_in_queue(0 if self.has_read and not self.patient else None)
        except sqlite3.OperationalError as error:
            self.writing = False
            if self.has_read:
                raise explain.out_of_date() from error
            raise

    def wait_in_queue(self, seconds: float | None = None) -> None:
        """Wait for the turn to write, which ends with the transaction.

        :raises sqlite3.OperationalError: another writer had it for all that time.
        """
        self.writing = True
        if self.queue is None:
            return
        seconds = self.timeout if seconds is None else seconds
        try:
            self.queue.acquire(self._place, seconds)
        except QueueTimeout as error:
            outer = error.by_own_flow
            if not (isinstance(outer, Place) and outer.gives_way()):
                raise explain.not_its_turn(error, self.name, self.timeout) from None
            if not self.queue.borrow(self._place, outer):
                self.wait_in_queue(seconds)

    def commit(self) -> None:
        """Commit, or fail and roll back.

        SQLite leaves a transaction open if its COMMIT fails (a deferred foreign key, a reader in
        the way), and SQLAlchemy would return the connection to the pool like that.

        :raises TransactionLost: there is nothing left to be committed.
        """
        if self.has_lost:
            self.undo()
            raise TransactionLost(None)
        wrote = self.writing and self.in_transaction
        try:
            if wrote and self.before_commit is not None:
                self.before_commit(self)
            super().commit()
        except BaseException:
            self.undo()
            raise
        self.began = self.has_work = False
        if self.writing:  # also if it has lent its turn, and has nothing to commit itself
            self._leave_queue()
        if wrote and self.after_commit is not None:
            self.after_commit(self)

    def rollback(self) -> None:
        """Roll back without SQLAlchemy's knowledge, for an app that calls the driver.

        SQLAlchemy's COMMIT would store nothing, or only what follows, so the transaction is lost.
        SQLAlchemy itself calls this by way of :func:`roll_back`.
        """
        is_loss = self.lost or (self.began and self.has_work)
        self.undo()
        self.lost = is_loss

    def undo(self) -> None:
        """Roll back, and forget everything."""
        self.began = self.lost = self.has_work = False
        try:
            super().rollback()
        finally:
            if self.writing:
                self._leave_queue()

    def __exit__(self, kind: object, *_: object) -> Literal[False]:
        # The driver's own method does not call these two.
        if kind is None:
            self.commit()
        else:
            self.rollback()
        return False

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._leave_queue_for_good()

    def __del__(self) -> None:
        self._leave_queue_for_good()

    def _leave_queue(self) -> None:
        if not self.in_transaction:
            self.writing = self.resting = False
            self._leave_queue_for_good()

    def _leave_queue_for_good(self) -> None:
        if self.queue is not None:
            self.queue.release(self._place)


def roll_back(do_rollback: Callable[[Any], None], proxy: Any) -> None:
    """SQLAlchemy's own *do_rollback*, which is no loss."""
    do_rollback(proxy)
    if isinstance(proxy.dbapi_connection, SqliteConnection):
        proxy.dbapi_connection.lost = False


@lru_cache(maxsize=64)
def _telling(factory: Any) -> Any:
    """Return the class of cursors *factory*, with ours in front of it."""
    if factory is None or factory is sqlite3.Cursor:
        return SqliteCursor
    if not isinstance(factory, type) or issubclass(factory, SqliteCursor):
        return factory
    return type(factory.__name__, (SqliteCursor, factory), {})


class Place:
    """The owner of a turn in the queue. It does not keep its connection alive."""

    def __init__(self, connection: weakref.ref[SqliteConnection]) -> None:
        self._connection = connection
        self._asked = threading.Lock()  # two inner units may ask at once, in threads

    def gives_way(self) -> bool:
        """Let a unit of work inside this one go first, if this one has the turn and no work yet.

        A view for POST has it from its first SELECT on, and may well call a function that stores a
        row in a unit of its own. The outer unit begins again with its next statement, and no other
        writer comes before that.
        """
        connection = self._connection()
        if connection is None:
            return False
        with self._asked:
            if connection.has_work or connection.lost:
                return False
            if connection.in_transaction:
                try:
                    sqlite3.Connection.rollback(connection)  # it keeps its place in the queue
                except sqlite3.ProgrammingError:  # it may be used in its own thread only
                    return False
                connection.began, connection.resting = False, True
            return connection.resting


# What the driver is told ----------------------------------------------------------------------

LEGACY = getattr(sqlite3, "LEGACY_TRANSACTION_CONTROL", -1)


def refuse_contradictions(options: dict[str, Any]) -> None:
    """
    :raises ConfigError: the driver would begin transactions as well.
    """
    for name, default in (("isolation_level", ""), ("autocommit", LEGACY)):
        found = options.get(name, default)
        if found != default:
            raise ConfigError(
                f"The connection to SQLite has {name!r} set to {found!r}, and transactions are"
                " begun by flask_uow, not by the driver. Drop it from 'connect_args' or from the"
                " URL; UOW_SQLITE_BEGIN says how they begin, and the engine option"
                " 'isolation_level': 'AUTOCOMMIT' that there are none."
            )


def connection_class(given: Any) -> Any:
    """Return our class, or *given* with ours in front of it.

    :raises ConfigError: the user's is not a class of connections.
    """
    if given is None or given is sqlite3.Connection:
        return SqliteConnection
    if isinstance(given, type) and issubclass(given, SqliteConnection):
        return given
    if isinstance(given, type) and issubclass(given, sqlite3.Connection):
        return type(given.__name__, (SqliteConnection, given), {})
    raise ConfigError(
        f"The 'factory' in 'connect_args' is {given!r}, and it must be a subclass of"
        " 'sqlite3.Connection'."
    )


def refuse_isolation_level(dialect: Dialect) -> None:
    """
    :raises ConfigError: the engine's option is one that only the driver knows.
    """
    level = getattr(dialect, "_on_connect_isolation_level", None)
    known = dialect.get_isolation_level_values(cast(Any, None))
    if level is not None and str(level).replace("_", " ").upper() not in known:
        raise ConfigError(
            f"The engine option 'isolation_level' is {level!r}, and SQLite knows"
            f" {', '.join(map(repr, known))}. UOW_SQLITE_BEGIN = 'immediate' takes the write lock"
            " at the beginning of every transaction."
        )
