"""A connection to SQLite that waits for its turn before it writes.

Nothing here knows Flask, sessions or engines.
"""

from __future__ import annotations

import enum
import re
import sqlite3
import weakref
from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

from ._queue import QueueTimeout, WriteQueue


class Kind(enum.Enum):
    """What a statement means for the transaction that it comes in."""

    READ = "it changes nothing"
    WRITE = "it may change something"
    SAVEPOINT = "it needs a transaction, and reads nothing yet"
    END = "it ends something, so it begins nothing"
    OUTSIDE = "it may not work in a transaction, or it is a BEGIN itself"


# SQLite has neither functions that write nor SELECT ... INTO, so the first word is enough.
_KINDS = {
    Kind.READ: "select values explain",
    Kind.SAVEPOINT: "savepoint",
    Kind.END: "commit end rollback release",
    Kind.OUTSIDE: "pragma vacuum attach detach begin",
}
_KIND_OF_WORD = {word: kind for kind, words in _KINDS.items() for word in words.split()}
_FIRST_WORD = re.compile(r"(?:\s|[(;]|--[^\n]*|/\*.*?\*/)*(\w*)", re.DOTALL)
_WRITING_WORD = re.compile(r"\b(?:insert|update|delete|replace)\b", re.IGNORECASE)

_LOCKING_BEGIN = re.compile(r"\s*begin\s+(?:immediate|exclusive)\b", re.IGNORECASE)


@lru_cache(maxsize=2048)
def kind_of(statement: str) -> Kind:
    """Tell the kind of a statement by its words; in doubt it is a write.

    >>> kind_of("/* report */ SELECT random()").name
    'READ'
    >>> kind_of("WITH one AS (SELECT 1) INSERT INTO t SELECT * FROM one").name
    'WRITE'
    """
    match = _FIRST_WORD.match(statement)
    word = match[1].lower() if match else ""
    if word == "with":
        return Kind.WRITE if _WRITING_WORD.search(statement) else Kind.READ
    return _KIND_OF_WORD.get(word, Kind.WRITE)


_BUSY = ("SQLITE_BUSY", 5)
_BUSY_SNAPSHOT = ("SQLITE_BUSY_SNAPSHOT", 517)

OUT_OF_DATE = (
    "this transaction began by reading, and what it has read is out of date: somebody else has"
    " written since, or is writing now. Nothing of it is stored. Call 'rollback()' and do the"
    " whole unit again, with the write lock from the start: a view for POST, PUT, PATCH or DELETE"
    " has it; elsewhere write before you read, or set UOW_SQLITE_BEGIN = 'immediate' (readers"
    " wait for writers then)"
)


def locked(text: str, *, out_of_date: bool = False) -> sqlite3.OperationalError:
    """SQLite's own error for a lock that somebody else has, in words that go on."""
    error: Any = sqlite3.OperationalError(f"database is locked: {text}")
    # Tables of errors look for these first. (Python 3.10 sets none.)
    error.sqlite_errorname, error.sqlite_errorcode = _BUSY_SNAPSHOT if out_of_date else _BUSY
    return cast(sqlite3.OperationalError, error)


def why_not(error: QueueTimeout, file: str, timeout: float) -> str:
    """Who is in the way of a writer, and what can be done about it."""
    if error.by_own_thread:
        return (
            f"this thread has the write lock of {file!r} already, for another unit of work that"
            " has written and is still open, so it would wait for itself. Commit that one first,"
            " or do all the writing in it"
        )
    return (
        f"the write lock of {file!r} was held {error}, and did not become free within {timeout:g} s"
        " (UOW_SQLITE_BUSY_TIMEOUT). A unit that writes keeps it from its first statement to its"
        " commit: do slow work (mail, HTTP) before or after"
    )


