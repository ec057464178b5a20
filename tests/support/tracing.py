"""A trace function for the length of a block."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def traced(trace: Callable[..., Any]) -> Iterator[None]:
    """Call *trace* in the block, and put back what traced before: the measurement of coverage."""
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
