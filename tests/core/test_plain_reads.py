"""Which statements need no transaction, and that the functions in them are the database's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings, strategies
from sqlalchemy import Connection, NullPool, create_engine
from sqlalchemy.exc import DBAPIError

from flask_uow._transaction.pure_functions import HARMLESS
from flask_uow._transaction.statements import reader_of
from tests.core.test_statements import DOUBTS, READS_OF, UNKNOWN, WRITES

QUERIES = [
    "SELECT 1",
    "(SELECT a FROM t) UNION SELECT 2;",
    "-- why\nWITH one AS (SELECT 1) SELECT * FROM one",
    "VALUES (1), (2)",
    "SELECT count(*), coalesce(max(t.a), 0) FROM t JOIN u ON t.id = u.id WHERE lower(b) LIKE 'c%'",
    "SELECT row_number() OVER (ORDER BY a) FROM t",
]
PLAIN = {
    "postgresql": [
        *QUERIES,
        "SHOW server_version",
        "EXPLAIN (FORMAT JSON) SELECT count(*) FROM t",
        "SELECT json_build_object('a', array_agg(t.a ORDER BY t.b)), to_char(now(), 'YYYY') FROM t",
        "SELECT * FROM t WHERE to_tsvector('english', a) @@ websearch_to_tsquery(%(q)s::VARCHAR)",
        "SELECT a FROM json_to_recordset(%(j)s) AS x(a int, b text), unnest(ARRAY[1]) AS y(c)",
        "SELECT a #>> '{b}', c @> d, gen_random_uuid(), count(*) FILTER (WHERE e) FROM t",
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY a) FROM generate_series(1, 3) AS a",
        "SELECT EXTRACT(year FROM a), CAST(b AS NUMERIC(10, 2)), c::varchar(3) FROM t",
    ],
    "mysql": [
        *QUERIES,
        "SELECT IF(a, 1, 2), ifnull(b, 3), date_format(now(), '%Y'), group_concat(c) FROM t",
        "SELECT `a`, json_extract(b, '$.c') FROM `t` WHERE MATCH (a) AGAINST ('b' IN BOOLEAN MODE)",
        "SELECT CAST(a AS CHAR(3)) FROM t FOR SYSTEM_TIME AS OF '2026-01-01'",
    ],
    "sqlite": [
        *QUERIES[:1],
        *QUERIES[2:],
        "SELECT my_function(1), total(a), [b c] FROM t",
        "WITH one AS (SELECT replace(a, 'insert', 'b') FROM t) SELECT * FROM one",
    ],
    "oracle": [],
}
NOT_PLAIN = [
    *WRITES,
    "SAVEPOINT one",
    "RELEASE SAVEPOINT one",
    "EXPLAIN SELECT 1",
    "EXPLAIN (FORMAT JSON) ANALYZE SELECT 1",
    "EXPLAIN (FORMAT JSON) DELETE FROM t",
    "EXPLAIN (FORMAT JSON) SELECT create_order(1)",
    "EXPLAIN (FORMAT JSON) SELECT 1; DELETE FROM t",
    "EXPLAIN (FORMAT JSON, ANALYZE) SELECT 1",
    "PRAGMA user_version",
    "ANALYZE",
    "BEGIN",
    "TABLE t",
    "SELECT 1; SELECT 2",
    "SELECT 1; -- more\n/* and more */ VALUES (2)",
    "; SELECT 1",
    "SELECT " + "1, " * 100_000 + "1",
]
CALLS_OF_OTHERS = "total typeof iif julianday unixepoch printf strftime datetime ifnull if instr"
NOT_PLAIN_ON = {
    "postgresql": [
        *UNKNOWN,
        *DOUBTS.values(),
        *(f"SELECT {name}('ada')" for name in CALLS_OF_OTHERS.split()),
        "SELECT group_concat(a) FROM t",
        "SELECT json_extract(a, '$') FROM t",
        "SELECT log('ada'), reverse(1)",
        "SELECT nextval('numbers'), 1",
        "SELECT pg_notify('a', 'b')",
        "SELECT pg_advisory_xact_lock(1)",
        "SELECT pg_advisory_lock(1)",
        "SELECT set_config('a', 'b', true)",
        "SELECT set_config('a', 'b', false)",
        "SELECT lo_create(0)",
        "SELECT query_to_xml('DELETE FROM t RETURNING 1', true, true, '')",
        "SELECT app.lower('a')",
        "SELECT * FROM t JOIN LATERAL total(t.a) AS x(b) ON true",
        "SELECT * FROM ROWS FROM (total('ada')) AS x(b)",
        "SHOW a; DELETE FROM t",
        "WITH a AS MATERIALIZED (SELECT 1) SELECT total(1) FROM a",
    ],
    "mysql": [
        *UNKNOWN,
        *DOUBTS.values(),
        "SHOW TABLES",
        "SELECT to_char(a, 'YYYY') FROM t",
        "SELECT total(1)",
        "SELECT last_insert_id(), found_rows()",
        "SELECT get_lock('a', 1)",
        "SELECT @a",
        "SELECT @a := 1",
        "SELECT @@session.time_zone",
        "SELECT nextval(numbers)",
        "SELECT max ('ada')",  # a stored function may have this name, and is called like this
        "SELECT cast ('ada')",
        "SELECT total # in\n ('ada')",
        "SELECT total # in (\n 'ada')",
        "SELECT * FROM t FOR # a comment\n UPDATE",
        "# select\nDELETE FROM t",
    ],
    "sqlite": ["SHOW a", "WITH one AS (SELECT [it's]) INSERT INTO [it's] VALUES (1)"],
    "oracle": [*READS_OF["oracle"], *UNKNOWN, *DOUBTS.values()],
}
EACH_PLAIN = [(dialect, statement) for dialect in PLAIN for statement in PLAIN[dialect]]
EACH_NOT_PLAIN = [
    (dialect, statement)
    for dialect in PLAIN
    for statement in dict.fromkeys([*NOT_PLAIN, *NOT_PLAIN_ON[dialect]])
]


def _named(value: str) -> str:
    return value[:60]


@pytest.mark.parametrize(("dialect", "statement"), EACH_PLAIN, ids=_named)
def test_a_query_of_the_database_alone_is_a_plain_read(dialect: str, statement: str) -> None:
    """One statement, whose functions are the database's own."""
    assert reader_of(dialect).is_plain_read(statement)


