"""SQLite in memory: one connection for everybody, so one writer at a time.

A second connection would see a database of its own, empty. So there is one (``StaticPool``), and
its transaction would be everybody's: a rollback would take away the work of other threads, a
commit would store it half-done. Here

- a transaction that writes belongs to who began it, and other writers wait in a queue for its end.
  Nobody else can end it: a typed COMMIT or ROLLBACK of another one does nothing;
- reading is no transaction. It waits while another thread has uncommitted work, so that is not
  seen; and it sees the newest each time: there are no snapshots, as there are in a file. Who has
  read, and writes after somebody else has committed, is refused as with a file;
- a second unit inside another one may read along, and sees the work of the first. It may write if
  the first has not yet; else it would have to wait for itself, and is refused;
- AUTOCOMMIT of a connection is one statement after the other, each when it is its turn. That of
  the whole engine means that there are no transactions at all.

What is done with the driver's own connection (``commit()``, ``executescript()``) is done to the
transaction of whoever has one.

The database lives as long as its connection. SQLAlchemy drops a connection that was interrupted;
here it is rolled back instead: :class:`Dropped`.

Nothing here knows Flask or sessions.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExecutionContext
from sqlalchemy.pool import PoolProxiedConnection

from .._transaction.record import record_of
from .._transaction.statements import SQLITE_WORK, SqliteKind, is_begin, sqlite_kind_of
from ..errors import TransactionLost
from .connection import (
    OUT_OF_DATE,
    SqliteConnection,
    SqliteCursor,
    locked,
    undo,
    why_not,
)
from .write_queue import QueueTimeout, WriteQueue

_Proxy = PoolProxiedConnection
"""What the pool lends: each time another one, for the same connection."""

_UNIT = "_flask_uow_unit"


class _Unit:
    """One who uses the connection, for one transaction after the other.

    :ivar proxy: what the pool has lent to it.
    :ivar seen: how many commits there were when its transaction read first.
    :ivar has_work: the connection's transaction is its own, and it has written, or set a savepoint.
    :ivar lost: an error has ended its transaction.
    :ivar resting: it has lent its turn, and begins anew with the next statement.
    """

    __slots__ = ("has_work", "lost", "proxy", "resting", "seen")

    def __init__(self) -> None:
        self.proxy: weakref.ref[_Proxy] | None = None
        self.seen: int | None = None
        self.has_work = self.lost = self.resting = False

    def is_gone(self) -> bool:
        """Has it lost its connection, or dropped it?"""
        proxy = self.proxy() if self.proxy is not None else None
        return proxy is None or proxy.dbapi_connection is None


class BufferedCursor(SqliteCursor):
    """A cursor whose rows can be read at once, before somebody else changes them."""

    _rows: Iterator[Any] | None = None

    def buffer(self) -> None:
        self._rows = None
        if self.description is not None:
            self._rows = iter(super().fetchall())

    def fetchone(self) -> Any:
        return super().fetchone() if self._rows is None else next(self._rows, None)

    def fetchall(self) -> list[Any]:
        return super().fetchall() if self._rows is None else list(self._rows)

    def fetchmany(self, size: int | None = None) -> list[Any]:
        size = self.arraysize if size is None else size
        return super().fetchmany(size) if self._rows is None else list(islice(self._rows, size))

    def __next__(self) -> Any:
        return super().__next__() if self._rows is None else next(self._rows)


class SharedConnection:
    """Looks after the one connection of an engine.

    :ivar queue: of those who want to write.
    :ivar file: what messages call the database.
    :ivar timeout: how long they wait, in seconds.
    """

    def __init__(self, timeout: float, writes_at_once: Callable[[ExecutionContext], bool]) -> None:
        self.queue = WriteQueue()
        self.file = ":memory:"
        self.timeout = timeout
        self._writes_at_once = writes_at_once
        # Statements, and who owns the transaction, one at a time; entered again by functions of
        # the app that SQL calls. Nobody waits in the queue while inside.
        self._door = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._units: set[_Unit] = set()
        self._owner: _Unit | None = None
        self._commits = 0
        _all.add(self)

    def install(self, engine: Engine) -> None:
        # No event tells whose COMMIT it is, and none is there while a statement runs; these
        # methods of a dialect are there to be replaced.
        methods: dict[str, Callable[..., None]] = {
            "do_execute": self._execute,
            "do_executemany": self._execute,
            "do_execute_no_params": self._execute,
            "do_commit": self._commit,
            "do_rollback": self._rollback,
            "set_isolation_level": self._set_isolation_level,
        }
        for name, method in methods.items():
            setattr(engine.dialect, name, partial(method, getattr(engine.dialect, name)))
        event.listen(engine, "checkout", self._on_checkout)

    def adopt(self, connection: sqlite3.Connection) -> None:
        """Look after *connection* from now on."""
        if isinstance(connection, SqliteConnection):
            connection.cursor_class = BufferedCursor
        self._connection = connection

    def start_anew(self) -> None:
        """In a forked child: whoever owned the transaction is not here."""
        self._door = threading.RLock()
        if self._owner is not None:
            self._owner.proxy = None

    def drop(self, connection: SqliteConnection) -> None:
        """Somebody drops the connection, and with it the transaction, if it is theirs.

        Nobody tells who that is. It is clear if nobody else is there; else it will be when they
        have dropped it.

        :raises sqlite3.Error: it cannot be used any more.
        """
        with self._door:
            self._end_if_over()
            present = [one for one in list(self._units) if not one.is_gone()]
            if self._owner is None or present == [self._owner]:
                connection.undo()
                self._end_if_over(stored=False)

    # Statements -------------------------------------------------------------------------------

    def _execute(self, run: Callable[..., None], *arguments: Any) -> None:
        cursor, statement, context = arguments[0], arguments[1], arguments[-1]
        unit, kind = self._unit_of(context.root_connection.connection), sqlite_kind_of(statement)
        self._connection = cursor.connection
        with self._door:
            self._end_if_over()
            if unit.lost:
                record = record_of(context.root_connection)
                raise TransactionLost(record.error if record is not None else None)
            if self._owner is unit:
                self._note_work(unit, unit.has_work or kind in SQLITE_WORK)
                self._run(run, arguments)
                return
            if kind is SqliteKind.END:
                if self._owner is None:
                    self._run(run, arguments)
                return
        run_it = partial(self._run, run, arguments)
        if _is_autocommit(context) or cursor.connection.isolation_level is None:
            self._run_alone(run_it, kind)
        elif is_begin(statement):
            self._own(unit, kind, run_it)
        elif kind is SqliteKind.OUTSIDE or (
            kind is SqliteKind.READ and not self._writes_at_once(context)
        ):
            self._read(unit, kind, run_it)
        else:
            self._own(unit, kind, self._begin)
            with self._door:
                run_it()

    def _run(self, run: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        run(*arguments)
        if isinstance(arguments[0], BufferedCursor):
            arguments[0].buffer()
        if self._owner is not None:
            self._end_if_over()  # a typed COMMIT

    def _read(self, unit: _Unit, kind: SqliteKind, run_it: Callable[[], None]) -> None:
        with self._door:
            if kind is SqliteKind.READ and unit.seen is None:
                unit.seen = self._commits
            if self._owner is None or not self._owner.has_work:
                run_it()
                return
        place = object()
        try:
            self.queue.acquire(place, self.timeout)
        except QueueTimeout as error:
            if not error.by_own_flow:
                raise locked(why_not(error, self.file, self.timeout)) from None
        try:
            with self._door:
                run_it()
        finally:
            self.queue.release(place)

    def _run_alone(self, run_it: Callable[[], None], kind: SqliteKind) -> None:
        """Run a statement in AUTOCOMMIT."""
        unit = _Unit()
        if kind is not SqliteKind.WRITE:
            self._read(unit, kind, run_it)
            return
        self._acquire(unit)
        try:
            with self._door:
                run_it()
                if self._connection is not None and self._connection.in_transaction:
                    self._connection.commit()  # of what the driver has begun
                self._commits += 1
        finally:
            self.queue.release(unit)

    # Transactions -----------------------------------------------------------------------------

    def _own(self, unit: _Unit, kind: SqliteKind, begin: Callable[[], None]) -> None:
        self._acquire(unit)
        with self._door:
            if unit.seen not in {None, self._commits}:
                self.queue.release(unit)
                raise locked(OUT_OF_DATE, out_of_date=True)
            self._owner, unit.resting = unit, False
            try:
                begin()
                self._note_work(unit, kind in SQLITE_WORK)
            finally:
                self._end_if_over()

    def _note_work(self, unit: _Unit, has_work: bool) -> None:
        unit.has_work = has_work
        if isinstance(self._connection, SqliteConnection):
            self._connection.has_work = has_work

    def _begin(self) -> None:
        connection = self._connection
        # The driver's own cursors may have begun one.
        if connection is not None and not connection.in_transaction:
            connection.execute("BEGIN IMMEDIATE")

    def _acquire(self, unit: _Unit) -> None:
        try:
            self.queue.acquire(unit, self.timeout)
        except QueueTimeout as error:
            outer = error.by_own_flow
            if not (isinstance(outer, _Unit) and self._gives_way(outer)):
                raise locked(why_not(error, self.file, self.timeout)) from None
            if not self.queue.borrow(unit, outer):
                self._acquire(unit)

    def _gives_way(self, outer: _Unit) -> bool:
        """As with a file: see ``Place.gives_way()``."""
        with self._door:
            if self._owner is outer and not outer.has_work and _is_open(self._connection):
                self._owner, outer.resting = None, True
                self._roll_back()
            return outer.resting

    def _commit(self, commit: Callable[[_Proxy], None], proxy: _Proxy) -> None:
        unit = self._unit_of(proxy)
        with self._door:
            self._end_if_over()
            if unit.lost:
                unit.lost = False
                raise TransactionLost(None)
            self._end_of(unit, commit, proxy, stored=True)

    def _rollback(self, rollback: Callable[[_Proxy], None], proxy: _Proxy) -> None:
        unit = self._unit_of(proxy)
        with self._door:
            unit.lost = False
            self._end_of(unit, rollback, proxy, stored=False)

    def _end_of(
        self, unit: _Unit, end: Callable[[_Proxy], None], proxy: _Proxy, *, stored: bool
    ) -> None:
        unit.seen = None
        try:
            if self._owner is unit or self._owner is None:
                end(proxy)
        except BaseException:
            stored = False
            raise
        finally:
            self._end_if_over(stored=stored)
            if self._owner is not unit:
                unit.resting = False
                self.queue.release(unit)  # if it was lent

    def _set_isolation_level(
        self, set_level: Callable[[Any, Any], None], connection: Any, level: Any
    ) -> None:
        # The driver commits when it is told, and would tell everybody's transactions from then on.
        if connection is not self._connection:
            set_level(connection, level)

    # Who it belongs to ------------------------------------------------------------------------

    def _on_checkout(self, _connection: object, _entry: object, proxy: _Proxy) -> None:
        unit = proxy.__dict__[_UNIT] = _Unit()
        unit.proxy = weakref.ref(proxy, partial(self._on_loss, unit))
        self._units.add(unit)

    def _unit_of(self, proxy: _Proxy) -> _Unit:
        # SQLAlchemy's own has none, while it gets to know the database.
        return proxy.__dict__.get(_UNIT) or _Unit()

    def _on_loss(self, unit: _Unit, _proxy: object) -> None:
        """Somebody has lost a connection, perhaps in mid-transaction.

        Garbage collection may run anywhere, so nothing is waited for here. Whoever is inside just
        now will see to it.
        """
        if self._door.acquire(blocking=False):
            try:
                self._end_if_over()
            finally:
                self._door.release()
        if self._owner is not unit:
            self.queue.release(unit)
        self._units.discard(unit)

    def _end_if_over(self, *, stored: bool = True) -> None:
        """Let the owner go if its transaction has ended, or if it is gone itself.

        :param stored: if it has ended, then because of a COMMIT.
        """
        owner = self._owner
        if owner is None:
            return
        if owner.is_gone():
            stored = False
            self._roll_back()
        elif _is_open(self._connection):
            return
        elif getattr(self._connection, "has_lost", False):
            owner.lost, stored = True, False
            self._roll_back()
        if stored and owner.has_work:
            self._commits += 1
        self._owner, owner.has_work = None, False
        self.queue.release(owner)

    def _roll_back(self) -> None:
        try:
            if self._connection is not None:
                undo(self._connection)
        except sqlite3.ProgrammingError:  # it is closed
            pass


def _is_open(connection: sqlite3.Connection | None) -> bool:
    return connection is not None and not _is_closed(connection) and connection.in_transaction


def _is_closed(connection: sqlite3.Connection) -> bool:
    try:
        return connection.total_changes < 0
    except sqlite3.ProgrammingError:
        return True


def _is_autocommit(context: ExecutionContext) -> bool:
    level = context.root_connection.get_execution_options().get("isolation_level")
    return level is not None and str(level).upper() == "AUTOCOMMIT"


_all: weakref.WeakSet[SharedConnection] = weakref.WeakSet()


def _after_fork() -> None:
    for shared in list(_all):
        shared.start_anew()


if hasattr(os, "register_at_fork"):  # pragma: no branch  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_after_fork)


class Dropped:
    """The connections that SQLAlchemy drops, to be used again: the database is gone with the last.

    :param shared: looks after the only one, if there is only one.
    """

    def __init__(self, shared: SharedConnection | None) -> None:
        self._shared = shared
        self._connections: list[SqliteConnection] = []

    def install(self, engine: Engine) -> None:
        # What dispose() closes goes another way.
        name = "do_terminate"
        setattr(engine.dialect, name, partial(self._keep, getattr(engine.dialect, name)))
        event.listen(engine, "engine_disposed", self._close)

    def take(self) -> SqliteConnection | None:
        """One that can be used again."""
        while self._connections:
            connection = self._connections.pop()
            if not _is_closed(connection):
                if self._shared is not None:  # to connect may fail, and it is the only one
                    self._connections.append(connection)
                return connection
        return None

    def _keep(self, close: Callable[[Any], None], connection: Any) -> None:
        if not isinstance(connection, SqliteConnection):  # of a 'creator', which makes the next
            close(connection)
            return
        try:
            if self._shared is not None:
                self._shared.drop(connection)
            else:
                connection.undo()
        except sqlite3.Error:
            close(connection)
        else:
            connection.is_kept = True
            if connection not in self._connections:
                self._connections.append(connection)

    def _close(self, _engine: Engine) -> None:
        while self._connections:
            self._connections.pop().close()
