"""The database of one engine, in so far as its connections share it.

Nothing here knows Flask, sessions or engines.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import TypeAlias

from .._config.settings import SqliteProfile
from .write_queue import WriteQueue, queue_for

Identity: TypeAlias = tuple[int, int]

WAL_LIMIT = 16 * 2**20
"""Bytes. SQLite writes the log back at 4 MB and starts it again, unless a transaction reads it."""

_WAL_PERIOD = 5.0  # seconds between two looks at it


class SqliteDatabase:
    """A file, or a database in memory.

    :ivar path: of the file; empty before the first connection, and without a file.
    :ivar asked_for: the path to which a connection was asked for last. If a symbolic link leads to
        the file, *path* is that of the file.
    :ivar identity: which file it was when it was opened last; None before, and without a file.
    :ivar read_only: it was opened for reading only, so no connection waits for the write lock.
    :ivar timeout: how long a connection waits for a lock, in seconds.
    :ivar queue: None if its writers do not wait in a queue.
    :ivar is_wal: the writer does not wait for readers, so a reader may wait for the writer.
    """

    def __init__(
        self,
        profile: SqliteProfile,
        *,
        in_memory: bool,
        on_wal_growth: Callable[[int], object] | None,
    ) -> None:
        self.path = self.asked_for = ""
        self.identity: Identity | None = None
        self._beside: dict[str, Identity | None] = {}
        self.read_only = False
        self.timeout = profile.busy_timeout
        self.queue: WriteQueue | None = None
        self.is_wal = profile.journal_mode == "wal"
        self._has_queue = profile.queue
        self._in_memory = in_memory
        self._on_wal_growth = on_wal_growth
        self._next_look = 0.0
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """What messages call the database: its path, or its URL if it is in memory."""
        return "sqlite://" if self._in_memory else self.path or self.asked_for

    def note_path(self, path: str) -> None:
        with self._lock:
            if path != self.path:  # a new temporary file: the queue beside the old one is gone
                self.path, self.queue = path, None
            if self.queue is None and self._has_queue and not self.read_only:
                self.queue = queue_for(path) if path else WriteQueue()

    def note_identity(self) -> None:
        """Note which file it is, and which ones SQLite keeps beside it; after each opening."""
        self.identity = self.identity_now()
        self._beside = {name: identity_of(name) for name in self._names_beside()}

    def identity_now(self) -> Identity | None:
        """Return which file a new connection would open: a link may lead elsewhere by now."""
        return identity_of(self.asked_for or self.path)

    def is_replaced(self) -> bool:
        """Tell whether another file was put in its place since."""
        return self.identity is not None and self.identity_now() not in {None, self.identity}

    def left_by_the_old(self) -> list[str]:
        """Return the files beside it that belong to the file that was replaced.

        SQLite would take them for those of the new file, and destroy that file.
        """
        if os.path.realpath(self.asked_for) != os.path.realpath(self.path):
            return []  # a link leads to a file in another place
        found = {name: identity_of(name) for name in self._names_beside()}
        return [
            name
            for name, identity in found.items()
            if identity is not None and identity == (self._beside.get(name) or identity)
        ]

    def _names_beside(self) -> list[str]:
        return [f"{self.path}{ending}" for ending in ("-wal", "-shm", "-journal")]

    def look_at_wal(self, connection: sqlite3.Connection) -> None:
        """Report a log that has grown, and cannot be emptied; for a call after a COMMIT."""
        now = time.monotonic()
        if now < self._next_look or self._on_wal_growth is None or not self.path:
            return
        self._next_look = now + _WAL_PERIOD
        try:
            if os.stat(f"{self.path}-wal").st_size < WAL_LIMIT:  # noqa: PTH116
                return
            # The file stays long after a long transaction. What counts is what cannot go.
            _, pages, written_back = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            (page_size,) = connection.execute("PRAGMA page_size").fetchone()
        except (OSError, sqlite3.Error):  # the commit has succeeded, and that is what counts
            return
        size = (pages - written_back) * page_size
        if size >= WAL_LIMIT:
            self._on_wal_growth(size)


def identity_of(path: str) -> Identity | None:
    """What a file is, whatever its name; None if there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116  # at every COMMIT
    except OSError:
        return None
    return status.st_dev, status.st_ino
