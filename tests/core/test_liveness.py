"""The check of idle connections: what is looked at, when it asks the server, what it replaces."""

from __future__ import annotations

import gc
import logging
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.pool import QueuePool

from flask_uow._config.settings import PoolSettings
from flask_uow._engine import liveness


class Connection(sqlite3.Connection):
    """A connection with a socket, whose other end belongs to the test."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.socket, self.server = socket.socketpair()
        self.server.setblocking(False)

    closed = False

    def fileno(self) -> int:
        if self.closed:
            raise sqlite3.OperationalError("the connection is closed")
        return self.socket.fileno()

    def close(self) -> None:
        super().close()
        self.socket.close()
        self.server.close()


class Pool:
    """An engine on such connections.

    :ivar opened: all connections so far.
    :ivar pings: how often the server was asked.
    """

    def __init__(self, factory: type[sqlite3.Connection] = Connection, **options: Any) -> None:
        self.opened: list[Any] = []
        self.pings = 0
        self.ping_fails = False

        def connect() -> sqlite3.Connection:
            found = sqlite3.connect(":memory:", factory=factory, check_same_thread=False)
            self.opened.append(found)
            return found

        self.engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool)
        self.engine.dialect.do_ping = self._ping  # type: ignore[assignment,method-assign]
        liveness.replace_dead_connections(self.engine, {}, PoolSettings(**options))

    def _ping(self, _connection: object) -> bool:
        self.pings += 1
        if self.ping_fails:
            raise sqlite3.OperationalError("gone")
        return True

    def use(self, together: int = 1) -> list[Any]:
        """Check out so many connections at once, and give them back; the driver's objects."""
        lent = [self.engine.connect() for _ in range(together)]
        found = [connection.connection.dbapi_connection for connection in lent]
        for connection in lent:
            connection.close()
        return found


@pytest.fixture
def make_pool() -> Iterator[Callable[..., Pool]]:
    pools: list[Pool] = []

    def make(*args: Any, **options: Any) -> Pool:
        pools.append(Pool(*args, **options))
        return pools[-1]

    yield make
    for pool in pools:
        pool.engine.dispose()


@pytest.fixture(autouse=True, scope="module")
def _collected() -> Iterator[None]:
    """The warning of a socket that was not closed is raised here, not in another module."""
    yield
    gc.collect()


@pytest.fixture
def pool(make_pool: Callable[..., Pool]) -> Pool:
    return make_pool()


def test_a_silent_connection_is_used_again(pool: Pool) -> None:
    """Nothing is sent, nothing is read, nobody is asked."""
    (first,) = pool.use()
    for _ in range(5):
        assert pool.use() == [first]
    assert pool.pings == 0
    with pytest.raises(BlockingIOError):
        first.server.recv(1)


@pytest.mark.parametrize(
    "die",
    [
        lambda connection: connection.server.close(),
        lambda connection: connection.server.send(b"FATAL: shutting down"),
        lambda connection: connection.socket.close(),
        lambda connection: setattr(connection, "closed", True),
    ],
    ids=["hung-up", "last-word", "closed-socket", "closed-by-the-driver"],
)
def test_a_dead_connection_is_replaced(pool: Pool, die: Callable[[Any], None]) -> None:
    """The server hung up or said something, or the driver has closed it."""
    (first,) = pool.use()
    die(first)
    (second,) = pool.use()
    assert second is not first
    assert pool.use() == [second]


def test_a_socket_of_the_same_number_is_not_taken_for_the_old_one(pool: Pool) -> None:
    """The kernel gives the number of a closed socket to the next one."""
    (first,) = pool.use()
    number, silent = first.fileno(), socket.socketpair()
    first.socket.close()
    os.dup2(silent[0].fileno(), number)
    assert pool.use() != [first]
    os.close(number)
    for one in silent:
        one.close()


def test_all_dead_connections_are_replaced(pool: Pool) -> None:
    """However many there are: each checkout meets one at most, and replaces it."""
    dead = pool.use(together=5)
    for connection in dead:
        connection.server.close()
    found = pool.use(together=5)
    assert not set(found) & set(dead)
    assert set(pool.use(together=5)) == set(found)


