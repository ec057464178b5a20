"""P13: a connection that died while it was idle is replaced before use, without a round trip."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from flask_uow import Database
from tests.conftest import MakeApp
from tests.support.databases import TestDatabase
from tests.support.faults import kill_backend
from tests.support.models import Post
from tests.support.pools import make_engine
from tests.support.proxy import FaultProxy
from tests.support.threads import in_threads
from tests.support.witness import Witness

SIZE = 3
DRIVERS = [("postgresql", "psycopg"), ("postgresql", "psycopg2"), ("mariadb", "pymysql")]
if find_spec("MySQLdb"):
    DRIVERS.append(("mariadb", "mysqldb"))

every_driver = pytest.mark.parametrize(("database", "driver"), DRIVERS, indirect=["database"])

_OWN_ID = {"postgresql": "SELECT pg_backend_pid()", "mariadb": "SELECT connection_id()"}


class Site:
    """An app that is served by way of a proxy, and has a pool of connections.

    :ivar used: the server's number of the connection of each request so far.
    """

    def __init__(self, app: Flask, db: Database, proxy: FaultProxy, witness: Witness) -> None:
        self.app, self.db, self.proxy, self.witness = app, db, proxy, witness
        self.used: list[int] = []
        self.pings = 0
        self._together: threading.Barrier | None = None
        app.post("/<name>")(self._store)
        with app.app_context():
            self.engine = db.engine
        original = self.engine.dialect.do_ping

        def do_ping(connection: Any) -> bool:
            self.pings += 1
            return original(connection)

        self.engine.dialect.do_ping = do_ping  # type: ignore[assignment,method-assign]

    def _store(self, name: str) -> str:
        self.used.append(self.db.session.scalars(text(_OWN_ID[self.engine.dialect.name])).one())
        if self._together is not None:
            self._together.wait(timeout=30)
        self.db.session.add(Post(title=name))
        return "stored"

    def post(self, name: str) -> int:
        return self.app.test_client().post(f"/{name}").status_code

    def fill(self, name: str) -> set[int]:
        """Answer as many requests at once as the pool has connections; which ones they used."""
        before = len(self.used)
        self._together = threading.Barrier(SIZE)
        names = iter([f"{name}-{number}" for number in range(SIZE)])
        assert in_threads(lambda: self.post(next(names)), times=SIZE) == [200] * SIZE
        self._together = None
        assert len(set(self.used[before:])) == SIZE
        return set(self.used[before:])


@pytest.fixture
def config() -> dict[str, Any]:
    """Of the app; a test may bring its own."""
    return {}


@pytest.fixture
def options() -> dict[str, Any]:
    """Of the engine; a test may bring its own."""
    return {}


@pytest.fixture
def proxy(database: TestDatabase) -> Iterator[FaultProxy]:
    with FaultProxy.of(database.url) as proxy:
        yield proxy


@pytest.fixture
def site(
    make_app: MakeApp,
    db: Database,
    database: TestDatabase,
    witness: Witness,
    proxy: FaultProxy,
    driver: str,
    config: dict[str, Any],
    options: dict[str, Any],
) -> Site:
    engine_options = {"pool_size": SIZE, "max_overflow": 0, **options}
    url = proxy.url_for(database.url, driver=driver)
    app = make_app(url=url, SQLALCHEMY_ENGINE_OPTIONS=engine_options, **config)
    return Site(app, db, proxy, witness)


# Faults -----------------------------------------------------------------------------------------


def reset(site: Site) -> None:
    site.proxy.drop()


def close(site: Site) -> None:
    site.proxy.drop(reset=False)


def terminate(site: Site) -> None:
    """The server says why it ends the connection, and closes it."""
    for number in set(site.used):
        kill_backend(site.witness, number)
    time.sleep(0.1)  # until the proxy has passed it on


def restart(site: Site) -> None:
    site.proxy.drop(reset=False)
    site.proxy.refuse()
    time.sleep(0.1)
    site.proxy.listen()


FAULTS = [reset, close, terminate, restart]


@pytest.mark.fault(
    "N9",
    fault="Idle connections die: a reset, a restart, an administrator",
    then="They are replaced; no request fails, and no ping is sent",
)
@every_driver
@pytest.mark.parametrize("fault", FAULTS)
def test_the_next_requests_succeed(site: Site, fault: Callable[[Site], None]) -> None:
    """However many connections died: each is replaced, and nobody is asked to ping."""
    old = site.fill("before")
    fault(site)
    assert [site.post(f"after-{number}") for number in range(4)] == [200] * 4
    new = site.fill("later")
    assert not old & new
    assert site.fill("at last") == new
    assert len(site.witness.titles()) == 4 + 3 * SIZE


_IDLE_TIMEOUT = {
    "postgresql": "SET idle_session_timeout = 200",
    "mariadb": "SET SESSION wait_timeout = 1",
}


@pytest.mark.slow
@pytest.mark.fault(
    "N9",
    fault="The server ends connections that are idle for long",
    then="They are replaced; no request fails",
)
@every_driver
def test_the_next_requests_succeed_after_an_idle_timeout(site: Site) -> None:
    """The server ends what it takes for forgotten."""
    statement = _IDLE_TIMEOUT[site.engine.dialect.name]

    def on_connect(connection: Any, _entry: object) -> None:
        connection.cursor().execute(statement)
        connection.commit()

    event.listen(site.engine, "connect", on_connect)
    site.engine.dispose()
    old = site.fill("before")
    time.sleep(0.4 if site.engine.dialect.name == "postgresql" else 2.2)
    assert not old & site.fill("after")


@every_driver
def test_without_a_fault_nothing_is_replaced_and_nobody_pings(site: Site) -> None:
    """Ten requests on each connection: no false alarm, no round trip."""
    connections = site.fill("0")
    accepted = site.proxy.accepted
    for number in range(1, 10):
        assert site.fill(str(number)) == connections
    assert site.pings == 0
    assert site.proxy.accepted == accepted


@pytest.mark.parametrize("config", [{"UOW_LIVENESS": False}], ids=["off"])
@every_driver
def test_without_the_check_the_next_request_fails(site: Site) -> None:
    """What the check is for: this is SQLAlchemy as it comes."""
    site.fill("before")
    terminate(site)
    assert site.post("after") == 500


@pytest.mark.parametrize("options", [{"pool_pre_ping": True}], ids=["pre-ping"])
@every_driver
def test_the_users_own_pre_ping_does_the_same(site: Site) -> None:
    """At the price of a round trip for each request, which is the user's choice."""
    old = site.fill("before")
    terminate(site)
    assert not old & site.fill("after")


