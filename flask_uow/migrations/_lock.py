"""One who migrates a database at a time: a lock in the database itself, or beside its file.

=====================  =======================================================================
PostgreSQL             an advisory lock of a transaction that does nothing else, so that it is
                       kept behind PgBouncer, too, and goes when the process goes
MySQL, MariaDB         ``GET_LOCK``, with the name of the database in its name
SQLite                 ``BEGIN EXCLUSIVE`` on an empty file beside the database (``-migrate``)
SQLite in memory       none: the database belongs to this process
others                 none, and a notice
=====================  =======================================================================

Who waits asks again and again. A statement that waits would hold a snapshot, and PostgreSQL's
``CREATE INDEX CONCURRENTLY`` would wait for it in turn, for ever.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, text

from .._sqlite import is_memory, path_of
from ..errors import ConfigNotice, MigrationError, MigrationLocked
from ._reach import address

Tell = Callable[[str], object]

_KEY = int.from_bytes(hashlib.sha256(b"flask_uow.migrations").digest()[:8], "big", signed=True)
_PERIOD = 30.0  # seconds until one says again that one waits


class Lock(Protocol):
    """A lock that one can try to take.

    :ivar own: what :meth:`holder` returns if it is this process.
    """

    own: Any

    def take(self) -> bool: ...
    def holder(self) -> object: ...


@contextlib.contextmanager
def held(engines: Mapping[str, Engine], timeout: float, tell: Tell) -> Iterator[None]:
    """Hold the locks of all databases of *engines*, each of them once.

    Everybody takes them in the same order, so nobody waits for one while he holds another that
    somebody waits for.

    :param timeout: seconds, for all of them together.
    :param tell: is given a sentence now and then while one waits.
    :raises MigrationLocked: somebody else holds one of them for longer.
    """
    end = time.monotonic() + timeout
    with contextlib.ExitStack() as stack:
        owned: set[object] = set()
        for name, engine in sorted(engines.items(), key=lambda item: str(item[1].url)):
            lock = stack.enter_context(_lock_of(engine))
            if lock is not None and lock.own not in owned:
                _wait(lock, f"{name!r} ({address(engine.url)})", owned, timeout, end, tell)
                owned.add(lock.own)
        yield


def _wait(  # noqa: PLR0917  # one caller
    lock: Lock,
    engine: str,
    owned: set[object],
    timeout: float,
    end: float,
    tell: Tell,
) -> None:
    pause, next_word = 0.05, 0.0
    while not lock.take():
        holder = lock.holder()
        if holder is not None and holder in owned:
            return  # two engines, one database
        who = "another process" if holder is None else f"the server's session {holder}"
        now = time.monotonic()
        if now >= end:
            raise MigrationLocked(
                f"Somebody else is migrating the database of the engine {engine} for longer than"
                f" {timeout:g} s (--lock-timeout): {who} holds the lock. Nothing was done here."
                " Wait until it is through and write the same command again."
            )
        if now >= next_word:
            tell(f"Waiting for {who}, which is migrating the database of the engine {engine} ...")
            next_word = now + _PERIOD
        time.sleep(min(pause, max(end - now, 0.001)))
        pause = min(2 * pause, 0.5)


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
        # A snapshot that lasts as long as the transaction would be in the way of others.
        level = "READ COMMITTED"
        with engine.connect().execution_options(isolation_level=level) as connection:
            # From here on it is no connection of the pool, which may have a single one.
            connection.detach()
            yield kind(connection)


class _PostgresqlLock:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.own = self._scalar("SELECT pg_backend_pid()")

    def take(self) -> bool:
        taken = self._scalar("SELECT pg_try_advisory_xact_lock(:key)", key=_KEY)
        if not taken:
            self._connection.rollback()
            return False
        self._connection.execute(
            text(
                "SELECT set_config(name, '0', true) FROM pg_settings WHERE name IN"
                " ('idle_in_transaction_session_timeout', 'transaction_timeout')"
            )
        )
        return True

    def holder(self) -> object:
        found = self._scalar(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND (classid::bigint << 32) | objid::bigint = :key",
            key=_KEY,
        )
        self._connection.rollback()
        return found

    def _scalar(self, statement: str, **values: object) -> Any:
        return self._connection.execute(text(statement), values).scalar()


class _MysqlLock:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        database = self._scalar("SELECT DATABASE()") or ""
        self._name = f"flask_uow.{hashlib.sha256(database.encode()).hexdigest()[:40]}"
        self.own = self._scalar("SELECT CONNECTION_ID()")
        connection.execute(text("SET SESSION wait_timeout = 86400"))
        connection.commit()

    def take(self) -> bool:
        taken = self._scalar("SELECT GET_LOCK(:name, 0)", name=self._name)
        self._connection.commit()
        return bool(taken)

    def holder(self) -> object:
        return self._scalar("SELECT IS_USED_LOCK(:name)", name=self._name)

    def _scalar(self, statement: str, **values: object) -> Any:
        return self._connection.execute(text(statement), values).scalar()


class _SqliteLock:
    """The file stays: who removes it takes it from somebody who is just about to lock it."""

    def __init__(self, path: str) -> None:
        self.own = path
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

    def holder(self) -> object:
        return None

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