def test_a_new_connection_is_not_checked(make_pool: Callable[..., Pool]) -> None:
    """A server that talks first would have its connection replaced for ever."""

    class Talkative(Connection):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.server.send(b"hello")

    pool = make_pool(Talkative)
    for number in range(1, 4):
        pool.use()
        assert len(pool.opened) == number


def test_a_long_idle_connection_is_pinged(make_pool: Callable[..., Pool]) -> None:
    """A router may have forgotten it, and its socket does not know; one that answers stays."""
    pool = make_pool(ping_idle=0)
    (first,) = pool.use()
    assert pool.pings == 0
    assert pool.use() == [first]
    assert pool.pings == 1
    pool.ping_fails = True
    assert pool.use() != [first]


def test_one_loss_makes_the_others_suspect(pool: Pool) -> None:
    """They are pinged once each; those that answer stay, and are trusted again."""
    connections = pool.use(together=3)
    connections[0].server.close()
    found = pool.use(together=3)
    assert pool.pings == 2
    assert set(connections[1:]) < set(found)
    pool.use(together=3)
    assert pool.pings == 2


def test_a_driver_without_a_socket_is_pinged(
    make_pool: Callable[..., Pool], caplog: pytest.LogCaptureFixture
) -> None:
    """Before each use but the first; the log says so once."""
    with caplog.at_level(logging.INFO, "flask_uow"):
        pool = make_pool(sqlite3.Connection)
        first, _ = pool.use(together=2)
        assert pool.pings == 0
        assert first in pool.use(together=2)
    assert pool.pings == 2
    assert [record.getMessage()[:45] for record in caplog.records] == [
        "The driver 'pysqlite' does not show its socke"
    ]


def test_a_lifetime_that_is_over_replaces_the_connection(make_pool: Callable[..., Pool]) -> None:
    """And is no reason to suspect the others."""
    pool = make_pool(recycle=0)
    first, second = pool.use(together=2)
    assert not {first, second} & set(pool.use(together=2))
    assert pool.pings == 0


def test_no_lifetime_is_for_ever(make_pool: Callable[..., Pool]) -> None:
    """``None`` does not end."""
    pool = make_pool(recycle=None)
    (first,) = pool.use()
    assert pool.use() == [first]


def test_lifetimes_end_at_different_times(make_pool: Callable[..., Pool]) -> None:
    """Up to a tenth before the given one, at random: they do not all reconnect at once."""
    pool = make_pool(recycle=1000)
    now = time.monotonic()
    lent = [pool.engine.connect() for _ in range(15)]
    ends = [one.connection.info["flask_uow.life"].expires - now for one in lent]
    for one in lent:
        one.close()
    assert 890 < min(ends) < max(ends) < 1001
    assert max(ends) - min(ends) > 20
    assert len(set(map(int, ends))) > 5


def test_an_info_that_was_cleared_is_no_error(pool: Pool) -> None:
    """It is everybody's place, and somebody may wipe it."""
    with pool.engine.connect() as connection:
        connection.info.clear()
        first = connection.connection.dbapi_connection
    assert pool.use() == [first]


@pytest.mark.slow
@pytest.mark.parametrize("first", ["patch", "import"])
def test_the_look_does_not_let_another_greenlet_run(first: str) -> None:
    """Whether gevent has patched before or after the import: it neither waits nor switches."""
    program = f"""
def patch():
    from gevent import monkey
    monkey.patch_all()

{"patch()" if first == "patch" else ""}
from tests.core.test_liveness import Pool
{"patch()" if first == "import" else ""}
import gevent

pool = Pool()
ran = []
connections = pool.use(together=2)
greenlet = gevent.spawn(ran.append, "the other one")
for _ in range(10):
    pool.use(together=2)
connections[0].server.close()
pool.use(together=2)
assert not ran, ran
assert len(pool.opened) == 3
gevent.sleep(0)
assert ran
pool.engine.dispose()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
