"""What ``migrate`` adds to Alembic's comparison of models and database.

- A table that the models do not know is left alone, and listed: it may be somebody else's.
- What drops data is announced, in the terminal and in the file. A rename looks to Alembic like a
  drop and an addition, and the comment says what to write if it is one.
- So is what may fail: a column without a value for the rows that are there, a constraint that
  cannot be dropped because it has no name.
- Types of PostgreSQL are compared, too; see ``_enums.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Column, MetaData, inspect

from . import mysql, source_op
from .column_types import render_item
from .describe import full
from .enums import Enums

Named = dict[str, Any]
Name = tuple["str | None", str]  # schema and name


@dataclass
class Comparison:
    """What one comparison has found, beside the operations.

    :ivar comment: write comments into the operations, and what only a file needs.
    :ivar drops: sentences about what drops data, may be a rename, or may fail.
    """

    drop_unknown: bool = False
    comment: bool = True
    drops: list[str] = field(default_factory=list)
    _unknown: dict[str, list[Name]] = field(default_factory=dict)

    @property
    def unknown(self) -> dict[str, list[str]]:
        """By engine, the tables that are only in the database."""
        return {engine: [full(*name) for name in names] for engine, names in self._unknown.items()}

    def include_name(
        self,
        engine: str,
        metadata: Iterable[MetaData],
        given: Callable[..., bool] | None,
        default_schema: Callable[[], str | None] = lambda: None,
    ) -> Callable[[str | None, str, Named], bool]:
        """Alembic's filter of that name; *given* is the user's own, which goes first.

        :param engine: empty if it is one for all; :meth:`announce` says which it was.
        :param default_schema: where a table is that Alembic calls by its name alone.
        """
        known = {(table.schema, table.name) for one in metadata for table in one.tables.values()}

        def include(name: str | None, kind: str, parents: Named) -> bool:
            if given is not None and not given(name, kind, parents):
                return False
            if kind != "table" or self.drop_unknown:
                return True
            schema = parents.get("schema_name")
            if (schema, name) in known or (schema or default_schema(), name) in known:
                return True
            found = self._unknown.setdefault(engine, [])
            if (schema, name) not in found:
                found.append((schema, str(name)))
            return False

        return include

    def prepare(self, context: Any) -> None:
        """Before the comparison: let the ``MigrationContext`` write types that can be imported."""
        context.opts["render_item"] = render_item(context.opts.get("render_item"))

    def forget_versions(self, context: Any) -> None:
        """Do not list the table in which the ``MigrationContext`` keeps the revision."""
        own = context.version_table_schema, context.version_table
        if own[0] == context.dialect.default_schema_name:
            own = None, own[1]
        kept = {
            engine: [name for name in names if name != own]
            for engine, names in self._unknown.items()
        }
        self._unknown = {engine: names for engine, names in kept.items() if names}

    def announce(self, engine: str, script: Any, context: Any) -> None:
        """Note what is to be read before it is run, and put comments before it.

        :param script: Alembic's ``MigrationScript``; the last parts of it are those of *engine*.
        :param context: its ``MigrationContext``.
        """
        doing, undoing = script.upgrade_ops_list[-1], script.downgrade_ops_list[-1]
        if "" in self._unknown:
            self._unknown.setdefault(engine, []).extend(self._unknown.pop(""))
        self.forget_versions(context)
        if self.comment:
            self._announce_tables(engine, doing, context)
            self._announce_nameless(engine, doing, context, "'upgrade'")
            self._announce_nameless(engine, undoing, context, "'downgrade'")
        if self.comment and context.dialect.name in mysql.NAMES:
            mysql.mend(doing, undoing, context.connection)
        if context.dialect.name == "postgresql":
            self._compare_enums(engine, doing, undoing, context)
        for operations in (doing, undoing):
            if operations.ops and all(map(source_op.is_comment, operations.ops)):
                operations.ops.append(source_op.source(["pass"]))

    def _announce_tables(self, engine: str, operations: Any, context: Any) -> None:
        from alembic.operations import ops

        created = [
            (op.schema, op.table_name) for op in operations.ops if isinstance(op, ops.CreateTableOp)
        ]
        found: list[Any] = []
        for operation in operations.ops:
            if isinstance(operation, ops.CreateTableOp):
                found += self._renamed(engine, operation, context)
            elif isinstance(operation, ops.DropTableOp):
                found += self._noted(engine, _table_dropped(operation, created))
            elif isinstance(operation, ops.ModifyTableOps):
                self._announce_columns(engine, operation, context)
            found.append(operation)
        operations.ops = found

    def _renamed(self, engine: str, created: Any, context: Any) -> list[Any]:
        """A comment, if an unknown table has the columns of the one that is *created*."""
        columns = {column.name for column in created.to_table().columns}
        for schema, table in self._unknown.get(engine, []):
            if schema != created.schema:
                continue
            known = inspect(context.connection).get_columns(table, schema=schema)
            if columns == {one["name"] for one in known}:
                lines = [
                    f"The table {full(schema, table)!r}, which the models do not know, has the"
                    " same columns.",
                    _rename(schema, table, created.table_name),
                ]
                return self._noted(engine, lines, " ".join(lines))
        return []

    def _announce_columns(self, engine: str, modified: Any, context: Any) -> None:
        from alembic.operations import ops

        added = [op.column.name for op in modified.ops if isinstance(op, ops.AddColumnOp)]
        found: list[Any] = []
        for operation in list[Any](modified.ops):
            if isinstance(operation, ops.DropColumnOp):
                found += self._noted(engine, _column_dropped(operation, added, context))
            elif isinstance(operation, ops.AddColumnOp) and _needs_value(operation.column):
                lines = _value_needed(operation, context.dialect.name)
                found += self._noted(engine, lines, " ".join(lines))
            found.append(operation)
        modified.ops = found

    def _announce_nameless(self, engine: str, operations: Any, context: Any, what: str) -> None:
        """Constraints that have no name, and cannot be changed by it."""
        from alembic.operations import ops

        is_sqlite = context.dialect.name == "sqlite"
        created = ops.CreateUniqueConstraintOp, ops.CreateForeignKeyOp
        for modified in operations.ops:
            if not isinstance(modified, ops.ModifyTableOps):
                continue
            found: list[Any] = []
            for operation in list[Any](modified.ops):
                if isinstance(operation, ops.DropConstraintOp) and not operation.constraint_name:
                    lines = _not_droppable(operation, what, context.opts.get("render_as_batch"))
                    found += self._noted(engine, lines, " ".join(lines[:2]))
                    found.append(source_op.source([f"raise NotImplementedError({lines[0]!r})"]))
                    continue
                if is_sqlite and isinstance(operation, created) and not operation.constraint_name:
                    lines = _not_addable(operation, modified)
                    found += self._noted(engine, lines, " ".join(lines))
                found.append(operation)
            modified.ops = found

    def _compare_enums(self, engine: str, doing: Any, undoing: Any, context: Any) -> None:
        metadata = context.opts.get("target_metadata")
        models = [metadata] if isinstance(metadata, MetaData) else list(metadata or ())
        enums = Enums(context.connection, models)
        mending, reverting = enums.compare()
        if self.comment:
            enums.frame(doing)
            enums.frame(undoing)
            self.drops += [f"{one} (engine {engine!r})" for one in enums.removed]
        doing.ops = [*mending, *doing.ops]
        undoing.ops = [*undoing.ops, *reverting]

    def _noted(self, engine: str, lines: Sequence[str], said: str | None = None) -> list[Any]:
        self.drops.append(f"{said or lines[0]} (engine {engine!r})")
        return [source_op.comment(lines)]


def _table_dropped(operation: Any, created: Sequence[Name]) -> list[str]:
    schema, name = operation.schema, operation.table_name
    lines = [f"This drops the table {full(schema, name)!r} with all its rows."]
    candidates = [other for where, other in created if where == schema]
    return [*lines, _rename(schema, name, candidates[0])] if candidates else lines


def _rename(schema: str | None, old: str, new: str) -> str:
    where = f", schema={schema!r}" if schema else ""
    return f"If it was renamed, write instead: op.rename_table({old!r}, {new!r}{where})"


def _column_dropped(operation: Any, added: Sequence[str], context: Any) -> list[str]:
    table, name = full(operation.schema, operation.table_name), operation.column_name
    lines = [f"This drops the column {name!r} of {table!r} with all its values."]
    if added:
        lines += [
            "If it was renamed, write instead of the drop and the addition:",
            f"    {_column_renamed(operation, added[0], context)}",
        ]
    return lines


def _column_renamed(operation: Any, new: str, context: Any) -> str:
    """The line of Python that renames a column; MySQL and MariaDB want its type anew."""
    from alembic.autogenerate import render_python_code
    from alembic.operations import ops

    if context.opts.get("render_as_batch"):
        return f"batch_op.alter_column({operation.column_name!r}, new_column_name={new!r})"
    column = operation.to_column()
    renaming = ops.AlterColumnOp(
        operation.table_name,
        operation.column_name,
        schema=operation.schema,
        modify_name=new,
        existing_type=column.type,
        existing_nullable=column.nullable,
        existing_server_default=column.server_default,
    )
    code = render_python_code(
        ops.UpgradeOps([renaming]),
        render_item=context.opts["render_item"],
        migration_context=context,
        user_module_prefix=context.opts.get("user_module_prefix"),
    )
    lines = (line.strip() for line in code.splitlines())
    return " ".join(line for line in lines if line and not line.startswith("#"))


def _needs_value(column: Column[Any]) -> bool:
    """Does the database have no value for rows that are there?"""
    if column.nullable or column.server_default is not None:  # which may be computed
        return False
    table: Any = column.table
    return table is None or table.autoincrement_column is not column


def _value_needed(operation: Any, dialect: str) -> list[str]:
    table = full(operation.schema, operation.table_name)
    lines = [
        f"The column {operation.column.name!r} of {table!r} is NOT NULL and has no server default:"
        " rows that are there need a value.",
        "Give it 'server_default=...', or add it nullable, fill it, and alter it then.",
    ]
    if dialect in mysql.NAMES:
        lines[0] = lines[0].replace("need a value", "get '' or 0, if that is a value of it")
    return lines


_KINDS = {"unique": "unique constraint", "foreignkey": "foreign key", "check": "check constraint"}
_CONVENTION = "Give the metadata a naming convention (flask_uow.migrations.NAMING_CONVENTION)"


def _not_droppable(operation: Any, what: str, is_batch: bool) -> list[str]:
    kind = operation.constraint_type
    where = f", schema={operation.schema!r}" if operation.schema else ""
    start = "batch_op.drop_constraint(NAME"
    if not is_batch:
        start = f"op.drop_constraint(NAME, {operation.table_name!r}{where}"
    table = full(operation.schema, operation.table_name)
    return [
        f"A {_KINDS.get(kind, 'constraint')} of {table!r} has no name, so {what} cannot drop it.",
        f"{_CONVENTION}, or write here what the database calls it.",
        f"    {start}, type_={kind!r})",
    ]


def _not_addable(operation: Any, modified: Any) -> list[str]:
    is_unique = hasattr(operation, "columns")
    kind = _KINDS["unique" if is_unique else "foreignkey"]
    table = full(modified.schema, modified.table_name)
    return [
        f"A {kind} of {table!r} has no name, so it cannot be added on SQLite.",
        f"{_CONVENTION}, or write a name here.",
    ]
