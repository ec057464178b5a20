"""Revisions that run, one after the other: which functions of a file, how long, and what failed."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from ..._transaction.routing import DEFAULT
from .._env.metadata import part_name
from .sqlite import ForeignKeys
from .table_copies import refuse_lossy_copies
from .transactions import Transactions


@dataclass(frozen=True)
class Step:
    """One revision on one engine.

    :ivar direction: ``"upgrade"``, ``"downgrade"`` or ``"stamp"``.
    :ivar seconds: how long it took; None while it runs.
    :ivar empty: its file has nothing for this engine: it is older, or the engine has another name
        now. Known when it has ended.
    """

    engine: str
    revision: str
    message: str
    direction: str
    seconds: float | None = None
    empty: bool = False


Report = Callable[[Step], object]


class Travel:
    """From revision to revision: what Alembic calls for the steps, engine by engine.

    :param steps: from the heads of a database to the steps that it needs.
    :param engine_of: the name of the engine of a ``MigrationContext``.
    :param engines: the others are left alone.
    :param report: is given each step when it starts, and again when it has ended.
    :ivar confirm: raises if the lock was lost; asked before each step.
    :ivar done: the steps that have ended.
    :ivar at: the step that is running, or has failed.
    :ivar is_first: it is the first one of its engine, which has no revision.
    :ivar heads: by engine, where its database is said to be.
    """

    def __init__(
        self,
        steps: Callable[[Any], Iterable[Any]],
        engine_of: Callable[[Any], str],
        engines: Collection[str],
        report: Report,
    ) -> None:
        self.confirm: Callable[[], object] = lambda: None
        self.done: list[Step] = []
        self.at: Step | None = None
        self.is_first = False
        self.heads: dict[str, set[str]] = {}
        self._transactions: Transactions | None = None
        self._steps = steps
        self._engine_of = engine_of
        self._engines = engines
        self._report = report

    @property
    def commits(self) -> int:
        """How often the revision that is running has committed by itself."""
        return 0 if self._transactions is None else self._transactions.commits

    def __call__(self, heads: Any, context: Any) -> Iterator[Any]:
        engine = self._engine_of(context)
        if engine not in self._engines:
            return
        transactions = self._watch(engine, context, is_new=not heads)
        self.is_first = not heads
        for step in self._steps(heads):
            self.confirm()
            self.at = _described(step, engine)
            self._report(self.at)
            start = time.perf_counter()
            context.impl.memo.clear()  # SQLAlchemy notes there the types of PostgreSQL it has made
            transactions.begin()
            yield step  # goes on when the transaction of the step has been committed
            transactions.end()
            seconds = time.perf_counter() - start
            ended = replace(self.at, seconds=seconds, empty=runs_nothing(step))
            self.done.append(ended)
            self.at, self.is_first = None, False
            self._report(ended)

    def _watch(self, engine: str, context: Any, *, is_new: bool) -> Transactions:
        """Look at the end of each step, before its commit, at what it has done.

        Here and not in ``env.py``, because everybody's ``env.py`` comes by.
        """
        connection = context.connection
        self._transactions = transactions = Transactions(context, is_new=is_new)
        checks: list[Callable[[], object]] = [transactions.check]
        if connection.dialect.name == "sqlite":
            refuse_lossy_copies(connection)
            checks = [ForeignKeys(connection).check, *checks]

        def on_version_apply(*, heads: set[str], **_: object) -> None:
            for check in checks:
                check()
            self.heads[engine] = heads

        context.on_version_apply_callbacks = (*context.on_version_apply_callbacks, on_version_apply)
        return transactions


def _described(step: Any, engine: str) -> Step:
    if not _is_file(step):
        there = step.to_
        return Step(engine, ", ".join(there) or "base", "", "stamp")
    direction = "upgrade" if step.is_upgrade else "downgrade"
    return Step(engine, str(step.revision.revision), step.revision.doc or "", direction)


def _is_file(step: Any) -> bool:
    """Does a file run? (Or is a revision only noted?)"""
    return hasattr(step, "revision")


def parts(
    steps: Callable[..., Iterable[Any]], engine: str, *, main: bool
) -> Callable[..., Iterator[Any]]:
    """Let each of *steps* run what its file has for *engine*.

    A file has ``upgrade_<engine>()`` for each engine, as files for several do, or one ``upgrade()``
    for the *main* engine, as files do that are older than the second engine.
    """

    def chosen(*arguments: Any, **options: Any) -> Iterator[Any]:
        for step in steps(*arguments, **options):
            if _is_file(step):
                direction = "upgrade" if step.is_upgrade else "downgrade"
                part = _part(step.revision.module, direction, engine, main)
                step.migration_fn = _called(part, direction)
            yield step

    return chosen


def _part(module: Any, direction: str, engine: str, main: bool) -> Callable[..., object]:
    whole: Callable[..., object] = getattr(module, direction)
    if not inspect.signature(whole).parameters:
        return whole if main else _nothing
    # Flask-Migrate calls the default engine "".
    names = [part_name(engine), *([""] if engine == DEFAULT else [])]
    for name in names:
        own = getattr(module, f"{direction}_{name}", None)
        if own is not None:
            return cast("Callable[..., object]", own)
    if any(name.startswith(f"{direction}_") for name in vars(module)):
        return _nothing  # the file is older than this engine
    return partial(whole, engine)


def _called(function: Callable[..., object], name: str) -> Callable[..., None]:
    """*function* without what Alembic calls it with; it writes the *name* into ``--sql``."""

    def call(**_: object) -> None:
        function()

    call.__name__ = name
    setattr(call, _EMPTY, function is _nothing)
    return call


_EMPTY = "_flask_uow_empty"


def runs_nothing(step: Any) -> bool:
    """Has :func:`parts` found nothing in the file of *step*?"""
    return bool(getattr(getattr(step, "migration_fn", None), _EMPTY, False))


def _nothing() -> None:
    """What an older file has for a newer engine."""
