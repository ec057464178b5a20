"""The timeouts of each driver, and what they are for: a network that goes silent."""

from __future__ import annotations

import io
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy import Engine, NullPool, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError

from flask_uow._config.settings import PoolSettings
from flask_uow._drivers import base
from flask_uow._drivers.known import driver_of
from flask_uow._drivers.mysql import PyMySQL
from flask_uow._engine import greenlets
from flask_uow.errors import ConfigNotice
from tests.support.databases import TestDatabase, on
from tests.support.partition import needs_partition, partition
from tests.support.pools import make_engine
from tests.support.proxy import FaultProxy

LIBPQ = {
    "connect_timeout": 4,
    "keepalives": 1,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 2,
    "tcp_user_timeout": 4000,
}
DRIVERS = {"postgresql": ["psycopg", "psycopg2"], "mariadb": ["pymysql"]}
if find_spec("MySQLdb"):
    DRIVERS["mariadb"].append("mysqldb")
HASTY = PoolSettings(network_timeout=1)
PATIENCE = 4  # seconds; libpq takes connect_timeout=1 for 2

servers = on("postgresql", "mariadb")


def timeouts(url: str, seconds: float = 4, **given: Any) -> dict[str, Any]:
    parsed = make_url(url)
    return driver_of(parsed.get_dialect()()).timeouts({**parsed.query, **given}, seconds)


@pytest.fixture
def proxy(database: TestDatabase) -> Iterator[FaultProxy]:
    with FaultProxy.of(database.url) as proxy:
        yield proxy


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql+psycopg://h/d", LIBPQ),
        ("postgresql+psycopg2://h/d", LIBPQ),
        ("mysql+pymysql://h/d", {"connect_timeout": 4, "read_timeout": 4}),
        ("mariadb+mysqldb://h/d", {"connect_timeout": 4}),
        ("postgresql+pg8000://h/d", {}),
        ("sqlite:///a.db", {}),
    ],
)
def test_a_known_driver_gets_timeouts(url: str, expected: dict[str, Any]) -> None:
    """Each in the driver's own words; another driver is left alone."""
    assert timeouts(url) == expected


def test_what_the_user_has_set_stays() -> None:
    """In the query of the URL as in ``connect_args``; the rest is filled in all the same."""
    found = timeouts("postgresql+psycopg://h/d?connect_timeout=9", keepalives_idle=60)
    assert found == {
        name: value
        for name, value in LIBPQ.items()
        if name not in {"connect_timeout", "keepalives_idle"}
    }
    assert timeouts("mysql+pymysql://h/d", read_timeout=60) == {"connect_timeout": 4}


def test_the_greeting_of_pymysql_may_take_the_users_own_connect_timeout() -> None:
    """It bounds the greeting as well, which the driver itself leaves without a bound."""
    assert timeouts("mysql+pymysql://h/d?connect_timeout=9") == {"read_timeout": 9}


def test_a_fraction_is_rounded_up() -> None:
    """The drivers count in whole seconds, and 0 would mean for ever."""
    assert timeouts("postgresql+psycopg://h/d", 0.3)["connect_timeout"] == 1
    assert timeouts("postgresql+psycopg://h/d", 0.3)["keepalives_idle"] == 1
    assert timeouts("mysql+pymysql://h/d", 0) == {"connect_timeout": 1, "read_timeout": 1}


def test_the_environment_of_libpq_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """PGCONNECT_TIMEOUT would be overridden by an argument."""
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "20")
    assert "connect_timeout" not in timeouts("postgresql+psycopg://h/d")


@pytest.mark.parametrize("given", [{"service": "s"}, {"conninfo": "host=h"}, {"dsn": "host=h"}])
def test_what_is_written_elsewhere_is_not_overridden(given: dict[str, Any]) -> None:
    """A service file and a connection string have places for timeouts; they were the user's."""
    assert timeouts("postgresql+psycopg2://h/d", **given) == {}


def test_a_service_of_the_environment_is_not_overridden(monkeypatch: pytest.MonkeyPatch) -> None:
    """PGSERVICE is another way to name a service."""
    monkeypatch.setenv("PGSERVICE", "s")
    assert timeouts("postgresql+psycopg://h/d") == {}


def test_no_network_timeout_leaves_everything_to_the_driver() -> None:
    """``None`` adds nothing."""
    engine = make_engine("postgresql+psycopg://h/d", PoolSettings(network_timeout=None))
    assert "connect_timeout" not in engine.dialect.create_connect_args(engine.url)[1]


