"""Changing a table on SQLite copies it: no part is lost unsaid, and foreign keys stay true."""

from __future__ import annotations

import itertools
import sqlite3
import warnings

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, Text

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


DROP = 'with op.batch_alter_table("people") as batch_op:\n    batch_op.drop_column("nick")'

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
def test_item_that_would_be_lost_or_is_in_the_way_is_named(either: Project, what: str) -> None:
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
        "what the foreign key of 'boss' says about ON DELETE",
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


# What a column may have of its own, and what is dropped with it.
OWN = [
    "UNIQUE ON CONFLICT REPLACE",
    "COLLATE NOCASE",
    "CHECK (nick <> 'x')",
    "REFERENCES log (t) ON DELETE CASCADE DEFERRABLE",
]
SUBSETS = [
    pytest.param(own, marks=() if size in {0, len(OWN)} else pytest.mark.slow)
    for size in range(len(OWN) + 1)
    for own in itertools.combinations(OWN, size)
]


@pytest.mark.parametrize("own", SUBSETS, ids=" ".join)
@pytest.mark.parametrize("more", [[], ["other"]], ids=["drop", "drop and add"])
@pytest.mark.parametrize("writer", ["hand", "migrate"])
def test_what_a_column_has_of_its_own_goes_with_it(
    started: Project, own: tuple[str, ...], more: list[str], writer: str
) -> None:
    """*more*: the columns that the same batch adds; none is a new name of the dropped one."""
    prepare(
        started,
        f"""
        DROP TABLE log; CREATE TABLE log (t TEXT NOT NULL, PRIMARY KEY (t));
        INSERT INTO log VALUES ('b');
        DROP TABLE people; CREATE TABLE people (
            id INTEGER NOT NULL, name VARCHAR(50), nick VARCHAR(20) {" ".join(own)},
            PRIMARY KEY (id)
        );
        INSERT INTO people VALUES (1, 'a', 'b');
        """,
    )

    def models(metadata: MetaData) -> None:
        Table("log", metadata, Column("t", Text, primary_key=True))
        columns = Column("id", Integer, primary_key=True), Column("name", String(50))
        Table("people", metadata, *columns, *(Column(name, Text) for name in more))

    if writer == "hand":
        batch = 'with op.batch_alter_table("people") as batch:\n    '
        added = [f'batch.add_column(sa.Column("{name}", sa.Text))' for name in more]
        dropped = [f'batch.drop_column("{name}")' for name in more]
        up = "\n    ".join(['batch.drop_column("nick")', *added])
        down = "\n    ".join(['batch.add_column(sa.Column("nick", sa.String(20)))', *dropped])
        started.write_revision("one", None, batch + up, batch + down)
    else:
        started.do("db", "migrate", "-m", "one", models=models)
    started.do("db", "upgrade", models=models)
    names = ", ".join(["id", "name", *more])
    assert started.query(f"SELECT {names} FROM people") == [(1, "a", *(None for _ in more))]
    assert "No changes" in started.do("db", "migrate", models=models)
    started.do("db", "downgrade", models=models)
    assert started.query("SELECT id, name, nick FROM people") == [(1, "a", None)]
    assert started.query("SELECT * FROM log") == [("b",)]
    started.do("db", "upgrade", models=models)


