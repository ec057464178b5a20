"""The queue in front of SQLite's write lock: one writer at a time, first come, first served.

SQLite lets a writer that finds the lock taken sleep and try again, longer each time, so who came
last gets it first, and out of sixteen writers one waits for seconds. Here everybody waits in line:

- the threads of a process in a list; whoever leaves calls the next;
- the first of each process for a lock (``flock``) on a small file beside the database, which the
  kernel frees when its holder is killed.

``flock`` cannot wait for a limited time, so the file is tried again and again. A page of the file
that all processes share (``_Card``) says who has waited longest; only that one tries. What the
page says is a hint: if it is lost or wrong, the order suffers, never the lock.

Whoever has the turn may lend it to another one of its own flow of control: to a unit of work inside
it, which would wait for ever for the end of the outer one. Nobody else gets in between: when the
inner one leaves, it is the outer one's turn again. A flow is what inherits the context variables:
a call, a task, the thread that an async view awaits. That two of them run in the same thread, one
after the other, does not make them one.

Every wait ends by itself and can be interrupted, in a thread as in a greenlet. Where there is no
``flock`` (Windows), the threads of each process are in order, and the processes are left to SQLite.

Nothing here knows SQLAlchemy or SQLite.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import stat
import threading
import time
import weakref
from array import array
from collections import deque
from contextvars import ContextVar
from typing import Any

try:
    import fcntl as _fcntl
except ImportError:  # pragma: no cover  # Windows
    _fcntl = None  # type: ignore[assignment]
fcntl: Any = _fcntl

logger = logging.getLogger(__name__)

# Seconds. The first in line tries at short intervals, which grow to a tenth of what it has waited
# as the first: a long transaction is not hurried by thousands of tries.
_SHORTEST_PAUSE = 0.0002
_LONGEST_PAUSE = 0.005
_PAUSE_BEHIND = 0.002
# For so long nobody has waited who said so: it was killed, or gave up.
_SILENCE = 10_000_000  # nanoseconds


class QueueTimeout(Exception):
    """The wait took too long; the text says who is in the way.

    :ivar by_own_flow: the owner whose turn it is, if it came in this flow: nobody has waited.
    """

    def __init__(self, text: str, by_own_flow: object = None) -> None:
        super().__init__(text)
        self.by_own_flow = by_own_flow


class WriteQueue:
    """A fair lock, among the threads of this process and with other processes.

    :param file: the path of the file that processes meet at; it is created with the rights of
        *beside*. None: only threads are in the queue.
    :param beside: the database.
    """

    def __init__(self, file: str | None = None, beside: str | None = None) -> None:
        self.file = file
        self.beside = beside
        # By process id: a forked child starts anew, whatever its parent was doing.
        self._lines: dict[int, _Line] = {}

    def acquire(self, owner: object, timeout: float) -> None:
        """Wait for the turn of *owner*; who has it already goes on.

        :param timeout: in seconds.
        :raises QueueTimeout: somebody else had it for all that time.
        """
        line = self._lines.get(os.getpid())
        if line is None:
            close_inherited()  # for servers that fork in C, where Python does not notice
            line = self._lines.setdefault(os.getpid(), _Line(self.file, self.beside))
        line.acquire(owner, timeout)

    def borrow(self, owner: object, lender: object) -> bool:
        """Give *owner* the turn of *lender*, which has it again when *owner* leaves.

        :return: False if it is not *lender*'s turn any more: ask again.
        """
        line = self._lines.get(os.getpid())
        return line is not None and line.borrow(owner, lender)

    def release(self, owner: object) -> None:
        """Let the next one have its turn, if it is *owner*'s now; else do nothing.

        What *owner* has lent stays with who has it, and does not come back.
        """
        line = self._lines.get(os.getpid())
        if line is not None:
            line.release(owner)


class _Turn:
    """What one has who may write."""

    __slots__ = ("is_over", "owner")

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self.is_over = False


# The turns that this flow has taken. Another one may have ended them since: in another thread.
_taken: ContextVar[tuple[_Turn, ...]] = ContextVar("flask_uow_turns", default=())


def _note_taken(turn: _Turn) -> None:
    _taken.set((*[one for one in _taken.get() if not one.is_over], turn))


class _Line:
    """The queue as one process sees it.

    :ivar turns: the last one is that of who may write, in this process: the file may still have to
        be waited for. Those before it are lent.
    """

    def __init__(self, file: str | None, beside: str | None) -> None:
        self.turns: tuple[_Turn, ...] = ()
        self._thread: threading.Thread | None = None
        self._since = 0.0
        self._waiting: deque[_Waiter] = deque()
        # Entered again if garbage collection finds a lost owner while we are inside.
        self._door = threading.RLock()
        self._file = _SharedFile(file, beside) if file and fcntl is not None else None

    def acquire(self, owner: object, timeout: float) -> None:
        if self._is_turn_of(owner):
            return
        started, turn = time.monotonic(), _Turn(owner)
        try:
            if self._wait_for_threads(turn, started + timeout):
                return  # it was lent, and has come back
            if self._file is not None:
                self._file.lock(started, timeout)
            self._since = time.monotonic()
            self._thread = threading.current_thread()
        except BaseException:
            # Also an interruption from outside, between any two steps.
            self._end(turn)
            raise
        _note_taken(turn)

    def borrow(self, owner: object, lender: object) -> bool:
        turn = _Turn(owner)
        with self._door:
            if not self._is_turn_of(lender):
                return False
            self.turns += (turn,)
        _note_taken(turn)
        return True

    def release(self, owner: object) -> None:
        # Without the door: nobody but its owner takes or ends a turn.
        mine = [turn for turn in self.turns if turn.owner is owner]
        if mine:
            self._end(*mine)

    def _is_turn_of(self, owner: object) -> bool:
        turns = self.turns
        return bool(turns) and turns[-1].owner is owner

    def _end(self, *turns: _Turn) -> None:
        with self._door:
            left = tuple([turn for turn in self.turns if turn not in turns])
            if left == self.turns:
                return
            for turn in turns:
                turn.is_over = True
            if left:
                self.turns = left
                self._call_those_who_may_borrow(left[-1])
                return
            if self._file is not None:
                self._file.unlock()
            self._thread = None
            following = self._waiting.popleft() if self._waiting else None
            self.turns = () if following is None else (following.turn,)
            if following is not None:
                following.called.release()

    def _call_those_who_may_borrow(self, turn: _Turn) -> None:
        """Let them ask again: it is the turn of an outer one once more."""
        for waiter in list(self._waiting):
            if turn in waiter.taken or turn.owner is waiter.turn.owner:
                self._waiting.remove(waiter)
                waiter.called.release()

    def _wait_for_threads(self, turn: _Turn, deadline: float) -> bool:
        """Wait for the turn among the threads; True if it was there already, lent to another."""
        with self._door:
            if not self.turns:
                self.turns = (turn,)
                return False
        taken = _taken.get()
        while True:
            waiter = _Waiter(turn, taken)
            try:
                with self._door:
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
        """Leave the line; False if *waiter* was not in it, because it has been called."""
        with self._door, contextlib.suppress(ValueError):
            self._waiting.remove(waiter)
            return True
        return False

    def _describe_holder(self) -> str:
        thread, since = self._thread, self._since
        if thread is None:  # it waits for another process
            return self._file.describe_holder() if self._file else "by another thread"
        if thread is threading.current_thread():
            # A task in the same event loop, for instance, which could not go on while we waited.
            return f"by this very thread, for somebody else, {_for_how_long(since)}"
        return f"by the thread {thread.name!r} of this process {_for_how_long(since)}"


class _Waiter:
    """A place in the line. The lock is the bell: taken here, released by who calls.

    :ivar taken: the turns of its flow, one of which it may borrow.
    """

    __slots__ = ("called", "taken", "turn")

    def __init__(self, turn: _Turn, taken: tuple[_Turn, ...]) -> None:
        self.turn = turn
        self.taken = taken
        # By way of the module: gevent replaces it when it patches.
        self.called = threading.Lock()
        self.called.acquire()


def _for_how_long(since: float) -> str:
    return f"for {max(time.monotonic() - since, 0):.1f} s"


# Between processes ----------------------------------------------------------------------------

_OPENING_PERIOD = 10.0  # seconds between two attempts to open the file

_HEAD = b"flask_uow queue\n"
_PID, _SINCE, _FIRST, _SEEN = range(4)
_SIZE = len(_HEAD) + 4 * 8


class _SharedFile:
    """The file at which processes meet, and its lock.

    The card, in nanoseconds of the clock that all processes share:

    ======  =================================================
    PID     who has, or had, the lock last
    SINCE   from when on
    FIRST   since when the one has waited who waits longest
    SEEN    when that one tried last
    ======  =================================================
    """

    def __init__(self, file: str, beside: str | None) -> None:
        self._path = file
        self._beside = beside
        self.process = os.getpid()
        self._number: int | None = None
        self._is_open = False
        self._next_opening = 0.0
        self._card: Any = array("q", [0, 0, 0, 0])  # nobody else sees this one
        _files[self] = None

    def lock(self, started: float, timeout: float) -> None:
        """Wait for the lock.

        :param started: when the wait began, perhaps behind other threads.
        """
        if not self._is_open:
            self._open()
        if self._number is None:
            return
        card, now = self._card, time.monotonic_ns()
        # If others wait, it would be pushing in to try at once: they are between two tries.
        if now - card[_SEEN] < _SILENCE or not self._try():
            now = self._wait(card, int(started * 1e9), started + timeout)
        card[_PID] = self.process
        card[_SINCE] = now

    def unlock(self) -> None:
        if self._number is not None:
            # Not by closing: a forked child may have the file open too, and would keep the lock.
            fcntl.flock(self._number, fcntl.LOCK_UN)

    def describe_holder(self) -> str:
        process, since = self._card[_PID], self._card[_SINCE] / 1e9
        if not process:
            return "by another process"
        if process == self.process:
            return f"by this process, through another engine, {_for_how_long(since)}"
        return f"by the process {process} {_for_how_long(since)}"

    def _wait(self, card: Any, mine: int, deadline: float) -> int:
        first_since = 0
        while True:
            now = time.monotonic_ns()
            if card[_FIRST] > mine or now - card[_SEEN] > _SILENCE:
                card[_FIRST] = mine
            if card[_FIRST] == mine:
                first_since = first_since or now
                card[_SEEN] = now
                if self._try():
                    card[_SEEN] = 0
                    return now
                pause = _SHORTEST_PAUSE + (now - first_since) / 1e10
            else:
                # Those between us and the first are served before us, at about the pace they came.
                first_since, pause = 0, max((mine - card[_FIRST]) / 4e9, _PAUSE_BEHIND)
            left = deadline - now / 1e9
            if left <= 0:
                raise QueueTimeout(self.describe_holder())
            time.sleep(min(pause, _LONGEST_PAUSE, left))

    def _try(self) -> bool:
        if self._number is None:
            return True
        try:
            fcntl.flock(self._number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            self.close()
        return True

    def _open(self) -> None:
        """Open the file; if that is impossible, SQLite alone will see to the other processes."""
        if time.monotonic() < self._next_opening:
            return
        try:
            self._number = self._open_or_create()
        except OSError as error:
            if not self._next_opening:
                logger.warning(
                    "The queue of those who write cannot be opened (%s), so the processes of this"
                    " app are not served in order. It is tried again from time to time.",
                    error,
                )
            self._next_opening = time.monotonic() + _OPENING_PERIOD
            return
        self._is_open = True
        with contextlib.suppress(OSError, ValueError):
            self._read_card()

    def _open_or_create(self) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        with contextlib.suppress(FileExistsError):  # another process was quicker
            return self._open_existing(flags)
        return self._open_existing(flags)

    def _open_existing(self, flags: int) -> int:
        try:
            return os.open(self._path, flags)
        except PermissionError:
            return os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            number = os.open(self._path, flags | os.O_CREAT | os.O_EXCL, 0o600)
            with contextlib.suppress(OSError):
                self._adopt_rights(number)
            return number

    def _adopt_rights(self, number: int) -> None:
        """Let everybody in who may use the database, as SQLite does with its own files.

        Otherwise a command that root runs would leave a file that the web server cannot open.
        """
        if self._beside is not None:
            status = os.stat(self._beside)  # noqa: PTH116
            os.fchmod(number, stat.S_IMODE(status.st_mode) & 0o666)
            if os.geteuid() == 0:
                os.fchown(number, status.st_uid, status.st_gid)

    def _read_card(self) -> None:
        # Opened once more: mmap keeps a copy of the descriptor, which a child would inherit, and
        # a lock lives as long as any copy of what it was taken with.
        number = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if os.fstat(number).st_size == 0:
                os.pwrite(number, _HEAD.ljust(_SIZE, b"\0"), 0)  # twice, or by two, does no harm
            # Somebody else's file of this name is not written to.
            if os.pread(number, len(_HEAD), 0) == _HEAD and os.fstat(number).st_size >= _SIZE:
                page = memoryview(mmap.mmap(number, _SIZE))
                self._card = page[len(_HEAD) :].cast("q")
        finally:
            os.close(number)

    def close(self) -> None:
        number, self._number = self._number, None
        if number is not None:
            with contextlib.suppress(OSError):
                os.close(number)

    def __del__(self) -> None:
        self.close()


# Not a WeakSet: its keyrefs() are safe while other threads open files.
_files: weakref.WeakKeyDictionary[_SharedFile, None] = weakref.WeakKeyDictionary()


def close_inherited() -> None:
    """Close what the parent of this process has opened.

    A lock that it holds would be held here as well, and outlive it.
    """
    for reference in _files.keyrefs():
        file = reference()
        if file is not None and file.process != os.getpid():
            file.close()
