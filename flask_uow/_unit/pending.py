"""What a session has not written yet.

Nothing here knows Flask.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import inspect
from sqlalchemy.orm import Session

from ..errors import ReadOnly


def refuse_flush(session: Session, *_: Any) -> None:
    """Refuse pending changes in a read-only unit.

    :raises ReadOnly: there is something to be written.
    """
    what = [
        f"{type(instance).__name__} ({', '.join(_changes(instance)) or kind})"
        for kind, instances in _instances(session)
        for instance in instances
    ]
    if what:
        raise ReadOnly(
            f"This unit of work only reads (read_only=True), and it would write: {'; '.join(what)}."
            " Nothing was sent. Leave 'read_only' out where something is to be stored."
        )


def _changes(instance: object) -> list[str]:
    state: Any = inspect(instance)
    if not state.persistent:
        return []
    return [one.key for one in state.attrs if one.history.has_changes()]


def pending(session: Session) -> list[tuple[str, str]]:
    """What the next flush would write: pairs of a class name and new, changed or deleted."""
    return [
        (type(instance).__name__, kind)
        for kind, instances in _instances(session)
        for instance in instances
    ]


def _instances(session: Session) -> list[tuple[str, Any]]:
    return [("new", session.new), ("changed", session.dirty), ("deleted", session.deleted)]
