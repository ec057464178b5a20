"""Revisions that run, one after the other: which functions of a file, how long, and what failed."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from .._binds import DEFAULT
from ._models import part_name


@dataclass(frozen=True)
class Step:
    """One revision on one engine.

    :ivar direction: ``"upgrade"``, ``"downgrade"`` or ``"stamp"``.
    :ivar seconds: how long it took; None while it runs.
    """

    engine: str
    revision: str
    message: str
    direction: str
    seconds: float | None = None


Report = Callable[[Step], object]


class Travel:
    """From revision to revision: what Alembic calls for the steps, engine by engine.

    :param steps: from the heads of a database to the steps that it needs.
    :param engine_of: the name of the engine of a ``MigrationContext``.
    :param report: is given each step when it starts, and again when it has ended.
    :ivar done: the steps that have ended.
    :ivar at: the step that is running, or has failed.
    """

    def __init__(
        self,
        steps: Callable[[Any], Iterable[Any]],
        engine_of: Callable[[Any], str],
        report: Report,
    ) -> None:
        self.done: list[Step] = []
        self.at: Step | None = None
        self._steps = steps
        self._engine_of = engine_of
        self._report = report

    def __call__(self, heads: Any, context: Any) -> Iterator[Any]:
        engine = self._engine_of(context)
        for step in self._steps(heads):
            self.at = _described(step, engine)
            self._report(self.at)
            start = time.perf_counter()
            yield step  # goes on when the transaction of the step has been committed
            ended = replace(self.at, seconds=time.perf_counter() - start)
            self.done.append(ended)
            self.at = None
            self._report(ended)


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
    return call


def _nothing() -> None:
    """What an older file has for a newer engine."""
