"""A connection to SQLite that waits for its turn before it writes.

Nothing here knows Flask, sessions or engines.
"""

from __future__ import annotations

import sqlite3
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, cast

from sqlalchemy.engine import Dialect

from .._transaction import sqlalchemy_private
from .._transaction.statements import SQLITE_WORK, SqliteKind, is_locking_begin
from ..errors import ConfigError, TransactionLost
from . import explain
from .access import NO_AUTHORIZER, Column, StaleColumns, access_of
from .database import SqliteDatabase
from .write_queue import OwnTurn, QueueTimeout, Turn, WriteQueue

_CHECK_PERIOD = 1.0  # seconds for which reading from a deleted file may go unnoticed


class SqliteConnection(sqlite3.Connection):
    """SQLite's connection, which leaves the queue when its transaction ends.

    :ivar database: the one that it was opened for.
    :ivar timeout: seconds that it waits for its turn; a migration changes them.
    :ivar queue: the queue of the database; None if there is none.
    :ivar identity: which file the database was when it was opened.
    :ivar next_check: when to look whether that file is still there.
    :ivar writing: it waits for its turn or has it, and must leave the queue at the end.
    :ivar has_read: the running transaction began by reading, and keeps its snapshot.
    :ivar has_work: the running transaction has written, or has set a savepoint.
    :ivar began: a transaction was begun, and neither commit() nor rollback(), nor a typed COMMIT or
        ROLLBACK, has ended it. If there is none any more, it was lost.
    :ivar lost: an error has undone its work, or the app by means of the driver; perhaps the driver
        has begun another transaction since.
    :ivar turn: its right to write, which a queue has given to it.
    :ivar resting: it has lent its turn, and begins again with the next statement.
    :ivar stale: what other connections have changed that borrowed its turn.
    :ivar running: an item for each statement that is running.
    :ivar closed: it is closed, or will be when no statement is running any more.
    """

    database: SqliteDatabase
    timeout = 0.0
    queue: WriteQueue | None = None
    identity: tuple[int, int] | None = None
    next_check = 0.0
    writing = False
    has_read = False
    has_work = False
    began = False
    lost = False
    turn: Turn | None = None
    resting = False
    stale: StaleColumns | None = None
    closed = False
    _changed: set[Column] | None = None  # since it has borrowed its turn
    _authorizer: Any = NO_AUTHORIZER

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.running: list[bool] = []
        self._owner = weakref.ref(self)  # of its turns: the queue does not keep it alive
        self._asked = threading.Lock()  # two inner units may ask at once, in threads

    @property
    def has_lost(self) -> bool:
        """Tell whether the transaction is gone, as after a full disk or ON CONFLICT ROLLBACK."""
        return self.lost or (self.began and not self.in_transaction)

    def set_authorizer(self, authorizer_callback: Any) -> None:
        self._authorizer = NO_AUTHORIZER if authorizer_callback is None else authorizer_callback
        super().set_authorizer(authorizer_callback)

    def cursor(self, factory: Any = sqlite3.Cursor) -> Any:
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

    def refuse_replaced(self) -> None:
        """
        :raises sqlite3.OperationalError: the file was deleted, or is another one.
        """
        self.next_check = time.monotonic() + _CHECK_PERIOD
        if self.is_replaced():
            raise explain.Replaced(
                f"{explain.READ_ONLY}: the file {self.database.name!r} was deleted or replaced"
                " while it was in use. This connection to the old one is dropped; the next unit"
                " connects again, if there is a new one."
            )

    def is_replaced(self) -> bool:
        """Tell whether the file was deleted, or is another one."""
        return self.identity is not None and self.identity != self.database.identity_now()

    def begin(self, *, immediate: bool) -> None:
        """Begin a transaction, after a wait for the turn if it writes.

        :raises sqlite3.OperationalError: that took longer than the timeout.
        """
        try:
            if immediate:
                self._wait_in_queue(self.timeout)
                self.resting = False
            super().execute("BEGIN IMMEDIATE" if immediate else "BEGIN")
            self.began = True
        except BaseException:
            self._leave_queue()
            raise

    def expect_begin(self, statement: str) -> None:
        """Note that *statement* is run outside of a transaction, and is perhaps a BEGIN itself."""
        if is_locking_begin(statement):
            self._wait_in_queue(self.timeout)

    def prepare(self, kind: SqliteKind, *, keeps_snapshot: bool) -> None:
        """Prepare for a statement of *kind* in a transaction without work: wait for the turn.

        :param keeps_snapshot: what it has read has to be as it was when it writes.
        :raises sqlite3.OperationalError: that took longer than the timeout, or cannot succeed.
        """
        if not self.writing:
            if kind is SqliteKind.READ:
                self.has_read = True
            elif kind is SqliteKind.WRITE:
                self._begin_to_write(keeps_snapshot=keeps_snapshot)
        self.has_work = self.writing and kind in SQLITE_WORK

    def _begin_to_write(self, *, keeps_snapshot: bool) -> None:
        if self.has_read and not keeps_snapshot:  # it has streamed rows
            super().execute("COMMIT")
            self.has_read = False
            self.begin(immediate=True)
            return
        # With a rollback journal the writer, in its COMMIT, waits for us to stop reading.
        waits = self.database.is_wal or not self.has_read
        try:
            self._wait_in_queue(self.timeout if waits else 0)
        except sqlite3.OperationalError as error:
            self.writing = False
            if self.has_read:
                raise explain.locked(explain.OUT_OF_DATE) from error
            raise

    def _wait_in_queue(self, seconds: float) -> None:
        """Wait for the turn to write, which ends with the transaction.

        :raises sqlite3.OperationalError: another writer had it for all that time.
        """
        self.writing = True
        if self.queue is None:
            return
        try:
            self.turn = self.queue.acquire(self._owner, seconds)
        except OwnTurn as error:
            lender: Any = error.lender
            outer: SqliteConnection | None = lender and lender()
            if outer is None or not outer.gives_way():
                raise explain.not_its_turn(error, self.database, self.timeout) from None
            self.turn = self.queue.borrow(self._owner, lender)
            if self.turn is None:
                self._wait_in_queue(seconds)
            else:
                self._changed = set()
        except QueueTimeout as error:
            raise explain.not_its_turn(error, self.database, self.timeout) from None
        if self.closed:  # by another thread, meanwhile
            self._leave_queue()
            raise closed()

    def gives_way(self) -> bool:
        """Let a unit of work inside this one go first, if this one has the turn and no work yet.

        A view for POST has it from its first SELECT on, and may well call a function that stores a
        row in a unit of its own. The outer unit begins again with its next statement, and no other
        writer comes before that.
        """
        with self._asked:
            if self.has_work or self.lost:
                return False
            if self.in_transaction:
                try:
                    super().rollback()  # it keeps its place in the queue
                except sqlite3.ProgrammingError:  # it may be used in its own thread only
                    return False
                self.began, self.resting = False, True
            self.stale = self.stale or StaleColumns()
            return self.resting

    def note_use(self, statement: str) -> None:
        """Note that *statement* is about to run in this thread, if this connection has the turn.

        :raises sqlite3.OperationalError: it would overwrite a change that its unit has not read.
        """
        if self.turn is not None:
            self.turn.note_use()
        if (self._changed is None and self.stale is None) or not self.in_transaction:
            return
        access = access_of(self, statement, self._authorizer)
        if self._changed is not None:
            self._changed |= access.changed
        if self.stale is not None and (column := self.stale.overwritten_by(access)):
            raise explain.locked(explain.overwrites(column))

    def _tell_lenders(self, columns: set[Column]) -> None:
        owners: list[Any] = [] if self.queue is None else self.queue.owners()
        for outer in [owner() for owner in owners if owner is not self._owner]:
            if outer is not None:
                outer.note_changes(columns)

    def note_changes(self, columns: set[Column]) -> None:
        """Note that a connection to which this one has lent its turn has changed *columns*."""
        if self.stale is not None:
            self.stale.add(columns)

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
            if wrote:
                self.refuse_replaced()
            super().commit()
        except BaseException:
            self.undo()
            raise
        self.began = self.has_work = False
        if self._changed:
            self._tell_lenders(self._changed)
        if self.writing:  # also if it has lent its turn, and has nothing to commit itself
            self._leave_queue()
        if wrote:
            self.database.look_at_wal(self)

    def rollback(self) -> None:
        """Roll back without SQLAlchemy's knowledge, for an app that calls the driver.

        SQLAlchemy's COMMIT would store nothing, or only what follows, so the transaction is lost.
        SQLAlchemy itself calls :func:`roll_back`.
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
        """Close it, or let the thread do so that runs a statement on it, which is interrupted.

        A driver whose connection another thread closes meanwhile would end the process.
        """
        self.closed = True  # before it is asked: a statement that starts now looks after it
        if self.running:
            self.interrupt()
            return
        try:
            super().close()
        finally:
            self._leave_queue()

    def __del__(self) -> None:
        self._leave_queue()
        # From Python 3.13 on, the driver closes a dropped connection in the method that this one
        # replaces, and warns. That warning is unwanted: a pool that is dropped closes no
        # connection.
        try:
            sqlite3.Connection.close(self)  # not that of a subclass: it may be closed already
        except sqlite3.Error:  # it belongs to another thread, or was never open
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                getattr(super(), "__del__", int)()

    def _leave_queue(self) -> None:
        self.writing = self.resting = False
        self.turn = self.stale = self._changed = None
        if self.queue is not None:
            self.queue.release(self._owner)


def roll_back(do_rollback: Callable[[Any], None], proxy: Any) -> None:
    """Roll back for SQLAlchemy, which is no loss."""
    if isinstance(proxy.dbapi_connection, SqliteConnection):
        proxy.dbapi_connection.undo()
    else:
        do_rollback(proxy)


@lru_cache(maxsize=64)
def _telling(factory: Any) -> Any:
    """Return the class *factory* of cursors, which tell their connection of ended transactions.

    Code that uses a cursor of the driver may swallow its errors, and continue regardless.
    """
    if not isinstance(factory, type):
        return factory
    names = ("execute", "executemany", "executescript")
    return type(factory.__name__, (factory,), {name: _method(factory, name) for name in names})


def _method(factory: type, name: str) -> Callable[..., Any]:
    run = getattr(factory, name)
    is_script = name == "executescript"

    def execute(cursor: Any, *arguments: Any) -> Any:
        connection = cursor.connection
        if connection.writing:
            connection.note_use(arguments[0])
        if is_script and connection.in_transaction:
            connection.commit()  # as the driver does
        running = connection.running
        running.append(True)
        try:
            if connection.closed:
                raise closed()
            run(cursor, *arguments)
        except BaseException:
            connection.lost = connection.has_lost
            raise
        finally:
            running.pop()
            if connection.closed and not running:
                connection.close()
        # What succeeds, and leaves no transaction, is a COMMIT or a ROLLBACK.
        connection.began = connection.in_transaction
        return cursor

    return execute


def closed() -> sqlite3.ProgrammingError:
    """The error of the driver."""
    return sqlite3.ProgrammingError("Cannot operate on a closed database.")


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
                f"The connection to SQLite has {name!r} set to {found!r}, but flask_uow begins"
                " the transactions, not the driver. Drop it from 'connect_args' or from the URL."
                " UOW_SQLITE_BEGIN says how transactions begin. To have no transactions, use the"
                " engine option 'isolation_level': 'AUTOCOMMIT'."
            )


def connection_class(given: Any) -> type[SqliteConnection]:
    """Return our class, in front of the class *given*.

    :raises ConfigError: the user's is not a class of connections.
    """
    if not (isinstance(given, type) and issubclass(given, sqlite3.Connection)):
        raise ConfigError(
            f"The 'factory' in 'connect_args' is {given!r}, but it must be a subclass of"
            " 'sqlite3.Connection'."
        )
    if issubclass(given, SqliteConnection):
        return given
    return type(given.__name__, (SqliteConnection, given), {})


def refuse_isolation_level(dialect: Dialect) -> None:
    """
    :raises ConfigError: the engine's option is one that only the driver knows.
    """
    level = sqlalchemy_private.isolation_level_of(dialect)
    known = dialect.get_isolation_level_values(cast(Any, None))
    if level is not None and str(level).replace("_", " ").upper() not in known:
        raise ConfigError(
            f"The engine option 'isolation_level' is {level!r}, but SQLite knows only"
            f" {', '.join(map(repr, known))}. UOW_SQLITE_BEGIN = 'immediate' takes the write lock"
            " at the beginning of every transaction."
        )
