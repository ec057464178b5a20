"""A private temporary file for each engine whose URL names a database in memory.

SQLite's own memory belongs to one connection: a second connection would see another, empty
database. A file has real transactions, and readers that do not wait for the writer. Each engine
has a folder, in memory where there is room (``/dev/shm``)::

    /dev/shm/flask_uow-k3x_9a2f/    mode 0700; locked (flock) by the processes that use it
        memory.db                   with the files that SQLite adds

A forked child uses the database of its parent, and shares the lock. ``engine.dispose()`` in the
process that created the folder removes it at once, whether a child uses it or not. The end of the
engine or of a process removes it if no other process has the lock: a daemon keeps the database that
its parent created. What a killed process could not remove, the next process removes.

Nothing here knows Flask, sessions or connections.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
import weakref
from functools import cache
from pathlib import Path

from sqlalchemy import Engine

from ..errors import ConfigError
from . import explain
from .file_lock import fcntl

_SHARED_MEMORY = "/dev/shm"  # noqa: S108  # the folder in it gets a random name and mode 0700
_ROOM = 256 * 2**20
"""Bytes. A container often has 64 MB of shared memory, and a test may store more than that."""

_PREFIX = "flask_uow-"
_FILE = "memory.db"

_OTHER_PLACES = (
    "Set TMPDIR to a folder that can be written to, or configure a file"
    " ('sqlite:////var/lib/app/app.db')"
)

_folders: weakref.WeakKeyDictionary[Engine, _Folder] = weakref.WeakKeyDictionary()


def path_for(engine: Engine) -> str:
    """Return the path of the database of *engine*, whose folder is created if there is none.

    :raises ConfigError: the folder cannot be created.
    """
    folder = _folders.get(engine)
    if folder is None:
        try:
            _sweep(_SHARED_MEMORY)
            _sweep(tempfile.gettempdir())
            created = _create()
        except OSError as error:
            why, remedy = str(error), _OTHER_PLACES
            if explain.has_too_many_files():
                why, remedy = "this process has too many open files", explain.CLOSE_FILES
            raise ConfigError(
                f"A SQLite database in memory ({str(engine.url)!r}) is kept in a temporary file,"
                f" which cannot be created: {why}. {remedy}."
            ) from error
        folder = _folders.setdefault(engine, created)  # another thread may have been faster
    return f"{folder.path}/{_FILE}"


def remove(engine: Engine) -> None:
    """Remove the database of *engine*, if this process created it; the next one is empty."""
    folder = _folders.get(engine)
    if folder is None or folder.process != os.getpid():
        return
    # First: a thread that asks for the path meanwhile must get a new folder.
    folder = _folders.pop(engine, None)
    if folder is not None:  # another thread may have been faster
        folder.remove()


# At the import, not with the first folder: of the functions that run at exit, those that the app
# registers after this one run before it, and may use the database.
@atexit.register
def _release_all() -> None:
    for engine in list(_folders):
        _folders.pop(engine).release()


class _Folder:
    """The folder of one engine.

    :ivar process: the one that created it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.process = os.getpid()
        self._lock: int | None = None
        self._status = os.stat(path)  # noqa: PTH116
        self._lock = _take_lock(path)

    def remove(self) -> None:
        """Remove the folder, even if another process uses it."""
        self._unlock()
        shutil.rmtree(self.path, ignore_errors=True)

    def release(self) -> None:
        """Remove the folder, unless another process uses it."""
        if self._lock is not None:
            self._unlock()
            _remove_unused(self.path)
        elif self.process == os.getpid():
            self.remove()

    def _unlock(self) -> None:
        with contextlib.suppress(OSError):
            # A daemon closes all files that it has inherited; the number may belong to another now.
            if self._lock is not None and os.path.samestat(os.fstat(self._lock), self._status):
                os.close(self._lock)

    def __del__(self) -> None:
        self.release()


def _create() -> _Folder:
    path = tempfile.mkdtemp(prefix=_PREFIX, dir=_parent())
    with contextlib.suppress(FileNotFoundError):
        folder = _Folder(path)
        if os.path.exists(path):  # noqa: PTH110
            return folder
    return _create()  # another process has swept it before it was locked


def _take_lock(folder: str) -> int | None:
    """Lock *folder* until the last process that inherits the descriptor has closed it."""
    if fcntl is None:
        return None
    lock = _open(folder)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # waits for a process that removes it
    except OSError:  # a file system without locks: nothing is swept there
        os.close(lock)
        return None
    return lock


def _open(folder: str) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _parent() -> str:
    """Return where folders are created."""
    with contextlib.suppress(OSError):
        has_room = shutil.disk_usage(_SHARED_MEMORY).free >= _ROOM
        if has_room and os.access(_SHARED_MEMORY, os.W_OK | os.X_OK):
            return _SHARED_MEMORY
    return tempfile.gettempdir()


@cache
def _sweep(parent: str) -> None:
    """Remove the folders that killed processes have left in *parent*, once."""
    if fcntl is not None:
        for folder in Path(parent).glob(f"{_PREFIX}*"):
            _remove_unused(str(folder))


def _remove_unused(folder: str) -> None:
    """Remove *folder* if it is this user's, has only files of SQLite, and no process uses it."""
    with contextlib.suppress(OSError):  # it is a link, or not a folder
        lock = _open(folder)
        try:
            is_ours = os.fstat(lock).st_uid == os.geteuid()
            if is_ours and all(file.name.startswith(_FILE) for file in Path(folder).iterdir()):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails if a process uses it
                shutil.rmtree(folder)
        finally:
            os.close(lock)
