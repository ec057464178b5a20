"""A private temporary file for each engine whose URL names a database in memory.

SQLite's own memory belongs to one connection: a second connection would see another, empty
database. A file has real transactions, and readers that do not wait for the writer. The files of a
process are in one folder, in memory where there is room (``/dev/shm``)::

    /dev/shm/flask_uow-k3x_9a2f/    mode 0700
        lock                        locked (flock) while the process or a child of it lives
        1/memory.db                 of the first engine, with the files that SQLite adds

A file is removed by ``engine.dispose()`` or with the engine, the folder at exit. Only the process
that created them removes them: a forked child uses the database of its parent. The next process
removes the folder of a killed one.

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
from typing import Any

from sqlalchemy import Engine

from ..errors import ConfigError
from .file_lock import fcntl

_SHARED_MEMORY = "/dev/shm"  # noqa: S108  # the folder in it gets a random name and mode 0700
_ROOM = 256 * 2**20
"""Bytes. A container often has 64 MB of shared memory, and a test may store more than that."""

_PREFIX = "flask_uow-"
_LOCK = "lock"

_files: weakref.WeakKeyDictionary[Engine, _File] = weakref.WeakKeyDictionary()
_folders: dict[int, _Folder] = {}  # by process id: a forked child creates its own


def path_for(engine: Engine) -> str:
    """Return the path of the database of *engine*, whose folder is created if there is none.

    :raises ConfigError: there is no folder for a temporary file.
    """
    file = _files.get(engine)
    if file is None:
        try:
            file = _files.setdefault(engine, _File(engine, _folder_of_process()))
        except OSError as error:
            raise ConfigError(
                f"A SQLite database in memory ({str(engine.url)!r}) is kept in a temporary file,"
                f" which cannot be created: {error}. Set TMPDIR to a folder that can be written"
                " to, or configure a file ('sqlite:////var/lib/app/app.db')."
            ) from error
    return file.path


def remove(engine: Engine) -> None:
    """Remove the database of *engine*, if this process created it; the next one is empty."""
    file = _files.get(engine)
    if file is not None and file.process == os.getpid():
        del _files[engine]
        file.remove()


class _File:
    """The database of one engine.

    :ivar process: the process that removes it.
    """

    def __init__(self, engine: Engine, parent: _Folder) -> None:
        folder = parent.path / str(next(parent.numbers))
        folder.mkdir(mode=0o700)
        self.process = parent.process
        self.path = str(folder / "memory.db")
        self.remove: Any = weakref.finalize(engine, _remove, folder, self.process)
        self.remove.atexit = False  # functions that the app runs at exit may use the database


class _Folder:
    """The folder of one process."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_parent()))
        self.numbers = itertools.count(1)
        self._lock = self._take_lock()

    def _take_lock(self) -> int | None:
        """Lock the folder until the last process that has the file open ends.

        The file gets its name after it was locked: no other process finds it unlocked.
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

    def remove(self) -> None:
        _remove(self.path, self.process)
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)


def _remove(folder: Path, process: int) -> None:
    if process == os.getpid():
        shutil.rmtree(folder, ignore_errors=True)


def _folder_of_process() -> _Folder:
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
    """Return where the folder of a process is created."""
    with contextlib.suppress(OSError):
        has_room = shutil.disk_usage(_SHARED_MEMORY).free >= _ROOM
        if has_room and os.access(_SHARED_MEMORY, os.W_OK | os.X_OK):
            return _SHARED_MEMORY
    return tempfile.gettempdir()


def _sweep(parent: str) -> None:
    """Remove the folders in *parent* of killed processes, if they are this user's."""
    if fcntl is None:
        return
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    _sweep_folder(entry.path)


def _sweep_folder(path: str) -> None:
    """Remove the folder *path* if it is this user's and no process holds its lock.

    :raises OSError: a process uses it, or it has no lock.
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


# Registered when this module is imported: it runs after the functions that the app registers later.
atexit.register(_remove_at_exit)
