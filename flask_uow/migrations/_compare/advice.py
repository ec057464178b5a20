"""What the comments of a revision say: about renames, missing values, and missing names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Column

from . import mysql, source_op
from .describe import full

if TYPE_CHECKING:
    from alembic.operations.ops import (
        AddColumnOp,
        DropColumnOp,
        DropConstraintOp,
        MigrateOperation,
        ModifyTableOps,
        OpContainer,
    )
    from alembic.runtime.migration import MigrationContext


def insert_before(
    operations: OpContainer, matches: Callable[[MigrateOperation], bool], lines: Sequence[str]
) -> None:
    """Put a comment before the first operation that *matches*, if there is one."""
    for position, operation in enumerate(operations.ops):
        if matches(operation):
            operations.ops.insert(position, source_op.comment(lines))
            return


@dataclass(frozen=True)
class TableRename:
    """A table that may have been renamed, not dropped.

    :ivar is_dropped: the revision drops the old table; it is left alone otherwise.
    """

    schema: str | None
    old: str
    new: str
    is_dropped: bool = False

    def in_upgrade(self) -> str:
        also = f", drop_table({self.old!r})" if self.is_dropped else ""
        return (
            f"If it was renamed, write instead of create_table({self.new!r}){also} and the indexes:"
            f" {self._line(self.old, self.new)}"
        )

    def in_downgrade(self) -> list[str]:
        also = f"create_table({self.old!r}), " if self.is_dropped else ""
        return [
            f"If it was renamed, its rows are lost here. Write instead of {also}"
            f"drop_table({self.new!r}) and the indexes: {self._line(self.new, self.old)}"
        ]

    def for_both(self) -> str:
        """Both functions in one sentence, for the terminal."""
        return (
            f"If it was renamed, write {self._line(self.old, self.new)} in 'upgrade', and"
            f" {self._line(self.new, self.old)} in 'downgrade', as the comments there say."
        )

    def is_undone_by(self, operation: MigrateOperation) -> bool:
        """Does *operation* of ``downgrade`` make the old table again, or drop the new one?"""
        from alembic.operations import ops

        if isinstance(operation, ops.CreateTableOp) and self.is_dropped:
            return (operation.schema, operation.table_name) == (self.schema, self.old)
        return isinstance(operation, ops.DropTableOp) and (
            operation.schema,
            operation.table_name,
        ) == (self.schema, self.new)

    def _line(self, old: str, new: str) -> str:
        schema = f", schema={self.schema!r}" if self.schema else ""
        return f"op.rename_table({old!r}, {new!r}{schema})"


class ColumnRename:
    """A column that may have been renamed, not dropped.

    :param dropped: the operation that drops the old column.
    :param new: the name of a column that the same revision adds.
    """

    def __init__(self, dropped: DropColumnOp, new: str, context: MigrationContext) -> None:
        self._dropped = dropped
        self._old = dropped.column_name
        self._new = new
        self._context = context

    def in_upgrade(self) -> list[str]:
        return [
            "If it was renamed, write instead of the drop and the addition:",
            f"    {self._line(self._old, self._new)}",
        ]

    def in_downgrade(self) -> list[str]:
        return [
            f"If {self._old!r} was renamed, its values are lost here. Write instead of the drop and"
            " the addition:",
            f"    {self._line(self._new, self._old)}",
        ]

    def _line(self, old: str, new: str) -> str:
        """The line of Python; MySQL and MariaDB need the type again.

        SQLite can rename a column without a copy of the table. In a batch, the line runs before the
        other changes of the table.
        """
        from alembic.autogenerate import render_python_code
        from alembic.operations import ops

        options, table = self._context.opts, self._dropped.table_name
        start = f"{table!r}, {old!r}, new_column_name={new!r}"
        if self._context.dialect.name not in mysql.NAMES:
            schema = f", schema={self._dropped.schema!r}" if self._dropped.schema else ""
            return f"op.alter_column({start}{schema})"
        column = self._dropped.to_column()
        renaming = ops.AlterColumnOp(
            table,
            old,
            schema=self._dropped.schema,
            modify_name=new,
            existing_type=column.type,
            existing_nullable=column.nullable,
            existing_server_default=column.server_default,
        )
        code = render_python_code(
            ops.UpgradeOps([renaming]),
            render_item=options["render_item"],
            user_module_prefix=options.get("user_module_prefix"),
        )
        lines = (line.strip() for line in code.splitlines())
        line = " ".join(line for line in lines if line and not line.startswith("#"))
        # The oldest versions of Alembic leave the new name out.
        return line if "new_column_name" in line else line.replace(f"{table!r}, {old!r}", start, 1)


def needs_value(column: Column[Any]) -> bool:
    """Tell whether the database has no value of *column* for existing rows."""
    if column.nullable or column.server_default is not None:  # which may be computed
        return False
    table: Any = column.table
    return table is None or table.autoincrement_column is not column


def value_needed(operation: AddColumnOp, dialect: str) -> list[str]:
    table = full(operation.schema, operation.table_name)
    what = "get '' or 0, if that is a value of it" if dialect in mysql.NAMES else "need a value"
    return [
        f"The column {operation.column.name!r} of {table!r} is NOT NULL and has no server default:"
        f" existing rows {what}.",
        "Give it 'server_default=...', or add it nullable, fill it, and alter it then.",
    ]


_KINDS = {"unique": "unique constraint", "foreignkey": "foreign key", "check": "check constraint"}
_CONVENTION = "Give the metadata a naming convention (flask_uow.migrations.NAMING_CONVENTION)"


def not_droppable(operation: DropConstraintOp, function: str, *, is_batch: bool) -> list[str]:
    kind = operation.constraint_type or ""
    schema = f", schema={operation.schema!r}" if operation.schema else ""
    start = "batch_op.drop_constraint(NAME"
    if not is_batch:
        start = f"op.drop_constraint(NAME, {operation.table_name!r}{schema}"
    table = full(operation.schema, operation.table_name)
    return [
        f"A {_KINDS.get(kind, 'constraint')} of {table!r} has no name, so {function} cannot drop"
        " it.",
        f"{_CONVENTION}, or write here what the database calls it.",
        f"    {start}, type_={kind!r})",
    ]


def not_addable(operation: MigrateOperation, modified: ModifyTableOps) -> list[str]:
    kind = _KINDS["unique" if hasattr(operation, "columns") else "foreignkey"]
    table = full(modified.schema, modified.table_name)
    return [
        f"A {kind} of {table!r} has no name, so it cannot be added on SQLite.",
        f"{_CONVENTION}, or write a name here.",
    ]
