"""One folder for several engines: one command, each engine in order, each its own transactions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, Table

from flask_uow.migrations import Migrations
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
    assert "def upgrade_default() -> None:" in text
    assert "def upgrade_audit() -> None:" in text
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
    head = "def upgrade_audit() -> None:"
    path.write_text(good.replace(head, f"{head}\n    1 / 0", 1))
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
def test_two_engines_on_one_database_are_refused(started: Project) -> None:
    """It can note one revision, and the second would find the work of the first noted."""
    started.binds = {"again": started.url}
    started.write_revision("one", None, 'op.create_table("a", sa.Column("id", sa.Integer))')
    result = started.flask("db", "upgrade", "--lock-timeout", "1")
    assert result.exit_code == 1
    assert "are one database" in result.output
    assert started.tables() == set()


@anywhere
def test_sql_of_several_engines_goes_to_a_file_for_each(started: Project, audit: str) -> None:
    """One text cannot be piped into two databases."""
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


# Which engine a file is for -------------------------------------------------------------------


@anywhere
def test_meaning_of_a_file_does_not_change_with_the_settings(started: Project, audit: str) -> None:
    """What was written for one of two engines stays that one's when both are migrated."""
    only = started.app(both, UOW_MIGRATIONS={"engines": ["audit"]})
    for command in (["migrate", "-m", "entries"], ["upgrade"], ["check"]):
        result = started.flask("db", *command, app=only)
        assert result.exit_code == 0, result.output
    text = started.version("entries").read_text()
    assert "def upgrade_audit() -> None:" in text
    assert "def upgrade_default() -> None:" not in text
    assert started.tables(audit) == {"entries"}
    started.do("db", "upgrade", models=both)
    assert started.tables() == set()
    started.migrate(both, "people")
    assert (started.tables(), started.tables(audit)) == ({"people"}, {"entries"})
    started.do("db", "downgrade", "base", models=both)
    assert (started.tables(), started.tables(audit)) == (set(), set())


@anywhere
def test_empty_revision_for_one_of_several_engines_has_its_name(
    started: Project, audit: str
) -> None:
    app = started.app(both, UOW_MIGRATIONS={"engines": ["audit"]})
    assert started.flask("db", "revision", "-m", "mine", app=app).exit_code == 0
    assert "def upgrade_audit() -> None:" in started.version("mine").read_text()


def _upgraded(project: Project, **config: Any) -> dict[str, bool]:
    """By engine: did it find nothing to run?"""
    with project.app(both, **config).app_context():
        return {step.engine: step.empty for step in Migrations().upgrade()}


@anywhere
def test_step_says_that_its_file_has_nothing_for_the_engine(started: Project, audit: str) -> None:
    """It has one ``upgrade()``, or functions for engines of other names."""
    started.write_revision("one", None, "pass")
    assert _upgraded(started) == {"default": False, "audit": True}
    path = started.folder / "migrations" / "versions" / "two.py"
    path.write_text(
        "revision, down_revision = 'two', 'one'\n"
        "def upgrade(engine_name): raise ValueError\ndowngrade = upgrade\n"
        "def upgrade_audit() -> None: pass\ndef upgrade_old_name(): pass\n"
    )
    assert _upgraded(started) == {"default": True, "audit": False}


@anywhere
def test_plain_file_is_not_for_an_engine_that_is_alone(started: Project, audit: str) -> None:
    started.write_revision("one", None, 'op.create_table("a", sa.Column("id", sa.Integer))')
    assert _upgraded(started, UOW_MIGRATIONS={"engines": ["audit"]}) == {"audit": True}
    assert started.tables(audit) == set()


@anywhere
@pytest.mark.parametrize("name", ["\ufb01", "n\u00b2", "a b", "1st"])
def test_engine_may_have_any_name(started: Project, tmp_path: Path, name: str) -> None:
    """Python normalizes the names of functions."""
    url = f"sqlite:///{tmp_path / 'other.db'}"
    started.binds = {name: url}

    def models(metadata: MetaData) -> None:
        key = Column("id", Integer, primary_key=True)
        Table("entries", metadata, key, info={"bind_key": name})

    started.migrate(models)
    assert (started.tables(), started.tables(url)) == (set(), {"entries"})


_FOR_ALL = """
from alembic import context
from flask import current_app
for engine in current_app.extensions["migrate"].db.engines.values():
    with engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=current_app.extensions["migrate"].db.metadatas[None],
            **current_app.extensions["migrate"].configure_args,
        )
        with context.begin_transaction():
            context.run_migrations()
"""


@anywhere
def test_engine_that_is_left_out_is_left_alone_by_every_env_py(
    started: Project, audit: str
) -> None:
    (started.folder / "migrations" / "env.py").write_text(_FOR_ALL)
    started.write_revision("one", None, 'op.create_table("a", sa.Column("id", sa.Integer))')
    assert _upgraded(started, UOW_MIGRATIONS={"engines": ["audit"]}) == {"audit": False}
    assert (started.tables(), started.tables(audit)) == (set(), {"a"})
    assert (started.revision(), started.revision(audit)) == (None, "one")
    started.query(
        "CREATE TABLE people (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(50) NOT NULL)", audit
    )
    app = started.app(both, UOW_MIGRATIONS={"engines": ["audit"]})
    result = started.flask("db", "check", app=app)  # what 'default' lacks is no difference
    assert result.exit_code == 0, result.output


@anywhere
def test_env_py_of_another_engine_is_named(started: Project, audit: str) -> None:
    """It connects to an engine that is left out, and to no other."""
    only = _FOR_ALL.replace("in current", "in [current")
    only = only.replace("db.engines.values():", "db.engine]:")
    (started.folder / "migrations" / "env.py").write_text(only)
    app = started.app(both, UOW_MIGRATIONS={"engines": ["audit"]})
    result = started.flask("db", "upgrade", app=app)
    assert result.exit_code == 1
    assert "has asked no database" in result.output
