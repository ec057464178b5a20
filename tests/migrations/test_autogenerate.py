"""What ``migrate`` finds, what it leaves alone, and what it warns of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    func,
    text,
)

from tests.migrations.projects import Project, people
from tests.support.databases import anywhere, concurrently, on


def _pets(metadata: MetaData, *columns: Any, **options: Any) -> None:
    people(metadata)
    Table("pets", metadata, Column("id", Integer, primary_key=True), *columns, **options)


def before(metadata: MetaData) -> None:
    _pets(metadata, Column("name", String(20), nullable=True), Column("owner", Integer))


def with_new(metadata: MetaData) -> None:
    before(metadata)
    Table("new", metadata, Column("id", Integer, primary_key=True))


CHANGES: dict[str, Callable[[MetaData], None]] = {
    "add a table": with_new,
    "add a column": lambda m: _pets(
        m, Column("name", String(20)), Column("owner", Integer), Column("age", Integer)
    ),
    "drop a column": lambda m: _pets(m, Column("name", String(20))),
    "alter a type": lambda m: _pets(m, Column("name", String(99)), Column("owner", Integer)),
    "alter nullable": lambda m: _pets(
        m, Column("name", String(20), nullable=False), Column("owner", Integer)
    ),
    "add a server default": lambda m: _pets(
        m, Column("name", String(20), server_default="x"), Column("owner", Integer)
    ),
    "add an index": lambda m: _pets(
        m, Column("name", String(20), index=True), Column("owner", Integer)
    ),
    "add a unique constraint": lambda m: _pets(
        m, Column("name", String(20)), Column("owner", Integer), UniqueConstraint("name")
    ),
    "add a foreign key": lambda m: _pets(
        m, Column("name", String(20)), Column("owner", Integer, ForeignKey("people.id"))
    ),
}


@concurrently
@pytest.mark.parametrize("change", CHANGES)
def test_change_is_found_made_and_undone(started: Project, change: str) -> None:
    """And then nothing is left to find."""
    after = CHANGES[change]
    started.migrate(before)
    started.migrate(after)
    started.do("db", "check", models=after)
    started.do("db", "downgrade", models=after)
    started.do("db", "upgrade", models=after)
    started.do("db", "check", models=after)
    if change != "add a table":  # the table is unknown to the models before, and left alone
        started.migrate(before)
        started.do("db", "check", models=before)


def defaults(metadata: MetaData) -> None:
    people(
        metadata,
        Column("empty", String(9), server_default=""),
        Column("text", String(9), server_default="it's"),
        Column("number", Integer, server_default="0"),
        Column("expression", Integer, server_default=text("1")),
        Column("flag", Boolean, server_default=false()),
        Column("at", DateTime, server_default=func.now()),
        Column("price", Numeric(10, 2), server_default="0.00"),
    )


@concurrently
def test_server_defaults_that_are_the_same_are_no_change(started: Project) -> None:
    """Databases report them in words of their own."""
    started.migrate(defaults)
    started.do("db", "check", models=defaults)


def with_comment(metadata: MetaData) -> None:
    _pets(
        metadata,
        Column("name", String(20), comment="as it is called"),
        Column("owner", Integer),
        comment="all of them",
    )


@concurrently
def test_comments_are_found_where_there_are_any(started: Project) -> None:
    """SQLite has none."""
    started.migrate(before)
    if started.url.startswith("sqlite"):
        assert "No file" in started.do("db", "migrate", models=with_comment)
        return
    started.migrate(with_comment)
    started.do("db", "check", models=with_comment)


@concurrently
def test_unknown_tables_are_left_alone_and_listed(started: Project) -> None:
    """They may be somebody else's; ``--drop-unknown`` is for those that are not."""
    started.query("CREATE TABLE somebody_elses (id INTEGER PRIMARY KEY)")
    output = started.do("db", "migrate", "-m", "people")
    assert "somebody_elses" in output
    assert "alembic_version" not in output
    assert "somebody_elses" not in started.versions[0].read_text()
    started.do("db", "upgrade")
    assert "somebody_elses" in started.do("db", "check")
    text = started.migrate(people, "drop", "--drop-unknown")
    assert "# This drops the table 'somebody_elses' with all its rows." in text
    assert started.tables() == {"people"}


def renamed(metadata: MetaData) -> None:
    Table(
        "people",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("full_name", String(50), nullable=False, server_default=""),
    )


@anywhere
def test_rename_is_a_drop_and_an_addition_and_says_so(started: Project) -> None:
    """In the terminal, and in the file with what to write instead."""
    started.migrate(people)
    output = started.do("db", "migrate", "-m", "rename", models=renamed)
    assert "Attention: This drops the column 'name' of 'people' with all its values." in output
    file = next(path for path in started.versions if "rename" in path.name).read_text()
    assert "# This drops the column 'name' of 'people' with all its values.\n" in file
    assert "#     alter_column('name', new_column_name='full_name')" in file
    started.do("db", "upgrade", models=renamed)
    started.do("db", "check", models=renamed)


