"""What the connections of a migration get, for how long, and who else has it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, QueuePool, create_engine, event, text
from sqlalchemy.exc import DBAPIError

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


@on("postgresql", "mariadb")
def test_statement_timeout_ends_a_slow_statement_and_is_named(started: Project) -> None:
    """The revision is rolled back."""
    slow = SLOW[started.backend]
    started.write_revision("slow", None, f'op.execute("{slow}")')
    result = started.flask("db", "upgrade", "--statement-timeout", "0.3")
    assert result.exit_code == 1
    assert "The revision slow (slow) failed" in result.output
    assert "(--statement-timeout is 0.3 s)" in result.output
    assert started.revision() is None


@on("postgresql")
def test_timeout_that_is_too_short_for_anything_is_named(started: Project) -> None:
    """Also where it ends a statement that is in no revision."""
    started.write_revision("slow", None, f'op.execute("{SLOW[started.backend]}")')
    result = started.flask("db", "upgrade", "--statement-timeout", "0.0001")
    assert result.exit_code == 1
    assert "(--statement-timeout is 0.0001 s)" in result.output


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
    """As that of a ``db.session`` that nobody has committed."""
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
    """And the message says so."""
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
    assert "within 0.3 s (--lock-timeout)" in result.output
    assert "UOW_SQLITE_BUSY_TIMEOUT" not in result.output
    assert seconds < 3


# Second connections --------------------------------------------------------------------------


@on("postgresql", "mariadb")
def test_session_of_the_app_does_not_wait_for_the_revision_for_ever(
    started: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``db.session`` is a second connection, and old revisions use it."""
    monkeypatch.setattr(timeouts, "_SECOND", 1.0)
    started.migrate(people)
    session = (
        "from flask import current_app\n"
        'db = current_app.extensions["uow_migrations"]\n'
        "db.session.execute(sa.text(\"INSERT INTO people (name) VALUES ('ada')\"))\n"
        "db.session.commit()\n"
    )
    down = started.revision()
    started.write_revision("alone", down, session)
    started.do("db", "upgrade")
    assert started.query("SELECT count(*) FROM people") == [(1,)]
    # PostgreSQL's DDL keeps its locks to the end of the transaction; MariaDB's commits.
    locking = {
        "postgresql": 'op.execute("ALTER TABLE people ADD age integer")\n',
        "mariadb": "op.get_bind().execute(sa.text(\"UPDATE people SET name = 'x'\"))\n"
        "op.get_bind().execute(sa.text('SELECT * FROM people FOR UPDATE'))\n",
    }[started.backend]
    if started.backend == "postgresql":  # the test shall end, whatever happens
        session = session.replace(
            "db.session.execute(",
            'db.session.execute(sa.text("SET statement_timeout = 8000"))\ndb.session.execute(',
            1,
        )
    started.write_revision("behind", "alone", locking + session)
    begun = time.monotonic()
    result = started.flask("db", "upgrade")
    assert result.exit_code == 1
    assert time.monotonic() - begun < 20
    assert "a second connection, as that of 'db.session', waits for what" in result.output
    assert "'op.get_bind()' or 'Session(op.get_bind())'" in result.output
    assert started.revision() == "alone"


@on("postgresql", "mariadb")
def test_second_connection_has_a_lock_timeout_and_the_first_has_none(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has set a shorter one keeps it; one of the command line is for both."""
    name = "lock_timeout" if database.name == "postgresql" else "lock_wait_timeout"
    ask = f"SELECT {SETTINGS[database.name][name]}"
    engine = create_engine(database.url, poolclass=QueuePool)

    def both() -> list[int]:
        with engine.connect() as one, engine.connect() as two:
            return [seconds_of(scalar(connection, ask)) for connection in (one, two)]

    before = both()
    with prepared(engine):
        assert both() == [before[0], 10]
        assert both() == [before[0], 10]
        monkeypatch.setattr(timeouts, "_SECOND", 1_000_000.0)
        usual = 1_000_000 if database.name == "postgresql" else before[0]
        assert both() == [before[0], usual]
    with prepared(engine, lock=20):
        assert both() == [20, 20]
    assert both() == before
    engine.dispose()


def seconds_of(value: Any) -> int:
    units = {"s": 1, "min": 60, "h": 3600, "d": 86400}
    digits = str(value).rstrip("mindhs")
    return int(digits) * units.get(str(value)[len(digits) :], 1)


# Errors --------------------------------------------------------------------------------------


@on("postgresql")
def test_errors_of_others_keep_their_words(database: TestDatabase) -> None:
    """Of other threads, and after the migration."""
    engine = create_engine(database.url)

    def fail() -> str:
        with engine.connect() as connection:
            connection.exec_driver_sql("SET LOCAL statement_timeout = 20")
            with pytest.raises(DBAPIError) as caught:
                connection.exec_driver_sql(SLOW[engine.dialect.name])
        return str(caught.value)

    found: list[str] = []
    with prepared(engine, statement=5):
        _in_thread(lambda: found.append(fail()))
    found.append(fail())
    engine.dispose()
    assert len(found) == 2
    assert not any("--statement-timeout" in one for one in found)


def _in_thread(function: Callable[[], object]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()
