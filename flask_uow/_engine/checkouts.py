"""Which code has checked a connection out: since when, for which request, from which line.

A pool that has run dry says which requests have its connections, and a connection that was checked
out for long is logged when it comes back. Every checkout pays for this, so as little as possible is
done there: a time, a weak reference, and a walk up the stack to the first frame of the app.

Nothing here knows Flask: what a connection is checked out for is an opaque object, which a
:class:`CheckoutContext` puts into words.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from time import monotonic
from types import CodeType, FrameType
from typing import Any, NamedTuple, Protocol

from sqlalchemy import Engine, event
from sqlalchemy.pool import ConnectionPoolEntry

from .._transaction import sqlalchemy_private

logger = logging.getLogger(__name__)

_KEY = "flask_uow.checkout"
_NEVER = (float("inf"), None, None, None, None)
# The first caller outside of these has asked for the connection.
_LIBRARIES = frozenset("flask_uow sqlalchemy flask werkzeug jinja2 contextlib functools".split())


class CheckoutContext(Protocol):
    """What connections are checked out for, such as the Flask contexts of one app."""

    def current_context(self) -> object:
        """Return what a connection is checked out for now, or None.

        Only a weak reference is kept: the object is free to end without returning the connection.
        """
        ...

    def is_running(self, context: object) -> bool:
        """Tell whether *context* may still use a connection; False once it has ended."""
        ...

    def describe(self, context: object) -> str:
        """Put such an object into words, for a message."""
        ...

    def has_location(self, context: object) -> bool:
        """Tell whether :meth:`describe` names a line of code: then the stack is not walked."""
        ...


class Checkout(NamedTuple):
    """One connection that is checked out.

    :ivar since: when, as ``time.monotonic()``.
    :ivar context: a weak reference to what it is checked out for, or the name of the thread.
    :ivar code: of the first frame outside of the libraries, if there is one. Not the frame: that
        would keep alive whatever its function works with.
    :ivar line: in that frame.
    :ivar stack: the frames that led there, if they were asked for.
    """

    since: float
    context: weakref.ref[object] | str
    code: CodeType | None
    line: int | None
    stack: traceback.StackSummary | None

    @property
    def age(self) -> float:
        """Seconds since the checkout."""
        return monotonic() - self.since

    @property
    def location(self) -> str:
        """The file, the line and the function that asked for the connection."""
        return source_location(self.code, self.line)


_trackers: weakref.WeakKeyDictionary[CheckoutTracker, None] = weakref.WeakKeyDictionary()


def trackers() -> list[CheckoutTracker]:
    """Return the trackers of all engines that have a connection."""
    found = (reference() for reference in _trackers.keyrefs())
    return [tracker for tracker in found if tracker is not None and tracker.has_entries]


class CheckoutTracker:
    """The present checkouts of one engine.

    :param context: what the connections are checked out for; None if nothing is known of that.
    :param warn_after: seconds after which a warning is logged, or None for never.
    :param stacks: remember the whole stack of each checkout: for debugging, it takes long.
    """

    def __init__(
        self,
        context: CheckoutContext | None = None,
        *,
        warn_after: float | None = 60.0,
        stacks: bool = False,
    ) -> None:
        self._current: Callable[[], object] = lambda: None
        self._describe: Callable[[object], str] = repr
        self._has_location: Callable[[object], bool] = lambda _: False
        self._is_running: Callable[[object], bool] = lambda _: True
        if context is not None:
            self._current, self._describe = context.current_context, context.describe
            self._has_location, self._is_running = context.has_location, context.is_running
        if stacks:  # the line of a unit is not enough
            self._has_location = lambda _: False
        self._warn_after = float("inf") if warn_after is None else warn_after
        self._stacks = stacks
        # Not a WeakSet: its keyrefs() are safe while other threads connect.
        self._entries: weakref.WeakKeyDictionary[ConnectionPoolEntry, None] = (
            weakref.WeakKeyDictionary()
        )
        self._warned_of: set[float] = set()

    def track(self, engine: Engine) -> None:
        """Watch *engine*, with any pool whose connections have one user at a time."""
        _trackers[self] = None
        event.listen(engine, "connect", self._note_connection)
        event.listen(engine, "checkout", self._note_checkout)
        event.listen(engine, "checkin", self._note_return)

    def add(self, entry: ConnectionPoolEntry) -> None:
        """Watch *entry*, for a pool whose connections were opened elsewhere."""
        self._entries[entry] = None

    def now(self) -> list[Checkout]:
        """Return the present checkouts, the oldest first."""
        return sorted(self.by_entry().values(), key=lambda checkout: checkout.since)

    def by_entry(self) -> dict[ConnectionPoolEntry, Checkout]:
        """Return the present checkouts, each with the pool's entry of its connection."""
        checkouts = {}
        for entry in self.entries():
            # What a forked process has inherited has no connection any more.
            if entry.dbapi_connection is not None:
                values = entry.info.get(_KEY)  # None if it came back meanwhile
                if values is not None:
                    checkouts[entry] = Checkout(*values)
        return checkouts

    @property
    def has_entries(self) -> bool:
        """Whether there is a connection; not those of an engine that was disposed of."""
        return bool(self._entries)

    def entries(self) -> list[ConnectionPoolEntry]:
        """Return the entries of all connections, those of other threads included."""
        entries = (reference() for reference in self._entries.keyrefs())
        return [entry for entry in entries if entry is not None]

    def suspects(self, *, doubtful: bool) -> set[tuple[object, ...]]:
        """Return the checkouts that only garbage may hold, if no connection is idle.

        The context of such a checkout has ended, or none is noted, because an exception interrupted
        the checkout.

        :param doubtful: include checkouts outside of any context, and those of the current context,
            which asks for another connection and may have dropped the first.
        """
        found: set[tuple[object, ...]] = set()
        for reference in self._entries.keyrefs():
            entry = reference()
            if entry is None or entry.dbapi_connection is None:
                continue
            values = entry.info.get(_KEY)
            if values is None:  # or not noted yet: the second look finds it
                found.add((reference, sqlalchemy_private.proxy_reference(entry)))
            elif not self._is_held(values[1], doubtful=doubtful):
                found.add((reference, values[0]))
        return found

    def _is_held(self, holder: weakref.ref[object] | str, *, doubtful: bool) -> bool:
        if isinstance(holder, str):
            return not doubtful
        context = holder()
        if context is None or not self._is_running(context):
            return False
        return not (doubtful and context is self._current())

    def report(self, limit: int = 10) -> str:
        """Put :meth:`now` into words, a line each, at most *limit* of them."""
        checkouts = self.now()
        lines = [f"  {one.age:.1f} s: {self.describe(one)}" for one in checkouts[:limit]]
        if len(checkouts) > limit:
            lines.append(f"  and {len(checkouts) - limit} more, for a shorter time")
        return "\n".join(lines) or "  no checkout that flask_uow knows of"

    def describe(self, checkout: Checkout) -> str:
        """Say what *checkout* is for, and where the connection was asked for."""
        text = self._name(checkout)
        if checkout.code is not None or isinstance(checkout.context, str):
            text += f", from {checkout.location}"
        if checkout.stack is not None:
            text += "\n" + "".join(checkout.stack.format()).rstrip()
        return text

    def _name(self, checkout: Checkout) -> str:
        if isinstance(checkout.context, str):
            return f"the thread {checkout.context!r}"
        context = checkout.context()
        if context is None:
            return "a context that is gone"
        try:
            return self._describe(context)
        except Exception:  # an error here would break a checkin, or hide a better message
            return f"a {type(context).__name__} that cannot be described"

    def warn_of_old(self) -> None:
        """Log a warning for each checkout that has lasted too long, once for each of them."""
        old = [checkout for checkout in self.now() if checkout.age >= self._warn_after]
        known, self._warned_of = self._warned_of, {checkout.since for checkout in old}
        for checkout in old:
            if checkout.since not in known:
                logger.warning(
                    "A connection pool has run dry, and one of its connections has been checked"
                    " out for %.1f seconds (UOW_HOLD_WARNING is %g) by %s",
                    checkout.age,
                    self._warn_after,
                    self.describe(checkout),
                )

    # Events -----------------------------------------------------------------------------------

    def _note_connection(self, _connection: object, entry: ConnectionPoolEntry) -> None:
        self._entries[entry] = None

    # These two run for each unit, so they call little and build nothing but a tuple.

    def _note_checkout(
        self, _connection: object, entry: ConnectionPoolEntry, _proxy: object
    ) -> None:
        context = self._current()
        if context is not None and self._has_location(context):
            entry.info[_KEY] = (monotonic(), weakref.ref(context), None, None, None)
            return
        frame = caller(3)  # closer than that is only the pool itself
        entry.info[_KEY] = (
            monotonic(),
            threading.current_thread().name if context is None else weakref.ref(context),
            None if frame is None else frame.f_code,
            None if frame is None else frame.f_lineno,
            _stack_of(frame) if self._stacks else None,
        )

    def _note_return(self, _connection: object, entry: ConnectionPoolEntry) -> None:
        values = entry.info.pop(_KEY, _NEVER)
        if monotonic() - values[0] >= self._warn_after:
            checkout = Checkout(*values)
            logger.warning(
                "A connection was checked out for %.1f seconds (UOW_HOLD_WARNING is %g) by %s."
                " All that time no other request could use it, and its transaction kept its locks."
                " Commit before work that takes long and needs no database.",
                checkout.age,
                self._warn_after,
                self.describe(checkout),
            )


