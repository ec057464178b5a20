"""What a SQL statement does to stored data, judged by its words.

Pure: nothing here knows SQLAlchemy.
"""

from __future__ import annotations

import enum
import re
from functools import lru_cache


class Effect(enum.IntEnum):
    """What a statement does to stored data."""

    READ = 0
    """It is certain to change nothing."""
    UNKNOWN = 1
    """It calls a function that nobody here knows, or locks, or is no query at all."""
    WRITE = 2
    """It changes data or tables."""


# The words after which a parenthesis calls nothing, and functions that change nothing.
_HARMLESS = frozenset(
    """
    all and any array as between by case cast distinct else end except exists filter from group
    having in intersect interval is join lateral like limit not null offset on or order over
    partition rows select set some then union using values when where with within
    bigint char character decimal float integer numeric smallint text time timestamp varchar
    abs avg ceil ceiling char_length coalesce concat concat_ws count cume_dist current_date
    current_time current_timestamp date date_part date_trunc datetime dense_rank extract
    first_value floor greatest group_concat if ifnull iif instr json_extract json_group_array
    julianday lag last_value lead least length lower ltrim max min mod now nth_value ntile
    nullif percent_rank position power printf rank replace round row_number rtrim sign strftime
    string_agg substr substring sum to_char total trim typeof unixepoch upper
    """.split()
)
# MySQL runs what stands in /*! ... */.
_FIRST_WORD = re.compile(r"(?:[\s(]|--[^\n]*|/\*(?!!).*?\*/)*(\w+)", re.DOTALL)
_READS = frozenset(["select", "with", "values", "show", "savepoint", "release"])
_WRITES = frozenset(
    """
    insert update delete merge replace truncate create alter drop rename comment grant revoke
    """.split()
)
_WRITING_WORD = re.compile(r"(?<!for )\b(?:insert|update|delete|merge)\b", re.IGNORECASE)
_DOUBTFUL_WORD = re.compile(r"\b(?:into|for\s+(?:no\s+key\s+)?update)\b", re.IGNORECASE)
_SECOND_STATEMENT = re.compile(r";\s*\S")
_CALL = re.compile(r"(\.?\w+|[\"`\]])\s*\(")  # with the dot of a schema, none is harmless


@lru_cache(maxsize=2048)
def effect_of(statement: str) -> Effect:
    """Tell the effect of a SQL statement by its words.

    A doubt is ``UNKNOWN``, and what is unknown is rolled back with the writes: the price of
    doubting a mere read is one more ROLLBACK on a path that has failed already, the price of
    trusting ``SELECT create_order(1)`` would be a row that should not be there.

    >>> effect_of("SELECT users.id FROM users WHERE lower(users.name) = ?").name
    'READ'
    >>> effect_of("SELECT create_order(1)").name
    'UNKNOWN'
    >>> effect_of("WITH gone AS (DELETE FROM users RETURNING id) SELECT id FROM gone").name
    'WRITE'
    """
    match = _FIRST_WORD.match(statement)
    word = match[1].lower() if match else ""
    if word in _WRITES or (word == "with" and _WRITING_WORD.search(statement)):
        return Effect.WRITE
    if word not in _READS or _DOUBTFUL_WORD.search(statement):
        return Effect.UNKNOWN
    if _SECOND_STATEMENT.search(statement):  # some drivers send several at once
        return Effect.UNKNOWN
    known = all(name.lower() in _HARMLESS for name in _CALL.findall(statement))
    return Effect.READ if known else Effect.UNKNOWN
