"""Who has a connection of the pool: since when, for which request, and where it was asked for.

A pool that has run dry says which requests have its connections, and a connection that was held
for long says so when it comes back. Every checkout pays for this, so as little as possible is
done there: a time, a weak reference, and a walk up the stack to the first frame of the app.

Nothing here knows Flask: what a connection is held for is an opaque object, and a function of the
caller's puts it into words.
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
from typing import Any, NamedTuple

from sqlalchemy import Engine, event
from sqlalchemy.pool import ConnectionPoolEntry

logger = logging.getLogger("flask_uow")

_KEY = "flask_uow.holder"
# Whoever is behind these has asked for the connection.
_LIBRARIES = frozenset({"flask_uow", "sqlalchemy", "flask", "werkzeug", "contextlib", "functools"})


class Checkout(NamedTuple):
    """Who has checked a connection out.

    :ivar since: when, as ``time.monotonic()``.
    :ivar context: a weak reference to what it is held for, or the name of the thread.
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


class CheckoutTracker:
    """Those who have the connections of one engine just now.

    :param who: what a connection is held for; an object that can be referred to weakly, because
        it must be free to end without giving the connection back, or None.
    :param describe: puts that object into words, when they are needed.
    :param has_place: does that object know a place itself, so that *describe* can name it? Then
        the stack is not walked.
    :param warn_after: seconds after which a warning is logged, or None for never.
    :param stacks: remember the whole stack of each checkout: for debugging, it takes long.
    """

    def __init__(
        self,
        who: Callable[[], object] = lambda: None,
        describe: Callable[[Any], str] = repr,
        has_place: Callable[[Any], bool] = lambda _: False,
        *,
        warn_after: float | None = 60.0,
        stacks: bool = False,
    ) -> None:
        self._who = who
        self._describe = describe
        self._has_place = has_place
        self._warn_after = float("inf") if warn_after is None else warn_after
        self._stacks = stacks
        # Not a WeakSet: its keyrefs() are safe while other threads connect.
        self._entries: weakref.WeakKeyDictionary[ConnectionPoolEntry, None] = (
            weakref.WeakKeyDictionary()
        )
        self._warned_of: set[float] = set()

    def track(self, engine: Engine) -> None:
        """Watch *engine*, with any pool that lends a connection to one at a time."""
        event.listen(engine, "connect", self._note_connection)
        event.listen(engine, "checkout", self._note_checkout)
        event.listen(engine, "checkin", self._note_return)

    def now(self) -> list[Checkout]:
        """Who has a connection just now, the oldest first."""
        found = []
        for reference in self._entries.keyrefs():
            entry = reference()
            # What a forked process has inherited has no connection any more.
            if entry is not None and entry.dbapi_connection is not None:
                holder = entry.info.get(_KEY)  # others come and go meanwhile
                if holder is not None:
                    found.append(Checkout(*holder))
        return sorted(found, key=lambda holder: holder.since)

    def report(self, limit: int = 10) -> str:
        """:meth:`now` in words, a line each, at most *limit* of them."""
        holders = self.now()
        lines = [f"  {holder.age:.1f} s: {self.describe(holder)}" for holder in holders[:limit]]
        if len(holders) > limit:
            lines.append(f"  and {len(holders) - limit} more, for a shorter time")
        return "\n".join(lines) or "  nobody who is known here"

    def describe(self, holder: Checkout) -> str:
        """What *holder* is, and where it asked for the connection."""
        text = self._name(holder)
        if holder.code is not None or isinstance(holder.context, str):
            text += f", from {holder.location}"
        if holder.stack is not None:
            text += "\n" + "".join(holder.stack.format()).rstrip()
        return text

    def _name(self, holder: Checkout) -> str:
        if isinstance(holder.context, str):
            return f"the thread {holder.context!r}"
        context = holder.context()
        if context is None:
            return "a context that is gone"
        try:
            return self._describe(context)
        except Exception:  # an error here would come in the way of a checkin, or of a better one
            return f"a {type(context).__name__} that cannot be described"

    def warn_of_old(self) -> None:
        """Log a warning for each connection that is held for too long; once for each of them."""
        old = [holder for holder in self.now() if holder.age >= self._warn_after]
        known, self._warned_of = self._warned_of, {holder.since for holder in old}
        for holder in old:
            if holder.since not in known:
                logger.warning(
                    "The pool of connections has run dry, and one of them is held for %.1f seconds"
                    " already (UOW_HOLD_WARNING is %g) by %s",
                    holder.age,
                    self._warn_after,
                    self.describe(holder),
                )

    # Events -----------------------------------------------------------------------------------

    def _note_connection(self, _connection: object, entry: ConnectionPoolEntry) -> None:
        self._entries[entry] = None

    # These two run for each unit, so they call little and build nothing but a tuple.

    def _note_checkout(self, _connection: Any, entry: ConnectionPoolEntry, _proxy: Any) -> None:
        context = self._who()
        if context is not None and not self._stacks and self._has_place(context):
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

    def _note_return(self, _connection: Any, entry: ConnectionPoolEntry) -> None:
        found = entry.info.pop(_KEY, None)
        if found is not None and monotonic() - found[0] >= self._warn_after:
            holder = Checkout(*found)
            logger.warning(
                "A connection was held for %.1f seconds (UOW_HOLD_WARNING is %g) by %s."
                " Meanwhile nobody else could use it, and its locks and its snapshot lasted."
                " Commit before work that takes long and needs no database.",
                holder.age,
                self._warn_after,
                self.describe(holder),
            )


def caller(depth: int) -> FrameType | None:
    """The first frame outside of the libraries, *depth* frames away or more."""
    frame: FrameType | None = sys._getframe(depth + 1)
    while frame is not None and _is_library[frame.f_globals.get("__name__")]:
        frame = frame.f_back
    return frame


def caller_location(depth: int) -> str:
    """The place of the first frame outside of the libraries, *depth* frames away or more."""
    frame = caller(depth + 1)
    return (
        source_location(None, None)
        if frame is None
        else source_location(frame.f_code, frame.f_lineno)
    )


def source_location(code: CodeType | None, line: int | None) -> str:
    """A file, a line and a function, for messages."""
    if code is None:
        return "a place without code of the app"
    name = getattr(code, "co_qualname", code.co_name)  # since Python 3.11
    return f"{code.co_filename}:{line} in {name}"


def _stack_of(frame: FrameType | None) -> traceback.StackSummary:
    stack = traceback.StackSummary.extract(traceback.walk_stack(frame), lookup_lines=False)
    stack.reverse()
    return stack


class _Libraries(dict[Any, bool]):
    """Is a module, by its name, part of a library? Found out once for each."""

    def __missing__(self, name: Any) -> bool:
        self[name] = str(name).partition(".")[0] in _LIBRARIES
        return self[name]


_is_library = _Libraries()
