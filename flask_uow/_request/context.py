"""The current Flask context, and the unit of work that is kept on it.

A unit belongs to the innermost context: the request if there is one, else the app context (P2).
It is an attribute of that context object, so no two contexts share a unit, and the unit ends with
its context.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from threading import get_ident
from typing import Any

from flask import Flask, Request
from sqlalchemy import event
from sqlalchemy.orm import Session
from sqlalchemy.util import ScopedRegistry
from werkzeug.exceptions import HTTPException

from .._config.options import NO_OPTIONS, UnitOptions
from .._engine.checkouts import caller, caller_location, source_location
from .._unit.commit_hooks import Hook, RunHook
from .._unit.session import S, UnitSession
from .._unit.state import STREAMING, Phase
from .._unit.unit import UnitOfWork, is_exit
from ..errors import OutsideContext, SetupError, escaped
from ..signals import SIGNALS
from .app_state import EXTENSION, AppState, Variant
from .flask_private import (
    DISPATCHED_IN,
    HOME,
    SEPARATE_REQUEST_CONTEXT,
    Context,
    contexts_around,
    current_app_context,
    current_context,
    is_open,
    request_of,
)
from .observed import ObservedUnit
from .view_options import options_of

logger = logging.getLogger(__name__)

# Methods that promise not to change anything (RFC 9110, section 9.2.1).
_SAFE = frozenset(["GET", "HEAD", "OPTIONS", "TRACE"])


def is_dispatching(context: Context) -> bool:
    """Whether *context* is dispatching a request, so that its unit commits automatically.

    Not in an app context, and not in a request context that was pushed without dispatching it, as
    socket events and tests do.
    """
    return getattr(context, DISPATCHED_IN, None) is not None


def request_name(request: Request) -> str:
    """Name *request* by its rule: the path comes from the client, and may contain a token."""
    method, rule = escaped(request.method), request.url_rule
    if rule is None:
        return f"{method}, which no rule of the app matches"
    return f"{method} {rule.rule} (endpoint {rule.endpoint!r})"


_REMOVED_TOO_EARLY = (
    "'db.session.remove()' at %s came after the view and before the commit, so the work of the"
    " request is rolled back, whatever the status of its response. Leave the call out, because the"
    " session is closed when the request ends, or put it into a 'teardown_request' function."
)


_unit_class = UnitOfWork


def _choose_unit_class(*_: object, **__: object) -> None:
    """Let units report their outcomes as long as a signal has receivers; else it costs nothing."""
    global _unit_class  # noqa: PLW0603  # an attribute would be one more step for each unit
    is_heard = any(signal.receivers for signal in SIGNALS)
    _unit_class = ObservedUnit if is_heard else UnitOfWork


for _signal in SIGNALS:
    _signal.receiver_connected.connect(_choose_unit_class)
    _signal.receiver_disconnected.connect(_choose_unit_class)


class UnitRegistry(ScopedRegistry[S]):
    """Keeps the units of one ``Database``, each on its context."""

    # Each Database has its own attribute name, so none finds the unit of another.
    _names = map("_flask_uow_unit_{}".format, itertools.count())

    def __init__(self) -> None:
        self.key = next(self._names)
        self._failed = f"{self.key}_failed"
        self._run_hook: RunHook = Hook.run

    def __call__(self) -> S:
        """The session of the current unit.

        :raises OutsideContext: no Flask context is active.
        :raises SetupError: the app was not initialized with this ``Database``.
        :raises ConcurrentUse: another thread is inside the database with this unit.
        """
        context = self.current_context()
        unit: Any = getattr(context, self.key, None) or self._open(context)
        session = unit.session
        session.refuse_other_thread()
        return session  # type: ignore[no-any-return]

    def peek(self) -> UnitOfWork | None:
        """The current unit, if it was opened."""
        return self.unit_of(self.current_context())

    def unit_of(self, context: Context) -> UnitOfWork | None:
        """The unit that is kept on *context*, if it was opened."""
        return getattr(context, self.key, None)

    # What a pool asks: the protocol ``CheckoutContext``.

    current_context = staticmethod(current_context)

    # Whether the end of its request finishes the unit of a context.
    finishes = staticmethod(is_dispatching)

    def is_running(self, context: Context) -> bool:
        """Tell whether *context* is active, or has a unit for a body that is being streamed."""
        return is_open(context) or self.unit_of(context) is not None

    def has_location(self, context: Context) -> bool:
        """Tell whether a unit was opened on *context*, which knows the line."""
        return self.unit_of(context) is not None

    def describe(self, context: Context) -> str:
        """Describe *context* for messages: its request, and where its unit was opened."""
        request, unit = request_of(context), self.unit_of(context)
        if request is None:
            text = f"an app context of {context.app.name!r}"
        else:
            text = request_name(request)
        return text if unit is None else f"{text}, from {source_location(*unit.place)}"

    def unit(self) -> UnitOfWork:
        """The current unit, opened if need be. Raises as :meth:`__call__`."""
        context = self.current_context()
        unit = self.unit_of(context) or self._open(context)
        unit.session.refuse_other_thread()
        return unit

    # What blocks ask: the protocol ``UnitSource``.

    def is_dispatching(self) -> bool:
        """Is a request being dispatched in the current context?"""
        return self.finishes(self.current_context())

    @staticmethod
    def is_redirect(error: BaseException) -> bool:
        """Tell whether *error* is a raised response below 400, which is not a failure."""
        if not isinstance(error, HTTPException):
            return False
        code = error.code if error.response is None else error.response.status_code
        return code is not None and code < 400

    def new_unit(self) -> UnitOfWork:
        """A unit of the current app that belongs to no context. Raises as :meth:`state`."""
        return _unit_class(self.state().new_session(), "explicit", will_write=True)

    def engines_for(self, options: UnitOptions) -> Variant:
        """Engines of this app for transactions as *options* say. Raises as :meth:`state`.

        :raises ConfigError: the isolation level is not known.
        """
        return self.state().variant(options)

    @property
    def retry_pause(self) -> float:
        """``UOW_RETRY_PAUSE`` of the current app, in seconds."""
        return self.state().settings.retry_pause

    def run_hook(self, hook: Hook) -> None:
        """Run *hook*, whose time has come."""
        self._run_hook(hook)

    def run_hooks_by(self, run: RunHook) -> RunHook:
        """Let *run* run all hooks from now on; return what has run them so far."""
        before, self._run_hook = self._run_hook, run
        return before

    def state(self, context: Context = None) -> AppState:
        """The state of the app of *context*, by default the current one.

        :raises OutsideContext: no Flask context is active.
        :raises SetupError: the app was not initialized with this ``Database``.
        """
        context = context or self.current_context()
        if context is None:
            raise OutsideContext(
                "The database was used outside of a Flask context, so it is not known which app"
                " and which unit of work is meant. Use it in a view function, in a command"
                " ('@app.cli.command()'), or inside 'with app.app_context():'. A thread needs a"
                " context of its own."
            )
        app: Flask = context.app
        state: AppState | None = app.extensions.get(EXTENSION)
        if state is None or state.owner is not self:
            raise SetupError(
                f"The app {app.name!r} is not registered with this Database"
                f"{'' if state is None else ' but with another one'}. Was 'db.init_app(app)' or"
                " 'app.register_extension(db)' called, and is there only one 'Database()'?"
            )
        return state

    def fail(self, context: Context, error: BaseException) -> None:
        """Record that an exception left the view: for the unit, or for one opened later."""
        context.__dict__[self._failed] = True
        unit = self.unit_of(context)
        # A failed commit and an unhandled error come here twice.
        if unit is not None and not unit.is_undone:
            unit.fail(error)

    def retry(self, context: Context, *, rollback_only: bool, will_write: bool) -> None:
        """Undo :meth:`fail`: the view is run again."""
        context.__dict__.pop(self._failed, None)
        unit = self.unit_of(context)
        if unit is not None:
            unit.retry(rollback_only=rollback_only, will_write=will_write)

    def end(self, context: Context, error: BaseException | None, *, warn: bool = True) -> None:
        """End the unit of *context*, or only release it if its body is still to be streamed.

        :param warn: name uncommitted work that is undone, unless *error* explains it.
        """
        context.__dict__.pop(self._failed, None)  # it may be pushed again
        unit = self.unit_of(context)
        if unit is None:  # a thread opened it too late, and has ended it itself
            return
        if warn:
            warn = error is None or (is_exit(error) and request_of(context) is None)
        if unit.phase is STREAMING:
            unit.release(error, warn=warn)
        else:
            self.forget(context)
            unit.end(error, warn=warn)
            if unit.hooks is not None and (late := self.forget(context)) is not None:
                late.end()  # a hook of the rollback has opened it

    def forget(self, context: Context) -> UnitOfWork | None:
        """Take the unit off *context*, so that the next use opens a new one."""
        unit: UnitOfWork | None = context.__dict__.pop(self.key, None)
        return unit

    def has(self) -> bool:
        return self.peek() is not None

    def set(self, obj: S) -> None:
        """Open a unit whose session is *obj*, for the registry of ``db.session``.

        :raises SetupError: *obj* was not made by the session factory of the app.
        """
        if not isinstance(obj, UnitSession):
            raise SetupError(
                f"{type(obj).__name__!r} cannot become the session of this unit of work. Make it"
                " with 'db.session.session_factory(...)', or pass the options:"
                " 'db.session(autoflush=False)'."
            )
        self._open(self.current_context(), obj)

    def unit_awaiting_outcome(self) -> UnitOfWork | None:
        """The unit whose outcome is to come, or None; a request opens one."""
        context = self.current_context()
        unit = self.unit_of(context)
        if unit is None:
            return self.unit() if self.finishes(context) else None
        waits = (
            unit.has_work or unit.blocks or (self.finishes(context) and unit.phase is Phase.RUNNING)
        )
        return unit if waits else None

    def clear(self) -> None:
        """Undo uncommitted work and end the unit; the next use opens a new one.

        :raises CommitRefused: inside a block.
        """
        unit = self.peek()
        if unit is not None:
            unit.session.refuse_in_block("close")
            context = self.current_context()
            # Its response is there, and the commit is still to come.
            status = getattr(context, "_flask_uow_status", None)
            has_response = self.finishes(context) and status is not None
            if has_response and unit.rule != "explicit" and unit.has_work:
                logger.warning(_REMOVED_TOO_EARLY, caller_location(2))
            self.forget(context)
            unit.end(warn=False)

    def _open(self, context: Context, session: UnitSession | None = None) -> UnitOfWork:
        state = self.state(context)
        around = contexts_around(context)
        request, home = request_of(context), current_app_context(None)
        is_dispatched = self.finishes(context)
        session, settings = session or state.new_session(), state.settings
        options = NO_OPTIONS if request is None else options_of(context.app, request)
        rule = options.commit or settings.commit
        explicit_commit = None
        if request is not None:
            if SEPARATE_REQUEST_CONTEXT:  # pragma: no branch  # false from Flask 3.2 on
                # If *context* is pushed again, it no longer knows its app context.
                setattr(context, HOME, home)
            if settings.explicit_commit and rule != "explicit" and is_dispatched:
                explicit_commit = settings.explicit_commit_in(request.blueprints)
        frame = caller(2)
        unit = _unit_class(
            session,
            rule,
            home,
            will_write=is_dispatched and request is not None and request.method not in _SAFE,
            failed=getattr(context, self._failed, False),
            place=(None, None) if frame is None else (frame.f_code, frame.f_lineno),
            thread=get_ident(),
        )
        if around:
            self._expire_at_commit(session, around, is_request=is_dispatched)
        if explicit_commit is not None:
            unit.set_explicit_commit(explicit_commit)
        if options is not NO_OPTIONS:
            state.apply(unit, options)
        state.on_open()
        # Two threads may be here at once: the first one's unit is kept.
        kept: UnitOfWork = context.__dict__.setdefault(self.key, unit)
        if not is_open(context):  # last: another thread may have ended it meanwhile
            if self.forget(context) is not None:
                kept.end(warn=False)
            raise OutsideContext(
                "The Flask context that this thread works in has ended: the response was sent"
                " and its unit of work is closed. A thread that lives longer needs a context of"
                " its own: 'with app.app_context():' in it, or 'copy_current_request_context'."
            )
        return kept

    def _expire_at_commit(
        self, session: UnitSession, around: Sequence[Context], *, is_request: bool
    ) -> None:
        """Let units of the contexts around see what *session* commits (P2).

        A test looks at its objects after a request. So the request also ends a transaction of the
        test that has only read, because its snapshot would show the old rows.
        """

        def expire(session: Session) -> None:
            if session.in_nested_transaction():  # the release of a savepoint
                return
            for context in around:
                unit = self.unit_of(context)
                # If context variables were copied, another thread may be using that unit.
                if unit is not None and unit.thread == get_ident():
                    unit.expire(end_reads=is_request and not is_dispatching(context))

        event.listen(session, "after_commit", expire)
