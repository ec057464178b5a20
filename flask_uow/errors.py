"""Every error and warning of flask_uow.

::

    Exception
     └─ UowError                          everything below, to catch in one place
         ├─ SetupError (RuntimeError)     an object was put together in the wrong way
         ├─ ConfigError (ValueError)      a value of ``app.config`` or of an option is wrong
         │   └─ UnknownEngine             a name of an engine that nobody configured
         ├─ OutsideContext (RuntimeError) ``db`` was used where no Flask context is active
         ├─ UnitEnded (RuntimeError)      a session was used after its unit of work ended
         │   └─ ForkedUnit                 it belongs to the parent of this process
         ├─ ConcurrentUse (RuntimeError)  two threads used one unit of work at once
         ├─ RollbackOnly (RuntimeError)   ``commit()`` after ``set_rollback_only()``
         ├─ BlockRefused (RuntimeError)   a block, or what is done inside it, cannot be
         ├─ CommitRefused (RuntimeError)  ``commit()`` or ``rollback()`` where others decide
         ├─ HookRefused (ValueError)      ``on_commit()`` was given what it cannot run later
         ├─ ReadOnly (RuntimeError)       something was written in a unit that only reads
         ├─ Rollback (RuntimeError)       raise it to leave ``db.atomic()`` undone
         ├─ PartialCommit (RuntimeError)  several engines, and not all of them committed
         ├─ TransactionLost (RuntimeError) the database threw the work away, with an earlier error
         ├─ PoolExhausted (RuntimeError)  every connection of the pool is held by somebody else
         └─ MigrationError (RuntimeError) a command of ``flask db`` cannot do what it was told
             ├─ MigrationFailed           a revision raised an error while it ran
             ├─ MigrationLocked           somebody else is migrating the same database
             ├─ MigrationsPending         the database is behind the folder of migrations
             └─ DatabaseUnreachable       no connection, so nothing is known and nothing done

    UserWarning
     └─ UowWarning
         ├─ DiscardedWork                 a context ended with work that nobody committed
         └─ ConfigNotice                  a setting that does nothing, a driver that does not suit

Each class also inherits the built-in that a caller would guess, so ``except RuntimeError``
keeps working. Every message says what happened, why it is refused and what to write instead;
none of them contains a password.
"""

from __future__ import annotations

from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.exc import TimeoutError as PoolTimeout

__all__ = [
    "BlockRefused",
    "CommitRefused",
    "ConcurrentUse",
    "ConfigError",
    "ConfigNotice",
    "DatabaseUnreachable",
    "DiscardedWork",
    "ForkedUnit",
    "HookRefused",
    "MigrationError",
    "MigrationFailed",
    "MigrationLocked",
    "MigrationsPending",
    "OutsideContext",
    "PartialCommit",
    "PoolExhausted",
    "ReadOnly",
    "Rollback",
    "RollbackOnly",
    "SetupError",
    "TransactionLost",
    "UnitEnded",
    "UnknownEngine",
    "UowError",
    "UowWarning",
]


class UowError(Exception):
    """The base of every error that flask_uow raises itself."""


class SetupError(UowError, RuntimeError):
    """A ``Database``, an app or an extension was put together in a way that cannot work."""


class ConfigError(UowError, ValueError):
    """A value of ``app.config``, or an option given in code, cannot be used."""


class UnknownEngine(ConfigError):
    """An engine was asked for by a name that is not configured."""


class OutsideContext(UowError, RuntimeError):
    """``db`` needs a Flask context and none is active, or the active one has ended."""


class UnitEnded(UowError, RuntimeError):
    """A session was used after the unit of work that it belonged to had ended."""


class ForkedUnit(UnitEnded):
    """A unit of work was open when the process forked, and the child used it."""


class ConcurrentUse(UowError, RuntimeError):
    """A second thread used a unit of work while the first was inside the database with it."""


class RollbackOnly(UowError, RuntimeError):
    """``commit()`` was called on a unit that ``db.set_rollback_only()`` had marked."""


class BlockRefused(UowError, RuntimeError):
    """``db.atomic()`` cannot begin here, or not with these options."""


class CommitRefused(UowError, RuntimeError):
    """``commit()``, ``rollback()`` or ``close()`` was called where somebody else decides.

    Inside ``db.atomic()``, or in a request with ``UOW_EXPLICIT_COMMIT = "forbid"``.
    """