# Beside a dropped column: the columns, what is named, and the option that keeps it.
OF_OTHERS = {
    "collate": ("name TEXT COLLATE NOCASE, nick TEXT COLLATE NOCASE", "COLLATE"),
    "check of another": ("name TEXT CHECK (name <> ''), nick TEXT CHECK (nick <> '')", "a CHECK"),
    "check written at it": ("name TEXT, nick TEXT CHECK (name <> 'nick')", "a CHECK"),
    "check of both": ("name TEXT CHECK (name <> nick), nick TEXT", "a CHECK"),
    "check of the table": ("name TEXT, nick TEXT, CHECK (name <> nick)", "a CHECK"),
    "after it without a comma": (
        "name TEXT, nick TEXT, UNIQUE (nick) CHECK (name <> '')",
        "a CHECK",
    ),
    "conflict": (
        "name TEXT UNIQUE ON CONFLICT IGNORE, nick TEXT, UNIQUE (nick) ON CONFLICT FAIL",
        "ON CONFLICT",
    ),
    "autoincrement": ("a INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, nick TEXT", "AUTOINCREMENT"),
    "foreign key": (
        "name TEXT REFERENCES log (t) ON DELETE CASCADE, nick TEXT REFERENCES log (t)",
        "what the foreign key of 'name' says",
    ),
    "deferrable": (
        "name TEXT REFERENCES log (t) DEFERRABLE, nick TEXT REFERENCES log (t) DEFERRABLE",
        "what the foreign key of 'name' says",
    ),
}


@pytest.mark.parametrize("what", OF_OTHERS)
@pytest.mark.parametrize(
    "more",
    [
        "",
        'batch.alter_column("name", new_column_name="title")',
        'batch.add_column(sa.Column("new", sa.String(9, collation="NOCASE"), '
        "sa.CheckConstraint(\"new <> ''\", name=op.f('new'))))",
    ],
    ids=["drop", "rename", "add"],
)
def test_what_other_columns_would_lose_is_refused(started: Project, what: str, more: str) -> None:
    """It is not hidden by what is dropped with the column, added with another, or renamed."""
    columns, named = OF_OTHERS[what]
    prepare(started, f"DROP TABLE people; CREATE TABLE people ({columns});")
    change = (
        f'with op.batch_alter_table("people") as batch:\n    batch.drop_column("nick")\n    {more}'
    )
    assert f"would be without {named}" in refusal(started, change)


GONE_WITH_IT = [
    "name TEXT, nick TEXT, CHECK (nick <> 'name')",
    'name TEXT, "nick" TEXT, CHECK ("nick" <> \'\')',
    "name TEXT, nick TEXT CHECK (nick <> name)",
    "name TEXT, nick TEXT, UNIQUE (nick) ON CONFLICT FAIL",
    "name TEXT, nick TEXT, UNIQUE (name, [nick] COLLATE nocase)",
    "name TEXT, nick TEXT, FOREIGN KEY (nick) REFERENCES log (t) ON DELETE SET NULL DEFERRABLE",
    "name TEXT, nick INTEGER PRIMARY KEY AUTOINCREMENT",
    "name TEXT, NICK TEXT COLLATE NOCASE CHECK (nick <> ''), b TEXT DEFAULT 'CHECK (COLLATE)'",
]


@pytest.mark.parametrize("columns", GONE_WITH_IT)
def test_what_is_about_the_dropped_column_goes(started: Project, columns: str) -> None:
    prepare(started, f"DROP TABLE people; CREATE TABLE people ({columns});")
    started.query("INSERT INTO people (name, nick) VALUES ('a', 1)")
    name = "NICK" if "NICK" in columns else "nick"
    started.write_revision("one", None, DROP.replace("nick", name))
    started.do("db", "upgrade")
    assert started.query("SELECT name FROM people") == [("a",)]


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
        "a generated column",
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
    lines = columns.replace(", ", ",\n")  # which SQLAlchemy 2.0.30 reads one by one
    prepare(either, f"DROP TABLE people; CREATE TABLE people (\n{lines}\n);")
    either.query("INSERT INTO people (id, name, nick) VALUES (1, 'a', 'b')")
    output = refusal(either, change)
    assert named in output
    assert all(call.partition("(")[0] in output for call in line.split("\n    "))
    either.write_revision("one", None, f"{change}\n    {line}")
    either.do("db", "upgrade")
    assert either.query("SELECT id, name FROM people") == [(1, "a")]


