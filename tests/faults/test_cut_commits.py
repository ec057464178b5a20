"""COMMITs whose connection breaks: the error says that something is unknown, and it is.

The proxy stands between the driver and its server and breaks the connection at the very packet.
The error is the same whether the server has seen the COMMIT or not; so the tables must not guess.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import sqlalchemy
from flask.testing import FlaskClient
from psycopg import waiting
from psycopg.errors import OperationalError as PsycopgError
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, OperationalError

from flask_uow import Database, Flask
from flask_uow._drivers.outcomes import (
    Moment,
    Outcome,
    code_of,
    is_disconnect,
    is_transient,
    outcome_of,
)
from tests.conftest import MakeApp
from tests.faults.conftest import Server, failure, insert, sees
from tests.support.databases import TestDatabase, anywhere, on
from tests.support.models import User
from tests.support.proxy import FaultProxy, Mode
from tests.support.witness import Witness

# Which of them the server has carried out.
STORED: dict[Mode, bool] = {"before": False, "after_send": True, "after_send_eof": True}


@pytest.fixture
def proxy(server: Server) -> Iterator[FaultProxy]:
    with FaultProxy.of(server.url) as proxy:
        yield proxy


def cut_commit(server: Server, proxy: FaultProxy, mode: Mode, **options: str) -> DBAPIError:
    """The error of a unit that stores the row 10 and whose COMMIT is cut."""
    engine = server.other_engine(proxy.url_for(server.url, **options))
    with engine.connect() as connection:
        insert(connection, 10)
        proxy.cut(mode)
        error = failure(connection.commit)
    proxy.settle()
    assert proxy.cuts == 1
    return error


# The table ------------------------------------------------------------------------------------


@pytest.mark.fault(
    "C1",
    fault="The connection breaks before COMMIT has reached the server",
    then="The request fails, the error says that the outcome is unknown, and nothing is stored",
)
@pytest.mark.fault(
    "C2",
    fault="The connection breaks after COMMIT, before its reply",
    then="The request fails with the same error, and the work is stored",
)
@pytest.mark.parametrize(("mode", "stored"), STORED.items())
def test_a_commit_that_is_cut_is_unknown(
    server: Server, proxy: FaultProxy, mode: Mode, stored: bool
) -> None:
    """Before it reached the server, or after: the driver cannot tell, and the table does not."""
    error = cut_commit(server, proxy, mode)
    assert error.orig is not None
    for one in (error, error.orig):
        assert outcome_of(one, Moment.AT_COMMIT) is Outcome.UNKNOWN
        assert is_disconnect(one)
        assert not is_transient(one)
    assert server.is_stored(10) == stored


def test_the_error_does_not_tell_the_two_outcomes_apart(server: Server, proxy: FaultProxy) -> None:
    """Class, code and text are the same, so no later version of the table can know better."""
    errors = []
    for mode in ("before", "after_send"):
        error = cut_commit(server, proxy, mode)
        errors.append((type(error.orig), code_of(error), str(error.orig)))
        server.set_up()
        proxy.cuts = 0
    assert errors[0] == errors[1]


@pytest.mark.fault(
    "C3",
    fault="A peer receives the COMMIT, acknowledges it and never responds",
    then="A read timeout of the driver, or a watchdog of your own, turns the wait into an error",
)
def test_a_commit_whose_answer_never_comes_is_unknown(server: Server, proxy: FaultProxy) -> None:
    """A peer that acknowledges every byte and says nothing: only the client's own clock helps."""
    if server.driver.startswith("psycopg"):  # has no timeout for an answer
        error = _commit_with_a_watchdog(server, proxy)
    else:
        error = cut_commit(server, proxy, "swallow", read_timeout="1")
    proxy.settle()
    assert outcome_of(error, Moment.AT_COMMIT) is Outcome.UNKNOWN
    assert is_disconnect(error)
    assert server.is_stored(10)


