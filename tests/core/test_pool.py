"""The options of an engine's pool, its exhaustion, and connections that nobody holds."""

from __future__ import annotations

import gc
import logging
import random
import resource
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, exc, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import AssertionPool, NullPool, QueuePool, SingletonThreadPool, StaticPool

from flask_uow import PoolExhausted
from flask_uow._config.settings import PoolSettings
from flask_uow._engine import pool as _pool
from flask_uow._engine.idle import waiters
from flask_uow._engine.pool import ConnectionPool
from tests.support.databases import TestDatabase, on
from tests.support.pools import Contexts, make_engine
from tests.support.threads import in_threads
from tests.support.tracing import traced

URL = "postgresql+psycopg://h/d"


class Request:
    name = "GET /slow"
    is_running = True


@pytest.fixture(autouse=True, scope="module")
def _small_heap() -> None:
    """A collection looks at the objects of these tests only: there are hundreds of collections.

    What is left of earlier tests stays in memory then, which is little.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Engine]:
    """A pool of three connections that does not wait for long."""
    request = Request()
    engine = make_engine(
        f"sqlite:///{tmp_path}/a.db",
        context=Contexts(lambda: request),
        pool_size=2,
        max_overflow=1,
        pool_timeout=0.05,
    )
    yield engine
    engine.dispose()


def connect(engine: Engine) -> Connection:
    return engine.connect()


# Options ----------------------------------------------------------------------------------------


def options(url: str = URL, **given: Any) -> dict[str, Any]:
    return _pool.options_for(make_url(url), given, PoolSettings())


def test_an_engine_gets_our_pool_where_it_would_get_sqlalchemys() -> None:
    """Also if that one was asked for by name; any other class is the user's choice."""
    assert options()["poolclass"] is ConnectionPool
    assert options(poolclass=QueuePool)["poolclass"] is ConnectionPool
    assert options("sqlite:///a.db")["poolclass"] is ConnectionPool
    assert "poolclass" not in options("sqlite://")
    assert options(poolclass=NullPool)["poolclass"] is NullPool
    assert "poolclass" not in options(pool=NullPool(lambda: None))  # type: ignore[arg-type]


def test_the_given_options_are_not_written_to() -> None:
    """They are the config's, and may serve another engine too."""
    given: dict[str, Any] = {"connect_args": {"connect_timeout": 9}}
    found = _pool.options_for(make_url(URL), given, PoolSettings())
    assert given == {"connect_args": {"connect_timeout": 9}}
    assert found["connect_args"]["connect_timeout"] == 9
    assert found["connect_args"]["keepalives"] == 1


def test_who_connects_by_himself_sets_his_own_timeouts() -> None:
    """With ``creator`` the arguments would be ignored; with ``pool`` they would be refused."""
    assert "connect_args" not in options(creator=lambda: None)
    assert "connect_args" not in options(pool=NullPool(lambda: None))  # type: ignore[arg-type]
    assert "connect_args" not in options("sqlite:///a.db")


def listeners(engine: Engine, name: str) -> list[str]:
    found = [listener.__qualname__ for listener in getattr(engine.pool.dispatch, name)]
    return [listener for listener in found if "." in listener]  # not those of the test bench


CHECK = "Liveness.check"
HOLDERS = "CheckoutTracker._note_checkout"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, [CHECK, HOLDERS]),
        ({"poolclass": QueuePool}, [CHECK, HOLDERS]),
        ({"creator": lambda: None}, [CHECK, HOLDERS]),
        ({"pool": QueuePool(lambda: None)}, [CHECK, HOLDERS]),  # type: ignore[arg-type]
        ({"pool_pre_ping": True}, [HOLDERS]),
        ({"poolclass": NullPool}, [HOLDERS]),
        ({"poolclass": SingletonThreadPool}, [HOLDERS]),
        ({"poolclass": AssertionPool}, [HOLDERS]),
        ({"poolclass": StaticPool}, []),
    ],
)
def test_what_is_watched_with_which_options(given: dict[str, Any], expected: list[str]) -> None:
    """The check needs connections that rest in a pool and are lent to one at a time.

    The user's own pre-ping takes its place. Whoever has a connection is known with every pool,
    but for the one that lends the same connection to everybody.
    """
    engine = make_engine(URL, **given)
    assert listeners(engine, "checkout") == expected


