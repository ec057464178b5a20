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

from sqlalchemy import MetaData, inspect

from . import advice, mysql, postgresql, source_op
from .column_types import render_item
from .describe import full

if TYPE_CHECKING:
    from alembic.operations import ops as alembic_ops
    from alembic.operations.ops import MigrateOperation, MigrationScript, OpContainer
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
            if operations.ops and all(map(source_op.is_comment, operations.ops)):
                operations.ops.append(source_op.source(["pass"]))

    def _announce_enums(
        self, engine: str, doing: OpContainer, undoing: OpContainer, context: MigrationContext
    ) -> None:
        if postgresql.load():
            postgresql.adjust(doing, undoing, _connection(context))
            return
        models = context.opts["target_metadata"]
        for sentence in postgresql.differences(_connection(context), models):
            self.unwritten.append(self._with_engine(sentence, engine))
            if not self.comment:
                doing.ops.append(source_op.source([], [("enum", sentence)]))
            elif doing.ops:
                doing.ops.insert(0, source_op.comment([sentence]))
        self.drops += self.unwritten

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
                rename = advice.TableRename(schema, table, created.table_name)
                advice.insert_before(undoing, rename.is_undone_by, rename.in_downgrade())
                lines = [
                    f"The table {full(schema, table)!r}, which the models do not know, has the"
                    " same columns.",
                    rename.in_upgrade(),
                ]
                return self._noted(engine, lines, f"{lines[0]} {rename.for_both()}")
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
            rename = advice.TableRename(schema, name, candidates[0].table_name, is_dropped=True)
            advice.insert_before(undoing, rename.is_undone_by, rename.in_downgrade())
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
                    rename = advice.ColumnRename(operation, added[0], context)
                    lines += rename.in_upgrade()
                    undone += rename.in_downgrade()
                operations += self._noted(engine, lines)
            elif isinstance(operation, ops.AddColumnOp) and advice.needs_value(operation.column):
                lines = advice.value_needed(operation, context.dialect.name)
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
        for modified in source_op.changes_of(operations):
            kept: list[MigrateOperation] = []
            for operation in modified.ops:
                if isinstance(operation, ops.DropConstraintOp) and not operation.constraint_name:
                    lines = advice.not_droppable(operation, function, is_batch=is_batch)
                    kept += self._noted(engine, lines, " ".join(lines[:2]))
                    kept.append(source_op.source([f"raise NotImplementedError({lines[0]!r})"]))
                    continue
                if is_sqlite and isinstance(operation, created) and not operation.constraint_name:
                    lines = advice.not_addable(operation, modified)
                    kept += self._noted(engine, lines, " ".join(lines))
                kept.append(operation)
            modified.ops = kept

    def _noted(
        self, engine: str, lines: Sequence[str], sentence: str | None = None
    ) -> list[MigrateOperation]:
        """A comment of *lines*, which is announced as *sentence* (the first line)."""
        self.drops.append(self._with_engine(sentence or lines[0], engine))
        return [source_op.comment(lines)]

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
    for other in source_op.changes_of(undoing):
        if (other.schema, other.table_name) == (modified.schema, modified.table_name):
            advice.insert_before(other, lambda one: isinstance(one, columns), lines)
