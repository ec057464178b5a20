"""What SQLite lets happen during a migration, and is refused here.

Foreign keys are not enforced meanwhile, so they are checked after each revision. And a 'batch' of
Alembic may lose a part of the table.

To change a table, Alembic makes a copy, drops the table and renames the copy. Triggers go with the
table. The copy has only what SQLAlchemy reflects: no index on expressions, no ``AUTOINCREMENT``, no
``COLLATE``. So before the drop, while both tables exist, their definitions are compared. The error
names what the copy lacks, and what to write; the transaction of the revision is rolled back.
"""

from __future__ import annotations

import sqlite3
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, event, inspect
from sqlalchemy.exc import OperationalError
from sqlalchemy.schema import DropTable

from ..._transaction.statements import words_of
from ...errors import MigrationError

# What the definition of a table may have, as a sequence of words, and what keeps it in a batch.
_KEPT_BY = {
    ("autoincrement",): "table_kwargs={'sqlite_autoincrement': True}",
    ("without", "rowid"): "table_kwargs={'sqlite_with_rowid': False}",
    ("strict",): "",
    ("collate",): "reflect_args=[sa.Column(NAME, TYPE(collation=...), ...)] for each such column",
    ("on", "conflict"): "",
    ("check",): "table_args=[sa.CheckConstraint(...)]",
}
_BY_HAND = (
    "the copy in the revision: op.execute('CREATE TABLE ...') with another name,"
    " op.execute('INSERT INTO ... SELECT ...'), then op.drop_table({0!r}) and"
    " op.rename_table(..., {0!r})"
)


def refuse_lossy_copies(connection: Connection) -> None:
    """Look at each copy of a table on this connection; the listener goes with it."""
    event.listen(connection, "before_execute", _before_execute)


def _before_execute(connection: Connection, element: object, *_: object) -> None:
    if isinstance(element, DropTable):
        table: Any = element.element
        _compare(_Schema(connection, table.schema or "main"), str(table.name))


class _Schema:
    """The definitions of one database file."""

    def __init__(self, connection: Connection, name: str) -> None:
        self.connection = connection
        self.name = name

    def definitions(self, table: str, kind: str) -> dict[str, str]:
        """By name, the SQL of the table itself, of its indexes or of its triggers."""
        rows = self.run(
            f"SELECT name, sql FROM {_quoted(self.name)}.sqlite_master"  # noqa: S608
            " WHERE type = ? AND lower(tbl_name) = lower(?) AND sql IS NOT NULL ORDER BY rowid",
            kind,
            table,
        )
        return dict(rows)

    def columns(self, table: str) -> list[str]:
        return [row[1].lower() for row in self.pragma("table_xinfo", table)]

    def pragma(self, name: str, argument: str) -> list[Any]:
        return self.run(f"PRAGMA {_quoted(self.name)}.{name}({_quoted(argument)})")

    def run(self, statement: str, *values: str) -> list[Any]:
        return list(self.connection.exec_driver_sql(statement, values).all())


def _compare(schema: _Schema, table: str) -> None:
    """
    :raises MigrationError: *table* has a copy, which lacks something.
    """
    copy = f"_alembic_tmp_{table}"[:50]  # as Alembic calls it
    copied = "".join(schema.definitions(copy, "table").values())
    if not copied:
        return
    losses = [
        *_lost_parts(schema, table, copy, copied),
        *_made_again(schema.definitions(table, "trigger"), "trigger"),
        *_made_again(_unreflected_indexes(schema, table), "index"),
    ]
    if losses:
        raise MigrationError(
            f"On SQLite this change copies the table {table!r}, and the copy would be without"
            f" {'; and without '.join(losses)}"
        )


def _made_again(definitions: dict[str, str], kind: str) -> Iterator[str]:
    for name, sql in definitions.items():
        drop = f"DROP {kind.upper()} {_quoted(name)}"
        yield (
            f"the {kind} {name!r}. Write 'op.execute({drop!r})' before the change, and after it"
            f" 'op.execute({sql.replace(':', chr(92) + ':')!r})', if it is to stay"
        )


def _lost_parts(schema: _Schema, table: str, copy: str, copied: str) -> Iterator[str]:
    """What the definition of *table* has, and that of its *copy* has not."""
    (definition,) = schema.definitions(table, "table").values()
    gone = [one for one in schema.columns(table) if one not in schema.columns(copy)]
    is_only_dropped = set(schema.columns(copy)) <= set(schema.columns(table))
    if gone and is_only_dropped:  # else they may have been renamed
        definition = _without_columns(definition, table, gone)
    before, after = _parts(definition), _parts(copied)
    named = _named_checks(schema, table)
    before["check",] -= len(named)
    after["check",] -= len(named & _named_checks(schema, copy))
    for part, advice in _KEPT_BY.items():
        if after[part] < before[part]:
            what = "a CHECK without a name" if part == ("check",) else f"{' '.join(part).upper()}"
            kept = f"Give 'op.batch_alter_table()' {advice}, or make" if advice else "Make"
            yield f"{what}. {kept} {_BY_HAND.format(table)}"
    for column in _unreflected_keys(schema, table, copy):
        yield (
            f"what the foreign key of {column!r} says of ON DELETE, ON UPDATE or DEFERRABLE. Make"
            f" {_BY_HAND.format(table)}"
        )