def test_a_pool_that_cannot_be_checked_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """Once, with what to do instead, and without the password."""
    with caplog.at_level(logging.INFO, "flask_uow"):
        make_engine("postgresql+psycopg://u:secret@h/d", poolclass=AssertionPool)
        make_engine(URL, poolclass=NullPool)  # nothing rests there
    (record,) = caplog.records
    assert "is a AssertionPool" in record.getMessage()
    assert "pool_pre_ping" in record.getMessage()
    assert "secret" not in record.getMessage()


def test_the_check_can_be_switched_off() -> None:
    """By ``UOW_LIVENESS = False``; SQLite has no server that could hang up."""
    assert listeners(make_engine(URL, PoolSettings(liveness=False)), "checkout") == [HOLDERS]
    assert listeners(make_engine("sqlite:///a.db"), "checkout") == [HOLDERS]
    assert listeners(make_engine("sqlite://", poolclass=StaticPool), "checkout") == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, 1800), ({"pool_recycle": 60}, 60), ({"pool_recycle": -1}, float("inf"))],
)
def test_pool_recycle_is_the_lifetime(given: dict[str, Any], expected: float) -> None:
    """With a default for servers; ``-1`` is SQLAlchemy's word for never."""
    checks: Any = make_engine(URL, **given).pool.dispatch.checkout
    (check,) = [one for one in checks if one.__qualname__ == CHECK]
    assert check.__self__._lifetime == expected


# Exhaustion -------------------------------------------------------------------------------------


def test_an_exhausted_pool_names_its_holders(small: Engine) -> None:
    """The error is SQLAlchemy's TimeoutError, says how large the pool is, and what to do."""
    lent = list(map(connect, [small] * 3))
    with pytest.raises(exc.TimeoutError) as caught:
        small.connect()
    assert type(caught.value) is PoolExhausted
    message = str(caught.value)
    assert "All connections of the pool (pool_size=2, max_overflow=1)" in message
    assert "for 0.05 seconds (pool_timeout)" in message
    assert message.count(f": GET /slow, from {__file__}:") == 3
    assert message.count(" in connect\n") == 3
    assert "'pool_size' in SQLALCHEMY_ENGINE_OPTIONS" in message
    for one in lent:
        one.close()
    small.connect().close()