@pytest.mark.slow
@servers
def test_the_options_arrive_at_the_socket(database: TestDatabase, proxy: FaultProxy) -> None:
    """The kernel knows them, whether the driver has arguments for them or not."""
    for driver in DRIVERS[database.name]:
        engine = make_engine(proxy.url_for(database.url, driver=driver))
        with engine.connect() as connection:
            with sock(connection) as found:  # closed before the driver reads again
                tcp = {
                    name: found.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
                    for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
                    if hasattr(socket, name)
                }
                assert list(tcp.values()) == [2, 1, 2, 4000][: len(tcp)], driver
                assert found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), driver
            assert connection.execute(text("SELECT 1")).scalar_one() == 1
        engine.dispose()


@servers
def test_the_longest_network_timeout_is_accepted_by_the_drivers(database: TestDatabase) -> None:
    """The limit of ``UOW_NETWORK_TIMEOUT`` is what the drivers accept."""
    for driver in DRIVERS[database.name]:
        url = make_url(database.url).set(drivername=f"{database.name}+{driver}")
        longest = PoolSettings(network_timeout=32_767)
        engine = make_engine(url.render_as_string(hide_password=False), longest)
        with engine.connect() as connection:
            assert connection.execute(text("SELECT 1")).scalar_one() == 1
        engine.dispose()


def sock(connection: Any) -> Any:
    descriptor = driver_of(connection.dialect).descriptor_of(connection.connection.dbapi_connection)
    assert descriptor is not None
    return socket.socket(fileno=os.dup(descriptor()))


