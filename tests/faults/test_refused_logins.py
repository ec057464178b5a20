"""A server that takes no more connections, or none yet: errors that cost the pool nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from flask_uow import Database, Flask
from flask_uow._drivers.outcomes import Moment, Outcome, outcome_of
from tests.faults.clusters import Cluster, cluster, wait_until
from tests.faults.conftest import ON_POSTGRESQL
from tests.support.models import Base, User
from tests.support.witness import Witness

pytestmark = pytest.mark.slow

Serve = Callable[[str], "Site"]

every_driver = pytest.mark.parametrize("driver", ON_POSTGRESQL)

PLACES = 4
"""How many connections the server has for the user of the app."""


@pytest.fixture(scope="module")
def files() -> Iterator[Cluster]:
    """A server that has the tables, and is not running."""
    with cluster() as found:
        start(found)
        engine = found.witness().engine
        with engine.begin() as connection:
            Base.metadata.create_all(connection)
            connection.execute(text(f"CREATE ROLE app LOGIN CONNECTION LIMIT {PLACES}"))
            connection.execute(text("GRANT ALL ON ALL TABLES IN SCHEMA public TO app"))
            connection.execute(text("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app"))
        found.stop()
        yield found


@pytest.fixture
def server(files: Cluster) -> Iterator[Cluster]:
    yield files
    files.stop()


def start(server: Cluster) -> None:
    """Start it, and wait until it takes connections."""
    server.start()
    wait_until(lambda: answers(server), "a server that answers")


def answers(server: Cluster) -> bool:
    try:
        return server.witness().ask("SELECT 1") == [1]
    except OperationalError:
        return False


class Site:
    """An app that stores a user with each request.

    :ivar errors: what its requests failed with; the client gets 503.
    :ivar inside: how many requests have their connection.
    :ivar leave: until it is set, they keep it.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.db = Database(Base)
        self.app = Flask("refused", instance_path=str(folder))
        self.app.config["SQLALCHEMY_DATABASE_URI"] = url
        self.app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"pool_size": 10, "max_overflow": 0}
        self.app.register_extension(self.db)
        self.app.add_url_rule("/<name>", view_func=self.create, methods=["POST"])
        self.app.register_error_handler(OperationalError, self.unavailable)
        self.errors: list[Exception] = []
        self.inside = threading.Semaphore(0)
        self.leave = threading.Event()

    def create(self, name: str) -> str:
        self.db.session.add(User(name=name))
        self.db.session.flush()
        self.inside.release()
        assert self.leave.wait(timeout=30)
        return ""

    def unavailable(self, error: Exception) -> tuple[str, int]:
        self.errors.append(error)
        return "", 503

    def post(self, name: str) -> int:
        return self.app.test_client().post(f"/{name}").status_code

    def pool(self) -> Any:
        with self.app.app_context():
            return self.db.engine.pool


@pytest.fixture
def serve(server: Cluster, tmp_path: Path) -> Iterator[Serve]:
    sites: list[Site] = []

    def serve(url: str) -> Site:
        sites.append(Site(url, tmp_path))
        return sites[-1]

    yield serve
    for site in sites:
        site.pool().dispose()


def assert_refused(site: Site, words: str) -> None:
    """Each error names the reason, and says that the unit may be run again."""
    assert site.errors
    for error in site.errors:
        assert words in str(error)
        assert outcome_of(error, Moment.BEFORE_COMMIT) is Outcome.NOT_APPLIED


def stored(server: Cluster) -> Witness:
    """The witness of an empty table."""
    witness = server.witness()
    with witness.engine.begin() as connection:
        connection.execute(User.__table__.delete())  # type: ignore[attr-defined]
    return witness


@pytest.mark.fault(
    "N12",
    fault="The server has no connection left for the app",
    then="An error says that nothing is stored; the other connections keep working",
)
@every_driver
def test_requests_without_a_connection_fail_and_the_others_go_on(
    driver: str, server: Cluster, serve: Serve
) -> None:
    """The pool would have room for all; those that were refused have taken none of it."""
    start(server)
    witness = stored(server)
    site = serve(server.url(driver).replace("postgres@", "app@"))
    with ThreadPoolExecutor(PLACES) as executor:
        lucky = [executor.submit(site.post, f"lucky {n}") for n in range(PLACES)]
        for _ in lucky:
            assert site.inside.acquire(timeout=30)
        assert [site.post(f"refused {n}") for n in range(20)] == [503] * 20
        site.leave.set()
        assert [one.result() for one in lucky] == [200] * PLACES
    assert_refused(site, "too many connections")
    assert [site.post(f"later {n}") for n in range(PLACES)] == [200] * PLACES
    assert len(witness.names()) == 2 * PLACES
    assert site.pool().checkedout() == 0
    assert site.pool().checkedin() == PLACES


@pytest.mark.fault(
    "N12",
    fault="The server is starting up, and refuses every login",
    then="An error says at once that nothing is stored; later requests find the server ready",
)
@every_driver
def test_server_that_is_not_ready_yet_is_an_error_at_once(
    driver: str, server: Cluster, serve: Serve
) -> None:
    """57P03: it is in recovery, until it is promoted."""
    signal = server.data / "standby.signal"
    signal.touch()
    server.start("hot_standby=off")
    site = serve(server.url(driver))
    site.leave.set()
    wait_until(lambda: site.post("refused") == 503 and is_refused(site), "a server in recovery")
    site.errors.clear()
    assert [site.post(f"refused {n}") for n in range(20)] == [503] * 20
    assert_refused(site, "not accepting connections")
    assert site.pool().checkedout() == 0
    server.promote()
    wait_until(lambda: answers(server), "a server that answers")
    witness = stored(server)
    assert site.post("ready") == 200
    assert witness.names() == ["ready"]


def is_refused(site: Site) -> bool:
    return "not accepting connections" in str(site.errors[-1])


@pytest.mark.fault(
    "N12",
    fault="The server is shutting down: it refuses logins, and waits for open connections",
    then="An error says that nothing is stored; a request that has a connection can finish",
)
@every_driver
def test_server_that_is_shutting_down_lets_open_units_finish(
    driver: str, server: Cluster, serve: Serve
) -> None:
    """57P03 for a new connection; after the restart all is as before."""
    start(server)
    witness = stored(server)
    site = serve(server.url(driver))
    with ThreadPoolExecutor(1) as executor:
        open_unit = executor.submit(site.post, "open")
        assert site.inside.acquire(timeout=30)
        server.shut_down()
        wait_until(lambda: not answers(server), "a server that refuses")
        assert [site.post(f"refused {n}") for n in range(20)] == [503] * 20
        assert_refused(site, "shutting down")
        site.leave.set()
        assert open_unit.result() == 200
    server.stop()
    start(server)
    assert site.post("later") == 200
    assert witness.names() == ["later", "open"]
    assert site.pool().checkedout() == 0
