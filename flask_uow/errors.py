"""Every error and warning of flask_uow.

::

    Exception
     └─ UowError                          everything below, to catch in one place
         ├─ SetupError (RuntimeError)     an object was put together in the wrong way
         ├─ ConfigError (ValueError)      a value of ``app.config`` or of an option is wrong
         │   └─ UnknownEngine             a name of an engine that nobody configured
         ├─ OutsideContext (RuntimeError) ``db`` was used where no Flask context is active
         ├─ UnitEnded (RuntimeError)      a session was used after its unit of work ended
         ├─ ConcurrentUse (RuntimeError)  two threads used one unit of work at once
         ├─ RollbackOnly (RuntimeError)   ``commit()`` after ``set_rollback_only()``
         └─ PartialCommit (RuntimeError)  several engines, and not all of them committed

    UserWarning
     └─ UowWarning
         ├─ DiscardedWork                 a context ended with work that nobody committed
         └─ ConfigNotice                  a config key that does nothing, and its successor

Each class also inherits the built-in that a caller would guess, so ``except RuntimeError``
keeps working. Every message says what happened, why it is refused and what to write instead;
none of them contains a password.
"""

from __future__ import annotations

__all__ = [
    "ConcurrentUse",
    "ConfigError",
    "ConfigNotice",
    "DiscardedWork",
    "OutsideContext",
    "PartialCommit",
    "RollbackOnly",
    "SetupError",
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


class ConcurrentUse(UowError, RuntimeError):
    """A second thread used a unit of work while the first was inside the database with it."""


class RollbackOnly(UowError, RuntimeError):
    """``commit()`` was called on a unit that ``db.set_rollback_only()`` had marked."""


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


class UowWarning(UserWarning):
    """The base of every warning of flask_uow."""


class DiscardedWork(UowWarning):
    """A context ended with changes that nobody committed; they were rolled back."""


class ConfigNotice(UowWarning):
    """A key of ``app.config`` has no effect; the text names what to write instead."""


def shown(value: object) -> str:
    """*value* for a message; of a text that may hold a password only the type."""
    text = repr(value)
    if "@" in text or "://" in text:
        return f"a value of type {type(value).__name__!r}"
    return text


def _names(names: list[str]) -> str:
    return " and ".join(repr(name) for name in names)
