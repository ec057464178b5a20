"""A view that is run again after a conflict: ``@db.unit(retries=...)`` (P4).

What the view has done to the request is taken back first: ``g``, the cookie session, the functions
it has added with ``after_this_request``, how far it has read the body. A view runs again only
if nothing has happened that cannot be undone.
"""

from __future__ import annotations

import inspect
import logging
import time
from functools import wraps
from typing import Any, cast

from flask import Flask
from sqlalchemy.orm import Session

from .._config.options import UnitOptions
from .._unit import retries as _retry
from . import flask_private
from .context import UnitRegistry, request_name
from .flask_private import Context, current_app_context, current_request_context
from .snapshot import Snapshot
from .view_options import F, options_of

logger = logging.getLogger(__name__)

_RETRY = "_flask_uow_retry"


# Of other bodies, Flask leaves the form empty and the stream unread.
_FORMS = frozenset(["application/x-www-form-urlencoded", "multipart/form-data"])


class ViewRetry:
    """One view that is being run, perhaps several times."""

    def __init__(self, units: UnitRegistry[Session], context: Context, retries: int) -> None:
        self._units = units
        self._context = context
        self._retries = retries
        self.attempt = 1
        unit = units.unit()
        # Earlier work and hooks would be lost with the attempt.
        self._possible = not unit.has_work and not unit.hooks
        self._unit = unit
        self._commits = unit.count_commits()  # since the unit was opened
        self._rollback_only = unit.rollback_only
        self._will_write = unit.will_write
        self._snapshot = Snapshot(
            vars(current_app_context(None).g),
            _content_of(context.session),
            {"flashes": context.flashes},
        )
        self._after = len(flask_private.after_this_request_functions(context))

    def is_wanted(self, error: BaseException) -> bool:
        """Whether the view has to run again. Called before anything is rolled back."""
        if not _retry.is_conflict(error):
            return False
        if self.attempt > self._retries:
            _retry.note(error, self.attempt)
            return False
        # In another unit, after 'db.session.remove()', a commit may have gone unnoticed.
        same = self._units.unit_of(self._context) is self._unit
        return self._possible and same and not self._commits and self._can_read()

    def _can_read(self) -> bool:
        """Can the body be read once more?"""
        request = self._context.request
        cached = vars(request)
        if "stream" not in cached:  # it has not been read
            return True
        if "form" in cached and request.mimetype in _FORMS:
            return not any(file.stream.closed for file in _files(cached))
        return flask_private.has_cached_body(request)

    def again(self, app: Flask, error: BaseException, arguments: tuple[Any, ...]) -> Any:
        """Run the view again, and return its value.

        :param error: the conflict.
        :param arguments: those of ``app.dispatch_request``: none, from Flask 3.2 on the context.
        """
        state = self._units.state(self._context)
        self.attempt += 1
        pause = _retry.pause_before(self.attempt, state.settings.retry_pause)
        name = request_name(self._context.request)
        logger.info("A conflict: %s is run again, in %.3f s.", name, pause)
        self._unit.note_retry(error, self.attempt)
        time.sleep(pause)
        self._units.retry(
            self._context, rollback_only=self._rollback_only, will_write=self._will_write
        )
        self._restore()
        return app.dispatch_request(*arguments)

    def _restore(self) -> None:
        context = self._context
        g, cookie, others = self._snapshot.restored()
        _set_back(vars(current_app_context(None).g), g)
        if isinstance(context.session, dict):
            _set_back(context.session, cookie)
        del flask_private.after_this_request_functions(context)[self._after :]
        context.flashes = others["flashes"]
        self._rewind(context.request)

    def _rewind(self, request: Any) -> None:
        flask_private.forget_json(request)
        for file in _files(vars(request)):
            file.stream.seek(0)


def _files(cached: dict[str, Any]) -> list[Any]:
    """The uploaded files of a request, if the view has parsed them."""
    if "files" not in cached:
        return []
    return [file for files in cached["files"].listvalues() for file in files]


def current_retry(context: Context) -> ViewRetry | None:
    """The ``ViewRetry`` of *context*, if its view has retries."""
    return getattr(context, _RETRY, None)


def watch_view(view: F, units: UnitRegistry[Session], options: UnitOptions) -> F:
    """Wrap *view* so that it saves, when it starts, the state that a retry restores."""
    if not options.retries or not callable(view):
        return view
    if isinstance(view, type):  # a view class, which is not a function of its own
        wrapped = watch_view(cast(Any, view).dispatch_request, units, options)
        setattr(view, "dispatch_request", wrapped)  # noqa: B010
        return cast(F, view)

    def note() -> None:
        context = current_request_context(None)
        # Only for the first attempt, and for the view that the request was routed to.
        routed = context is not None and options_of(context.app, context.request) is options
        if routed and current_retry(context) is None:
            setattr(context, _RETRY, ViewRetry(units, context, options.retries))

    @wraps(view)
    def started(*args: Any, **kwargs: Any) -> Any:
        note()
        return view(*args, **kwargs)

    @wraps(view)
    async def coroutine_started(*args: Any, **kwargs: Any) -> Any:
        note()
        return await view(*args, **kwargs)

    return cast(F, coroutine_started if inspect.iscoroutinefunction(view) else started)


# By the methods of dict, because those of a cookie session note that it was used.


def _content_of(cookie: Any) -> dict[str, Any]:
    return dict.copy(cookie) if isinstance(cookie, dict) else {}  # an unknown class


def _set_back(mapping: dict[str, Any], before: dict[str, Any]) -> None:
    dict.clear(mapping)
    dict.update(mapping, before)
