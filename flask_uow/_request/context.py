"""The current Flask context, and the unit of work that is kept on it.

The scope of a unit is the innermost context: the request if there is one, else the app context
(P2). The unit is an attribute of the context object itself, so it cannot outlive it, and no two
contexts can share it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, cast

import flask.globals
from flask import Flask
from sqlalchemy.util import ScopedRegistry

from .._config.options import NO_OPTIONS, UnitOptions
from .._engine.checkouts import caller, source_location
from .._unit.session import S, UnitSession
from .._unit.state import Phase
from .._unit.unit import UnitOfWork, is_exit
from ..errors import OutsideContext, SetupError
from .app_state import EXTENSION, AppState, Variant
from .view_options import of_request

_cv_app: Any = flask.globals._cv_app
# Flask before 3.2 keeps the request in a context of its own, beside the app context.
_cv_request: Any = getattr(flask.globals, "_cv_request", None)

SEPARATE_REQUEST_CONTEXT = _cv_request is not None

current_app_context: Callable[[None], Any] = _cv_app.get
"""``current_app_context(None)``: the active one, or None; from Flask 3.2 on, maybe a request's."""
current_request_context: Callable[[None], Any] = (_cv_request or _cv_app).get
"""``current_request_context(None)``: the active one, or None; from Flask 3.2 on, maybe an app's."""

_HOME = "_flask_uow_home"
RUNNING = "_flask_uow_running"
"""Set on a context whose request is being dispatched: the app context that it began in."""

# Methods that promise not to change anything (RFC 9110, section 9.2.1).
_SAFE = frozenset(["GET", "HEAD", "OPTIONS", "TRACE"])

if not SEPARATE_REQUEST_CONTEXT:  # only from Flask 3.2 on

    def current_context() -> Any:
        """The innermost Flask context, or None."""
        return _cv_app.get(None)

    def _request_of(context: Any) -> Any:
        return context.request if context.has_request else None

else:

    def current_context() -> Any:
        """The innermost Flask context, or None."""
        request = _cv_request.get(None)
        app_context = _cv_app.get(None)
        if request is None:
            return app_context
        pushed = request._cv_tokens
        if pushed and pushed[-1][1] is app_context:  # which it pushed for itself
            return request
        return _innermost(request, app_context)

    def _request_of(context: Any) -> Any:
        return getattr(context, "request", None)


def _innermost(request: Any, app_context: Any) -> Any:
    """Return *app_context* if it was pushed inside *request*, else *request*.

    A request remembers the app context that it pushed. A request that found one of its app (a
    test's) remembers none: its app context is the one in which it is dispatched, or, if it is
    never dispatched, the one in which it is first seen. The result is kept on the request.
    """
    pushed = request._cv_tokens
    home = pushed[-1][1] if pushed else None
    if home is None:
        home = request.__dict__.get(_HOME) or request.__dict__.get(RUNNING)
        if home is None or not _is_pushed(home):
            home = app_context if app_context.app is request.app else None
            request.__dict__[_HOME] = home
    return request if home is app_context else app_context


def _is_pushed(context: Any) -> bool:
    """Whether *context* is active. A copy of the context variables keeps one that has ended."""
    return bool(getattr(context, "_cv_tokens", None) or getattr(context, "_cv_token", None))


def is_running(context: Any) -> bool:
    """Whether *context* is dispatching a request, so that its unit commits automatically.

    Not in an app context, and not in a request context that was pushed without dispatching it, as
    socket events and tests do.
    """
    return getattr(context, RUNNING, None) is not None


