"""Which columns a statement reads and changes, as SQLite itself tells.

A unit of work that lends its turn keeps what it has read in objects and variables. When the unit
inside it changes rows and commits, those values are out of date, and the outer unit would overwrite
the change silently. So the statements of both units are examined; those of all other units are not.

Nothing here knows SQLAlchemy, engines or the queue.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import sys
from collections.abc import Set
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from .._transaction.statements import words_of

Column: TypeAlias = tuple[str, str]
"""The names of a table and of a column, in lower case."""

_ANY = "*"  # in place of a column: a row was replaced


_BEFORE = "; \t\r\n"  # what may stand before a statement, and not after EXPLAIN
_numbers = itertools.count()


def _allow(*_: object) -> int:
    return sqlite3.SQLITE_OK


NO_AUTHORIZER: Any = None if sys.version_info >= (3, 11) else _allow


class Access(NamedTuple):
    """The columns that a statement reads and changes, and the tables whose rows it removes."""

    read: set[Column]
    changed: set[Column]
    removed: set[str]


def access_of(connection: sqlite3.Connection, statement: str, authorizer: Any) -> Access:
    """Let SQLite compile *statement*, triggers included, without running it.

    :param authorizer: the authorizer to set on *connection* at the end.
    """
    read, changed, removed = found = Access(set(), set(), set())
    replaces = "replace" in words_of(statement)  # SQLite reports it as an INSERT

    def note(action: int, name: str | None, column: str | None, *_: object) -> int:
        table = (name or "").lower()
        if action == sqlite3.SQLITE_READ:
            read.add((table, (column or "").lower()))
        elif action == sqlite3.SQLITE_UPDATE:
            changed.add((table, (column or "").lower()))
        elif action == sqlite3.SQLITE_DELETE:
            removed.add(table)
        elif action == sqlite3.SQLITE_INSERT and replaces:
            changed.add((table, _ANY))
            removed.add(table)
        return sqlite3.SQLITE_OK

    # By the driver's own classes: those of the connection would call this function again.
    set_authorizer = partial(sqlite3.Connection.set_authorizer, connection)
    set_authorizer(note)
    try:
        # Without its values a statement is compiled, and no more. By a text of its own: the driver
        # keeps what it has compiled.
        with contextlib.suppress(sqlite3.Error):
            text = f"EXPLAIN {statement.lstrip(_BEFORE)}\n-- {next(_numbers)}"
            sqlite3.Cursor(connection).execute(text).close()
    finally:
        set_authorizer(authorizer)
    return found


class StaleColumns:
    """Columns that a unit of work may have read, and that a unit inside it has changed since."""

    def __init__(self) -> None:
        self._columns: set[Column] = set()

    def add(self, columns: Set[Column]) -> None:
        self._columns |= columns

    def overwritten_by(self, access: Access) -> str:
        """Name a stale column that a statement overwrites; one that it reads is no longer stale."""
        stale = self._columns - access.read
        if not (access.changed or access.removed):
            self._columns = stale - {(table, _ANY) for table, _ in access.read}
        tables = access.removed | {table for table, _ in access.changed}
        for table, column in stale:
            is_replaced = column == _ANY and table in tables
            if is_replaced or (table, column) in access.changed or table in access.removed:
                return f"{table}.{column}"
        return ""
