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

from . import mysql, postgresql, sqlite
from .column_types import render_item
from .operations import changes_of, comment, full, is_comment, source

if TYPE_CHECKING:
    from alembic.operations.ops import (
        AddColumnOp,
        CreateTableOp,
        DropColumnOp,
        MigrateOperation,
        MigrationScript,
        ModifyTableOps,
        OpContainer,
    )
    from alembic.runtime.migration import MigrationContext


Name = tuple["str | None", str]  # schema and name
IncludeName = Callable[["str | None", str, Mapping[str, "str | None"]], bool]

_KINDS = {"unique": "unique constraint", "foreignkey": "foreign key", "check": "check constraint"}


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
        return {
            engine: [full(*name) for name in names]
            for engine, names in self._unknown.items()
            if names
        }

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
        schema = context.version_table_schema
        if schema == context.dialect.default_schema_name:
            schema = None
        for names in self._unknown.values():
            if (schema, context.version_table) in names:
                names.remove((schema, context.version_table))

    def announce(self, engine: str, script: MigrationScript, context: MigrationContext) -> None:
        """Note what has to be read before it runs, and put comments before it.

        :param script: its last operations are those of *engine*.
        """
        doing, undoing = script.upgrade_ops_list[-1], script.downgrade_ops_list[-1]
        self._unknown.setdefault(engine, []).extend(self._unknown.pop("", []))
        self.forget_versions(context)
        if context.dialect.name == "postgresql":
            self._announce_enums(engine, doing, undoing, context)
        if self.comment:
            self._announce_tables(engine, doing, undoing, context)
            for modified in changes_of(doing):
                self._announce_columns(engine, modified, undoing, context)
            if _is_sqlite(context) and context.opts.get("render_as_batch"):
                sqlite.adjust(doing)
                sqlite.adjust(undoing)
            self._announce_nameless(engine, doing, context, "'upgrade'")
            self._announce_nameless(engine, undoing, context, "'downgrade'")
            if context.dialect.name in mysql.NAMES:
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
            self._note(engine, sentence)
            self.unwritten.append(self.drops[-1])
            if not self.comment:
                doing.ops.append(source([], [("enum", sentence)]))
            elif doing.ops:
                doing.ops.insert(0, comment([sentence]))

    def _announce_tables(
        self, engine: str, doing: OpContainer, undoing: OpContainer, context: MigrationContext
    ) -> None:
        """Tables that are dropped, and those that may have been renamed."""
        from alembic.operations import ops

        gone = list(self._unknown[engine])
        for dropped in [one for one in doing.ops if isinstance(one, ops.DropTableOp)]:
            gone.append((dropped.schema, dropped.table_name))
            line = f"This drops the table {full(*gone[-1])!r} with all its rows."
            self._note(engine, line)
            put_before(doing, [dropped], [line])
        for created in [one for one in doing.ops if isinstance(one, ops.CreateTableOp)]:
            old = _same_columns(created, gone, context)
            if old is None:
                continue
            gone.remove((created.schema, old))
            name = full(created.schema, old)
            line = f"The table {name!r}, which the models do not know, has the same columns."
            self._note(engine, f"{line} If it was renamed, see the file.")
            say_how_to_rename_table(doing, created.schema, old, created.table_name, line)
            say_how_to_rename_table(undoing, created.schema, created.table_name, old, line)

    def _announce_columns(
        self,
        engine: str,
        modified: ModifyTableOps,
        undoing: OpContainer,
        context: MigrationContext,
    ) -> None:
        """Columns that are dropped, that may have been renamed, and that need a value."""
        from alembic.operations import ops

        table = full(modified.schema, modified.table_name)
        added = [one for one in modified.ops if isinstance(one, ops.AddColumnOp)]
        new_names = iter([addition.column.name for addition in added])
        undone: list[str] = []
        for dropped in [one for one in modified.ops if isinstance(one, ops.DropColumnOp)]:
            name = dropped.column_name
            lines = [f"This drops the column {name!r} of {table!r} with all its values."]
            self._note(engine, lines[0])
            new = next(new_names, None)  # each is the new name of one column at most
            if new is not None:
                how = f"If {name!r} was renamed, write instead of the drop and the addition:"
                lines += [how, f"    {rename_column(dropped, name, new, context)}"]
                undone += [how, f"    {rename_column(dropped, new, name, context)}"]
            put_before(modified, [dropped], lines)
        for operation in added:
            if needs_value(operation.column):
                lines = value_needed(operation, context.dialect.name)
                self._note(engine, " ".join(lines))
                put_before(modified, [operation], lines)
        for other in changes_of(undoing) if undone else ():
            if (other.schema, other.table_name) == (modified.schema, modified.table_name):
                columns = ops.AddColumnOp, ops.DropColumnOp
                put_before(other, [one for one in other.ops if isinstance(one, columns)], undone)

    def _announce_nameless(
        self, engine: str, operations: OpContainer, context: MigrationContext, function: str
    ) -> None:
        """Constraints without a name, which cannot be changed by it."""
        from alembic.operations import ops

        for modified in changes_of(operations):
            table = full(modified.schema, modified.table_name)
            for operation in modified.ops[:]:
                is_drop = isinstance(operation, ops.DropConstraintOp)
                is_new = isinstance(operation, ops.AddConstraintOp) and _is_sqlite(context)
                if getattr(operation, "constraint_name", None) or not (is_drop or is_new):
                    continue
                kind = str(getattr(operation, "constraint_type", None) or "")
                why = f"{function} cannot drop it" if is_drop else "it cannot be added on SQLite"
                lines = [
                    f"A {_KINDS.get(kind, 'constraint')} of {table!r} has no name, so {why}.",
                    "Give the metadata a naming convention"
                    " (flask_uow.migrations.NAMING_CONVENTION), or write its name here.",
                ]
                self._note(engine, " ".join(lines))
                if is_drop:
                    lines.append(f"    {drop_by_name(modified, kind, context)}")
                put_before(modified, [operation], lines)
                if is_drop:
                    fails = source([f"raise NotImplementedError({lines[0]!r})"])
                    modified.ops[modified.ops.index(operation)] = fails

    def _note(self, engine: str, sentence: str) -> None:
        self.drops.append(f"{sentence} (engine {engine!r})")