class UnitRegistry(ScopedRegistry[S]):
    """Keeps the units of one ``Database``, each on its context."""

    # Each Database has its own attribute name, so none finds the unit of another.
    _names = map("_flask_uow_unit_{}".format, itertools.count())

    def __init__(self) -> None:
        self.key = next(self._names)
        self._failed = f"{self.key}_failed"

    def __call__(self) -> S:
        """The session of the current unit.

        :raises OutsideContext: no Flask context is active.
        :raises SetupError: the app was not initialised with this ``Database``.
        :raises ConcurrentUse: another thread is inside the database with this unit.
        """
        context = current_context()
        unit: Any = getattr(context, self.key, None) or self._open(context)
        session = unit.session
        session.refuse_other_thread()
        return session  # type: ignore[no-any-return]

    def peek(self) -> UnitOfWork | None:
        """The current unit, if it was opened."""
        return self.on(current_context())

    def on(self, context: Any) -> UnitOfWork | None:
        """The unit that is kept on *context*, if it was opened."""
        return getattr(context, self.key, None)

    # What a pool asks: the protocol ``CheckoutContext``.

    current_context = staticmethod(current_context)

    def has_location(self, context: Any) -> bool:
        """Tell whether a unit was opened on *context*, which knows the line."""
        return getattr(context, self.key, None) is not None

    def describe(self, context: Any) -> str:
        """Describe *context* for messages: the request, its endpoint, where its unit was opened."""
        request, unit = _request_of(context), self.on(context)
        if request is None:
            text = f"an app context of {context.app.name!r}"
        else:
            text = f"{request.method} {request.path} (endpoint {request.endpoint!r})"
        return text if unit is None else f"{text}, from {source_location(*unit.place)}"

    def unit(self) -> UnitOfWork:
        """The current unit, opened if need be. Raises as calling does."""
        self()
        return cast(UnitOfWork, self.peek())

    # What blocks ask: the protocol ``UnitSource``.

    def is_dispatching(self) -> bool:
        """Is a request being dispatched in the current context?"""
        return is_running(current_context())

    def new_session(self) -> UnitSession:
        """A session of the current app that belongs to no unit. Raises as :meth:`state`."""
        return self.state().new_session()

    def engines_for(self, options: UnitOptions) -> Variant:
        """Engines of this app for transactions as *options* say. Raises as :meth:`state`.

        :raises ConfigError: the isolation level is not known.
        """
        return self.state().variant(options)

    @property
    def retry_pause(self) -> float:
        """``UOW_RETRY_PAUSE`` of the current app, in seconds."""
        return self.state().settings.retry_pause

    def state(self, context: Any = None) -> AppState:
        """The state of the app of *context*, by default the current one.

        :raises OutsideContext: no Flask context is active.
        :raises SetupError: the app was not initialised with this ``Database``.
        """
        context = context or current_context()
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

    def fail(self, context: Any, error: BaseException) -> None:
        """Record that an exception left the view: for the unit, or for one opened later."""
        context.__dict__[self._failed] = True
        unit = self.on(context)
        if unit is not None:
            unit.fail(error)

    def retry(self, context: Any, *, rollback_only: bool) -> None:
        """Undo :meth:`fail`: the view is run again."""
        context.__dict__.pop(self._failed, None)
        unit = self.on(context)
        if unit is not None:
            unit.retry(rollback_only=rollback_only)

    def end(self, context: Any, error: BaseException | None) -> None:
        """End the unit of *context*, or only release it if its body is still to be streamed."""
        unit: UnitOfWork = context.__dict__[self.key]
        context.__dict__.pop(self._failed, None)  # it may be pushed again
        warn = error is None or (is_exit(error) and _request_of(context) is None)
        if unit.phase is Phase.STREAMING:
            unit.release(error, warn=warn)
        else:
            self.forget(context)
            unit.end(error, warn=warn)
            if unit.hooks is not None and (late := self.forget(context)) is not None:
                late.end()  # a hook of the rollback has opened it

    def forget(self, context: Any) -> UnitOfWork | None:
        """Take the unit off *context*, so that the next use opens a new one."""
        return cast("UnitOfWork | None", context.__dict__.pop(self.key, None))

    def has(self) -> bool:
        return self.peek() is not None

    def set(self, obj: S) -> None:
        if not isinstance(obj, UnitSession):
            raise SetupError(
                f"{type(obj).__name__!r} cannot become the session of this unit of work. Make it"
                " with 'db.sessionmaker(...)', or pass the options: 'db.session(autoflush=False)'."
            )
        self._open(current_context(), obj)

    def unit_awaiting_outcome(self) -> UnitOfWork | None:
        """The unit whose outcome is still to come, if there is one; opened in a request."""
        context = current_context()
        unit = self.on(context)
        if unit is None:
            return self.unit() if is_running(context) else None
        waits = (
            unit.has_work or unit.blocks or (is_running(context) and unit.phase is Phase.RUNNING)
        )
        return unit if waits else None

    def clear(self) -> None:
        """Undo what is not committed, end the unit; the next use opens a new one.

        :raises CommitRefused: inside a block.
        """
        unit = self.peek()
        if unit is not None:
            if unit.blocks:
                unit.session.close()  # which is refused
            self.forget(current_context())
            unit.end(warn=False)

    def _open(self, context: Any, session: UnitSession | None = None) -> UnitOfWork:
        state = self.state(context)
        if not _is_pushed(context):
            raise OutsideContext(
                "The Flask context that this thread works in has ended: the request was answered"
                " and its unit of work is closed. Give a thread that lives longer a context of"
                " its own: 'with app.app_context():' in it, or 'copy_current_request_context'."
            )
        request, home = _request_of(context), current_app_context(None)
        session, settings = session or state.new_session(), state.settings
        options = NO_OPTIONS if request is None else of_request(context.app, request)
        rule = options.commit or settings.commit
        explicit_commit, will_write = "allow", False
        if request is not None:
            if SEPARATE_REQUEST_CONTEXT:  # pragma: no branch  # false from Flask 3.2 on
                # It may be pushed again, for a streamed body or by a test client, and does not
                # say then which app context it lives in.
                setattr(context, _HOME, home)
            will_write = request.method not in _SAFE
            if settings.explicit_commit and rule != "explicit" and is_running(context):
                explicit_commit = settings.explicit_commit_in(request.blueprints)
        frame = caller(2)
        unit = UnitOfWork(
            session,
            rule,
            home,
            will_write=will_write,
            explicit_commit=explicit_commit,
            place=(None, None) if frame is None else (frame.f_code, frame.f_lineno),
            failed=getattr(context, self._failed, False),
        )
        if options is not NO_OPTIONS:
            state.fit(unit, options)
        state.on_open()
        # Two threads may be here at once: the first one's unit is kept.
        return cast(UnitOfWork, context.__dict__.setdefault(self.key, unit))
