"""What the functions return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import escaped

if TYPE_CHECKING:
    from alembic.script import Script


def named(script: Script) -> str:
    """A revision for a message: its identifier and what it is for."""
    return f"{script.revision} ({escaped(script.doc)})" if script.doc else str(script.revision)


@dataclass(frozen=True)
class Step:
    """One revision on one engine.

    :ivar direction: ``"upgrade"``, ``"downgrade"`` or ``"stamp"``.
    :ivar seconds: how long it took; None while it runs.
    :ivar empty: its file has nothing for this engine: it is older, or the engine has another name
        now. Known when it has ended.
    """

    engine: str
    revision: str
    message: str
    direction: str
    seconds: float | None = None
    empty: bool = False


OnStep = Callable[[Step], object]
"""Is given each step when it starts, and again when it has ended."""

OnWait = Callable[[str], object]
"""Is given a sentence that says what is waited for."""


@dataclass(frozen=True)
class EngineStatus:
    """Where one database is.

    :ivar url: without password and query.
    :ivar error: why it cannot be reached; None if it can.
    :ivar current: the revisions that it is at; empty before the first one.
    :ivar pending: those that ``upgrade`` would run, in order.
    :ivar unknown: those of ``current`` that the folder does not have.
    """

    name: str
    url: str
    error: str | None = None
    current: tuple[str, ...] = ()
    pending: tuple[Script, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """``"up to date"``, ``"pending"``, ``"unknown revision"`` or ``"unreachable"``."""
        if self.error is not None:
            return "unreachable"
        if self.unknown:
            return "unknown revision"
        return "pending" if self.pending else "up to date"

    def waiting(self) -> str:
        """Say what this database is waited for."""
        if self.error is not None:
            why = f"cannot be reached: {self.error}"
        elif self.unknown:
            why = f"is at {', '.join(self.unknown)}, which the folder does not have"
        else:
            why = f"lacks {', '.join(map(named, self.pending))}"
        return f"Waiting: the database of the engine {self.name!r} ({self.url}) {why}."


@dataclass(frozen=True)
class Created:
    """What ``init`` has made.

    :ivar convention: constraints of the models have names.
    :ivar has_base: the ``Database`` was given a base of the app's own.
    """

    folder: Path
    files: list[Path]
    convention: bool
    has_base: bool = True


@dataclass(frozen=True)
class Generated:
    """What ``migrate`` has found, and written.

    :ivar script: the new revision; None if there was nothing to do, and no file was written.
    :ivar tables: the number of tables that the models have, by engine.
    :ivar modules: those that define the models.
    :ivar unknown: by engine, tables that are only in the database, and were left alone.
    :ivar drops: what the revision drops, what may be a rename, or what may fail, in words; and
        differences for which nothing is written.
    """

    script: Script | None
    tables: dict[str, int]
    modules: list[str]
    unknown: dict[str, list[str]] = field(default_factory=dict)
    drops: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Checked:
    """What ``check`` has found.

    :ivar behind: the engines with pending revisions; the models are not compared then.
    :ivar differences: of models and databases, in words.
    :ivar unknown: as in :class:`Generated`.
    """

    behind: list[EngineStatus]
    differences: list[str]
    unknown: dict[str, list[str]] = field(default_factory=dict)
