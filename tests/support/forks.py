"""Work in a forked child."""

from __future__ import annotations

import multiprocessing.connection
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

Pipe: TypeAlias = "multiprocessing.connection.Connection[Any, Any]"


def in_child(work: Callable[[], object]) -> int:
    """Run *work* in a forked child; 0 if it returned."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@contextmanager
def forked(work: Callable[[Pipe], object]) -> Iterator[tuple[int, Pipe]]:
    """A child that does *work* with one end of a pipe, until it is killed in the end."""
    ours, theirs = multiprocessing.Pipe()
    child = os.fork()
    if child == 0:
        try:
            work(theirs)
        finally:
            os._exit(0)
    theirs.close()  # so that recv() raises EOFError if the child has failed
    try:
        yield child, ours
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        ours.close()
