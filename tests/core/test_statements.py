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
    SessionChange,
    SqliteKind,
    StatementEffect,
    TransactionEnd,
    is_locking_begin,
    is_rollback,
    reader_of,
    session_changes_of,
    sqlite_clauses,
    sqlite_kind_of,
    transaction_end,
    words_of,
)

DIALECTS = ["postgresql", "mysql", "sqlite", "oracle"]
effect_of = reader_of("postgresql").effect_of

READERS: list[Callable[[str], object]] = [
    effect_of,
    reader_of("mysql").effect_of,
    reader_of("mysql").is_plain_read,
    reader_of("sqlite").is_plain_read,
    is_locking_begin,
    is_rollback,
    session_changes_of,
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
    "EXPLAIN (FORMAT JSON) SELECT 1",
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
    "SELECT 1.5e3, 2e-1, 0x1F, .5, 1_000",
    # What stands before these parentheses is no function.
    "WITH RECURSIVE tree(id) AS (SELECT 1) SELECT * FROM tree",
    'WITH "tree" ("id") AS (SELECT 1) SELECT * FROM "tree" AS t(id)',
    "SELECT count(*) FILTER (WHERE a) OVER (PARTITION BY (b) ORDER BY (c)) FROM t GROUP BY (d)",
    "SELECT CAST(a AS geometry(point, 1)), CAST(b AS CHARACTER VARYING(3)) FROM t",
    "SELECT * FROM a JOIN (b JOIN c ON b.id = c.id) ON a.id = b.id",
    "SELECT DISTINCT ON (a) lower(b) FROM t",
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
    "SET TRANSACTION READ ONLY",
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
    'SELECT "create_order" /* why */ (1)',
    'SELECT U&"create_order"(1)',
    "SELECT .lower(1)",
    "SELECT * FROM t FOR SHARE",
    "SELECT * FROM t FOR /* why */ KEY\nSHARE",
    "SELECT * FROM t LOCK IN SHARE MODE",
    "SELECT * FROM t LIMIT 1FOR UPDATE",
    "SELECT 1INTO copy FROM t",
    "SELECT NEXT VALUE FOR numbers",
    "SELECT numbers.nextval FROM dual",
    # A function can have the name of an unreserved word.
    "SELECT over(1)",
    "SELECT a, by(1) FROM t ORDER BY by(2)",
    "SELECT 1 WHERE filter (1)",
    "SELECT (1) + against(1)",
    "SELECT DISTINCT ON (a) over(1) FROM t",
    "SELECT 1 AS recursive, create_order(1)",
    "SELECT recursive.create_order(1)",
    "SELECT 1 AS as, create_order(1)",
    'SELECT 1 AS "as", create_order(1)',
    "SELECT 1 AS with FROM t WHERE create_order(1)",
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


# '#' begins a comment there, which can hide anything from this reader.
READS_OF = {
    dialect: [statement for statement in READS if dialect != "mysql" or "#" not in statement]
    for dialect in DIALECTS
}


@pytest.mark.parametrize(
    ("dialect", "statement"),
    [(dialect, read) for dialect in DIALECTS for read in READS_OF[dialect]],
)
def test_a_statement_that_only_reads_is_a_read(dialect: str, statement: str) -> None:
    """Plain queries, known functions and savepoints change nothing."""
    assert reader_of(dialect).effect_of(statement) is StatementEffect.READ


@pytest.mark.parametrize("statement", UNKNOWN)
def test_a_doubt_is_unknown(statement: str) -> None:
    """What calls an unknown function, locks or is no query may change something."""
    for dialect in DIALECTS:
        assert reader_of(dialect).effect_of(statement) is StatementEffect.UNKNOWN


@pytest.mark.parametrize("statement", DOUBTS.values(), ids=DOUBTS)
def test_what_databases_read_in_two_ways_is_unknown(statement: str) -> None:
    """What is a string or a comment on one database is no certain read on any."""
    for dialect in DIALECTS:
        assert reader_of(dialect).effect_of(statement) is StatementEffect.UNKNOWN


@pytest.mark.parametrize("statement", WRITES)
def test_a_statement_that_stores_is_a_write(statement: str) -> None:
    """DML and DDL are writes, inside a WITH as well."""
    for dialect in DIALECTS:
        assert reader_of(dialect).effect_of(statement) is StatementEffect.WRITE


# Sessions -------------------------------------------------------------------------------------

CHANGES = {
    "SET TIME ZONE 'UTC'": "SETTING",
    "  -- why\n/* and how */ sEt search_path = x": "SETTING",
    "SET SESSION x = 1": "SETTING",
    "SET ROLE admin": "SETTING",
    "SET NAMES utf8mb4": "SETTING",
    "SET GLOBAL x = 1": "SETTING",
    "SET @a = 1": "SETTING",
    "SET LOCAL x = 1": "LOCAL",
    "BEGIN; SET LOCAL x = 1; SET x = 1; COMMIT": "LOCAL SETTING",
    "SELECT set_config('a', 'b', false)": "CONFIG",
    "SELECT pg_catalog.SET_CONFIG ('a', :value, False)": "CONFIG",
    "SELECT set_config('a', 'b', true), set_config('c', 'd', false)": "CONFIG",
    "SELECT set_config(%(a)s, %(b)s, %(c)s) AS set_config_1": "CONFIG_BOUND",
    "UPDATE t SET a = set_config('a', 'b', $1::bool)": "CONFIG_BOUND",
    "SELECT @a := @a + 1": "VARIABLE",
    "SELECT @`a` := 1": "VARIABLE",
    "SELECT max(id) INTO @a FROM t": "VARIABLE",
    "CREATE TEMP TABLE t (id int)": "TEMPORARY",
    "create or replace temporary table t (id int)": "TEMPORARY",
    "CREATE LOCAL TEMPORARY TABLE t (id int) ON COMMIT DELETE ROWS": "TEMPORARY",
    "CREATE TEMP SEQUENCE s": "TEMPORARY",
    "CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END": "TEMPORARY",
    "CREATE TABLE IF NOT EXISTS temp.t (id int)": "TEMPORARY",
    "CREATE TABLE pg_temp.t AS SELECT 1": "TEMPORARY",
    "SELECT 1 AS a INTO TEMPORARY TABLE t": "TEMPORARY",
    "WITH x AS (SELECT 1) SELECT * INTO TEMP t FROM x": "TEMPORARY",
    "PREPARE a AS SELECT 1": "PREPARED",
    "DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT 1": "CURSOR",
    "LISTEN a": "LISTEN",
    "SELECT pg_advisory_lock(1)": "ADVISORY_LOCK",
    "SELECT 1 FROM t WHERE pg_try_advisory_lock_shared(t.id)": "ADVISORY_LOCK",
    "INSERT INTO t SELECT pg_advisory_lock(1)": "ADVISORY_LOCK",
    "SELECT GET_LOCK('a', 1)": "NAMED_LOCK",
    "LOCK TABLES t WRITE": "TABLE_LOCK",
    "FLUSH TABLES t WITH READ LOCK": "TABLE_LOCK",
    "USE other": "DATABASE",
    "ATTACH 'other.db' AS other": "ATTACHED",
    "PRAGMA foreign_keys = OFF": "PRAGMA",
    "PRAGMA cache_size=-100": "PRAGMA",
    "PRAGMA main.synchronous(0)": "PRAGMA",
    'PRAGMA "main" . "synchronous" = 0': "PRAGMA",
    "SELECT 1; PRAGMA foreign_keys = 0": "PRAGMA",
}
NO_CHANGES = [
    "PRAGMA defer_foreign_keys = ON",
    *READS,
    *UNKNOWN,
    *WRITES,
    *DOUBTS.values(),
    "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "SET CONSTRAINTS ALL DEFERRED",
    "SET STATEMENT max_statement_time = 1 FOR SELECT 1",
    "RESET ALL",
    "SELECT set_config('a', 'b', true)",
    "SELECT 'SET x = 1; @a := 1', \"set\", `listen` -- ; SET x = 1",
    "SELECT a FROM t WHERE a @> b AND c @@ d AND e = 'x@example.com'",
    "SELECT @@session.time_zone, @a",
    "INSERT INTO t VALUES (@a)",
    "UPDATE t SET temp = 1",
    "CREATE TABLE temp (id int)",
    "CREATE TEMP TABLE t (id int) ON COMMIT DROP",
    "SELECT * INTO t FROM temp",
    "WITH x AS (INSERT INTO temp VALUES (1) RETURNING id) SELECT * FROM x",
    "CREATE FUNCTION f() RETURNS int AS $$ SET x = 1; $$ LANGUAGE sql",
    "ALTER TABLE t ALTER a SET NOT NULL",
    "PREPARE TRANSACTION 'a'",
    "DECLARE c CURSOR WITHOUT HOLD FOR SELECT 1",
    "UNLISTEN a",
    "SELECT pg_advisory_xact_lock(1), pg_advisory_unlock(2)",
    "SELECT pg_advisory_lock FROM t",
    "FLUSH TABLES",
    "PRAGMA foreign_keys",
    "PRAGMA main.table_info('users')",
    'PRAGMA "main".index_list("users")',
    "PRAGMA",
]


@pytest.mark.parametrize(("statement", "names"), CHANGES.items())
def test_what_a_statement_leaves_in_its_session(statement: str, names: str) -> None:
    """By its first words, its functions and the signs of user variables."""
    assert session_changes_of(statement) == {SessionChange[name] for name in names.split()}
    assert effect_of(statement) is StatementEffect.SESSION
    assert reader_of("postgresql").stored_effect_of(statement) in {
        StatementEffect.READ,
        StatementEffect.UNKNOWN,
        StatementEffect.WRITE,
    }


@pytest.mark.parametrize("statement", NO_CHANGES)
def test_other_statements_leave_nothing(statement: str) -> None:
    """Nor does what ends with the transaction."""
    assert session_changes_of(statement) == set()
    assert effect_of(statement) is reader_of("postgresql").stored_effect_of(statement)


def test_of_a_long_statement_only_the_beginning_is_read() -> None:
    """Its result is not cached, so reading all of it would cost time at each execution."""
    rest = ", 1" * 10_000
    assert session_changes_of(f"SELECT pg_advisory_lock(1){rest}")
    assert not session_changes_of(f"SELECT 1{rest}, pg_advisory_lock(1)")


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
    """Each clause has the column that it is written at; a quoted name equals no keyword."""
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
    \ud800 @ := set temp . pragma select with insert into update for key rollback to commit begin
    immediate
    """.split()
)
SPACES = strategies.sampled_from(" \n\t\r")


@settings(max_examples=300, derandomize=True)
@given(strategies.lists(PIECES | SPACES | strategies.text()))
def test_no_text_is_refused(pieces: list[str]) -> None:
    """Whatever is sent to the database goes through here first."""
    for reader in READERS:
        reader("".join(pieces))


@settings(max_examples=300, derandomize=True)
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


@pytest.mark.slow
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
