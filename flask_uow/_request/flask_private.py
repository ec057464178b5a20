"""The private names of Flask and Werkzeug that this package uses: all of them are here.

None of them has a public counterpart. A test asserts that each exists in the oldest and the newest
version. Flask before 3.2 keeps the request in a context of its own, beside the app context.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import Token
from functools import wraps
from typing import Any, TypeAlias

import flask.globals

_cv_app: Any = flask.globals._cv_app
_cv_request: Any = getattr(flask.globals, "_cv_request", None)

Context: TypeAlias = Any
"""A context of Flask, of one of two classes until Flask 3.1; this package adds attributes to it."""

SEPARATE_REQUEST_CONTEXT = _cv_request is not None

current_app_context: Callable[[None], Context] = _cv_app.get
"""``current_app_context(None)``: the active one, or None; from Flask 3.2 on, maybe a request's."""
current_request_context: Callable[[None], Context] = (_cv_request or _cv_app).get
"""``current_request_context(None)``: the active one, or None; from Flask 3.2 on, maybe an app's."""

# Attributes that this package sets on contexts; context.py and view_retry.py have others. Two are
# only written and read as attributes: _flask_uow_ending, the push that ends, and _flask_uow_status,
# the status of the response before the after_request functions.
HOME = "_flask_uow_home"
"""The app context in which a request was seen first, if the request remembers none."""
DISPATCHED_IN = "_flask_uow_dispatched_in"
"""Set on a context whose request is being dispatched: the app context that it began in."""

if not SEPARATE_REQUEST_CONTEXT:  # only from Flask 3.2 on

    def current_context() -> Context:
        """The innermost Flask context, or None."""
        return current_app_context(None)

    def request_of(context: Context) -> Any:
        """The request of *context*, or None."""
        return context.request if context.has_request else None

    def push_of(context: Context) -> object:
        """Identify the last push of *context*; return None if it is not active.

        Copied context variables still have a context that has ended.
        """
        return context._cv_token

    def contexts_around(context: Context) -> Sequence[Context]:
        """Return the contexts in which *context* is active."""
        return _contexts_around(context)

    def app_context_of(context: Context) -> Context:
        """Return the app context that *context* pushed for itself; without one, *context*."""
        return context

else:

    def current_context() -> Context:
        """The innermost Flask context, or None."""
        request = current_request_context(None)
        app_context = current_app_context(None)
        if request is None:
            return app_context
        pushed = request._cv_tokens
        if pushed and pushed[-1][1] is app_context:  # which it pushed for itself
            return request
        # A thread may have inherited a request that has ended; it is no longer in that request.
        return _innermost(request, app_context) if pushed else app_context

    def request_of(context: Context) -> Any:
        """The request of *context*, or None."""
        return getattr(context, "request", None)

    def push_of(context: Context) -> object:
        """Identify the last push of *context*; return None if it is not active.

        Copied context variables still have a context that has ended.
        """
        tokens = context._cv_tokens
        return tokens[-1] if tokens else None

    def app_context_of(context: Context) -> Context:
        """Return the app context that *context* pushed for itself; without one, *context*."""
        push = push_of(context)
        if type(push) is tuple and request_of(context) is not None:
            return push[1] or context
        return context

    def contexts_around(context: Context) -> Sequence[Context]:
        """Return the contexts in which *context* is active."""
        push = push_of(context)
        if type(push) is tuple:  # it is a request
            token, own = push
            # The usual case: neither the request nor the app context that it pushed is inside
            # another.
            if own and token.old_value is own._cv_tokens[0].old_value is Token.MISSING:
                return ()
        return _contexts_around(context)


def pushed_contexts() -> list[Context]:
    """Return all contexts that are active in this thread."""
    return _contexts_around(None)


def _contexts_around(context: Context) -> list[Context]:
    around: list[Context] = []
    for innermost in (current_request_context(None), current_app_context(None)):
        outer = innermost
        while outer is not None and outer not in around:  # the same one may be pushed twice
            around.append(outer)
            push: Any = push_of(outer)
            token = push[0] if type(push) is tuple else push
            outer = None if token is None or token.old_value is Token.MISSING else token.old_value
    return [outer for outer in around if outer is not context]


def _innermost(request: Any, app_context: Context) -> Any:
    """Return *app_context* if it was pushed inside *request*, else *request*.

    A request remembers the app context that it pushed. A request that found one of its app (a
    test's) remembers none: its app context is the one in which it is dispatched, or, if it is
    never dispatched, the one in which it is first seen. The result is kept on the request.
    """
    home = request._cv_tokens[-1][1]
    if home is None:
        home = request.__dict__.get(HOME) or request.__dict__.get(DISPATCHED_IN)
        if home is None or push_of(home) is None:
            home = app_context if app_context.app is request.app else None
            request.__dict__[HOME] = home
    return request if home is app_context else app_context


def is_open(context: Context) -> bool:
    """Whether *context* is active, and is not about to be popped. It may be pushed again."""
    push = push_of(context)
    return push is not None and getattr(context, "_flask_uow_ending", None) is not push


def note_end(context: Context) -> None:
    """Note that *context* is about to be popped."""
    context._flask_uow_ending = push_of(context)


def let_open(context: Context) -> None:
    """Undo :func:`note_end`."""
    context._flask_uow_ending = None


def end_after(
    original: Callable[..., Any],
    find: Callable[[None], Context],
    key: str,
    end: Callable[[Context, tuple[Any, ...]], None],
) -> Callable[..., Any]:
    """Wrap a method that runs teardown functions: after them, note the end of the context.

    :param find: finds the context.
    :param end: called with the arguments, if the context has an attribute *key* then.
    """

    @wraps(original)
    def teardown(*args: Any, **kwargs: Any) -> None:
        context = find(None)
        try:
            original(*args, **kwargs)
        finally:
            if context is not None:
                if args:  # not if the app calls it itself, as some tests do: nothing is popped then
                    # As note_end() does, for each request: in this order, so that a unit which
                    # another thread opens just now is either found here, or refused there.
                    context._flask_uow_ending = (
                        context._cv_tokens[-1] if SEPARATE_REQUEST_CONTEXT else context._cv_token
                    )
                if getattr(context, key, None) is not None:
                    end(context, (*args, *kwargs.values()))

    return teardown


def after_this_request_functions(context: Context) -> list[Any]:
    """Return the list to which ``after_this_request`` adds."""
    functions: list[Any] = context._after_request_functions
    return functions


def has_cached_body(request: Any) -> bool:
    """Whether the body of *request* was read as a whole, and kept."""
    return vars(request).get("_cached_data") is not None


def forget_json(request: Any) -> None:
    """Let ``request.json`` be parsed again from the body: the view may have changed it."""
    vars(request).pop("_cached_json", None)
