"""Refuse what SQLite would let happen during a migration.

Foreign keys are not enforced meanwhile, so they are checked after each revision. And a 'batch' of
Alembic may lose a part of the table.

To change a table, Alembic makes a copy, drops the table and renames the copy. Triggers go with the
table. The copy has only what SQLAlchemy reflects: no index on expressions, no ``AUTOINCREMENT``, no
``COLLATE``. And SQLite refuses the rename while a view, or a trigger of another table, reads the
table. So before the drop, while both tables exist, their definitions are compared. The error names
what the copy lacks, and what to write; the transaction of the revision is rolled back.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Column, Connection, Insert, event, inspect
from sqlalchemy.exc import OperationalError
from sqlalchemy.schema import DropTable
from sqlalchemy.sql import visitors

from ..._transaction.statements import SqliteClause, sqlite_clauses, sqlite_names, words_of
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
_OPTIONS = {("without", "rowid"), ("strict",)}  # of the table, after its columns
_WITHOUT = "the copy would be without"
_BY_HAND = (
    "the copy in the revision: op.execute('CREATE TABLE ...') with another name,"
    " op.execute('INSERT INTO ... SELECT ...'), then op.drop_table({0!r}) and"
    " op.rename_table(..., {0!r})"
)


def refuse_lossy_copies(connection: Connection) -> None:
    """Look at each copy of a table on this connection; the listener goes with it."""
    event.listen(connection, "before_execute", _Batches().before_execute)


class _Batches:
    """The batches of one connection; each fills a copy, then drops the table."""

    def __init__(self) -> None:
        self._filled: Insert | None = None

    def before_execute(self, connection: Connection, element: object, *_: object) -> None:
        """
        :raises MigrationError: a table is dropped, and its copy lacks something.
        """
        if isinstance(element, Insert) and element.select is not None:
            self._filled = element
        elif isinstance(element, DropTable) and self._filled is not None:
            table, copy = element.element, self._filled.table
            # A copy that a revision makes by hand does not count: its table is another object.
            read = {
                node.name.lower(): copy.c[node.key].name.lower()
                for node in visitors.iterate(self._filled.select)
                if isinstance(node, Column) and node.table is table and node.key in copy.c
            }
            if read:
                _compare(_Definition(connection, table), _Definition(connection, copy), read)


class _Item(NamedTuple):
    """A table, an index, a view or a trigger.

    :ivar is_of_table: it is the table that is copied, or belongs to it.
    """

    kind: str
    name: str
    sql: str
    is_of_table: bool


class _Definition:
    """What SQLite has stored about one table."""

    def __init__(self, connection: Connection, table: Any) -> None:
        self.schema: str = table.schema or "main"
        self.table = str(table.name)
        self._connection = connection
        texts = [one.sql for one in self.items("table") if one.is_of_table]
        self.clauses, self.options = sqlite_clauses("".join(texts))  # none if it is temporary
        self.columns = {row[1].lower() for row in self.pragma("table_xinfo", self.table)}

    def items(self, *kinds: str) -> list[_Item]:
        """Return what the database file has of these kinds, the oldest first."""
        rows = self._run(
            "SELECT type, name, sql, lower(tbl_name) = lower(?)"  # noqa: S608
            f" FROM {_quoted(self.schema)}.sqlite_master WHERE sql IS NOT NULL ORDER BY rowid",
            self.table,
        )
        return [_Item(*row) for row in rows if row[0] in kinds]

    def pragma(self, name: str, argument: str) -> list[Any]:
        return self._run(f"PRAGMA {_quoted(self.schema)}.{name}({_quoted(argument)})")

    def reflected(self, kind: str) -> list[Any]:
        """Return what SQLAlchemy reflects of this kind, for example ``"indexes"``."""
        find = getattr(inspect(self._connection), f"get_{kind}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns that it leaves out expressions
            return list(find(self.table, schema=self.schema))

    def _run(self, statement: str, *values: str) -> list[Any]:
        return list(self._connection.exec_driver_sql(statement, values).all())

    def parts(self, stay: Collection[str], named: Collection[str]) -> Counter[tuple[str, ...]]:
        """Count each part in the clauses that concern the columns that *stay*.

        :param named: the names of checks that are not counted.
        """
        gone = self.columns - set(stay)
        clauses = [
            clause.words
            for clause in self.clauses
            if not _goes(clause, gone, stay) and _name_of(clause) not in named
        ]
        return Counter(
            part
            for part in _KEPT_BY
            for words in ([self.options] if part in _OPTIONS else clauses)
            for place in range(len(words))
            if tuple(words[place : place + len(part)]) == part
        )

    def is_deferrable(self, column: str) -> bool:
        """Tell whether a foreign key of this column is deferrable."""
        return any(
            {"references", "deferrable"} <= set(clause.words)
            and column in {clause.column, *_key(clause).names([column])}
            for clause in self.clauses
        )


def _goes(clause: SqliteClause, gone: Collection[str], others: Collection[str]) -> bool:
    """Tell whether the clause is dropped with the columns that are *gone*."""
    is_theirs, is_of_others = clause.names(gone), clause.names(others)
    if "check" in clause.words[:3]:
        if clause.column in gone:
            return bool(is_theirs) or not is_of_others
        return bool(is_theirs) and not is_of_others
    return clause.column in gone or bool(_key(clause).names(gone))


def _key(clause: SqliteClause) -> SqliteClause:
    """Return a constraint of the table up to the end of its own columns; else an empty clause."""
    end = clause.words.index(")") if clause.column is None and ")" in clause.words else 0
    return SqliteClause(None, clause.words[:end])


def _name_of(clause: SqliteClause) -> str | None:
    return clause.words[1].lstrip("\"'") if clause.words[0] == "constraint" else None


def _compare(before: _Definition, after: _Definition, names: dict[str, str]) -> None:
    """
    :param names: the columns that stay, and their names in the copy.
    :raises MigrationError: *after* lacks something.
    """
    losses = [
        *_lost_parts(before, after, names),
        *_made_again(_unreflected_indexes(before, names)),
        *_made_again(_readers(before)),
    ]
    if losses:
        raise MigrationError(
            f"On SQLite this change copies the table {before.table!r}, and {'; and '.join(losses)}"
        )


def _made_again(items: Iterable[_Item]) -> Iterator[str]:
    """Say why each of *items* cannot stay as it is, and how to create it again."""
    for item in items:
        what = f"the {item.kind} {item.name!r}"
        why = f"SQLite refuses to rename the copy while {what} mentions the table"
        if item.is_of_table:
            why = f"{_WITHOUT} {what}"
        drop = f"DROP {item.kind.upper()} IF EXISTS {_quoted(item.name)}"
        create = item.sql.replace(":", "\\:")  # a colon would begin a parameter
        yield (
            f"{why}. Write op.execute({drop!r}) before the change, and after it"
            f" op.execute({create!r}), if it is to stay"
        )


def _readers(before: _Definition) -> list[_Item]:
    """Return the triggers of the table, and each view and trigger that reads it.

    Views of such views are included.
    """
    items = before.items("view", "trigger")
    found: list[_Item] = []
    names = {before.table.lower()}
    while more := [one for one in items if one not in found and names & set(sqlite_names(one.sql))]:
        found += more
        names |= {one.name.lower() for one in more if one.kind == "view"}
    return [one for one in items if one in found]


def _lost_parts(before: _Definition, after: _Definition, names: dict[str, str]) -> Iterator[str]:
    """Yield what the definition of a table has, and that of its copy lacks."""
    checks = before.reflected("check_constraints")
    named = {check["name"].lower() for check in checks if check["name"]}
    parts = before.parts(names, named) - after.parts(names.values(), named)
    for part, advice in _KEPT_BY.items():
        if part in parts:
            what = "a CHECK without a name" if part == ("check",) else f"{' '.join(part).upper()}"
            kept = f"Give 'op.batch_alter_table()' {advice}, or make" if advice else "Make"
            yield f"{_WITHOUT} {what}. {kept} {_BY_HAND.format(before.table)}"
    for column in _unreflected_keys(before, after, names):
        yield (
            f"{_WITHOUT} what the foreign key of {column!r} says about ON DELETE, ON UPDATE or"
            f" DEFERRABLE. Make {_BY_HAND.format(before.table)}"
        )


def _unreflected_keys(
    before: _Definition, after: _Definition, names: dict[str, str]
) -> Iterator[str]:
    """The first columns of foreign keys whose options SQLAlchemy does not reflect."""
    options: dict[str, Any] = {
        key["constrained_columns"][0].lower(): key.get("options", {})
        for key in before.reflected("foreign_keys")
    }
    kept = _actions(after)
    for column, actions in _actions(before).items():
        name = names.get(column, "")
        if name not in kept:
            continue
        one = options.get(column, {})
        seen = tuple(one.get(name) or "NO ACTION" for name in ("onupdate", "ondelete"))
        is_deferred = before.is_deferrable(column) and not after.is_deferrable(name)
        if actions not in {kept[name], seen} or (is_deferred and "deferrable" not in one):
            yield column


def _actions(definition: _Definition) -> dict[str, tuple[str, ...]]:
    """Return what each foreign key does on UPDATE and DELETE, by its first column."""
    rows = definition.pragma("foreign_key_list", definition.table)
    return {row[3].lower(): tuple(row[5:7]) for row in rows if row[1] == 0}


def _unreflected_indexes(before: _Definition, stay: Collection[str]) -> Iterator[_Item]:
    """Yield the indexes that SQLAlchemy reflects only in part, if all their columns *stay*."""
    conditions = {
        index["name"]: index.get("dialect_options", {}).get("sqlite_where", "")
        for index in before.reflected("indexes")
    }
    gone = before.columns - set(stay)
    for item in before.items("index"):
        columns, condition = sqlite_clauses(item.sql)
        words = [word for clause in columns for word in clause.words]
        if (
            item.is_of_table
            and not SqliteClause(None, words + condition).names(gone)
            and (
                _has_more_than_columns(before, item)
                or _condition(item.sql) != list(words_of(str(conditions.get(item.name, ""))))
            )
        ):
            yield item


def _has_more_than_columns(before: _Definition, index: _Item) -> bool:
    """Tell whether it has an expression, a descending column or a collation of its own."""
    keys = [row for row in before.pragma("index_xinfo", index.name) if row[5]]
    return "collate" in words_of(index.sql) or any(row[2] is None or row[3] for row in keys)


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
