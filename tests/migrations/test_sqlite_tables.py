"""Changing a table on SQLite copies it: no part is lost unsaid, and foreign keys stay true."""

from __future__ import annotations

import sqlite3

import pytest

from tests.migrations.projects import Project, snippets
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
    """Triggers, indexes and views, with their SQL."""
    return set(
        project.query(
            "SELECT type, name, sql FROM sqlite_master WHERE type <> 'table' AND sql IS NOT NULL"
        )
    )


TRIGGER = "CREATE TRIGGER tr AFTER UPDATE ON people BEGIN INSERT INTO log VALUES (new.name); END"


def refusal(project: Project, change: str = NOT_NULL) -> str:
    """What a revision with this change says; everything is as it was."""
    before = master(project), project.query("SELECT * FROM people"), definition(project)
    project.write_revision("one", None, change)
    result = project.flask("db", "upgrade")
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    assert snippets(result.output) or "op." not in result.output
    assert project.revision() is None
    assert (master(project), project.query("SELECT * FROM people"), definition(project)) == before
    return str(result.output)


def definition(project: Project, table: str = "people") -> list[tuple[str]]:
    return project.query(f"SELECT sql FROM sqlite_master WHERE name = '{table}'")


LOST = {
    "trigger": TRIGGER,
    "trigger with a colon": 'CREATE TRIGGER "other one" BEFORE DELETE ON people WHEN old.id > 5'
    " BEGIN SELECT raise(abort, 'no :name'); END",
    "expression": 'CREATE UNIQUE INDEX "an expression" ON people (lower(name))',
    "condition of two lines": "CREATE INDEX part ON people (nick) WHERE nick > 'a'\n AND id < 5",
    "descending": "CREATE INDEX falling ON people (name DESC)",
    "collation": "CREATE INDEX folding ON people (name COLLATE NOCASE)",
    "view": "CREATE VIEW v AS SELECT name  FROM Main.People",
    "trigger elsewhere": """CREATE TRIGGER tr AFTER INSERT ON log BEGIN
        INSERT INTO "people" (name) VALUES (new.t); END""",
}


@pytest.mark.parametrize("what", LOST)
def test_item_that_would_be_lost_or_in_the_way_is_named(either: Project, what: str) -> None:
    """The revision that the sentence says keeps it as it was."""
    prepare(either, f"{LOST[what]};")
    before = master(either)
    output = refusal(either)
    lines = snippets(output)
    assert len(lines) == 2, output
    either.write_revision("one", None, f"{lines[0]}\n{NOT_NULL}\n{lines[1]}")
    either.do("db", "upgrade")
    assert master(either) == before
    columns = {row[1]: row[3] for row in either.query("PRAGMA table_info(people)")}
    assert columns["name"] == 1


_WITH = 'with op.batch_alter_table("people", {}) as batch:\n    batch.alter_column("nick", {})'
_NICK = "existing_type=sa.String(20), nullable=False"

# The columns of a table, what is named, and the option of the batch that keeps it.
PARTS = {
    "autoincrement": (
        "id INTEGER PRIMARY KEY AUTOINCREMENT, name VARCHAR(50), nick VARCHAR(20)",
        "AUTOINCREMENT",
        "table_kwargs={'sqlite_autoincrement': True}",
    ),
    "collate": (
        "id INTEGER PRIMARY KEY, name VARCHAR(50) COLLATE NOCASE, nick VARCHAR(20)",
        "COLLATE",
        "reflect_args=[sa.Column('name', sa.String(50, collation='NOCASE'))]",
    ),
    "check": (
        "id INTEGER PRIMARY KEY, name VARCHAR(50) CHECK (name > 'A'), nick VARCHAR(20),"
        " CONSTRAINT named CHECK (nick <> '')",
        "a CHECK without a name",
        "table_args=[sa.CheckConstraint(\"name > 'A'\")]",
    ),
    "conflict": (
        "id INTEGER PRIMARY KEY, name VARCHAR(50) UNIQUE ON CONFLICT REPLACE, nick VARCHAR(20)",
        "ON CONFLICT",
        None,
    ),
    "foreign key": (
        "id INTEGER PRIMARY KEY, name VARCHAR(50), nick VARCHAR(20), boss INTEGER REFERENCES"
        " people(id) ON DELETE SET NULL ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED",
        "what the foreign key of 'boss' says of ON DELETE",
        None,
    ),
}