@servers
def test_a_driver_with_a_socket_file_works(database: TestDatabase) -> None:
    """There is no TCP to be set."""
    engine = make_engine(database.url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1


@on("mariadb")
def test_a_long_statement_is_not_ended(database: TestDatabase, proxy: FaultProxy) -> None:
    """The server acknowledges; how long it takes is its own affair."""
    for driver in DRIVERS[database.name]:
        engine = make_engine(proxy.url_for(database.url, driver=driver), HASTY)
        with engine.connect() as connection:
            connection.execute(text("SELECT sleep(1.5)"))


@on("mariadb")
def test_the_users_own_read_timeout_stays(database: TestDatabase, proxy: FaultProxy) -> None:
    """It ends a statement, as it was asked to."""
    url = proxy.url_for(database.url, driver="pymysql")
    engine = make_engine(url, connect_args={"read_timeout": 0.3})
    with engine.connect() as connection, pytest.raises(OperationalError, match="timed out"):
        connection.execute(text("SELECT sleep(5)"))


@pytest.mark.slow
@servers
def test_a_server_that_never_answers_is_an_error_within_seconds(database: TestDatabase) -> None:
    """It accepts the connection and says nothing, as one that was stopped does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def connect(driver: str) -> float:
            url = make_url(database.url).set(
                drivername=f"{database.name}+{driver}", host="127.0.0.1", port=port, query={}
            )
            engine = make_engine(url.render_as_string(hide_password=False), HASTY)
            return seconds_until_error(engine.connect)

        took = all_at_once([(connect, driver) for driver in DRIVERS[database.name]])
    assert max(took) < PATIENCE


@pytest.mark.slow
@needs_partition
@servers
def test_a_partition_is_an_error_within_seconds(database: TestDatabase, proxy: FaultProxy) -> None:
    """For who sends a statement into it, and for who waits for an answer when it begins.

    Without timeouts the first takes a quarter of an hour, the second two hours.
    """
    sleep = {"postgresql": "SELECT pg_sleep(30)", "mariadb": "SELECT sleep(30)"}[database.name]
    engines = [
        make_engine(proxy.url_for(database.url, driver=driver), HASTY)
        for driver in DRIVERS[database.name]
    ]
    sending = [engine.connect() for engine in engines]
    waiting = [engine.connect() for engine in engines]
    jobs: list[Any] = [(run, connection, sleep) for connection in waiting]
    with ThreadPoolExecutor(len(jobs)) as pool:
        started = [pool.submit(*job) for job in jobs]
        time.sleep(0.3)
        partition(proxy)
        took = all_at_once([(run, connection, "SELECT 1") for connection in sending])
        took += [job.result(timeout=30) for job in started]
    assert max(took) < PATIENCE + 0.3, took
    for connection in sending + waiting:
        assert connection.invalidated
        connection.close()
    proxy.drop()


def run(connection: Any, statement: str) -> float:
    return seconds_until_error(lambda: connection.execute(text(statement)))


def seconds_until_error(work: Callable[[], object]) -> float:
    started = time.monotonic()
    with pytest.raises(DBAPIError):
        work()
    return time.monotonic() - started


def all_at_once(jobs: list[Any]) -> list[float]:
    with ThreadPoolExecutor(len(jobs)) as pool:
        return [one.result(timeout=60) for one in [pool.submit(*job) for job in jobs]]


def test_a_driver_that_shows_no_socket_has_no_descriptor() -> None:
    """An object without ``fileno()`` and without PyMySQL's socket."""
    assert base.Driver().descriptor_of(object()) is None
    assert PyMySQL().descriptor_of(object()) is None


def test_a_driver_whose_socket_has_no_number_has_no_descriptor() -> None:
    """pg8000 has the method of a file, which says that it is none."""
    assert base.Driver().descriptor_of(io.BytesIO()) is None


def test_a_socket_gets_its_options_and_stays_as_it_is() -> None:
    """A default timeout makes Python switch a socket to non-blocking; the driver's stays."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(1)
    try:
        base.set_tcp_options(one.fileno(), 4)
    finally:
        socket.setdefaulttimeout(previous)
    assert one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert os.get_blocking(one.fileno())
    one.sendall(b"still open")
    assert other.recv(100) == b"still open"
    one.close()
    other.close()


# Greenlets; tests/faults/test_blocking_drivers.py has real ones ------------------------------


def patched_by(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process look as if *library* had patched it."""

    def is_patched(module: str) -> bool:
        return module == "socket"

    names = {"gevent": ("gevent.monkey", "is_module_patched")}
    module, name = names.get(library, ("eventlet.patcher", "is_monkey_patched"))
    monkeypatch.setitem(sys.modules, module, cast(Any, SimpleNamespace(**{name: is_patched})))


def engine_of(driver: str, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine whose driver has that name; what it talks to is SQLite."""
    engine = create_engine("sqlite://", poolclass=NullPool)
    monkeypatch.setattr(engine.dialect, "driver", driver)
    greenlets.warn_of_blocking(engine)
    return engine


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
@pytest.mark.parametrize("driver", ["mysqldb", "mariadbconnector"])
def test_drivers_of_mariadb_in_c_are_warned_of_once(
    library: str, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before the process is patched, which a server may do after it has imported the app."""
    engine = engine_of(driver, monkeypatch)
    engine.connect().close()
    patched_by(library, monkeypatch)
    with pytest.warns(ConfigNotice, match=f"^{library} has patched .* Use 'mysql\\+pymysql://'"):
        engine.connect().close()
    engine.connect().close()


def test_psycopg_does_not_know_eventlet(monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks for gevent only when it chooses how to wait; there is one thing to be done."""
    waiting = SimpleNamespace(wait_c=len, wait=len)
    monkeypatch.setitem(sys.modules, "psycopg.waiting", cast(Any, waiting))
    patched_by("eventlet", monkeypatch)
    with pytest.warns(ConfigNotice, match="PSYCOPG_WAIT_FUNC=wait_select.$"):
        engine_of("psycopg", monkeypatch).connect().close()
    waiting.wait = max
    engine_of("psycopg", monkeypatch).connect().close()


def test_psycopg2_needs_a_wait_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one of psycogreen for that library, or of eventlet itself."""
    callbacks: list[object] = [None, print]
    extensions = SimpleNamespace(get_wait_callback=lambda: callbacks[0])
    monkeypatch.setitem(sys.modules, "psycopg2.extensions", cast(Any, extensions))
    patched_by("eventlet", monkeypatch)
    with pytest.warns(ConfigNotice, match=r"psycogreen\.eventlet\.patch_psycopg\(\)"):
        engine_of("psycopg2", monkeypatch).connect().close()
    del callbacks[0]
    engine_of("psycopg2", monkeypatch).connect().close()


@pytest.mark.parametrize("driver", ["pymysql", "pysqlite", "pg8000"])
def test_other_drivers_are_not_warned_of(driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those wait in Python, or are not known here."""
    patched_by("gevent", monkeypatch)
    engine_of(driver, monkeypatch).connect().close()
