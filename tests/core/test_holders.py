"""Who has a connection: what is remembered of a checkout, and how it is put into words."""

from __future__ import annotations

import _thread
import gc
import logging
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool, QueuePool

from flask_uow._engine.checkouts import Checkout, CheckoutTracker
from tests.support.pools import Contexts
from tests.support.threads import in_thread


class Request:
    """What a connection is held for, in these tests."""

    def __init__(self, name: str = "GET /users") -> None:
        self.name = name


class Watched:
    """An engine with holders.

    :ivar request: whatever the connections are held for from now on.
    """

    def __init__(self, *, poolclass: Any = QueuePool, **options: Any) -> None:
        self.request: Any = Request()
        self.engine: Engine = create_engine(
            "sqlite://", poolclass=poolclass, connect_args={"check_same_thread": False}
        )
        self.holders = CheckoutTracker(Contexts(lambda: self.request), **options)
        self.holders.track(self.engine)


@pytest.fixture
def make() -> Iterator[Callable[..., Watched]]:
    made: list[Watched] = []

    def make(**options: Any) -> Watched:
        made.append(Watched(**options))
        return made[-1]

    yield make
    for one in made:
        one.engine.dispose()


def connect(engine: Engine) -> Connection:
    return engine.connect()  # the place of these tests


PLACE = rf"{__file__}:{connect.__code__.co_firstlineno + 1} in connect"


@pytest.mark.parametrize("poolclass", [QueuePool, NullPool])
def test_a_holder_is_known_until_it_gives_the_connection_back(
    make: Callable[..., Watched], poolclass: Any
) -> None:
    """With its request, and the line that asked for the connection; any pool will do."""
    watched = make(poolclass=poolclass)
    assert watched.holders.now() == []
    for _ in range(2):
        with connect(watched.engine):
            (holder,) = watched.holders.now()
            assert watched.holders.describe(holder) == f"GET /users, from {PLACE}"
            assert 0 <= holder.age < 60
        assert watched.holders.now() == []
    assert watched.holders.report() == "  no checkout that flask_uow knows of"


def test_the_place_is_outside_of_the_libraries(make: Callable[..., Watched]) -> None:
    """Between the app and the pool lie the ORM, Flask and decorators: they are passed over."""
    watched = make()
    with Session(watched.engine) as session:
        session.connection()
        (holder,) = watched.holders.now()
    assert "test_the_place_is_outside_of_the_libraries" in holder.location


def test_a_stack_of_libraries_has_no_place(make: Callable[..., Watched]) -> None:
    """A thread that does nothing but connect: no line of the app is behind it."""
    watched = make()
    _thread.start_new_thread(watched.engine.raw_connection, ())
    seen: list[str] = []
    event.listen(
        watched.engine,
        "checkin",
        lambda *_: seen.append(watched.holders.now()[0].location),
        insert=True,
    )
    for _ in range(1000):
        if seen:
            break
        time.sleep(0.01)
    assert seen == ["a place without code of the app"]
    assert Checkout(0, "a thread", None, None, None).location == seen[0]


def test_the_oldest_come_first_and_the_report_is_short(make: Callable[..., Watched]) -> None:
    """Ten lines; who has held a connection for longest is the likeliest culprit."""
    watched = make()
    requests = [Request(f"GET /{number}") for number in range(12)]
    lent = []
    for watched.request in requests:
        lent.append(connect(watched.engine))
    lines = watched.holders.report().splitlines()
    assert [line.split(": ")[1].split(",")[0] for line in lines[:-1]] == [
        f"GET /{number}" for number in range(10)
    ]
    assert lines[-1] == "  and 2 more, for a shorter time"
    for one in lent:
        one.close()


def test_a_holder_outside_of_any_context_is_its_thread(make: Callable[..., Watched]) -> None:
    """That is all that is known of it."""
    watched = make()
    watched.request = None

    def describe() -> str:
        with watched.engine.connect():
            return watched.holders.report()

    assert "the thread 'MainThread', from" in describe()
    assert "the thread 'ThreadPoolExecutor-" in in_thread(describe)


def test_what_holds_is_free_to_end(make: Callable[..., Watched]) -> None:
    """A request that is garbage is not kept by being named."""
    watched = make()
    ended = weakref.ref(watched.request)
    with watched.engine.connect():
        watched.request = None
        gc.collect()
        assert ended() is None
        assert "a context that is gone, from" in watched.holders.report()


def test_a_connection_that_is_garbage_has_no_holder(make: Callable[..., Watched]) -> None:
    """Nor is a connection kept by being watched: the pool gets it back as ever."""
    watched = make()
    lent = watched.engine.raw_connection()
    assert len(watched.holders.now()) == 1
    del lent
    gc.collect()
    assert watched.holders.now() == []


def test_a_context_that_cannot_be_described_is_no_error(make: Callable[..., Watched]) -> None:
    """The checkin and the better error go on."""
    watched = make(warn_after=0)
    watched.request = Watched  # has no name
    with watched.engine.connect():
        assert "a type that cannot be described, from" in watched.holders.report()
    assert watched.engine.pool.checkedin() == 1  # type: ignore[attr-defined]


def test_an_invalidated_connection_has_no_holder(make: Callable[..., Watched]) -> None:
    """It went out of the pool, not back into it."""
    watched = make()
    with watched.engine.connect() as connection:
        connection.invalidate()
        assert watched.holders.now() == []


def test_a_connection_that_a_fork_left_behind_has_no_holder(make: Callable[..., Watched]) -> None:
    """Its entry has lost the driver's connection."""
    watched = make()
    connection: Any = watched.engine.raw_connection()
    entry, driver = connection._connection_record, connection.dbapi_connection
    entry.dbapi_connection = None
    assert watched.holders.now() == []
    entry.dbapi_connection = driver
    connection.close()


def test_a_long_hold_is_logged_when_it_ends(
    make: Callable[..., Watched], caplog: pytest.LogCaptureFixture
) -> None:
    """With the request, the time and the place; a short one is not."""
    for limit in (0, 60, None):
        watched = make(warn_after=limit)
        with connect(watched.engine):
            pass
    (record,) = caplog.records
    assert record.name.startswith("flask_uow.")
    assert record.levelno == logging.WARNING
    message = record.getMessage()
    assert "checked out for 0.0 seconds (UOW_HOLD_WARNING is 0) by GET /users" in message
    assert PLACE in message


def test_those_still_out_are_named_once_when_the_pool_runs_dry(
    make: Callable[..., Watched], caplog: pytest.LogCaptureFixture
) -> None:
    """And not at each of the many checkouts that have to wait."""
    watched = make(warn_after=0)
    with connect(watched.engine):
        watched.holders.warn_of_old()
        watched.holders.warn_of_old()
        (record,) = caplog.records
        assert "run dry" in record.getMessage()
        assert f"by GET /users, from {PLACE}" in record.getMessage()
    assert len(caplog.records) == 2


def test_the_stack_is_kept_if_asked_for(make: Callable[..., Watched]) -> None:
    """From the outermost frame to the place, with the source."""
    watched = make(stacks=True)
    with connect(watched.engine):
        (holder,) = watched.holders.now()
        lines = watched.holders.describe(holder).splitlines()
    assert lines[-1].strip() == "return engine.connect()  # the place of these tests"
    assert "test_the_stack_is_kept_if_asked_for" in lines[-4]
    assert len(lines) > 20
