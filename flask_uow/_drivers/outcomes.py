"""What became of a unit of work after an error, as the table of its driver says.

Whether a unit may be run again depends on the error and on the moment. Before COMMIT a lost
connection has stored nothing; the same error at COMMIT says nothing at all, because the server
may have carried it out before the reply got lost. A conflict is certain at both moments.

The rows of the tables were seen on real servers (``tests/faults/``), or are marked as taken from
documentation. What no row names is ``FAILED`` before COMMIT; at COMMIT it is ``FAILED`` where the
server's error proves that it has rolled back, and ``UNKNOWN`` where it does not.

Nothing here imports a driver: an error is known by the module that its class comes from.
"""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from .base import DISCONNECTED, UNNAMED, Driver, Outcome, Phase, Verdict
from .known import driver_of_error

__all__ = ["Outcome", "Phase"]

_UNKNOWN = Driver()


def outcome_of(error: BaseException, phase: Phase) -> Outcome:
    """Tell what became of the unit that *error* ended, as far as can be known.

    One transaction for each unit is assumed: a unit that has committed in between is not to be
    run again, whatever this says.

    :param error: of SQLAlchemy, or a driver's own, or anything else that was raised there.
    """
    _, verdict = _judge(error)
    if verdict is not None:
        meaning = verdict.meaning
        return meaning.before if phase is Phase.BEFORE_COMMIT else meaning.at_commit
    if phase is Phase.AT_COMMIT:  # an interruption: it says when, not what the server did
        return Outcome.UNKNOWN
    # Of the errors that are not the database's, only this one has certainly done nothing.
    return Outcome.NOT_APPLIED if isinstance(error, PoolTimeout) else Outcome.FAILED


def code_of(error: BaseException) -> str | None:
    """Return the SQLSTATE, MySQL's number or SQLite's name of *error*, for messages.

    None if the driver has none: libpq keeps the SQLSTATE of a failed connect to itself, and
    psycopg2 that of a terminated session as well.
    """
    _, verdict = _judge(error)
    return verdict.code if verdict else None


def is_transient(error: BaseException) -> bool:
    """Tell whether another transaction was in the way: run again, the unit is likely to succeed."""
    _, verdict = _judge(error)
    return verdict is not None and verdict.meaning.transient


def is_disconnect(error: BaseException) -> bool:
    """Tell whether the connection is lost, or in an unknown state, and must not be used again.

    SQLAlchemy asks psycopg whether its connection is closed, and psycopg may not have noticed:
    an RST that arrives while it waits raises an error and leaves the connection open.
    """
    _, verdict = _judge(error)
    return verdict is not None and verdict.meaning.disconnected


def aborts_transaction(error: BaseException) -> bool:
    """Tell whether the server has thrown the transaction away, and the driver has not noticed.

    So it is in the MySQL family. The drivers of PostgreSQL and SQLite know the state of their
    transaction, and can be asked.
    """
    driver, verdict = _judge(error)
    return verdict is not None and driver.aborts_transaction(verdict)


def may_abort_transaction(error: BaseException) -> bool:
    """Tell whether the transaction may be there still, after :func:`aborts_transaction`."""
    driver, verdict = _judge(error)
    return verdict is not None and driver.may_abort_transaction(verdict)


def _judge(error: BaseException) -> tuple[Driver, Verdict | None]:
    """Look *error* up; no verdict if it is not the database's."""
    orig = error.orig if isinstance(error, DBAPIError) else error
    driver = driver_of_error(orig) if orig is not None else None
    if not isinstance(error, DBAPIError):
        return driver or _UNKNOWN, driver.judge(error) if driver is not None else None
    # A driver that is in no table has no names for its errors.
    verdict = driver.judge(orig) if driver is not None and orig is not None else None
    verdict, driver = verdict or Verdict(None, UNNAMED), driver or _UNKNOWN
    if not error.connection_invalidated or verdict.meaning.disconnected:
        return driver, verdict
    # SQLAlchemy, or a listener, knows more of the connection; of the unit the code does.
    is_unnamed = verdict.meaning is UNNAMED
    meaning = DISCONNECTED if is_unnamed else replace(verdict.meaning, disconnected=True)
    return driver, replace(verdict, meaning=meaning)