def made_as(project: Project, columns: str) -> None:
    count = columns.count("boss")
    prepare(
        project,
        f"DROP TABLE people; CREATE TABLE people (\n{columns.replace(', ', ',' + chr(10))}\n);"
        f"INSERT INTO people VALUES (1, 'a', 'b'{', NULL' * count});",
    )


@pytest.mark.filterwarnings("ignore:Unnamed CHECK constraint on reflected table")
@pytest.mark.parametrize("what", PARTS)
def test_part_of_the_table_that_would_be_lost_is_named(either: Project, what: str) -> None:
    """Both ways that the sentence says keep it: an option of the batch, and a copy by hand."""
    columns, named, option = PARTS[what]
    made_as(either, columns)
    output = refusal(either)
    assert f"would be without {named}" in " ".join(output.split())
    by_hand = columns.replace("nick VARCHAR(20)", "nick VARCHAR(20) NOT NULL")
    names = "id, name, nick" + ", boss" * columns.count("boss")
    change = f"""
op.execute({f"CREATE TABLE people_new ({by_hand})"!r})
op.execute("INSERT INTO people_new ({names}) SELECT {names} FROM people")
op.drop_table("people")
op.rename_table("people_new", "people")
"""
    if option:
        change = _WITH.format(option, _NICK)
    either.write_revision("one", None, change)
    either.do("db", "upgrade")
    assert either.query("SELECT id, name, nick FROM people") == [(1, "a", "b")]
    ((sql,),) = definition(either)
    for word in ("AUTOINCREMENT", "COLLATE", "CONFLICT", "SET NULL", "DEFERRABLE"):
        assert (word in columns) == (word in sql)
    assert sql.count("CHECK") == columns.count("CHECK")


VIEWS = """
    CREATE VIEW early AS SELECT * FROM late;
    CREATE VIEW late AS SELECT name FROM people;
    CREATE TRIGGER instead INSTEAD OF INSERT ON early BEGIN SELECT 1; END;
    CREATE VIEW other AS SELECT t AS "a people", 'people' AS b FROM log;
"""


def test_views_of_views_and_their_triggers_are_named(either: Project) -> None:
    """The drops can be written in any order."""
    prepare(either, VIEWS)
    before = master(either)
    lines = snippets(refusal(either))
    assert len(lines) == 6
    either.write_revision("one", None, "\n".join([*lines[::2], NOT_NULL, *lines[1::2]]))
    either.do("db", "upgrade")
    assert master(either) == before


DROP = 'with op.batch_alter_table("people") as batch_op:\n    batch_op.drop_column("nick")'
_MORE = "id INTEGER PRIMARY KEY, name VARCHAR(50), nick VARCHAR(20), "

# The definition of a table, the change, what is named, and the line that the batch needs.
IN_THE_WAY = {
    "check": (
        f"{_MORE}CONSTRAINT c CHECK (nick <> '')",
        DROP,
        "no such column: nick",
        "batch_op.drop_constraint(op.f('c'), type_='check')",
    ),
    "generated from it": (
        f"{_MORE}g TEXT GENERATED ALWAYS AS (nick || 'x') STORED",
        DROP,
        "no such column: nick",
        "batch_op.drop_column('g')",
    ),
    **{
        f"generated, {sql}": (
            f"{_MORE}g INTEGER {sql}",
            'with op.batch_alter_table("people") as batch_op:\n'
            '    batch_op.alter_column("name", nullable=False)',
            "A batch cannot fill a generated column",
            "batch_op.drop_column('g')\n"
            "    batch_op.add_column(sa.Column('g', sa.Integer, sa.Computed('id + 1')))",
        )
        for sql in ("GENERATED ALWAYS AS (id + 1) STORED", "AS (id + 1)")
    },
}


@pytest.mark.parametrize("what", IN_THE_WAY)
def test_what_a_batch_cannot_copy_is_explained(either: Project, what: str) -> None:
    columns, change, named, line = IN_THE_WAY[what]
    prepare(either, f"DROP TABLE people; CREATE TABLE people ({columns});")
    either.query("INSERT INTO people (id, name, nick) VALUES (1, 'a', 'b')")
    output = refusal(either, change)
    assert named in output
    assert all(call.partition("(")[0] in output for call in line.split("\n    "))
    either.write_revision("one", None, f"{change}\n    {line}")
    either.do("db", "upgrade")
    assert either.query("SELECT id, name FROM people") == [(1, "a")]


