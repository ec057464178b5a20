"""One folder for several engines: one command, each engine in order, each its own transactions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, Table

from tests.migrations.projects import Project, people
from tests.support.databases import anywhere, concurrently


def entries(metadata: MetaData, *more: Any) -> None:
    key = Column("id", Integer, primary_key=True)
    Table("entries", metadata, key, *more, info={"bind_key": "audit"})


def both(metadata: MetaData) -> None:
    people(metadata)
    entries(metadata)


def more_of_both(metadata: MetaData) -> None:
    people(metadata, Column("age", Integer))
    entries(metadata, Column("n", Integer))


@pytest.fixture
def audit(started: Project, tmp_path: Path) -> str:
    """The URL of a second engine of the project."""
    url = f"sqlite:///{tmp_path / 'audit.db'}"
    started.binds = {"audit": url}
    return url


@concurrently
def test_one_command_migrates_every_engine(started: Project, audit: str) -> None:
    """There, back, and again; each table only where it belongs."""
    text = started.migrate(both)
    assert "def upgrade_default():" in text
    assert "def upgrade_audit():" in text
    assert (started.tables(), started.tables(audit)) == ({"people"}, {"entries"})
    assert started.revision() == started.revision(audit)
    started.migrate(more_of_both)
    assert "up to date" in started.do("db", "check", models=more_of_both)
    assert "No file" in started.do("db", "migrate", models=more_of_both)
    started.do("db", "downgrade", "base", models=more_of_both)
    assert (started.tables(), started.tables(audit)) == (set(), set())
    output = started.do("db", "upgrade", models=more_of_both)
    assert [line.partition(":")[0] for line in output.splitlines()] == ["default"] * 2 + [
        "audit"
    ] * 2


@anywhere
def test_engine_that_fails_leaves_the_ones_before_it_migrated(started: Project, audit: str) -> None:
    """Databases cannot undo each other; the next ``upgrade`` goes on where it stopped."""
    started.do("db", "migrate", "-m", "both", models=both)
    path = started.versions[0]
    good = path.read_text()
    path.write_text(good.replace("def upgrade_audit():", "def upgrade_audit():\n    1 / 0", 1))
    result = started.flask("db", "upgrade", models=both)
    assert result.exit_code == 1
    assert "ZeroDivisionError" in result.output
    assert "on the engine 'audit'" in result.output
    assert (started.tables(), started.tables(audit)) == ({"people"}, set())
    status = started.flask("db", "status", models=both)
    assert status.exit_code == 1
    path.write_text(good)
    output = started.do("db", "upgrade", models=both)
    assert output.startswith("audit: upgrade")
    assert len(output.splitlines()) == 1


@anywhere
def test_second_engine_may_come_later(started: Project, tmp_path: Path) -> None:
    """Files that were written for one engine say nothing about the second."""
    started.migrate(people)
    url = f"sqlite:///{tmp_path / 'audit.db'}"
    started.binds = {"audit": url}
    started.do("db", "upgrade", models=both)
    assert started.tables(url) == set()
    started.migrate(both)
    assert started.tables(url) == {"entries"}
    started.do("db", "downgrade", "base", models=both)
    assert (started.tables(), started.tables(url)) == (set(), set())


@anywhere
def test_engine_may_be_left_out(started: Project, audit: str) -> None:
    """``UOW_MIGRATIONS["engines"]`` names those that are migrated."""
    app = started.app(both, UOW_MIGRATIONS={"engines": [None]})
    assert started.flask("db", "migrate", app=app).exit_code == 0
    started.flask("db", "upgrade", app=started.app(both, UOW_MIGRATIONS={"engines": ["default"]}))
    assert (started.tables(), started.tables(audit)) == ({"people"}, set())


@concurrently
def test_two_engines_on_one_database_take_its_lock_once(started: Project) -> None:
    """Nobody waits for himself."""
    started.binds = {"again": started.url}
    started.do("db", "revision", "-m", "empty")
    assert started.flask("db", "upgrade", "--lock-timeout", "1").exit_code == 0


@anywhere
def test_sql_of_several_engines_goes_to_a_file_for_each(started: Project, audit: str) -> None:
    """Nobody can pipe one text into two databases."""
    started.do("db", "migrate", models=both)
    started.do("db", "upgrade", "--sql", models=both)
    assert "CREATE TABLE people" in Path("default.sql").read_text()
    assert "CREATE TABLE entries" in Path("audit.sql").read_text()


@anywhere
def test_downgrade_leaves_an_engine_alone_that_is_at_the_start(
    started: Project, audit: str
) -> None:
    """``-1`` is the last revision of each engine that has one."""
    started.migrate(both)
    started.query("DELETE FROM alembic_version", audit)
    started.do("db", "downgrade", models=both)
    assert (started.tables(), started.tables(audit)) == (set(), {"entries"})
