"""A COMMIT of PostgreSQL whose wait for a synchronous standby was canceled is told of in the log.

The server waits for a standby that does not exist, so every COMMIT waits until it is canceled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text

from flask_uow import Database, Flask
from tests.faults.clusters import Cluster, cluster, wait_until
from tests.faults.conftest import ON_POSTGRESQL
from tests.support.models import Base, User
from tests.support.witness import Witness

pytestmark = pytest.mark.slow

MakeApp = Callable[..., Flask]

every_driver = pytest.mark.parametrize("driver", ON_POSTGRESQL)


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with cluster() as found:
        found.start("synchronous_standby_names=nobody")
        wait_until(lambda: found.says("ready to accept connections"), "a server that is ready")
        Base.metadata.create_all(alone(found).engine)
        yield found


def alone(server: Cluster) -> Witness:
    """A connection whose own commits wait for nobody."""
    return server.witness(options="-c synchronous_commit=local")


@pytest.fixture
def witness(server: Cluster) -> Witness:
    found = alone(server)
    with found.engine.begin() as connection:
        connection.execute(User.__table__.delete())  # type: ignore[attr-defined]
    return found


@pytest.fixture
def db() -> Database:
    return Database(Base)


@pytest.fixture
def make_app(server: Cluster, db: Database, tmp_path: Path) -> MakeApp:
    def make(driver: str, view: Callable[[], str]) -> Flask:
        app = Flask("standby", instance_path=str(tmp_path))
        app.config["SQLALCHEMY_DATABASE_URI"] = server.url(driver)
        app.register_extension(db)
        app.add_url_rule("/", view_func=view, methods=["POST"])
        return app

    return make


def post(app: Flask, witness: Witness, end: str) -> int:
    """Send a request, and call the function *end* for its session when that waits at COMMIT."""
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    with ThreadPoolExecutor(1) as executor:
        answer = executor.submit(app.test_client().post, "/")
        wait_until(lambda: witness.ask(waiting), "a COMMIT that waits")
        [session] = witness.ask(waiting)
        witness.ask(f"SELECT {end}({session})")
        return answer.result(timeout=30).status_code


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the package has logged as an error."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("flask_uow.") and record.levelno == logging.ERROR
    ]


@pytest.mark.fault(
    "C7",
    fault="An administrator cancels a COMMIT that waits for a synchronous standby",
    then="The response is a success, and the log has an error: a failover may lose the work",
)
@every_driver
def test_canceled_wait_is_a_success_and_an_error_in_the_log(
    driver: str,
    make_app: MakeApp,
    db: Database,
    witness: Witness,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One line for each such commit, also on a connection that comes from the pool."""

    def create() -> str:
        name = f"user {len(witness.names())}"
        db.session.add(User(name=name))
        return name

    app = make_app(driver, create)
    for number in range(2):
        caplog.clear()
        assert post(app, witness, "pg_cancel_backend") == 200
        assert witness.names() == [f"user {n}" for n in range(number + 1)]
        if driver == "psycopg2":  # which hands no notice over
            assert told(caplog) == []
            continue
        [message] = told(caplog)
        assert "committed work of the engine 'default' and has not waited" in message
        assert "stored on this server" in message
        assert "canceling wait for synchronous replication due to user request" in message
    with app.app_context():
        db.engine.dispose()


@pytest.mark.fault(
    "C8",
    fault="The server ends the session while COMMIT waits for a standby",
    then="The error says that the outcome is unknown; here the work is stored",
)
@every_driver
def test_terminated_wait_is_an_error(
    driver: str,
    make_app: MakeApp,
    db: Database,
    witness: Witness,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The connection is gone, and the answer with it; the server's notice came before."""

    def create() -> str:
        db.session.add(User(name="ada"))
        return ""

    app = make_app(driver, create)
    assert post(app, witness, "pg_terminate_backend") == 500
    assert witness.names() == ["ada"]
    assert ["stored on this server" in message for message in told(caplog)] == (
        [True] if driver == "psycopg" else []
    )
    with app.app_context():
        assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        db.engine.dispose()


@every_driver
def test_other_notices_are_no_alarm(
    driver: str,
    make_app: MakeApp,
    db: Database,
    witness: Witness,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Notices and warnings of a view, and of what runs at its COMMIT."""
    notices = [
        "DO $$ BEGIN RAISE NOTICE 'synchronous, says the user'; END $$",
        "DO $$ BEGIN RAISE WARNING 'a warning' USING DETAIL = 'synchronous'; END $$",
        "DROP TABLE IF EXISTS nothing",
    ]

    def warn() -> str:
        db.session.execute(text("SET LOCAL synchronous_commit = local"))
        for notice in notices:
            db.session.execute(text(notice))
        return ""

    app = make_app(driver, warn)
    assert app.test_client().post("/").status_code == 200
    assert told(caplog) == []
    with app.app_context():
        db.engine.dispose()
