"""Functions that wait for the outcome of a transaction: ``on_commit`` and ``on_rollback`` (P10).

``on_commit`` hooks run after the COMMIT, never at the release of a savepoint. If the savepoint in
which hooks were added is rolled back, its ``on_rollback`` hooks run and the others are dropped.
When it is released, the hooks belong to the surrounding block.

A session has none of this until the first function is added: its listeners cost nothing before.

Nothing here knows Flask.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import event
from sqlalchemy.orm import InstanceState, Session, SessionTransaction

from .._transaction import sqlalchemy_private
from ..errors import HookRefused, shown

logger = logging.getLogger(__name__)


class Hook(NamedTuple):
    """A function that waits for the outcome of a transaction.

    :ivar on_commit: for the commit; else for the rollback.
    :ivar function: what ``db.on_commit()`` or ``db.on_rollback()`` was given.
    :ivar args: its positional arguments.
    :ivar kwargs: its keyword arguments.
    """

    on_commit: bool
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self) -> None:
        """Call the function with its arguments."""
        self.function(*self.args, **self.kwargs)


RunHook: TypeAlias = Callable[[Hook], None]
"""Runs a hook: :meth:`Hook.run`, or what stands in for it for a while."""


class OutcomeListener:
    """Learns how each transaction of a session ends, and each savepoint."""

    def __init__(self, session: Session) -> None:
        self._committing: SessionTransaction | None = None
        event.listen(session, "after_commit", self._note_commit)
        event.listen(session, "after_transaction_end", self._note_end)

    def note_outcome(
        self, session: Session, transaction: SessionTransaction, *, committed: bool
    ) -> None:
        """Act on the end of *transaction*, which may be a savepoint. The session can be used."""
        raise NotImplementedError

    def _note_commit(self, session: Session) -> None:
        # SQLAlchemy sends the same event for a RELEASE as for a COMMIT.
        self._committing = session.get_nested_transaction() or session.get_transaction()

    def _note_end(self, session: Session, transaction: SessionTransaction) -> None:
        # In the other events the session cannot be used, and a hook may want to.
        committed = self._committing is transaction
        if committed:
            self._committing = None
        self.note_outcome(session, transaction, committed=committed)


class CommitHooks(OutcomeListener):
    """The hooks of one unit.

    :param run: called with each hook whose time has come.
    :param before_settling: called when a transaction of *session* has ended, before its hooks run.
    :param on_error: called with each hook that has raised an exception.
    """

    def __init__(
        self,
        session: Session,
        run: RunHook,
        before_settling: Callable[[], None],
        on_error: Callable[[Hook, Exception], None],
    ) -> None:
        super().__init__(session)
        self._run_hook = run
        self._before_settling = before_settling
        self._on_error = on_error
        self._kept_count = 0  # the number of hooks that survive a rollback
        self._waiting: list[Hook] = []
        # The number of hooks at each savepoint; one without an entry was set before the first.
        self._counts: dict[SessionTransaction, int] = {}
        event.listen(session, "after_transaction_create", self._note_savepoint)

    def __len__(self) -> int:
        """The number of waiting hooks."""
        return len(self._waiting)

    def add(self, hook: Hook) -> None:
        self._waiting.append(hook)

    def settle(self, *, committed: bool) -> None:
        """Run the hooks for this outcome and drop the other ones."""
        self._run(self._take(0 if committed else self._kept_count, committed=committed))

    @contextmanager
    def keeping(self, number: int) -> Iterator[None]:
        """Let the first *number* hooks survive a rollback: they are older than the block."""
        self._kept_count = number
        try:
            yield
        finally:
            self._kept_count = 0

    def _take(self, start: int, *, committed: bool) -> list[Hook]:
        taken, self._waiting[start:] = self._waiting[start:], []
        return [hook for hook in taken if hook.on_commit is committed]

    # Events -----------------------------------------------------------------------------------

    def _note_savepoint(self, _session: Session, transaction: SessionTransaction) -> None:
        if transaction.nested:
            self._counts[transaction] = len(self._waiting)

    def note_outcome(
        self, session: Session, transaction: SessionTransaction, *, committed: bool
    ) -> None:
        if transaction.parent is None:
            self._before_settling()
            self.settle(committed=committed)
        elif transaction.nested:
            count = self._counts.pop(transaction, self._kept_count)
            if not committed:
                self._run(self._take(count, committed=False))

    def _run(self, hooks: list[Hook]) -> None:
        """Run *hooks* in their order. One that fails is reported, and the rest run."""
        for number, hook in enumerate(hooks, 1):
            try:
                self._run_hook(hook)
            except Exception as error:  # noqa: PERF203  # each by itself
                self._on_error(hook, error)
            except BaseException:  # the process may be about to end; what is stored stays stored
                self._run(hooks[number:])
                raise


def log_failure(hook: Hook) -> None:
    """Log that *hook* has raised the exception that is being handled."""
    logger.exception(
        "%s failed. It was added by db.%s; the transaction is over, and stays as it is.",
        _name(hook.function),
        _adder(hook.on_commit),
    )


def checked(
    on_commit: bool, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Hook:
    """
    :raises HookRefused: *function* cannot be called, or one of the arguments is an ORM object.
    """
    name = _adder(on_commit)
    if not callable(function):
        raise HookRefused(
            f"'db.{name}' was given {shown(function)}, which cannot be called. Write"
            f" 'db.{name}(function, argument, ...)', without calling the function."
        )
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004
    ):
        raise HookRefused(
            f"'db.{name}' was given the coroutine function {_name(function)!r}, which would never"
            " be awaited. Pass an ordinary function, which may start a task or put a job into a"
            " queue."
        )
    for argument in (*args, *kwargs.values()):
        if isinstance(sqlalchemy_private.state_of(argument), InstanceState):
            raise HookRefused(
                f"'db.{name}({_name(function)}, ...)' was given an object of the model"
                f" {type(argument).__name__!r}. When the function runs, the transaction is over,"
                " and the object may be out of date or have no session. Pass its primary key, and"
                " load it again."
            )
    return Hook(on_commit, function, args, kwargs)


def _adder(on_commit: bool) -> str:
    return "on_commit" if on_commit else "on_rollback"


def _name(function: Callable[..., Any]) -> str:
    while isinstance(function, partial):  # its repr() shows the arguments
        function = function.func
    return getattr(function, "__qualname__", None) or f"a {type(function).__qualname__}"
