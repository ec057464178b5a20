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

The numbers of sessions are those of one server. So whoever has a lock has a second one beside it,
whose name is a random number: by that one he knows his own lock, and that he still has it.
"""

from __future__ import annotations

import abc
import contextlib
import hashlib
import random
import secrets
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from ..._sqlite.profile import is_memory, path_of
from ...errors import ConfigNotice, MigrationError, MigrationLocked
from ..connectivity import address

Tell = Callable[[str], object]
Confirm = Callable[[], None]

_KEY = int.from_bytes(hashlib.sha256(b"flask_uow.migrations").digest()[:8], "big", signed=True)
_PERIOD = 30.0  # seconds until one says again that one waits
_random = random.SystemRandom()


class Lock(Protocol):
    """A lock that one can try to take."""

    def take(self) -> bool: ...
    def release(self) -> None: ...

    def still_held(self) -> bool:
        """Is it ours, after :meth:`take`? Who loses it is not told."""
        ...

    def is_same(self, other: Any) -> bool:
        """Is this the same lock as *other*, which we hold?"""
        ...

    def holder(self) -> object:
        """The number of the session that holds it; None if nobody knows."""
        ...


@dataclass(frozen=True)
class _Place:
    """A lock, and which engine it is for, in words."""

    engine: str
    lock: Lock


@contextlib.contextmanager
def held(engines: Mapping[str, Engine], timeout: float, tell: Tell) -> Iterator[Confirm]:
    """Hold the locks of all databases of *engines*, each of them once.

    What it yields is to be called before each step: it raises if one of the locks was lost.

    :param timeout: seconds, for all of them together.
    :param tell: is given a sentence now and then while one waits.
    :raises MigrationLocked: somebody else holds one of them for longer; or, from what it yields,
        a server has ended the session that held one.
    """
    with contextlib.ExitStack() as stack:
        places = []
        for name, engine in sorted(engines.items(), key=lambda item: str(item[1].url)):
            lock = stack.enter_context(_lock_of(engine))
            if lock is not None:
                places.append(_Place(f"{name!r} ({address(engine.url)})", lock))
        taken = _Wait(timeout, tell).take(places)

        def confirm() -> None:
            for place in taken:
                if not place.lock.still_held():
                    raise MigrationLocked(
                        f"The lock on the database of the engine {place.engine} was lost: the"
                        " server has ended the session that held it, so somebody else may be"
                        " migrating now. Nothing more was run here. Write the same command again."
                    )

        yield confirm


class _Wait:
    """All locks, or none of them.

    Whoever kept one while he waits for another might wait for somebody who waits for him: no order
    is the same for all, because a database may have several names.
    """

    def __init__(self, timeout: float, tell: Tell) -> None:
        self._timeout = timeout
        self._end = time.monotonic() + timeout
        self._tell = tell
        self._next_word = 0.0

    def take(self, places: Sequence[_Place]) -> list[_Place]:
        """
        :return: those that were taken; the others are the same locks.
        :raises MigrationLocked: it took too long.
        """
        pause = 0.05
        while True:
            taken: list[_Place] = []
            missing = self._missing(places, taken)
            if missing is None:
                return taken
            holder = missing.lock.holder()
            for place in taken:
                place.lock.release()
            self._say(missing, holder)
            left = self._end - time.monotonic()
            # At random: of two who are in each other's way one comes first at last.
            time.sleep(min(pause * _random.uniform(0.6, 1.0), max(left, 0.001)))
            pause = min(2 * pause, 0.5)

    def _missing(self, places: Sequence[_Place], taken: list[_Place]) -> _Place | None:
        for place in places:
            if place.lock.take():
                taken.append(place)
            elif not any(place.lock.is_same(other.lock) for other in taken):
                return place  # else two engines are one database
        return None

    def _say(self, place: _Place, holder: object) -> None:
        who = "another process" if holder is None else f"the server's session {holder}"
        now = time.monotonic()
        if now >= self._end:
            raise MigrationLocked(
                f"Somebody else is migrating the database of the engine {place.engine} for longer"
                f" than {self._timeout:g} s (--lock-timeout): {who} holds the lock. Nothing was"
                " done here. Wait until it is through and write the same command again."
            )
        if now >= self._next_word:
            self._tell(
                f"Waiting for {who}, which is migrating the database of the engine"
                f" {place.engine} ..."
            )
            self._next_word = now + _PERIOD


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
    """A connection that may be dead at the end, which nobody needs to be told of."""
    # A snapshot that lasts as long as the transaction would be in the way of others.
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


class _ServerLock(abc.ABC):
    """What the locks of servers have in common."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def _scalar(self, statement: str, **values: object) -> Any:
        return self._connection.execute(text(statement), values).scalar()

    def still_held(self) -> bool:
        try:
            return self._is_held()
        except SQLAlchemyError:
            return False

    @abc.abstractmethod
    def _is_held(self) -> bool:
        """Ask the server, which may not answer any more."""