def test_column_without_a_type_is_explained(either: Project) -> None:
    prepare(either, "DROP TABLE people; CREATE TABLE people (id INTEGER, name TEXT, nick);")
    assert "reflect_args=[sa.Column(NAME, TYPE)]" in refusal(either)
    option = "reflect_args=[sa.Column('nick', sa.String(20))]"
    either.write_revision("one", None, _WITH.format(option, _NICK))
    either.do("db", "upgrade")


@pytest.mark.parametrize("columns", ["nick", "nick, name", "name) WHERE (nick > 'a'"])
def test_index_of_a_dropped_column_is_explained(either: Project, columns: str) -> None:
    prepare(either, f"CREATE INDEX i ON people ({columns});")
    assert "batch_op.drop_index(NAME)" in refusal(either, DROP)
    either.write_revision("one", None, f"{DROP}\n    batch_op.drop_index('i')")
    either.do("db", "upgrade")
    assert master(either) == set()


@pytest.mark.parametrize("columns", ["nick DESC", "name, nick COLLATE NOCASE"])
def test_index_of_a_dropped_column_goes(started: Project, columns: str) -> None:
    """Also if it has a part that the copy would lose."""
    prepare(started, f"CREATE INDEX i ON people ({columns});")
    started.write_revision("one", None, f"{DROP}\n    batch_op.drop_index('i')")
    started.do("db", "upgrade")
    assert master(started) == set()


def test_index_on_an_expression_of_a_dropped_column_goes(started: Project) -> None:
    prepare(started, "CREATE INDEX i ON people (lower(nick));")
    started.write_revision("one", None, DROP)
    started.do("db", "upgrade")
    started.query("CREATE INDEX id ON people (lower(name))")
    started.write_revision("two", "one", DROP.replace("nick", "id"))
    assert "without the index 'id'" in started.flask("db", "upgrade").output


def test_view_that_cannot_be_read_is_explained(either: Project) -> None:
    prepare(either, "CREATE VIEW old AS SELECT * FROM gone;")
    output = refusal(either)
    assert "names a table or a column that does not exist" in output
    either.write_revision("one", None, f'op.execute("DROP VIEW old")\n{NOT_NULL}')
    either.do("db", "upgrade")


def test_copy_by_hand_may_leave_out_anything(started: Project) -> None:
    prepare(started, f"{TRIGGER}; CREATE INDEX low ON people (lower(nick));")
    started.write_revision(
        "one",
        None,
        """
        old = sa.table("people", sa.column("name"))
        op.create_table("new", sa.Column("name", sa.Text))
        new = sa.table("new", sa.column("name"))
        op.execute(new.insert().from_select(["name"], sa.select(old.c.name)))
        op.drop_table("people")
        op.rename_table("new", "people")
        """,
    )
    started.do("db", "upgrade")
    assert started.query("SELECT * FROM people") == [("a",)]


def test_warnings_are_shown_beside_a_success_only(started: Project) -> None:
    """SQLAlchemy warns of the index and Alembic of the CHECK; an error of ours says it better."""
    prepare(
        started,
        "DROP TABLE people;"
        "CREATE TABLE people (id INTEGER, name TEXT CHECK (name <> ''), nick TEXT);"
        "CREATE INDEX low ON people (lower(name));",
    )
    keep = """
import warnings
warnings.warn("of the app")
with op.batch_alter_table("people", {}) as batch:
    batch.alter_column("name", nullable=False)
"""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        output = refusal(started, keep.format(""))
        assert "the index 'low'" in output
        assert "a CHECK without a name" in output
        assert caught == []
        check = "table_args=[sa.CheckConstraint(\"name <> ''\")]"
        change = f'op.execute("DROP INDEX low")\n{keep.format(check)}'
        started.write_revision("one", None, change)
        started.do("db", "upgrade")
    assert [str(one.message) for one in caught] == ["of the app"]
    assert caught[0].filename.endswith("one.py")


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
