"""Indexes of MySQL and MariaDB that belong to foreign keys.

They make one for each foreign key whose columns have none, under its name, and leave it when the
foreign key goes. And they refuse to drop one that a foreign key needs, although the table is to go.
Alembic knows neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, inspect

NAMES = {"mysql", "mariadb"}


def adjust(doing: Any, undoing: Any, connection: Connection) -> None:
    """Adjust both ways of a revision: Alembic's ``UpgradeOps`` and ``DowngradeOps``."""
    for operations in (doing, undoing):
        _keep_until_the_table_goes(operations)
        _keep_until_the_foreign_key_goes(operations)
    _follow_foreign_keys(doing, _there(connection))
    _follow_foreign_keys(undoing, _made_by(doing, connection))


def _keep_until_the_table_goes(operations: Any) -> None:
    """Leave out the indexes of a table that is dropped behind them: they go with it."""
    from alembic.operations import ops

    dropped = {
        (one.schema, one.table_name) for one in operations.ops if isinstance(one, ops.DropTableOp)
    }
    changes = _changes(operations)
    for modified in changes:
        if (modified.schema, modified.table_name) in dropped:
            modified.ops = [one for one in modified.ops if not isinstance(one, ops.DropIndexOp)]
    operations.ops = [one for one in operations.ops if one not in changes or one.ops]


def _keep_until_the_foreign_key_goes(operations: Any) -> None:
    """Drop foreign keys first, and indexes when others have been made, but before columns go."""
    from alembic.operations import ops

    for modified in _changes(operations):
        created = {
            _name_of(one)
            for one in modified.ops
            if isinstance(one, (ops.CreateIndexOp, ops.CreateUniqueConstraintOp))
        }

        def rank(one: Any, created: set[str] = created) -> int:
            if isinstance(one, ops.DropColumnOp):
                return 2
            if isinstance(one, ops.DropConstraintOp) and one.constraint_type == "foreignkey":
                return -1
            is_drop = isinstance(one, (ops.DropIndexOp, ops.DropConstraintOp))
            return 1 if is_drop and _name_of(one) not in created else 0

        modified.ops = sorted(modified.ops, key=rank)


def _changes(operations: Any) -> list[Any]:
    """Those of tables that stay, one ``ModifyTableOps`` for each."""
    from alembic.operations import ops

    return [one for one in operations.ops if isinstance(one, ops.ModifyTableOps)]


def _name_of(operation: Any) -> str:
    return str(getattr(operation, "index_name", None) or operation.constraint_name)


def _follow_foreign_keys(operations: Any, is_made: Any) -> None:
    """Drop the index of a foreign key behind it."""
    from alembic.operations import ops

    for modified in _changes(operations):
        found: list[Any] = []
        for operation in list[Any](modified.ops):
            found.append(operation)
            if isinstance(operation, ops.DropConstraintOp) and is_made(operation):
                name, table = str(operation.constraint_name), operation.table_name
                found.append(ops.DropIndexOp(name, table, schema=operation.schema))
        modified.ops = found


def _there(connection: Connection) -> Any:
    """Has the foreign key that is dropped an index of its name now?"""

    def is_made(operation: Any) -> bool:
        if operation.constraint_type != "foreignkey":
            return False
        indexes = inspect(connection).get_indexes(operation.table_name, schema=operation.schema)
        return operation.constraint_name in {one["name"] for one in indexes}

    return is_made


def _made_by(doing: Any, connection: Connection) -> Any:
    """Will *doing* make the foreign key that is dropped, and the server its index?"""
    from alembic.operations import ops

    changes = _changes(doing)
    keys = {
        (one.constraint_name, one.source_table): one
        for modified in changes
        for one in modified.ops
        if isinstance(one, ops.CreateForeignKeyOp)
    }
    created: list[tuple[str, Sequence[Any]]] = [
        (one.table_name, [str(getattr(part, "name", part)) for part in one.columns])
        for modified in changes
        for one in modified.ops
        if isinstance(one, (ops.CreateIndexOp, ops.CreateUniqueConstraintOp))
    ]

    def is_made(operation: Any) -> bool:
        key = keys.get((operation.constraint_name, operation.table_name))
        if key is None or key.constraint_name is None:
            return False
        columns = [columns for table, columns in created if table == operation.table_name]
        columns += _indexed(operation, connection)
        return not any(one[: len(key.local_cols)] == list(key.local_cols) for one in columns)

    return is_made


def _indexed(operation: Any, connection: Connection) -> list[Sequence[Any]]:
    inspector, name, schema = inspect(connection), operation.table_name, operation.schema
    found: list[Sequence[Any]] = [
        one["column_names"] for one in inspector.get_indexes(name, schema=schema)
    ]
    return [*found, inspector.get_pk_constraint(name, schema=schema)["constrained_columns"]]
