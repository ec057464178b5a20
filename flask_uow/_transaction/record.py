"""What a transaction has done so far, kept on its connection.

The life of a unit needs facts that a ``Session`` does not keep: has anything been written, and has
a statement failed. All SQL passes the engine, whether it comes from the ORM, from Core or from
``text()``; so they are noticed there, and kept where both sides find them.

Nothing here knows Flask or sessions.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, RootTransaction, event

from .statements import StatementEffect

_ACTIVITY = "_flask_uow_activity"


class TransactionRecord:
    """What has happened so far in one transaction.

    :ivar effect: the strongest effect of the statements so far.
    :ivar floor: the least that it can be, whatever a savepoint undoes.
    :ivar error: the last error that a statement raised; perhaps in an earlier transaction of the
        same connection, see :attr:`present_error`.
    :ivar will_write: it is expected to write, so it may take its locks with its first statement.
    :ivar read_only: what writes is refused.
    :ivar flushed: the class and kind of each object that the ORM has written, for messages.
    :ivar savepoints: how far things were when a savepoint was set.
    """

    # Of the class until something happens: every transaction has an TransactionRecord.
    effect = StatementEffect.READ
    floor = StatementEffect.READ
    error: BaseException | None = None
    will_write = False
    read_only = False
    _failed: RootTransaction | None = None
    _is_lost = False
    savepoints: WeakKeyDictionary[object, tuple[StatementEffect, int]] | None = None

    def __init__(self) -> None:
        self.flushed: list[tuple[str, str]] = []

    def note_error(self, error: BaseException, transaction: RootTransaction, *, lost: bool) -> None:
        """Remember what went wrong.

        :param lost: the server has thrown *transaction* away because of it.
        """
        self._is_lost = lost or self.lost
        self.error, self._failed = error, transaction

    def forget_error(self) -> None:
        """The error has been undone, with a part of the transaction."""
        self.error, self._failed, self._is_lost = None, None, False

    @property
    def present_error(self) -> BaseException | None:
        """The last error, unless its transaction has been committed or rolled back since."""
        return self.error if self._failed is not None and self._failed.is_active else None

    @property
    def lost(self) -> bool:
        """Has the server thrown the transaction away, because of an error?"""
        return self._is_lost and self.present_error is not None

    def mark_unknown(self) -> None:
        """Note that somebody has the connection itself, and can write unseen."""
        self.floor = StatementEffect.UNKNOWN
        self.effect = max(self.effect, StatementEffect.UNKNOWN)

    def set_savepoint(self, savepoint: object) -> None:
        """Remember how far things are."""
        if self.savepoints is None:
            # Weak: of those that were released nobody tells.
            self.savepoints = WeakKeyDictionary()
        self.savepoints[savepoint] = self.effect, len(self.flushed)

    def undo_to(self, savepoint: object) -> None:
        """Forget what *savepoint* has undone, if it is one."""
        if self.savepoints and savepoint in self.savepoints:
            effect, length = self.savepoints.pop(savepoint)
            self.effect = max(effect, self.floor)
            del self.flushed[length:]


def attach(connection: Connection, record: TransactionRecord) -> None:
    """Note what happens on *connection* from now on in *record*.

    On the ``Connection`` object, which lives from checkout to checkin; ``Connection.info`` lives
    as long as the socket, and has to be asked for in vain while a dialect is initialised.
    """
    setattr(connection, _ACTIVITY, record)


def record_of(connection: Connection) -> TransactionRecord | None:
    """Where the deeds of *connection* are noted; None if it belongs to no unit."""
    return getattr(connection, _ACTIVITY, None)


def before_statements(engine: Engine, listener: Callable[..., None]) -> None:
    """Call *listener* before each statement of *engine*, behind those that were added before it.

    :param listener: is given the cursor, the statement, and last its execution context; between
        them the values, if there are any.
    """
    for name in ("do_execute", "do_executemany", "do_execute_no_params"):
        event.listen(engine, name, listener)