class SqliteConnection(sqlite3.Connection):
    """SQLite's connection, which leaves the queue when its transaction ends.

    :ivar queue: the queue of its database; None if there is none.
    :ivar file: the path of its database, for messages.
    :ivar identity: which file that was when it was opened.
    :ivar timeout: how long it waits in the queue, in seconds.
    :ivar patient: a reader that waits for a writer keeps nobody from anything (WAL).
    :ivar writing: it waits for its turn or has it, and must leave the queue at the end.
    :ivar has_read: the running transaction began by reading, and holds on to what it saw.
    :ivar has_work: the running transaction has written, or has set a savepoint.
    :ivar before_commit: called before the COMMIT of a transaction that may have written.
    :ivar after_commit: called after it.
    """

    queue: WriteQueue | None = None
    file = ""
    identity: tuple[int, int] | None = None
    timeout = 0.0
    patient = True
    writing = False
    has_read = False
    has_work = False
    before_commit: Callable[[SqliteConnection], object] | None = None
    after_commit: Callable[[SqliteConnection], object] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._place = Place(weakref.ref(self))

    def begin(self, *, immediate: bool) -> None:
        """Begin a transaction. One that writes waits for its turn first.

        :raises sqlite3.OperationalError: that took longer than the timeout.
        """
        self.has_read = self.has_work = False
        if not immediate:
            self.execute("BEGIN")
            return
        try:
            self.wait_in_queue()
            self.execute("BEGIN IMMEDIATE")
        finally:
            self._leave_queue()

    def expect_begin(self, statement: str) -> None:
        """Note that *statement* is run outside of a transaction, and is perhaps a BEGIN itself."""
        self.has_read = self.has_work = False
        if _LOCKING_BEGIN.match(statement):
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
                raise locked(OUT_OF_DATE, out_of_date=True) from error
            raise

    def wait_in_queue(self, seconds: float | None = None) -> None:
        """Wait for the turn to write, which ends with the transaction.

        :raises sqlite3.OperationalError: somebody else had it for all that time.
        """
        self.writing = True
        if self.queue is None:
            return
        seconds = self.timeout if seconds is None else seconds
        try:
            self.queue.acquire(self._place, seconds)
        except QueueTimeout as error:
            if isinstance(error.by_own_thread, Place) and error.by_own_thread.is_given_up():
                self.wait_in_queue(seconds)
            else:
                raise locked(why_not(error, self.file, self.timeout)) from None

    def commit(self) -> None:
        """Commit, or fail and roll back.

        SQLite leaves a transaction open if its COMMIT fails (a deferred foreign key, a reader in
        the way), and SQLAlchemy would return the connection to the pool like that.
        """
        wrote = self.writing and self.in_transaction
        try:
            if wrote and self.before_commit is not None:
                self.before_commit(self)
            super().commit()
        except BaseException:
            self.rollback()
            raise
        if wrote:
            self._leave_queue()
            if self.after_commit is not None:
                self.after_commit(self)

    def rollback(self) -> None:
        try:
            super().rollback()
        finally:
            if self.writing:
                self._leave_queue()

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._leave_queue_for_good()

    def __del__(self) -> None:
        self._leave_queue_for_good()

    def _leave_queue(self) -> None:
        if not self.in_transaction:
            self.writing = False
            self._leave_queue_for_good()

    def _leave_queue_for_good(self) -> None:
        if self.queue is not None:
            self.queue.release(self._place)


class Place:
    """A place in the queue. It does not keep a connection alive that somebody has lost."""

    def __init__(self, connection: weakref.ref[SqliteConnection]) -> None:
        self._connection = connection

    def is_given_up(self) -> bool:
        """Let a nested unit of work go first, if the outer one has the lock and no work yet.

        A view for POST has it from its first SELECT on, and may well call something that stores a
        row in a unit of its own. The outer one begins anew with its next statement; what it has
        read before is not protected any more.
        """
        connection = self._connection()
        if connection is None or connection.has_work or not connection.in_transaction:
            return False
        connection.rollback()
        return True
