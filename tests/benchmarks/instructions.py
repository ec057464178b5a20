"""Machine instructions per request, counted by valgrind: exact, C code included, but no caches.

Takes some minutes. Each figure is the difference of two runs of different length; the seeds of
the hash function change where things lie in memory, which decides on collisions in CPython's
cache of attribute lookups, and so by some percent on the count.
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from ._measure import table
from ._stacks import HAND_WRITTEN, OURS, REQUESTS, SAME_ENGINE, WAYS, add_url

WARM_UP = 60
SHORT, LONG = 20, 120


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=REQUESTS, action="append", help="may be repeated")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--base", choices=[HAND_WRITTEN, SAME_ENGINE], default=HAND_WRITTEN)
    add_url(parser)
    parser.add_argument("--child", nargs=3, metavar=("WAY", "REQUEST", "COUNT"))
    options = parser.parse_args()
    if options.child:
        way, request, count = options.child
        _run(options.url, way, request, int(count))
    if shutil.which("valgrind") is None:
        sys.exit("valgrind is not installed; 'bytecodes' counts without it.")
    rows = []
    for name in options.only or REQUESTS:
        pairs = [
            tuple(_count(options.url, way, name, seed) for way in (options.base, OURS))
            for seed in range(options.seeds)
        ]
        ratios = sorted(ours / theirs for theirs, ours in pairs)
        median = statistics.median(ratios)
        base = statistics.median(theirs for theirs, _ in pairs)
        rows.append([name, f"{base:.0f}", f"{median:.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"])
        print(*rows[-1], sep="  ", file=sys.stderr)
    print(table(["request", options.base, OURS], rows))


def _count(url: str, way: str, request: str, seed: int) -> float:
    """The instructions of one request."""
    with ThreadPoolExecutor() as pool:
        short, long = pool.map(lambda count: _total(url, way, request, count, seed), (SHORT, LONG))
    return (long - short) / (LONG - SHORT)


def _total(url: str, way: str, request: str, count: int, seed: int) -> int:
    run = subprocess.run(
        ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null",
         sys.executable, "-m", __spec__.name, "--url", url, "--child", way, request, str(count)],
        env={**os.environ, "PYTHONHASHSEED": str(seed)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = re.search(r"I\s+refs:\s+([\d,]+)", run.stderr)
    if found is None:
        raise RuntimeError(f"valgrind counted nothing: {run.stderr}")
    return int(found[1].replace(",", ""))


def _run(url: str, way: str, request: str, count: int) -> None:
    """What valgrind watches. Ends the process, without the work of an ordinary exit."""
    with TemporaryDirectory() as folder:
        # Two of these run at once: a table for each on a server, a file on SQLite.
        file = f"sqlite:///{Path(folder, 'app.db')}"
        stack = WAYS[way][0](file if url == "sqlite://" else url, f"benchmark_{os.getpid()}")
        stack.fill()
        send = stack.request(request)
        for _ in range(WARM_UP):
            send()
        gc.collect()
        gc.disable()
        for _ in range(count):
            send()
        stack.remove()
    os._exit(0)


if __name__ == "__main__":
    main()
