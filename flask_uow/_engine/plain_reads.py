"""Plain reads run without a transaction, until a statement needs one (P14).

A ``SELECT`` costs one round trip then instead of three, and leaves no ``idle in transaction``, no
lock on its tables and no snapshot. At READ COMMITTED each statement sees what is committed when it
starts, inside a transaction and without one, so its rows are the same.

Only the statements of units are concerned, on databases whose driver can do it without a round trip
(:meth:`~flask_uow._drivers.base.Driver.may_read_plainly`). In doubt, the transaction begins:

- the statement is not certainly a read: the reader of SQL text decides
  (:mod:`~flask_uow._transaction.statements`), by lists of functions that have no effect;
- it locks rows, or its cursor is one of the server;
- the connection has an isolation level above READ COMMITTED, by its engine or by the server.

Nothing here knows Flask or sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from sqlalchemy import Engine, StaticPool
from sqlalchemy.engine import Dialect, ExecutionContext

from .._drivers.base import Driver
from .._drivers.known import driver_of
from .._transaction import sqlalchemy_private
from .._transaction.record import TransactionRecord, before_statements, deferred_record_of
from .._transaction.statements import Reader, reader_of

Decision: TypeAlias = Callable[[TransactionRecord, Any, str, ExecutionContext], bool]
"""Tells whether a statement runs without a transaction; if not, the transaction begins.

Its arguments are the record of a transaction that has not begun, the cursor, the statement and its
context.
"""

_decisions: WeakKeyDictionary[Dialect, Decision] = WeakKeyDictionary()


def defer_transactions(engine: Engine) -> None:
    """Let units begin their transactions on *engine* when a statement needs one.

    On SQLite, call this before the listener is added that begins a transaction.
    """
    dialect = engine.dialect
    driver = driver_of(dialect)
    if not driver.defers or isinstance(engine.pool, StaticPool):
        return
    is_sqlite = dialect.name == "sqlite"
    decide = _decides(driver, reader_of(dialect.name), is_sqlite=is_sqlite)
    _decisions[dialect] = decide
    if is_sqlite:
        before_statements(engine, partial(_decide_first, decide))
    for name in ("do_execute", "do_execute_no_params"):
        setattr(dialect, name, _executing(getattr(dialect, name), driver))
    driver.finish_deferring(dialect)


def is_deferring(dialect: Dialect) -> bool:
    """Tell whether transactions on engines with this *dialect* begin when they are needed."""
    return dialect in _decisions


@contextmanager
def without_deferring(engine: Engine) -> Iterator[None]:
    """Let the transactions of units on *engine* begin with their first statement, for a while."""
    decision = _decisions.pop(engine.dialect, None)
    try:
        yield
    finally:
        if decision is not None:
            _decisions[engine.dialect] = decision


def decision_of(dialect: Dialect) -> Decision | None:
    """Return what is to be asked before each statement of a unit; None if nothing is."""
    return None if dialect.name == "sqlite" else _decisions.get(dialect)


def _decides(driver: Driver, reader: Reader, *, is_sqlite: bool) -> Decision:
    is_plain_read = reader.is_plain_read

    def decide(
        record: TransactionRecord, cursor: Any, statement: str, context: ExecutionContext
    ) -> bool:
        is_plain = (
            is_plain_read(statement)
            # Not the SELECT of a default: its cursor is that of the INSERT that follows.
            and not (context.isinsert or context.isupdate or context.executemany)
            and not context.execution_options.get("stream_results")
            and (not is_sqlite or _is_unlocked(record, context))
            and (cursor.connection in record.plain or _enter(driver, record, cursor, context))
        )
        if not is_plain:
            record.begin()
        return is_plain

    return decide


def _is_unlocked(record: TransactionRecord, context: ExecutionContext) -> bool:
    """Tell whether a unit reads before it has the write lock of SQLite."""
    if sqlalchemy_private.is_locking(context):  # the text does not show it
        record.begin(to_write=True)
    return not record.will_write


def _enter(
    driver: Driver, record: TransactionRecord, cursor: Any, context: ExecutionContext
) -> bool:
    if not driver.may_read_plainly(cursor.connection, context.root_connection.info):
        return False
    record.note_plain(cursor.connection)
    return True


def _decide_first(decide: Decision, cursor: object, statement: str, *others: Any) -> None:
    record = deferred_record_of(others[-1])
    if record is not None:
        decide(record, cursor, statement, others[-1])


# Execution ------------------------------------------------------------------------------------


def _executing(execute: Callable[..., None], driver: Driver) -> Callable[..., None]:
    """Wrap the method of a dialect that sends a statement, after a listener has decided."""
    read_plainly, is_lazy = driver.read_plainly, driver.is_lazy

    def do_execute(*arguments: Any) -> None:
        record = deferred_record_of(arguments[-1])
        if record is None:
            execute(*arguments)
        elif not read_plainly(execute, *arguments):
            record.mark_unknown()
            record.begin()
            execute(*arguments)
        elif is_lazy:  # when the app fetches them, another unit may have the connection
            sqlalchemy_private.read_all_rows(arguments[-1], arguments[0])

    return do_execute
