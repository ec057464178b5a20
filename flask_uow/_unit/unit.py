"""The unit of work: one session from its first use to its end, and its outcome.

::

    ┌─────────┐    commit()     the work so far is stored; more may follow
    │ RUNNING │    rollback()   the work so far is undone; more may follow
    └────┬────┘    fail()       an exception left the view: the work so far is undone
         │ respond()            nothing commits automatically any more
         ▼
    ┌───────────────────────┐
    │ RESPONDED │ STREAMING │   release() ends the transaction before a body that is streamed
    └────┬──────────────────┘
         │ end()                from each phase
         ▼
    ┌───────┐
    │ ENDED │   the session refuses to be used, and its connection is back in the pool
    └───────┘

Before its end there may be blocks (``db.atomic()``), one inside the other: ``begin_block()``
and ``end_block()``. In a unit that does not commit automatically, the outermost block is the whole
transaction. Every other block is a part of one: a savepoint, if the transaction has done something
before it.

``commit()`` and the two methods of a block may raise. The other methods may run while an error
propagates. They log their own errors, so that these do not hide the first one.

Nothing here knows Flask.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from types import CodeType
from typing import Any, NamedTuple

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import SessionTransaction

from .._config.options import CommitRule
from .._config.settings import CommitModes
from .._engine import lost_transactions
from .._engine.checkouts import source_location
from .._transaction import sqlalchemy_private
from .._transaction.statements import StatementEffect
from ..errors import BlockRefused, DiscardedWork, Rollback, escaped
from .commit_hooks import CommitHooks, Hook, RunHook, log_failure
from .pending import pending
from .session import UnitSession
from .state import ENDED, RESPONDED, STREAMING, Block, UnitState

logger = logging.getLogger(__name__)


class Terms(NamedTuple):
    """How the transactions of a unit run: what a view or a block has asked for.

    :ivar engines: the engines by name; their variants for an isolation level, for instance.
    :ivar routes: see :class:`UnitSession`.
    :ivar read_only: writes are refused.
    :ivar will_write: they are expected to write.
    """

    engines: Mapping[str, Engine]
    routes: dict[Any, Engine]
    read_only: bool
    will_write: bool


class UnitOfWork(UnitState):
    """One session and the state of its work.

    :ivar session: the session; it asks the pool for a connection with its first statement, and
        begins a transaction with the first one that needs it.
    :ivar rule: when a request commits automatically; set when the unit opens.
    :ivar home: the context in which the unit was opened; opaque here.
    :ivar place: the code and the line of the app that opened it.
    :ivar thread: the thread that opened it.
    """

    defers = True
    _terms_before: Terms | None = None

    def __init__(
        self,
        session: UnitSession,
        rule: CommitRule,
        home: object = None,
        *,
        will_write: bool = False,
        failed: bool = False,
        place: tuple[CodeType | None, int | None] = (None, None),
        thread: int | None = None,
    ) -> None:
        self.session = session
        self.rule = rule
        self.home = home
        self.will_write = will_write
        self.failed = failed
        self.place = place
        self.thread = thread
        session.join(self)

    @property
    def has_work(self) -> bool:
        """Whether a commit would store anything, or would have without a failed flush."""
        session = self.session
        if not session.in_transaction():  # also add() and a changed attribute begin one
            return False
        if session.record.effect is not StatementEffect.READ:
            return True
        # A mapper event of the app may have ended a flush before its first statement.
        return bool(session.new or session.dirty or session.deleted) or not session.is_active

    def commit(self) -> None:
        """Store the work so far. Objects that were loaded stay readable (P8).

        :raises BlockRefused: a block is still open.
        :raises SQLAlchemyError: the flush or the COMMIT failed. Nothing is rolled back here: the
            caller decides what the failure means, then calls :meth:`fail`.
        """
        if self.blocks:
            raise BlockRefused(_OVERLAP)
        if self.session.in_transaction():
            self.session.commit_keeping_objects()  # which runs the hooks
        else:
            self.session.settle_idle(committed=True)

    def rollback(self) -> None:
        """Undo the work since the last commit."""
        if self.session.is_inherited:  # a forked child: the parent continues to use it
            return
        self.session.settle_idle(committed=False)
        try:
            self.session.rollback_for_unit()
        except Exception:
            logger.exception("The rollback of a unit of work failed; its connections are dropped.")
            # A session that was interrupted during a state change refuses to roll back, and
            # its transaction would still be there for the commit of an error handler's work.
            self.invalidate()

    def fail(self, error: BaseException | None = None) -> None:
        """Undo the work so far: the view has failed, or its work is not to be stored (P4).

        A unit that has only read is left alone: the error page still has its loaded user.

        :param error: the exception that left the view, or that ended its commit.
        """
        self.failed = True
        self.will_write = False
        self.blocks = ()  # if one was never left
        self.rollback_only = False  # the mark was about the work that is undone here
        if self.has_work or self.session.record.error or isinstance(error, SQLAlchemyError):
            self.rollback()
        elif self.hooks:
            self.hooks.settle(committed=False)

    def expire(self, *, end_reads: bool) -> None:
        """Expire objects, but not those with changes, because another unit has committed (P2).

        :param end_reads: also end a transaction that has only read.
        """
        session = self.session
        if session.owner_thread is not None or session.is_inherited:  # inside a flush of its own
            return
        has_begun = session.in_transaction() and not session.record.deferred
        if end_reads and has_begun and not self._is_engaged:
            self.rollback()
            return
        try:
            session.expire_unchanged()
        except Exception:  # of a listener of the app; the COMMIT that is the cause has succeeded
            logger.exception("Objects of an enclosing unit of work could not be expired.")

    @property
    def _is_engaged(self) -> bool:
        """Whether the transaction is needed: for work, or because the app has asked for it."""
        is_promised = self.blocks or self.hooks or has_begun_by_hand(self.session)
        return bool(self.has_work or is_promised or self.session.has_options)

    @property
    def is_undone(self) -> bool:
        """Whether nothing has happened since :meth:`fail`."""
        since = self.session.in_transaction() or self.hooks or self.blocks or self.rollback_only
        return self.failed and not since

    def retry(self, *, rollback_only: bool, will_write: bool) -> None:
        """Forget the failure: the view runs again, from the state before its first run."""
        self.failed, self.rollback_only, self.will_write = False, rollback_only, will_write

    def respond(self, *, streaming: bool) -> None:
        """Note that the response is final: nothing commits automatically any more."""
        if self.phase is not ENDED:  # a hook may have removed the session
            self.phase = STREAMING if streaming else RESPONDED
        self.explicit_commit = "allow"
        self.will_write = False

    def set_rollback_only(self) -> None:
        """Let the innermost block, or the whole unit, be rolled back at its end."""
        if self.blocks:
            self.blocks[-1].set_rollback_only()
        else:
            self.rollback_only = True

    def set_explicit_commit(self, mode: str | CommitModes) -> str | CommitModes:
        """Let ``commit()`` of the session do *mode*; return what it did before."""
        before, self.explicit_commit = self.explicit_commit, mode
        return before

    def count_commits(self) -> list[bool]:
        """Count each COMMIT on its connections from now on, also one that the app sends itself."""
        if self.commits is None:
            self.commits = []
            session = self.session
            session.give_way()  # those that it gets later are counted
            # Connections of a transaction that has ended are closed.
            for connection in session.connections.values() if session.in_transaction() else ():
                lost_transactions.count_commits_on(connection, self.commits)
        return self.commits

    # Terms ------------------------------------------------------------------------------------

    @property
    def terms(self) -> Terms:
        """How the next transaction will run."""
        session = self.session
        return Terms(session.engines, session.routes, self.read_only, self.will_write)

    def set_terms(self, terms: Terms) -> None:
        """Let all transactions from the next one on run like *terms*."""
        self.session.use(terms.engines, terms.routes)
        if terms.read_only is not self.read_only:
            self.session.refuse_flushes(terms.read_only)
        self.read_only, self.will_write = terms.read_only, terms.will_write

    def set_terms_once(self, terms: Terms) -> None:
        """Let the next transaction run like *terms*, until its end or that of its block."""
        self._terms_before = self.terms
        self.set_terms(terms)

    def _restore_terms(self) -> None:
        before, self._terms_before = self._terms_before, None
        if before is not None:
            self.set_terms(before)

    # The end ----------------------------------------------------------------------------------

    def release(self, error: BaseException | None = None, *, warn: bool = True) -> None:
        """Roll back uncommitted work and check the connection in; the session stays usable.

        Loaded objects stay attached, so that a streamed body can lazy-load from them (P9).

        :param error: what ended the context, if it was an exception.
        :param warn: name what is undone. Not needed if an exception propagates.
        """
        if not (self.session.in_transaction() or self.hooks) or self.session.is_inherited:
            return
        unsaved = self._unsaved() if warn else None
        if isinstance(error, (Exception, GeneratorExit, type(None))):
            self.rollback()
        else:
            # It may have interrupted the driver in the middle of a reply: the state is unknown.
            self.invalidate()
            if self.hooks:  # without a transaction, no event notified the hooks
                self.hooks.settle(committed=False)
        if unsaved:
            self.note_discarded(unsaved)

    def end(self, error: BaseException | None = None, *, warn: bool = True) -> None:
        """End the unit: close the session. The parameters are those of :meth:`release`."""
        if self.rule == "explicit" and self.phase is RESPONDED:
            warn = False  # the view has committed what it wanted
        # First, so that a thread inside the session cannot begin another transaction meanwhile.
        self.phase = ENDED
        if self.session.is_inherited:
            return
        try:
            if warn or self.rule != "explicit" or not self._is_only_closed(error):
                self.release(error, warn=warn)
        finally:
            try:
                self.session.end()
            except Exception:
                logger.exception("A session failed to close; its connection is dropped.")
                self.invalidate()

    def _is_only_closed(self, error: BaseException | None) -> bool:
        """Tell whether the end needs no rollback before the session is closed.

        An app that commits by itself expects what ``close()`` does: what it has loaded can be read
        after the end, and a rollback would expire it.
        """
        return not self.hooks and isinstance(error, (Exception, type(None)))

    def invalidate(self) -> None:
        """Drop the connections of this unit instead of giving them back to the pool."""
        connections = self.session.connections.values()
        try:
            self.session.invalidate_unchecked()
        except Exception:
            logger.exception(
                "A session failed to drop its connections; they are dropped one by one."
            )
        for connection in connections:
            try:
                if not connection.closed:
                    connection.invalidate()
                    connection.close()
            except Exception:  # noqa: PERF203  # each by itself
                logger.exception("A connection of a unit of work could not be dropped.")

    # Blocks -----------------------------------------------------------------------------------

    def begin_block(self, *, commits: bool) -> Block:
        """Begin a part that is all or nothing.

        :param commits: the unit does not commit automatically, so the end of the block does.
        """
        session = self.session
        # Before the first statement there is nothing to go back to: the whole transaction will do.
        # Nor is there after plain reads, which have no transaction. After another read it will not:
        # the snapshot and the locks of the transaction protect what was read.
        begun = session.begin_deferred(to_write=not self.read_only)
        needed = not commits and (begun or self.has_work or has_begun_by_hand(session))
        savepoint = session.begin_nested() if needed else None
        waiting = 0 if self.hooks is None else len(self.hooks)
        block = Block(savepoint, commits=commits, hooks_before=waiting)
        self.blocks = [*self.blocks, block]
        return block

    def end_block(self, block: Block, error: BaseException | None) -> None:
        """End *block*: keep its work, or undo it because of *error*.

        :raises Exception: the flush, the COMMIT or the rollback to the savepoint failed. If there
            was an *error*, that one is more important, and the other is logged.
        """
        try:
            self._end_block(block, error)
        finally:
            if block.commits:
                self._restore_terms()

    def _end_block(self, block: Block, error: BaseException | None) -> None:
        if block not in self.blocks:
            if error is None:
                raise BlockRefused(_OVERLAP)
            return  # undone together with the surrounding block
        is_last = self.blocks[-1] is block
        self.blocks = self.blocks[: self.blocks.index(block)]
        if error is None and not is_last:
            error = BlockRefused(_OVERLAP)
            self._undo(block, error)
            raise error
        if error is not None or block.rollback_only:
            self._undo(block, error)
            return
        try:
            self._keep(block)
        except BaseException as failure:
            self._undo(block, failure)
            raise

    def _keep(self, block: Block) -> None:
        if block.savepoint is not None:
            block.savepoint.__exit__(None, None, None)
        elif block.commits:
            self.commit()
        else:
            self.session.flush()  # its errors belong to the block

    def _undo(self, block: Block, error: BaseException | None) -> None:
        if block.savepoint is not None:
            _roll_back_to(block.savepoint, error)
            return
        with self.hooks.keeping(block.hooks_before) if self.hooks else nullcontext():
            if block.commits:
                self.release(error, warn=is_exit(error))
            else:
                self.rollback()

    def add_hook(self, hook: Hook, run: RunHook = Hook.run) -> None:
        """Let *hook* wait for the outcome.

        :param run: runs the hooks of this unit; that of its first hook counts.
        """
        if self.hooks is None:
            # The work of a hook no longer belongs to a block.
            self.hooks = CommitHooks(
                self.session,
                run,
                before_settling=self._restore_terms,
                on_error=self.note_failed_hook,
            )
        self.hooks.add(hook)

    def note_failed_hook(self, hook: Hook, error: Exception) -> None:
        """Note that *hook* has raised *error*, which is being handled."""
        log_failure(hook)

    def note_retry(self, error: BaseException, attempt: int) -> None:
        """Note that its work is about to run again, because of *error*.

        :param attempt: the number of the run that follows.
        """

    def note_discarded(self, work: Counter[tuple[str, str]]) -> None:
        """Note that *work* was rolled back because nothing has committed it."""
        _warn(work, *self.place)

    def _unsaved(self) -> Counter[tuple[str, str]]:
        """What is lost if the transaction is rolled back now."""
        if self.rollback_only:
            return Counter()
        record = self.session.record
        unsaved = Counter([*record.flushed, *pending(self.session)])
        if record.effect is StatementEffect.WRITE and not unsaved:
            unsaved["SQL statements", "sent with execute()"] += 1
        if self.hooks:
            unsaved["hook of db.on_commit() or on_rollback()", "not run"] += len(self.hooks)
        return unsaved


_OVERLAP = (
    "Two 'db.atomic()' blocks overlap, or one was never left: coroutines of one context that were"
    " in blocks at the same time ('asyncio.gather'), threads, or a generator that did not run to"
    " its end. The work of the blocks cannot be separated, so all of it is undone. A unit of"
    " work does one thing at a time: run the blocks one after the other, or give each a context of"
    " its own."
)


def is_exit(error: BaseException | None) -> bool:
    """Whether *error* is how a command reports success, such as ``SystemExit(0)``."""
    return isinstance(error, SystemExit) and not error.code


def has_begun_by_hand(session: UnitSession) -> bool:
    """Whether it is in ``with session.begin():`` or ``begin_nested()``, which end themselves."""
    return sqlalchemy_private.is_begun_by_with(session) or session.in_nested_transaction()


def _roll_back_to(savepoint: SessionTransaction, error: BaseException | None) -> None:
    # As a with statement would: it knows whether a failed flush has rolled back already.
    try:
        savepoint.__exit__(type(error or Rollback()), error, None)
    except Exception:
        if error is None:
            raise
        # The savepoint may have ended with the whole transaction; that was noticed already.
        logger.warning("The rollback to a savepoint failed, after another error.", exc_info=True)


_warned: dict[Any, Any] = {}  # what Python has shown: the registry of 'warnings'


def _warn(unsaved: Counter[tuple[str, str]], code: CodeType | None, line: int | None) -> None:
    """Log what was undone, and warn about it.

    :param code: what opened the unit, at *line*. The code that lost the work is not on the stack,
        because Flask ends contexts.
    """
    what = ", ".join(
        f"{count} {name} ({kind})" if name != "SQL statements" else f"{name} ({kind})"
        for (name, kind), count in sorted(unsaved.items())
    )
    is_logged = logger.hasHandlers()
    if is_logged:
        logger.warning(
            "Uncommitted work was rolled back: %s. Its unit of work was opened at %s.",
            escaped(what),
            source_location(code, line),
        )
    # Python shows a warning of one text and line once. Where logging is not configured, it would
    # print a record to stderr, beside the warning: there, the warning itself is shown each time.
    warnings.warn_explicit(
        f"A Flask context ended with uncommitted work, and it was rolled back: {escaped(what)}."
        " Only a request that Flask dispatches commits by itself. Elsewhere (command line, shell,"
        " worker, socket event, streamed body) do the work in 'with db.atomic():', which commits at"
        " its end, or call 'db.session.commit()'.",
        DiscardedWork,
        filename=__file__ if code is None else code.co_filename,
        lineno=line or 0,
        registry=_warned if is_logged else None,
    )
