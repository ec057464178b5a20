"""Where the unit of work meets the request: the order of events, and the one place that decides.

What happens to a unit in a request, in this order:

1. The first ``db.session`` opens it, in a ``before_request`` function, the view or later.
2. An exception leaves the view: what was written is rolled back, then the app's error handlers
   run (P4). After a conflict, a view with retries is run again instead.
3. The return value of the view or the handler has become a response, and the rule is asked
   (:func:`_decide`). If the view's work is not to be stored, it is rolled back here (P4).
4. The ``after_request`` functions run, the cookie session is saved, ``request_finished`` is sent.
5. **The commit** (:func:`_commit`), and the ``on_commit`` hooks (P3, P5, P10). If it fails, the
   failure goes to the app's error handlers as if the view had raised it, and their response
   continues with step 3.
6. The response is sent.
7. The context ends, and after its teardown functions the session is closed (P6). A streamed
   body keeps it open until the response is closed (P9).

Flask has hooks for some of these moments, but none that is sure to be first (3) or last (5, 7),
or that sees an exception which an error handler handles (2). So seven methods of the app object
(six from Flask 3.2 on) are wrapped; each passes its arguments on. In a request that never uses
the database they cost less than one registered function. They are all that is changed in Flask:

==========================  ===================================================================
``full_dispatch_request``   does 1 to 4, and 5 follows it; its units commit automatically
``handle_user_exception``   sees the exception before the handlers do: 2
``process_response``        runs the ``after_request`` functions: 3 before it
``handle_exception``        makes the response to any other error: 2 before it, 5 after it
``do_teardown_request``     runs the teardown functions: 7 after it, even if one of them raises
``do_teardown_appcontext``  the same for app contexts; from Flask 3.2 on, a request is one
``async_to_sync``           knows which thread waits while an async view runs in another one
==========================  ===================================================================
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from copy import copy
from functools import partial, wraps
from typing import Any

from flask import Flask, Response
from sqlalchemy.orm import Session
from werkzeug.exceptions import InternalServerError

from .._sqlite.write_queue import waiting
from .._unit.unit import UnitOfWork
from . import view_retry
from .app_state import EXTENSION, AppState
from .context import UnitRegistry
from .flask_private import (
    SEPARATE_REQUEST_CONTEXT,
    Context,
    current_app_context,
    current_request_context,
    end_after,
    is_open,
    let_open,
    note_end,
)

logger = logging.getLogger(__name__)

PLACE_OF_THE_COMMIT = "the commit at the end of the request"
"""What a recorded query has in place of a line of the app; found by its name."""

Method = Callable[..., Any]
Arguments = tuple[Any, ...]


def install(app: Flask, units: UnitRegistry[Session]) -> None:
    """Wrap the methods of *app*."""
    state: AppState = app.extensions[EXTENSION]
    state.call_on_open(_stay_first(app, units))
    _wrap(app, "full_dispatch_request", _commit_after, units, app)
    _wrap(app, "process_response", _decide_before, units)
    _wrap(app, "handle_exception", _commit_error_page_after, units, app)
    end = units.key, partial(_end, units)
    _wrap(app, "do_teardown_appcontext", end_after, current_app_context, *end)
    if SEPARATE_REQUEST_CONTEXT:  # pragma: no branch  # false from Flask 3.2 on
        _wrap(app, "do_teardown_request", end_after, current_request_context, *end)
    _wrap(app, "async_to_sync", _note_waiting)


def _wrap(app: Flask, name: str, wrapper: Callable[..., Method], *args: object) -> None:
    setattr(app, name, wrapper(getattr(app, name), *args))


def _note_waiting(original: Method) -> Method:
    @wraps(original)
    def async_to_sync(function: Callable[..., Coroutine[Any, Any, Any]]) -> Method:
        async def awaited(thread: threading.Thread, *args: Any, **kwargs: Any) -> Any:
            with waiting(thread):
                return await function(*args, **kwargs)

        run: Method = original(awaited)

        @wraps(function)
        def waited(*args: Any, **kwargs: Any) -> Any:
            return run(threading.current_thread(), *args, **kwargs)

        return waited

    return async_to_sync


# 2 --------------------------------------------------------------------------------------------


def _stay_first(app: Flask, units: UnitRegistry[Session]) -> Callable[[], None]:
    """Return what wraps ``handle_user_exception``, again if another extension has wrapped it since.

    REST frameworks handle some errors themselves and do not pass them on.
    """
    wrapper: Method | None = None

    def stay_first() -> None:
        nonlocal wrapper
        current: Method = app.handle_user_exception
        if current is not wrapper:
            wrapper = _roll_back_first(current, units, app)
            app.handle_user_exception = wrapper  # type: ignore[method-assign]

    return stay_first


def _roll_back_first(original: Method, units: UnitRegistry[Session], app: Flask) -> Method:
    @wraps(original)
    def handle_user_exception(*args: Any, **kwargs: Any) -> Any:
        *before, error = (*args, *kwargs.values())  # Flask 3.2 passes the context before it
        retry = _retry_for(error)
        _fail(units, error)
        if retry is not None:
            try:
                return retry.again(app, error, tuple(before))
            except Exception as raised:
                handle: Method = app.handle_user_exception
                return handle(*before, raised)
        try:
            return original(*args, **kwargs)
        except Exception as raised:
            if raised is not error:  # the handler itself failed
                _fail(units, raised)
            raise

    return handle_user_exception


def _retry_for(error: BaseException) -> view_retry.ViewRetry | None:
    """Return the view that has to run again because of *error*, if there is one."""
    retry = view_retry.current_retry(current_request_context(None))
    return retry if retry is not None and retry.is_wanted(error) else None


def _fail(units: UnitRegistry[Session], error: BaseException) -> None:
    context = current_request_context(None)
    if context is not None and not units.is_redirect(error):
        units.fail(context, error)


# 3 to 5 ---------------------------------------------------------------------------------------


class _RuleFailed(Exception):
    """The commit rule has raised *error*: the response is not to be sent."""

    def __init__(self, error: Exception, response: Response) -> None:
        super().__init__(error)
        self.error = error
        self.response = response


def _decide_before(original: Method, units: UnitRegistry[Session]) -> Method:
    key = units.key

    @wraps(original)
    def process_response(*args: Any, **kwargs: Any) -> Any:
        context = current_request_context(None)
        if context is not None:
            response = args[-1] if args else kwargs["response"]
            # The unit may be opened after this, by an after_request function.
            context._flask_uow_status = response.status_code
            # By getattr(): Python builds the __dict__ of a context only if code asks for it.
            unit: UnitOfWork | None = getattr(context, key, None)
            if unit is not None:
                try:
                    _decide(unit, response)
                except Exception as error:
                    raise _RuleFailed(error, response) from error
        return original(*args, **kwargs)

    return process_response


def _commit_after(original: Method, units: UnitRegistry[Session], app: Flask) -> Method:
    key = units.key

    @wraps(original)
    def full_dispatch_request(*args: Any, **kwargs: Any) -> Any:
        context = current_request_context(None)
        context._flask_uow_dispatched_in = current_app_context(None)
        failure = None
        try:
            response = original(*args, **kwargs)
        except _RuleFailed as failed:
            response, failure = failed.response, failed.error
        unit: UnitOfWork | None = getattr(context, key, None)
        if unit is not None:  # an after_request function may have been the first
            response = finish(unit, (*args, *kwargs.values()), context, response, failure)
        context._flask_uow_dispatched_in = None  # from here on nothing is committed automatically
        return response

    def finish(
        unit: UnitOfWork,
        before: Arguments,
        context: Context,
        response: Any,
        failure: Exception | None,
        *,
        is_handled: bool = False,
    ) -> Any:
        """Commit, and return the response. If the commit fails, return the response to the failure.

        :param failure: an error of the commit rule: it is handled in place of a commit.
        :param is_handled: an error handler has made the response.
        """
        try:
            if failure is not None:
                raise failure
            status = getattr(context, "_flask_uow_status", None)
            if status is None:  # the app has a process_response() of its own
                _decide(unit, response)
                status = response.status_code
            _commit(unit, status, response)
        except Exception as error:
            # In this order: functions that run when the response is closed find a clean session.
            unit.fail(error)
            _close_unsent(response)
            context._flask_uow_status = None  # of a response that is not sent
            if is_handled:
                raise
            response, failure = _handle(app, before, error)
            next_unit = units.unit_of(context)
            if next_unit is None:  # the handler has removed the session
                return response
            # After a retry the response is the view's, and its commit may fail once more.
            is_handled = next_unit.failed
            return finish(next_unit, before, context, response, failure, is_handled=is_handled)
        return _respond(units, context, unit, response)

    return full_dispatch_request


def _handle(app: Flask, before: Arguments, error: Exception) -> tuple[Any, Exception | None]:
    """Handle *error* as if the view had raised it, and finalize the response.

    Call this in the ``except`` block of *error*, which Flask raises again if it has no handler.

    :return: the response, and the error of the commit rule, if there was one.
    """
    handle_user_exception: Method = app.handle_user_exception
    finalize: Method = app.finalize_request
    replacement = handle_user_exception(*before, error)
    try:
        return finalize(*before, replacement), None
    except _RuleFailed as failed:
        return failed.response, failed.error


def _commit_error_page_after(original: Method, units: UnitRegistry[Session], app: Flask) -> Method:
    @wraps(original)
    def handle_exception(*args: Any, **kwargs: Any) -> Any:
        *_, error = (*args, *kwargs.values())
        context = current_request_context(None)
        # Here a raised redirect is a failure, too: the client gets a 500.
        units.fail(context, error)
        response = original(*args, **kwargs)
        unit = units.unit_of(context)
        if unit is not None:
            try:
                _commit(unit, response.status_code, response)
            except Exception as error:
                unit.fail(error)
                _close_unsent(response)
                logger.exception("The work of an error handler could not be stored.")
                response = app.make_response(InternalServerError())
            response = _respond(units, context, unit, response)
        context._flask_uow_dispatched_in = None
        return response

    return handle_exception


def _decide(unit: UnitOfWork, response: Response) -> None:
    """Roll back what the view did if it is not to be stored: the rules of P4, in their order.

    :raises Exception: the commit rule raised it.
    """
    # Of a failed unit, only what the error handler wrote is left.
    if unit.rollback_only or not (unit.failed or _is_success(unit, response)):
        unit.fail()


def _is_success(unit: UnitOfWork, response: Response) -> bool:
    if callable(unit.rule):
        return bool(unit.rule(response))
    return unit.rule != "on_success" or response.status_code < 400


_ROUNDS = 10
"""The maximum number of commits: hooks may add work, or further hooks."""


def _commit(unit: UnitOfWork, status: int, response: Response) -> None:
    """Commit, as the last thing before the response leaves.

    :param status: the status of the response before the ``after_request`` functions.
    :raises Exception: the commit failed.
    """
    is_error = unit.rule == "on_success" and status < 400 <= response.status_code
    if unit.rollback_only or (is_error and not unit.failed):
        unit.fail()
    if unit.rule == "explicit" and not unit.failed:
        return  # the view has committed what it wanted; the rest is undone when the context ends
    for _ in range(_ROUNDS):
        if unit.failed and unit.session.in_transaction() and not unit.has_work:
            # The unit seems to have only read, but a SELECT can call a function that writes.
            unit.session.end_keeping_objects()
        else:
            unit.commit()
        if not (unit.has_work or unit.hooks):
            break


def _close_unsent(response: Response) -> None:
    """Close a response that will not be sent: it may hold a file or a context."""
    try:
        response.close()
    except Exception:
        logger.exception("A response whose commit failed could not be closed.")


def _respond(
    units: UnitRegistry[Session], context: Context, unit: UnitOfWork, response: Response
) -> Response:
    """Note that *response* is sent; return what to send, whose end closes a streamed unit."""
    # A file that is passed through is not closed by way of the response.
    streaming = response.is_streamed and not response.direct_passthrough and units.finishes(context)
    unit.respond(streaming=streaming)
    if streaming:
        if unit.has_work or unit.hooks:
            unit.rollback()  # by the rule "explicit"; what the body loses is named, this is not
        body: Any = response.response
        if isinstance(body, ClosingBody):  # the app sends this response for other requests, too
            response, body = copy(response), body.iterable
        response.response = ClosingBody(body, partial(_close, units, context))
    return response


class ClosingBody:
    """The iterable of a streamed response, with something to do when it is closed.

    ``Response.call_on_close`` is not enough: it is skipped if the iterable's own ``close()``, the
    ``finally`` of a generator, raises.

    :ivar iterable: the body without that.
    """

    def __init__(self, iterable: Any, end: Callable[[], None]) -> None:
        self.iterable = iterable
        self._end = end

    def __iter__(self) -> Iterator[Any]:
        return iter(self.iterable)

    def close(self) -> None:
        try:
            if hasattr(self.iterable, "close"):
                self.iterable.close()
        finally:
            self._end()


def _close(units: UnitRegistry[Session], context: Context) -> None:
    unit = units.forget(context)
    if unit is not None:
        unit.end()


# 7 --------------------------------------------------------------------------------------------


def _end(units: UnitRegistry[Session], context: Context, args: Arguments) -> None:
    error = args[-1] if args and isinstance(args[-1], BaseException) else None
    ended: UnitOfWork = getattr(context, units.key)
    if not (ended.hooks or ended.session.in_transaction()):  # no code of the app runs
        units.end(context, error)
        return
    is_popped = not is_open(context)
    let_open(context)  # on_rollback hooks may still use it
    units.end(context, error)
    if not is_popped:
        return
    note_end(context)
    late = units.unit_of(context)
    if late is not None and late is not ended:  # another thread has opened it meanwhile
        units.end(context, None)
