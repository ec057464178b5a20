"""Changing a table on SQLite copies it: what belongs to it stays, and foreign keys stay true."""

from __future__ import annotations

import sqlite3

import pytest

from tests.migrations.projects import Project
from tests.support.databases import anywhere

pytestmark = [
    anywhere,
    pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index"),
]

TABLES = """
    CREATE TABLE log (t TEXT);
    CREATE TABLE people (id INTEGER PRIMARY KEY, name VARCHAR(50), nick VARCHAR(20));
    INSERT INTO people VALUES (1, 'a', 'b');
"""
CHANGE = 'with op.batch_alter_table("people") as batch:\n    batch.alter_column("name", {})'
NOT_NULL = CHANGE.format("nullable=False")


def prepare(project: Project, script: str) -> None:
    with sqlite3.connect(project.url.removeprefix("sqlite:///")) as connection:
        connection.executescript(TABLES + script)
    connection.close()


def master(project: Project) -> set[tuple[str, str, str]]:
    """Triggers and indexes, with their SQL."""
    return set(
        project.query(
            "SELECT type, name, sql FROM sqlite_master WHERE type IN ('trigger', 'index')"
            " AND sql IS NOT NULL"
        )
    )


TRIGGER = "CREATE TRIGGER tr AFTER UPDATE ON people BEGIN INSERT INTO log VALUES (new.name); END"


def test_triggers_and_indexes_are_there_again(either: Project) -> None:
    """Also those that SQLAlchemy does not reflect, or not as they are."""
    prepare(
        either,
        f"""
        {TRIGGER};
        CREATE TRIGGER "other one" BEFORE DELETE ON people WHEN old.id > 5
            BEGIN SELECT raise(abort, 'no'); END;
        CREATE INDEX plain ON people (name);
        CREATE UNIQUE INDEX "an expression" ON people (lower(name));
        CREATE INDEX part ON people (name) WHERE name > 'a';
        CREATE INDEX part_of_two_lines ON people (nick) WHERE nick > 'a'
            AND nick < 'z';
        CREATE INDEX falling ON people (name DESC, nick COLLATE NOCASE);
        """,
    )
    before = master(either)
    assert len(before) == 7
    either.write_revision("one", None, NOT_NULL)
    either.do("db", "upgrade")
    either.query("UPDATE people SET name = 'c'")
    assert either.query("SELECT t FROM log") == [("c",)]
    assert {one[:2] for one in master(either)} == {one[:2] for one in before}
    plain = {"plain", "part"}  # in Alembic's words
    kept = {one for one in before if one[1] not in plain}
    assert kept <= master(either)
    columns = {row[1]: row[3] for row in either.query("PRAGMA table_info(people)")}
    assert columns["name"] == 1


def test_what_is_dropped_on_purpose_stays_away(started: Project) -> None:
    prepare(
        started,
        f"{TRIGGER}; CREATE INDEX plain ON people (name);"
        "CREATE INDEX falling ON people (name DESC); CREATE INDEX upp ON people (upper(name));",
    )
    started.write_revision(
        "one",
        None,
        """
        op.execute("DROP TRIGGER tr")
        op.execute("DROP INDEX upp")
        with op.batch_alter_table("people") as batch:
            batch.drop_index("plain")
            batch.drop_index("falling")
            batch.alter_column("name", nullable=False)
        """,
    )
    started.do("db", "upgrade")
    assert master(started) == set()


def test_index_on_an_expression_may_be_dropped_behind_the_change(started: Project) -> None:
    prepare(started, "CREATE INDEX low ON people (lower(name))")
    started.write_revision("one", None, f'{NOT_NULL}\nop.drop_index("low", "people")')
    started.do("db", "upgrade")
    assert master(started) == set()


@pytest.mark.parametrize(
    ("made", "name"),
    [
        ("CREATE INDEX low ON people (lower(name))", "index 'low'"),
        (TRIGGER, "trigger 'tr'"),
        (
            "CREATE TRIGGER of AFTER UPDATE OF name ON people BEGIN SELECT 1; END",
            "trigger 'of'",
        ),
        (
            "CREATE TRIGGER ins AFTER INSERT ON people BEGIN SELECT new.name; END",
            "trigger 'ins'",
        ),
    ],
)
def test_what_needs_a_column_that_went_is_named(either: Project, made: str, name: str) -> None:
    """The revision fails, and everything is as it was."""
    prepare(either, made)
    before = master(either)
    either.write_revision(
        "one",
        None,
        'with op.batch_alter_table("people", recreate="always") as batch:\n'
        '    batch.drop_column("name")',
    )
    result = either.flask("db", "upgrade")
    assert result.exit_code == 1
    assert f"its {name} cannot be created again (no such column: " in result.output
    assert "Traceback" not in result.output
    assert either.revision() is None
    assert master(either) == before


def test_trigger_that_was_broken_before_stays_as_it_was(started: Project) -> None:
    prepare(
        started,
        "CREATE TRIGGER old AFTER UPDATE ON people BEGIN INSERT INTO gone VALUES (1); END;",
    )
    before = master(started)
    started.write_revision("one", None, NOT_NULL)
    started.do("db", "upgrade")
    assert master(started) == before