def _commit_with_a_watchdog(server: Server, proxy: FaultProxy) -> DBAPIError:
    engine = server.other_engine(proxy.url_for(server.url))
    with engine.connect() as connection:
        insert(connection, 10)
        proxy.cut("swallow")
        watchdog = threading.Timer(0.3, _shut_down, [connection])
        watchdog.start()
        error = failure(connection.commit)
        watchdog.join()
    return error


def _shut_down(connection: Connection) -> None:
    """End the socket under a driver that waits for it in another thread."""
    driver_connection: Any = connection.connection.driver_connection
    with socket.socket(fileno=os.dup(driver_connection.fileno())) as copy:
        copy.shutdown(socket.SHUT_RDWR)


@pytest.mark.fault(
    "N11", fault="A slow network: replies arrive late, and byte by byte", then="No error"
)
def test_a_slow_network_is_no_fault(server: Server, proxy: FaultProxy) -> None:
    """Answers that arrive byte by byte, and late, are answers."""
    proxy.slice = True
    proxy.delay = 0.002
    engine = server.other_engine(proxy.url_for(server.url))
    with engine.connect() as connection:
        insert(connection, 10)
        duplicate = failure(lambda: insert(connection, 1))
        connection.rollback()
        insert(connection, 11)
        assert sees(connection, 11)
        connection.commit()
    assert outcome_of(duplicate, Moment.BEFORE_COMMIT) is Outcome.FAILED
    assert not is_disconnect(duplicate)
    assert not server.is_stored(10)
    assert server.is_stored(11)


# Requests -------------------------------------------------------------------------------------

Way = Literal["session", "engine"]


class Shop:
    """An app that stores users, in the unit of the request or beside it, and counts them.

    :ivar errors: what the commits raised.
    """

    def __init__(self, app: Flask, db: Database) -> None:
        self.errors: list[OperationalError] = []
        self.client: FlaskClient = app.test_client()

        @app.post("/session/<name>")
        def create(name: str) -> str:
            db.session.add(User(name=name))
            return name

        @app.post("/engine/<name>")
        def create_beside(name: str) -> str:
            # Not ``begin()``: after a COMMIT that failed, SQLAlchemy leaves this connection to the
            # pool, and the pool relies on SQLAlchemy. Neither rolls back.
            with db.engine.connect() as connection:
                connection.execute(sqlalchemy.insert(User).values(name=name))
                connection.commit()
            return name

        @app.get("/")
        def count() -> str:
            return str(db.session.query(User).count())

        @app.errorhandler(OperationalError)
        def explain(error: OperationalError) -> tuple[str, int]:
            self.errors.append(error)
            return "unknown", 503

    def create(self, name: str, way: Way = "session") -> int:
        """The status of a request that stores a user."""
        return self.client.post(f"/{way}/{name}").status_code

    def read(self) -> int:
        return self.client.get("/").status_code


@pytest.fixture
def line(database: TestDatabase) -> Iterator[FaultProxy]:
    """The proxy between the shop and its database."""
    with FaultProxy.of(database.url) as proxy:
        yield proxy


@pytest.fixture
def shop(make_app: MakeApp, db: Database, database: TestDatabase, line: FaultProxy) -> Shop:
    return Shop(make_app(url=line.url_for(database.url)), db)


@pytest.mark.fault(
    "C1",
    fault="The connection breaks before COMMIT has reached the server",
    then="The request fails, the error says that the outcome is unknown, and nothing is stored",
)
@pytest.mark.fault(
    "C2",
    fault="The connection breaks after COMMIT, before its reply",
    then="The request fails with the same error, and the work is stored",
)
@on("postgresql", "mariadb")
@pytest.mark.parametrize(("mode", "stored"), STORED.items())
def test_a_request_whose_commit_is_cut_is_no_success(
    shop: Shop, line: FaultProxy, witness: Witness, mode: Mode, stored: bool
) -> None:
    """The app's handler hears of it, and the next request knows nothing of it."""
    line.cut(mode)
    assert shop.create("ada") == 503
    line.settle()
    assert shop.create("grace") == 200
    assert witness.names() == (["ada", "grace"] if stored else ["grace"])
    [error] = shop.errors
    assert outcome_of(error, Moment.AT_COMMIT) is Outcome.UNKNOWN


