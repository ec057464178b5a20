"""Drivers that the other tests do not install: what an error handler learns from their errors."""

from __future__ import annotations

from importlib import import_module

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import DBAPIError

from flask_uow import Database, Flask
from flask_uow.errors import constraint_of, is_transient
from tests.promises.test_what_went_wrong import (
    SHORT_WAIT,
    Base,
    app,
    db,
    in_thread,
    test_every_database_tells_the_same_name,
)
from tests.support import databases
from tests.support.witness import Witness

# The fixtures and the test of the other module run here with the drivers below.
__all__ = ["app", "db", "test_every_database_tells_the_same_name"]

_MODULES = {
    "postgresql+pg8000": "pg8000",
    "mysql+mysqlconnector": "mysql.connector",
    "mysql+mysqldb": "MySQLdb",
    "mariadb+mariadbconnector": "mariadb",
}


@pytest.fixture(params=_MODULES)
def url(request: pytest.FixtureRequest) -> str:
    try:
        import_module(_MODULES[request.param])
    except ImportError as error:
        pytest.skip(f"{request.param}: {error}")
    backend = "postgresql" if "postgresql" in request.param else "mariadb"
    server = request.getfixturevalue(f"{backend}_url")
    databases.wipe(server, Base.metadata)
    address = make_url(server).set(drivername=request.param)
    address = address.difference_update_query(["ssl_disabled", "charset"])
    return address.render_as_string(hide_password=False)


@pytest.fixture
def witness(url: str) -> Witness:
    return Witness(url)


def test_a_conflict_and_a_server_that_is_away_are_transient(url: str, app: object) -> None:
    """A lock timeout, and a port on which nothing listens."""
    engine = create_engine(url)
    found: list[BaseException] = []
    timeout = SHORT_WAIT[engine.dialect.name]

    def write() -> None:
        with engine.connect() as connection:
            connection.execute(text(timeout))
            with pytest.raises(DBAPIError) as caught:
                connection.execute(text("UPDATE persons SET age = 2"))
            found.append(caught.value)

    with engine.begin() as connection:
        connection.execute(text("UPDATE persons SET age = 3"))
        in_thread(write)
    away = make_url(url).set(host="127.0.0.1", port=1).difference_update_query(["unix_socket"])
    with pytest.raises(DBAPIError) as caught:
        create_engine(away).connect()
    engine.dispose()
    for error in (*found, caught.value):
        assert is_transient(error), repr(error)
        assert constraint_of(error) is None
    assert len(found) == 1


def test_a_view_is_run_again_after_a_lock_timeout(
    url: str, app: Flask, db: Database, witness: Witness
) -> None:
    """``retries`` knows the conflicts of these drivers as well."""
    holder = create_engine(url).connect()
    holder.execute(text("UPDATE persons SET age = 3"))
    attempts: list[int] = []

    @app.post("/")
    @db.unit(retries=1)
    def view() -> str:
        attempts.append(1)
        if len(attempts) == 2:
            holder.rollback()
        db.session.execute(text(SHORT_WAIT[db.engine.dialect.name]))
        db.session.execute(text("UPDATE persons SET age = age + 1"))
        return ""

    assert app.test_client().post("/").status_code == 200
    assert len(attempts) == 2
    assert witness.ask("SELECT age FROM persons") == [2]
    holder.close()
    holder.engine.dispose()
