"""The servers as each of their drivers sees them, with one table to fight over."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, NullPool, create_engine, make_url
from sqlalchemy.exc import DBAPIError

from tests.support.witness import Witness

ON_POSTGRESQL = ["psycopg", "psycopg2"]
# mysqlclient has to be built, so it is not always there.
ON_MARIADB = ["pymysql", "mysqldb"] if find_spec("MySQLdb") else ["pymysql"]

_SET_UP = [
    "CREATE TABLE IF NOT EXISTS items (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)",
    "DELETE FROM items",
    "INSERT INTO items VALUES (1, 0), (2, 0)",
]


class Server:
    """One server by one driver, with a table ``items (id, n)`` that has the rows 1 and 2.

    :ivar url: with the driver under test.
    :ivar engine: a plain one, as SQLAlchemy makes it.
    :ivar witness: another driver's, perhaps; asks what is stored.
    """

    def __init__(self, url: str, witness: Witness) -> None:
        self.url = url
        self.engine = create_engine(url)
        self.witness = witness

    @property
    def driver(self) -> str:
        return self.engine.dialect.driver

    def set_up(self) -> None:
        """Make or empty the table; to make it anew takes a file system half a second."""
        with self.autocommit() as connection:
            for statement in _SET_UP:
                connection.exec_driver_sql(statement)

    def command(self, statement: str) -> None:
        """Run one statement by another connection, in a transaction of its own."""
        with self.autocommit() as connection:
            connection.exec_driver_sql(statement)

    @contextlib.contextmanager
    def autocommit(self) -> Iterator[Connection]:
        """Another connection, whose statements take effect one by one."""
        engine = self.witness.engine.execution_options(isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            yield connection

    def is_stored(self, number: int) -> bool:
        """Asked by another connection."""
        return bool(self.witness.ask("SELECT id FROM items WHERE id = :number", number=number))

    def other_engine(self, url: str | None = None, **options: Any) -> Engine:
        """An engine that pools nothing, for connections with other options."""
        return create_engine(url or self.url, poolclass=NullPool, **options)


def insert(connection: Connection, number: int) -> None:
    """Write a row in the transaction of *connection*."""
    connection.exec_driver_sql(f"INSERT INTO items VALUES ({number}, 0)")


def sees(connection: Connection, number: int) -> bool:
    """Is the row there for *connection* itself, in its own transaction?"""
    found = connection.exec_driver_sql(f"SELECT id FROM items WHERE id = {number}")
    return bool(found.all())


def failure(action: Callable[[], object]) -> DBAPIError:
    """The error that *action* has to raise."""
    with pytest.raises(DBAPIError) as caught:
        action()
    return caught.value


@pytest.fixture(params=ON_POSTGRESQL)
def postgresql(request: pytest.FixtureRequest, postgresql_url: str) -> Iterator[Server]:
    """PostgreSQL, by each of its drivers."""
    yield from _serve(postgresql_url, request.param)


@pytest.fixture(params=ON_MARIADB)
def mariadb(request: pytest.FixtureRequest, mariadb_url: str) -> Iterator[Server]:
    """MariaDB, by each of its drivers."""
    yield from _serve(mariadb_url, request.param)


@pytest.fixture(params=[*ON_POSTGRESQL, *ON_MARIADB])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Each server by each driver, for what is the same on all of them."""
    name = "postgresql_url" if request.param in ON_POSTGRESQL else "mariadb_url"
    yield from _serve(request.getfixturevalue(name), request.param)


def _serve(url: str, driver: str) -> Iterator[Server]:
    parsed = make_url(url)
    chosen = parsed.set(drivername=f"{parsed.get_backend_name()}+{driver}")
    if driver == "mysqldb":  # does not know the option
        chosen = chosen.difference_update_query(["ssl_disabled"])
    server = Server(chosen.render_as_string(hide_password=False), Witness(url))
    server.set_up()
    yield server
    server.engine.dispose()
