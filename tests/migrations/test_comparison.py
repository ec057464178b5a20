"""What is compared beside Alembic's own, what is the same in other words, and what is announced."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Computed,
    ForeignKey,
    Identity,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

from tests.migrations.projects import Models, Project, people
from tests.support.databases import anywhere, concurrently, on

_CLEAN = "The databases are up to date and match the models.\n"


def check(project: Project, models: Models) -> str:
    """The differences, or nothing."""
    result = project.flask("db", "check", models=models)
    assert result.exit_code in {0, 3}, result.output
    assert (result.exit_code == 0) == result.output.endswith(_CLEAN)
    return result.output.removesuffix(_CLEAN)


@pytest.fixture
def more(started: Project) -> Iterator[None]:
    """A second schema."""
    started.query("CREATE SCHEMA more")
    yield
    started.query("DROP SCHEMA more CASCADE")


def pets(*columns: Any) -> Models:
    def models(metadata: MetaData) -> None:
        Table(
            "pets",
            metadata,
            Column("id", Integer, primary_key=True),
            *[one._copy() for one in columns],
        )

    return models


# Names ----------------------------------------------------------------------------------------


@concurrently
def test_unknown_table_may_have_a_dot_in_its_name(started: Project) -> None:
    quote = "`" if started.backend == "mariadb" else '"'
    name = f"{quote}a.b{quote}"
    started.query(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, name VARCHAR(50) NOT NULL)")
    started.do("db", "migrate", "-m", "people")
    assert "op.rename_table('a.b', 'people')" in started.version("people").read_text()
    started.query(f"DROP TABLE {name}")


def other(metadata: MetaData, name: str = "other", schema: str | None = "more") -> None:
    Table(name, metadata, Column("id", Integer, primary_key=True), schema=schema)


def in_schemas(project: Project) -> Callable[..., str]:
    """``flask db``, with all schemas."""

    def do(models: Models, *args: str, **options: Any) -> str:
        options = {"include_schemas": True, **options}
        result = project.flask("db", *args, app=project.app(models, UOW_MIGRATIONS=options))
        assert result.exit_code == 0, result.output
        return str(result.output)

    return do


@on("postgresql")
@pytest.mark.usefixtures("more")
def test_tables_in_schemas_are_named_with_them(started: Project) -> None:
    """In what is dropped, and in what to write instead."""
    do = in_schemas(started)
    do(other, "migrate", "-m", "first")
    do(other, "upgrade")
    later = lambda m: other(m, "later")  # noqa: E731
    do(later, "migrate", "-m", "x")
    file = started.version("x")
    assert "op.rename_table('other', 'later', schema='more')" in file.read_text()
    written = re.sub(r"op\.create_table\('later'.*?\n    \)", "", file.read_text(), flags=re.S)
    file.write_text(re.sub(r"# If it was renamed, write instead of .*: ", "", written))
    do(later, "upgrade")
    assert do(later, "check") == _CLEAN
    assert "This drops the table 'more.later' with" in do(people, "migrate", "--drop-unknown")


@on("postgresql")
@pytest.mark.usefixtures("more")
def test_table_with_the_same_name_in_another_schema_is_unknown(started: Project) -> None:
    do = in_schemas(started)
    started.query("CREATE TABLE more.people (id INTEGER)")
    assert "more.people" in do(people, "migrate", "-m", "first")
    do(people, "upgrade")
    assert "more.people" in do(people, "check")


@on("postgresql")
@pytest.mark.usefixtures("more")
def test_table_of_the_revisions_in_a_schema_is_not_listed(started: Project) -> None:
    """That of somebody else, which has the same name, is."""
    do = in_schemas(started)
    options = {"version_table_schema": "more"}
    do(people, "migrate", "-m", "first", **options)
    do(people, "upgrade", **options)
    assert do(people, "check", **options) == _CLEAN
    started.query("CREATE TABLE alembic_version (version_num VARCHAR(32))")
    assert do(people, "check", **options).endswith(f": alembic_version\n{_CLEAN}")


@pytest.mark.slow
@anywhere
def test_renamed_table_is_recognised_in_a_folder_for_several(
    project: Project, tmp_path: Path
) -> None:
    """Flask-Migrate's, which has one filter for all engines."""
    for name in ("flask_migrate", "flask_sqlalchemy"):
        pytest.importorskip(name, reason="Flask-Migrate writes the folder")
    from tests.migrations.test_flask_migrate import by_flask_migrate, with_entries

    def later(metadata: MetaData) -> None:
        people(metadata)
        Table(
            "records",
            metadata,
            Column("id", Integer, primary_key=True),
            info={"bind_key": "audit"},
        )

    project.binds = {"audit": f"sqlite:///{tmp_path / 'audit.db'}"}
    by_flask_migrate(project, "--multidb")
    project.do("db", "upgrade", models=with_entries)
    output = project.do("db", "migrate", "-m", "later", models=later)
    assert "If it was renamed, see the file. (engine 'audit')" in output
    assert "1 table of the engine 'audit'" in output


