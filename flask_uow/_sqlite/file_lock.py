"""A fair lock between processes: ``flock`` on a small file beside the database.

The kernel frees the lock when its holder is killed. ``flock`` cannot wait for a limited time, so
the waiting processes try again and again. The file says since when the first of them has waited,
and only that one tries. What the file says is a hint: if it is lost or wrong, as after a reboot or
on a copied machine, the order suffers, never the lock. It is read and written by system calls: a
file that is mapped into memory, and truncated by another program, would end the process.

The lock is given back after each transaction, although no process may be waiting: a process that
kept it while it does nothing could not be asked for it.

Nothing here knows SQLAlchemy or SQLite.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import stat
import struct
import sys
import time
import weakref
from typing import Any, Protocol

try:
    import fcntl as _fcntl
except ImportError:  # pragma: no cover  # Windows
    _fcntl = None  # type: ignore[assignment]
fcntl: Any = _fcntl

logger = logging.getLogger(__name__)

# Seconds. The first process tries at short intervals, which grow to a tenth of the time for which
# it has been the first: a long transaction is not hurried by thousands of tries.
_SHORTEST_PAUSE = 0.0002
_LONGEST_PAUSE = 0.005
_PAUSE_OF_OTHERS = 0.002
# Nanoseconds. A first process that has not tried for this long was killed or gave up. One whose
# last try is in the future is of an earlier boot, because the clock starts again at each boot.
_SILENCE = 10_000_000

_OPENING_PERIOD = 10.0  # seconds between two attempts to open the file

_HEAD = b"flask_uow queue\n"
_PID, _SINCE, _FIRST, _SEEN = range(4)
_SIZE = len(_HEAD) + 4 * 8
_ONE, _TWO = struct.Struct("=q"), struct.Struct("=qq")


class FileLock:
    """A file and its lock, for one process.

    What the file says, in nanoseconds of the clock that all processes share:

    ======  ====================================================
    PID     the process that has, or had, the lock last
    SINCE   when it got the lock
    FIRST   when the process that waits longest began to wait
    SEEN    when that process tried last
    ======  ====================================================

    :param path: created with the permissions of *database*. Without one, and without ``flock``,
        every process acquires the lock at once.
    """

    def __init__(self, path: str | None, database: str | None) -> None:
        self._path = path or ""
        self._database = database
        self.process = os.getpid()
        self._descriptor: int | None = None
        self._next_opening = 0.0 if path and fcntl is not None else math.inf
        self._notes: _Notes = _OwnNotes()  # until the file is open
        _locks[self] = None

    def acquire(self, started: float, timeout: float) -> int:
        """Wait for the lock; return when it was acquired, in nanoseconds, or 0 if it was not.

        :param started: when the wait began: other threads of this process came first, perhaps.
        """
        if self._descriptor is None:
            self._open()
        now = time.monotonic_ns()
        if self._descriptor is None:
            return now
        # If another process waits, a try at once would jump the queue: the other is between two.
        if not self._is_silent(now) or not self._try():
            now = self._wait(int(started * 1e9), started + timeout)
        if now:
            self._notes.note_holder(self.process, now)
        return now

    def release(self) -> None:
        if self._descriptor is not None:
            # Not by closing: a forked child may have the file open too, and would keep the lock.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def describe_holder(self) -> str:
        process, since = self._notes[_PID], self._notes[_SINCE] / 1e9
        if not process:
            return "by another process"
        if process == self.process:
            return f"by this process, through another engine, {duration_since(since)}"
        return f"by the process {process} {duration_since(since)}"

    def _is_silent(self, now: int) -> bool:
        """Tell whether no process that is still alive is noted as the first one."""
        return abs(now - self._notes[_SEEN]) > _SILENCE

    def _wait(self, mine: int, deadline: float) -> int:
        """Return when the lock was acquired; 0 if it was not."""
        first_since = 0
        while True:
            now = time.monotonic_ns()
            first = self._notes[_FIRST]
            if first >= mine or self._is_silent(now):
                first_since = first_since or now
                self._notes.note_first(mine, now)
                if self._try():
                    self._notes[_SEEN] = 0
                    return now
                pause = _SHORTEST_PAUSE + (now - first_since) / 1e10
            else:
                # The processes between the first and this one come before it, at about the pace at
                # which they began to wait.
                first_since, pause = 0, max((mine - first) / 4e9, _PAUSE_OF_OTHERS)
            left = deadline - now / 1e9
            if left <= 0:
                return 0
            time.sleep(min(pause, _LONGEST_PAUSE, left))

    def _try(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            self.close()
        return True

    def _open(self) -> None:
        """Open the file; if that is impossible, SQLite's own lock keeps the processes apart."""
        if time.monotonic() < self._next_opening:
            return
        try:
            self._descriptor = self._create_or_open()
        except OSError as error:
            if not self._next_opening:
                logger.warning(
                    "The file of the write queue cannot be opened (%s), so the processes of this"
                    " app do not write in the order in which they asked. Opening the file is tried"
                    " again from time to time.",
                    error,
                )
            self._next_opening = time.monotonic() + _OPENING_PERIOD
            return
        self._next_opening = math.inf  # not again, even if its file system has no locks
        with contextlib.suppress(OSError):  # it may only be read, or the disk is full
            if _is_marked(self._descriptor):
                self._notes = _FileNotes(self._descriptor)

    def _create_or_open(self) -> int:
        flags = os.O_CLOEXEC | os.O_NOFOLLOW
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(self._path, flags | os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            # The rights of the database, as SQLite gives them to its own files: a command that root
            # runs would leave a file that the web server cannot open.
            with contextlib.suppress(OSError):
                if self._database is not None:
                    status = os.stat(self._database)  # noqa: PTH116
                    os.fchmod(descriptor, stat.S_IMODE(status.st_mode) & 0o666)
                    if os.geteuid() == 0:
                        os.fchown(descriptor, status.st_uid, status.st_gid)
            return descriptor
        try:
            return os.open(self._path, flags | os.O_RDWR)
        except PermissionError:
            return os.open(self._path, flags | os.O_RDONLY)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        self._notes = _OwnNotes()  # any file may get the number of the descriptor now
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def __del__(self) -> None:
        self.close()


class _Notes(Protocol):
    """Four numbers, which the processes share if they share the file."""

    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, number: int, /) -> None: ...

    def note_holder(self, process: int, since: int) -> None:
        """Write the first two numbers."""

    def note_first(self, since: int, seen: int) -> None:
        """Write the last two numbers.

        Together, because another process may have become the first one since they were read. With
        a new SEEN, that process would seem to wait, although it may have the lock.
        """


