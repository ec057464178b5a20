"""What a transaction has done so far, kept on its connection.

The life of a unit needs facts that a ``Session`` does not keep: has anything been written, and has
a statement failed. All SQL passes the engine, whether it comes from the ORM, from Core or from
``text()``; so they are noticed there, and kept where both sides find them.

Nothing here knows Flask or sessions.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, Engine, event

from ._effects import Effect

_ACTIVITY = "_flask_uow_activity"


class Activity:
    """What has happened so far in one transaction.

    :ivar effect: the strongest effect of the statements so far.
    :ivar error: the last error that a statement raised.
    :ivar lost: the server has thrown the transaction away, because of ``error``.
    :ivar watched: the connection is looked at before it commits.
    :ivar will_write: it is expected to write, so it may take its locks with its first statement.
    :ivar read_only: what writes is refused.
    :ivar flushed: the class and kind of each object that the ORM has written, for messages.
    :ivar savepoints: how far things were when a savepoint was set.
    """

    # Of the class until something happens: every transaction has an Activity.
    effect = Effect.READ
    error: BaseException | None = None
    lost = False
    will_write = False
    read_only = False
    watched = False
    savepoints: dict[object, tuple[Effect, int]] | None = None

    def __init__(self) -> None:
        self.flushed: list[tuple[str, str]] = []

    def set_savepoint(self, savepoint: object) -> None:
        """Remember how far things are."""
        if self.savepoints is None:
            self.savepoints = {}
        self.savepoints[savepoint] = self.effect, len(self.flushed)

    def undo_to(self, savepoint: object) -> None:
        """Forget what *savepoint* has undone, if it is one."""
        if self.savepoints and savepoint in self.savepoints:
            self.effect, length = self.savepoints.pop(savepoint)
            del self.flushed[length:]


def observe(connection: Connection, activity: Activity) -> None:
    """Note what happens on *connection* from now on in *activity*.

    On the ``Connection`` object, which lives from checkout to checkin; ``Connection.info`` lives
    as long as the socket, and has to be asked for in vain while a dialect is initialised.
    """
    setattr(connection, _ACTIVITY, activity)


def activity_of(connection: Connection) -> Activity | None:
    """Where the deeds of *connection* are noted; None if it belongs to no unit."""
    return getattr(connection, _ACTIVITY, None)


def before_statements(engine: Engine, listener: Callable[..., None]) -> None:
    """Call *listener* before each statement of *engine*, behind those that were added before it.

    :param listener: is given the cursor, the statement, and last its execution context; between
        them the values, if there are any.
    """
    for name in ("do_execute", "do_executemany", "do_execute_no_params"):
        event.listen(engine, name, listener)