def test_who_is_refused_does_not_stop_all_threads_each_time(
    small: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool that is overloaded looks for garbage once, not for each of those it refuses."""
    collections = []
    monkeypatch.setattr("flask_uow._engine.pool.gc.collect", lambda: collections.append(1))
    with small.connect(), small.connect(), small.connect():
        for _ in range(3):
            with pytest.raises(PoolExhausted):
                small.connect()
    assert len(collections) == 1


class Garbage:
    """A pool of one connection that waits for a millisecond, and Python's collections of garbage.

    :ivar request: what connections are checked out for from now on.
    :ivar collections: grows with each collection.
    """

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.request: Any = Request()
        self.collections: list[object] = []
        collect = gc.collect
        monkeypatch.setattr(
            "flask_uow._engine.pool.gc.collect", lambda: self.collections.append(collect())
        )
        self.engine = make_engine(
            f"sqlite:///{path}/a.db",
            context=Contexts(lambda: self.request),
            pool_size=1,
            max_overflow=0,
            pool_timeout=0.001,
        )

    def leave(self, *kept: object) -> None:
        """Leave *kept* in a reference cycle, as the traceback of an exception does."""
        circle: list[object] = [*kept]
        circle.append(circle)


@pytest.fixture
def garbage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Garbage]:
    gc.collect()
    gc.disable()
    garbage = Garbage(tmp_path, monkeypatch)
    yield garbage
    gc.enable()
    garbage.engine.dispose()


def leave_in_ended_request(garbage: Garbage) -> None:
    request = Request()
    garbage.request = request
    garbage.leave(garbage.engine.connect())
    request.is_running = False
    garbage.request = Request()


def leave_with_its_request(garbage: Garbage) -> None:
    garbage.leave(garbage.engine.connect(), garbage.request)
    garbage.request.is_running = False
    garbage.request = Request()


def leave_in_mid_checkout(garbage: Garbage) -> None:
    pool: Any = garbage.engine.pool
    garbage.leave(pool._do_get())


@pytest.mark.fault(
    "K3",
    fault="A connection is kept only by garbage, such as the traceback of an error",
    then="The connection is returned before another request has to wait for it",
)
@pytest.mark.parametrize(
    "leave", [leave_in_ended_request, leave_with_its_request, leave_in_mid_checkout]
)
def test_garbage_is_collected_before_a_wait(garbage: Garbage, leave: Any) -> None:
    """Each time, and not only once in ten seconds; whatever the garbage is."""
    for number in range(1, 4):
        leave(garbage)
        with garbage.engine.connect() as connection:
            assert connection.scalar(text("SELECT 1")) == 1
        assert len(garbage.collections) == number


def test_a_connection_that_its_own_request_has_dropped_comes_back(garbage: Garbage) -> None:
    """It may be garbage, and so may one outside of any request, at most once in a period."""
    pool = cast(ConnectionPool, garbage.engine.pool)
    for request in (Request(), None):
        garbage.request = request
        garbage.leave(garbage.engine.connect())
        garbage.engine.connect().close()
        pool._next_collection = 0.0  # ten seconds later
    assert len(garbage.collections) == 2


def test_running_requests_are_never_stopped_for_a_collection(garbage: Garbage) -> None:
    """They hold all connections, so there is nothing to collect."""
    for _ in range(3):
        with garbage.engine.connect():
            garbage.request, held = Request(), garbage.request
            with pytest.raises(PoolExhausted):
                garbage.engine.connect()
        assert held is not garbage.request
    assert garbage.collections == []


def test_a_busy_pool_collects_nothing(garbage: Garbage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that come and go, each for its own request: none looks like garbage."""
    requests = threading.local()
    monkeypatch.setattr(
        garbage.engine.pool.tracker,  # type: ignore[attr-defined]
        "_current",
        lambda: requests.__dict__.setdefault("request", Request()),
    )
    refused: list[object] = []

    def work() -> None:
        for _ in range(20):
            requests.request = Request()
            try:
                with garbage.engine.connect() as connection:
                    connection.execute(text("SELECT 1"))
                    time.sleep(0.005)  # longer than the others wait
            except PoolExhausted as error:
                refused.append(error)

    in_threads(work)
    assert refused
    assert garbage.collections == []


def test_a_connection_that_is_kept_is_looked_for_once(garbage: Garbage) -> None:
    """A variable of the app holds it, so it is not garbage, and no later wait collects again."""
    kept = garbage.engine.connect()
    garbage.request.is_running = False
    garbage.request = Request()
    for _ in range(3):
        with pytest.raises(PoolExhausted):
            garbage.engine.connect()
    assert len(garbage.collections) == 1
    kept.close()


def test_a_pool_that_nobody_watches_explains_itself_as_well() -> None:
    """Without holders the rest of the sentence stands."""
    engine = create_engine(
        "sqlite://", poolclass=ConnectionPool, pool_size=1, max_overflow=0, pool_timeout=0.01
    )
    with engine.connect(), pytest.raises(PoolExhausted, match="All connections of the pool"):
        engine.connect()
    engine.dispose()


def test_a_new_pool_has_the_holders_of_the_old_one(small: Engine) -> None:
    """``dispose()`` gives the engine another pool."""
    small.dispose()
    lent = [small.connect() for _ in range(3)]
    with pytest.raises(PoolExhausted, match="GET /slow"):
        small.connect()
    for one in lent:
        one.close()


@pytest.mark.parametrize("unlimited", [{"pool_size": 0}, {"max_overflow": -1}])
def test_a_pool_without_a_limit_is_never_dry(unlimited: dict[str, Any], tmp_path: Path) -> None:
    """SQLAlchemy's words for that are a size of 0 and an overflow of -1."""
    engine = make_engine(f"sqlite:///{tmp_path}/a.db", pool_timeout=0.01, **unlimited)
    lent = [engine.connect() for _ in range(20)]
    for one in lent:
        one.close()
    engine.dispose()


def test_a_dry_pool_warns_of_those_who_hold_it_for_long(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Before the one who waits has waited in vain."""
    engine = make_engine(
        f"sqlite:///{tmp_path}/a.db",
        PoolSettings(hold_warning=0),
        pool_size=1,
        max_overflow=0,
        pool_timeout=0.01,
    )
    with engine.connect():
        with pytest.raises(PoolExhausted):
            engine.connect()
        assert "run dry" in caplog.records[0].getMessage()
    engine.dispose()


# Connections that nobody holds ------------------------------------------------------------------


def lose(engine: Engine, times: int = 1) -> None:
    """Take connections out of the pool as an exception in the middle of a checkout does."""
    pool: Any = engine.pool
    for _ in range(times):
        pool._do_get()
    gc.collect()


def test_what_was_only_on_its_way_is_not_replaced(
    small: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A second look, a moment later, finds it."""
    counts = iter([1, 0])
    monkeypatch.setattr(ConnectionPool, "_count_lost", lambda _: next(counts, 0))
    lent = [small.connect() for _ in range(3)]
    with pytest.raises(PoolExhausted):
        small.connect()
    assert not caplog.records
    for one in lent:
        one.close()


@pytest.mark.slow
@pytest.mark.parametrize("lost", [1, 2, 3])
def test_lost_connections_are_replaced(
    small: Engine, lost: int, caplog: pytest.LogCaptureFixture
) -> None:
    """As soon as the pool runs dry, and without waiting: all three can be used again."""
    lose(small, lost)
    pool: Any = small.pool
    patience, pool._timeout = pool._timeout, 60
    started = time.monotonic()
    lent = [small.connect() for _ in range(3)]
    assert time.monotonic() - started < 30
    pool._timeout = patience
    (record,) = caplog.records
    assert f"{lost} of the 3 connections of a pool had been lost" in record.getMessage()
    with pytest.raises(PoolExhausted):
        small.connect()
    for one in lent:
        one.close()
    assert small.pool.checkedout() == 0  # type: ignore[attr-defined]


class Struck(BaseException):
    """What a signal handler raises."""


@contextmanager
def striking(step: int) -> Iterator[list[str]]:
    """Raise at the line with the number *step*, of those of the module that run."""
    lines: list[str] = []

    def trace(frame: Any, event: str, _: object) -> Any:
        if frame.f_code.co_filename != _pool.__file__:
            return None
        if event == "line":
            lines.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
            if len(lines) == step:
                raise Struck(lines[-1])
        return trace

    with traced(trace):
        yield lines


@pytest.mark.slow
def test_a_repair_that_is_interrupted_at_any_line_is_done_later(small: Engine) -> None:
    """No lock stays locked; what is still missing then is found by the next checkout."""
    step = 0
    while True:
        step += 1
        lose(small, 1)
        held = [small.connect() for _ in range(2)]
        with suppress(Struck), striking(step) as lines:
            small.connect().close()
        for one in [small.connect(), *held]:
            one.close()
        assert small.pool.checkedout() == 0  # type: ignore[attr-defined]
        assert not waiters  # or every session would return its connection after each statement
        if len(lines) < step:  # it was not struck any more
            break
    assert step > 20


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_connection_whose_loss_was_interrupted_is_replaced(small: Engine) -> None:
    """Python reports an exception in the callback of a weak reference, and goes on without it."""

    known = small.pool._known  # type: ignore[attr-defined]

    def trace(frame: Any, event: str, _: object) -> None:
        if frame.f_code.co_name != "remove" or frame.f_code.co_filename != weakref.__file__:
            return
        # Not for any other dictionary, whose keys the garbage collector may free in the middle of
        # the checkout: the traceback would keep the connection alive.
        if frame.f_locals["selfref"]() is known:
            struck.append(frame.f_lineno)
            raise Struck

    held = [small.connect() for _ in range(2)]
    struck: list[int] = []
    with traced(trace):
        lose(small)
    assert struck
    for one in [small.connect(), *held]:
        one.close()


def test_a_connection_lost_while_others_wait_is_replaced(
    small: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """Who has waited in vain looks once more."""
    pool: Any = small.pool
    held = [pool._do_get() for _ in range(3)]  # taken, and not lost yet

    def drop() -> None:
        time.sleep(0.02)
        held.clear()

    thread = threading.Thread(target=drop)
    thread.start()
    small.connect().close()
    thread.join()
    assert "3 of the 3 connections" in caplog.records[0].getMessage()


def test_a_connection_that_is_being_opened_is_not_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It may take long, and the pool counts it from the start."""
    opening, refused = threading.Event(), threading.Event()
    engine = make_engine(
        f"sqlite:///{tmp_path}/a.db", pool_size=1, max_overflow=0, pool_timeout=0.05
    )

    @event.listens_for(engine, "do_connect")
    def take_long(*_: Any) -> None:
        opening.set()
        refused.wait(20)

    thread = threading.Thread(target=lambda: engine.connect().close())
    thread.start()
    opening.wait()
    with pytest.raises(PoolExhausted, match="no checkout that flask_uow knows of"):
        engine.connect()
    refused.set()
    thread.join()
    assert not caplog.records
    engine.dispose()


def test_a_replacement_that_fails_is_tried_again(small: Engine) -> None:
    """The database may be down just then; its own error tells."""
    lose(small, 3)
    refused = True

    def refuse(*_: Any) -> None:
        if refused:
            raise small.dialect.loaded_dbapi.OperationalError("down")

    event.listen(small, "do_connect", refuse)
    with pytest.raises(DBAPIError, match="down"):
        small.connect()
    refused = False
    for one in [small.connect() for _ in range(3)]:
        one.close()


def test_threads_that_notice_at_once_replace_it_once(small: Engine) -> None:
    """The pool does not grow by being repaired."""
    lose(small, 3)

    def use() -> bool:
        try:
            with small.connect():
                time.sleep(0.01)
        except PoolExhausted:
            return False
        return True

    assert any(in_threads(use))
    assert small.pool.checkedout() == 0  # type: ignore[attr-defined]
    lent = [small.connect() for _ in range(3)]
    with pytest.raises(PoolExhausted):
        small.connect()
    for one in lent:
        one.close()


def hammer(engine: Engine, seconds: float) -> None:
    """Eight threads that need three connections, throw some away, and ask who has them."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed: {seed}")
    end = time.monotonic() + seconds
    numbers, pool = iter(range(100)), cast(ConnectionPool, engine.pool)

    def work() -> None:
        chance = random.Random(seed + next(numbers))
        while time.monotonic() < end:
            with engine.connect() as connection:
                if chance.random() < 0.1:
                    connection.invalidate()
                elif chance.random() < 0.1:
                    assert pool.tracker is not None
                    assert 1 <= len(pool.tracker.now()) <= 3
                else:
                    connection.execute(text("SELECT 1"))

    in_threads(work)


@pytest.mark.parametrize(
    "seconds", [0.5, pytest.param(30, marks=pytest.mark.stress)], ids=["short", "long"]
)
def test_a_busy_pool_loses_nothing(
    tmp_path: Path, seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    """No false alarm, though connections come and go while others are being counted."""
    engine = make_engine(f"sqlite:///{tmp_path}/a.db", pool_size=3, max_overflow=0, pool_timeout=60)
    hammer(engine, seconds)
    assert not caplog.records
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    engine.dispose()


@on("postgresql")
def test_a_process_without_file_descriptors_recovers(database: TestDatabase) -> None:
    """The error is the driver's, no connection is lost, and nothing has to be restarted."""
    engine = make_engine(database.url, pool_size=3, max_overflow=0, pool_timeout=0.1)
    engine.connect().close()
    with Path("/dev/null").open() as lowest:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest.fileno(), hard))
        try:
            with engine.connect():
                for _ in range(4):
                    with pytest.raises(DBAPIError):
                        engine.connect()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    lent = [engine.connect() for _ in range(3)]
    for one in lent:
        assert one.execute(text("SELECT 1")).scalar_one() == 1
        one.close()
