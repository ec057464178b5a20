"""Constraints without a name on SQLite: a batch can neither add nor drop one.

They can come and go with their columns, though.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import MetaData

from ...models import NAMING_CONVENTION
from .operations import changes_of

if TYPE_CHECKING:
    from alembic.operations.ops import AddConstraintOp, OpContainer


def adjust(operations: OpContainer) -> None:
    """Name a constraint that is added with its column; omit its drop if the column is dropped."""
    from alembic.operations import ops
    from alembic.runtime.migration import MigrationContext

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    naming = MigrationContext.configure(dialect_name="sqlite", opts={"target_metadata": metadata})
    for modified in changes_of(operations):
        gone = {one.column_name for one in modified.ops if isinstance(one, ops.DropColumnOp)}
        added = {one.column.name for one in modified.ops if isinstance(one, ops.AddColumnOp)}
        for operation in modified.ops[:]:
            if getattr(operation, "constraint_name", None):
                continue
            if isinstance(operation, ops.DropConstraintOp):
                if _columns_of(operation.reverse()) & gone:
                    modified.ops.remove(operation)
            elif not isinstance(operation, (ops.CreateForeignKeyOp, ops.CreateUniqueConstraintOp)):
                continue
            elif _columns_of(operation) & added:
                operation.constraint_name = str(operation.to_constraint(naming).name)


def _columns_of(operation: AddConstraintOp) -> set[str]:
    constraint: Any = operation.to_constraint()
    return {column.name for column in getattr(constraint, "columns", ())}
