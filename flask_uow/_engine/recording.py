"""Record the statements of a context: ``SQLALCHEMY_RECORD_QUERIES``.

Without this setting, an engine gets no listener, so its statements cost nothing more.

Nothing here knows Flask: the context is an opaque object with attributes.
"""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Callable
from time import perf_counter
from types import FrameType
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, ExceptionContext, ExecutionContext, event

from .checkouts import CheckoutContext, is_library, source_location

_KEY = "_flask_uow_queries"
_MOST = 10_000  # in one context, because a command may run for days


class RecordedQuery(NamedTuple):
    """A statement that was sent.

    :ivar statement: the SQL, as the driver received it.
    :ivar parameters: a tuple or a dict; for an ``executemany``, a list of them.
    :ivar start_time: when it was sent, in seconds, as ``time.perf_counter()`` returns.
    :ivar end_time: when the driver had executed it, before the rows were fetched.
    :ivar location: the file, line and function of the app that sent it, such as
        ``"/srv/shop/views.py:12 in index"``, or ``"the commit at the end of the request"``.
    :ivar engine: the name of the engine, ``"default"`` or a bind key.
    :ivar error: the text of the driver's error, or None. It is not the exception itself, which
        would keep the connection in use.
    """

    statement: str
    parameters: Any
    start_time: float
    end_time: float
    location: str
    engine: str
    error: str | None

    @property
    def duration(self) -> float:
        """The time of the execution in seconds, without the fetching of rows."""
        return self.end_time - self.start_time


def recorded(context: object) -> list[RecordedQuery]:
    """Return the recorded statements of *context*, the oldest first."""
    return list(vars(context).get(_KEY, ()))


def record_queries(engine: Engine, name: str, contexts: CheckoutContext) -> None:
    """Keep each statement of *engine* in the context in which it is sent."""

    def keep(query: RecordedQuery) -> None:
        context = contexts.current_context()
        if context is not None:  # without a context there is no place to keep it
            vars(context).setdefault(_KEY, deque(maxlen=_MOST)).append(query)

    Listener(engine, name, keep)


class Listener:
    """Passes each statement that *engine* sends from now on to *receive*.

    :param engine: the class ``Engine`` means all engines, including later ones.
    :param name: the name of the engine, for :attr:`RecordedQuery.engine`.
    """

    _keys = map("_flask_uow_started_{}".format, itertools.count())

    def __init__(
        self, engine: Engine | type[Engine], name: str, receive: Callable[[RecordedQuery], None]
    ) -> None:
        self._name, self._receive = name, receive
        self._started = next(self._keys)  # several listeners may store a start on one execution
        event.listen(engine, "before_cursor_execute", self._start)
        event.listen(engine, "after_cursor_execute", self._succeed)
        event.listen(engine, "handle_error", self._fail)

    def _start(self, *args: Any) -> None:
        vars(args[-2])[self._started] = perf_counter()

    def _succeed(
        self,
        _connection: Connection,
        _cursor: object,
        statement: str,
        parameters: object,
        execution: ExecutionContext,
        _many: bool,
    ) -> None:
        self._end(statement, parameters, execution, None)

    def _fail(self, failure: ExceptionContext) -> None:
        if failure.execution_context is not None:  # otherwise no statement failed
            error = failure.original_exception
            text = f"{type(error).__name__}: {error}"
            self._end(failure.statement or "", failure.parameters, failure.execution_context, text)

    def _end(
        self, statement: str, parameters: object, execution: ExecutionContext, error: str | None
    ) -> None:
        now = perf_counter()
        started = vars(execution).pop(self._started, None)
        if started is not None:  # otherwise it was not compiled, and not sent
            place = _location()
            self._receive(
                RecordedQuery(statement, parameters, started, now, place, self._name, error)
            )


def _location() -> str:
    """Name the place in the app that sent the statement.

    The commit at the end of a request has no such place, because no code of the app is on the
    stack. So the module that commits has a text for it, ``PLACE_OF_THE_COMMIT``.
    """
    frame: FrameType | None = sys._getframe(3)
    while frame is not None:
        names = frame.f_globals
        if "PLACE_OF_THE_COMMIT" in names:
            return str(names["PLACE_OF_THE_COMMIT"])
        if "__jinja_template__" in names:
            return _line_of_template(names["__jinja_template__"], frame.f_lineno)
        if not is_library(names.get("__name__")):
            return source_location(frame.f_code, frame.f_lineno)
        frame = frame.f_back
    return source_location(None, None)


def _line_of_template(template: Any, line: int) -> str:
    """Name the line of a template, not that of the Python that Jinja has made of it."""
    name = "a template" if template.name is None else f"the template {template.name!r}"
    return f"{template.filename}:{template.get_corresponding_lineno(line)} in {name}"
