"""Operations that are lines of a file: comments, and what Alembic has no operation for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

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