def _connection(context: MigrationContext) -> Any:
    """The connection of *context*, which a comparison always has."""
    return context.connection


def _is_sqlite(context: MigrationContext) -> bool:
    return context.dialect.name == "sqlite"


def _same_columns(
    created: CreateTableOp, tables: Iterable[Name], context: MigrationContext
) -> str | None:
    """The one of *tables* that has the columns of the one that is *created*, in its schema."""
    columns = {column.name for column in created.to_table().columns}
    for schema, table in tables:
        if schema == created.schema:
            existing = inspect(_connection(context)).get_columns(table, schema=schema)
            if columns == {column["name"] for column in existing}:
                return table
    return None


# What the comments say ----------------------------------------------------------------------------


def put_before(
    operations: OpContainer, some: Sequence[MigrateOperation], lines: Sequence[str]
) -> None:
    """Put a comment before the first of *some* operations, if there is one."""
    if some:
        operations.ops.insert(operations.ops.index(some[0]), comment(lines))


def say_how_to_rename_table(
    operations: OpContainer, schema: str | None, old: str, new: str, why: str
) -> None:
    """In one function: what to write instead of its operations, if a table was renamed."""
    from alembic.operations import ops

    replaced = [
        one
        for one in operations.ops
        if isinstance(one, (ops.CreateTableOp, ops.DropTableOp))
        and one.schema == schema
        and one.table_name in {old, new}
    ]
    calls = ", ".join(
        f"{'create' if isinstance(one, ops.CreateTableOp) else 'drop'}_table({one.table_name!r})"
        for one in replaced
    )
    line = f"op.rename_table({old!r}, {new!r}{_schema(schema)})"
    advice = f"If it was renamed, write instead of {calls} and the indexes: {line}"
    put_before(operations, replaced, [why, advice])


def rename_column(dropped: DropColumnOp, old: str, new: str, context: MigrationContext) -> str:
    """The line of Python that renames a column of the table of *dropped*.

    SQLite can rename a column without a copy of the table. In a batch, the line runs before the
    other changes of the table.
    """
    schema, table = dropped.schema, dropped.table_name
    if context.dialect.name in mysql.NAMES:  # 'alter_column' would need the whole definition
        quote = context.dialect.identifier_preparer.quote
        name = ".".join(quote(part) for part in (schema, table) if part)
        sql = f"ALTER TABLE {name} RENAME COLUMN {quote(old)} TO {quote(new)}"
        return f"op.execute({sql!r})"
    return f"op.alter_column({table!r}, {old!r}, new_column_name={new!r}{_schema(schema)})"


def drop_by_name(modified: ModifyTableOps, kind: str, context: MigrationContext) -> str:
    """The line of Python that drops a constraint, with ``NAME`` for its name."""
    if context.opts.get("render_as_batch"):
        return f"batch_op.drop_constraint(NAME, type_={kind!r})"
    table = f"{modified.table_name!r}{_schema(modified.schema)}"
    return f"op.drop_constraint(NAME, {table}, type_={kind!r})"


def _schema(schema: str | None) -> str:
    return f", schema={schema!r}" if schema else ""


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
