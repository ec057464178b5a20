"""Listeners that notice what a transaction does, and whether it still exists.

They note in the :class:`~.record.TransactionRecord` of a connection what its statements do and
whether one has failed. After some errors the server has thrown the transaction away, and if the
code continues regardless, ``commit()`` stores nothing (PostgreSQL), or only what came after the
error (a deadlock victim on MariaDB, a full disk on SQLite), and returns as if all were well. Such a
transaction is *lost*: each later statement and the commit raise
:class:`~flask_uow.errors.TransactionLost` until it is rolled back (P3).

The listeners are those of the dialect (``do_execute``, ``handle_error``), and its ``do_commit`` is
wrapped. The better known ``before_cursor_execute`` and ``commit`` would do as well, but a listener
of that kind on an engine makes SQLAlchemy prepare all events of a connection again for each
checkout: 22 us for a unit that reads one row in 160.

Nothing here knows Flask or sessions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import Dialect, ExceptionContext
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection, StaticPool

from .._drivers import outcomes
from .._drivers.base import Driver
from .._drivers.constraints import note_statement
from .._drivers.known import driver_of
from .._transaction.record import TransactionRecord, attach, before_statements, record_of
from .._transaction.statements import Reader, StatementEffect, is_rollback, reader_of
from ..errors import ReadOnly, TransactionLost, UowError, escaped
from . import session_state
from .plain_reads import Decision, decision_of

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection

_Proxy: TypeAlias = PoolProxiedConnection

WATCHED = "_flask_uow_watched"
"""The attribute of a dialect whose engines have the listeners."""

# Of a pool's proxy, which lives as long as a checkout:
_FAILED = "_flask_uow_failed"  # the record of the transaction in which there was an error
_COMMITS = "_flask_uow_commits"  # a list that grows with each commit


def watch_transactions(engine: Engine) -> None:
    """Add the listeners to *engine*, after those that begin a transaction; once."""
    dialect = engine.dialect
    if WATCHED in vars(dialect):
        return
    setattr(dialect, WATCHED, True)
    if not isinstance(engine.pool, StaticPool):  # there it may belong to another thread
        event.listen(engine, "checkin", partial(_end_open, driver_of(dialect)))
    before_statements(engine, _watching_statements(reader_of(dialect.name), decision_of(dialect)))
    event.listen(engine, "handle_error", _on_error)
    driver_of(dialect).watch_transactions(engine)
    # An error on a cursor of the driver passes by the events; the commit comes here all the same.
    setattr(dialect, "do_commit", _checking(dialect, dialect.do_commit))  # noqa: B010


def _watching_statements(reader: Reader, decide: Decision | None) -> Callable[..., None]:
    # Once: the listener runs for every statement.
    effect_of, stored_effect_of = reader.effect_of, reader.stored_effect_of

    def on_statement(cursor: object, statement: str, *others: Any) -> None:
        context = others[-1]
        connection: Connection = context.root_connection
        record = record_of(connection)
        if record is not None:
            if (
                record.deferred
                and decide is not None
                and decide(record, cursor, statement, context)
            ):
                return
            if record.error is not None:
                _refuse_if_lost(connection, record, statement)
            effect = effect_of(statement)
            if effect > record.effect:  # max() is slower
                if effect is _WRITE:
                    if record.read_only:
                        raise _refusal_of(statement)
                elif effect is _SESSION:
                    _on_session_change(stored_effect_of(statement), record, statement)
                    session_state.note_statement(connection, statement, others[:-1])
                    return
                record.effect = effect
        elif effect_of(statement) is _SESSION:
            session_state.note_statement(connection, statement, others[:-1])

    return on_statement


def _on_session_change(effect: StatementEffect, record: TransactionRecord, statement: str) -> None:
    if effect is _WRITE and record.read_only:
        raise _refusal_of(statement)
    record.effect = max(record.effect, effect)


def _refusal_of(statement: str) -> ReadOnly:
    return ReadOnly(_READ_ONLY.format(escaped(statement[:200])[:60]))


# Global names: this module's listeners run for every statement.
_WRITE, _SESSION = StatementEffect.WRITE, StatementEffect.SESSION

_READ_ONLY = (
    "This unit of work only reads (read_only=True), and a statement would write: '{}'. Nothing was"
    " sent. Leave 'read_only' out where something is to be stored."
)


def _refuse_if_lost(connection: Connection, record: TransactionRecord, statement: str) -> None:
    error = record.present_error
    if error is None:
        return
    undoes = is_rollback(statement)
    if record.is_lost or driver_of(connection.dialect).is_aborted(_driver_side(connection), error):
        # ROLLBACK TO SAVEPOINT heals the transaction on PostgreSQL. After a lock wait timeout on
        # MariaDB, which may have ended the transaction or not, it is how to find out.
        in_doubt = not record.is_lost or outcomes.may_abort_transaction(error)
        if not (in_doubt and undoes):
            raise TransactionLost(error)
    if undoes:
        record.forget_error()


def _driver_side(connection: Connection) -> DBAPIConnection | None:
    return connection.connection.dbapi_connection


# Errors ---------------------------------------------------------------------------------------


def _on_error(context: ExceptionContext) -> None:
    error, connection = context.original_exception, context.connection
    if isinstance(error, UowError):
        return
    note_statement(error, context.execution_context)
    if outcomes.is_disconnect(error):
        context.is_disconnect = True
    elif _is_interruption(context) and context.dialect.name != "sqlite":
        # It struck in the middle of a reply: what comes next on this socket is unknown.
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = False
    if connection is None:
        return
    _note_error(connection, error, context.statement)
    if context.execution_context is None and not (context.statement or context.is_disconnect):
        # BEGIN, COMMIT or ROLLBACK has failed. Without a rollback SQLAlchemy returns the connection
        # as it is, and the next user of it would commit what was refused here.
        with contextlib.suppress(Exception):
            connection.dialect.do_rollback(connection.connection)


def _is_interruption(context: ExceptionContext) -> bool:
    """Tell whether the error comes from outside, such as a timeout raised into the call.

    An error that a driver, or its adapters, raise about a value that they cannot send does not.
    """
    error = context.original_exception
    return context.sqlalchemy_exception is None and not isinstance(error, _ABOUT_VALUES)


_ABOUT_VALUES = (
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    AssertionError,
    NotImplementedError,
)


def _note_error(connection: Connection, error: BaseException, statement: str | None) -> None:
    transaction = connection.get_transaction()
    if transaction is None:  # SQLAlchemy itself asks a new connection what it is
        return
    record = record_of(connection)
    if record is None:  # a connection that belongs to no unit
        attach(connection, record := TransactionRecord())
    proxy, dialect = connection.connection, connection.dialect
    if dialect.name == "sqlite":
        lost = driver_of(dialect).is_aborted(proxy.dbapi_connection, error)
    else:
        lost = outcomes.aborts_transaction(error) or is_rollback(statement or "")
        # In the driver's autocommit mode there was no transaction to lose.
        lost = lost and not record.deferred
        lost = lost and not getattr(proxy.dbapi_connection, "get_autocommit", lambda: False)()
    record.note_error(error, transaction, lost=lost)
    setattr(proxy, _FAILED, record)


# At the commit --------------------------------------------------------------------------------


def _checking(dialect: Dialect, do_commit: Callable[[_Proxy], None]) -> Callable[[_Proxy], None]:
    is_aborted = driver_of(dialect).is_aborted

    def commit(proxy: _Proxy) -> None:
        if is_aborted(proxy.dbapi_connection, None) or _FAILED in proxy.__dict__:
            refuse_commit_if_lost(dialect, proxy)
        do_commit(proxy)
        if _COMMITS in proxy.__dict__:
            proxy.__dict__[_COMMITS].append(True)

    return commit


def is_open(connection: Connection) -> bool:
    """Tell whether a transaction is open on *connection*, perhaps by a cursor of the driver."""
    if connection.invalidated:
        return False
    return driver_of(connection.dialect).is_open(_driver_side(connection))


def count_commits_on(connection: Connection, committed: list[bool]) -> None:
    """Let *committed* grow with each COMMIT on *connection*."""
    vars(connection.connection)[_COMMITS] = committed


def check(connection: Connection) -> None:
    """Refuse to continue if the transaction of *connection* cannot be committed any more.

    :raises TransactionLost: it cannot; it has been rolled back.
    """
    if not connection.invalidated:
        refuse_commit_if_lost(connection.dialect, connection.connection)


def refuse_commit_if_lost(dialect: Dialect, proxy: _Proxy) -> None:
    """As :func:`check`, for the connection of *proxy*.

    :raises TransactionLost: it cannot be committed; it has been rolled back.
    """
    driver = driver_of(dialect)
    record: TransactionRecord | None = vars(proxy).get(_FAILED)
    error = None if record is None else record.present_error
    is_lost = record is not None and record.is_lost
    if is_lost or driver.is_aborted(proxy.dbapi_connection, error):
        error = error or driver.unseen_error_of(proxy.dbapi_connection)
        # First: an error raised at the commit leaves the driver's transaction open, for the next
        # user of the connection to commit.
        dialect.do_rollback(proxy)
        raise TransactionLost(error)


# At the return to the pool --------------------------------------------------------------------


def _end_open(
    driver: Driver, connection: DBAPIConnection | None, entry: ConnectionPoolEntry
) -> None:
    """Roll back what is still open.

    If a listener of the app raises at the commit, SQLAlchemy considers the transaction ended, and
    leaves out the rollback of the pool: the next user of the connection would commit it.
    """
    if driver.is_open(connection) and connection is not None:
        try:
            driver.roll_back(connection)
        except Exception as error:
            entry.invalidate(error)
