"""The outcome of a unit of work after an error, looked up in the table of its driver.

The outcome depends on the error and on the moment. A connection that breaks before COMMIT has
stored nothing. If it breaks at COMMIT, the outcome is unknown, because the server may have
committed and its reply may be missing. A conflict has the same outcome at both moments.

The rows of the tables were observed on real servers (``tests/faults/``), except those marked as
taken from documentation. An error without a row is ``FAILED`` before COMMIT. At COMMIT it is
``FAILED`` if the error proves that the server has rolled back, else ``UNKNOWN``.

Nothing here imports a driver: an error is recognized by the module that defines its class.
"""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from . import constraints
from .base import DISCONNECTED, STOPPED, UNNAMED, Meaning, Moment, Outcome
from .known import driver_of_error

__all__ = ["Moment", "Outcome"]


def outcome_of(error: BaseException, moment: Moment) -> Outcome:
    """Return the outcome of the unit that *error* ended.

    This is about one transaction: a unit that has committed earlier must not be run again, even if
    its last transaction was not applied.

    :param error: an error of SQLAlchemy or of a driver, or any other exception.
    """
    meaning = _judge(error)[1]
    return meaning.before if moment is Moment.BEFORE_COMMIT else meaning.at_commit


def code_of(error: BaseException) -> str | None:
    """Return the SQLSTATE, MySQL's number or SQLite's name of *error*, for messages.

    None if the driver has none: libpq does not expose the SQLSTATE of a failed connect, and
    psycopg2 does not expose that of a terminated session.
    """
    return _judge(error)[0]


def is_transient(error: BaseException) -> bool:
    """Tell whether *error* is a conflict, so that the unit is likely to succeed if run again."""
    return _judge(error)[1].transient


def is_disconnect(error: BaseException) -> bool:
    """Tell whether the connection is closed or in an unknown state, and must not be used again.

    SQLAlchemy asks psycopg whether its connection is closed. Psycopg does not notice an RST that
    arrives while it waits: it raises an error and still reports an open connection.
    """
    return _judge(error)[1].disconnected


def aborts_transaction(error: BaseException) -> bool:
    """Tell whether the server has rolled back the transaction, unnoticed by the driver.

    This happens in the MySQL family, and where the connection is closed. The drivers for
    PostgreSQL and SQLite know the state of their transaction.
    """
    meaning = _judge(error)[1]
    return meaning.aborts or meaning.disconnected


def may_abort_transaction(error: BaseException) -> bool:
    """Tell whether the transaction may still be open, although :func:`aborts_transaction`."""
    return _judge(error)[1].may_abort


def may_pass(error: BaseException) -> bool:
    """Tell whether the same work may succeed later, by the table of the driver."""
    return _judge(error)[1].before is not Outcome.FAILED


def constraint_of(error: BaseException) -> str | None:
    """Return the name of the violated constraint; None if there is none, or it is unknown."""
    orig = (error.orig if isinstance(error, DBAPIError) else None) or error
    return driver_of_error(orig).constraint_of(orig, constraints.statement_of(orig))


def _judge(error: BaseException) -> tuple[str | None, Meaning]:
    """Return the code of *error* and its meaning; an error of no driver is UNNAMED."""
    if isinstance(error, PoolTimeout):  # no connection, so nothing was done before COMMIT
        return None, STOPPED
    orig = (error.orig if isinstance(error, DBAPIError) else None) or error
    code, meaning = driver_of_error(orig).judge(orig)
    if isinstance(error, DBAPIError) and error.connection_invalidated and not meaning.disconnected:
        # SQLAlchemy, or a listener, knows that the connection is closed; the code of the error
        # still decides the outcome.
        meaning = DISCONNECTED if meaning is UNNAMED else replace(meaning, disconnected=True)
    return code, meaning
