"""The queue in front of SQLite's write lock: one writer at a time, first come, first served.

SQLite lets a writer that finds the lock taken sleep and try again, longer each time. So the writer
that came last often gets the lock first, and out of sixteen writers one waits for seconds. Here
they wait in order:

- the threads of a process in a list; a thread that leaves calls the next one;
- the first thread of each process for a lock on a file beside the database
  (:mod:`~flask_uow._sqlite.file_lock`).

A process has one queue for each file, however many engines and apps use it (:func:`queue_for`).

A writer may lend its turn to a unit of work inside it, which would otherwise wait for the end of
the outer unit, for ever. No other writer gets in between: when the inner unit leaves, it is the
outer one's turn again. A unit is inside another one if it has inherited the context variables of
the outer unit, and the outer unit cannot continue meanwhile: it was used last by the same thread,
or by a thread that waits for this one (:func:`waiting`), as with an async view. Otherwise two
threads are two writers.

Every wait ends by itself and can be interrupted, in a thread as in a greenlet. Without ``flock``
(Windows) the threads of each process are in order, and SQLite's own lock keeps the processes apart.

Nothing here knows SQLAlchemy or SQLite.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from contextvars import ContextVar

from .file_lock import FileLock, close_inherited, duration_since


class QueueTimeout(Exception):
    """The wait took too long; the text says which writer is in the way."""


class OwnTurn(QueueTimeout):
    """There was no wait, because it could end only after the waiting writer continues.

    :ivar lender: the owner of the turn, which may lend it. None: another task of this thread has
        the turn, and the wait would block the event loop in which that task runs.
    """

    def __init__(self, lender: object = None) -> None:
        super().__init__("by this thread itself")
        self.lender = lender


class WriteQueue:
    """A fair lock, among the threads of this process and with other processes.

    :param file: the path of the file whose lock the processes share. None: only threads are in
        the queue.
    :param database: the path of the database, whose rights the file gets.
    """

    def __init__(self, file: str | None = None, database: str | None = None) -> None:
        self._queues = _QueuesByProcess(file, database)

    def acquire(self, owner: object, timeout: float) -> Turn:
        """Wait for the turn of *owner*; return at once if it is its turn already.

        :param timeout: in seconds.
        :raises QueueTimeout: *owner* did not get its turn in that time.
        :raises OwnTurn: the wait would not end, or *owner* is to borrow the turn.
        """
        return self._queues[os.getpid()].acquire(owner, timeout)

    def borrow(self, owner: object, lender: object) -> Turn | None:
        """Give *owner* the turn of *lender*, which gets it back when *owner* leaves.

        :return: None if *lender* no longer has the turn: ask again.
        """
        return self._queues[os.getpid()].borrow(owner, lender)

    def owners(self) -> list[object]:
        """Return the owners of all turns: the writer, and those that have lent theirs."""
        return [turn.owner for turn in self._queues[os.getpid()].turns]

    def release(self, owner: object) -> None:
        """End the turns of *owner*, if any; a turn that it has lent stays with the borrower."""
        self._queues[os.getpid()].release(owner)


# The open queues by the path of their database.
_queues: weakref.WeakValueDictionary[str, WriteQueue] = weakref.WeakValueDictionary()
_queues_lock = threading.Lock()


def queue_for(database: str) -> WriteQueue:
    """Return the queue of this process for the file *database*."""
    with _queues_lock:
        queue = _queues.get(database)
        if queue is None:
            queue = _queues[database] = WriteQueue(f"{database}-queue", database)
        return queue


class Turn:
    """The right of *owner* to write.

    :ivar is_over: perhaps ended by another thread.
    :ivar thread: the thread that has used it last. Not its number, which a later thread may have.
    """

    __slots__ = ("is_over", "owner", "thread")

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self.is_over = False
        self.thread = threading.current_thread()

    def note_use(self) -> None:
        """Note that the current thread uses it."""
        # By way of the module: gevent replaces the function when it patches.
        self.thread = threading.current_thread()


# The turns that this flow of control has taken.
_taken: ContextVar[tuple[Turn, ...]] = ContextVar("flask_uow_turns", default=())


class _Wait:
    """A thread that does nothing until another one has done its work."""

    __slots__ = ("threads",)

    def __init__(self, thread: threading.Thread) -> None:
        self.threads: tuple[threading.Thread, ...] = (thread, threading.current_thread())


_wait: ContextVar[_Wait | None] = ContextVar("flask_uow_wait", default=None)


@contextlib.contextmanager
def waiting(thread: threading.Thread) -> Iterator[None]:
    """Note that *thread* does nothing until the ``with`` block, in the current thread, is over.

    After that, it includes what was done in the block and its turns.
    """
    wait = _Wait(thread)
    token = _wait.set(wait)
    try:
        yield
    finally:
        _wait.reset(token)
        for turn in _taken.get():
            if turn.thread in wait.threads:
                turn.thread = thread
        wait.threads = ()  # tasks that live longer have inherited it


def _idle_threads() -> tuple[threading.Thread, ...]:
    """The threads that do nothing while the current one works, which is one of them."""
    me, wait = threading.current_thread(), _wait.get()
    return wait.threads if wait is not None and me in wait.threads[1:] else (me,)


def _note_taken(turn: Turn) -> None:
    _taken.set((*[taken for taken in _taken.get() if not taken.is_over], turn))


def _blocks_event_loop() -> bool:
    asyncio = sys.modules.get("asyncio")  # if it was not imported, no loop is running
    try:
        return asyncio is not None and asyncio.get_running_loop() is not None
    except RuntimeError:
        return False


class _ThreadQueue:
    """The threads of one process.

    :ivar turns: the last one is the turn of the writer; it may still have to wait for the file.
        The turns before it are lent.
    """

    def __init__(self, file: FileLock) -> None:
        self.turns: tuple[Turn, ...] = ()
        self._thread: threading.Thread | None = None
        self._since = 0.0
        self._waiting: deque[_Waiter] = deque()
        # Entered again if garbage collection finds a lost owner while this thread is inside.
        self._lock = threading.RLock()
        self._file = file

    def acquire(self, owner: object, timeout: float) -> Turn:
        started, turn = time.monotonic(), Turn(owner)
        try:
            with self._lock:
                is_free = not self.turns
                if is_free:
                    self.turns = (turn,)
            if not is_free and (own := self._wait_for_threads(turn, started + timeout)) is not turn:
                return own
            since = self._file.acquire(started, timeout)
            if not since:
                raise QueueTimeout(self._file.describe_holder())
            self._since, self._thread = since / 1e9, turn.thread
        except BaseException:
            # Also an interruption from outside, between any two steps.
            self._end(turn)
            raise
        _note_taken(turn)
        return turn

    def borrow(self, owner: object, lender: object) -> Turn | None:
        turn = Turn(owner)
        with self._lock:
            if not self._is_turn_of(lender):
                return None
            self.turns += (turn,)
        _note_taken(turn)
        return turn

    def release(self, owner: object) -> None:
        # Without the lock: only the owner of a turn takes or ends it.
        turns = [turn for turn in self.turns if turn.owner is owner]
        if turns:
            self._end(*turns)

    def _is_turn_of(self, owner: object) -> bool:
        turns = self.turns
        return bool(turns) and turns[-1].owner is owner

    def _end(self, *turns: Turn) -> None:
        with self._lock:
            left = tuple([turn for turn in self.turns if turn not in turns])
            if left == self.turns:
                return
            for turn in turns:
                turn.is_over = True
            if left:
                self.turns = left
                # It is the turn of an outer unit: the threads that may borrow it ask again.
                for waiter in list(self._waiting):
                    if waiter.may_borrow(left[-1]) or left[-1].owner is waiter.turn.owner:
                        self._waiting.remove(waiter)
                        waiter.called.release()
                return
            self._file.release()
            self._thread = None
            following = self._waiting.popleft() if self._waiting else None
            self.turns = () if following is None else (following.turn,)
            if following is not None:
                following.called.release()

    def _wait_for_threads(self, turn: Turn, deadline: float) -> Turn:
        """Wait for the turn among the threads; return it, or the one that its owner has already."""
        while True:
            waiter = _Waiter(turn)
            try:
                with self._lock:
                    self._waiting.append(waiter)
                    if not self.turns or self._is_turn_of(turn.owner):
                        self._waiting.remove(waiter)
                        self.turns = self.turns or (turn,)
                        return self.turns[-1]
                    if waiter.may_borrow(self.turns[-1]):
                        raise OwnTurn(self.turns[-1].owner)
                    if self.turns[-1].thread == turn.thread and _blocks_event_loop():
                        raise OwnTurn
                is_called = waiter.called.acquire(timeout=max(deadline - time.monotonic(), 0))
            except BaseException:
                self._withdraw(waiter)
                raise
            if not is_called and self._withdraw(waiter):
                raise QueueTimeout(self._describe_holder())

    def _withdraw(self, waiter: _Waiter) -> bool:
        """Remove *waiter*; return False if it was not in the queue, because it has been called."""
        with self._lock, contextlib.suppress(ValueError):
            self._waiting.remove(waiter)
            return True
        return False

    def _describe_holder(self) -> str:
        thread, since, turns = self._thread, self._since, self.turns
        if thread is None:  # it waits for another process
            return self._file.describe_holder()
        if turns and turns[-1] in _taken.get():
            return (
                f"{duration_since(since)} by the unit of work around this one, which another thread"
                f" may be using ({thread.name!r}); if that thread waits for this one, it has to"
                " commit first"
            )
        if thread is threading.current_thread():
            return f"by this very thread, for another unit of work, {duration_since(since)}"
        return f"by the thread {thread.name!r} of this process {duration_since(since)}"


class _Waiter:
    """A thread that waits.

    :ivar turn: the turn that it will have.
    :ivar called: acquired here, and released by the thread that calls this one.
    """

    __slots__ = ("_idle", "_taken", "called", "turn")

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self._taken = _taken.get()
        self._idle = _idle_threads()
        # By way of the module: gevent replaces it when it patches.
        self.called = threading.Lock()
        self.called.acquire()

    def may_borrow(self, turn: Turn) -> bool:
        """Tell whether *turn* is of this flow of control, and its thread does nothing meanwhile."""
        return turn in self._taken and turn.thread in self._idle


class _QueuesByProcess(dict[int, _ThreadQueue]):
    """In a forked child no thread has the turn, whatever its parent was doing."""

    def __init__(self, file: str | None, database: str | None) -> None:
        super().__init__()
        self._file = file
        self._database = database

    def __missing__(self, process: int) -> _ThreadQueue:
        close_inherited()  # for servers that fork in C, where Python does not notice
        return self.setdefault(process, _ThreadQueue(FileLock(self._file, self._database)))