@pytest.mark.parametrize(("dialect", "statement"), EACH_NOT_PLAIN, ids=_named)
def test_other_statements_are_no_plain_reads(dialect: str, statement: str) -> None:
    """Nor is one in doubt, nor any on a database of which little is known here."""
    assert not reader_of(dialect).is_plain_read(statement)


def test_mariadb_is_read_like_mysql() -> None:
    """SQLAlchemy has one name for both, or two."""
    assert reader_of("mariadb") is reader_of("mysql")


CASES = strategies.sampled_from([str, str.lower, str.upper, str.swapcase, str.title])
SPACES = strategies.sampled_from([" ", "\n", "\t \r\n", " /* SELECT 1 */ ", " -- a (\n"])
ENDS = strategies.sampled_from(["", ";", " -- SELECT 1", "/* ' */", "\n--\n", "; -- 1", " # 1"])


@settings(max_examples=500, derandomize=True)
@given(
    # The apostrophe of an ending would close a string that is open.
    strategies.sampled_from(
        [each for each in EACH_NOT_PLAIN if len(each[1]) < 1000 and not each[1].count("'") % 2]
    ),
    CASES,
    SPACES,
    ENDS,
)
def test_what_is_no_plain_read_is_none_with_other_spaces(
    each: tuple[str, str], case: Callable[[str], str], space: str, end: str
) -> None:
    """Nor with comments, or in another case."""
    dialect, statement = each
    words = case(statement).split(" ")
    if "'" in statement or '"' in statement:  # a space may belong to a string
        space = " "
    assert not reader_of(dialect).is_plain_read(f"{space.join(words)}{end}")


# The lists ------------------------------------------------------------------------------------

# It also has functions of its own with these names that are volatile, and change nothing.
VOLATILE = {"clock_timestamp", "gen_random_uuid", "random", "timeofday"}

NAMES_OF_POSTGRESQL = """
    SELECT proname, bool_or(provolatile = 'v') AS is_volatile
    FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace GROUP BY proname
"""


def test_postgresql_has_each_function_itself(postgresql_url: str) -> None:
    """A name that is not its own could be that of the app's function."""
    with create_engine(postgresql_url, poolclass=NullPool).connect() as connection:
        rows = connection.exec_driver_sql(NAMES_OF_POSTGRESQL)
        is_volatile = {row.proname: row.is_volatile for row in rows}
        # U: unreserved, so a function can have this name.
        keywords = connection.exec_driver_sql(
            "SELECT word FROM pg_get_keywords() WHERE catcode <> 'U'"
        ).scalars()
        names = {name.strip() for name in HARMLESS["postgresql"]}
        assert names - is_volatile.keys() - set(keywords) == set()
    assert {name for name in names if is_volatile.get(name)} == VOLATILE


def test_mariadb_has_each_function_itself(mariadb_url: str) -> None:
    """It does not look for a stored function of this name."""
    with create_engine(mariadb_url, poolclass=NullPool).connect() as connection:
        sought = {name for name in HARMLESS["mysql"] if _looks_for_stored(connection, name)}
        assert sought == set()
        assert _looks_for_stored(connection, "total")
        assert _looks_for_stored(connection, "max ")


def _looks_for_stored(connection: Connection, function: str) -> bool:
    """Tell whether MariaDB looks for a stored function, with any number of arguments."""
    for arguments in ("", "1", "1, 1"):
        try:
            connection.exec_driver_sql(f"SELECT {function}({arguments})").close()
        except DBAPIError as error:
            if error.orig is not None and error.orig.args[0] in {1305, 1630}:
                return True
    return False
