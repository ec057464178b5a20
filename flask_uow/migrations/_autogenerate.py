"""What ``migrate`` adds to Alembic's comparison of models and database.

- A table that the models do not know is left alone, and listed: it may be somebody else's.
- What drops data is announced, in the terminal and in the file. A rename looks to Alembic like a
  drop and an addition, and the comment says what to write if it is one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import MetaData, inspect

Named = dict[str, Any]

_MYSQL = {"mysql", "mariadb"}


@dataclass
class Comparison:
    """What one comparison has found, beside the operations.

    :ivar comment: write comments into the operations.
    :ivar unknown: by engine, the tables that are only in the database.
    :ivar drops: sentences about what drops data, or may be a rename.
    """

    drop_unknown: bool = False
    comment: bool = True
    unknown: dict[str, list[str]] = field(default_factory=dict)
    drops: list[str] = field(default_factory=list)

    def include_name(
        self, engine: str, metadata: Iterable[MetaData], given: Callable[..., bool] | None
    ) -> Callable[[str | None, str, Named], bool]:
        """Alembic's filter of that name; *given* is the user's own, which goes first."""
        known = {key for one in metadata for key in one.tables}

        def include(name: str | None, kind: str, parents: Named) -> bool:
            if given is not None and not given(name, kind, parents):
                return False
            if kind != "table" or self.drop_unknown:
                return True
            full = parents.get("schema_qualified_table_name") or name
            if full in known:
                return True
            found = self.unknown.setdefault(engine, [])
            if full not in found:
                found.append(str(full))
            return False

        return include

    def forget_versions(self, context: Any) -> None:
        """Do not list the table in which the ``MigrationContext`` keeps the revision."""
        own = _version_table(context)
        kept = {
            engine: [name for name in names if name not in own]
            for engine, names in self.unknown.items()
        }
        self.unknown = {engine: names for engine, names in kept.items() if names}

    def announce(self, engine: str, operations: Any, context: Any) -> None:
        """Note what *operations* drop, and put comments before it.

        :param operations: Alembic's ``UpgradeOps``.
        :param context: its ``MigrationContext``.
        """
        from alembic.operations import ops

        created = [op.table_name for op in operations.ops if isinstance(op, ops.CreateTableOp)]
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
        for name in self.unknown.get(engine, []):
            schema, _, table = name.rpartition(".")
            known = inspect(context.connection).get_columns(table, schema=schema or None)
            if name not in _version_table(context) and columns == {one["name"] for one in known}:
                lines = [
                    f"The table {name!r}, which the models do not know, has the same columns.",
                    f"If it was renamed, write instead: op.rename_table({name!r},"
                    f" {created.table_name!r})",
                ]
                self.drops.append(" ".join(lines))
                return [_comment_class()(lines)] if self.comment else []
        return []

    def _announce_columns(self, engine: str, modified: Any, context: Any) -> None:
        from alembic.operations import ops

        added = [op.column.name for op in modified.ops if isinstance(op, ops.AddColumnOp)]
        found: list[Any] = []
        for operation in list[Any](modified.ops):
            if isinstance(operation, ops.DropColumnOp):
                found += self._noted(engine, _column_dropped(operation, added))
            found.append(operation)
            found += _index_of(operation, context.connection)
        modified.ops = found

    def _noted(self, engine: str, lines: Sequence[str]) -> list[Any]:
        self.drops.append(f"{lines[0]} (engine {engine!r})")
        return [_comment_class()(lines)] if self.comment else []


def _version_table(context: Any) -> set[str]:
    return {context.version_table, f"{context.version_table_schema}.{context.version_table}"}


def _index_of(operation: Any, connection: Any) -> list[Any]:
    """What drops the index that MySQL has made for the foreign key that *operation* drops."""
    from alembic.operations import ops

    if not isinstance(operation, ops.DropConstraintOp):
        return []
    if operation.constraint_type != "foreignkey" or connection.dialect.name not in _MYSQL:
        return []
    name, table, schema = str(operation.constraint_name), operation.table_name, operation.schema
    names = {index["name"] for index in inspect(connection).get_indexes(table, schema=schema)}
    return [ops.DropIndexOp(name, table, schema=schema)] if name in names else []


def _table_dropped(operation: Any, created: Sequence[str]) -> list[str]:
    name = operation.table_name
    lines = [f"This drops the table {name!r} with all its rows."]
    if created:
        lines += [
            f"If it was renamed, write instead: op.rename_table({name!r}, {created[0]!r})",
        ]
    return lines


def _column_dropped(operation: Any, added: Sequence[str]) -> list[str]:
    table, name = operation.table_name, operation.column_name
    lines = [f"This drops the column {name!r} of {table!r} with all its values."]
    if added:
        lines += [
            "If it was renamed, write instead of the drop and the addition:",
            f"    alter_column({name!r}, new_column_name={added[0]!r})",
        ]
    return lines


@functools.cache
def _comment_class() -> Callable[[Sequence[str]], Any]:
    """An operation that is a comment; made on use, because its base is Alembic's."""
    from alembic.autogenerate import renderers
    from alembic.operations import MigrateOperation

    class CommentOp(MigrateOperation):
        def __init__(self, lines: Sequence[str]) -> None:
            self.lines = lines

        def to_diff_tuple(self) -> tuple[Any, ...]:
            return ("comment", *self.lines)

    @renderers.dispatch_for(CommentOp)
    def render(_context: object, operation: CommentOp) -> list[str]:
        return [f"# {line}" for line in operation.lines]

    return CommentOp


def describe(diff: Any) -> list[str]:
    """One of Alembic's differences in words."""
    if isinstance(diff, list):
        return [line for one in diff for line in describe(one)]
    kind = str(diff[0])
    if kind.endswith("_table"):
        return [f"{kind.replace('_', ' ')} {diff[1].fullname!r}"]
    if kind.endswith("_column"):
        return [f"{kind.replace('_', ' ')} {diff[3].name!r} of {diff[2]!r}"]
    if kind.startswith("modify_"):
        what = kind.removeprefix("modify_").replace("_", " ")
        return [f"change {what} of {diff[2]!r}.{diff[3]!r}: {_short(diff[5])} to {_short(diff[6])}"]
    if kind.endswith("table_comment"):
        return [f"{kind.replace('_', ' ')} of {diff[1].fullname!r}"]
    item = diff[1] if len(diff) > 1 else ""
    table = getattr(getattr(item, "table", None), "fullname", None)
    name = getattr(item, "name", None) or "without a name"
    return [f"{kind.replace('_', ' ')} {name!r}{f' of {table!r}' if table else ''}"]


def _short(value: object) -> str:
    text = " ".join(str(getattr(value, "arg", value)).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
