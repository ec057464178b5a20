"""The record of a transaction, kept on its connection: its effects and its errors so far.

A unit needs facts that a ``Session`` does not keep: whether anything was written, and whether a
statement failed. All SQL from the ORM, from Core and from ``text()`` goes through the engine, whose
listeners note these facts on the connection.

Nothing here knows Flask or sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, RootTransaction, event
from sqlalchemy.engine import ExecutionContext

from .statements import StatementEffect

_RECORD = "_flask_uow_record"


class TransactionRecord:
    """The effects and errors of one transaction so far.

    :ivar effect: the strongest effect of its statements.
    :ivar effect_kept: the effect that remains after a rollback to any savepoint.
    :ivar error: the last error of a statement, which may come from an earlier transaction of the
        connection; see :attr:`present_error`.
    :ivar will_write: the unit is expected to write, so its first statement may take locks.
    :ivar read_only: statements that write are refused.
    :ivar deferred: it has not begun, because no statement has needed it yet (P14).
    :ivar keeps_snapshot: what it reads first is meant to stay as it is until its end.
    :ivar plain: the connections of the driver on which plain reads may run while it is deferred.
    :ivar flushed: for each object that the ORM has written, its class name and new, changed or
        deleted.
    :ivar savepoints: by savepoint, the effect and the length of *flushed* before it.
    """

    # On the class, because every transaction creates a record and few of them set these attributes.
    effect = StatementEffect.READ
    effect_kept = StatementEffect.READ
    error: BaseException | None = None
    _failed_in: RootTransaction | None = None
    _is_lost = False
    savepoints: WeakKeyDictionary[object, tuple[StatementEffect, int]] | None = None
    plain: Collection[object] = ()

    def __init__(
        self, *, will_write: bool = False, read_only: bool = False, deferred: bool = False
    ) -> None:
        self.will_write = will_write
        self.read_only = read_only
        self.deferred = deferred
        self.keeps_snapshot = not deferred
        self.flushed: list[tuple[str, str]] = []

    def begin(self, *, to_write: bool = False, keeps_snapshot: bool = False) -> None:
        """Let the transaction begin with the next statement, whatever it is."""
        self.deferred = False
        self.will_write = self.will_write or to_write
        self.keeps_snapshot = self.keeps_snapshot or keeps_snapshot

    def note_plain(self, connection: object) -> None:
        """Note that statements on *connection*, one of the driver, run without a transaction."""
        self.plain = (*self.plain, connection)

    def forget_plain(self) -> None:
        """Note that the connections of the plain reads return to their pools."""
        self.plain = ()

    def note_error(self, error: BaseException, transaction: RootTransaction, *, lost: bool) -> None:
        """Note that *error* was raised in *transaction*.

        :param lost: the server has rolled back the whole transaction because of it.
        """
        self._is_lost = lost or self.is_lost
        self.error, self._failed_in = error, transaction

    def forget_error(self) -> None:
        """Note that a rollback to a savepoint has undone the error."""
        self.error, self._failed_in, self._is_lost = None, None, False

    @property
    def present_error(self) -> BaseException | None:
        """The last error, if its transaction is still the current one."""
        return self.error if self._failed_in is not None and self._failed_in.is_active else None

    @property
    def is_lost(self) -> bool:
        """Whether the server has rolled back the whole transaction because of an error."""
        return self._is_lost and self.present_error is not None

    def mark_unknown(self) -> None:
        """Note that the app has the connection: writes by a driver cursor are not seen here."""
        self.effect_kept = StatementEffect.UNKNOWN
        self.effect = max(self.effect, StatementEffect.UNKNOWN)

    def note_savepoint(self, savepoint: object) -> None:
        """Remember the effects before *savepoint*."""
        if self.savepoints is None:
            # Weak keys: SQLAlchemy sends no event when a savepoint is released.
            self.savepoints = WeakKeyDictionary()
        self.savepoints[savepoint] = self.effect, len(self.flushed)

    def undo_to(self, savepoint: object) -> None:
        """Forget the effects that a rollback to *savepoint* has undone, if it is a savepoint."""
        if self.savepoints and savepoint in self.savepoints:
            effect, length = self.savepoints.pop(savepoint)
            self.effect = max(effect, self.effect_kept)
            del self.flushed[length:]


def attach(connection: Connection, record: TransactionRecord) -> None:
    """Make *record* the record of *connection*.

    The record is an attribute of the ``Connection`` object, which exists from checkout to checkin.
    ``Connection.info`` would keep it longer, and does not exist while a dialect is initialized.
    """
    setattr(connection, _RECORD, record)


def record_of(connection: Connection) -> TransactionRecord | None:
    """Return the record of *connection*; None if it belongs to no unit."""
    return getattr(connection, _RECORD, None)


def deferred_record_of(context: ExecutionContext) -> TransactionRecord | None:
    """Return the record of the statement's transaction, if it belongs to a unit and is deferred."""
    # The methods of a dialect can be called without a context: the last argument is another one.
    connection = getattr(context, "root_connection", None)
    record = None if connection is None else record_of(connection)
    return record if record is not None and record.deferred else None


def before_statements(engine: Engine, listener: Callable[..., None]) -> None:
    """Call *listener* before each statement of *engine*, after the listeners added earlier.

    :param listener: receives the cursor, the statement, the parameters if there are any, and the
        execution context.
    """
    for name in ("do_execute", "do_executemany", "do_execute_no_params"):
        event.listen(engine, name, listener)
