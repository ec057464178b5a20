"""Enums of PostgreSQL, which exist beside the tables; Alembic compares tables only.

``alembic-postgresql-enum`` compares them, where it is installed (the extra ``postgresql-enums``).
Where it is not, nothing is written, and sentences say what differs and what an enum needs.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from sqlalchemy import ARRAY, Column, Connection, Enum, MetaData, TypeDecorator, inspect, text

from . import source_op
from .column_types import variants_of
from .describe import full

if TYPE_CHECKING:
    from alembic.operations.ops import MigrateOperation, OpContainer

Key = tuple[str, str]  # schema and name

_INSTALL = (
    "'pip install 'flask-uow[postgresql-enums]'' lets 'flask db migrate' write it; or write it by"
    " hand"
)
_USERS = text(
    """
    SELECT type_schema.nspname, enum.typname, table_schema.nspname, relname, attname
    FROM pg_attribute
    JOIN pg_class ON pg_class.oid = attrelid
    JOIN pg_namespace table_schema ON table_schema.oid = relnamespace
    JOIN pg_type used ON used.oid = atttypid
    JOIN pg_type enum ON enum.oid = CASE used.typelem WHEN 0 THEN used.oid ELSE used.typelem END
    JOIN pg_namespace type_schema ON type_schema.oid = enum.typnamespace
    WHERE enum.typtype = 'e' AND NOT attisdropped AND relkind NOT IN ('i', 'I')
    """
)


@functools.cache
def load() -> bool:
    """Let the package compare enums, if it is installed; its import is all that it needs."""
    try:
        import alembic_postgresql_enum  # noqa: F401
    except ImportError:
        return False
    # It says of each other engine that it skips it, which is what it should do.
    name = "alembic.alembic_postgresql_enum.compare_dispatch"
    logging.getLogger(name).addFilter(lambda record: "only supports" not in record.getMessage())
    return True


def copied(models: Any) -> list[MetaData]:
    """Copies of *models*, one ``MetaData`` or several."""
    copies = []
    for metadata in _several(models):
        copy = MetaData(
            schema=metadata.schema,
            naming_convention=metadata.naming_convention,
            info=metadata.info,
        )
        for table in metadata.tables.values():
            for column in table.to_metadata(copy).columns:
                # The package sees an enum only here, and fails at one in a decorator.
                if (enum := _enum_in(column.type)) is not None:
                    column.type = enum
                elif isinstance(column.type, ARRAY) and (enum := _enum_in(column.type.item_type)):
                    column.type.item_type = enum
        copies.append(copy)
    return copies


def _several(models: Any) -> list[MetaData]:
    return [models] if isinstance(models, MetaData) else list(models or ())


# With the package -----------------------------------------------------------------------------


def adjust(doing: OpContainer, undoing: OpContainer, connection: Connection) -> None:
    """Adjust what the package would do: both functions of a revision."""
    _keep_enums_in_use(doing, undoing, connection)
    # Its ADD VALUE puts a new value after the one that it should come before.
    doing.ops = [
        operation.reverse().reverse() if _adds_inside(operation) else operation
        for operation in doing.ops
    ]


def _keep_enums_in_use(doing: OpContainer, undoing: OpContainer, connection: Connection) -> None:
    """Leave out the drop of each enum that is in use after the revision, or that was in no use.

    The package drops every enum that the models do not have; that of a table which is left alone,
    too, and one that belongs to another program.
    """
    default = connection.dialect.default_schema_name
    users: dict[Key, set[tuple[str, ...]]] = {}
    for schema, name, *column in connection.execute(_USERS):
        users.setdefault((schema, name), set()).add(tuple(column))
    gone = set(_gone(doing, str(default)))

    def stays(operation: Any) -> bool:
        used_by = users.get((operation.schema, operation.name), set())
        return not used_by or any(
            column not in gone and (*column[:2], "") not in gone for column in used_by
        )

    kept = {
        _key_of(operation)
        for operation in doing.ops
        if _is(operation, "drop_enum") and stays(operation)
    }
    for operations, kind in ((doing, "drop_enum"), (undoing, "create_enum")):
        operations.ops = [
            operation
            for operation in operations.ops
            if not (_is(operation, kind) and _key_of(operation) in kept)
        ]


def _is(operation: MigrateOperation, kind: str) -> bool:
    """Tell whether *operation* is one of the package."""
    return getattr(operation, "operation_name", None) == kind


def _adds_inside(operation: Any) -> bool:
    """Tell whether *operation* adds a value that is not the last one."""
    if not _is(operation, "add_enum_value"):
        return False
    before = list(operation.old_values)
    return list(operation.new_values)[: len(before)] != before


def _key_of(operation: Any) -> Key:
    return operation.schema, operation.name


def _gone(operations: OpContainer, default: str) -> Iterator[tuple[str, str, str]]:
    """Schema, table and column that are not of their type any more; no column means the table."""
    from alembic.operations import ops

    for operation in operations.ops:
        if isinstance(operation, ops.DropTableOp):
            yield operation.schema or default, operation.table_name, ""
    for modified in source_op.changes_of(operations):
        for change in modified.ops:
            is_altered = isinstance(change, ops.AlterColumnOp) and change.modify_type is not None
            if isinstance(change, ops.DropColumnOp) or is_altered:
                column = getattr(change, "column_name", "")
                yield modified.schema or default, modified.table_name, column


# Without it -----------------------------------------------------------------------------------


class Enums:
    """The enums of one database and of the models, where nothing compares them."""

    def __init__(self, connection: Connection, models: Any) -> None:
        self._default = connection.dialect.default_schema_name or "public"
        inspector: Any = inspect(connection)
        self._labels: dict[Key, list[str]] = {
            (enum["schema"], enum["name"]): enum["labels"]
            for enum in inspector.get_enums(schema="*")
        }
        self._models: dict[Key, Enum] = {
            self._key(enum): enum
            for metadata in _several(models)
            for table in metadata.tables.values()
            for enum in _enums_of(table.columns)
        }

    def differences(self) -> Iterator[str]:
        """A sentence for each enum whose values are others in the models."""
        for key, enum in self._models.items():
            labels = self._labels.get(key)
            if labels is not None and labels != list(enum.enums):
                yield (
                    f"The enum {self._name(key)!r} has the values {_listed(labels)} in the"
                    f" database, and {_listed(enum.enums)} in the models. Alembic does not compare"
                    f" enums, so nothing was written for it: {_INSTALL}."
                )

    def advise(self, doing: OpContainer, undoing: OpContainer) -> list[str]:
        """Put comments before what an enum needs; return the sentences for the terminal."""
        return [
            *self._advise(doing, set(self._labels), set(self._models)),
            *self._advise(undoing, {*self._labels, *self._models}, set(self._labels)),
        ]

    def _advise(self, operations: OpContainer, there: set[Key], needed: set[Key]) -> list[str]:
        """
        :param there: the enums that the database has before these operations.
        :param needed: those that it needs after them.
        """
        from alembic.operations import ops

        sentences: list[str] = []
        for container in (operations, *source_op.changes_of(operations)):
            advised: list[MigrateOperation] = []
            for operation in container.ops:
                lines: list[str] = []
                if isinstance(operation, ops.AddColumnOp):
                    lines = self._missing([operation.column], there)
                elif isinstance(operation, ops.AlterColumnOp) and operation.modify_type is not None:
                    lines = self._missing([Column("", operation.modify_type)], there)
                elif isinstance(operation, ops.DropColumnOp):
                    lines = self._left([operation.to_column()], needed)
                elif isinstance(operation, ops.DropTableOp):
                    lines = self._left(operation.to_table().columns, needed)
                elif isinstance(operation, ops.CreateTableOp):
                    there.update(map(self._key, _enums_of(operation.to_table().columns)))
                advised += [source_op.comment([line]) for line in lines]
                sentences += [line for line in lines if line not in sentences]
                advised.append(operation)
            container.ops = advised
        return sentences

    def _missing(self, columns: Iterable[Column[Any]], there: set[Key]) -> list[str]:
        return [
            f"PostgreSQL needs the enum {self._name(self._key(enum))!r} before a column has it:"
            f" {_INSTALL}: {self._made(enum)}.create(op.get_bind(), checkfirst=True)"
            for enum in _enums_of(columns)
            if self._key(enum) not in there
        ]

    def _left(self, columns: Iterable[Column[Any]], needed: set[Key]) -> list[str]:
        return [
            f"PostgreSQL keeps the enum {self._name(self._key(enum))!r}, and cannot create it a"
            f" second time. Its drop comes last: {_INSTALL}:"
            f" {self._made(enum)}.drop(op.get_bind(), checkfirst=True)"
            for enum in _enums_of(columns)
            if self._key(enum) not in needed
        ]

    def _made(self, enum: Enum) -> str:
        key = self._key(enum)
        schema = "" if key[0] == self._default else f", schema={key[0]!r}"
        return f"sa.Enum({_listed(enum.enums)}, name={key[1]!r}{schema})"

    def _key(self, enum: Enum) -> Key:
        return str(enum.schema or self._default), str(enum.name)

    def _name(self, key: Key) -> str:
        return full(None if key[0] == self._default else key[0], key[1])


def _enums_of(columns: Iterable[Column[Any]]) -> Iterator[Enum]:
    """The native enums of *columns*, also those in arrays."""
    for column in columns:
        kind = column.type
        enum = _enum_in(kind.item_type if isinstance(kind, ARRAY) else kind)
        if enum is not None:
            yield enum


def _enum_in(kind: Any) -> Enum | None:
    """The native enum that a type is on PostgreSQL, by itself, as a variant or in a decorator."""
    kind = variants_of(kind).get("postgresql", kind)
    while isinstance(kind, TypeDecorator):
        kind = kind.impl_instance
    return kind if isinstance(kind, Enum) and kind.native_enum and kind.name else None


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(repr, values))