class _OwnNotes(dict[int, int]):
    """The notes of one process."""

    def __missing__(self, index: int) -> int:
        return 0

    def note_holder(self, process: int, since: int) -> None:
        self[_PID], self[_SINCE] = process, since

    def note_first(self, since: int, seen: int) -> None:
        self[_FIRST], self[_SEEN] = since, seen


class _FileNotes:
    """What the file says: four numbers, 0 where it says nothing.

    A file that another program has truncated says nothing, and grows again.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __getitem__(self, index: int) -> int:
        number = os.pread(self._descriptor, 8, len(_HEAD) + 8 * index)
        return int.from_bytes(number, sys.byteorder, signed=True)

    def __setitem__(self, index: int, number: int) -> None:
        self._write(index, _ONE.pack(number))

    def note_holder(self, process: int, since: int) -> None:
        self._write(_PID, _TWO.pack(process, since))

    def note_first(self, since: int, seen: int) -> None:
        self._write(_FIRST, _TWO.pack(since, seen))

    def _write(self, index: int, numbers: bytes) -> None:
        try:  # noqa: SIM105  # suppress() takes longer than the call
            os.pwrite(self._descriptor, numbers, len(_HEAD) + 8 * index)
        except OSError:  # a full disk, if it was truncated
            pass


def _is_marked(descriptor: int) -> bool:
    """Tell whether this module made the file, and not another program that uses its name.

    :raises OSError: the file is empty and cannot be written.
    """
    head = os.pread(descriptor, len(_HEAD), 0)
    if not head.strip(b"\0") and os.fstat(descriptor).st_size <= _SIZE:  # new, or truncated since
        # Two processes may write this: the bytes are the same.
        os.pwrite(descriptor, _HEAD, 0)
        return True
    return head == _HEAD


# Not a WeakSet: its keyrefs() are safe while other threads open files.
_locks: weakref.WeakKeyDictionary[FileLock, None] = weakref.WeakKeyDictionary()


def close_inherited() -> None:
    """Close the files that the parent of this process has opened.

    A lock that the parent holds would be held here as well, and outlive the parent.
    """
    for reference in _locks.keyrefs():
        lock = reference()
        if lock is not None and lock.process != os.getpid():
            lock.close()


def duration_since(since: float) -> str:
    """Say how long ago *since* was, a time of ``time.monotonic()``."""
    return f"for {max(time.monotonic() - since, 0):.1f} s"