@pytest.mark.fault(
    "N8",
    fault="No process listens on the port of the server",
    then="Requests fail at once; when the server is back, they succeed again",
)
@every_driver
def test_a_server_that_is_away_is_an_error_and_then_none(site: Site) -> None:
    """While nobody listens, requests fail at once; afterwards all is as before."""
    site.fill("before")
    site.proxy.drop(reset=False)
    site.proxy.refuse()
    assert [site.post(f"meanwhile-{number}") for number in range(5)] == [500] * 5
    site.proxy.listen()
    site.fill("after")
    assert len(site.witness.titles()) == 2 * SIZE


@pytest.mark.fault(
    "N13",
    fault="The first connection of an engine is refused, or cut during its setup",
    then="An error; the next connection works",
)
@every_driver
def test_a_first_connect_that_fails_is_tried_again(
    database: TestDatabase, proxy: FaultProxy, driver: str
) -> None:
    """Refused, or cut while SQLAlchemy asks the server for its version."""
    engine = make_engine(proxy.url_for(database.url, driver=driver))
    proxy.refuse()
    with pytest.raises(DBAPIError):
        engine.connect()
    proxy.listen()
    proxy.cut("before", at=b"SELECT")
    with pytest.raises(DBAPIError):
        engine.connect()
    assert proxy.cuts == 1
    with engine.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
    assert engine.dialect.server_version_info
    engine.dispose()