def forget_checkout(info: dict[Any, Any]) -> None:
    """Forget since when a connection was checked out: its session kept it free for others.

    :param info: the ``info`` of the connection.
    """
    info.pop(_KEY, None)


def caller(depth: int) -> FrameType | None:
    """Return the first frame outside of the libraries, *depth* frames away or more."""
    frame: FrameType | None = sys._getframe(depth + 1)
    while frame is not None and _known_modules[frame.f_globals.get("__name__")]:
        frame = frame.f_back
    return frame


def is_library(module: object) -> bool:
    """Tell whether the module with this name is not part of the app."""
    return _known_modules[module]


def caller_location(depth: int) -> str:
    """Describe the first frame outside of the libraries, *depth* frames away or more."""
    frame = caller(depth + 1)
    if frame is None:
        return source_location(None, None)
    return source_location(frame.f_code, frame.f_lineno)


def calling_module(depth: int) -> str:
    """Return the name of the module of the first frame outside of the libraries."""
    frame = caller(depth + 1)
    return "" if frame is None else str(frame.f_globals.get("__name__", ""))


def source_location(code: CodeType | None, line: int | None) -> str:
    """Name a file, a line and a function, for messages."""
    if code is None:
        return "a place without code of the app"
    name = getattr(code, "co_qualname", code.co_name)  # since Python 3.11
    return f"{code.co_filename}:{line} in {name}"


def _stack_of(frame: FrameType | None) -> traceback.StackSummary:
    stack = traceback.StackSummary.extract(traceback.walk_stack(frame), lookup_lines=False)
    stack.reverse()
    return stack


class _Libraries(dict[object, bool]):
    """Whether a module, by its name, is part of a library; found out once for each."""

    def __missing__(self, name: object) -> bool:
        self[name] = str(name).partition(".")[0] in _LIBRARIES
        return self[name]


_known_modules = _Libraries()
