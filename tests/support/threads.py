"""Threads that start together and are waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def in_threads(work: Callable[[], T], *, times: int = 8) -> list[T]:
    """Run *work* in that many threads, which meet at a barrier first; their results."""
    barrier = threading.Barrier(times)

    def run() -> T:
        barrier.wait(timeout=30)
        return work()

    with ThreadPoolExecutor(times) as pool:
        return [one.result(timeout=60) for one in [pool.submit(run) for _ in range(times)]]


def in_thread(work: Callable[[], T]) -> T:
    """Run *work* in another thread, which knows nothing of this one's contexts; its result.

    What *work* raises is raised here.
    """
    return in_threads(work, times=1)[0]
