"""Where the unit of work meets the request: the order of events, and the one place that decides.

What happens to a unit in a request, in this order:

1. The first ``db.session`` opens it, in a ``before_request`` function, the view or later.
2. An exception leaves the view: what was written is rolled back, then the app's error handlers
   run (P4).
3. The return value, the view's or the handler's, has become a response.
4. **The decision** (:func:`_decide`): commit or roll back. If the commit fails, the failure goes
   to the app's error handlers as if the view had raised it, and their response goes on (P3).
5. The app's ``after_request`` functions run, and the session cookie is saved.
6. What these have written is committed, or the answer becomes a 500 (P5).
7. The response is sent.
8. The context ends, after all teardown functions: the session is closed (P6). A streamed body
   keeps it open until the response is closed (P9).

Flask has hooks for some of these moments, but none that is sure to be first (3) or last (6, 8),
or that sees an exception which an error handler answers (2). So four methods of the app object
are wrapped, each passing its arguments on as they came; they are the whole seam:

==========================  ===================================================================
``handle_user_exception``   sees the exception before the handlers do
``process_response``        runs the ``after_request`` functions: 4 before it, 6 behind it
``do_teardown_request``     runs the teardown functions: 8 behind it, even if one of them raises
``do_teardown_appcontext``  the same for app contexts; from Flask 3.2 on, a request is one of them
==========================  ===================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, cast

from flask import Flask, Response, got_request_exception
from werkzeug.exceptions import HTTPException

from ._scope import SEPARATE_REQUEST_CONTEXT, Scope, current_app_context, current_context
from ._state import EXTENSION
from ._unit import UnitOfWork

Method = Callable[..., Any]


def install(app: Flask, scope: Scope[Any]) -> None:
    """Wrap the four methods of *app*."""
    _wrap(app, "handle_user_exception", partial(_roll_back_before_handlers, scope))
    _wrap(app, "process_response", partial(_finish_around_after_request, app, scope))
    if SEPARATE_REQUEST_CONTEXT:
        _wrap(app, "do_teardown_request", partial(_end_after_teardown, scope, current_context))
    _wrap(app, "do_teardown_appcontext", partial(_end_after_teardown, scope, current_app_context))
    # An error that no handler answered, or that came after them. Costs nothing until it is sent.
    got_request_exception.connect(_on_unhandled, app)


def _wrap(app: Flask, name: str, around: Method) -> None:
    original = getattr(app, name)

    @wraps(original)
    def method(*args: Any) -> Any:
        return around(original, *args)

    setattr(app, name, method)


# 2 --------------------------------------------------------------------------------------------


def _roll_back_before_handlers(scope: Scope[Any], original: Method, *args: Any) -> Any:
    # Flask 3.2 passes the context first; the error is always last.
    error = args[-1]
    _fail(scope, error)
    try:
        return original(*args)
    except Exception as raised:
        if raised is not error:  # the handler itself failed
            _fail(scope, raised)
        raise


def _on_unhandled(app: Flask, exception: BaseException, **_: Any) -> None:
    _fail(app.extensions[EXTENSION].owner, exception)


def _fail(scope: Scope[Any], error: BaseException) -> None:
    unit = scope.peek()
    if unit is not None and not _is_redirect(error):
        unit.fail(error)


def _is_redirect(error: BaseException) -> bool:
    """A raised answer below 400 is an answer, not a failure."""
    if not isinstance(error, HTTPException):
        return False
    code = error.code if error.response is None else error.response.status_code
    return code is not None and code < 400


# 4 to 6 ---------------------------------------------------------------------------------------


def _finish_around_after_request(
    app: Flask, scope: Scope[Any], original: Method, *args: Any
) -> Response:
    *context, response = args
    unit = scope.peek()
    if unit is not None:
        try:
            _decide(unit, response)
        except Exception as error:
            unit.fail(error)
            # Inside the except clause: without a handler, Flask re-raises the current error.
            handle: Method = app.handle_user_exception
            response = app.make_response(handle(*context, error))
            _decide(unit, response)
    response = cast(Response, original(*context, response))
    unit = scope.peek()
    if unit is not None:
        if unit.has_work:
            _decide(unit, response)
        unit.finished = True
        unit.streaming = response.is_streamed
        if unit.streaming:
            response.call_on_close(partial(_close, scope, current_context()))
    return response


def _decide(unit: UnitOfWork, response: Response) -> None:
    """Commit or roll back: the rules of P4, in their order.

    :raises Exception: the commit failed, or the rule did.
    """
    if unit.session.rollback_only:
        unit.rollback()
    elif unit.rule == "explicit":
        pass  # the view has committed what it wanted; the rest is undone when the context ends
    elif unit.failed or _is_success(unit, response):
        unit.commit()  # of a failed unit, only what the error handler wrote is left
    else:
        unit.rollback()


def _is_success(unit: UnitOfWork, response: Response) -> bool:
    if callable(unit.rule):
        return unit.rule(response)
    return unit.rule == "always" or response.status_code < 400


def _close(scope: Scope[Any], context: Any) -> None:
    unit = scope.forget(context)
    if unit is not None:
        unit.end()


# 8 --------------------------------------------------------------------------------------------


def _end_after_teardown(
    scope: Scope[Any], find: Callable[[], Any], original: Method, *args: Any
) -> None:
    context = find()
    error = args[-1] if args and isinstance(args[-1], BaseException) else None
    try:
        original(*args)
    finally:
        scope.end(context, error)
