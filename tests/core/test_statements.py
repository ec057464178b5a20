"""What the reader of SQL text says of a statement, and that it says it in linear time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from unittest import mock

import pytest
from hypothesis import given, settings, strategies
from sqlalchemy import create_engine, text

from flask_uow._transaction import statements
from flask_uow._transaction.statements import (
    SqliteKind,
    StatementEffect,
    TransactionEnd,
    effect_of,
    is_locking_begin,
    is_rollback,
    sqlite_clauses,
    sqlite_kind_of,
    transaction_end,
    words_of,
)

READERS: list[Callable[[str], object]] = [
    effect_of,
    is_locking_begin,
    is_rollback,
    sqlite_clauses,
    sqlite_kind_of,
    transaction_end,
    lambda statement: list(words_of(statement)),
]

# Effects --------------------------------------------------------------------------------------

READS = [
    "SELECT 1",
    "select users.id, users.name from users where users.name in ('a', 'b')",
    "  \n SELECT count(*) AS n, max(users.id) FROM users GROUP BY lower(name)",
    "(SELECT 1) UNION ALL (SELECT 2)",
    "WITH recent AS (SELECT * FROM posts) SELECT title FROM recent",
    "SELECT updated_at, last_insert, deleted FROM updates",
    "SELECT CAST(a AS NUMERIC(10, 2)) FROM t",
    "SELECT row_number() OVER (PARTITION BY a ORDER BY b) FROM t",
    "VALUES (1), (2)",
    "SHOW transaction_isolation",
    "SELECT 1;",
    "SAVEPOINT sa_savepoint_1",
    "RELEASE SAVEPOINT sa_savepoint_1",
    # What stands in a string, a quoted name or a comment is no word of the statement.
    "SELECT 1; -- and done",
    "SELECT 'create_order(1)'",
    "SELECT 'it''s; DELETE FROM users'",
    'SELECT "into" FROM t',
    "SELECT 1 /* FOR UPDATE */ -- create_order(1)",
    "--report\nSELECT 1",
    "WITH one AS (SELECT 'INSERT') SELECT * FROM one",
    "SELECT t.update, t.into FROM t",
    "SELECT a[1], b #>> '{c}', ARRAY['d'] FROM t",
    "SELECT * FROM t LIMIT %(n)s OFFSET %(m)s",
    "SELECT 1 ----------",
    "SELECT a::numeric(10, 2), b - -1 / 2 FROM t",
    "SELECT * FROM t WHERE t.a = (SELECT max(a) FROM t)",
    "SELECT a # b\n, 'c\nd' FROM t",
]
UNKNOWN = [
    "SELECT create_order(1)",
    "SELECT nextval('numbers')",
    'SELECT "quoted_function"(1)',
    "SELECT * FROM users FOR UPDATE",
    "SELECT * FROM users FOR NO KEY UPDATE SKIP LOCKED",
    "SELECT * INTO copy FROM users",
    "CALL create_order(1)",
    "DO $$ BEGIN NULL; END $$",
    "SET LOCAL statement_timeout = 100",
    "PRAGMA user_version = 3",
    "SELECT 1; DELETE FROM users",
    "SELECT 1;\nUPDATE users SET name = 'b'",
    "SELECT app.rank(1)",
    "/*! SELECT */ 1",
    "",
    "-- " + "-" * 60,
    "WITH x AS (SELECT 1 FROM t FOR UPDATE) SELECT * FROM x",
    "SELECT create_order /* a comment does not help */ (1)",
    "SELECT app . rank (1)",
    "SELECT [create_order](1)",
    "SELECT `create_order`(1)",
]
WRITES = [
    "INSERT INTO users (name) VALUES ('a')",
    "  update users set name = 'b'",
    "DELETE FROM users",
    "MERGE INTO users USING new ON (users.id = new.id) WHEN MATCHED THEN DELETE",
    "REPLACE INTO users (name) VALUES ('a')",
    "CREATE TABLE t (id INTEGER)",
    "DROP TABLE t",
    "TRUNCATE users",
    "WITH gone AS (DELETE FROM users RETURNING id) SELECT id FROM gone",
    "WITH new AS (SELECT 1 AS id) INSERT INTO users SELECT id FROM new",
    "/* why */ -- and how\nDELETE FROM users",
    "WITH x AS (SELECT create_order(1)) DELETE FROM users",
]
# Each calls 'create_order' on one database, where another one sees a string or a comment.
DOUBTS = {
    "MySQL: a backslash": r"SELECT 'a\'', create_order(1), 'b\''",
    "MySQL: a backslash in double quotes": r'SELECT "a\"", create_order(1), "b\""',
    "MySQL: no space after the dashes": "SELECT 5--create_order(1)",
    "MySQL: a comment that is run": "SELECT 1 /*! , create_order(1) */",
    "MariaDB: a comment that is run": "SELECT 1 /*M!100100 , create_order(1) */",
    "MySQL: a quote in a comment": "SELECT 1 # it's\n, create_order(1) # it's",
    "PostgreSQL: a comment that ends with CR": "SELECT 1 -- why\r, create_order(1)",
    "PostgreSQL: a comment that is empty": "SELECT 1 --\r, create_order(1)",
    "PostgreSQL: a comment in a comment": "SELECT 1 /* /* */ ' */, create_order(1) -- '",
    "not PostgreSQL: dollars in names": "SELECT 1 AS $a$, create_order(1), 2 AS $a$",
    "Oracle: a quote in a quote": "SELECT q'[it's]', create_order(1), q'[it's]' FROM dual",
    "SQL Server: a quote in a name": "SELECT [it's], create_order(1), [it's] FROM t",
    "SQL Server: a comment in a name": "SELECT [a--b], create_order(1) FROM t",
    "an open string": "SELECT 'create_order(1)",
    "an open comment": "SELECT 1 /* create_order(1)",
}


@pytest.mark.parametrize("statement", READS)
def test_a_statement_that_only_reads_is_a_read(statement: str) -> None:
    """Plain queries, known functions and savepoints change nothing."""
    assert effect_of(statement) is StatementEffect.READ


@pytest.mark.parametrize("statement", UNKNOWN)
def test_a_doubt_is_unknown(statement: str) -> None:
    """What calls an unknown function, locks or is no query may change something."""
    assert effect_of(statement) is StatementEffect.UNKNOWN


@pytest.mark.parametrize("statement", DOUBTS.values(), ids=DOUBTS)
def test_what_databases_read_in_two_ways_is_unknown(statement: str) -> None:
    """What is a string or a comment on one database is no certain read on any."""
    assert effect_of(statement) is StatementEffect.UNKNOWN


@pytest.mark.parametrize("statement", WRITES)
def test_a_statement_that_stores_is_a_write(statement: str) -> None:
    """DML and DDL are writes, inside a WITH as well."""
    assert effect_of(statement) is StatementEffect.WRITE


# Transactions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "end"),
    [
        ("COMMIT", TransactionEnd.COMMIT),
        (" \n end transaction", TransactionEnd.COMMIT),
        ("/* why */ commit; -- done", TransactionEnd.COMMIT),
        ("ROLLBACK", TransactionEnd.ROLLBACK),
        ("rollback work", TransactionEnd.ROLLBACK),
        ("ROLLBACK; -- back to the start", TransactionEnd.ROLLBACK),
        ("ROLLBACK; ALTER TABLE a RENAME TO b", TransactionEnd.ROLLBACK),
        ("ROLLBACK TO SAVEPOINT one", None),
        ("rollback /* not all */ work to one", None),
        ("SELECT 'commit'", None),
        ("committed", None),
        ("RELEASE one", None),
        ("'commit'", None),
        ("", None),
    ],
)
def test_the_end_of_a_transaction(statement: str, end: TransactionEnd | None) -> None:
    """A rollback to a savepoint ends nothing."""
    assert transaction_end(statement) is end


@pytest.mark.parametrize("statement", ["ROLLBACK", " rollback to one", "-- why\nROLLBACK"])
def test_a_rollback(statement: str) -> None:
    """Also one that undoes a part only."""
    assert is_rollback(statement)


@pytest.mark.parametrize(
    "statement", ["", "COMMIT", "rollbacks", "SELECT 'ROLLBACK'", "; ROLLBACK"]
)
def test_no_rollback(statement: str) -> None:
    """The word alone does not make one."""
    assert not is_rollback(statement)


def test_a_begin_and_whether_it_locks() -> None:
    """SQLite has three kinds of BEGIN, and two take the write lock."""
    for statement in ["BEGIN", "  begin deferred", "/* why */ BEGIN TRANSACTION"]:
        assert not is_locking_begin(statement)
    for statement in ["BEGIN IMMEDIATE", "begin /* now */ exclusive transaction"]:
        assert is_locking_begin(statement)
    for statement in ["", "beginning", "SELECT 'BEGIN IMMEDIATE'", "COMMIT; BEGIN IMMEDIATE"]:
        assert not is_locking_begin(statement)


# SQLite ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("SELECT 1", SqliteKind.READ),
        ("  (SELECT random()) UNION SELECT 2", SqliteKind.READ),
        ("-- why\n/* and how */ select my_function(1)", SqliteKind.READ),
        ("--why\n/*! and how */ select 1", SqliteKind.READ),
        (";; SELECT 1", SqliteKind.READ),
        ("WITH one AS (SELECT updated FROM t) SELECT * FROM one", SqliteKind.READ),
        ("WITH one AS (SELECT 'insert') SELECT replace(a, b, c) FROM one", SqliteKind.READ),
        ("VALUES (1)", SqliteKind.READ),
        ("EXPLAIN QUERY PLAN DELETE FROM t", SqliteKind.READ),
        ("INSERT INTO t DEFAULT VALUES", SqliteKind.WRITE),
        ("with one as (select 1) replace into t select * from one", SqliteKind.WRITE),
        ("WITH one AS (SELECT [it's]) INSERT INTO [it's] VALUES (1)", SqliteKind.WRITE),
        ("CREATE TABLE t (id)", SqliteKind.WRITE),
        ("ANALYZE", SqliteKind.WRITE),
        ("", SqliteKind.WRITE),
        ("-- " + "-" * 60, SqliteKind.WRITE),
        ("SAVEPOINT one", SqliteKind.SAVEPOINT),
        ("RELEASE one", SqliteKind.END),
        ("ROLLBACK TO one", SqliteKind.END),
        ("PRAGMA table_info(t)", SqliteKind.OUTSIDE),
        ("VACUUM", SqliteKind.OUTSIDE),
        ("BEGIN EXCLUSIVE", SqliteKind.OUTSIDE),
    ],
)
def test_the_kind_of_a_statement_for_sqlite(statement: str, kind: SqliteKind) -> None:
    """The first word tells; a doubt is a write."""
    assert sqlite_kind_of(statement) is kind


# Any text -------------------------------------------------------------------------------------


def test_the_words_of_a_statement() -> None:
    """Those in strings, quoted names and comments are left out; a name after a dot is marked."""
    statement = "CREATE TABLE a.b (c \"d\" DEFAULT 'e', -- f\n g INTEGER COLLATE /* h */ nocase)"
    assert list(words_of(statement)) == (
        ["create", "table", "a", ".b", "c", "default", "g", "integer", "collate", "nocase"]
    )


def test_the_clauses_of_a_table_of_sqlite() -> None:
    """Each with the column that it is written at; a quoted name equals no keyword."""
    definition = """CREATE TABLE "a (b" (
        id INTEGER PRIMARY KEY, "E""mail" VARCHAR(5,2) CHECK (x <> ',(')
        CONSTRAINT [un] UNIQUE COLLATE nocase, -- no, comment
        check (`check` > 1) FOREIGN KEY (c) REFERENCES d) WITHOUT ROWID, STRICT"""
    clauses, options = sqlite_clauses(definition)
    assert [(clause.column, " ".join(clause.words)) for clause in clauses] == [
        ("id", "id integer"),
        ("id", "primary key"),
        ('e"mail', '"e"mail varchar ( 5 , 2 )'),
        ('e"mail', "check ( x ',(' )"),
        ('e"mail', 'constraint "un unique collate nocase'),
        (None, 'check ( "check 1 )'),
        (None, "foreign key ( c ) references d"),
    ]
    assert options == [")", "without", "rowid", ",", "strict"]
    assert clauses[2].names(["id", "mail", 'e"mail']) == {'e"mail'}


PIECES = strategies.sampled_from(
    """
    -- --x /* */ /*! /*M! ' '' " "" ` $$ $a$ $1 ( ) [ ] # ; . , \\ % : q' nq' 1.5 lower f é \x00
    \ud800 select with insert into update for key rollback to commit begin immediate
    """.split()
)
SPACES = strategies.sampled_from(" \n\t\r")


@settings(max_examples=300, derandomize=True, deadline=None)
@given(strategies.lists(PIECES | SPACES | strategies.text()))
def test_no_text_is_refused(pieces: list[str]) -> None:
    """Whatever is sent to the database goes through here first."""
    for reader in READERS:
        reader("".join(pieces))


@settings(max_examples=300, derandomize=True, deadline=None)
@given(strategies.lists(PIECES | SPACES))
def test_a_second_statement_is_never_overlooked(pieces: list[str]) -> None:
    """What follows a plain query is a read only if it is nothing, a comment or a semicolon."""
    rest = "".join(pieces)
    if effect_of(f"SELECT 1; {rest}") is StatementEffect.READ:
        assert effect_of(rest) in {StatementEffect.UNKNOWN, StatementEffect.READ}
        assert not list(words_of(rest))


LENGTH = 100_000
NASTY_PIECES = [
    *"""
    ( ) a( or( [ ] ([ ' '' " "" ` ; . / /* /**/ /*! */ -x -- # #' $ $$ $a $$a $a$b q' 1 a \\ \x80
    insertx, %(
    """.split(),
    *[" ", "\n", "\t ", "; ", "--\n", "-- \r", "-- x\n", "a ", "for update ", "/* \n"],
]
NASTY = [
    "-- " + "-" * LENGTH,
    "-" * LENGTH + "x",
    "-- " + "x" * LENGTH + "\r",
    *(start + piece * (LENGTH // len(piece)) for start in ["", "WITH "] for piece in NASTY_PIECES),
    "WITH " + "".join(f"$tag{number}$ " for number in range(LENGTH // 10)),
    "/*" * (LENGTH // 4) + "*/" * (LENGTH // 4),
    "WITH [" + "']'" * (LENGTH // 3),
    "BEGIN" + " " * LENGTH + "IMMEDIATE",
    "lower" + " " * LENGTH + "(",
]
PROGRAM = """
from tests.core.test_statements import NASTY, READERS
for statement in NASTY:
    print(repr(statement[:20]), len(statement), flush=True)
    for reader in READERS:
        reader(statement)
print("done")
"""


def test_any_text_is_read_in_linear_time() -> None:
    """Quadratic work would not end in time. The output ends with the text that takes long."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.stdout.splitlines()[-1:] == ["done"], run.stderr


@pytest.mark.parametrize("statement", NASTY[3::5], ids=lambda statement: repr(statement[:12]))
def test_twice_the_text_is_twice_the_work(statement: str) -> None:
    """The number of tokens grows with the text."""
    half = statement[:5000]
    tokens, twice = (sum(1 for _ in statements._tokens(part)) for part in (half, half * 2))
    assert twice <= 2 * tokens + 5


@pytest.mark.parametrize("first", ["select", "with", "/* by a report */ select"])
@pytest.mark.parametrize("piece", ["1,", "[]", "$1 ", "/-"])
def test_the_first_word_decides_about_a_megabyte(first: str, piece: str) -> None:
    """Reading all of it would take a second."""
    statement = f"{first} {piece * (1_000_000 // len(piece))}"
    read: list[object] = []

    def tokens(text: str) -> Iterator[tuple[str, str]]:
        for token in original(text):
            read.append(token)
            yield token

    original = statements._tokens
    with mock.patch.object(statements, "_tokens", tokens):
        assert effect_of(statement) is StatementEffect.UNKNOWN
        assert sqlite_kind_of(statement) in {SqliteKind.READ, SqliteKind.WRITE}
    assert len(read) < 10


def test_a_long_statement_is_not_kept() -> None:
    """The results of short ones are remembered, of megabytes not; and not of too many."""
    results = getattr(effect_of, "__self__")  # noqa: B009
    effect_of("SELECT 1 AS remembered")
    effect_of("SELECT 1 AS " + "a" * LENGTH)
    assert "SELECT 1 AS remembered" in results
    assert all(len(statement) < 10_000 for statement in results)
    for number in range(5000):
        effect_of(f"SELECT {number}")
    assert len(results) <= 2048


# The hang -------------------------------------------------------------------------------------

HANGING = "-- " + "-" * 60


def test_a_statement_that_is_only_a_comment_ends() -> None:
    """It hung the whole process. SQLite runs nothing and returns no rows."""
    program = f"""
from flask import Flask
from sqlalchemy import text
from flask_uow import Database
app = Flask("shop")
app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
db = Database(app)
with app.app_context():
    print(db.session.execute(text({HANGING!r})).returns_rows)
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.stdout.strip() == "False", run.stderr
    with create_engine("sqlite://").connect() as connection:  # as without the package
        assert not connection.execute(text(HANGING)).returns_rows