class _PostgresqlLock(_ServerLock):
    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.token = secrets.randbits(63)

    def take(self) -> bool:
        if not self._scalar("SELECT pg_try_advisory_xact_lock(:key)", key=_KEY):
            self.release()
            return False
        self._scalar("SELECT pg_try_advisory_xact_lock(:key)", key=self.token)
        self._connection.execute(
            text(
                "SELECT set_config(name, '0', true) FROM pg_settings WHERE name IN"
                " ('idle_in_transaction_session_timeout', 'transaction_timeout')"
            )
        )
        return True

    def release(self) -> None:
        self._connection.rollback()

    def _is_held(self) -> bool:
        return self._session_with(self.token) is not None

    def is_same(self, other: Any) -> bool:
        if not isinstance(other, _PostgresqlLock):
            return False
        found = self._session_with(_KEY), self._session_with(other.token)
        self.release()
        return None not in found and found[0] == found[1]

    def holder(self) -> object:
        found = self._session_with(_KEY)
        self.release()
        return found

    def _session_with(self, key: int) -> Any:
        # The number is in the text: with a parameter, the driver leaves a portal open, which keeps
        # its snapshot, and 'CREATE INDEX CONCURRENTLY' would wait for it for ever.
        return self._scalar(
            "SELECT pid FROM pg_locks"  # noqa: S608
            " WHERE locktype = 'advisory' AND granted AND objsubid = 1"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            f" AND (classid::bigint << 32) | objid::bigint = {key:d}"
        )


class _MysqlLock(_ServerLock):
    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        database = self._scalar("SELECT DATABASE()") or ""
        self._name = f"flask_uow.{hashlib.sha256(database.encode()).hexdigest()[:40]}"
        self.token = f"flask_uow.{secrets.token_hex(16)}"
        connection.execute(text("SET SESSION wait_timeout = 86400"))
        connection.commit()

    def take(self) -> bool:
        taken = self._scalar("SELECT GET_LOCK(:name, 0)", name=self._name)
        if taken:
            self._scalar("SELECT GET_LOCK(:name, 0)", name=self.token)
        self._connection.commit()
        return bool(taken)

    def release(self) -> None:
        for name in (self._name, self.token):
            self._scalar("SELECT RELEASE_LOCK(:name)", name=name)
        self._connection.commit()

    def _is_held(self) -> bool:
        found = self._session_with(self._name), self._session_with(self.token)
        self._connection.commit()
        return None not in found and found[0] == found[1]

    def is_same(self, other: Any) -> bool:
        if not isinstance(other, _MysqlLock):
            return False
        found = self._session_with(self._name), self._session_with(other.token)
        return None not in found and found[0] == found[1]

    def holder(self) -> object:
        return self._session_with(self._name)

    def _session_with(self, name: str) -> Any:
        return self._scalar("SELECT IS_USED_LOCK(:name)", name=name)


class _SqliteLock:
    """The file stays: who removes it takes it from somebody who is just about to lock it."""

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

    def still_held(self) -> bool:
        return True  # the kernel keeps it for this process

    def is_same(self, other: Any) -> bool:
        return isinstance(other, _SqliteLock) and other._file == self._file

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