def _unreflected_keys(schema: _Schema, table: str, copy: str) -> Iterator[str]:
    """The first columns of foreign keys whose options SQLAlchemy does not reflect."""
    keys = inspect(schema.connection).get_foreign_keys(table, schema=schema.name)
    options: dict[str, Any] = {
        key["constrained_columns"][0]: key.get("options", {}) for key in keys
    }
    kept = {row[3]: row[5:7] for row in schema.pragma("foreign_key_list", copy) if row[1] == 0}
    definition = " ".join(schema.definitions(table, "table").values())
    deferred = list(words_of(definition)).count("deferrable")
    reflected = sum("deferrable" in one for one in options.values())
    for row in schema.pragma("foreign_key_list", table):
        column, actions = row[3], tuple(row[5:7])
        if row[1] != 0 or column not in kept:
            continue
        one = options.get(column, {})
        seen = tuple(one.get(name) or "NO ACTION" for name in ("onupdate", "ondelete"))
        is_lost = tuple(kept[column]) != actions and seen != actions
        if is_lost or (reflected < deferred and "deferrable" not in one):
            yield column


def _parts(definition: str) -> Counter[tuple[str, ...]]:
    """How often each part is in a definition; the quoted names in it are no words."""
    words = list(words_of(definition))
    found: Counter[tuple[str, ...]] = Counter()
    for part in _KEPT_BY:
        places = range(len(words) - len(part) + 1)
        if part == ("strict",):  # at the end only; a column may have the name
            places = range(max(0, len(words) - 3), len(words))
        found[part] = sum(tuple(words[place : place + len(part)]) == part for place in places)
    return found


def _without_columns(definition: str, table: str, columns: Sequence[str]) -> str:
    """The definition as SQLite itself writes it without these columns, where it can drop them."""
    memory = sqlite3.connect(":memory:")
    try:
        memory.execute(definition)
        for column in columns:
            memory.execute(f"ALTER TABLE {_quoted(table)} DROP COLUMN {_quoted(column)}")
        return str(memory.execute("SELECT sql FROM sqlite_master").fetchone()[0])
    except sqlite3.Error:
        return definition
    finally:
        memory.close()


def _named_checks(schema: _Schema, table: str) -> set[str]:
    checks = inspect(schema.connection).get_check_constraints(table, schema=schema.name)
    return {str(check["name"]) for check in checks if check["name"]}


def _unreflected_indexes(schema: _Schema, table: str) -> dict[str, str]:
    """The indexes of which SQLAlchemy does not reflect everything."""
    definitions = schema.definitions(table, "index")
    conditions = _reflected_conditions(schema, table) if definitions else {}
    return {
        name: sql
        for name, sql in definitions.items()
        if _has_more_than_columns(schema, name, sql) or _condition(sql) != conditions.get(name, [])
    }


def _has_more_than_columns(schema: _Schema, index: str, sql: str) -> bool:
    """Is it on an expression, descending, or with a collation of its own?"""
    keys = [row for row in schema.pragma("index_xinfo", index) if row[5]]
    return "collate" in words_of(sql) or any(row[2] is None or row[3] for row in keys)


def _reflected_conditions(schema: _Schema, table: str) -> dict[str, list[str]]:
    """By index, the words of the ``WHERE`` that SQLAlchemy reflects."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says of expressions that it leaves them out
        indexes = inspect(schema.connection).get_indexes(table, schema=schema.name)
    conditions = {
        str(index["name"]): index.get("dialect_options", {}).get("sqlite_where")
        for index in indexes
    }
    return {
        name: list(words_of(str(condition)))
        for name, condition in conditions.items()
        if condition is not None
    }


def _condition(sql: str) -> list[str]:
    words = list(words_of(sql))
    return words[words.index("where") + 1 :] if "where" in words else []


def _quoted(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))


# Foreign keys -------------------------------------------------------------------------------------


class ForeignKeys:
    """The broken foreign keys of one database; those from before the migration may stay."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._before = self._broken()

    def check(self) -> None:
        """Compare with the state before the revision.

        :raises MigrationError: more of them are broken now.
        """
        now = self._broken()
        # Not each by itself: a table that is renamed takes its old orphans along.
        if now.total() > self._before.total():
            raise MigrationError(next(iter(now - self._before)))
        self._before = now

    def _broken(self, argument: str = "") -> Counter[str]:
        """Count what is broken, by the sentence that says it.

        :param argument: a table in parentheses; empty for all.
        """
        try:
            rows = self._rows(f"PRAGMA foreign_key_check{argument}")
        except OperationalError as error:
            if "foreign key mismatch" not in str(error.orig):
                raise
            if argument:
                sentence = f"A foreign key would refer to columns that are not unique: {error.orig}"
                return Counter([sentence])
            # While there is one, SQLite checks nothing at once.
            tables = self._rows("SELECT name FROM sqlite_master WHERE type = 'table'")
            return sum((self._broken(f"({_quoted(name)})") for (name,) in tables), Counter())
        return Counter(
            f"Rows of {row[0]!r} would point to rows of {row[2]!r} that do not exist"
            for row in rows
        )

    def _rows(self, statement: str) -> Sequence[Any]:
        return self._connection.exec_driver_sql(statement).all()
