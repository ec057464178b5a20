"""Explicit blocks: ``db.atomic()`` and ``db.independent()`` (P4, P7).

``atomic`` is all or nothing. Inside a unit that commits automatically, a block is a savepoint.
Elsewhere, in a command or a worker, the outermost block *is* the transaction: it commits at its
end. Only this block may choose an isolation level, be read-only, or run again after a conflict.

``independent`` is another session on another connection, which stays committed if the unit is
rolled back.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import wraps
from types import TracebackType
from typing import Any, Protocol, TypeVar, cast

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from .._config import reading
from .._config.options import IsolationLevel, UnitOptions, level_option, retries_option
from .._config.settings import CommitModes
from .._transaction.statements import StatementEffect
from ..errors import BlockRefused, ConfigError, Rollback, RollbackOnly, shown
from . import retries as _retry
from .pending import pending
from .state import Block
from .unit import Terms, UnitOfWork, has_begun_by_hand

F = TypeVar("F", bound=Callable[..., Any])


class UnitSource(Protocol):
    """What a block asks about its surroundings: the app and the context that it is used in."""

    def unit(self) -> UnitOfWork:
        """The current unit, opened if need be."""
        ...

    def is_dispatching(self) -> bool:
        """Whether a request is being dispatched, so that the unit commits automatically."""
        ...

    def is_redirect(self, error: BaseException) -> bool:
        """Whether *error* is a response and not a failure, so that the block keeps its work."""
        ...

    def new_unit(self) -> UnitOfWork:
        """A unit that belongs to no context: its block commits it."""
        ...

    def engines_for(self, options: UnitOptions) -> tuple[Mapping[str, Engine], dict[Any, Engine]]:
        """The engines for transactions with *options*, and the routes of their sessions."""
        ...

    @property
    def retry_pause(self) -> float:
        """Seconds before the second attempt, at most."""
        ...


class AtomicBlock:
    """A ``with`` block that is all or nothing.

    :param options: how its transaction runs.
    :param transaction_options: the names of its options that only a whole transaction can have.
    """

    def __init__(
        self, units: UnitSource, options: UnitOptions, transaction_options: Sequence[str]
    ) -> None:
        self._units = units
        self._options = options
        self._transaction_options = transaction_options
        self._entered: tuple[UnitOfWork, Block] | None = None

    def __enter__(self) -> Session:
        if self._entered is not None:
            raise BlockRefused(
                "This 'db.atomic()' block is open already. Each 'with' needs a block of its own:"
                " write 'with db.atomic():' again instead of keeping the object."
            )
        unit = self._units.unit()
        commits = not (unit.blocks or self._units.is_dispatching())
        if commits:
            _refuse_earlier_work(unit)
            _prepare(unit, self._units, self._options)
        elif self._transaction_options:
            in_request = self._units.is_dispatching()
            raise BlockRefused(
                _why_not_nested(self._transaction_options, unit, in_request=in_request)
            )
        self._entered = unit, unit.begin_block(commits=commits)
        return unit.session

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> bool | None:
        # Not 'bool': type checkers would ask what a function returns after a block that returns.
        if self._entered is None:
            raise BlockRefused("This 'db.atomic()' block was left before it was entered.")
        (unit, block), self._entered = self._entered, None
        ours = _is_for(self, error)
        if ours:
            block.set_rollback_only()
        kept = ours or (error is not None and self._units.is_redirect(error))
        unit.end_block(block, None if kept else error)
        return ours


def _is_for(block: object, error: BaseException | None) -> bool:
    """Whether *error* is the ``Rollback`` that undoes *block*."""
    return isinstance(error, Rollback) and (error.block is None or error.block is block)


class Atomic(AtomicBlock):
    """What ``db.atomic()`` returns: a context manager, or a decorator. See ``Database.atomic``."""

    def __init__(
        self,
        units: UnitSource,
        *,
        durable: bool = False,
        isolation_level: IsolationLevel | None = None,
        read_only: bool = False,
        retries: int = 0,
    ) -> None:
        self._retries = retries_option(retries, "'retries' of 'db.atomic(...)'")
        wanted = {
            "durable": durable,
            "isolation_level": isolation_level is not None,
            "read_only": read_only,
            "retries": bool(retries),
        }
        level = level_option(isolation_level, "'isolation_level' of 'db.atomic(...)'")
        options = UnitOptions(isolation_level=level, read_only=read_only)
        super().__init__(units, options, [name for name, is_wanted in wanted.items() if is_wanted])

    def __enter__(self) -> Session:
        if self._retries:
            raise BlockRefused(
                "'with db.atomic(retries=...)' cannot be run again: Python runs the lines of a"
                " 'with' block once. Put the work into a function, and write"
                " '@db.atomic(retries=...)' above it."
            )
        return super().__enter__()

    def __call__(self, function: F) -> F:
        _refuse_unsuitable(function)
        if inspect.iscoroutinefunction(function):
            return cast(F, self._wrap_coroutine(function))

        @wraps(function)
        def atomic(*args: Any, **kwargs: Any) -> Any:
            attempt, before = 1, self._commits()
            while True:
                try:
                    with self._another():
                        return _completed(function(*args, **kwargs), function)
                except Exception as error:
                    if not self._is_repeated(error, attempt, before):
                        raise
                else:
                    return None  # undone by 'Rollback'
                time.sleep(self._pause(attempt))
                attempt += 1

        return cast(F, atomic)

    def _wrap_coroutine(self, function: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        from asyncio import sleep  # takes long to import, and few need it

        @wraps(function)
        async def atomic(*args: Any, **kwargs: Any) -> Any:
            attempt, before = 1, self._commits()
            while True:
                try:
                    with self._another():
                        return await function(*args, **kwargs)
                except Exception as error:
                    if not self._is_repeated(error, attempt, before):
                        raise
                else:
                    return None
                await sleep(self._pause(attempt))
                attempt += 1

        return atomic

    def _another(self) -> AtomicBlock:
        """A block of the same kind for one call; calls may be nested, or run in many threads."""
        return AtomicBlock(self._units, self._options, self._transaction_options)

    def _is_repeated(self, error: Exception, attempt: int, before: int) -> bool:
        if not self._retries or not _retry.is_conflict(error) or self._commits() != before:
            return False
        if attempt > self._retries:
            _retry.note(error, attempt)
            return False
        self._units.unit().note_retry(error, attempt + 1)
        return True

    def _commits(self) -> int:
        """The number of COMMITs since the count began; only retries need it."""
        return len(self._units.unit().count_commits()) if self._retries else 0

    def _pause(self, attempt: int) -> float:
        return _retry.pause_before(attempt + 1, self._units.retry_pause)


def _refuse_unsuitable(function: Callable[..., Any]) -> None:
    if isinstance(function, (staticmethod, classmethod)):  # of these, only the first is callable
        raise ConfigError(
            "'@db.atomic' was put above '@staticmethod' or '@classmethod'. Write it below, directly"
            " above the 'def'."
        )
    if not callable(function):
        raise ConfigError(
            f"'@db.atomic' was put on {shown(function)}, which is not a function. Write"
            " '@db.atomic' or '@db.atomic(...)' above a 'def', or 'with db.atomic():'."
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigError(
            f"'@db.atomic' was put on the generator function {function.__qualname__!r}, whose lines"
            " run when its caller asks for them, perhaps never to the end. Write 'with"
            " db.atomic():' around the loop that uses it, or return a list."
        )


def _completed(result: Any, function: Callable[..., Any]) -> Any:
    """Refuse a result whose code would run after the block.

    :raises ConfigError: *result* is a coroutine or a generator.
    """
    if inspect.iscoroutine(result) or inspect.isgenerator(result):
        name = getattr(function, "__qualname__", repr(function))
        what = "generator" if inspect.isgenerator(result) else "coroutine"
        result.close()
        raise ConfigError(
            f"{name!r} under '@db.atomic' returned a {what}, whose lines would run when the block"
            " is over. Put '@db.atomic' directly above the 'async def', below other decorators;"
            " around a generator, write 'with db.atomic():' where it is used."
        )
    return result


def _why_not_nested(names: Sequence[str], unit: UnitOfWork, *, in_request: bool) -> str:
    what = " and ".join(f"'{name}'" for name in names)
    around = "another 'db.atomic()' block" if unit.blocks else "a request, whose unit is running"
    for_view = " and ".join(f"'{name}'" for name in names if name != "durable")
    instead = ", or give it to the outermost block"
    if in_request:  # whose blocks are all savepoints
        instead = f", or write '@db.unit(...)' with {for_view} above the view" if for_view else ""
    return (
        f"'db.atomic()' was given {what}, which only a whole transaction can have, inside {around}."
        f" Nothing was done. Leave the option out here{instead}."
    )


def _refuse_earlier_work(unit: UnitOfWork) -> None:
    session = unit.session
    if unit.rollback_only:
        raise RollbackOnly(
            "'db.atomic()' is refused: 'db.set_rollback_only()' was called for this unit of work,"
            " so nothing of it will be stored. Nothing was done. To undo one block, call it inside."
        )
    if not session.in_transaction():
        return
    if has_begun_by_hand(session):
        raise BlockRefused(
            "'db.atomic()' was written inside 'with db.session.begin():' or 'begin_nested()', whose"
            " transaction it would end. Nothing was done. Write 'with db.atomic():' for the outer"
            " one, too; inside another, it is a savepoint."
        )
    work = [*session.record.flushed, *pending(session)]
    if work or session.record.effect is StatementEffect.WRITE:
        what = ", ".join(f"{name} ({kind})" for name, kind in work[:5]) or "SQL statements"
        raise BlockRefused(
            f"'db.atomic()' would commit more than its own work: {what} came before it in this"
            " context, uncommitted. Nothing was done. Move it into the block, or commit it first"
            " with 'db.session.commit()'."
        )


def _prepare(unit: UnitOfWork, units: UnitSource, options: UnitOptions) -> None:
    """Apply *options* to the next transaction of *unit* only.

    :raises BlockRefused: the running transaction may have written, so it is too late for them.
    """
    session = unit.session
    if session.in_transaction() and session.record.effect is StatementEffect.READ:
        # Begin a new transaction: objects read before may be out of date and are read again.
        session.rollback_unchecked()
    engines, routes, read_only, _ = unit.terms
    if options.of_transaction:
        if session.in_transaction():
            raise BlockRefused(
                "'db.atomic()' was given an isolation level or 'read_only', and the transaction of"
                " this context has begun already, with a statement that may have written. Nothing"
                " was done. Commit first, with 'db.session.commit()'."
            )
        engines, routes = units.engines_for(options)
    read_only = read_only or options.read_only
    unit.set_terms_once(Terms(engines, routes, read_only, will_write=not read_only))


class Independent:
    """The context manager that ``Database.independent()`` returns; see there."""

    def __init__(self, units: UnitSource) -> None:
        self._units = units
        self._unit: UnitOfWork | None = None

    def __enter__(self) -> Session:
        if self._unit is not None:
            raise BlockRefused(
                "This 'db.independent()' block is open already. Write 'with db.independent() as"
                " session:' again instead of keeping the object."
            )
        self._unit = self._units.new_unit()
        return self._unit.session

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> bool | None:
        unit, self._unit = cast(UnitOfWork, self._unit), None
        try:
            if error is None or self._units.is_redirect(error):
                unit.commit()
        finally:
            unit.end(error, warn=False)
        return _is_for(self, error)


class ExplicitCommit:
    """The context manager that ``Database.explicit_commit()`` returns; see there."""

    def __init__(self, units: UnitSource, mode: str) -> None:
        self._units = units
        self._mode = reading.explicit_commit(mode, "The mode of 'db.explicit_commit(...)'")
        self._before: list[tuple[UnitOfWork, str | CommitModes]] = []

    def __enter__(self) -> None:
        unit = self._units.unit()
        self._before.append((unit, unit.set_explicit_commit(self._mode)))

    def __exit__(self, *_: object) -> None:
        unit, mode = self._before.pop()
        unit.set_explicit_commit(mode)
