"""Enumerated types of PostgreSQL, which exist beside the tables; Alembic looks at tables only.

- A value that a type lacks is added. PostgreSQL cannot take one out; the file says what to write.
- A type is made before the first column that has it, and dropped behind the last one. Both is
  true of ``upgrade`` and of ``downgrade``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ARRAY, Column, Connection, Enum, MetaData, inspect, text
from sqlalchemy.dialects.postgresql import ENUM

from . import source_op
from .describe import full

Key = tuple[str, str]  # schema and name
Place = tuple[str, str, str]  # schema, table, column

_USERS = text(
    """
    SELECT type_schema.nspname, enum.typname,
        table_schema.nspname, pg_class.relname, attname,
        pg_get_expr(adbin, adrelid), used.typelem <> 0
    FROM pg_attribute
    JOIN pg_class ON pg_class.oid = attrelid
    JOIN pg_namespace table_schema ON table_schema.oid = relnamespace
    JOIN pg_type used ON used.oid = atttypid
    JOIN pg_type enum ON enum.oid = CASE used.typelem WHEN 0 THEN used.oid ELSE used.typelem END
    JOIN pg_namespace type_schema ON type_schema.oid = enum.typnamespace
    LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE enum.typtype = 'e' AND NOT attisdropped AND relkind NOT IN ('i', 'I')
    ORDER BY 1, 2, 3, 4, attnum
    """
)


@dataclass(frozen=True)
class _Use:
    """How a column has a type."""

    default: str | None = None
    is_array: bool = False


class Enums:
    """The types of one database, and where they are used; operations change both.

    :param metadata: the models.
    :ivar removed: what PostgreSQL cannot do, in words.
    """

    def __init__(self, connection: Connection, metadata: Iterable[MetaData]) -> None:
        self.removed: list[str] = []
        self._dialect = connection.dialect
        self._default = connection.dialect.default_schema_name or "public"
        inspector: Any = inspect(connection)
        self._labels: dict[Key, list[str]] = {
            (one["schema"], one["name"]): one["labels"] for one in inspector.get_enums(schema="*")
        }
        self._users: dict[Key, dict[Place, _Use]] = {key: {} for key in self._labels}
        for row in connection.execute(_USERS) if self._labels else ():
            self._users[row[0], row[1]][row[2], row[3], row[4]] = _Use(row[5], row[6])
        models = [
            found
            for one in metadata
            for table in one.tables.values()
            for column in table.columns
            for found in self._of(column)
        ]
        self._models = {self._key(one): one for one in models}
        # Types that somebody else cares for: the user, or nobody.
        self._kept = {self._key(one) for one in models if not one.create_type}
        self._kept |= {key for key, users in self._users.items() if not users}

    def compare(self) -> tuple[list[Any], list[Any]]:
        """What mends the values of the types that are there, and what undoes that."""
        mending, undoing = [], []
        for key, model in self._models.items():
            labels, wanted = self._labels.get(key, []), list(model.enums)
            if not labels:
                continue
            added = [label for label in wanted if label not in labels]
            gone = [label for label in labels if label not in wanted]
            if added:
                mending.append(self._adding(key, labels, wanted))
                values = ", ".join(map(repr, added))
                stays = f"PostgreSQL cannot take {values} out of the type {self._words(key)!r}."
                undoing.append(source_op.comment([stays]))
            if gone:
                mending.append(self._removing(key, gone, added, wanted))
        return mending, undoing

    def frame(self, operations: Any) -> None:
        """Put the making of types before what needs them, and their drop behind it."""
        from alembic.operations import ops

        found: list[Any] = []
        for operation in operations.ops:
            before: list[Any] = []
            used = {key for key, users in self._users.items() if users}
            is_container = isinstance(operation, ops.ModifyTableOps)
            for one in operation.ops if is_container else [operation]:
                before += self._follow(one)
            unused = [key for key in sorted(used) if not self._users[key] and key not in self._kept]
            for key in unused:
                del self._labels[key]
            after = [source_op.execute(f"DROP TYPE {self._name(key)}") for key in unused]
            found += [*before, operation, *after]
        operations.ops = found

    def _follow(self, operation: Any) -> list[Any]:
        """Note what *operation* changes; return what has to come before it."""
        from alembic.operations import ops

        schema = getattr(operation, "schema", None) or self._default
        table = getattr(operation, "table_name", "")
        if isinstance(operation, ops.CreateTableOp):
            operation.columns = [
                self._created(schema, table, one) if isinstance(one, Column) else one
                for one in operation.columns
            ]
        elif isinstance(operation, ops.DropTableOp):
            self._left(lambda place: place[:2] == (schema, table))
        elif isinstance(operation, ops.DropColumnOp):
            self._left(lambda place: place == (schema, table, operation.column_name))
        elif isinstance(operation, ops.AddColumnOp):
            return self._used((schema, table, operation.column.name), operation.column)
        elif isinstance(operation, ops.AlterColumnOp) and operation.modify_type is not None:
            place = schema, table, operation.column_name
            self._left(lambda one: one == place)
            column = Column(operation.column_name, operation.modify_type)
            return [*self._used(place, column), *self._converted(column)]
        return []

    def _created(self, schema: str, table: str, column: Column[Any]) -> Column[Any]:
        """The *column* of a new table, which makes its types itself: not those that are there."""
        found = list(self._of(column))
        there = any(self._key(one) in self._labels for one in found)
        for one in found:
            self._labels.setdefault(self._key(one), list(one.enums))
            self._users.setdefault(self._key(one), {})[schema, table, column.name] = _Use()
        if not there or not isinstance(column.type, (Enum, ARRAY)):
            return column
        copy = column._copy()
        copy.type = _not_made(column.type, found[0])
        return copy

    def _used(self, place: Place, column: Column[Any]) -> list[Any]:
        """Note that a column of a table that is there has these types; make them if need be."""
        made = []
        for one in self._of(column):
            key = self._key(one)
            if key not in self._labels and key not in self._kept:
                made.append(source_op.execute(self._making(key, one.enums)))
            self._labels.setdefault(key, list(one.enums))
            self._users.setdefault(key, {})[place] = _Use()
        return made

    def _converted(self, column: Column[Any]) -> list[Any]:
        names = [self._name(self._key(one)) for one in self._of(column)]
        if not names:
            return []
        using = f"{self._quoted(column.name)}::text::{names[0]}"
        return [
            source_op.comment(
                [
                    f"PostgreSQL needs to be told how the values become those of {names[0]}:",
                    f"    write postgresql_using={using!r} into the alter_column().",
                ]
            )
        ]

    def _left(self, is_gone: Any) -> None:
        for users in self._users.values():
            for place in [one for one in users if is_gone(one)]:
                del users[place]

    # What is written --------------------------------------------------------------------------

    def _adding(self, key: Key, labels: Sequence[str], wanted: Sequence[str]) -> Any:
        """A new value cannot be used before it is committed, so this is a transaction by itself."""
        lines, there = [], list(labels)
        added = [label for label in wanted if label not in there]
        for label in added:
            before = [one for one in wanted[: wanted.index(label)] if one in there]
            position = there.index(before[-1]) + 1 if before else 0
            where = f" AFTER {_literal(before[-1])}" if before else f" BEFORE {_literal(there[0])}"
            if position == len(there):
                where = ""
            there.insert(position, label)
            statement = f"ALTER TYPE {self._name(key)} ADD VALUE IF NOT EXISTS {_literal(label)}"
            lines.append(source_op.executing(statement + where))
        return source_op.source(
            ["with op.get_context().autocommit_block():", *lines, ""],
            [("add_enum_value", self._words(key), label) for label in added],
        )

    def _removing(
        self, key: Key, gone: Sequence[str], added: Sequence[str], wanted: Sequence[str]
    ) -> Any:
        values = ", ".join(map(repr, gone))
        lines = [
            f"The type {self._words(key)!r} of the database has {values}, and the models do not:"
            " PostgreSQL cannot take a value out.",
        ]
        self.removed.append(f"{lines[0]} The file says what to write.")
        if added:
            lines += [
                "If it was renamed, write instead of ADD VALUE:",
                "    "
                + source_op.executing(
                    f"ALTER TYPE {self._name(key)} RENAME VALUE {_literal(gone[0])}"
                    f" TO {_literal(added[0])}"
                ),
            ]
        lines += [
            "Where no row has it, the type can be made anew:",
            *[f"    {source_op.executing(one)}" for one in self._making_anew(key, wanted)],
        ]
        return source_op.source(
            [f"# {line}" for line in lines],
            [("remove_enum_value", self._words(key), label) for label in gone],
        )

    def _making_anew(self, key: Key, labels: Sequence[str]) -> Iterator[str]:
        name, old = self._name(key), f"{key[1]}_old"
        yield f"ALTER TYPE {name} RENAME TO {self._quoted(old)}"
        yield self._making(key, labels)
        for (schema, table, column), use in self._users[key].items():
            changing = f"ALTER COLUMN {self._quoted(column)}"
            many = "[]" if use.is_array else ""
            changes = [
                f"{changing} TYPE {name}{many}"
                f" USING {self._quoted(column)}::text{many}::{name}{many}"
            ]
            if use.default is not None:
                changes = [
                    f"{changing} DROP DEFAULT",
                    *changes,
                    f"{changing} SET DEFAULT {use.default}",
                ]
            yield f"ALTER TABLE {self._name((schema, table))} {', '.join(changes)}"
        yield f"DROP TYPE {self._name((key[0], old))}"

    def _making(self, key: Key, labels: Iterable[str]) -> str:
        return f"CREATE TYPE {self._name(key)} AS ENUM ({', '.join(map(_literal, labels))})"

    # Names ------------------------------------------------------------------------------------

    def _of(self, column: Column[Any]) -> Iterator[Any]:
        """The types of *column*; none or one."""
        kind: Any = column.type
        kind = kind._unwrapped_dialect_impl(self._dialect)
        while isinstance(kind, ARRAY):
            kind = kind.item_type._unwrapped_dialect_impl(self._dialect)
        if isinstance(kind, ENUM) and kind.name:
            yield kind

    def _key(self, kind: Any) -> Key:
        return str(kind.schema or self._default), str(kind.name)

    def _words(self, key: Key) -> str:
        return full(None if key[0] == self._default else key[0], key[1])

    def _name(self, key: Key) -> str:
        parts = key[1:] if key[0] == self._default else key
        return ".".join(map(self._quoted, parts))

    def _quoted(self, name: str) -> str:
        preparer: Any = self._dialect.identifier_preparer
        quoted = str(preparer.quote(name))
        return quoted.replace("%%", "%") if preparer._double_percents else quoted


def _literal(label: str) -> str:
    return "'" + label.replace("'", "''") + "'"


def _not_made(kind: Any, enum: Any) -> Any:
    """*kind*, which is *enum* or an array of it, for a type that is there."""
    if isinstance(kind, ARRAY):
        return ARRAY(_not_made(kind.item_type, enum), dimensions=kind.dimensions)
    return ENUM(*enum.enums, name=enum.name, schema=enum.schema, create_type=False)
