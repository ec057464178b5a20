"""Operations of Alembic: those that are lines of a file, and all of them in words."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Enum

if TYPE_CHECKING:
    from alembic.operations.ops import MigrateOperation, ModifyTableOps, OpContainer


Difference = tuple[str, ...]


def comment(lines: Sequence[str]) -> MigrateOperation:
    """Return an operation that does nothing, and is a comment of these *lines*."""
    return source([f"# {line}" for line in lines])


def source(lines: Sequence[str], differences: Sequence[Difference] = ()) -> MigrateOperation:
    """Return an operation that is these *lines*.

    :param differences: what it stands for, for :func:`.describe.describe`.
    """
    return _class()(lines, differences)


def is_comment(operation: MigrateOperation) -> bool:
    """Tell whether *operation* has no statement; Python needs one in a function."""
    lines = getattr(operation, "lines", None)
    return lines is not None and all(line.startswith("#") for line in lines)


def changes_of(operations: OpContainer) -> list[ModifyTableOps]:
    """The changes of existing tables, one ``ModifyTableOps`` for each."""
    from alembic.operations import ops

    return [one for one in operations.ops if isinstance(one, ops.ModifyTableOps)]


@functools.cache
def _class() -> Callable[[Sequence[str], Sequence[Difference]], MigrateOperation]:
    """Made when it is used, because its base is Alembic's."""
    from alembic.autogenerate import renderers
    from alembic.operations import MigrateOperation

    class SourceOp(MigrateOperation):
        def __init__(self, lines: Sequence[str], differences: Sequence[Difference]) -> None:
            self.lines = list(lines)
            self.differences = list(differences)

        def to_diff_tuple(self) -> list[Difference]:  # type: ignore[override]
            return self.differences

    @renderers.dispatch_for(SourceOp)
    def render(_context: object, operation: SourceOp) -> list[str]:
        return operation.lines

    return SourceOp


# In words -----------------------------------------------------------------------------------------


def describe(difference: Any) -> list[str]:
    """Return one of Alembic's differences in words; Alembic's "remove" is a drop.

    :param difference: a tuple of Alembic's, whose form depends on its first item, or several.
    """
    if isinstance(difference, list):
        return [line for part in difference for line in describe(part)]
    kind = str(difference[0])
    what = kind.replace("remove_", "drop_", 1).replace("_", " ")
    if "enum" in kind:
        return [_enum(what, *difference[1:])]
    if kind.endswith("_table"):
        return [f"{what} {difference[1].fullname!r}"]
    if kind.endswith("_column"):
        return [f"{what} {difference[3].name!r} of {full(difference[1], difference[2])!r}"]
    if kind.startswith("modify_"):
        what = what.removeprefix("modify ")
        _, schema, table, column, _, before, after = difference
        change = f"{_short(before)} to {_short(after)}"
        return [f"change {what} of {full(schema, table)!r}.{column!r}: {change}"]
    if kind.endswith("table_comment"):
        return [f"{what} of {difference[1].fullname!r}"]
    item = difference[1] if len(difference) > 1 else ""
    of = getattr(getattr(item, "table", None), "fullname", None)
    name = getattr(item, "name", None) or "without a name"
    return [f"{what} {name!r}{f' of {of!r}' if of else ''}"]


def _enum(what: str, *details: Any) -> str:
    """A difference of an enum: a sentence of ours, or a tuple of alembic-postgresql-enum."""
    if len(details) == 1:
        return str(details[0])
    if isinstance(details[0], str):
        return f"{what} {details[0]!r}"
    before, after, columns = details
    where = ", ".join(f"{one.table_name!r}.{one.column_name!r}" for one in columns)
    return f"change values of the enum of {where}: {_values(before)} to {_values(after)}"


def _values(values: Any) -> str:
    return f"({', '.join(map(repr, values))})"


def full(schema: str | None, name: str) -> str:
    """Return a name with its schema, if it has one."""
    return f"{schema}.{name}" if schema else name


def _short(value: object) -> str:
    if isinstance(value, Enum):
        return f"{type(value).__name__.upper()}{_values(value.enums)}"
    text = " ".join(str(getattr(value, "arg", value)).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
