"""``testing.worker_database()``: a database for each process that runs tests."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, NullPool, create_engine, inspect, make_url, select
from sqlalchemy.exc import DBAPIError

from flask_uow import IsolationError, testing
from tests.support.databases import TestDatabase, concurrently, on
from tests.support.models import Base, User


def engine_of(url: str) -> Engine:
    return create_engine(url, poolclass=NullPool)


@concurrently
def test_each_worker_has_its_tables(database: TestDatabase) -> None:
    """They do not see each other's rows, and the database that names them is not touched."""
    untouched = inspect(engine_of(database.url)).get_table_names()
    with ExitStack() as stack:
        urls = [
            stack.enter_context(
                testing.worker_database(database.url, Base.metadata.create_all, worker=worker)
            )
            for worker in ("gw0", "gw1")
        ]
        names = [make_url(url).database for url in urls]
        assert len({*names, make_url(database.url).database}) == 3
        with engine_of(urls[0]).begin() as connection:
            connection.execute(User.__table__.insert(), {"name": "ada"})  # type: ignore[attr-defined]
        for url, found in zip(urls, [["ada"], []], strict=True):
            with engine_of(url).connect() as connection:
                assert connection.scalars(select(User.name)).all() == found
        assert inspect(engine_of(database.url)).get_table_names() == untouched
    for url in urls:
        if database.name == "sqlite-file":
            assert not Path(make_url(url).database or "").exists()
        else:
            with pytest.raises(DBAPIError):
                engine_of(url).connect()


@concurrently
def test_what_is_left_of_a_run_that_was_killed_is_dropped(database: TestDatabase) -> None:
    """The second one begins without the rows of the first."""
    first = testing.worker_database(database.url, Base.metadata.create_all, worker="main")
    with engine_of(first.__enter__()).begin() as connection:
        connection.execute(User.__table__.insert(), {"name": "ada"})  # type: ignore[attr-defined]
    with testing.worker_database(database.url, Base.metadata.create_all, worker="main") as url:
        with engine_of(url).connect() as connection:
            assert connection.scalars(select(User.name)).all() == []
    first.__exit__(None, None, None)


@concurrently
def test_an_open_connection_does_not_keep_it(database: TestDatabase) -> None:
    """A test that forgot to close one does not make the end of the run hang."""
    with testing.worker_database(database.url, Base.metadata.create_all, worker="main") as url:
        connection = engine_of(url).connect()
        connection.execute(select(User))
        if database.name == "mariadb":
            connection.rollback()  # DROP waits for the lock of its transaction there
    connection.invalidate()
    connection.close()


@on("postgresql")
def test_a_template_that_fails_leaves_nothing(database: TestDatabase) -> None:
    """Half of the tables would be taken for all of them."""

    def create(engine: Engine) -> None:
        Base.metadata.create_all(engine)
        raise ZeroDivisionError

    before = databases_of(database.url)
    with pytest.raises(ZeroDivisionError):
        testing.worker_database(database.url, create).__enter__()
    assert databases_of(database.url) == before


PROGRAM = """
import sys, time
from flask_uow import testing
from tests.support.models import Base

def create(engine):
    print("created", flush=True)
    time.sleep(0.3)
    Base.metadata.create_all(engine)

with testing.worker_database(sys.argv[1], create, worker=sys.argv[2]) as url:
    print("ready", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.slow
@on("postgresql")
def test_the_processes_of_a_run_share_a_template(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is created once, and the last process drops it."""
    monkeypatch.setenv("PYTEST_XDIST_TESTRUNUID", "a run of three")
    before = databases_of(database.url)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, database.url, f"gw{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    shown: list[str] = []
    for process in processes:
        while not shown or shown[-1] != "ready":
            shown.append(line_of(process))
        shown.append("")
    assert len(databases_of(database.url)) == len(before) + 4
    for process in processes:
        process.communicate("\n", timeout=60)
    assert shown.count("created") == 1
    assert shown.count("ready") == 3
    assert databases_of(database.url) == before


def line_of(process: Any) -> str:
    line: str = process.stdout.readline().strip()
    assert line, "the process has ended"
    return line


def databases_of(url: str) -> set[str]:
    with engine_of(url).connect() as connection:
        return set(connection.exec_driver_sql("SELECT datname FROM pg_database").scalars())


def test_another_server_is_refused() -> None:
    """In words."""
    with pytest.raises(IsolationError, match="databases of 'oracle'"):
        testing.worker_database("oracle://user@server/x", print).__enter__()
