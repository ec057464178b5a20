"""Enums of PostgreSQL, which exist beside the tables; Alembic compares tables only.

``alembic-postgresql-enum`` compares them, where it is installed (the extra ``postgresql-enums``).
Where it is not, nothing is written, and a sentence says which enum differs.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from sqlalchemy import ARRAY, Connection, Enum, MetaData, Table, TypeDecorator, inspect, text

from ..._transaction import metadatas
from ..._transaction.sqlalchemy_private import variants_of
from .operations import changes_of, full

if TYPE_CHECKING:
    from alembic.operations.ops import MigrateOperation, OpContainer

Key = tuple[str, str]  # schema and name

_INSTALL = (
    "Install 'flask-uow[postgresql-enums]' and 'flask db migrate' writes it, or write it by hand"
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
    """Return copies of *models*, one ``MetaData`` or several, whose columns show their enums."""
    copies = [metadatas.copied(one, one.tables.values()) for one in _several(models)]
    for column in [column for table in _tables(copies) for column in table.columns]:
        # alembic-postgresql-enum sees an enum only here, and fails at one in a TypeDecorator.
        if (enum := _enum_in(column.type)) is not None:
            column.type = enum
        elif isinstance(column.type, ARRAY) and (enum := _enum_in(column.type.item_type)):
            column.type.item_type = enum
    return copies


def _tables(models: Iterable[MetaData]) -> list[Table]:
    return [table for one in models for table in one.tables.values()]


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
    for modified in changes_of(operations):
        for change in modified.ops:
            is_altered = isinstance(change, ops.AlterColumnOp) and change.modify_type is not None
            if isinstance(change, ops.DropColumnOp) or is_altered:
                column = getattr(change, "column_name", "")
                yield modified.schema or default, modified.table_name, column


# Without it -----------------------------------------------------------------------------------


def differences(connection: Connection, models: Any) -> Iterator[str]:
    """A sentence for each enum of the database whose values are others in the models."""
    default = connection.dialect.default_schema_name or "public"
    inspector: Any = inspect(connection)
    labels: dict[Key, list[str]] = {
        (enum["schema"], enum["name"]): enum["labels"] for enum in inspector.get_enums(schema="*")
    }
    enums = {
        (str(enum.schema or default), str(enum.name)): list(enum.enums)
        for table in _tables(_several(models))
        for column in table.columns
        if (enum := _enum_in(getattr(column.type, "item_type", column.type))) is not None
    }
    for key, values in enums.items():
        if labels.get(key, values) != values:
            yield (
                f"The enum {full(None if key[0] == default else key[0], key[1])!r} has the values"
                f" {_listed(labels[key])} in the database, and {_listed(values)} in the models."
                f" Alembic does not compare enums, so nothing was written for it. {_INSTALL}."
            )


def _enum_in(kind: Any) -> Enum | None:
    """The native enum that a type is on PostgreSQL, by itself, as a variant or in a decorator."""
    kind = variants_of(kind).get("postgresql", kind)
    while isinstance(kind, TypeDecorator):
        kind = kind.impl_instance
    return kind if isinstance(kind, Enum) and kind.native_enum and kind.name else None


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(repr, values))
