"""All that can be said of a unit of work; its session asks it before each decision.

Nothing here knows Flask.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy.orm import SessionTransaction

    from .._config.settings import CommitModes
    from .commit_hooks import CommitHooks


class Phase(Enum):
    """How far a unit has come."""

    RUNNING = "the response, or the end of the context, is still to come"
    RESPONDED = "the response is final; nothing commits automatically any more"
    STREAMING = "the response is final, and its body is sent after the context has ended"
    ENDED = "the session refuses to be used, and its connection is back in the pool"


# Python 3.10 finds a member of an enum by a function call, which is slow.
RUNNING, RESPONDED = Phase.RUNNING, Phase.RESPONDED
STREAMING, ENDED = Phase.STREAMING, Phase.ENDED


class Block:
    """A part of a unit that is stored as a whole or not at all.

    :ivar savepoint: what it can be rolled back to; None if nothing was there before it.
    :ivar commits: it is the whole transaction, and its end commits.
    :ivar rollback_only: it is undone at its end, without an error.
    :ivar hooks_before: how many hooks were waiting when it began.
    """

    __slots__ = ("commits", "hooks_before", "rollback_only", "savepoint")

    def __init__(
        self, savepoint: SessionTransaction | None, *, commits: bool, hooks_before: int
    ) -> None:
        self.savepoint = savepoint
        self.commits = commits
        self.hooks_before = hooks_before
        self.rollback_only = False

    def set_rollback_only(self) -> None:
        self.rollback_only = True


class UnitState:
    """The state of a unit of work, which only the unit itself changes.

    The values below are those of a unit that has just begun, and of a session that belongs to no
    unit, which may do everything.

    :ivar phase: how far the unit has come.
    :ivar failed: an exception has left the view, perhaps before the unit was opened;
        later writes are those of the error handler.
    :ivar rollback_only: ``commit()`` is refused.
    :ivar blocks: the open blocks (``db.atomic()``), the outermost first; their ends decide.
    :ivar explicit_commit: what ``commit()`` of the session does: it commits (``"allow"``), only
        flushes (``"flush"``), or is refused (``"forbid"``); it may depend on the calling code.
    :ivar will_write: its transactions are expected to write.
    :ivar read_only: writes are refused.
    :ivar defers: its transactions begin when a statement needs one (P14).
    :ivar hooks: the hooks that wait for the outcome; None until the first is added.
    :ivar commits: grows with each COMMIT; None until :meth:`UnitOfWork.count_commits` is called.
    """

    phase = RUNNING
    failed = False
    rollback_only = False
    blocks: Sequence[Block] = ()
    explicit_commit: str | CommitModes = "allow"
    will_write = False
    read_only = False
    defers = False
    hooks: CommitHooks | None = None
    commits: list[bool] | None = None


class EndedUnit(UnitState):
    """The state of each unit that has ended, so that a session does not keep its unit alive."""

    phase = ENDED
