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
import random
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from ..._sqlite.profile import is_memory, path_of
from ...errors import ConfigNotice, MigrationError, MigrationLocked
from ..connectivity import redacted_url
from ..results import OnWait

Confirm = Callable[[], None]

_KEY = int.from_bytes(hashlib.sha256(b"flask_uow.migrations").digest()[:8], "big", signed=True)
_PERIOD = 30.0  # seconds between two sentences about the wait
_random = random.SystemRandom()


class Lock(Protocol):
    """A lock that a process can try to take."""

    def take(self) -> bool: ...
    def release(self) -> None: ...

    def is_held(self) -> bool:
        """Tell whether it is ours still, after :meth:`take`; a server tells nothing by itself."""
        ...

    def holder(self) -> str:
        """The process that holds it, in words."""
        ...


@contextlib.contextmanager
def held(engines: Mapping[str, Engine], timeout: float, on_wait: OnWait) -> Iterator[Confirm]:
    """Hold the locks of all databases of *engines*.

    :param timeout: seconds, for all of them together.
    :param on_wait: is given a sentence now and then while the lock is waited for.
    :returns: a function to be called between two steps: it raises if a lock was lost.
    :raises MigrationLocked: another process holds one of the locks for longer; or, from the
        function, a server has ended the session that held one.
    """
    with contextlib.ExitStack() as stack:
        locks = {}
        for name, engine in sorted(engines.items(), key=lambda item: str(item[1].url)):
            lock = stack.enter_context(_lock_of(engine))
            if lock is not None:
                locks[f"{name!r} ({redacted_url(engine.url)})"] = lock
        _take(locks, timeout, on_wait)

        def confirm() -> None:
            for where, lock in locks.items():
                if not lock.is_held():
                    raise MigrationLocked(
                        f"The lock on the database of the engine {where} was lost: the server has"
                        " ended the session that held it, so another process may be migrating now."
                        " Nothing more was run here. Write the same command again."
                    )

        yield confirm


def _take(locks: Mapping[str, Lock], timeout: float, on_wait: OnWait) -> None:
    """Take all *locks*, or none of them.

    Holding one lock while waiting for the next could deadlock: processes cannot agree on an order,
    because one database may be configured under several URLs.

    :raises MigrationLocked: it took too long.
    """
    end, pause, next_word = time.monotonic() + timeout, 0.05, 0.0
    while True:
        taken: list[Lock] = []
        where = _missing(locks, taken)
        if where is None:
            return
        holder = locks[where].holder()
        for lock in taken:
            lock.release()
        now = time.monotonic()
        if now >= end:
            raise MigrationLocked(
                f"Another process has been migrating the database of the engine {where} for more"
                f" than {timeout:g} s (--lock-timeout): {holder} holds the lock. Nothing was done"
                " here. Wait until it is done and write the same command again."
            )
        if now >= next_word:
            next_word = now + _PERIOD
            on_wait(f"Waiting for {holder}, which is migrating the database of the engine {where}.")
        # Jitter, so that two processes do not keep colliding.
        time.sleep(min(pause * _random.uniform(0.6, 1.0), max(end - now, 0.001)))
        pause = min(2 * pause, 0.5)


def _missing(locks: Mapping[str, Lock], taken: list[Lock]) -> str | None:
    """Take the *locks* one after the other, up to one that another process holds."""
    for where, lock in locks.items():
        if not lock.take():
            return where
        taken.append(lock)
    return None


@contextlib.contextmanager
def _lock_of(engine: Engine) -> Iterator[Lock | None]:
    kind = _SERVERS.get(engine.dialect.name)
    if engine.dialect.name == "sqlite":
        path = None if is_memory(engine.url) else _file_of(engine)
        if path is None:
            yield None
            return
        with contextlib.closing(_SqliteLock(path)) as lock:
            yield lock
    elif kind is None:
        warnings.warn(
            f"No lock is known for {engine.dialect.name!r}: see to it that one process at a time"
            " migrates it.",
            ConfigNotice,
            stacklevel=2,
        )
        yield None
    else:
        with _connected(engine) as connection:
            yield kind(connection)


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


class _ServerLock:
    """What the locks of servers have in common."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def _scalar(self, statement: str, **values: object) -> object:
        return self._connection.execute(text(statement), values).scalar()

    def is_held(self) -> bool:
        try:
            return self._session() == self._own_session()
        except SQLAlchemyError:
            return False

    def holder(self) -> str:
        session = self._session()
        return "another process" if session is None else f"the server's session {session}"

    def _session(self) -> object:
        """The number of the session that holds the lock."""
        raise NotImplementedError

    def _own_session(self) -> object:
        raise NotImplementedError


class _PostgresqlLock(_ServerLock):
    def take(self) -> bool:
        if not self._scalar("SELECT pg_try_advisory_xact_lock(:key)", key=_KEY):
            self.release()
            return False
        self._scalar(
            "SELECT count(set_config(name, '0', true)) FROM pg_settings WHERE name IN"
            " ('idle_in_transaction_session_timeout', 'transaction_timeout')"
        )
        return True

    def release(self) -> None:
        self._connection.rollback()

    def holder(self) -> str:
        holder = super().holder()
        self.release()
        return holder

    def _own_session(self) -> object:
        return self._scalar("SELECT pg_backend_pid()")

    def _session(self) -> object:
        # The number is in the text: with a parameter, the driver leaves a portal open, which keeps
        # its snapshot, and 'CREATE INDEX CONCURRENTLY' would wait for it for ever.
        return self._scalar(
            "SELECT pid FROM pg_locks"  # noqa: S608
            " WHERE locktype = 'advisory' AND granted AND objsubid = 1"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            f" AND (classid::bigint << 32) | objid::bigint = {_KEY:d}"
        )


class _MysqlLock(_ServerLock):
    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        database = str(self._scalar("SELECT DATABASE()") or "")
        self._name = f"flask_uow.{hashlib.sha256(database.encode()).hexdigest()[:40]}"
        connection.execute(text("SET SESSION wait_timeout = 86400"))
        connection.commit()

    def take(self) -> bool:
        return bool(self._scalar("SELECT GET_LOCK(:name, 0)", name=self._name))

    def release(self) -> None:
        self._scalar("SELECT RELEASE_LOCK(:name)", name=self._name)

    def _own_session(self) -> object:
        return self._scalar("SELECT CONNECTION_ID()")

    def _session(self) -> object:
        return self._scalar("SELECT IS_USED_LOCK(:name)", name=self._name)

    def _scalar(self, statement: str, **values: object) -> object:
        value = super()._scalar(statement, **values)
        self._connection.commit()  # the lock is the session's, and needs no transaction
        return value


class _SqliteLock:
    """Leaves its file: another process may be about to lock the file that is removed."""

    def __init__(self, path: str) -> None:
        self._file = f"{path}-migrate"
        self._connection: sqlite3.Connection | None = None

    def take(self) -> bool:
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

    def release(self) -> None:
        if self._connection is not None:
            self._connection.rollback()

    def is_held(self) -> bool:
        return True  # the kernel keeps it for this process

    def holder(self) -> str:
        return "another process"

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


_SERVERS: dict[str, Callable[[Connection], Lock]] = {
    "postgresql": _PostgresqlLock,
    "mysql": _MysqlLock,
    "mariadb": _MysqlLock,
}


def _file_of(engine: Engine) -> str | None:
    path, _ = path_of(engine.url.database or "", is_uri="uri" in engine.url.query)
    return str(Path(path).resolve()) if path else None