@pytest.mark.fault(
    "N10",
    fault="A connection breaks in the middle of COMMIT, again and again",
    then="The connection never goes back to the pool, so no other request fails",
)
@on("postgresql", "mariadb")
@pytest.mark.parametrize("cuts", [30, pytest.param(3000, marks=pytest.mark.stress)])
def test_no_request_pays_for_the_cut_commit_of_another(
    shop: Shop, line: FaultProxy, cuts: int
) -> None:
    """A connection that broke in COMMIT never comes back from the pool (P13).

    ``UOW_TEST_SECONDS`` ends it before so many cuts.
    """
    end = time.monotonic() + float(os.environ.get("UOW_TEST_SECONDS", "inf"))
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    told: Counter[int] = Counter()
    innocent: Counter[int] = Counter()
    for number in range(cuts):
        if time.monotonic() > end:
            cuts = number
            break
        line.cut(chance.choice(list(STORED)))
        told[shop.create(f"user {number}", chance.choice(["session", "engine"]))] += 1
        innocent[shop.read()] += 1
    assert line.cuts == cuts
    assert told == {503: cuts}
    assert innocent == {200: cuts}
    assert {outcome_of(error, Moment.AT_COMMIT) for error in shop.errors} == {Outcome.UNKNOWN}


@pytest.mark.fault(
    "N10",
    fault="A connection breaks, and psycopg would use it again",
    then="The connection is dropped",
)
@on("postgresql")
@pytest.mark.parametrize("way", ["session", "engine"])
def test_a_reset_that_psycopg_does_not_notice(
    shop: Shop, line: FaultProxy, witness: Witness, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    """What the test above meets a few times in 3000 cuts, or never, every time.

    While psycopg waits for the answer, the system reports an error of the socket and nothing to
    read. psycopg raises without asking libpq, for which the connection is as good as ever; and
    it would fail in the hands of the next request.
    """
    wait = waiting.wait

    def interrupted(steps: Any, *args: Any, **options: Any) -> Any:
        if steps.__name__ != "_commit_gen":
            return wait(steps, *args, **options)
        next(steps)  # sends the COMMIT
        line.settle()
        raise PsycopgError("connection socket closed")

    line.cut("before")
    with monkeypatch.context() as patch:
        patch.setattr(waiting, "wait", interrupted)
        assert shop.create("ada", way) == 503
    assert [str(error.orig) for error in shop.errors] == ["connection socket closed"]
    assert shop.read() == 200
    assert witness.names() == []


@pytest.mark.fault(
    "C13",
    fault="A COMMIT fails and leaves the driver's transaction open",
    then="The transaction is rolled back: the next user of the connection does not commit it",
)
@anywhere
@pytest.mark.parametrize("way", ["session", "engine"])
def test_no_request_stores_what_the_commit_of_another_could_not(
    make_app: MakeApp, db: Database, database: TestDatabase, witness: Witness, way: Way
) -> None:
    """A reader holds up a COMMIT of SQLite: it fails, and its transaction is still open then.

    The next user of the connection must not find it, let alone commit it.
    """
    app = make_app(
        UOW_SQLITE_JOURNAL_MODE="delete",
        UOW_SQLITE_BUSY_TIMEOUT=0.05,
        SQLALCHEMY_ENGINE_OPTIONS={"pool_size": 1, "max_overflow": 0},
    )
    shop = Shop(app, db)
    with witness.engine.connect() as reader:
        reader.exec_driver_sql("BEGIN")
        reader.exec_driver_sql("SELECT * FROM users")
        assert shop.create("ada", way) == 503
    assert shop.create("grace", way) == 200
    assert witness.names() == ["grace"]
    [error] = shop.errors
    assert outcome_of(error, Moment.AT_COMMIT) is Outcome.NOT_APPLIED
