"""Revisions that run, one after the other: which functions of a file, how long, and what failed."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial, wraps
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Connection, event

from ..._transaction.routing import DEFAULT
from ..._transaction.statements import StatementEffect, TransactionEnd, reader_of, transaction_end
from ...errors import MigrationError, escaped
from .._env import alembic_private
from .._env.metadata import part_name
from .._env.request import EnvRequest
from ..results import OnStep, Step
from .sqlite import ForeignKeys, refuse_lossy_copies

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext, MigrationStep


FindSteps = Callable[[object], "list[MigrationStep]"]
"""From the heads of a database to the steps that it needs."""


class MigrationRun:
    """From revision to revision: what Alembic calls for the steps, engine by engine.

    :param on_step: is given each step when it starts, and again when it has ended.
    :param confirm: raises if the lock was lost; called between two steps.
    :ivar done: the steps that have ended.
    :ivar current_step: the step that is running, or has failed.
    :ivar is_first: it is the first one of an engine that had no revision.
    :ivar heads: by engine, where its database is said to be.
    """

    def __init__(
        self,
        find_steps: FindSteps,
        request: EnvRequest,
        on_step: OnStep,
        confirm: Callable[[], object],
    ) -> None:
        self.done: list[Step] = []
        self.current_step: Step | None = None
        self.is_first = False
        self.heads: dict[str, set[str]] = {}
        self._find_steps = find_steps
        self._request = request
        self._on_step = on_step
        self._confirm = confirm
        self._transactions: Transactions | None = None

    @property
    def commits(self) -> int:
        """How often the running revision has committed by itself."""
        return 0 if self._transactions is None else self._transactions.commits

    def __call__(self, heads: object, context: MigrationContext) -> Iterator[MigrationStep]:
        engine = self._request.name_of(context)
        if engine not in self._request.engines:
            return
        transactions = self._watch(engine, context, is_new=not heads)
        self.is_first = not heads
        for step in self._find_steps(heads):
            if self.done:
                self._confirm()
            self.current_step = _described(step, engine)
            self._on_step(self.current_step)
            start = time.perf_counter()
            alembic_private.forget_created_types(context)
            transactions.begin()
            yield step  # Alembic continues here when it has committed the transaction of the step
            transactions.end()
            seconds = time.perf_counter() - start
            empty = inspect.unwrap(step.migration_fn) is _nothing
            ended = replace(self.current_step, seconds=seconds, empty=empty)
            self.done.append(ended)
            self.current_step, self.is_first = None, False
            self._on_step(ended)

    def _watch(self, engine: str, context: MigrationContext, *, is_new: bool) -> Transactions:
        """Check at the end of each step, before its commit, what it has done.

        Here and not in ``run()``, because an ``env.py`` that does not call it comes by here, too.
        """
        connection: Any = context.connection
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
    direction = _direction(step)
    if direction == "stamp":
        return Step(engine, ", ".join(step.to_) or "base", "", direction)
    return Step(engine, str(step.revision.revision), escaped(step.revision.doc or ""), direction)


def _direction(step: Any) -> str:
    if not hasattr(step, "revision"):
        return "stamp"
    return "upgrade" if step.is_upgrade else "downgrade"


# Which functions -------------------------------------------------------------------------------


def functions_for_engine(
    steps: alembic_private.Steps, engine: str, *, main: bool
) -> alembic_private.Steps:
    """Let each of *steps* run what its file has for *engine*.

    A file has ``upgrade_<engine>()`` for each engine, as files for several do, or one ``upgrade()``
    for the *main* engine, as files do that are older than the second engine.
    """

    def chosen(*arguments: object, **options: object) -> Iterator[Any]:
        for step in cast("Iterator[Any]", steps(*arguments, **options)):
            direction = _direction(step)
            if direction != "stamp":
                function = _function(step.revision.module, direction, engine, main)
                step.migration_fn = _without_arguments(function, direction)
            yield step

    return chosen


def _function(module: ModuleType, direction: str, engine: str, main: bool) -> Callable[..., object]:
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


def _without_arguments(function: Callable[..., object], name: str) -> Callable[..., None]:
    """*function* without what Alembic calls it with; Alembic writes the *name* into ``--sql``."""

    @wraps(function)
    def call(**_: object) -> None:
        function()

    call.__name__ = name
    return call


def _nothing() -> None:
    """What an older file has for a newer engine."""


# Transactions -------------------------------------------------------------------------------------


class Transactions:
    """Those of one connection, while revisions run on it.

    The listeners are on the ``Connection`` object, and end with it.

    :param is_new: the table for the note has just been made.
    :ivar commits: how often the running revision has committed by itself, ``autocommit_block()``
        included.
    """

    def __init__(self, context: MigrationContext, *, is_new: bool) -> None:
        self.commits = 0
        self._rolled_back = False
        self._is_running = False
        self._has_written = is_new
        self._context = context
        self._connection = connection = cast(Connection, context.connection)
        self._effect_of = reader_of(connection.dialect.name).effect_of
        # With one transaction for all revisions, it has begun already, and 'env.py' commits it.
        self._outer = connection.get_transaction()
        self._is_foreign = alembic_private.is_in_foreign_transaction(context)
        event.listen(connection, "commit", self._on_commit)
        event.listen(connection, "rollback", self._on_rollback)
        event.listen(connection, "before_cursor_execute", self._on_statement)

    def begin(self) -> None:
        """Begin to watch a revision."""
        self.commits, self._rolled_back, self._is_running = 0, False, True

    def check(self) -> None:
        """Look at what a revision did, when it has run and is noted.

        :raises MigrationError: its work cannot be stored as a whole any more.
        """
        self._is_running = False
        if self._rolled_back:
            raise MigrationError(
                "It has rolled back its own transaction, and what it had done before that is lost."
                " To undo a part, use 'with op.get_bind().begin_nested():'"
            )
        if self._is_foreign and self._connection.get_transaction() is not self._outer:
            raise MigrationError(
                "It has committed by itself, and this 'env.py' has one transaction for all"
                " revisions. Take the commit out, or replace all of 'env.py' by 'from"
                " flask_uow.migrations import run' and 'run()', where each revision has its own"
            )

    def end(self) -> None:
        """Commit what has begun after the transaction of the revision."""
        transaction = self._connection.get_transaction()
        known = self._outer, alembic_private.transaction_of(self._context)
        if transaction is not None and transaction not in known:
            transaction.commit()

    def _on_commit(self, _connection: object) -> None:
        self._has_written = False
        self.commits += self._is_running

    def _on_rollback(self, _connection: object) -> None:
        self._rolled_back |= self._has_written
        self._has_written = False

    def _on_statement(
        self, connection: object, _cursor: object, statement: str, *_: object
    ) -> None:
        if self._is_running and self._rolled_back and self._context.version_table in statement:
            self.check()  # that table may have gone with it, and the error would be a riddle
        end = transaction_end(statement)
        if end is None:
            self._has_written |= self._effect_of(statement) is not StatementEffect.READ
        elif end is TransactionEnd.COMMIT:
            self._on_commit(connection)
        else:
            self._on_rollback(connection)
