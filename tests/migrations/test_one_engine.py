"""From an empty folder to head, to base, and back, on one engine."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, NullPool, String, Table
from sqlalchemy.orm import declarative_base

from flask_uow import Database, Flask
from tests.migrations.projects import Project, nothing, people
from tests.support.databases import concurrently, on


def with_pets(metadata: MetaData) -> None:
    people(metadata, Column("nick", String(20)))
    Table("pets", metadata, Column("id", Integer, primary_key=True))


@concurrently
def test_from_empty_to_head_to_base_and_back(project: Project) -> None:
    """The three commands that are in everybody's fingers, and their way back."""
    project.do("db", "init")
    project.do("db", "migrate", "-m", "people")
    assert project.tables() == set()
    project.do("db", "upgrade")
    assert project.tables() == {"people"}
    project.migrate(with_pets, "pets")
    assert project.tables() == {"people", "pets"}
    assert "up to date" in project.do("db", "upgrade", models=with_pets)
    project.do("db", "downgrade", models=with_pets)
    assert project.tables() == {"people"}
    project.do("db", "downgrade", "base", models=with_pets)
    assert project.tables() == set()
    assert project.revision() is None
    project.do("db", "upgrade", models=with_pets)
    assert project.tables() == {"people", "pets"}
    project.do("db", "check", models=with_pets)


@concurrently
def test_migrate_says_what_it_sees(started: Project) -> None:
    """How many tables, for which engine, from where; and where it has written."""
    output = started.do("db", "migrate", "-m", "people")
    assert "1 table for the engine 'default'" in output
    assert f"Written: migrations/versions/{started.versions[0].name}" in output
    assert started.versions[0].name.endswith("_people.py")


@concurrently
def test_nothing_to_do_writes_no_file(started: Project) -> None:
    started.migrate(people)
    assert "No file was written" in started.do("db", "migrate")
    assert len(started.versions) == 1


@concurrently
def test_no_tables_is_an_error_that_names_the_import(started: Project) -> None:
    """The most frequent accident: the module with the models is not imported."""
    result = started.flask("db", "migrate", models=nothing)
    assert result.exit_code == 1
    assert "import project.models" in result.output
    assert started.versions == []


@concurrently
def test_migrate_behind_the_folder_names_what_is_missing(started: Project) -> None:
    started.do("db", "migrate", "-m", "people")
    result = started.flask("db", "migrate", "-m", "more", models=with_pets)
    assert result.exit_code == 1
    assert "(people) is missing" in result.output
    assert "flask db upgrade" in result.output


@concurrently
def test_current_history_heads_and_show_name_the_revision(started: Project) -> None:
    started.migrate(people, "first")
    revision = started.revision()
    assert revision is not None
    for command in ("current", "heads"):
        assert started.do("db", command) == f"{revision} (head)\n"
    assert started.do("db", "history") == f"<base> -> {revision} (head), first\n"
    assert f"Rev: {revision}" in started.do("db", "show")
    assert f"Rev: {revision}" in started.do("db", "show", "current")
    assert "(current)" in started.do("db", "history", "-i")
    assert started.do("db", "history", "-r", "base:current").startswith("<base>")


@concurrently
def test_two_heads_are_merged(started: Project) -> None:
    """``upgrade`` names both and the command; ``merge`` alone takes all heads."""
    started.migrate(people)
    first = started.revision()
    assert first is not None
    started.do("db", "revision", "-m", "left", "--rev-id", "left")
    started.do("db", "revision", "-m", "right", "--rev-id", "right", "--head", first, "--splice")
    result = started.flask("db", "upgrade")
    assert result.exit_code == 1
    assert "flask db merge left right" in result.output
    assert "left" in started.do("db", "branches")
    assert started.flask("db", "migrate").exit_code == 1
    started.do("db", "upgrade", "heads")
    assert started.revision() == "left,right"
    started.do("db", "merge", "-m", "both", "--rev-id", "both")
    started.do("db", "upgrade")
    assert started.revision() == "both"
    assert started.flask("db", "merge").exit_code == 1


@concurrently
def test_stamp_notes_and_runs_nothing(started: Project) -> None:
    started.do("db", "migrate")
    started.do("db", "stamp")
    assert started.tables() == set()
    assert started.revision() is not None
    started.do("db", "stamp", "base")
    assert started.revision() is None


@concurrently
def test_failing_revision_leaves_the_last_good_one(started: Project) -> None:
    """Each revision has its own transaction; MariaDB is said to keep what it did."""
    started.write_revision("good", None, 'op.create_table("a", sa.Column("id", sa.Integer))')
    started.write_revision(
        "bad",
        "good",
        """
        op.create_table("b", sa.Column("id", sa.Integer))
        op.execute("INSERT INTO nowhere VALUES (1)")
        """,
    )
    result = started.flask("db", "upgrade")
    assert result.exit_code == 1
    assert "The revision bad (bad) failed on the engine 'default'" in result.output
    assert "nowhere" in result.output
    assert "Traceback" not in result.output
    assert started.revision() == "good"
    if started.url.startswith("mysql") or started.url.startswith("mariadb"):
        assert "cannot roll back DDL" in result.output
        assert started.tables() == {"a", "b"}
    else:
        assert "rolled back, and the database is at good" in result.output
        assert started.tables() == {"a"}


