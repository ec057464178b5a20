"""A private temporary file for each engine whose URL names a database in memory.

SQLite's own memory belongs to one connection: a second one would see another database, empty. A
file has real transactions, and readers beside a writer. The files of a process lie in one folder,
in memory where there is room (``/dev/shm``)::

    /dev/shm/flask_uow-k3x_9a2f/    mode 0700
        lock                        locked (flock) while the process or a child of it lives
        1/memory.db                 of the first engine, with what SQLite keeps beside it

A file is removed with its engine, the folder at exit, both by the process that created them and
not by its children. The next process removes what a killed one left behind.

Nothing here knows Flask, sessions or connections.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import shutil
import tempfile
import weakref
from pathlib import Path

from sqlalchemy import Engine

from ..errors import ConfigError
from .write_queue import fcntl

_SHARED_MEMORY = "/dev/shm"  # noqa: S108  # the folder in it gets a random name and mode 0700
_ROOM = 256 * 2**20
"""Bytes. A container often has 64 MB of shared memory, and a test may store more than that."""

_PREFIX = "flask_uow-"
_LOCK = "lock"

_files: weakref.WeakKeyDictionary[Engine, str] = weakref.WeakKeyDictionary()
_folders: dict[int, _Folder] = {}  # by process id: a forked child makes its own


def file_of(engine: Engine) -> str:
    """Return the path of the file of *engine*; its folder is created with the first call.

    :raises ConfigError: there is no place for a temporary file.
    """
    path = _files.get(engine)
    if path is None:
        try:
            path = _files.setdefault(engine, _folder().add(engine))
        except OSError as error:
            raise ConfigError(
                f"A SQLite database in memory ({str(engine.url)!r}) is kept in a temporary file,"
                f" which cannot be created: {error}. Set TMPDIR to a folder that can be written"
                " to, or configure a file ('sqlite:////var/lib/app/app.db')."
            ) from error
    return path


class _Folder:
    """The folder of one process.

    :ivar process: the process that removes it.
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_parent()))
        self._numbers = itertools.count(1)
        self._lock = self._take_lock()

    def _take_lock(self) -> int | None:
        """Lock the folder until the last process that has the file open ends.

        The file gets its name when it is locked: no other process finds it unlocked.
        """
        if fcntl is None:
            return None
        new = self.path / f"{_LOCK}.new"
        lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # a file system without locks: nothing is swept there
            os.close(lock)
            return None
        new.rename(self.path / _LOCK)
        return lock

    def add(self, engine: Engine) -> str:
        """Create a folder for the file of *engine*, which is removed with it."""
        folder = self.path / str(next(self._numbers))
        folder.mkdir(mode=0o700)
        removal = weakref.finalize(engine, _remove, folder, self.process)
        removal.atexit = False  # functions that the app runs at exit may still use the database
        return str(folder / "memory.db")

    def remove(self) -> None:
        _remove(self.path, self.process)
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)


def _remove(folder: Path, process: int) -> None:
    if process == os.getpid():
        shutil.rmtree(folder, ignore_errors=True)


def _folder() -> _Folder:
    """Return the folder of this process. No lock is taken: a fork could leave it locked."""
    process = os.getpid()
    if process not in _folders:
        _sweep(_SHARED_MEMORY)
        _sweep(tempfile.gettempdir())
        created = _Folder()
        if _folders.setdefault(process, created) is not created:  # another thread was faster
            created.remove()
    return _folders[process]


def _parent() -> str:
    """The folder in which that of a process lies."""
    with contextlib.suppress(OSError):
        has_room = shutil.disk_usage(_SHARED_MEMORY).free >= _ROOM
        if has_room and os.access(_SHARED_MEMORY, os.W_OK | os.X_OK):
            return _SHARED_MEMORY
    return tempfile.gettempdir()


def _sweep(parent: str) -> None:
    """Remove the folders in *parent* that killed processes of this user left behind."""
    if fcntl is None:
        return
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    _sweep_folder(entry.path)


def _sweep_folder(path: str) -> None:
    """Remove the folder *path* if it is ours and no process holds its lock.

    :raises OSError: it is in use, it has no lock, or it is of another user.
    """
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(folder).st_uid != os.geteuid():
            return
        lock = os.open(_LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)
        finally:
            os.close(lock)
    finally:
        os.close(folder)


def _remove_at_exit() -> None:
    folder = _folders.get(os.getpid())
    if folder is not None:
        folder.remove()


# When this module is imported, and so after what the app registers later.
atexit.register(_remove_at_exit)
