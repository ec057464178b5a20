"""The unit of work of the context in which somebody migrates: its locks would be waited for."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from .._unit.pending import pending
from .._unit.unit import has_begun_by_hand
from ..errors import MigrationError

if TYPE_CHECKING:
    from ..database import Database


def stand_aside(db: Database) -> None:
    """End the transaction of the current unit, if it has only read.

    :raises MigrationError: it has written, or is inside of a block: its end is not ours to choose.
    """
    unit = db._scope.peek()
    if unit is None or not unit.session.in_transaction():
        return
    session = unit.session
    if unit.has_work:
        found = Counter([*session.record.flushed, *pending(session)])
        what = ", ".join(f"{found[one]} {one[0]} ({one[1]})" for one in sorted(found))
        raise MigrationError(
            "The unit of work of this context has work that nobody has committed yet"
            f" ({what or 'SQL statements'}), and a migration would wait for its locks for ever."
            " Say 'db.session.commit()' or 'db.session.rollback()' first."
        )
    if not session.connections:
        return
    if unit.blocks or has_begun_by_hand(session):
        raise MigrationError(
            "The unit of work of this context is inside 'with db.atomic():' or"
            " 'session.begin()' and has read, and a migration would wait for its locks for ever."
            " Migrate before the block, or behind it."
        )
    unit.release(warn=False)
