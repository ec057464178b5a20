"""What the page about deployment says of PgBouncer in transaction mode, through a real one."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, func, make_url, select, text
from sqlalchemy.exc import OperationalError

from flask_uow import Database, Flask
from flask_uow.errors import is_transient
from tests.docs.pages import DOCS
from tests.servers.serving import eventually
from tests.support import databases
from tests.support.models import Base, User
from tests.support.witness import Witness

pytestmark = pytest.mark.slow

PAGE = (DOCS / "how-to" / "deployment.md").read_text(encoding="utf-8")
INI = """
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
query_wait_timeout = 1
server_login_retry = 1
logfile = {folder}/log
pidfile = {folder}/pid
"""


@pytest.fixture
def witness(postgresql_url: str) -> Iterator[Witness]:
    with databases.own_database(postgresql_url) as url:
        yield Witness(url)


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that another user than root can read and write: PgBouncer does not run as root."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.fixture
def through_pgbouncer(witness: Witness, folder: Path) -> Iterator[URL]:
    """The URL of the database of *witness*, by way of a PgBouncer with three connections."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("there is no program 'pgbouncer'")
    url = witness.engine.url
    with socket.create_server(("127.0.0.1", 0)) as found:
        listen = found.getsockname()[1]
    server = {
        "host": url.query.get("host") or url.host,
        "port": url.query.get("port") or url.port or 5432,
        "user": url.username or "postgres",
    }
    (folder / "ini").write_text(INI.format(**server, listen=listen, folder=folder))
    user: Any = {"user": "postgres"} if os.getuid() == 0 else {}
    process = subprocess.Popen([program, str(folder / "ini")], cwd=folder, **user)

    def accepts() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", listen)) == 0

    try:
        assert eventually(accepts)
        yield make_url(f"postgresql+psycopg://postgres@127.0.0.1:{listen}/{url.database}")
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def app(through_pgbouncer: URL) -> Flask:
    """With the setting of the page."""
    (setting,) = re.findall(r'^app\.config\["SQLALCHEMY_ENGINE_OPTIONS"\] = .+$', PAGE, re.M)
    app = Flask("deployed")
    exec(setting, {"app": app})
    app.config.update(SQLALCHEMY_DATABASE_URI=through_pgbouncer)
    return app


@pytest.fixture
def db(app: Flask) -> Database:
    db = Database(Base)
    db.init_app(app)
    with app.app_context():
        db.create_all()
    return db


def test_requests_of_many_threads_are_stored(app: Flask, db: Database, witness: Witness) -> None:
    """More statements than psycopg runs before it prepares one, on three connections."""

    @app.post("/<name>")
    def create(name: str) -> tuple[str, int]:
        db.session.add(User(name=name))
        db.session.flush()
        db.session.scalar(select(func.count()).select_from(User))
        return "", 201

    @app.get("/<name>")
    def show(name: str) -> str:
        return db.session.scalars(select(User.name).where(User.name == name)).one()

    def work(thread: int) -> list[int]:
        client, names = app.test_client(), [f"{thread}-{number}" for number in range(20)]
        made = [client.post(f"/{name}").status_code for name in names]
        return made + [client.get(f"/{name}").status_code for name in names]

    with ThreadPoolExecutor(8) as threads:
        statuses = list(threads.map(work, range(8)))
    assert statuses == [[201] * 20 + [200] * 20] * 8
    assert len(witness.names()) == 160


def test_what_the_table_says(app: Flask, db: Database) -> None:
    """What works in transaction mode; a 'SET' is there for the next client."""
    with app.app_context():
        with db.atomic(isolation_level="SERIALIZABLE"):
            assert db.session.scalar(text("SHOW transaction_isolation")) == "serializable"
        with db.atomic(read_only=True):
            assert db.session.scalar(text("SHOW transaction_read_only")) == "on"
        with db.atomic():
            db.session.add(User(name="ada"))
            db.session.flush()
            with db.atomic():
                db.session.add(User(name="grace"))
        names = select(User.name).order_by(User.id).execution_options(yield_per=1)
        with db.atomic():
            assert list(db.session.scalars(names)) == ["ada", "grace"]
            assert db.session.scalar(text("SELECT pg_try_advisory_xact_lock(1)")) is True
            db.session.execute(text("SET LOCAL statement_timeout = '7s'"))
        assert seen(db) == {"0"}
        with db.atomic():
            db.session.execute(text("SET statement_timeout = '7s'"))
        assert seen(db) == {"7s"}


def seen(db: Database) -> set[str]:
    """The settings that the next transactions find."""
    found = set()
    for _ in range(5):
        with db.engine.connect() as connection:
            found.add(str(connection.scalar(text("SHOW statement_timeout"))))
    return found


def test_a_request_that_waits_too_long_is_transient(app: Flask, db: Database) -> None:
    """After ``query_wait_timeout``, while others have the three connections."""
    with app.app_context(), contextlib.ExitStack() as held:
        for _ in range(3):
            held.enter_context(db.engine.connect()).execute(text("SELECT 1"))
        with pytest.raises(OperationalError) as caught:
            db.session.scalar(select(1))
    assert is_transient(caught.value)


def test_startup_options_are_refused(app: Flask, through_pgbouncer: URL) -> None:
    """So the page says 'ALTER ROLE'."""
    other = Flask("other")
    options = {"connect_args": {"options": "-c statement_timeout=1s"}}
    other.config.update(
        SQLALCHEMY_DATABASE_URI=through_pgbouncer, SQLALCHEMY_ENGINE_OPTIONS=options
    )
    db = Database(Base)
    db.init_app(other)
    with other.app_context(), pytest.raises(OperationalError, match="unsupported startup"):
        db.session.scalar(select(1))
