"""What the connections of a migration get, for how long, and who else has it."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, QueuePool, create_engine, event, text

from flask_uow import Flask
from flask_uow.migrations import Migrations
from flask_uow.migrations._run import timeouts
from tests.migrations.projects import Project, people
from tests.support.databases import TestDatabase, anywhere, on


def scalar(connection: Connection, statement: str) -> Any:
    found = connection.execute(text(statement)).scalar()
    connection.rollback()
    return found


def prepared(engine: Engine, lock: float | None = None, statement: float | None = None) -> Any:
    return timeouts.prepared({"default": engine}, lock_timeout=lock, statement_timeout=statement)


SETTINGS = {
    "postgresql": {
        "statement_timeout": "current_setting('statement_timeout')",
        "lock_timeout": "current_setting('lock_timeout')",
    },
    "mariadb": {
        "max_statement_time": "@@max_statement_time",
        "lock_wait_timeout": "@@lock_wait_timeout",
        "innodb_lock_wait_timeout": "@@innodb_lock_wait_timeout",
    },
}


def settings(connection: Connection) -> list[str]:
    columns = SETTINGS[connection.dialect.name].values()
    return [str(scalar(connection, f"SELECT {column}")) for column in columns]


@pytest.fixture
def engine(database: TestDatabase) -> Any:
    """One connection, and a second one if it is asked for; the app has set its own timeouts."""
    engine = create_engine(database.url, poolclass=QueuePool, pool_size=2)

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _record: object) -> None:
        values = {
            "postgresql": ["statement_timeout = 7777", "lock_timeout = '33s'"],
            "mariadb": [
                "max_statement_time = 7.5",
                "lock_wait_timeout = 33",
                "innodb_lock_wait_timeout = 34",
            ],
        }
        with connection.cursor() as cursor:
            for value in values[engine.dialect.name]:
                cursor.execute(f"SET SESSION {value}")
        connection.commit()

    yield engine
    engine.dispose()


# Timeouts ------------------------------------------------------------------------------------


@on("postgresql", "mariadb")
def test_timeouts_are_set_and_what_was_set_before_is_put_back(engine: Engine) -> None:
    """Fractions of a second, too, where the server has them."""
    with engine.connect() as connection:
        before = settings(connection)
    with prepared(engine, lock=4.3, statement=0.4):
        with engine.connect() as connection:
            during = settings(connection)
        with engine.connect() as connection:
            assert settings(connection) == during
    with engine.connect() as connection:
        assert settings(connection) == before
    if engine.dialect.name == "postgresql":
        assert before == ["7777ms", "33s"]
        assert during == ["400ms", "4300ms"]
    else:
        assert [float(one) for one in before] == [7.5, 33, 34]
        assert [float(one) for one in during] == [0.4, 5, 5]


@on("postgresql", "mariadb")
def test_other_threads_get_connections_as_ever(engine: Engine) -> None:
    """Requests may be running in them."""
    found: list[list[str]] = []

    def ask() -> None:
        with engine.connect() as connection:
            found.append(settings(connection))

    with engine.connect() as connection:
        before = settings(connection)
    with prepared(engine, lock=1, statement=2):
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    assert found == [before]


SLOW = {
    "postgresql": "SELECT pg_sleep(5)",
    "mariadb": "SELECT count(*) FROM seq_1_to_60000000 WHERE MOD(seq, 7) = 3",
}
TIMED_OUT = {"postgresql": "due to statement timeout", "mariadb": "max_statement_time exceeded"}


@on("postgresql", "mariadb")
def test_statement_timeout_ends_a_slow_statement(started: Project) -> None:
    """The revision is rolled back."""
    slow = SLOW[started.backend]
    started.write_revision("slow", None, f'op.execute("{slow}")')
    result = started.flask("db", "upgrade", "--statement-timeout", "0.3")
    assert result.exit_code == 1
    assert "The revision slow (slow) failed" in result.output
    assert TIMED_OUT[started.backend] in result.output
    assert started.revision() is None


# SQLite --------------------------------------------------------------------------------------


def in_its_process(project: Project, **options: Any) -> tuple[Flask, Engine]:
    app = project.app()
    with app.app_context():
        Migrations().upgrade(**options)
        return app, app.extensions["uow"].engines["default"]


@anywhere
def test_sqlite_enforces_foreign_keys_again_and_waits_as_before(started: Project) -> None:
    """After an upgrade in the process of the app."""
    started.write_revision("one", None, "pass")
    _, engine = in_its_process(started, lock_timeout=0.2)
    with engine.connect() as connection:
        assert scalar(connection, "PRAGMA foreign_keys") == 1
        assert scalar(connection, "PRAGMA busy_timeout") == 5000
        driver: Any = connection.connection.dbapi_connection
        assert driver.timeout == 5.0
    engine.dispose()


@anywhere
def test_connection_that_a_revision_leaves_open_is_restored_when_it_goes_back(
    started: Project,
) -> None:
    """As that of a ``db.session`` that was not committed."""
    started.write_revision(
        "one",
        None,
        "from flask import current_app\n"
        'db = current_app.extensions["uow_migrations"]\n'
        'assert db.session.execute(sa.text("PRAGMA foreign_keys")).scalar() == 0',
    )
    _, engine = in_its_process(started)  # its context has ended, and so has the session
    connections = [engine.connect() for _ in range(2)]
    assert [scalar(one, "PRAGMA foreign_keys") for one in connections] == [1, 1]
    for one in connections:
        one.close()
    engine.dispose()


@anywhere
def test_lock_timeout_is_for_the_lock_of_a_sqlite_file_too(started: Project) -> None:
    started.migrate(people)  # from here on the file is in WAL mode, and can be read
    started.write_revision("one", started.revision(), "pass")
    other = create_engine(started.url)
    with other.connect() as writer:
        writer.exec_driver_sql("BEGIN IMMEDIATE")
        begun = time.monotonic()
        result = started.flask("db", "upgrade", "--lock-timeout", "0.3")
        seconds = time.monotonic() - begun
    other.dispose()
    assert result.exit_code == 1
    assert "database is locked" in result.output
    assert seconds < 4  # without the option: the busy timeout, 5


# Second connections --------------------------------------------------------------------------


@on("postgresql", "mariadb")
def test_session_of_the_app_does_not_wait_for_the_revision_without_end(
    started: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``db.session`` is a second connection. It works, unless it waits for the first one."""
    monkeypatch.setattr(timeouts, "_SECOND", 1.0)
    started.migrate(people)
    session = (
        "from flask import current_app\n"
        'db = current_app.extensions["uow_migrations"]\n'
        "db.session.execute(sa.text(\"INSERT INTO people (name) VALUES ('ada')\"))\n"
        "db.session.commit()\n"
    )
    started.write_revision("alone", started.revision(), session)
    started.do("db", "upgrade")
    assert started.query("SELECT count(*) FROM people") == [(1,)]
    # The DDL of PostgreSQL keeps its locks to the end of the transaction; MariaDB's commits.
    locking = {
        "postgresql": 'op.execute("ALTER TABLE people ADD age integer")\n',
        "mariadb": "op.get_bind().execute(sa.text(\"UPDATE people SET name = 'x'\"))\n"
        "op.get_bind().execute(sa.text('SELECT * FROM people FOR UPDATE'))\n",
    }[started.backend]
    started.write_revision("waits", "alone", locking + session)
    begun = time.monotonic()
    result = started.flask("db", "upgrade")
    assert result.exit_code == 1
    assert time.monotonic() - begun < 20
    assert "If the revision uses 'db.session', that is a second connection" in result.output
    assert started.revision() == "alone"


@on("postgresql", "mariadb")
def test_second_connection_has_a_lock_timeout_and_the_first_has_none(
    database: TestDatabase,
) -> None:
    """A timeout of the command line is for both; afterwards the app has its own again."""
    name = "lock_timeout" if database.name == "postgresql" else "lock_wait_timeout"
    engine = create_engine(database.url, poolclass=QueuePool)
    ask = f"SELECT {SETTINGS[database.name][name]}"

    def both() -> list[str]:
        with engine.connect() as one, engine.connect() as two:
            return [str(scalar(connection, ask)).rstrip("s") for connection in (one, two)]

    usual, _ = both()
    with prepared(engine):
        assert both() == [usual, "10"]
        assert both() == [usual, "10"]
    with prepared(engine, lock=20):
        assert both() == ["20", "20"]
    assert both() == [usual, usual]
    engine.dispose()
