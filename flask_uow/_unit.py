"""The unit of work: one session from its first use to its end, and what became of it.

::

                  commit()                 the work so far is stored; more may follow
        ┌──────┐  rollback()               the work so far is undone; more may follow
    ───►│ open │  fail()                   an exception left the view: undone, if there was any
        └──┬───┘  release()                the context is over, a streamed body is still to come
           │
           │ end()
           ▼
        ┌───────┐
        │ ended │  the session refuses to be used, its connection is back in the pool
        └───────┘

``commit()`` is the only call that may raise. The others run where an error is already on its
way, which must not be hidden by theirs: they log it.

Nothing here knows Flask.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from ._effects import Effect
from ._options import CommitRule
from ._session import UnitSession, pending
from .errors import DiscardedWork

logger = logging.getLogger("flask_uow")


class UnitOfWork:
    """One session and the state of its work.

    :ivar session: the session; it opens a transaction, and asks the pool for a connection, with
        its first statement.
    :ivar rule: when a finished request commits by itself; set when the unit opens.
    :ivar home: what the unit was opened in; opaque here.
    :ivar place: the code and the line of the app that opened it.
    :ivar failed: an exception has left the view, perhaps before the unit was opened; so what is
        written from now on is the error handler's own.
    :ivar finished: the request has been answered; nothing commits this unit any more.
    :ivar streaming: the body of the response is still to be sent when the context ends.
    """

    place: tuple[Any, int | None] = (None, None)
    failed = False
    finished = False
    streaming = False

    def __init__(self, session: UnitSession, rule: CommitRule, home: object = None) -> None:
        self.session = session
        self.rule = rule
        self.home = home

    @property
    def has_work(self) -> bool:
        """Is there anything that a commit would store?"""
        session = self.session
        if not session.in_transaction():  # also add() and a changed attribute begin one
            return False
        if session.activity.effect is not Effect.READ:
            return True
        return bool(session.new or session.dirty or session.deleted)

    def commit(self) -> None:
        """Store the work so far. Objects that were loaded stay readable (P8).

        :raises SQLAlchemyError: the flush or the COMMIT failed. Nothing is rolled back here: who
            calls decides what the failure means, then calls :meth:`fail`.
        """
        if self.session.in_transaction():
            self.session.commit_keeping_objects()

    def rollback(self) -> None:
        """Undo the work since the last commit."""
        if self.session.is_inherited:  # a forked child; the parent goes on with it
            return
        try:
            self.session.rollback()
        except Exception:
            logger.exception("The rollback of a unit of work failed; its connections are dropped.")
            # A session that was interrupted between two of its states refuses to roll back, and
            # its transaction would still be there for the commit of an error handler's work.
            self.invalidate()

    def fail(self, error: BaseException) -> None:
        """Take note of an exception that left the view, before anybody handles it (P4).

        A unit that has only read is left alone: the error page still has its loaded user.
        """
        self.failed = True
        self.session.rollback_only = False  # spoken of the work that is undone here
        if self.has_work or self.session.activity.error or isinstance(error, SQLAlchemyError):
            self.rollback()

    def release(self, error: BaseException | None = None, *, warn: bool = True) -> None:
        """Undo what nobody committed and give the connection back; the session can go on.

        Loaded objects stay attached, so that a streamed body can lazy-load from them (P9).

        :param error: what ended the context, if it was an exception.
        :param warn: name what is undone. An exception is loud enough by itself.
        """
        if not self.session.in_transaction() or self.session.is_inherited:
            return
        unsaved = self._unsaved() if warn else None
        if isinstance(error, (Exception, GeneratorExit, type(None))):
            self.rollback()
        else:
            # It may have struck in the middle of a reply: the protocol state is unknown.
            self.invalidate()
        if unsaved:
            _warn(unsaved)

    def end(self, error: BaseException | None = None, *, warn: bool = True) -> None:
        """Give everything back, for good. The parameters are those of :meth:`release`."""
        # First: a thread that is inside just now may not begin anew behind our back.
        self.session.ended = True
        if self.session.is_inherited:
            return
        try:
            self.release(error, warn=warn)
        finally:
            try:
                self.session.close()
            except Exception:
                logger.exception("A session failed to close; its connection is dropped.")
                self.invalidate()

    def invalidate(self) -> None:
        """Drop the connections of this unit instead of giving them back to the pool."""
        connections = self.session.connections.values()
        try:
            self.session.invalidate()
        except Exception:
            logger.exception("A session failed to drop its connections; now one by one.")
        for connection in connections:
            try:
                if not connection.closed:
                    connection.invalidate()
                    connection.close()
            except Exception:  # noqa: PERF203  # each by itself
                logger.exception("A connection of a unit of work could not be dropped.")

    def _unsaved(self) -> Counter[tuple[str, str]]:
        """What is lost if the transaction is rolled back now."""
        asked_for = self.rule == "explicit" and self.finished and not self.streaming
        if self.session.rollback_only or asked_for:
            return Counter()
        activity = self.session.activity
        unsaved = Counter([*activity.flushed, *pending(self.session)])
        if activity.effect is Effect.WRITE and not unsaved:
            unsaved["SQL statements", "sent with execute()"] += 1
        return unsaved


def _warn(unsaved: Counter[tuple[str, str]]) -> None:
    what = ", ".join(
        f"{count} {name} ({kind})" if name != "SQL statements" else f"{name} ({kind})"
        for (name, kind), count in sorted(unsaved.items())
    )
    warnings.warn(
        f"A Flask context ended with work that nobody committed, and it was rolled back: {what}."
        " Only a request that Flask dispatches commits by itself. Elsewhere (command line, shell,"
        " worker, socket event, streamed body) say 'db.session.commit()' when the work is done.",
        DiscardedWork,
        stacklevel=2,  # whoever lost the work is not on the stack: it is Flask that ends contexts
    )
