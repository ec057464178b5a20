"""The journal: transfers that were refused, and imports that were started.

A row must stay when the work that it records is rolled back.
"""

from __future__ import annotations

from sqlalchemy import select, update

from .database import db
from .models import Attempt


def refused(what: str, reason: str) -> None:
    """Record a refusal. For error handlers, whose writes are committed with their response."""
    db.session.add(Attempt(what=what, result=reason))


def begin(what: str) -> int:
    """Record an attempt before it starts, and return its number.

    The row is committed in a transaction of its own before this function returns. An error
    handler would be too late: it does not run if the worker is killed in the middle of a long
    file, and the writes of the unit of work are rolled back then. Call this before the unit has
    written anything: SQLite has one writer at a time, and refuses this transaction if the unit
    around it has written.
    """
    attempt = Attempt(what=what)
    with db.independent() as session:
        session.add(attempt)
    return attempt.id


def end(number: int, result: str) -> None:
    """Record the result of an attempt, in the unit of work that stores its transfers."""
    db.session.execute(update(Attempt).where(Attempt.id == number).values(result=result))


def latest(size: int) -> list[Attempt]:
    """Return the latest entries, newest first."""
    return list(db.session.scalars(select(Attempt).order_by(Attempt.id.desc()).limit(size)))
