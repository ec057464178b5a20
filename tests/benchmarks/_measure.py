"""CPU time of several cases in one run, interleaved, and how much of it is noise.

A shared machine changes its speed from one second to the next. So every round runs every case,
in a new order, and a ratio is taken within its round; the median over the rounds is compared,
and the quartiles beside it say how far it can be trusted.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from platform import python_version
from timeit import Timer

Case = Callable[[int], float]
"""Runs its code so many times, and returns the seconds."""
Times = dict[str, list[float]]


def case(code: str, **names: object) -> Case:
    """Count the CPU time of *code*, the kernel's part included, with the garbage collector on."""
    return Timer(code, "gc.enable()", time.process_time, {**names, "gc": gc}).timeit


def interleave(cases: Mapping[str, Case], rounds: int, repeat: int) -> Times:
    """Measure each case in each round.

    Each case pays for its own garbage, and for none that was there before: what exists at the
    start is taken out of the collector's sight, and a collection ends every measurement.

    :returns: the seconds of one execution, a list over the rounds for each case.
    """
    for run in cases.values():
        run(repeat)
    times: Times = {name: [] for name in cases}
    gc.collect()
    gc.freeze()
    try:
        for _ in range(rounds):
            for name in random.sample(list(cases), len(cases)):
                times[name].append(_with_its_garbage(cases[name], repeat) / repeat)
    finally:
        gc.unfreeze()
    return times


def _with_its_garbage(run: Case, repeat: int) -> float:
    gc.collect()
    seconds = run(repeat)
    before = time.process_time()
    gc.collect()
    return seconds + time.process_time() - before


def ratio(times: Times, name: str, base: str) -> str:
    """How *name* compares with *base*: the median over the rounds and the quartiles."""
    rounds = zip(times[name], times[base], strict=True)
    low, middle, high = statistics.quantiles((mine / other for mine, other in rounds), n=4)
    return f"{middle:.3f} ({low:.2f} to {high:.2f})"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def versions(*packages: str) -> str:
    """The versions of Python and of *packages*, as far as they are installed."""
    found = [f"Python {python_version()}"]
    for package in packages:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            found.append(f"{package} not installed")
    return ", ".join(found)
