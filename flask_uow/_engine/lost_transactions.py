"""What every engine gets: listeners that notice what a transaction does and what became of it.

They note in the :class:`~.record.TransactionRecord` of a connection what its statements do and
whether one has failed, and they watch whether the transaction still exists. After some errors the
server has thrown it away, and if the code continues regardless, ``commit()`` stores nothing
(PostgreSQL), or only what came after the error (a deadlock victim on MariaDB, a full disk on
SQLite), and returns as if all were well. Here such a transaction is *lost*: each later statement
and the commit raise :class:`~flask_uow.errors.TransactionLost` until it is rolled back (P3).

The listeners are those of the dialect (``do_execute``, ``handle_error``), and its ``do_commit`` is
wrapped. The better known ``before_cursor_execute`` and ``commit`` would do as well, but a listener
of that kind on an engine makes SQLAlchemy prepare all events of a connection anew for each
checkout: 22 us for a unit that reads one row in 160.

Nothing here knows Flask or sessions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, TypeAlias
from weakref import ref

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import Dialect, ExceptionContext
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection, StaticPool

from .._drivers import outcomes
from .._transaction.record import TransactionRecord, attach, before_statements, record_of
from .._transaction.statements import StatementEffect, effect_of, is_rollback
from ..errors import ReadOnly, TransactionLost, UowError

_Proxy: TypeAlias = PoolProxiedConnection

INSTALLED = "_flask_uow_guard"
"""The attribute of a dialect whose engines are guarded."""

_FAILED = "_flask_uow_failed"  # of a pool's proxy: the record in which there was an error
_TOLD = "_flask_uow_told"  # of a pool's proxy: a list that grows with its commits
_DOOMED = "_flask_uow_doomed"  # of PyMySQL's connection: the error that a cursor has raised


def watch_transactions(engine: Engine) -> None:
    """Add the listeners to *engine*, behind those that begin a transaction; once."""
    dialect = engine.dialect
    if INSTALLED not in vars(dialect):
        if not isinstance(engine.pool, StaticPool):  # there it may be somebody else's
            event.listen(engine, "checkin", partial(_end_open, dialect))
        setattr(dialect, INSTALLED, True)
        before_statements(engine, _on_statement)
        event.listen(engine, "handle_error", _on_error)
        if dialect.driver == "pymysql":
            _note_errors_of_cursors(engine)
        if dialect.driver == "psycopg":
            setattr(dialect, "do_rollback", _where_needed(dialect.do_rollback))  # noqa: B010
        # Also what passes by the events comes here, such as an error on a cursor of the driver.
        setattr(dialect, "do_commit", _checking(dialect, dialect.do_commit))  # noqa: B010


def _on_statement(_cursor: Any, statement: str, *others: Any) -> None:
    connection: Connection = others[-1].root_connection
    record = record_of(connection)
    if record is not None:
        if record.error is not None:
            _refuse_if_lost(connection, record, statement)
        effect = effect_of(statement)
        if effect > record.effect:  # max() is slower, and this is every statement
            if effect is StatementEffect.WRITE and record.read_only:
                raise ReadOnly(_READ_ONLY.format(" ".join(statement.split())[:60]))
            record.effect = effect


_READ_ONLY = (
    "This unit of work only reads (read_only=True), and a statement would write: '{}'. Nothing was"
    " sent. Leave 'read_only' out where something is to be stored."
)


def _refuse_if_lost(connection: Connection, record: TransactionRecord, statement: str) -> None:
    error = record.present_error
    if error is None:
        return
    undoes = is_rollback(statement)
    if record.lost or _is_gone(connection.dialect, connection.connection, error):
        # ROLLBACK TO SAVEPOINT heals the transaction on PostgreSQL. After a lock wait timeout on
        # MariaDB, which may have ended the transaction or not, it is how to find out.
        in_doubt = not record.lost or outcomes.code_of(error) == _LOCK_WAIT_TIMEOUT
        if not (in_doubt and undoes):
            raise TransactionLost(error)
    if undoes:
        record.forget_error()


_LOCK_WAIT_TIMEOUT = "1205"


def _on_error(context: ExceptionContext) -> None:
    error, connection = context.original_exception, context.connection
    if isinstance(error, UowError):
        return
    if outcomes.is_disconnect(error):
        context.is_disconnect = True
    elif _is_interruption(context) and context.dialect.name != "sqlite":
        # It struck in the middle of a reply: what comes next on this socket is anybody's guess.
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = False
    if connection is None:
        return
    _note_error(connection, error, context.statement)
    if context.execution_context is None and not (context.statement or context.is_disconnect):
        # BEGIN, COMMIT or ROLLBACK has failed. If nobody calls rollback(), SQLAlchemy gives the
        # connection back as it is, and the next user of it would commit what was refused here.
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
    transaction = connection.get_transaction()
    if transaction is None:  # SQLAlchemy itself asks a new connection what it is
        return
    record = record_of(connection)
    if record is None:  # a connection that belongs to no unit
        attach(connection, record := TransactionRecord())
    proxy, dialect = connection.connection, connection.dialect
    if dialect.name == "sqlite":
        lost = _is_gone(dialect, proxy, error)
    else:
        lost = outcomes.aborts_transaction(error, dialect.name) or is_rollback(statement or "")
        # In the driver's autocommit mode there was none to lose.
        lost = lost and not getattr(proxy.dbapi_connection, "get_autocommit", lambda: False)()
    record.note_error(error, transaction, lost=lost)
    setattr(proxy, _FAILED, record)


# At the commit --------------------------------------------------------------------------------


def _checking(dialect: Dialect, do_commit: Callable[[_Proxy], None]) -> Callable[[_Proxy], None]:
    looks_lost = _SIGNS.get(dialect.driver, _no_sign)

    def commit(proxy: _Proxy) -> None:
        if looks_lost(proxy.dbapi_connection) or _FAILED in proxy.__dict__:
            _refuse_commit_if_lost(dialect, proxy)
        do_commit(proxy)
        if _TOLD in proxy.__dict__:
            proxy.__dict__[_TOLD].append(True)

    return commit


def count_commits_on(connection: Connection, committed: list[bool]) -> None:
    """Let *committed* grow with each COMMIT on *connection*."""
    vars(connection.connection)[_TOLD] = committed


def check(connection: Connection) -> None:
    """
    :raises TransactionLost: the transaction of *connection* cannot be committed any more. It is
        rolled back.
    """
    if not connection.invalidated:
        _refuse_commit_if_lost(connection.dialect, connection.connection)


def _refuse_commit_if_lost(dialect: Dialect, proxy: _Proxy) -> None:
    record: TransactionRecord | None = vars(proxy).get(_FAILED)
    error = None if record is None else record.present_error
    if _is_gone(dialect, proxy, error) or (record is not None and record.lost):
        error = error or getattr(proxy.dbapi_connection, _DOOMED, None)
        # First: an error raised at the commit leaves the driver's transaction open, for the next
        # user of the connection to commit.
        dialect.do_rollback(proxy)
        raise TransactionLost(error)


def _is_gone(dialect: Dialect, proxy: _Proxy, error: BaseException | None) -> bool:
    """Is the transaction gone, or aborted, as far as the driver knows?

    :param error: the last one in this transaction.
    """
    looks_lost = _SIGNS.get(dialect.driver)
    if looks_lost is None:  # one of PostgreSQL's other drivers keeps it to itself
        return dialect.name == "postgresql" and error is not None
    return looks_lost(proxy.dbapi_connection)


# What the driver's connection itself tells. Unlike an error, the status that libpq keeps is healed
# by ROLLBACK TO SAVEPOINT. SQLite rolls back by itself: a full disk, ON CONFLICT ROLLBACK.
# (By getattr: what stands in for a connection may have less.)
_IN_ERROR = 3
_SIGNS: Mapping[str, Callable[[Any], bool]] = {
    "psycopg": lambda driver: _status_of_psycopg(driver) == _IN_ERROR,
    "psycopg2": lambda driver: _status_of_psycopg2(driver) == _IN_ERROR,
    "pymysql": lambda driver: getattr(driver, _DOOMED, None) is not None,
    "pysqlite": lambda driver: getattr(driver, "has_lost", False),
}


def _status_of_psycopg(driver: Any) -> int | None:
    return getattr(getattr(driver, "pgconn", None), "transaction_status", None)


def _status_of_psycopg2(driver: Any) -> int | None:
    ask = getattr(driver, "get_transaction_status", None)
    return None if ask is None else ask()


def _no_sign(_driver: Any) -> bool:
    return False


# At the return to the pool --------------------------------------------------------------------


def _end_open(dialect: Dialect, driver: Any, entry: ConnectionPoolEntry) -> None:
    """Roll back what is still open.

    If a listener of the app's own raises at the commit, SQLAlchemy takes the transaction for ended,
    and spares the pool its rollback: the next user of the connection would commit it.
    """
    is_open = _OPEN.get(dialect.driver)
    if driver is not None and is_open is not None and is_open(driver):
        try:
            getattr(driver, "undo", driver.rollback)()  # SQLite's takes a rollback() for the app's
        except Exception as error:
            entry.invalidate(error)


_IS_OPEN: frozenset[int] = frozenset([_IN_ERROR, 2])  # in error, and in good order
_OPEN: Mapping[str, Callable[[Any], bool]] = {
    "psycopg": lambda driver: _status_of_psycopg(driver) in _IS_OPEN,
    "psycopg2": lambda driver: _status_of_psycopg2(driver) in _IS_OPEN,
    "pymysql": lambda driver: bool(getattr(driver, "server_status", 0) & 1),
    "pysqlite": lambda driver: bool(getattr(driver, "in_transaction", False)),
}


# psycopg --------------------------------------------------------------------------------------


def _where_needed(do_rollback: Callable[[_Proxy], None]) -> Callable[[_Proxy], None]:
    """Spare psycopg the rollback of nothing.

    The pool asks for one whenever a connection comes back, and psycopg takes its lock and starts a
    generator before it finds that there is nothing to do: half a percent of a request that reads.
    """

    def rollback(proxy: _Proxy) -> None:
        if _status_of_psycopg(proxy.dbapi_connection) != _IDLE:
            do_rollback(proxy)

    return rollback


_IDLE = 0


# PyMySQL --------------------------------------------------------------------------------------


def _note_errors_of_cursors(engine: Engine) -> None:
    """Let PyMySQL's cursors tell of a deadlock, also those that SQLAlchemy knows nothing of.

    The server does not: with the next statement it begins a new transaction, as if all were well.
    """
    do_rollback = engine.dialect.do_rollback

    def on_connect(driver: Any, _entry: object) -> None:
        driver.cursorclass = _telling(driver.cursorclass)
        driver.cursor = partial(_telling_cursor, ref(driver))

    def rollback(proxy: _Proxy) -> None:
        getattr(proxy.dbapi_connection, "__dict__", {}).pop(_DOOMED, None)
        do_rollback(proxy)

    event.listen(engine, "connect", on_connect)
    setattr(engine.dialect, "do_rollback", rollback)  # noqa: B010


def _telling_cursor(driver: ref[Any], cursor: Any = None) -> Any:
    """The driver's method, for cursors of a class of one's own."""
    connection: Any = driver()
    return _telling(cursor or connection.cursorclass)(connection)


@cache
def _telling(cursor_class: Any) -> Any:
    def _query(cursor: Any, sql: Any) -> Any:
        try:
            return cursor_class._query(cursor, sql)
        except Exception as error:
            # A savepoint may help against a lock wait timeout, and goes by unseen.
            if (
                outcomes.aborts_transaction(error, "mysql")
                and outcomes.code_of(error) != _LOCK_WAIT_TIMEOUT
            ):
                driver = cursor.connection
                if not driver.get_autocommit():
                    setattr(driver, _DOOMED, error)
            raise

    if getattr(cursor_class, "_flask_uow_tells", False):
        return cursor_class
    own = {"_query": _query, "_flask_uow_tells": True}
    return type(cursor_class.__name__, (cursor_class,), own)
