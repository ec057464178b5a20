"""A statement that takes too long on SQLite is ended, as the servers do it.

SQLite has no such setting. It asks now and then whether it shall go on (``progress_handler``), and
by its cursors a connection knows when a statement has begun. Time that the app takes between two
rows does not count, nor does the wait for a lock, which has a timeout of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_PERIOD = 1000  # steps of SQLite's machine between two questions


def start(connection: Any, seconds: float) -> Callable[[], None]:
    """Let no statement of *connection* take longer.

    A ``progress_handler`` of somebody else is lost.

    :param connection: one that lets its cursors be chosen; any other stays as it is.
    :return: ends that.
    """
    before = getattr(connection, "cursor_class", None)
    if before is None:
        return lambda: None
    timer = _Timer(seconds)
    connection.cursor_class = _timed(before, timer)
    connection.set_progress_handler(timer.is_over, _PERIOD)

    def stop() -> None:
        connection.cursor_class = before
        connection.set_progress_handler(None, 0)

    return stop


class _Timer:
    """What is left of the time of the statement that runs."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = float("inf")

    def is_over(self) -> bool:
        return time.monotonic() > self._end

    def run(self, seconds: float, function: Callable[..., Any], *arguments: Any) -> Any:
        self._end = time.monotonic() + seconds
        try:
            return function(*arguments)
        finally:
            self._end = float("inf")

    def begin_anew(self, rows: Iterable[Any]) -> Iterator[Any]:
        """Each row of an ``executemany()`` is a statement of its own."""
        for row in rows:
            self._end = time.monotonic() + self.seconds
            yield row


def _timed(base: Any, timer: _Timer) -> Any:
    """The class *base* of cursors, with a time for each statement."""

    class TimedCursor(base):  # type: ignore[misc]
        left = timer.seconds

        def execute(self, *arguments: Any) -> Any:
            self.left = timer.seconds
            return self._timed(super().execute, *arguments)

        def executemany(self, statement: str, rows: Iterable[Any]) -> Any:
            self.left = timer.seconds
            return self._timed(super().executemany, statement, timer.begin_anew(rows))

        def executescript(self, script: str) -> Any:
            self.left = timer.seconds
            return self._timed(super().executescript, script)

        def fetchone(self) -> Any:
            return self._timed(super().fetchone)

        def fetchmany(self, *arguments: Any) -> Any:
            return self._timed(super().fetchmany, *arguments)

        def fetchall(self) -> Any:
            return self._timed(super().fetchall)

        def __next__(self) -> Any:
            return self._timed(super().__next__)

        def _timed(self, function: Callable[..., Any], *arguments: Any) -> Any:
            begun = time.monotonic()
            try:
                return timer.run(self.left, function, *arguments)
            finally:
                self.left -= time.monotonic() - begun

    return TimedCursor