def test_table_with_a_name_that_must_be_quoted(started: Project) -> None:
    table = 'a "b" c'
    prepare(
        started,
        'CREATE TABLE "a ""b"" c" (id INTEGER PRIMARY KEY, name TEXT);'
        'CREATE INDEX low ON "a ""b"" c" (lower(name));'
        'CREATE TRIGGER tr AFTER UPDATE ON "a ""b"" c" BEGIN SELECT 1; END;',
    )
    before = master(started)
    started.write_revision(
        "one",
        None,
        f"with op.batch_alter_table({table!r}) as batch:\n"
        '    batch.alter_column("name", nullable=False)',
    )
    started.do("db", "upgrade")
    assert master(started) == before


# Foreign keys ---------------------------------------------------------------------------------

CHILDREN = """
    CREATE TABLE children (id INTEGER PRIMARY KEY, pid INTEGER REFERENCES people (id)
        ON DELETE CASCADE);
    INSERT INTO children VALUES (1, 1);
"""


def test_orphans_are_refused_whoever_wrote_env_py(either: Project) -> None:
    prepare(either, CHILDREN)
    either.write_revision("one", None, 'op.execute("DELETE FROM people")')
    result = either.flask("db", "upgrade")
    assert result.exit_code == 1
    assert "Rows of 'children' would point to rows of 'people'" in result.output
    assert either.query("SELECT id FROM people") == [(1,)]
    assert either.revision() is None


def test_orphans_that_were_there_may_stay_and_may_go(either: Project) -> None:
    prepare(either, f"{CHILDREN} DELETE FROM people;")
    either.write_revision("one", None, NOT_NULL)
    either.write_revision("two", "one", 'op.execute("DELETE FROM children")')
    either.write_revision("three", "two", 'op.execute("INSERT INTO children VALUES (1, 1)")')
    result = either.flask("db", "upgrade")
    assert "The revision three" in result.output
    assert either.revision() == "two"


def test_foreign_key_that_fits_nothing_can_be_mended(either: Project) -> None:
    """SQLite refuses to check anything while there is one."""
    prepare(either, f"{CHILDREN} CREATE TABLE nicks (nick TEXT REFERENCES people (nick));")
    either.write_revision("one", None, NOT_NULL)
    either.do("db", "upgrade")
    either.write_revision("two", "one", 'op.execute("DELETE FROM people")')
    result = either.flask("db", "upgrade")
    assert "Rows of 'children' would point to rows of 'people'" in result.output
    either.write_revision("two", "one", 'op.execute("CREATE UNIQUE INDEX u ON people (nick)")')
    either.do("db", "upgrade")
    either.write_revision("three", "two", 'op.execute("DROP INDEX u")')
    result = either.flask("db", "upgrade")
    assert "would refer to columns that are not unique" in result.output
    assert either.revision() == "two"


OLD_HABITS = {
    "a trigger": (f"{TRIGGER};", f"{NOT_NULL}\nop.execute({TRIGGER!r})"),
    "a trigger of a column that is renamed": (
        f"{TRIGGER};",
        CHANGE.format('new_column_name="title"')
        + f"\nop.execute({TRIGGER.replace('new.name', 'new.title')!r})",
    ),
    "an index": (
        "CREATE INDEX low ON people (lower(name));",
        f"{NOT_NULL}\nop.execute('UPDATE people SET nick = 1')"
        "\nop.execute('CREATE INDEX low ON people (lower(name))')",
    ),
}


@pytest.mark.parametrize("what", OLD_HABITS)
def test_revision_that_creates_it_again_itself_goes_on_working(started: Project, what: str) -> None:
    """As all of them had to."""
    made, revision = OLD_HABITS[what]
    prepare(started, made)
    started.write_revision("one", None, revision)
    started.do("db", "upgrade")
    assert [one[1] for one in master(started)] == ["low" if "index" in what else "tr"]


def test_index_that_is_changed_on_purpose_stays_so(started: Project) -> None:
    prepare(started, "CREATE INDEX part ON people (name) WHERE name > 'a';")
    started.write_revision(
        "one",
        None,
        """
        with op.batch_alter_table("people") as batch:
            batch.drop_index("part")
            batch.alter_column("name", nullable=False)
            batch.create_index("part", ["name"], sqlite_where=sa.text("name > 'b'"))
        """,
    )
    started.do("db", "upgrade")
    ((_, _, sql),) = master(started)
    assert sql.endswith("WHERE name > 'b'")


def test_table_that_is_copied_twice_keeps_its_triggers(started: Project) -> None:
    prepare(started, f"{TRIGGER};")
    twice = NOT_NULL + "\n" + CHANGE.format("nullable=True")
    started.write_revision("one", None, f'{twice}\nop.rename_table("people", "persons")')
    started.do("db", "upgrade")
    started.query("UPDATE persons SET name = 'c'")
    assert started.query("SELECT t FROM log") == [("c",)]


def test_table_with_old_orphans_may_be_renamed(either: Project) -> None:
    """They are as many as before."""
    prepare(
        either,
        "CREATE TABLE pets (id INTEGER PRIMARY KEY, owner INTEGER REFERENCES people(id));"
        "INSERT INTO pets VALUES (1, 77);",
    )
    either.write_revision("one", None, 'op.rename_table("pets", "animals")')
    either.do("db", "upgrade")
    assert either.query("SELECT owner FROM animals") == [(77,)]
