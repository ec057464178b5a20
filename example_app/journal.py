"""The journal: what was refused, and which files somebody began to import.

It tells of work that was rolled back, so its rows must not be a part of that work.
"""

from __future__ import annotations

from sqlalchemy import select, update

from .database import db
from .models import Attempt


def refused(what: str, reason: str) -> None:
    """Note a refusal. For error handlers, whose own work is stored with their answer."""
    db.session.add(Attempt(what=what, result=reason))


def begin(what: str) -> int:
    """Note an attempt before it is made, and return its number.

    In a transaction of its own, which is over when this returns. An error handler would be too
    late for it: it does not run if the worker is killed in the middle of a long file, and what
    the unit of work itself has written is rolled back then. To be called before anything else is
    written: SQLite has one writer at a time, and it would be the unit around this block.
    """
    attempt = Attempt(what=what)
    with db.independent() as session:
        session.add(attempt)
    return attempt.id


def end(number: int, result: str) -> None:
    """Note the result of an attempt: in the unit of work, so together with its transfers."""
    db.session.execute(update(Attempt).where(Attempt.id == number).values(result=result))


def latest(size: int) -> list[Attempt]:
    """The newest entries, the newest first."""
    return list(db.session.scalars(select(Attempt).order_by(Attempt.id.desc()).limit(size)))
