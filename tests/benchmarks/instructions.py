"""Machine instructions per request, counted by valgrind: exact, C code included, but no caches.

The plain app, which is the hand-written one where no view uses the database, is subtracted: what
is compared is what a way adds to Flask. Only the row of the untouched request is whole.

The seeds of the hash function change where things lie in memory, which decides on collisions in
CPython's cache of attribute lookups, and so by some percent on the count.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

from ._measure import table
from ._stacks import (
    HAND_WRITTEN,
    OURS,
    REQUESTS,
    SAME_ENGINE,
    TUNED,
    UNTOUCHED,
    WAYS,
    add_url,
    print_versions,
)

WARM_UP, COUNT = 60, 50
COUNTED = "PyNumber_MatrixMultiply"
Counts = dict[str, dict[str, list[float]]]
"""Way, request: the instructions of one request, by each seed."""


def main() -> None:
    options = _options()
    if options.child:
        way, *requests = options.child
        _run(options.url, way, requests)
    if shutil.which("valgrind") is None:
        sys.exit("valgrind is not installed; 'bytecodes' counts without it.")
    print_versions()
    requests = [
        name for name in REQUESTS if name == UNTOUCHED or name in (options.only or REQUESTS)
    ]
    ways = [way for way in options.way or [OURS] if WAYS[way].is_for(options.url)]
    counts: Counts = {}
    for way in [options.base, *ways]:
        counts[way] = _counts(options.url, way, requests, options.seeds)
        print(way, counts[way], sep=": ", file=sys.stderr)
    print(_table(counts, options.base, ways))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=REQUESTS, action="append", help="may be repeated")
    parser.add_argument(
        "--way", choices=WAYS, action="append", help=f"may be repeated; default: {OURS}"
    )
    parser.add_argument("--seeds", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--base", choices=[HAND_WRITTEN, SAME_ENGINE, TUNED], default=HAND_WRITTEN)
    add_url(parser)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


def _table(counts: Counts, base: str, ways: list[str]) -> str:
    plain = counts[base][UNTOUCHED]
    rows = []
    for request, of_base in counts[base].items():
        subtracted = [0.0] * len(plain) if request == UNTOUCHED else plain
        row = [request, _thousands(of_base, subtracted)]
        for way in ways:
            of_way = counts[way][request]
            row += [_thousands(of_way, subtracted), _ratio(of_way, of_base, subtracted)]
        rows.append(row)
    head = [f"{base}, k", *(cell for way in ways for cell in (f"{way}, k", "ratio"))]
    return table(["request", *head], rows)


def _thousands(counts: list[float], subtracted: list[float]) -> str:
    differences = [mine - flask for mine, flask in zip(counts, subtracted, strict=True)]
    return f"{statistics.median(differences) / 1000:.0f}"


def _ratio(mine: list[float], theirs: list[float], subtracted: list[float]) -> str:
    ratios = sorted(
        (one - flask) / (other - flask)
        for one, other, flask in zip(mine, theirs, subtracted, strict=True)
    )
    return f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"


def _counts(url: str, way: str, requests: list[str], seeds: int) -> dict[str, list[float]]:
    """The instructions of one request of each name, by each seed."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = list(pool.map(lambda seed: _count(url, way, requests, seed), range(seeds)))
    return {name: [run[number] for run in runs] for number, name in enumerate(requests)}


def _count(url: str, way: str, requests: list[str], seed: int) -> list[float]:
    """The instructions of one request of each name."""
    arguments = ["--url", url, "--child", way, *requests]
    return under_valgrind(__spec__.name, arguments, seed, dumps=len(requests))[1]


def under_valgrind(
    module: str, arguments: list[str], seed: int, *, text: str = "", dumps: int | None = None
) -> tuple[list[str], list[float]]:
    """Run *module*; return the lines that it prints, and the instructions of one call of each case.

    :param text: its standard input.
    :param dumps: the number of cases; by default that of the lines.
    """
    with TemporaryDirectory() as folder:
        child = subprocess.run(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/counts",
             f"--toggle-collect={COUNTED}", f"--dump-after={COUNTED}",
             sys.executable, "-m", module, *arguments],
            input=text, env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        lines = child.stdout.splitlines()
        numbers = range(1, (len(lines) if dumps is None else dumps) + 1)
        return lines, [_total(Path(folder, f"counts.{n}")) / COUNT for n in numbers]


def counts_with_statements(
    module: str, arguments: list[str], seed: int, text: str = ""
) -> dict[str, float]:
    """Return the instructions of each case by its name, and its statements by ``"... statements"``.

    The module prints a line for each case: its name and the number of statements.
    """
    counts: dict[str, float] = {}
    lines, instructions = under_valgrind(module, arguments, seed, text=text)
    for line, count in zip(lines, instructions, strict=True):
        name, _, statements = line.rpartition(" ")
        counts[name] = count
        counts[f"{name} statements"] = float(statements)
    return counts


def _total(dump: Path) -> int:
    found = re.search(r"^(?:summary|totals): (\d+)", dump.read_text(), re.MULTILINE)
    if found is None or found[1] == "0":
        raise RuntimeError(f"valgrind counted nothing: does this Python export {COUNTED}?")
    return int(found[1])


# What valgrind watches ----------------------------------------------------------------------------


class _Measured:
    """Requests that are sent in a C function that nothing else calls: that of ``@``."""

    def __init__(self, send: Callable[[], bytes]) -> None:
        self._send = send

    def __matmul__(self, count: int) -> int:
        for _ in range(count):
            self._send()
        return count


def _shift_cache(seed: int) -> None:
    """Let types that are created later have other places in the cache of attribute lookups."""
    for number in range(97 * seed):
        getattr(type(f"Type{number}", (), {})(), "missing", None)


def _run(url: str, way: str, requests: list[str]) -> NoReturn:
    """Send the requests. Ends the process, without the work of an ordinary exit."""
    _shift_cache(int(os.environ["PYTHONHASHSEED"]))
    with TemporaryDirectory() as folder:
        # Two of these run at once: a table for each on a server, a file on SQLite.
        file = f"sqlite:///{Path(folder, 'app.db')}"
        stack = WAYS[way].build(file if url == "sqlite://" else url, f"benchmark_{os.getpid()}")
        stack.fill()
        for name in requests:
            send = stack.request(name)
            for _ in range(WARM_UP):
                send()
            gc.collect()
            gc.disable()
            _ = _Measured(send) @ COUNT
            gc.enable()
        stack.remove()
    os._exit(0)


if __name__ == "__main__":
    main()
