"""The record of a transaction, kept on its connection: what it has done so far.

The life of a unit needs facts that a ``Session`` does not keep: has anything been written, and has
a statement failed. All SQL passes the engine, whether it comes from the ORM, from Core or from
``text()``; so these facts are noticed there, and kept where both sides find them.

Nothing here knows Flask or sessions.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, RootTransaction, event

from .statements import StatementEffect

_RECORD = "_flask_uow_record"


class TransactionRecord:
    """What has happened so far in one transaction.

    :ivar effect: the strongest effect of the statements so far.
    :ivar floor: the weakest effect that a rollback to a savepoint can leave.
    :ivar error: the last error that a statement raised; perhaps in an earlier transaction of the
        same connection, see :attr:`present_error`.
    :ivar will_write: it is expected to write, so it may take its locks with its first statement.
    :ivar read_only: statements that write are refused.
    :ivar flushed: the class and kind of each object that the ORM has written, for messages.
    :ivar savepoints: the effect, and the length of *flushed*, when a savepoint was set.
    """

    # Of the class until something happens: every transaction has a record.
    effect = StatementEffect.READ
    floor = StatementEffect.READ
    error: BaseException | None = None
    _failed: RootTransaction | None = None
    _is_lost = False
    savepoints: WeakKeyDictionary[object, tuple[StatementEffect, int]] | None = None

    def __init__(self, *, will_write: bool = False, read_only: bool = False) -> None:
        self.will_write = will_write
        self.read_only = read_only
        self.flushed: list[tuple[str, str]] = []

    def note_error(self, error: BaseException, transaction: RootTransaction, *, lost: bool) -> None:
        """Note that *error* was raised in *transaction*.

        :param lost: the server has thrown the transaction away because of it.
        """
        self._is_lost = lost or self.lost
        self.error, self._failed = error, transaction

    def forget_error(self) -> None:
        """Note that the error was undone, with a part of the transaction."""
        self.error, self._failed, self._is_lost = None, None, False

    @property
    def present_error(self) -> BaseException | None:
        """The last error, unless its transaction has been committed or rolled back since."""
        return self.error if self._failed is not None and self._failed.is_active else None

    @property
    def lost(self) -> bool:
        """Whether the server has thrown the transaction away because of an error."""
        return self._is_lost and self.present_error is not None

    def mark_unknown(self) -> None:
        """Note that the app has the connection itself, and can write unseen."""
        self.floor = StatementEffect.UNKNOWN
        self.effect = max(self.effect, StatementEffect.UNKNOWN)

    def set_savepoint(self, savepoint: object) -> None:
        """Remember what was done before *savepoint*."""
        if self.savepoints is None:
            # Weak keys: SQLAlchemy sends no event when a savepoint is released.
            self.savepoints = WeakKeyDictionary()
        self.savepoints[savepoint] = self.effect, len(self.flushed)

    def undo_to(self, savepoint: object) -> None:
        """Forget what the rollback to *savepoint* has undone; nothing if it is no savepoint."""
        if self.savepoints and savepoint in self.savepoints:
            effect, length = self.savepoints.pop(savepoint)
            self.effect = max(effect, self.floor)
            del self.flushed[length:]


def attach(connection: Connection, record: TransactionRecord) -> None:
    """Let *record* be the record of *connection* from now on.

    It is kept on the ``Connection`` object, which lives from checkout to checkin.
    ``Connection.info`` lives as long as the socket, and is missing while a dialect is initialised.
    """
    setattr(connection, _RECORD, record)


def record_of(connection: Connection) -> TransactionRecord | None:
    """Return the record of *connection*; None if it belongs to no unit."""
    return getattr(connection, _RECORD, None)


def before_statements(engine: Engine, listener: Callable[..., None]) -> None:
    """Call *listener* before each statement of *engine*, after those that were added before it.

    :param listener: receives the cursor, the statement, the values if there are any, and last the
        execution context.
    """
    for name in ("do_execute", "do_executemany", "do_execute_no_params"):
        event.listen(engine, name, listener)
