"""A database for each process that runs tests, so that they can run side by side.

On PostgreSQL the tables are created once, in a template that the databases of all processes are
copied from. The processes of one run find each other by the name of the run, and the last one drops
the template: each holds an advisory lock as long as it needs it.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    NullPool,
    StaticPool,
    create_engine,
    make_url,
    text,
)

from ..errors import IsolationError


@contextmanager
def worker_database(
    url: str | URL, create: Callable[[Engine], object], *, worker: str | None = None
) -> Iterator[str]:
    """Create a database for this process, and drop it at the end.

    ::

        @pytest.fixture(scope="session")
        def database_url():
            with testing.worker_database("postgresql:///shop", Base.metadata.create_all) as url:
                yield url

    A database that has its name, perhaps of a run that was killed, is dropped first.

    :param url: names the server, and the beginning of the new name: ``shop`` becomes
        ``shop_test_gw0``. The database ``shop`` itself is not touched, and need not exist. For
        SQLite the new file is beside it.
    :param create: creates the tables, and the rows that every test needs. On PostgreSQL it runs
        once for all processes of ``pytest-xdist``.
    :param worker: the name of this process; by default that of ``pytest-xdist``, or ``"main"``.
    :returns: the URL of the new database, with its password, for ``SQLALCHEMY_DATABASE_URI``.
    :raises IsolationError: the server is none of PostgreSQL, MariaDB, MySQL and SQLite.
    """
    base = make_url(url)
    worker = worker or os.environ.get("PYTEST_XDIST_WORKER", "main")
    name = f"{_stem(base)}_test_{worker}"
    kind = base.get_backend_name()
    if kind == "sqlite":
        made = _sqlite(base, name, create)
    elif kind == "postgresql":
        made = _postgresql(base, name, create)
    elif kind in {"mysql", "mariadb"}:
        made = _mysql(base, name, create)
    else:
        raise IsolationError(
            f"'worker_database()' cannot create databases of {kind!r}: it knows PostgreSQL,"
            " MariaDB, MySQL and SQLite. Create one for each worker by hand, and give its URL to"
            " the app."
        )
    with made as new:
        yield new.render_as_string(hide_password=False)


def _stem(url: URL) -> str:
    return (
        Path(url.database or "app").stem
        if url.get_backend_name() == "sqlite"
        else (url.database or "app")
    )


@contextmanager
def _sqlite(base: URL, name: str, create: Callable[[Engine], object]) -> Iterator[URL]:
    path = Path(base.database or "app.db").with_name(f"{name}.db")
    files = [path, *(path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal"))]

    def remove() -> None:
        for file in files:
            file.unlink(missing_ok=True)

    remove()
    new = base.set(database=str(path))
    try:
        _fill(new, create)
        yield new
    finally:
        remove()


@contextmanager
def _mysql(base: URL, name: str, create: Callable[[Engine], object]) -> Iterator[URL]:
    with _server(base.set(database="")) as connection:
        _recreate(connection, name)
        try:
            _fill(base.set(database=name), create)
            yield base.set(database=name)
        finally:
            connection.execute(text(f"DROP DATABASE IF EXISTS {_quoted(connection, name)}"))


@contextmanager
def _postgresql(base: URL, name: str, create: Callable[[Engine], object]) -> Iterator[URL]:
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    template = f"{_stem(base)}_template_{zlib.crc32(run.encode()):08x}"
    with _server(base.set(database="postgres")) as connection:
        with _lock(connection, template, shared=True):
            with _lock(connection, f"{template} is created"):
                if not _exists(connection, template):
                    _create_template(connection, base, template, create)
                _recreate(connection, name, f"TEMPLATE {_quoted(connection, template)}")
            try:
                yield base.set(database=name)
            finally:
                _drop(connection, name)
        if _try_lock(connection, template):  # the last one of the run
            _drop(connection, template)


def _create_template(
    connection: Connection, base: URL, template: str, create: Callable[[Engine], object]
) -> None:
    _recreate(connection, template)
    try:
        _fill(base.set(database=template), create)
    except BaseException:
        _drop(connection, template)  # half of the tables would be taken for all of them
        raise


def _fill(url: URL, create: Callable[[Engine], object]) -> None:
    engine = create_engine(url, poolclass=NullPool)  # a template may have no connections
    try:
        create(engine)
    finally:
        engine.dispose()


@contextmanager
def _server(url: URL) -> Iterator[Connection]:
    engine = create_engine(url, poolclass=StaticPool, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _quoted(connection: Connection, name: str) -> str:
    return connection.dialect.identifier_preparer.quote(name)


def _recreate(connection: Connection, name: str, options: str = "") -> None:
    _drop(connection, name)
    connection.execute(text(f"CREATE DATABASE {_quoted(connection, name)} {options}"))


def _drop(connection: Connection, name: str) -> None:
    # A test may have left a connection open.
    force = " WITH (FORCE)" if connection.dialect.name == "postgresql" else ""
    connection.execute(text(f"DROP DATABASE IF EXISTS {_quoted(connection, name)}{force}"))


def _exists(connection: Connection, name: str) -> bool:
    query = text("SELECT 1 FROM pg_database WHERE datname = :name")
    return connection.execute(query, {"name": name}).scalar() is not None


# Advisory locks of PostgreSQL, by the hash of a name. They end with the connection.


@contextmanager
def _lock(connection: Connection, name: str, *, shared: bool = False) -> Iterator[None]:
    kind = "_shared" if shared else ""
    connection.execute(text(f"SELECT pg_advisory_lock{kind}(hashtext(:name))"), {"name": name})
    try:
        yield
    finally:
        with suppress(Exception):  # the connection may be lost, and the lock with it
            unlock = text(f"SELECT pg_advisory_unlock{kind}(hashtext(:name))")
            connection.execute(unlock, {"name": name})


def _try_lock(connection: Connection, name: str) -> bool:
    query = text("SELECT pg_try_advisory_lock(hashtext(:name))")
    return bool(connection.execute(query, {"name": name}).scalar())