@on("sqlite-file")
def test_revision_that_reads_first_cannot_be_overtaken(started: Project) -> None:
    """On SQLite it has the lock for writing from the start, so what it has read stays true."""
    started.migrate(people)
    path = started.url.removeprefix("sqlite:///")
    started.write_revision(
        "reads",
        started.revision(),
        f"""
        import sqlite3
        op.get_bind().execute(sa.text("SELECT * FROM people")).all()
        other = sqlite3.connect({path!r}, timeout=0.1)
        try:
            other.execute("INSERT INTO people (name) VALUES ('other')")
            other.commit()
        except sqlite3.OperationalError as error:
            assert "locked" in str(error)
        other.close()
        op.execute("INSERT INTO people (name) VALUES ('revision')")
        """,
    )
    started.do("db", "upgrade")
    assert started.query("SELECT name FROM people") == [("revision",)]


@concurrently
@pytest.mark.parametrize(
    "options",
    [{"pool_size": 1, "max_overflow": 0, "pool_timeout": 3}, {"poolclass": NullPool}],
    ids=["one", "none"],
)
def test_pool_of_one_connection_is_enough(started: Project, options: dict[str, Any]) -> None:
    """The lock has a connection of its own, which is not the pool's."""
    started.write_revision("one", None, 'op.create_table("a", sa.Column("id", sa.Integer))')
    app = started.app(SQLALCHEMY_ENGINE_OPTIONS=options)
    result = started.flask("db", "upgrade", app=app)
    assert result.exit_code == 0, result.output
    assert started.tables() == {"a"}


@on("postgresql")
def test_note_of_the_revision_may_lie_in_a_schema(started: Project) -> None:
    """``version_table_schema``, and tables of several schemas."""
    started.query("CREATE SCHEMA notes")
    options = {"version_table_schema": "notes", "include_schemas": True}
    for command in ("migrate", "upgrade", "check", "status"):
        result = started.flask("db", command, app=started.app(UOW_MIGRATIONS=options))
        assert result.exit_code == 0, result.output
        assert "alembic_version" not in result.output
    assert started.query("SELECT count(*) FROM notes.alembic_version") == [(1,)]
    started.query("DROP SCHEMA notes CASCADE")


@concurrently
def test_sql_of_every_command(started: Project) -> None:
    """``downgrade --sql`` is the way back from the head by one, as in Flask-Migrate."""
    started.do("db", "migrate", "-m", "people")
    name = started.versions[0].name.partition("_")[0]
    assert "CREATE TABLE people" in started.do("db", "upgrade", "--sql")
    assert "DROP TABLE people" in started.do("db", "downgrade", "--sql")
    assert f"VALUES ('{name}')" in started.do("db", "stamp", "--sql", "head")
    assert started.tables() == set()


@on("sqlite-file")
def test_naming_convention_is_offered_where_there_is_none(project: Project) -> None:
    """As text to paste, for a ``Database`` with a base and for one without."""
    app = Flask("plain", root_path=str(project.folder))
    app.config["SQLALCHEMY_DATABASE_URI"] = project.url
    app.register_extension(Database(metadata=MetaData()))
    output = project.flask("db", "init", app=app).output
    assert "db = Database(metadata=MetaData(naming_convention=NAMING_CONVENTION))" in output
    assert "not even by 'flask db downgrade'" in output
    app = Flask("plain", root_path=str(project.folder))
    app.config["SQLALCHEMY_DATABASE_URI"] = project.url
    app.register_extension(Database(declarative_base()))
    output = project.flask("db", "init", "-d", "other", app=app).output
    assert "class Base(DeclarativeBase):" in output
    assert "Next: flask db -d other migrate" in output


@on("sqlite-file")
def test_templates_are_listed(project: Project) -> None:
    assert project.do("db", "list-templates").splitlines()[-1].startswith("flask - ")


@on("sqlite-file")
def test_revision_with_autogenerate_is_migrate(started: Project) -> None:
    started.do("db", "revision", "--autogenerate", "-m", "people")
    assert "create_table" in started.versions[0].read_text()
    result = started.flask("db", "revision", "--autogenerate", "--sql")
    assert result.exit_code == 2
    assert "'--sql' does not go" in result.output


@on("sqlite-file")
def test_heads_current_and_history_say_more_with_v(started: Project) -> None:
    started.migrate(people)
    for command in ("heads", "current", "history"):
        assert "Parent: <base>" in started.do("db", command, "-v")
    assert started.do("db", "heads", "--resolve-dependencies").endswith("(head)\n")
