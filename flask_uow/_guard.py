"""What every engine gets: listeners that notice what a transaction does.

The life of a unit needs two facts that a ``Session`` does not keep: has anything been written,
and has a statement failed. All SQL passes the engine, whether it comes from the ORM, from Core
or from ``text()``; so they are noticed there.

The listeners are those of the dialect (``do_execute``, ``handle_error``). The better known
``before_cursor_execute`` would do as well, but a listener of that kind makes SQLAlchemy prepare
all events of a connection anew for each checkout: 22 us for a unit that reads one row in 160.

Nothing here knows Flask or sessions.
"""

from __future__ import annotations

import enum
import re
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import ExceptionContext, ExecutionContext

_ACTIVITY = "_flask_uow_activity"


class Effect(enum.IntEnum):
    """What a statement does to stored data."""

    READ = 0
    """It is certain to change nothing."""
    UNKNOWN = 1
    """It calls a function that nobody here knows, or locks, or is no query at all."""
    WRITE = 2
    """It changes data or tables."""


class Activity:
    """What has happened so far in one transaction.

    :ivar effect: the strongest effect of the statements so far.
    :ivar broken: a statement raised an error; on PostgreSQL the transaction is aborted then.
    :ivar flushed: the class and kind of each object that the ORM has written, for messages.
    :ivar savepoints: how far things were when a savepoint was set.
    """

    __slots__ = ("broken", "effect", "flushed", "savepoints")

    def __init__(self) -> None:
        self.effect = Effect.READ
        self.broken = False
        self.flushed: list[tuple[str, str]] = []
        self.savepoints: dict[object, tuple[Effect, int]] = {}

    def set_savepoint(self, savepoint: object) -> None:
        """Remember how far things are."""
        self.savepoints[savepoint] = self.effect, len(self.flushed)

    def undo_to(self, savepoint: object) -> None:
        """Forget what *savepoint* has undone, if it is one."""
        if savepoint in self.savepoints:
            self.effect, length = self.savepoints.pop(savepoint)
            del self.flushed[length:]


def observe(connection: Connection, activity: Activity) -> None:
    """Note what happens on *connection* from now on in *activity*.

    On the ``Connection`` object, which lives from checkout to checkin; ``Connection.info`` lives
    as long as the socket, and has to be asked for in vain while a dialect is initialised.
    """
    setattr(connection, _ACTIVITY, activity)


def install(engine: Engine) -> None:
    """Add the listeners to *engine*."""
    event.listen(engine, "do_execute", _on_statement)
    event.listen(engine, "do_executemany", _on_statement)
    event.listen(engine, "do_execute_no_params", _on_statement_without_parameters)
    event.listen(engine, "handle_error", _on_error)


def _on_statement(_cursor: Any, statement: str, _values: Any, context: ExecutionContext) -> None:
    activity: Activity | None = getattr(context.root_connection, _ACTIVITY, None)
    if activity is not None:
        activity.effect = max(activity.effect, effect_of(statement))


def _on_statement_without_parameters(
    cursor: Any, statement: str, context: ExecutionContext
) -> None:
    _on_statement(cursor, statement, None, context)


def _on_error(context: ExceptionContext) -> None:
    activity: Activity | None = getattr(context.connection, _ACTIVITY, None)
    if activity is not None:
        activity.broken = True


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
_FIRST_WORD = re.compile(r"[\s(]*(\w+)")
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
