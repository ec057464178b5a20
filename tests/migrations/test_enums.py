"""Enums of PostgreSQL: compared by alembic-postgresql-enum, and announced where it is missing."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import ARRAY, Column, Enum, MetaData, String, Table, TypeDecorator
from sqlalchemy.dialects import postgresql

from tests.migrations.commands import Done
from tests.migrations.projects import Models, Project, people
from tests.migrations.schemas import schema_of
from tests.migrations.test_comparison import check, pets
from tests.support.databases import concurrently, on

_CLEAN = "The databases are up to date and match the models.\n"


def letters(*values: str, name: str = "letters", **options: Any) -> Models:
    return pets(Column("c", Enum(*values, name=name, **options)))


def labels(project: Project) -> dict[str, list[str]]:
    return {enum["name"]: enum["labels"] for enum in schema_of(project.url)["types"]}


def there_and_back(project: Project, new: Models, *options: str) -> None:
    """To *new*, back, and there again; nothing is left to find."""
    before = schema_of(project.url)["types"]
    project.migrate(new, "new", *options)
    after = schema_of(project.url)["types"]
    assert check(project, new) == ""
    project.do("db", "downgrade", models=new)
    assert schema_of(project.url)["types"] == before
    project.do("db", "upgrade", models=new)
    assert schema_of(project.url)["types"] == after
    assert check(project, new) == ""


# With the package -----------------------------------------------------------------------------


CHANGES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "a value is added": (("b", "d"), ("a", "b", "c", "d", "e")),
    "a value is removed": (("a", "b", "c"), ("a", "c")),
    "a value is added and one removed": (("a", "b"), ("a", "c")),
    "the order changes": (("a", "b"), ("b", "a")),
}


@on("postgresql")
@pytest.mark.parametrize("name", CHANGES)
def test_values_are_changed_and_changed_back(started: Project, name: str) -> None:
    """In a column with a default, and in an array; ``check`` is clean at each end."""
    before, after = CHANGES[name]

    def models(*values: str) -> Models:
        return pets(
            Column("c", Enum(*values, name="letters"), server_default=values[0]),
            Column("d", ARRAY(Enum(*values, name="letters"))),
        )

    first = set(before) & set(after)
    old = pets(*_columns(models(*before)))
    started.migrate(old)
    started.query(f"INSERT INTO pets (c, d) VALUES ('{min(first)}', '{{{min(first)}}}')")
    found = check(started, models(*after))
    assert "change values of the enum of 'pets'.'c', 'pets'.'d': ('" in found
    there_and_back(started, models(*after))
    assert labels(started) == {"letters": list(after)}
    assert started.query("SELECT c, d FROM pets") == [(min(first), f"{{{min(first)}}}")]


def _columns(models: Models) -> list[Any]:
    metadata = MetaData()
    models(metadata)
    return [column for column in metadata.tables["pets"].columns if column.name != "id"]


@on("postgresql")
def test_renamed_value_is_written_by_hand(started: Project) -> None:
    """The file has a place for it, in both functions."""
    started.migrate(letters("a", "b"))
    started.query("INSERT INTO pets (c) VALUES ('b')")
    new = letters("a", "c")
    started.do("db", "migrate", "-m", "new", models=new)
    file = started.version("new")
    up, down = file.read_text().split("def downgrade", 1)
    up = up.replace("enum_values_to_rename=[]", "enum_values_to_rename=[('b', 'c')]")
    down = down.replace("enum_values_to_rename=[]", "enum_values_to_rename=[('c', 'b')]")
    file.write_text(f"{up}def downgrade{down}")
    started.do("db", "upgrade", models=new)
    assert check(started, new) == ""
    assert started.query("SELECT c FROM pets") == [("c",)]
    started.do("db", "downgrade", models=new)
    assert started.query("SELECT c FROM pets") == [("b",)]


@on("postgresql")
def test_enums_in_a_schema(started: Project) -> None:
    """They are compared where schemas are: with ``include_schemas``."""
    started.query("CREATE SCHEMA more")

    def app(*values: str) -> Any:
        models = pets(Column("c", ARRAY(Enum(*values, name="letters", schema="more"))))
        return started.app(models, UOW_MIGRATIONS={"include_schemas": True})

    for values in (("a",), ("a", "b")):
        result = started.flask("db", "migrate", "-m", "new", app=app(*values))
        assert result.exit_code == 0, result.output
        assert started.flask("db", "upgrade", app=app(*values)).exit_code == 0
        assert started.flask("db", "check", app=app(*values)).exit_code == 0
    started.query("DROP SCHEMA more CASCADE")


def nothing_of(metadata: MetaData) -> None:
    pets()(metadata)


def two(metadata: MetaData) -> None:
    """One type in two tables."""
    letters("a", "b")(metadata)
    Table("more", metadata, Column("c", Enum("a", "b", name="letters")))


def converted(metadata: MetaData) -> None:
    pets(Column("c", String(9)))(metadata)


WITH_TYPES: dict[str, tuple[Models, Models]] = {
    "a table": (people, letters("a", "b")),
    "a column": (nothing_of, letters("a", "b")),
    "a column of an array": (nothing_of, pets(Column("c", ARRAY(Enum("a", name="letters"))))),
    "two tables": (people, two),
    "the second table": (letters("a", "b"), two),
}


@on("postgresql")
@pytest.mark.parametrize("name", WITH_TYPES)
def test_types_come_and_go_with_their_columns(started: Project, name: str) -> None:
    """Up, down, up; and the other way round."""
    empty, full = WITH_TYPES[name]
    new = empty
    started.migrate(empty, "start")
    for number, new in enumerate((full, empty)):
        before = schema_of(started.url)["types"]
        started.migrate(new, f"new{number}", "--drop-unknown")
        after = schema_of(started.url)["types"]
        assert check(started, new) == ""
        started.do("db", "downgrade", models=new)
        assert schema_of(started.url)["types"] == before
        started.do("db", "upgrade", models=new)
        assert schema_of(started.url)["types"] == after
        assert check(started, new) == ""
    started.do("db", "downgrade", "base", models=new)
    assert labels(started) == {}
    started.do("db", "upgrade", models=new)
    assert check(started, new) == ""


@on("postgresql")
def test_text_becomes_an_enum(started: Project) -> None:
    started.migrate(pets(Column("c", String(9))))
    started.query("INSERT INTO pets (c) VALUES ('a')")
    there_and_back(started, letters("a", "b"))
    assert started.query("SELECT c FROM pets") == [("a",)]


@on("postgresql")
def test_enum_of_another_program_stays(started: Project) -> None:
    """One that no column has, that of a table which is left alone, and one that was there."""
    started.query("CREATE TYPE letters AS ENUM ('a', 'b')")
    started.query("CREATE TYPE own AS ENUM ('a')")
    started.query("CREATE TYPE theirs AS ENUM ('x')")
    started.query("CREATE TABLE their_table (c theirs)")

    def models(metadata: MetaData) -> None:
        letters("a", "b")(metadata)
        own = postgresql.ENUM("a", name="own", create_type=False)
        Table("more", metadata, Column("c", own))

    all_three = {"letters": ["a", "b"], "own": ["a"], "theirs": ["x"]}
    started.migrate(models)
    assert "theirs" not in started.versions[0].read_text()
    for _ in range(2):
        started.do("db", "downgrade", "base", models=models)
        assert labels(started) == all_three
        started.do("db", "upgrade", models=models)
    assert started.flask("db", "check", models=models).exit_code == 0
    started.migrate(people, "drop", "--drop-unknown")
    assert started.tables() == {"people"}
    assert labels(started) == {}


@on("postgresql")
def test_models_are_not_changed_by_the_comparison(started: Project) -> None:
    """The package replaces the types of columns, and the app goes on with its models."""
    app = started.app(letters("a", "b"))
    with app.app_context():
        from flask_uow.migrations import Migrations

        (metadata,) = app.extensions["uow_migrations"].metadatas
        kind = metadata.tables["pets"].c.c.type
        Migrations().migrate("new")
        assert metadata.tables["pets"].c.c.type is kind
        assert type(kind) is Enum


@on("postgresql")
def test_engine_of_sqlite_beside_it(
    started: Project, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Enums of PostgreSQL are compared, and SQLite's engine gets no warning that it is not."""
    started.binds = {"audit": f"sqlite:///{tmp_path / 'audit.db'}"}

    def models(*values: str) -> Models:
        def both(metadata: MetaData) -> None:
            letters(*values)(metadata)
            audit: Column[str] = Column("c", Enum(*values, name="letters"))
            Table("entries", metadata, audit, info={"bind_key": "audit"})

        return both

    started.migrate(models("a"))
    with caplog.at_level(logging.WARNING):
        there_and_back(started, models("a", "b"))
    assert "only supports postgresql" not in caplog.text


