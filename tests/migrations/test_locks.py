"""The lock: it is held, it holds no snapshot, and it is noticed when it is lost."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Engine, NullPool, create_engine

from flask_uow.errors import MigrationLocked
from flask_uow.migrations._run import lock
from tests.migrations.projects import Project
from tests.support.databases import TestDatabase, concurrently, on

# Ends every other session in the database, as an administrator or a proxy does it.
KILL = """
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ))
    else:
        for session, in connection.execute(sa.text(
            "SELECT id FROM information_schema.processlist"
            " WHERE db = DATABASE() AND id <> CONNECTION_ID()"
        )).all():
            connection.exec_driver_sql(f"KILL {session}")
"""


def no_wait(sentence: str) -> None:
    raise AssertionError(sentence)


def engine_of(url: str) -> Engine:
    return create_engine(url, poolclass=NullPool)


@contextmanager
def held(*engines: Engine, timeout: float = 5.0) -> Iterator[lock.Confirm]:
    """The locks of *engines*; no other process is in the way."""
    named = {str(number): engine for number, engine in enumerate(engines)}
    with lock.held(named, timeout, no_wait) as confirm:
        yield confirm


def is_free(engine: Engine) -> bool:
    try:
        with lock.held({"other": engine}, 0, lambda _: None):
            return True
    except MigrationLocked:
        return False


# Lost locks ----------------------------------------------------------------------------------


@on("postgresql", "mariadb")
def test_nothing_more_is_run_when_the_lock_is_lost(
    started: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """It ends with one sentence; the dead connection is closed without a word."""
    started.write_revision("a", None, KILL + '\n    op.execute("CREATE TABLE a (i int)")')
    started.write_revision("b", "a", 'op.execute("CREATE TABLE b (i int)")')
    result = started.flask("db", "upgrade")
    assert result.exit_code == 1
    assert "was lost: the server has ended the session that held it" in result.output
    assert "Nothing more was run here. Write the same command again." in result.output
    assert "Traceback" not in result.output
    assert "Exception" not in result.output
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert started.tables() == {"a"}
    assert started.revision() == "a"
    started.do("db", "upgrade")
    assert started.revision() == "b"


@on("postgresql", "mariadb")
def test_lock_that_is_lost_in_the_last_revision_is_closed_without_a_word(
    started: Project, caplog: pytest.LogCaptureFixture
) -> None:
    started.write_revision("a", None, KILL)
    result = started.flask("db", "upgrade")
    assert result.exit_code == 0
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert started.revision() == "a"


@concurrently
def test_lock_that_is_held_is_confirmed(database: TestDatabase) -> None:
    engine = engine_of(database.url)
    with held(engine) as confirm:
        confirm()
        confirm()
        assert not is_free(engine)
    assert is_free(engine)


@on("postgresql")
def test_lock_holds_no_snapshot(database: TestDatabase) -> None:
    """``CREATE INDEX CONCURRENTLY`` would wait for it for ever; also after it was confirmed."""
    engine = engine_of(database.url)
    with held(engine) as confirm:
        for _ in range(2):  # before it was confirmed, and after
            with engine.connect() as other:
                found = other.exec_driver_sql(
                    "SELECT backend_xmin FROM pg_stat_activity WHERE state = 'idle in transaction'"
                    " AND datname = current_database() AND pid <> pg_backend_pid()"
                )
                assert found.all() == [(None,)]
            confirm()
