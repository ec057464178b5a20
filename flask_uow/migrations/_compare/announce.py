"""What ``migrate`` adds to Alembic's comparison of models and database.

- A table that the models do not know is left alone and listed: it may belong to another program.
- A loss of data is announced, in the terminal and in the file. Alembic sees a rename as a drop and
  an addition; comments in both functions say what to write if it is a rename.
- So is a failure to expect: a column without a value for existing rows, a constraint that cannot
  be dropped because it has no name.
- Enums of PostgreSQL are compared by another package, if it is installed; see ``postgresql.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import Column, MetaData, inspect

from . import mysql, postgresql
from .column_types import render_item
from .operations import changes_of, comment, full, is_comment, source

if TYPE_CHECKING:
    from alembic.operations import ops as alembic_ops
    from alembic.operations.ops import (
        AddColumnOp,
        DropColumnOp,
        DropConstraintOp,
        MigrateOperation,
        MigrationScript,
        ModifyTableOps,
        OpContainer,
    )
    from alembic.runtime.migration import MigrationContext


Name = tuple["str | None", str]  # schema and name
IncludeName = Callable[["str | None", str, Mapping[str, "str | None"]], bool]


@dataclass
class Comparison:
    """The findings of one comparison, beside the operations.

    :ivar comment: write comments into the operations, and what only a file needs.
    :ivar drops: sentences about lost data, possible renames and failures to expect.
    :ivar unwritten: sentences about differences for which no operation is written.
    """

    drop_unknown: bool = False
    comment: bool = True
    drops: list[str] = field(default_factory=list)
    unwritten: list[str] = field(default_factory=list)
    _unknown: dict[str, list[Name]] = field(default_factory=dict)

    @property
    def unknown(self) -> dict[str, list[str]]:
        """By engine, the tables that are only in the database."""
        return {engine: [full(*name) for name in names] for engine, names in self._unknown.items()}

    def include_name(
        self,
        engine: str,
        metadata: Iterable[MetaData],
        given: IncludeName | None,
        default_schema: Callable[[], str | None] = lambda: None,
    ) -> IncludeName:
        """Return Alembic's filter of that name.

        :param engine: empty for a filter of all engines; :meth:`announce` is given the name.
        :param given: the filter of the app, which is asked first.
        :param default_schema: the schema of a table that Alembic calls by its name alone.
        """
        known = {
            (table.schema, table.name) for models in metadata for table in models.tables.values()
        }

        def include(name: str | None, kind: str, parents: Mapping[str, str | None]) -> bool:
            if given is not None and not given(name, kind, parents):
                return False
            if kind != "table" or self.drop_unknown:
                return True
            schema = parents.get("schema_name")
            if (schema, name) in known or (schema or default_schema(), name) in known:
                return True
            unknown = self._unknown.setdefault(engine, [])
            if (schema, name) not in unknown:
                unknown.append((schema, str(name)))
            return False

        return include

    def prepare(self, context: MigrationContext) -> None:
        """Before the comparison: let column types be written with imports, and enums be compared.

        :param context: of the engine that is compared.
        """
        context.opts["render_item"] = render_item(context.opts.get("render_item"))
        if context.dialect.name == "postgresql" and postgresql.load():
            # The package changes the types of the columns that it is given.
            context.opts["target_metadata"] = postgresql.copied(context.opts["target_metadata"])

    def forget_versions(self, context: MigrationContext) -> None:
        """Do not list the table in which *context* keeps the revision."""
        own: Name = context.version_table_schema, context.version_table
        if own[0] == context.dialect.default_schema_name:
            own = None, own[1]
        kept = {
            engine: [name for name in names if name != own]
            for engine, names in self._unknown.items()
        }
        self._unknown = {engine: names for engine, names in kept.items() if names}

    def announce(self, engine: str, script: MigrationScript, context: MigrationContext) -> None:
        """Note what has to be read before it runs, and put comments before it.

        :param script: its last operations are those of *engine*.
        """
        doing, undoing = script.upgrade_ops_list[-1], script.downgrade_ops_list[-1]
        if "" in self._unknown:
            self._unknown.setdefault(engine, []).extend(self._unknown.pop(""))
        self.forget_versions(context)
        if context.dialect.name == "postgresql":
            self._announce_enums(engine, doing, undoing, context)
        if self.comment:
            self._announce_tables(engine, doing, undoing, context)
            self._announce_nameless(engine, doing, context, "'upgrade'")
            self._announce_nameless(engine, undoing, context, "'downgrade'")
        if self.comment and context.dialect.name in mysql.NAMES:
            mysql.adjust(doing, undoing, _connection(context))
        for operations in (doing, undoing):
            if operations.ops and all(map(is_comment, operations.ops)):
                operations.ops.append(source(["pass"]))

    def _announce_enums(
        self, engine: str, doing: OpContainer, undoing: OpContainer, context: MigrationContext
    ) -> None:
        if postgresql.load():
            postgresql.adjust(doing, undoing, _connection(context))
            return
        models = context.opts["target_metadata"]
        for sentence in postgresql.differences(_connection(context), models):
            self.unwritten.append(self._with_engine(sentence, engine))
            self.drops.append(self.unwritten[-1])
            if not self.comment:
                doing.ops.append(source([], [("enum", sentence)]))
            elif doing.ops:
                doing.ops.insert(0, comment([sentence]))

    def _announce_tables(
        self, engine: str, doing: OpContainer, undoing: OpContainer, context: MigrationContext
    ) -> None:
        from alembic.operations import ops

        created = [operation for operation in doing.ops if isinstance(operation, ops.CreateTableOp)]
        operations: list[MigrateOperation] = []
        for operation in doing.ops:
            if isinstance(operation, ops.CreateTableOp):
                operations += self._perhaps_renamed(engine, operation, undoing, context)
            elif isinstance(operation, ops.DropTableOp):
                operations += self._table_dropped(engine, operation, created, undoing)
            elif isinstance(operation, ops.ModifyTableOps):
                self._announce_columns(engine, operation, undoing, context)
            operations.append(operation)
        doing.ops = operations

    def _perhaps_renamed(
        self,
        engine: str,
        created: alembic_ops.CreateTableOp,
        undoing: OpContainer,
        context: MigrationContext,
    ) -> list[MigrateOperation]:
        """A comment, if an unknown table has the columns of the one that is *created*."""
        columns = {column.name for column in created.to_table().columns}
        for schema, table in self._unknown.get(engine, []):
            if schema != created.schema:
                continue
            known = inspect(_connection(context)).get_columns(table, schema=schema)
            if columns == {column["name"] for column in known}:
                rename = TableRename(schema, table, created.table_name)
                insert_before(undoing, rename.is_undone_by, rename.in_downgrade())
                lines = [
                    f"The table {full(schema, table)!r}, which the models do not know, has the"
                    " same columns.",
                    rename.in_upgrade(),
                ]
                return self._noted(engine, lines, f"{lines[0]} If it was renamed, see the file.")
        return []

    def _table_dropped(
        self,
        engine: str,
        dropped: alembic_ops.DropTableOp,
        created: Sequence[alembic_ops.CreateTableOp],
        undoing: OpContainer,
    ) -> list[MigrateOperation]:
        schema, name = dropped.schema, dropped.table_name
        lines = [f"This drops the table {full(schema, name)!r} with all its rows."]
        candidates = [other for other in created if other.schema == schema]
        if candidates:
            columns = set(dropped.to_table().columns.keys())
            candidates.sort(key=lambda other: set(other.to_table().columns.keys()) != columns)
            rename = TableRename(schema, name, candidates[0].table_name, is_dropped=True)
            insert_before(undoing, rename.is_undone_by, rename.in_downgrade())
            lines.append(rename.in_upgrade())
        return self._noted(engine, lines)

    def _announce_columns(
        self,
        engine: str,
        modified: alembic_ops.ModifyTableOps,
        undoing: OpContainer,
        context: MigrationContext,
    ) -> None:
        from alembic.operations import ops

        added = [one.column.name for one in modified.ops if isinstance(one, ops.AddColumnOp)]
        operations: list[MigrateOperation] = []
        undone: list[str] = []
        for operation in modified.ops:
            if isinstance(operation, ops.DropColumnOp):
                table, name = full(operation.schema, operation.table_name), operation.column_name
                lines = [f"This drops the column {name!r} of {table!r} with all its values."]
                if added:
                    rename = ColumnRename(operation, added[0], context)
                    lines += rename.in_upgrade()
                    undone += rename.in_downgrade()
                operations += self._noted(engine, lines)
            elif isinstance(operation, ops.AddColumnOp) and needs_value(operation.column):
                lines = value_needed(operation, context.dialect.name)
                operations += self._noted(engine, lines, " ".join(lines))
            operations.append(operation)
        modified.ops = operations
        if undone:
            _insert_into(undoing, modified, undone)

    def _announce_nameless(
        self, engine: str, operations: OpContainer, context: MigrationContext, function: str
    ) -> None:
        """Constraints without a name, which cannot be changed by it."""
        from alembic.operations import ops

        is_sqlite = context.dialect.name == "sqlite"
        is_batch = bool(context.opts.get("render_as_batch"))
        created = ops.CreateUniqueConstraintOp, ops.CreateForeignKeyOp
        for modified in changes_of(operations):
            kept: list[MigrateOperation] = []
            for operation in modified.ops:
                if isinstance(operation, ops.DropConstraintOp) and not operation.constraint_name:
                    lines = not_droppable(operation, function, is_batch=is_batch)
                    kept += self._noted(engine, lines, " ".join(lines[:2]))
                    kept.append(source([f"raise NotImplementedError({lines[0]!r})"]))
                    continue
                if is_sqlite and isinstance(operation, created) and not operation.constraint_name:
                    lines = not_addable(operation, modified)
                    kept += self._noted(engine, lines, " ".join(lines))
                kept.append(operation)
            modified.ops = kept

    def _noted(
        self, engine: str, lines: Sequence[str], sentence: str | None = None
    ) -> list[MigrateOperation]:
        """A comment of *lines*, which is announced as *sentence* (the first line)."""
        self.drops.append(self._with_engine(sentence or lines[0], engine))
        return [comment(lines)]

    @staticmethod
    def _with_engine(sentence: str, engine: str) -> str:
        return f"{sentence} (engine {engine!r})"


def _connection(context: MigrationContext) -> Any:
    """The connection of *context*, which a comparison always has."""
    return context.connection


def _insert_into(
    undoing: OpContainer, modified: alembic_ops.ModifyTableOps, lines: Sequence[str]
) -> None:
    """Put a comment before the columns of the same table that are added again or dropped again."""
    from alembic.operations import ops

    columns = ops.AddColumnOp, ops.DropColumnOp
    for other in changes_of(undoing):
        if (other.schema, other.table_name) == (modified.schema, modified.table_name):
            insert_before(other, lambda one: isinstance(one, columns), lines)


# What the comments say ----------------------------------------------------------------------------


def insert_before(
    operations: OpContainer, matches: Callable[[MigrateOperation], bool], lines: Sequence[str]
) -> None:
    """Put a comment before the first operation that *matches*, if there is one."""
    for position, operation in enumerate(operations.ops):
        if matches(operation):
            operations.ops.insert(position, comment(lines))
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