class Decorated(TypeDecorator[str]):
    impl = Enum("a", "b", name="decorated")
    cache_ok = True


HIDDEN: dict[str, Any] = {
    "decorator": Decorated(),
    "array of decorators": ARRAY(Decorated()),
    "variant": String(9).with_variant(Enum("a", "b", name="hidden"), "postgresql"),
}


@on("postgresql")
@pytest.mark.parametrize("name", HIDDEN)
def test_enum_inside_another_type(started: Project, name: str) -> None:
    """In a new table, and in a new column."""
    new = pets(Column("c", HIDDEN[name]))
    there_and_back(started, new)
    started.migrate(pets(), "none")
    assert labels(started) == {}
    there_and_back(started, new)


@concurrently
def test_values_of_other_enumerations(started: Project) -> None:
    """MariaDB's are a part of the column; those that are texts are not compared."""
    started.migrate(letters("a", "b"))
    difference = check(started, letters("a", "b", "c"))
    if started.backend == "mariadb":
        assert "ENUM('a', 'b') to ENUM('a', 'b', 'c')" in difference
    elif started.backend == "sqlite":
        assert difference == ""
    started.migrate(letters("a", native_enum=False, length=9), "texts", "--drop-unknown")
    if started.backend != "postgresql":  # which has to be told how
        assert check(started, letters("a", "b", native_enum=False, length=9)) == ""


