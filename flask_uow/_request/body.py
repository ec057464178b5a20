"""A streamed body that tells when it is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


class Body:
    """The iterable of a streamed response, with something to do when it is closed.

    ``Response.call_on_close`` is not enough: it is skipped if the iterable's own ``close()``, the
    ``finally`` of a generator, raises.
    """

    def __init__(self, iterable: Any, end: Callable[[], None]) -> None:
        self._iterable = iterable
        self._end = end

    def __iter__(self) -> Iterator[Any]:
        return iter(self._iterable)

    def close(self) -> None:
        try:
            if hasattr(self._iterable, "close"):
                self._iterable.close()
        finally:
            self._end()
