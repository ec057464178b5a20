"""The queue in front of SQLite's write lock: one writer at a time, first come, first served.

SQLite lets a writer that finds the lock taken sleep and try again, longer each time. So the writer
that came last often gets the lock first, and out of sixteen writers one waits for seconds. Here
they wait in order:

- the threads of a process in a list; a thread that leaves calls the next one;
- the first thread of each process for a lock on a file beside the database
  (:mod:`~flask_uow._sqlite.file_lock`).

A writer may lend its turn to another one of its own flow of control: to a unit of work inside it,
which would otherwise wait for the end of the outer unit, for ever. No other writer gets in between:
when the inner unit leaves, it is the outer one's turn again. A flow is all that inherits the
context variables: a call, a task, the thread that an async view awaits. Two requests that use the
same thread, one after the other, are two flows.

Every wait ends by itself and can be interrupted, in a thread as in a greenlet. Without ``flock``
(Windows) the threads of each process are in order, and SQLite's own lock keeps the processes apart.

Nothing here knows SQLAlchemy or SQLite.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from contextvars import ContextVar

from .file_lock import FileLock, close_inherited, duration_since


class QueueTimeout(Exception):
    """The wait took too long; the text says which writer is in the way.

    :ivar by_own_flow: the owner of the turn, if it came in this flow: there was no wait then.
    """

    def __init__(self, text: str, by_own_flow: object = None) -> None:
        super().__init__(text)
        self.by_own_flow = by_own_flow


class WriteQueue:
    """A fair lock, among the threads of this process and with other processes.

    :param file: the path of the file whose lock the processes share. None: only threads are in
        the queue.
    :param database: the path of the database, whose rights the file gets.
    """

    def __init__(self, file: str | None = None, database: str | None = None) -> None:
        self._queues = _QueuesByProcess(file, database)

    def acquire(self, owner: object, timeout: float) -> None:
        """Wait for the turn of *owner*; return at once if it is its turn already.

        :param timeout: in seconds.
        :raises QueueTimeout: it did not become the turn of *owner* in that time.
        """
        self._queues[os.getpid()].acquire(owner, timeout)

    def borrow(self, owner: object, lender: object) -> bool:
        """Give *owner* the turn of *lender*, which has it again when *owner* leaves.

        :return: False if it is not *lender*'s turn any more: ask again.
        """
        return self._queues[os.getpid()].borrow(owner, lender)

    def release(self, owner: object) -> None:
        """End the turns of *owner*, if any; a turn that it has lent stays with the borrower."""
        self._queues[os.getpid()].release(owner)


class _Turn:
    """The right of *owner* to write."""

    __slots__ = ("is_over", "owner")

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self.is_over = False


# The turns that this flow has taken. Another thread may have ended them since.
_taken: ContextVar[tuple[_Turn, ...]] = ContextVar("flask_uow_turns", default=())


def _note_taken(turn: _Turn) -> None:
    _taken.set((*[taken for taken in _taken.get() if not taken.is_over], turn))


class _ThreadQueue:
    """The threads of one process.

    :ivar turns: the last one is the turn of the writer; it may still have to wait for the file.
        The turns before it are lent.
    """

    def __init__(self, file: FileLock) -> None:
        self.turns: tuple[_Turn, ...] = ()
        self._thread: threading.Thread | None = None
        self._since = 0.0
        self._waiting: deque[_Waiter] = deque()
        # Entered again if garbage collection finds a lost owner while this thread is inside.
        self._lock = threading.RLock()
        self._file = file

    def acquire(self, owner: object, timeout: float) -> None:
        started, turn = time.monotonic(), _Turn(owner)
        try:
            with self._lock:
                is_free = not self.turns
                if is_free:
                    self.turns = (turn,)
            if not is_free and self._wait_for_threads(turn, started + timeout):
                return
            if not self._file.acquire(started, timeout):
                raise QueueTimeout(self._file.describe_holder())
            self._since = time.monotonic()
            self._thread = threading.current_thread()
        except BaseException:
            # Also an interruption from outside, between any two steps.
            self._end(turn)
            raise
        _note_taken(turn)

    def borrow(self, owner: object, lender: object) -> bool:
        turn = _Turn(owner)
        with self._lock:
            if not self._is_turn_of(lender):
                return False
            self.turns += (turn,)
        _note_taken(turn)
        return True

    def release(self, owner: object) -> None:
        # Without the lock: only the owner of a turn takes or ends it.
        turns = [turn for turn in self.turns if turn.owner is owner]
        if turns:
            self._end(*turns)

    def _is_turn_of(self, owner: object) -> bool:
        turns = self.turns
        return bool(turns) and turns[-1].owner is owner

    def _end(self, *turns: _Turn) -> None:
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
                    if left[-1] in waiter.taken or left[-1].owner is waiter.turn.owner:
                        self._waiting.remove(waiter)
                        waiter.called.release()
                return
            self._file.release()
            self._thread = None
            following = self._waiting.popleft() if self._waiting else None
            self.turns = () if following is None else (following.turn,)
            if following is not None:
                following.called.release()

    def _wait_for_threads(self, turn: _Turn, deadline: float) -> bool:
        """Wait for the turn among the threads; return True if its owner has a turn already."""
        taken = _taken.get()
        while True:
            waiter = _Waiter(turn, taken)
            try:
                with self._lock:
                    self._waiting.append(waiter)
                    if not self.turns or self._is_turn_of(turn.owner):
                        self._waiting.remove(waiter)
                        self.turns = self.turns or (turn,)
                        return self.turns[-1] is not turn
                    if self.turns[-1] in taken:
                        raise QueueTimeout("by this flow itself", self.turns[-1].owner)
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
        thread, since = self._thread, self._since
        if thread is None:  # it waits for another process
            return self._file.describe_holder()
        if thread is threading.current_thread():
            # A task in the same event loop, for instance, which could not run during the wait.
            return f"by this very thread, for another unit of work, {duration_since(since)}"
        return f"by the thread {thread.name!r} of this process {duration_since(since)}"


class _Waiter:
    """A thread that waits.

    :ivar turn: the turn that it will have.
    :ivar taken: the turns of its flow, one of which it may borrow.
    :ivar called: acquired here, and released by the thread that calls this one.
    """

    __slots__ = ("called", "taken", "turn")

    def __init__(self, turn: _Turn, taken: tuple[_Turn, ...]) -> None:
        self.turn = turn
        self.taken = taken
        # By way of the module: gevent replaces it when it patches.
        self.called = threading.Lock()
        self.called.acquire()


class _QueuesByProcess(dict[int, _ThreadQueue]):
    """In a forked child no thread has the turn, whatever its parent was doing."""

    def __init__(self, file: str | None, database: str | None) -> None:
        super().__init__()
        self._file = file
        self._database = database

    def __missing__(self, process: int) -> _ThreadQueue:
        close_inherited()  # for servers that fork in C, where Python does not notice
        return self.setdefault(process, _ThreadQueue(FileLock(self._file, self._database)))
