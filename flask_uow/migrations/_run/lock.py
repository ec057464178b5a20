"""One process at a time migrates a database: a lock in the database itself, or beside its file.

=====================  =======================================================================
PostgreSQL             an advisory lock of a transaction that does nothing else, so that it is
                       kept behind PgBouncer, too, and is free when the process has ended
MySQL, MariaDB         ``GET_LOCK``, with the name of the database in its name
SQLite                 ``BEGIN EXCLUSIVE`` on an empty file beside the database (``-migrate``)
SQLite in memory       none: the database belongs to this process
others                 none, and a notice
=====================  =======================================================================

A process that waits asks again and again. A statement that waits would hold a snapshot, and
PostgreSQL's ``CREATE INDEX CONCURRENTLY`` would wait for it in turn, for ever.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from ..._sqlite.profile import is_memory, path_of
from ...errors import ConfigNotice, MigrationError, MigrationLocked
from ..connectivity import redacted_url
from ..results import OnWait

Confirm = Callable[[], None]

_KEY = int.from_bytes(hashlib.sha256(b"flask_uow.migrations").digest()[:8], "big", signed=True)
_NAME = "CONCAT('flask_uow.', SHA1(COALESCE(DATABASE(), '')))"
_PERIOD = 0.2  # seconds between two attempts


@contextlib.contextmanager
def held(engines: Mapping[str, Engine], timeout: float, on_wait: OnWait) -> Iterator[Confirm]:
    """Hold the locks of all databases of *engines*, taken in the order of their URLs.

    :param timeout: seconds, for all of them together.
    :param on_wait: is given a sentence when a lock has to be waited for.
    :returns: a function to be called between two steps: it raises if a lock was lost.
    :raises MigrationLocked: another process holds one of the locks for longer; or, from the
        function, a server has ended the session that held one.
    """
    end = time.monotonic() + timeout
    with contextlib.ExitStack() as stack:
        locks: dict[str, _ServerLock | _SqliteLock] = {}
        for name, engine in sorted(engines.items(), key=lambda item: str(item[1].url)):
            where = f"{name!r} ({redacted_url(engine.url)})"
            lock = stack.enter_context(_lock_of(engine))
            if lock is not None and not lock.take():
                on_wait(
                    f"Waiting for another process, which is migrating the database of the engine"
                    f" {where}."
                )
                while not lock.take():
                    if time.monotonic() >= end:
                        raise MigrationLocked(
                            "Another process has been migrating the database of the engine"
                            f" {where} for more than {timeout:g} s (--lock-timeout). Nothing was"
                            " done here. Wait until it is done and write the same command again."
                        )
                    time.sleep(min(_PERIOD, max(end - time.monotonic(), 0.001)))
            if lock is not None:
                locks[where] = lock

        def confirm() -> None:
            for where, lock in locks.items():
                if not lock.is_held():
                    raise MigrationLocked(
                        f"The lock on the database of the engine {where} was lost: the server has"
                        " ended the session that held it, so another process may be migrating now."
                        " Nothing more was run here. Write the same command again."
                    )

        yield confirm


@contextlib.contextmanager
def _lock_of(engine: Engine) -> Iterator[_ServerLock | _SqliteLock | None]:
    kind = "mysql" if engine.dialect.name == "mariadb" else engine.dialect.name
    if kind == "sqlite":
        path, _ = path_of(engine.url.database or "", is_uri="uri" in engine.url.query)
        if is_memory(engine.url) or not path:
            yield None
            return
        with contextlib.closing(_SqliteLock(str(Path(path).resolve()))) as lock:
            yield lock
    elif kind in _STATEMENTS:
        with _connected(engine) as connection:
            yield _ServerLock(connection, *_STATEMENTS[kind])
    else:
        warnings.warn(
            f"No lock is known for {kind!r}: make sure that only one process at a time"
            " migrates it.",
            ConfigNotice,
            stacklevel=2,
        )
        yield None


@contextlib.contextmanager
def _connected(engine: Engine) -> Iterator[Connection]:
    """A connection that may be dead at the end, which is no error."""
    # A snapshot that lasts as long as the transaction would be in the way of other sessions.
    with engine.connect().execution_options(isolation_level="READ COMMITTED") as connection:
        # From here on it is no connection of the pool, which may have a single one.
        connection.detach()
        driver: Any = connection.connection.dbapi_connection
        try:
            yield connection
        finally:
            with contextlib.suppress(SQLAlchemyError):
                connection.rollback()
            connection.invalidate()  # or SQLAlchemy would roll back, and log that it cannot
            with contextlib.suppress(Exception):
                driver.close()


# For each server: no timeout ends the session; the attempt; is it held, where it was taken?
# No parameters: with one, psycopg leaves a portal open, which keeps its snapshot.
_STATEMENTS = {
    "postgresql": (
        "SELECT count(set_config(name, '0', true)) FROM pg_settings WHERE name IN"
        " ('idle_in_transaction_session_timeout', 'transaction_timeout')",
        f"SELECT pg_try_advisory_xact_lock({_KEY:d})",
        "SELECT true",  # the transaction, and the lock with it, is there while its session is
    ),
    "mysql": (
        "SET SESSION wait_timeout = 86400",
        f"SELECT GET_LOCK({_NAME}, 0)",
        f"SELECT IS_USED_LOCK({_NAME}) = CONNECTION_ID()",
    ),
}


class _ServerLock:
    def __init__(self, connection: Connection, set_up: str, attempt: str, question: str) -> None:
        self._connection = connection
        self._attempt = attempt
        self._question = question
        connection.execute(text(set_up))

    def take(self) -> bool:
        return bool(self._connection.execute(text(self._attempt)).scalar())

    def is_held(self) -> bool:
        """Tell whether it is ours still; a server tells nothing by itself."""
        try:
            return bool(self._connection.execute(text(self._question)).scalar())
        except SQLAlchemyError:
            return False


class _SqliteLock:
    """Leaves its file: another process may be about to lock the file that is removed."""

    def __init__(self, path: str) -> None:
        self._file = f"{path}-migrate"
        self._connection: sqlite3.Connection | None = None

    def take(self) -> bool:
        """Take the lock; return False if another process has it.

        :raises MigrationError: the file cannot be created or locked.
        """
        try:
            if self._connection is None:
                self._connection = sqlite3.connect(self._file, timeout=0, isolation_level=None)
            self._connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                return False
            raise MigrationError(
                f"The lock {self._file!r} cannot be taken: {error}. This process must be allowed"
                " to write into the folder of the database."
            ) from error
        return True

    def is_held(self) -> bool:
        return True  # the kernel keeps it for this process

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
