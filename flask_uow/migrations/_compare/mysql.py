"""Indexes of MySQL and MariaDB that belong to foreign keys.

The server makes an index for each foreign key whose columns have none, under the name of the key,
and keeps it when the foreign key goes. It refuses to drop an index that a foreign key needs, even
if the table is to go. Alembic knows neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect

from .operations import changes_of

if TYPE_CHECKING:
    from alembic.operations.ops import DropConstraintOp, MigrateOperation, OpContainer

NAMES = {"mysql", "mariadb"}

HasIndex = Callable[["DropConstraintOp"], bool]


def adjust(doing: OpContainer, undoing: OpContainer, connection: Connection) -> None:
    """Adjust both functions of a revision."""
    for operations in (doing, undoing):
        _keep_until_the_table_goes(operations)
        _keep_until_the_foreign_key_goes(operations)
    _drop_with_foreign_keys(doing, _now(connection))
    _drop_with_foreign_keys(undoing, _after(doing, connection))


def _keep_until_the_table_goes(operations: OpContainer) -> None:
    """Leave out the drop of an index if its table is dropped later: the index goes with it."""
    from alembic.operations import ops

    dropped = {
        (one.schema, one.table_name) for one in operations.ops if isinstance(one, ops.DropTableOp)
    }
    changes = changes_of(operations)
    for modified in changes:
        if (modified.schema, modified.table_name) in dropped:
            modified.ops = [one for one in modified.ops if not isinstance(one, ops.DropIndexOp)]
    empty = [modified for modified in changes if not modified.ops]
    operations.ops = [operation for operation in operations.ops if operation not in empty]


def _keep_until_the_foreign_key_goes(operations: OpContainer) -> None:
    """Drop foreign keys first, and indexes after others are made, but before columns go."""
    from alembic.operations import ops

    for modified in changes_of(operations):
        created = {
            _name_of(operation)
            for operation in modified.ops
            if isinstance(operation, (ops.CreateIndexOp, ops.CreateUniqueConstraintOp))
        }

        def rank(operation: MigrateOperation, created: set[str] = created) -> int:
            if isinstance(operation, ops.DropColumnOp):
                return 2
            if isinstance(operation, ops.DropConstraintOp) and _is_key(operation):
                return -1
            is_drop = isinstance(operation, (ops.DropIndexOp, ops.DropConstraintOp))
            return 1 if is_drop and _name_of(operation) not in created else 0

        modified.ops = sorted(modified.ops, key=rank)


def _is_key(operation: DropConstraintOp) -> bool:
    return operation.constraint_type == "foreignkey"


def _name_of(operation: MigrateOperation) -> str:
    name = getattr(operation, "index_name", None) or getattr(operation, "constraint_name", None)
    return str(name)


def _drop_with_foreign_keys(operations: OpContainer, has_index: HasIndex) -> None:
    """Drop the index that the server has made for a foreign key after the foreign key."""
    from alembic.operations import ops

    for modified in changes_of(operations):
        adjusted: list[MigrateOperation] = []
        for operation in modified.ops:
            adjusted.append(operation)
            if (
                isinstance(operation, ops.DropConstraintOp)
                and _is_key(operation)
                and has_index(operation)
            ):
                name, table = str(operation.constraint_name), operation.table_name
                adjusted.append(ops.DropIndexOp(name, table, schema=operation.schema))
        modified.ops = adjusted


def _now(connection: Connection) -> HasIndex:
    """Tell whether a foreign key has an index of its name in the database."""

    def has_index(key: DropConstraintOp) -> bool:
        indexes = inspect(connection).get_indexes(key.table_name, schema=key.schema)
        return key.constraint_name in {index["name"] for index in indexes}

    return has_index


def _after(doing: OpContainer, connection: Connection) -> HasIndex:
    """Tell whether *doing* makes a foreign key for which the server makes an index."""
    from alembic.operations import ops

    operations = [operation for modified in changes_of(doing) for operation in modified.ops]
    keys = {
        (str(operation.constraint_name), operation.source_table): list(operation.local_cols)
        for operation in operations
        if isinstance(operation, ops.CreateForeignKeyOp) and operation.constraint_name
    }
    created = [
        (operation.table_name, [str(getattr(part, "name", part)) for part in operation.columns])
        for operation in operations
        if isinstance(operation, (ops.CreateIndexOp, ops.CreateUniqueConstraintOp))
    ]

    def has_index(key: DropConstraintOp) -> bool:
        columns = keys.get((str(key.constraint_name), key.table_name))
        if columns is None:
            return False
        indexed = [index for table, index in created if table == key.table_name]
        indexed += _indexed(key, connection)
        return not any(list(index[: len(columns)]) == columns for index in indexed)

    return has_index


def _indexed(key: DropConstraintOp, connection: Connection) -> list[list[str]]:
    """The columns of the indexes that the table of *key* has now."""
    inspector, name, schema = inspect(connection), key.table_name, key.schema
    indexes: list[Sequence[str | None]] = [
        index["column_names"] for index in inspector.get_indexes(name, schema=schema)
    ]
    indexes.append(inspector.get_pk_constraint(name, schema=schema)["constrained_columns"])
    return [[str(column) for column in index] for index in indexes]