class HookRefused(UowError, ValueError):
    """``db.on_commit()`` or ``db.on_rollback()`` was given what cannot run after the fact."""


class ReadOnly(UowError, RuntimeError):
    """A unit of work with ``read_only=True`` was asked to write."""


class Rollback(UowError, RuntimeError):
    """Raise it inside ``with db.atomic():`` to undo the block and go on behind it.

    :param block: which one, if not the innermost: what ``db.atomic()`` returned.
    """

    def __init__(self, block: object = None) -> None:
        self.block = block
        super().__init__(
            "'Rollback' was raised outside of the block that it was meant to undo. It is caught by"
            " the innermost 'with db.atomic():' around it, or by the one that it was given"
            " ('raise Rollback(block)'). Elsewhere, call 'db.session.rollback()', or"
            " 'db.set_rollback_only()' for the whole request."
        )


class PartialCommit(UowError, RuntimeError):
    """A unit spanned several engines, and one of the later commits failed.

    What the earlier engines committed stays. The error of the engine that failed is the
    ``__cause__``.

    :ivar committed: names of the engines that did commit, in order.
    :ivar failed: name of the engine whose commit failed.
    :ivar rolled_back: names of the engines that were not reached and were rolled back.
    """

    def __init__(self, committed: list[str], failed: str, rolled_back: list[str]) -> None:
        self.committed = committed
        self.failed = failed
        self.rolled_back = rolled_back
        super().__init__(
            f"The engine {failed!r} failed to commit after {_names(committed)} had committed"
            f"{f' ({_names(rolled_back)} rolled back)' if rolled_back else ''}. Databases that"
            " commit one after the other cannot undo each other: repair the difference, or keep"
            " rows that must agree in one database."
        )


class TransactionLost(UowError, InvalidRequestError, RuntimeError):
    """A statement or a commit came after an error that had cost the whole transaction (P3).

    The error is the ``__cause__``. A SQLAlchemy error too, so that what catches those finds it.
    """

    def __init__(self, error: BaseException | None) -> None:
        name = (
            "that only the driver has seen, or a rollback of the connection itself"
            if error is None
            else type(error).__name__
        )
        text = "" if error is None else f": {str(error).strip()}"
        super().__init__(
            "The transaction of this work no longer exists: the database threw it away with an"
            f" earlier error, which the code went on from ({name}{text})."
            " A commit would store nothing, or only what came after it, so nothing is stored."
            " Let that error leave the view, or call 'rollback()' and do the whole work again;"
            " a statement that may fail belongs into 'with db.session.begin_nested():' (not"
            " enough after a deadlock, which undoes everything)."
        )
        self.__cause__ = error


class PoolExhausted(UowError, PoolTimeout, RuntimeError):
    """All connections of a pool were held by others for longer than ``pool_timeout`` seconds.

    The message names the holders. A ``sqlalchemy.exc.TimeoutError`` too.
    """


class MigrationError(UowError, RuntimeError):
    """A command of ``flask db``, or its function, cannot do what it was told."""


class MigrationFailed(MigrationError):
    """A revision raised an error while it ran; the error is the ``__cause__``.

    :ivar engine: the name of the engine.
    :ivar revision: the identifier of the revision.
    """

    def __init__(self, text: str, engine: str, revision: str) -> None:
        self.engine = engine
        self.revision = revision
        super().__init__(text)


class MigrationLocked(MigrationError):
    """Another process was migrating the same database for longer than one wanted to wait."""


class MigrationsPending(MigrationError):
    """The folder has revisions that the database does not have."""


class DatabaseUnreachable(MigrationError):
    """No connection to a database could be made."""


class UowWarning(UserWarning):
    """The base of every warning of flask_uow."""


class DiscardedWork(UowWarning):
    """A context ended with changes that nobody committed; they were rolled back."""


class ConfigNotice(UowWarning):
    """A setting has no effect, or a driver does not suit; the text says what to write instead."""


def shown(value: object) -> str:
    """*value* for a message; of a text that may hold a password only the type."""
    text = repr(value)
    if "@" in text or "://" in text:
        return f"a value of type {type(value).__name__!r}"
    return text


def _names(names: list[str]) -> str:
    return " and ".join(repr(name) for name in names)