# What may fail --------------------------------------------------------------------------------


def computed(metadata: MetaData) -> None:
    pets(
        Column("twice", Integer, Computed("id * 2"), nullable=False),
        Column("nullable", Integer),
        Column("has", Integer, server_default="1", nullable=False),
    )(metadata)


@concurrently
def test_column_without_a_value_for_the_rows_is_announced(started: Project) -> None:
    started.migrate(pets(Column("a", Integer)))
    new = pets(Column("a", Integer), Column("b", Integer, nullable=False))
    output = started.do("db", "migrate", "-m", "new", models=new)
    needs = "get '' or 0" if started.backend == "mariadb" else "need a value"
    said = "The column 'b' of 'pets' is NOT NULL and has no server default: existing rows"
    assert f"Attention: {said} {needs}" in output
    assert "# The column 'b' of 'pets' is NOT NULL" in started.version("new").read_text()
    assert "# Give it 'server_default=...'" in started.version("new").read_text()
    started.do("db", "upgrade", models=new)  # there are none
    assert check(started, new) == ""


@concurrently
def test_column_that_has_a_value_is_not_announced(started: Project) -> None:
    started.migrate(pets())
    assert "Attention" not in started.do("db", "migrate", "-m", "new", models=computed)


@on("postgresql", "mariadb")
def test_column_that_counts_is_not_announced(started: Project) -> None:
    started.migrate(lambda m: Table("pets", m, Column("name", String(9))))
    column = Column("id", Integer, primary_key=True)
    if started.backend == "postgresql":
        column = Column("id", Integer, Identity(), nullable=False)
    new = lambda m: Table("pets", m, Column("name", String(9)), column._copy())  # noqa: E731
    assert "Attention" not in started.do("db", "migrate", "-m", "new", models=new)


def nameless(*columns: Any) -> Models:
    def models(metadata: MetaData) -> None:
        metadata.naming_convention = MetaData().naming_convention
        people(metadata)
        pets(*columns)(metadata)

    return models


@concurrently
@pytest.mark.parametrize("kind", ["unique constraint", "foreign key"])
def test_constraint_without_a_name_is_announced(started: Project, kind: str) -> None:
    """With Alembic's warning, 'migrate' would be a traceback here: warnings are errors."""
    old = nameless(Column("a", Integer))
    new = nameless(Column("a", Integer, unique=True))
    if kind == "foreign key":
        new = nameless(Column("a", Integer, ForeignKey("people.id")))
    started.migrate(old)
    output = started.do("db", "migrate", "-m", "new", models=new)
    said = f"A {kind} of 'pets' has no name, so 'downgrade' cannot drop it."
    assert f"Attention: {said} Give the metadata a naming convention" in output
    assert f"# {said}\n" in started.version("new").read_text()
    if started.backend == "sqlite":
        assert f"Attention: A {kind} of 'pets' has no name, so it cannot be added" in output
        return
    started.do("db", "upgrade", models=new)
    assert check(started, new) == ""
    result = started.flask("db", "downgrade", models=new)
    assert result.exit_code == 1
    assert said[:-1] in result.output


@anywhere
def test_constraint_of_the_database_without_a_name_is_announced(started: Project) -> None:
    """SQLite makes none up."""
    started.migrate(nameless(Column("a", Integer, ForeignKey("people.id"))))
    output = started.do("db", "migrate", "-m", "new", models=nameless(Column("a", Integer)))
    assert "A foreign key of 'pets' has no name, so 'upgrade' cannot drop it." in output


@anywhere
def test_constraint_without_a_name_comes_and_goes_with_its_column(started: Project) -> None:
    """It gets a name by ``NAMING_CONVENTION``; a constraint on a column that stays is announced."""
    old = nameless(Column("a", Integer))

    def new(metadata: MetaData) -> None:
        column = Column("b", Integer, ForeignKey("people.id"), unique=True)
        nameless(Column("a", Integer), column)(metadata)
        metadata.tables["pets"].append_constraint(UniqueConstraint("a", "b"))

    started.migrate(old, "old")
    text = started.migrate(new, "new")
    for name in ("fk_pets_b_people", "uq_pets_b", "uq_pets_a_b"):
        assert f"'{name}'" in text
    assert check(started, new) == ""
    started.do("db", "downgrade", models=new)
    columns = {row[1] for row in started.query("PRAGMA table_info(pets)")}
    assert "a" in columns
    assert "b" not in columns
    started.do("db", "upgrade", models=new)


@concurrently
def test_drop_has_one_name(started: Project) -> None:
    """In ``check`` and in ``migrate``."""
    started.migrate(pets(Column("a", Integer)))
    assert check(started, pets()).endswith("  drop column 'a' of 'pets'\n")
