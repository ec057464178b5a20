"""A private temporary file for each engine whose URL names a database in memory.

SQLite's own memory belongs to one connection: a second connection would see another, empty
database. A file has real transactions, and readers that do not wait for the writer. Each engine
has a folder, in memory where there is room (``/dev/shm``)::

    /dev/shm/flask_uow-k3x_9a2f/    mode 0700
        lock                        locked (flock) while the process or a child of it lives
        memory.db                   with the files that SQLite adds

``engine.dispose()`` removes it, and so do the end of the engine and the end of the process that
created it. A forked child uses the database of its parent and does not remove it. What a killed
process could not remove, the next process removes.

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
from .file_lock import fcntl

_SHARED_MEMORY = "/dev/shm"  # noqa: S108  # the folder in it gets a random name and mode 0700
_ROOM = 256 * 2**20
"""Bytes. A container often has 64 MB of shared memory, and a test may store more than that."""

_PREFIX = "flask_uow-"
_LOCK = "lock"

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
            created = _Folder(tempfile.mkdtemp(prefix=_PREFIX, dir=_parent()))
        except OSError as error:
            raise ConfigError(
                f"A SQLite database in memory ({str(engine.url)!r}) is kept in a temporary file,"
                f" which cannot be created: {error}. Set TMPDIR to a folder that can be written"
                " to, or configure a file ('sqlite:////var/lib/app/app.db')."
            ) from error
        folder = _folders.setdefault(engine, created)  # another thread may have been faster
    return f"{folder.path}/memory.db"


def remove(engine: Engine) -> None:
    """Remove the database of *engine*, if this process created it; the next one is empty."""
    folder = _folders.get(engine)
    if folder is not None and folder.remove():
        _folders.pop(engine, None)  # another thread may remove it, too


# At the import, not with the first folder: of the functions that run at exit, those that the app
# registers after this one run before it, and may use the database.
@atexit.register
def _remove_all() -> None:
    for engine in list(_folders):
        remove(engine)


class _Folder:
    """The folder of one engine, which is removed with it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._process = os.getpid()
        self._lock: int | None = None
        self._lock = _take_lock(path)

    def remove(self) -> bool:
        """Remove the folder; return False in a child of the process that created it."""
        if self._process != os.getpid():
            return False
        shutil.rmtree(self.path, ignore_errors=True)
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)
        return True

    def __del__(self) -> None:
        self.remove()


def _take_lock(folder: str) -> int | None:
    """Lock *folder* until the last process that has the file open ends.

    The file gets its name after it was locked: no other process finds it unlocked.
    """
    if fcntl is None:
        return None
    name = f"{folder}/{_LOCK}"
    lock = os.open(f"{name}.new", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # a file system without locks: nothing is swept there
        os.close(lock)
        return None
    os.rename(f"{name}.new", name)  # noqa: PTH104
    return lock


def _parent() -> str:
    """Return where folders are created."""
    with contextlib.suppress(OSError):
        has_room = shutil.disk_usage(_SHARED_MEMORY).free >= _ROOM
        if has_room and os.access(_SHARED_MEMORY, os.W_OK | os.X_OK):
            return _SHARED_MEMORY
    return tempfile.gettempdir()


@cache
def _sweep(parent: str) -> None:
    """Remove the folders in *parent* of killed processes, if they are this user's; once."""
    if fcntl is None:
        return
    for folder in Path(parent).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # a process uses it, or it has no lock
            if folder.lstat().st_uid == os.geteuid() and not folder.is_symlink():
                with (folder / _LOCK).open("rb") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder)