def test_view_that_cannot_be_read_is_explained(either: Project) -> None:
    prepare(either, "CREATE VIEW old AS SELECT * FROM gone;")
    output = refusal(either)
    assert "names a table or a column that does not exist" in output
    either.write_revision("one", None, f'op.execute("DROP VIEW old")\n{NOT_NULL}')
    either.do("db", "upgrade")


HARMLESS = {
    "all that is reflected": (
        "id INTEGER PRIMARY KEY, name VARCHAR(50) DEFAULT 'x', nick VARCHAR(20) UNIQUE,"
        " boss INTEGER, CONSTRAINT named CHECK (name > 'A'),"
        " CONSTRAINT fk FOREIGN KEY (boss) REFERENCES people (id) ON DELETE CASCADE",
        NOT_NULL,
    ),
    "a column that goes with its collation": (
        "id INTEGER PRIMARY KEY, name VARCHAR(50), nick VARCHAR(20) COLLATE NOCASE",
        'with op.batch_alter_table("people", recreate="always") as batch:\n'
        '    batch.drop_column("nick")',
    ),
    "a constraint that is dropped": (
        "id INTEGER PRIMARY KEY, name VARCHAR(50), nick VARCHAR(20), boss INTEGER,"
        " CONSTRAINT named CHECK (name > 'A'),"
        " CONSTRAINT fk FOREIGN KEY (boss) REFERENCES people (id) ON DELETE CASCADE DEFERRABLE",
        'with op.batch_alter_table("people") as batch:\n    batch.drop_constraint("named")\n'
        '    batch.drop_constraint("fk", type_="foreignkey")',
    ),
    "names that are words": (
        'id INTEGER PRIMARY KEY, name VARCHAR(50), nick VARCHAR(20), "collate" TEXT, strict TEXT,'
        " rowid TEXT, conflict TEXT DEFAULT 'on conflict'",
        NOT_NULL,
    ),
}


@pytest.mark.parametrize("what", HARMLESS)
def test_change_that_loses_nothing_is_made(started: Project, what: str) -> None:
    columns, change = HARMLESS[what]
    lines = columns.replace(", ", ",\n")  # which SQLAlchemy 2.0.30 reads one by one
    prepare(started, f"DROP TABLE people; CREATE TABLE people (\n{lines}\n);")
    started.write_revision("one", None, change)
    started.do("db", "upgrade")


def test_change_without_a_copy_is_made(either: Project) -> None:
    """A new column, a new name, an index: SQLite alters the table as it is."""
    prepare(either, f"{TRIGGER}; CREATE INDEX low ON people (lower(nick));")
    either.write_revision(
        "one",
        None,
        """
        with op.batch_alter_table("people") as batch:
            batch.add_column(sa.Column("age", sa.Integer()))
            batch.create_index("plain", ["name"])
        op.alter_column("people", "name", new_column_name="title")
        op.drop_table("log")
        """,
    )
    either.do("db", "upgrade")
    assert {name for _, name, _ in master(either)} == {"tr", "low", "plain"}


def test_what_is_dropped_on_purpose_stays_away(started: Project) -> None:
    prepare(started, f"{TRIGGER}; CREATE INDEX upp ON people (upper(name));")
    started.write_revision(
        "one", None, f'op.execute("DROP TRIGGER tr")\nop.execute("DROP INDEX upp")\n{NOT_NULL}'
    )
    started.do("db", "upgrade")
    assert master(started) == set()


def test_everything_that_would_be_lost_is_named_at_once(started: Project) -> None:
    """Also of a table with a name that must be quoted, or that is too long for Alembic's copy."""
    table = 'a "b" ' + "c" * 50
    quoted = table.replace('"', '""')
    prepare(
        started,
        f'CREATE TABLE "{quoted}" (id INTEGER PRIMARY KEY, name TEXT COLLATE NOCASE);'
        f'CREATE INDEX low ON "{quoted}" (lower(name));'
        f'CREATE TRIGGER tr AFTER UPDATE ON "{quoted}" BEGIN SELECT 1; END;',
    )
    change = f"with op.batch_alter_table({table!r}) as batch:\n    batch.alter_column("
    output = refusal(started, f"{change}'name', nullable=False)")
    for name in ("COLLATE", "the trigger 'tr'", "the index 'low'"):
        assert f"without {name}" in output


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
