"""Every error and warning of flask_uow.

::

    Exception
     └─ UowError                          the base of all errors below
         ├─ SetupError (RuntimeError)     an app or an extension was set up wrongly
         ├─ ConfigError (ValueError)      a value of ``app.config`` or of an option is wrong
         │   └─ UnknownEngine             an engine of this name is not configured
         ├─ OutsideContext (RuntimeError) ``db`` was used where no Flask context is active
         ├─ UnitEnded (RuntimeError)      a session was used after its unit of work ended
         │   └─ ForkedUnit                a forked child used a unit of its parent
         ├─ ConcurrentUse (RuntimeError)  two threads used one unit of work at once
         ├─ RollbackOnly (RuntimeError)   ``commit()`` or a block after ``set_rollback_only()``
         ├─ BlockRefused (RuntimeError)   a block cannot begin or end here
         ├─ CommitRefused (RuntimeError)  ``commit()`` or the like where it is not allowed
         ├─ HookRefused (ValueError)      ``on_commit()`` was given what cannot be called later
         ├─ QueryError (ValueError)       a query helper was given a wrong argument
         ├─ ReadOnly (RuntimeError)       a statement or a flush would write where it may not
         ├─ Rollback (RuntimeError)       raise it to undo a block
         ├─ PartialCommit (RuntimeError)  some engines have committed, and a later one failed
         ├─ TransactionLost (RuntimeError) an earlier error has rolled back the whole transaction
         ├─ PoolExhausted (RuntimeError)  every connection of the pool is checked out
         ├─ IsolationError (RuntimeError) a test cannot be isolated, or does what undoes isolation
         └─ MigrationError (RuntimeError) a command of ``flask db`` cannot do its work
             ├─ MigrationFailed           a revision raised an error while it ran
             ├─ MigrationLocked           another process is migrating the same database
             ├─ MigrationsPending         the database does not have all revisions
             └─ DatabaseUnreachable       no connection to a database could be made

    UserWarning
     └─ UowWarning
         ├─ DiscardedWork                 a context ended with uncommitted work
         └─ ConfigNotice                  a setting has no effect, or a driver is unsuitable

Each class also inherits the built-in that a caller would guess, so ``except RuntimeError``
keeps working. Every message says what happened, why it is refused and what to write instead;
none of them contains a password.

Errors of the database stay SQLAlchemy's. :func:`is_transient` and :func:`constraint_of` tell an
error handler what such an error means.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ._drivers import outcomes

# With the names by which the modules of the other floors import them.
from ._text import escaped as escaped  # noqa: PLC0414
from ._text import shown as shown  # noqa: PLC0414

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
    "IsolationError",
    "MigrationError",
    "MigrationFailed",
    "MigrationLocked",
    "MigrationsPending",
    "OutsideContext",
    "PartialCommit",
    "PoolExhausted",
    "QueryError",
    "ReadOnly",
    "Rollback",
    "RollbackOnly",
    "SetupError",
    "TransactionLost",
    "UnitEnded",
    "UnknownEngine",
    "UowError",
    "UowWarning",
    "constraint_of",
    "is_transient",
]


def _made_without_init(class_: type[UowError], *args: object) -> UowError:
    """Return an error for a copy: the ``__init__`` of its class may take more than the message."""
    return class_.__new__(class_, *args)


class UowError(Exception):
    """The base of every error that flask_uow raises itself."""

    def __reduce__(self) -> tuple[object, ...]:
        return _made_without_init, (type(self), *self.args), vars(self)


class SetupError(UowError, RuntimeError):
    """A ``Database``, an app or an extension was set up in a way that cannot work."""


class ConfigError(UowError, ValueError):
    """A value of ``app.config``, or an option given in code, cannot be used."""


class UnknownEngine(ConfigError):
    """An engine of the requested name is not configured."""


class OutsideContext(UowError, RuntimeError):
    """``db`` needs a Flask context, and none is active or the active one has ended."""


class UnitEnded(UowError, RuntimeError):
    """A session was used after its unit of work had ended."""


class ForkedUnit(UnitEnded):
    """A unit of work was open when the process forked, and the child used it."""


class ConcurrentUse(UowError, RuntimeError):
    """Two threads used one unit of work at the same time."""


class RollbackOnly(UowError, RuntimeError):
    """``commit()`` or ``db.atomic()`` was called after ``db.set_rollback_only()``."""


class BlockRefused(UowError, RuntimeError):
    """A block cannot begin or end here, or not with these options."""


class CommitRefused(UowError, RuntimeError):
    """A method that begins or ends a transaction was called where it is not allowed.

    Inside ``db.atomic()`` only the block does that; ``"forbid"`` refuses ``commit()`` and
    ``begin()``.
    """


class HookRefused(UowError, ValueError):
    """``db.on_commit()`` or ``db.on_rollback()`` was given what cannot be called later."""


class QueryError(UowError, ValueError):
    """A query helper, such as ``db.get_or_404()`` or ``db.paginate()``, was given a wrong argument.

    It is a mistake in the code of the app. For a mistake of the client, the helpers abort with a
    404 or 400.
    """


class ReadOnly(UowError, RuntimeError):
    """A statement or a flush would write where ``read_only=True``."""


class Rollback(UowError, RuntimeError):
    """Raise it inside ``db.atomic()`` or ``db.independent()`` to undo the block.

    :param block: the block to undo, as ``db.atomic()`` returned it; None for the innermost.
    """

    def __init__(self, block: object = None) -> None:
        self.block = block
        super().__init__(
            "'Rollback' was raised outside of the block that it was meant to undo. The innermost"
            " 'with db.atomic():' around it catches it, or the block that it names"
            " ('raise Rollback(block)'). Elsewhere, call 'db.session.rollback()', or"
            " 'db.set_rollback_only()' for the whole request."
        )


class PartialCommit(UowError, RuntimeError):
    """A unit used several engines; the first commits succeeded, and a later one failed.

    The work of the engines that have committed stays stored. The error of the engine that failed
    is the ``__cause__``.

    :ivar committed: names of the engines that did commit, in order.
    :ivar failed: name of the engine whose commit failed.
    :ivar rolled_back: names of the engines that had not committed yet and were rolled back.
    """

    def __init__(self, committed: list[str], failed: str, rolled_back: list[str]) -> None:
        self.committed = committed
        self.failed = failed
        self.rolled_back = rolled_back
        super().__init__(
            f"The engine {failed!r} failed to commit after {_names(committed)} had committed"
            f"{f' ({_names(rolled_back)} rolled back)' if rolled_back else ''}. A commit of one"
            " database cannot be undone when another one fails. Correct the rows that differ, and"
            " keep rows that must agree in one database."
        )


class TransactionLost(UowError, InvalidRequestError, RuntimeError):
    """A statement or a commit follows an error that has rolled back the whole transaction.

    That error, if it is known, is the ``__cause__``. The class is also a SQLAlchemy error, so that
    ``except SQLAlchemyError`` catches it.
    """

    def __init__(self, error: BaseException | None) -> None:
        what = (
            "only the driver has seen it, or the connection itself was rolled back"
            if error is None
            else type(error).__name__
        )
        text = "" if error is None else f": {escaped(error)}"
        super().__init__(
            "The transaction no longer exists: the database rolled it back after an earlier error"
            f" that the code swallowed ({what}{text})."
            " A commit would store nothing, or only what came after that error, so it is refused."
            " Let the error leave the view, or call 'rollback()' and do the whole work again. Put"
            " a statement that may fail inside 'with db.session.begin_nested():'; this does not"
            " help against a deadlock, which undoes everything."
        )
        self.__cause__ = error


class PoolExhausted(UowError, PoolTimeout, RuntimeError):
    """All connections of a pool were checked out for longer than ``pool_timeout`` seconds.

    The message says by which requests and threads. The class is also a
    ``sqlalchemy.exc.TimeoutError``.
    """


class IsolationError(UowError, RuntimeError):
    """A test cannot be isolated, or does in isolation what only works without it."""


class MigrationError(UowError, RuntimeError):
    """A command of ``flask db``, or the function of that name, cannot do its work."""


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
    """Another process was migrating the same database for longer than the lock timeout."""


class MigrationsPending(MigrationError):
    """The folder has revisions that the database does not have."""


class DatabaseUnreachable(MigrationError):
    """No connection to a database could be made."""


class UowWarning(UserWarning):
    """The base of every warning of flask_uow."""


class DiscardedWork(UowWarning):
    """A context ended with uncommitted changes; they were rolled back."""


class ConfigNotice(UowWarning):
    """A setting has no effect, or a driver is unsuitable; the text says what to write instead."""


def _names(names: list[str]) -> str:
    return " and ".join(repr(name) for name in names)


def is_transient(error: BaseException) -> bool:
    """Tell whether the same request may succeed if it is sent again a little later.

    True for a conflict with another transaction (serialization failure, deadlock, lock timeout),
    a pool without a free connection, a server that cannot be reached or is full, and a statement
    that the server stopped. Return 503 with ``Retry-After``. The work is not always undone: if the
    connection was lost at COMMIT, it may be stored.

    False for all other errors, including :class:`PartialCommit`, after which a part of the work is
    stored.

    :param error: any exception. The errors that caused it are checked as well: ``raise ... from``,
        and the ``original_exception`` of an ``InternalServerError``.
    """
    for cause in _with_causes(error):
        if isinstance(cause, PartialCommit):
            return False
        if isinstance(cause, _PASSING) or outcomes.may_pass(cause):
            return True
    return False


def constraint_of(error: BaseException) -> str | None:
    """Return the name of the constraint that a statement or a commit violated.

    For a primary key, a foreign key, UNIQUE, CHECK and EXCLUDE, it is the name in the metadata, the
    same on every database. A NOT NULL constraint has no name, so its table and column are returned:
    ``"users.email"``.

    SQLite does not say which foreign key was violated. Its name is returned if the statement can
    have violated only one. For a deferred foreign key, which the COMMIT checks, it is None.

    :param error: any exception. The errors that caused it are checked as by :func:`is_transient`.
    :returns: None if no constraint was violated, or if its name is unknown.
    """
    names = (outcomes.constraint_of(cause) for cause in _with_causes(error))
    return next((name for name in names if name), None)


# PoolExhausted is not listed, because it is found as SQLAlchemy's TimeoutError.
_PASSING = (DatabaseUnreachable, MigrationLocked)


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()  # an exception can be its own cause
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        # Flask hands an unhandled error to a handler of 500 in an InternalServerError.
        original = getattr(error, "original_exception", None)  # elsewhere it may be a text
        is_error = isinstance(original, BaseException)
        error = original if is_error else getattr(error, "__cause__", None)
