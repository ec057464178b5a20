"""The journal: transfers that were refused, and imports with their progress and their result.

An entry stays when the work that it records is rolled back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import ParamSpec

from flask import g
from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from flask_uow import KeyPage
from flask_uow.errors import is_transient

from .database import db
from .models import Attempt, now
from .refusals import Refused

_NEWEST_FIRST = select(Attempt).order_by(Attempt.id.desc())

P = ParamSpec("P")


def announce(describe: Callable[P, str], *args: P.args, **kwargs: P.kwargs) -> None:
    """Prepare the entry for the case that this request is refused.

    :param describe: returns what was attempted; it is called after the refusal.
    """
    g.describe_attempt = partial(describe, *args, **kwargs)


def refused(reason: str) -> None:
    """Record a refusal. For error handlers, whose writes are committed with their response."""
    describe = g.get("describe_attempt", lambda: "A change of the ledger")
    db.session.add(Attempt(what=_cut(describe()), result=_cut(reason)))


@contextmanager
def attempt(what: str) -> Iterator[int]:
    """Record an attempt before it starts, and the reason if it fails; yield its number.

    Each of these records is committed at once, in a transaction of its own. An error handler would
    be too late: it does not run if the worker is killed in the middle of a long file. Before its
    work has ended, the caller must not have written anything in the unit of work: SQLite has one
    writer at a time.
    """
    entry = Attempt(what=_cut(what))
    with db.independent() as session:
        session.add(entry)
    try:
        yield entry.id
    except Refused as refused:
        _record(entry.id, result=refused.message, progress=None)
        raise
    except Exception as error:
        cause = "a database that was busy or away" if is_transient(error) else "an error"
        _record(entry.id, result=f"It was stopped by {cause}.")
        raise


def progress(number: int, text: str) -> None:
    """Record how far an attempt has come."""
    _record(number, progress=text)


def add_progress(session: Session, number: int, text: str) -> None:
    """Record how far an attempt has come, in the transaction that has come so far."""
    _change(session, number, progress=text)


def add_result(session: Session, number: int, text: str) -> None:
    """Record the result of an attempt, in the transaction that stores the result."""
    _change(session, number, result=text, progress=None)


def page() -> KeyPage[Attempt]:
    """Return one page of the entries, newest first."""
    return db.paginate_by_key(_NEWEST_FIRST)


def running() -> list[Attempt]:
    """Return the imports that are running, newest first."""
    unfinished = db.session.scalars(_NEWEST_FIRST.where(Attempt.result.is_(None)).limit(20))
    return [attempt for attempt in unfinished if attempt.is_running]


def _record(number: int, **values: str | None) -> None:
    # A busy database must neither stop an import nor hide the error that has stopped it.
    with suppress(SQLAlchemyError), db.independent() as session:
        _change(session, number, **values)


def _change(session: Session, number: int, **values: str | None) -> None:
    cut = {name: text and _cut(text) for name, text in values.items()}
    # A result stays: if the connection is lost at the COMMIT that stores it, an error follows.
    statement = update(Attempt).where(Attempt.id == number, Attempt.result.is_(None))
    session.execute(statement.values(progress_at=now(), **cut))


def _cut(text: str) -> str:
    # A reason quotes what a client has sent, and PostgreSQL refuses a NUL.
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= 200 else f"{text[:199]}…"
