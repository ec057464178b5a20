"""What every engine gets: listeners that notice what a transaction does and what became of it.

They note in the :class:`~._activity.Activity` of a connection what its statements do and whether
one has failed, and they watch whether the transaction still exists. After some errors the server
has thrown it away, and if the code goes on regardless, ``commit()`` stores nothing (PostgreSQL),
or only what came after the error (a deadlock victim on MariaDB, a full disk on SQLite), and
returns as if all were well. Here such a transaction is *lost*: each later statement and the commit
raise :class:`~flask_uow.errors.TransactionLost` until it is rolled back (P3).

The listeners are those of the dialect (``do_execute``, ``handle_error``). The better known
``before_cursor_execute`` and ``commit`` would do as well, but a listener of that kind on an
engine makes SQLAlchemy prepare all events of a connection anew for each checkout: 22 us for a
unit that reads one row in 160. A single connection gets them after its first error.

Nothing here knows Flask or sessions.
"""

from __future__ import annotations

import contextlib
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import ExceptionContext

from . import _outcomes
from ._activity import Activity, activity_of, before_statements, observe
from ._effects import Effect, effect_of
from .errors import ReadOnly, TransactionLost, UowError

_BEGUN = "_flask_uow_begun"


def install(engine: Engine) -> None:
    """Add the listeners to *engine*, behind those that begin a transaction."""
    before_statements(engine, _on_statement)
    if engine.dialect.name == "sqlite":
        before_statements(engine, _note_begun)
    event.listen(engine, "handle_error", _on_error)


def _on_statement(_cursor: Any, statement: str, *others: Any) -> None:
    connection: Connection = others[-1].root_connection
    activity = activity_of(connection)
    if activity is not None:
        if activity.error is not None:
            _refuse_if_lost(connection, activity, statement)
        effect = effect_of(statement)
        if effect > activity.effect:  # max() is slower, and this is every statement
            if effect is Effect.WRITE and activity.read_only:
                raise ReadOnly(_READ_ONLY.format(" ".join(statement.split())[:60]))
            activity.effect = effect


_READ_ONLY = (
    "This unit of work only reads (read_only=True), and a statement would write: '{}'. Nothing was"
    " sent. Leave 'read_only' out where something is to be stored."
)


def _refuse_if_lost(connection: Connection, activity: Activity, statement: str) -> None:
    if not (activity.lost or _has_lost(connection, activity.error)):
        return
    # ROLLBACK TO SAVEPOINT heals the transaction on PostgreSQL. After a lock wait timeout on
    # MariaDB, which may have ended the transaction or not, it is how to find out.
    error = activity.error
    in_doubt = not activity.lost or (
        error is not None and _outcomes.code_of(error) == _LOCK_WAIT_TIMEOUT
    )
    if not (in_doubt and _undoes_a_part(statement)):
        raise TransactionLost(activity.error)
    activity.lost = False


def _undoes_a_part(statement: str | None) -> bool:
    return statement is not None and statement.lstrip()[:8].lower() == "rollback"


_LOCK_WAIT_TIMEOUT = "1205"


def _on_error(context: ExceptionContext) -> None:
    error, connection = context.original_exception, context.connection
    if isinstance(error, UowError):
        return
    if _outcomes.is_disconnect(error):
        context.is_disconnect = True
    elif _is_interruption(context) and context.dialect.name != "sqlite":
        # It struck in the middle of a reply: what comes next on this socket is anybody's guess.
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = False
    if connection is None:
        return
    _note_error(connection, error, context.statement)
    if context.execution_context is None and not (context.statement or context.is_disconnect):
        # A COMMIT has failed. If nobody calls rollback(), SQLAlchemy gives the connection back as
        # it is, and the next user of it would commit what could not be committed here.
        with contextlib.suppress(Exception):
            connection.dialect.do_rollback(connection.connection)


def _is_interruption(context: ExceptionContext) -> bool:
    """Does the error come from outside: a timeout that was raised into the call, for instance?

    What a driver, or its own adapters, raise about a value that they cannot send is none.
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
    activity = activity_of(connection)
    if activity is None:  # a connection that belongs to no unit
        observe(connection, activity := Activity())
    activity.error = error
    driver: Any = connection.connection.dbapi_connection
    if connection.dialect.name == "sqlite":
        activity.lost = activity.lost or _has_lost(connection, error)
    elif _outcomes.dooms(error, connection.dialect.name) or _undoes_a_part(statement):
        # In the driver's autocommit mode there was none to lose.
        activity.lost = not getattr(driver, "get_autocommit", lambda: False)()
    watch(connection)


def watch(connection: Connection) -> None:
    """Look at the transaction of *connection* before it is committed."""
    activity = activity_of(connection)
    if activity is not None and not activity.watched:
        activity.watched = True
        event.listen(connection, "commit", check)
        event.listen(connection, "rollback", _on_rollback)


def check(connection: Connection) -> None:
    """
    :raises TransactionLost: the transaction of *connection* cannot be committed any more. It is
        rolled back.
    """
    activity = activity_of(connection)
    if activity is None or connection.invalidated:
        return
    if activity.lost or _has_lost(connection, activity.error):
        # First: an error raised at the commit leaves the driver's transaction open, for the next
        # user of the connection to commit.
        connection.dialect.do_rollback(connection.connection)
        raise TransactionLost(activity.error)


def _on_rollback(connection: Connection) -> None:
    activity = activity_of(connection)
    if activity is not None:
        activity.lost = False
        activity.error = None


def _has_lost(connection: Connection, error: BaseException | None) -> bool:
    """Is the transaction of *connection* gone, or aborted, as far as the driver knows?"""
    driver: Any = connection.connection.dbapi_connection
    backend = connection.dialect.name
    if backend == "sqlite":  # a full disk, ON CONFLICT ROLLBACK
        return getattr(connection, _BEGUN, False) and not getattr(driver, "in_transaction", True)
    if backend != "postgresql":
        return False
    # Unlike an error, the status is healed by ROLLBACK TO SAVEPOINT.
    status = getattr(getattr(driver, "info", None), "transaction_status", None)
    if status is None:  # a driver other than psycopg and psycopg2 keeps it to itself
        return error is not None and not connection.in_nested_transaction()
    return bool(status == _IN_ERROR)


_IN_ERROR = 3


def _note_begun(cursor: Any, _statement: str, *others: Any) -> None:
    setattr(others[-1].root_connection, _BEGUN, cursor.connection.in_transaction)