def parents(metadata: MetaData, *columns: Any) -> None:
    Table("parents", metadata, Column("id", Integer, primary_key=True), *columns)
    Table(
        "children",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("parent", ForeignKey("parents.id", ondelete="CASCADE")),
    )


@anywhere
def test_rebuilt_table_of_sqlite_keeps_the_rows_that_point_to_it(started: Project) -> None:
    """'batch' drops the table; with foreign keys on, the drop would cascade."""
    started.migrate(lambda m: parents(m, Column("name", String(5))))
    started.query("INSERT INTO parents (id, name) VALUES (1, 'a')")
    started.query("INSERT INTO children (id, parent) VALUES (7, 1)")
    started.migrate(lambda m: parents(m, Column("name", Text)))
    assert started.query("SELECT id, parent FROM children") == [(7, 1)]


@anywhere
def test_revision_that_breaks_a_foreign_key_of_sqlite_fails(started: Project) -> None:
    """They are not enforced while it runs, so they are looked at behind it."""
    started.migrate(parents)
    started.query("INSERT INTO parents (id) VALUES (1)")
    started.query("INSERT INTO children (id, parent) VALUES (7, 1)")
    started.write_revision("bad", started.revision(), 'op.execute("DELETE FROM parents")')
    result = started.flask("db", "upgrade", models=parents)
    assert result.exit_code == 1
    assert "Rows of 'children' would point to rows of 'parents'" in result.output
    assert started.query("SELECT id FROM parents") == [(1,)]


@anywhere
def test_options_go_to_alembic(started: Project) -> None:
    """Those of ``UOW_MIGRATIONS``, and before them those of ``run()``."""
    wider = {"UOW_MIGRATIONS": {"compare_type": False}}
    started.migrate(lambda m: _pets(m, Column("name", String(5))))
    after = lambda m: _pets(m, Column("name", String(50)))  # noqa: E731
    app = started.app(after, **wider)
    assert "No file" in started.flask("db", "migrate", app=app).output
    env = started.folder / "migrations" / "env.py"
    env.write_text(env.read_text().replace("run()\n", "run(compare_type=True)\n"))
    assert "Written" in started.flask("db", "migrate", app=started.app(after, **wider)).output


def humans(metadata: MetaData) -> None:
    Table(
        "humans",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("name", String(50), nullable=False),
    )


@anywhere
def test_renamed_table_is_recognised_by_its_columns(started: Project) -> None:
    """The old one is unknown now, and left alone."""
    started.migrate(people)
    output = started.do("db", "migrate", "-m", "rename", models=humans)
    assert "op.rename_table('people', 'humans')" in output
    file = next(path for path in started.versions if "rename" in path.name).read_text()
    assert "# If it was renamed, write instead: op.rename_table('people', 'humans')\n" in file


@on("postgresql")
def test_index_may_be_made_concurrently(started: Project) -> None:
    """PostgreSQL waits for every older snapshot; who holds the lock has none."""
    started.migrate(people)
    started.write_revision(
        "index",
        started.revision(),
        """
        with op.get_context().autocommit_block():
            op.create_index("by_name", "people", ["name"], postgresql_concurrently=True)
        """,
    )
    assert started.flask("db", "upgrade", "--statement-timeout", "10").exit_code == 0
    assert started.query("SELECT 1 FROM pg_indexes WHERE indexname = 'by_name'") == [(1,)]


def changed(metadata: MetaData) -> None:
    _pets(
        metadata,
        Column("name", String(99), nullable=False, server_default="x", index=True),
        Column("age", Integer, ForeignKey("people.id")),
        UniqueConstraint("age"),
    )
    Table("new", metadata, Column("id", Integer, primary_key=True))


@concurrently
def test_check_tells_behind_from_different(started: Project) -> None:
    """1: write 'upgrade'; 3: write 'migrate', and what it would do."""
    started.do("db", "migrate", "-m", "before", models=before)
    result = started.flask("db", "check", models=changed)
    assert result.exit_code == 1
    assert "pending" in result.output
    assert "flask db upgrade" in result.output
    started.do("db", "upgrade", models=before)
    result = started.flask("db", "check", models=changed)
    assert result.exit_code == 3
    assert "flask db migrate" in result.output
    for line in (
        "add table 'new'",
        "add column 'age' of 'pets'",
        "remove column 'owner' of 'pets'",
        "change type of 'pets'.'name': VARCHAR(20) to VARCHAR(99)",
        "change nullable of 'pets'.'name': True to False",
        "change default of 'pets'.'name'",
        "add index 'ix_pets_name' of 'pets'",
        "add constraint 'uq_pets_age' of 'pets'",
        "add fk 'fk_pets_age_people' of 'pets'",
    ):
        assert f"  {line}" in result.output
