"""A pool that runs dry names the requests that have its connections."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy.exc
from flask import Response, stream_with_context
from sqlalchemy import text

from flask_uow import Database, Flask
from tests.conftest import MakeApp
from tests.support.databases import on

pytestmark = on("sqlite-file", "postgresql")


class Site:
    """An app with two connections, and requests that can be kept waiting inside of a unit."""

    def __init__(self, app: Flask, db: Database) -> None:
        self.app, self.db = app, db
        self.inside = threading.Semaphore(0)
        self.leave = threading.Event()
        self.errors: list[str] = []
        app.get("/reports/<name>")(self.report)
        app.get("/users")(self.users)
        app.get("/stream")(self.stream)
        app.errorhandler(sqlalchemy.exc.TimeoutError)(self.busy)
        self.threads = ThreadPoolExecutor(4)

    def report(self, name: str) -> str:
        self.db.session.connection()  # the place; the transaction begins here
        self.inside.release()
        assert self.leave.wait(timeout=30)
        return name

    def users(self) -> str:
        return str(self.db.session.scalar(text("SELECT 1")))

    def stream(self) -> Response:
        def body() -> Iterator[str]:
            for _ in range(3):
                yield str(self.db.session.connection().scalar(text("SELECT 1")))

        return Response(stream_with_context(body()))

    def read_half(self) -> None:
        """Read a streamed answer half, and close it after some time."""
        answer = self.app.test_client().get("/stream", buffered=False)
        next(answer.iter_encoded())
        self.inside.release()
        assert self.leave.wait(timeout=30)
        answer.close()

    def busy(self, error: Exception) -> tuple[str, int]:
        self.errors.append(str(error))
        return "try again", 503

    def start(self, *names: str) -> None:
        """Let requests begin, one after the other, and wait until each is inside."""
        for name in names:
            self.threads.submit(self.app.test_client().get, f"/reports/{name}")
            assert self.inside.acquire(timeout=10)

    def end(self) -> None:
        self.leave.set()
        self.threads.shutdown()


@pytest.fixture
def config() -> dict[str, Any]:
    """Of the app; a test may bring its own."""
    return {}


@pytest.fixture
def site(make_app: MakeApp, db: Database, config: dict[str, Any]) -> Iterator[Site]:
    options = {"pool_size": 1, "max_overflow": 1, "pool_timeout": 0.1}
    site = Site(make_app(SQLALCHEMY_ENGINE_OPTIONS=options, **config), db)
    yield site
    site.end()


PLACE = rf"{__file__}:{Site.report.__code__.co_firstlineno + 1} in "


@pytest.mark.fault(
    "K1",
    fault="All connections of the pool are in use",
    then="PoolExhausted names the requests that have them; a handler can return 503",
)
def test_the_error_names_the_requests_that_have_the_connections(site: Site) -> None:
    """With rule, endpoint, age and place, the oldest first; an error handler can return 503."""
    site.start("old", "young")
    assert site.app.test_client().get("/users").status_code == 503
    first, second = [line for line in site.errors[0].splitlines() if line.startswith("  ")][:2]
    for line in (first, second):
        assert " s: GET /reports/<name> (endpoint 'report'), from " in line
    assert float(first.split()[0]) >= float(second.split()[0])
    assert PLACE in first
    assert "(pool_size=1, max_overflow=1)" in site.errors[0]


@pytest.mark.fault(
    "K1",
    fault="All connections of the pool are in use",
    then="PoolExhausted names the requests that have them; a handler can return 503",
)
def test_afterwards_all_is_as_before(site: Site) -> None:
    """Once the holders have left, the next request is served."""
    site.start("one", "other")
    assert site.app.test_client().get("/users").status_code == 503
    site.end()
    assert site.app.test_client().get("/users").text == "1"


@pytest.mark.fault(
    "K2",
    fault="Half of a streamed body is read, and the body is not closed",
    then="PoolExhausted names it; when the body is closed, its connection is returned",
)
def test_a_body_that_nobody_reads_to_its_end_is_named(site: Site) -> None:
    """It was streamed half: the connection is with it until it is closed."""
    for _ in range(2):
        site.threads.submit(site.read_half)
        assert site.inside.acquire(timeout=10)
    assert site.app.test_client().get("/users").status_code == 503
    assert site.errors[0].count("GET /stream (endpoint 'stream')") == 2
    site.end()
    assert site.app.test_client().get("/users").status_code == 200


@pytest.mark.fault(
    "K1",
    fault="A connection is checked out for longer than UOW_HOLD_WARNING seconds",
    then="The log names the request and the line",
)
@pytest.mark.parametrize("config", [{"UOW_HOLD_WARNING": 0.05}], ids=["hasty"])
def test_a_long_hold_is_warned_of(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """When it ends, and before that when somebody has to wait for it."""
    site.start("one", "other")
    time.sleep(0.1)
    site.app.test_client().get("/users")
    warnings = [
        record.getMessage() for record in caplog.records if record.name.startswith("flask_uow.")
    ]
    assert len(warnings) == 2
    assert all("run dry" in warning for warning in warnings)
    assert "GET /reports/<name> (endpoint 'report')" in warnings[0]
    assert PLACE in warnings[0]
    site.end()
    ends = [
        record for record in caplog.records if "A connection was checked out" in record.getMessage()
    ]
    assert len(ends) == 2
    assert {record.levelno for record in ends} == {logging.WARNING}


def test_a_connection_of_its_own_is_named_by_its_place(site: Site) -> None:
    """``db.engine.connect()`` in a shell or a thread: there is no request to be named."""
    with site.app.app_context():
        engine = site.db.engine
        with engine.connect():
            site.start("one")
            assert site.app.test_client().get("/users").status_code == 503
    assert "an app context of 'tests', from " in site.errors[0]
    assert "in test_a_connection_of_its_own_is_named_by_its_place" in site.errors[0]


@pytest.mark.slow
@pytest.mark.fault(
    "K3",
    fault="A connection is kept only by garbage, such as the traceback of an error",
    then="The connection is returned before another request has to wait for it",
)
def test_what_failed_requests_have_left_in_circles_comes_back(
    make_app: MakeApp, db: Database
) -> None:
    """Each request gets the connection that the previous one left in a traceback."""
    options = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.001}
    app = make_app(SQLALCHEMY_ENGINE_OPTIONS=options)

    @app.get("/")
    def leak() -> str:
        circle: list[object] = [db.engine.connect()]
        circle.append(circle)
        return ""

    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            assert app.test_client().get("/").status_code == 200
        with app.app_context():
            db.engine.connect().close()
    finally:
        gc.enable()
        gc.collect()
