"""Operations that are lines of a file: what Alembic has no operation for, and comments."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any


def comment(lines: Sequence[str]) -> Any:
    """An operation that does nothing, and says something."""
    return source([f"# {line}" for line in lines])


def source(lines: Sequence[str], differences: Sequence[tuple[str, ...]] = ()) -> Any:
    """An operation that is these *lines*.

    :param differences: what it mends, for :func:`._differences.describe`.
    """
    return _class()(lines, differences)


def is_comment(operation: Any) -> bool:
    """Is there no statement in it? Python wants one in a function."""
    lines = getattr(operation, "lines", None)
    return lines is not None and all(line.startswith("#") for line in lines)


def execute(statement: str) -> Any:
    """``op.execute()``, with nothing in the statement that SQLAlchemy takes for a parameter."""
    return source([executing(statement)])


def executing(statement: str) -> str:
    """The line of :func:`execute`."""
    escaped = statement.replace(":", "\\:")
    return f"op.execute({escaped!r})"


@functools.cache
def _class() -> Callable[..., Any]:
    """Made on use, because its base is Alembic's."""
    from alembic.autogenerate import renderers
    from alembic.operations import MigrateOperation

    class SourceOp(MigrateOperation):
        def __init__(self, lines: Sequence[str], differences: Sequence[tuple[str, ...]]) -> None:
            self.lines = list(lines)
            self.differences = list(differences)

        def to_diff_tuple(self) -> Any:
            return self.differences

    @renderers.dispatch_for(SourceOp)
    def render(_context: object, operation: SourceOp) -> list[str]:
        return operation.lines

    return SourceOp
