"""SQLite in memory: one connection for everybody, so one writer at a time.

A second connection would see a database of its own, empty. So there is one (``StaticPool``), and
its transaction would be everybody's: a rollback would take away the work of other threads, a
commit would store it half-done. Here

- a transaction that writes belongs to who began it, and other writers wait in a queue for its end;
- reading is no transaction. It waits while another thread has uncommitted work, so that is not
  seen; and it sees the newest each time: there are no snapshots, as there are in a file;
- a second unit of the same thread may read along, and sees the work of the first. To write, it
  would have to wait for itself, and is refused.

Nothing here knows Flask or sessions.
"""

from __future__ import annotations

import sqlite3
import threading
import weakref
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.engine import ExecutionContext
from sqlalchemy.pool import PoolProxiedConnection

from ._activity import before_statements
from ._queue import QueueTimeout, WriteQueue
from ._sqlite_connection import Kind, kind_of, locked, why_not

_Proxy = PoolProxiedConnection
"""What the pool lends: each time another one, for the same connection."""


class SharedConnection:
    """Looks after the one connection of an engine.

    :ivar queue: of those who want to write; each of them is a weak reference to its proxy.
    :ivar file: what messages call the database.
    :ivar timeout: how long they wait, in seconds.
    """

    def __init__(self, timeout: float, writes_at_once: Callable[[ExecutionContext], bool]) -> None:
        self.queue = WriteQueue()
        self.file = ":memory:"
        self.timeout = timeout
        self._writes_at_once = writes_at_once
        # Owner and transaction change together; entered again by a rollback in its BEGIN.
        self._door = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._owner: weakref.ref[_Proxy] | None = None
        self._has_work = False

    def install(self, engine: Engine) -> None:
        before_statements(engine, self._on_statement)
        # No event tells whose COMMIT it is; these methods of a dialect are there to be replaced.
        for name in ("do_commit", "do_rollback"):
            setattr(engine.dialect, name, self._for_owner(getattr(engine.dialect, name)))

    def _on_statement(self, cursor: sqlite3.Cursor, statement: str, *others: Any) -> None:
        context: ExecutionContext = others[-1]
        proxy, kind = context.root_connection.connection, kind_of(statement)
        if self._owner is not None and self._owner() is proxy:
            self._has_work = self._has_work or kind in {Kind.WRITE, Kind.SAVEPOINT}
            return
        if self._owner is not None:
            with self._door:
                self._end_if_over()  # the connection of the last one may have been dropped
        connection = self._connection = cursor.connection
        if connection.isolation_level is None or kind in {Kind.OUTSIDE, Kind.END}:
            writes = False
        else:
            writes = kind is not Kind.READ or self._writes_at_once(context)
        if writes:
            self._begin(proxy, connection)
            self._has_work = kind is not Kind.READ
        elif self._has_work and kind is not Kind.END:
            self._wait_for_writer()

    def _begin(self, proxy: _Proxy, connection: sqlite3.Connection) -> None:
        place = weakref.ref(proxy, self._on_loss)
        self._acquire(place)
        with self._door:
            self._owner = place
            try:
                if not connection.in_transaction:  # the driver's own cursors may have begun one
                    connection.execute("BEGIN IMMEDIATE")
            finally:
                self._end_if_over()

    def _acquire(self, place: weakref.ref[_Proxy]) -> None:
        try:
            self.queue.acquire(place, self.timeout)
        except QueueTimeout as error:
            if error.by_own_thread and not self._has_work:
                self._roll_back()  # as with a file: see Place.is_given_up()
                self._acquire(place)
            else:
                raise locked(why_not(error, self.file, self.timeout)) from None

    def _wait_for_writer(self) -> None:
        place = object()
        try:
            self.queue.acquire(place, self.timeout)
        except QueueTimeout as error:
            if not error.by_own_thread:
                raise locked(why_not(error, self.file, self.timeout)) from None
        finally:
            self.queue.release(place)

    def _for_owner(self, end: Callable[[_Proxy], None]) -> Callable[[_Proxy], None]:
        def end_if_own(proxy: _Proxy) -> None:
            with self._door:
                owner = self._owner() if self._owner is not None else None
                if owner is None or owner is proxy:
                    try:
                        end(proxy)
                    finally:
                        self._end_if_over()

        return end_if_own

    def _on_loss(self, place: weakref.ref[_Proxy]) -> None:
        """Somebody has lost a connection in mid-transaction."""
        if self._owner is place:
            self._roll_back()

    def _roll_back(self) -> None:
        with self._door:
            try:
                # It may have been closed: dropped because of an interruption.
                if self._connection is not None and _is_open(self._connection):
                    self._connection.rollback()
            finally:
                self._end_if_over()

    def _end_if_over(self) -> None:
        if self._owner is not None and not _is_open(self._connection):
            place, self._owner, self._has_work = self._owner, None, False
            self.queue.release(place)


def _is_open(connection: sqlite3.Connection | None) -> bool:
    try:
        return connection is not None and connection.in_transaction
    except sqlite3.ProgrammingError:  # it is closed
        return False