# Without it -----------------------------------------------------------------------------------


@pytest.fixture
def bare(started: Project) -> Project:
    """A project where the package is not installed."""
    (started.folder / "alembic_postgresql_enum.py").write_text("raise ImportError")
    return started


def do(project: Project, *args: str, models: Models, code: int = 0) -> str:
    done: Done = project.command(*args, models=models)
    assert done.exit_code == code, done.output
    return re.sub(r"\s+", " ", done.output)


_SAID = (
    "The enum 'letters' has the values 'a', 'b' in the database, and 'a', 'c' in the models."
    " Alembic does not compare enums, so nothing was written for it. Install"
    " 'flask-uow[postgresql-enums]' and 'flask db migrate' writes it, or write it by hand."
)


@on("postgresql")
def test_changed_enum_is_a_sentence(bare: Project) -> None:
    """In ``check``, and in ``migrate``, which writes no file for it alone."""
    do(bare, "db", "migrate", "-m", "first", models=letters("a", "b"))
    do(bare, "db", "upgrade", models=letters("a", "b"))
    assert do(bare, "db", "check", models=letters("a", "b")).endswith(_CLEAN.strip() + " ")
    new = letters("a", "c")
    assert _SAID in do(bare, "db", "check", models=new, code=3)
    output = do(bare, "db", "migrate", "-m", "new", models=new)
    assert f"Attention: {_SAID}" in output
    assert output.endswith("No file was written. ")
    assert "No changes" not in output
    assert len(bare.versions) == 1

    def more(metadata: MetaData) -> None:
        new(metadata)
        people(metadata)

    output = do(bare, "db", "migrate", "-m", "more", models=more)
    assert f"Attention: {_SAID}" in output
    assert f"# {_SAID}\n" in bare.version("more").read_text()
