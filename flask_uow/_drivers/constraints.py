"""Find the name of a violated constraint in the metadata, where the server does not send it.

SQLite names only the columns of a unique constraint, and nothing for a foreign key. MySQL calls
each primary key ``PRIMARY``. The name is found by the table of the refused statement, unless that
is a ``text()``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sqlalchemy import (
    Delete,
    ForeignKeyConstraint,
    Index,
    Insert,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
    Update,
)

if TYPE_CHECKING:
    from sqlalchemy import Constraint, UpdateBase
    from sqlalchemy.schema import ColumnCollectionConstraint

_STATEMENT = "_flask_uow_statement"
_UNIQUE = (PrimaryKeyConstraint, UniqueConstraint)


class _Note:
    """A statement on an error. A copy by pickle has none: a statement may refuse to be pickled."""

    def __init__(self, statement: UpdateBase | None = None) -> None:
        self.statement = statement

    def __reduce__(self) -> tuple[type[_Note], tuple[()]]:
        return _Note, ()


def note_statement(error: BaseException, context: object) -> None:
    """Store the refused statement on *error*, an error of the driver."""
    statement = getattr(getattr(context, "compiled", None), "statement", None)
    if isinstance(statement, (Insert, Update, Delete)):
        setattr(error, _STATEMENT, _Note(statement))


def statement_of(error: BaseException) -> UpdateBase | None:
    """Return the refused statement of *error*; None if it is unknown."""
    note: _Note | None = getattr(error, _STATEMENT, None)
    return None if note is None else note.statement


def table_of(statement: UpdateBase | None, name: str | None = None) -> Table | None:
    """Return the table of *statement*, or the table *name* of the same metadata."""
    table = None if statement is None else statement.table
    if not isinstance(table, Table):
        return None
    # Look it up in the metadata: an ORM statement contains an annotated copy of the table.
    key = table.key if name in {None, table.name} else name
    return table.metadata.tables.get(str(key))


def name_of_unique(table: Table | None, columns: list[str]) -> str | None:
    """Return the name of the primary key, constraint or index that makes *columns* unique."""
    if table is None:
        return None
    keys: list[ColumnCollectionConstraint | Index] = [i for i in table.indexes if i.unique]
    keys += [each for each in table.constraints if isinstance(each, _UNIQUE)]
    names = [_name(key) for key in keys if [column.name for column in key.columns] == columns]
    return next(filter(None, names), None)


def name_of_primary_key(table: Table) -> str | None:
    return _name(table.primary_key)


def name_of_foreign_key(statement: UpdateBase | None) -> str | None:
    """Return the name of the only foreign key that *statement* can have violated."""
    table = table_of(statement)
    if statement is None or table is None:
        return None
    own = set() if statement.is_delete else table.foreign_key_constraints
    others = set() if statement.is_insert else set(_referring_to(table))
    if len(own | others) != 1:
        return None
    (key,) = own | others
    # A key with ON DELETE CASCADE or the like was not violated: another one, further on, was.
    passes_on = key not in own and {key.ondelete, key.onupdate} - {None, "NO ACTION", "RESTRICT"}
    return None if passes_on else _name(key)


def _referring_to(table: Table) -> Iterator[ForeignKeyConstraint]:
    for other in table.metadata.tables.values():
        for key in other.foreign_key_constraints:
            if key.referred_table is table:
                yield key


def _name(item: Constraint | Index) -> str | None:
    return item.name if isinstance(item.name, str) else None
