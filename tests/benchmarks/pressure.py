"""Requests per second where connections are few and views take their time.

* ``wait``: 40 threads send requests to a view that reads, waits 100 ms as for another service, and
  reads again. The pool has five connections, no overflow, and gives up after 2 s.
* ``render``: gunicorn serves a view that reads and then renders for 50 ms. The pool has a
  connection for every second thread.

The hand-written app closes its session before it waits or renders, and opens another one after it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import statistics
import threading
import time
from collections import Counter
from dataclasses import dataclass

from flask import Flask
from werkzeug.test import EnvironBuilder, run_wsgi_app

from ._http import send, serving
from ._measure import table
from ._stacks import (
    COMPARED,
    HAND_WRITTEN,
    PAGES,
    WAYS,
    Stack,
    add_url,
    open_stacks,
    print_versions,
)

WAITING, RENDERING = 0.1, 0.05  # seconds
ENVIRONMENT = "BENCHMARK_PRESSURE"


@dataclass(frozen=True)
class Round:
    """How many requests a second succeeded, and which part of all failed."""

    rate: float
    failed: float

    @classmethod
    def of(cls, statuses: Counter[int], seconds: float) -> Round:
        succeeded, total = statuses[200], statuses.total()
        return cls(succeeded / seconds, (total - succeeded) / total)


def main() -> None:
    options = _options()
    logging.disable(logging.CRITICAL)  # a request that fails would log a traceback
    print_versions()
    for name in options.only or ["wait", "render"]:
        results = (_waiting if name == "wait" else _rendering)(options)
        print(_table(name, results), end="\n\n")


def _table(name: str, results: dict[str, list[Round]]) -> str:
    base = results[HAND_WRITTEN]
    rows = []
    for way, rounds in results.items():
        ratios = [mine.rate / theirs.rate for mine, theirs in zip(rounds, base, strict=True)]
        rates = sorted(one.rate for one in rounds)
        rows.append([
            way,
            f"{statistics.median(rates):.0f} ({rates[0]:.0f} to {rates[-1]:.0f})",
            f"{statistics.median(ratios):.2f}",
            f"{statistics.mean(one.failed for one in rounds):.0%}",
        ])  # fmt: skip
    return table([name, "requests/s", "of hand-written", "failed"], rows)


# Another service ----------------------------------------------------------------------------------


def _waiting(options: argparse.Namespace) -> dict[str, list[Round]]:
    pool = {"pool_size": 5, "max_overflow": 0, "pool_timeout": 2}
    with open_stacks(options.url, COMPARED, pool) as stacks:
        for stack in stacks.values():
            stack.pause_by(lambda: time.sleep(WAITING))
            stack.request("read, wait, read")()
        results: dict[str, list[Round]] = {way: [] for way in stacks}
        for _ in range(options.rounds):
            for way in random.sample(list(stacks), len(stacks)):
                results[way].append(_crowd(stacks[way], options))
    return results


def _crowd(stack: Stack, options: argparse.Namespace) -> Round:
    method, path, _ = PAGES["read, wait, read"]
    environ = EnvironBuilder(path, method=method).get_environ()
    statuses: list[int] = []
    started = time.monotonic()

    def client() -> None:
        while time.monotonic() < started + options.seconds:
            _, status, _ = run_wsgi_app(stack.app, dict(environ), buffered=True)
            statuses.append(int(status[:3]))

    threads = [threading.Thread(target=client) for _ in range(options.clients or 40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Round.of(Counter(statuses), time.monotonic() - started)


# Rendering ----------------------------------------------------------------------------------------


def _rendering(options: argparse.Namespace) -> dict[str, list[Round]]:
    with open_stacks(options.url, COMPARED) as stacks:
        results: dict[str, list[Round]] = {way: [] for way in stacks}
        for _ in range(options.rounds):
            for way in random.sample(list(stacks), len(stacks)):
                results[way].append(_serve(way, stacks[way], options))
    return results


def _serve(way: str, stack: Stack, options: argparse.Namespace) -> Round:
    app = {
        "way": way,
        "url": stack.engine.url.render_as_string(hide_password=False),
        "table": stack.user.__tablename__,
        "pool": max(1, options.threads // 2),
    }
    method, path, _ = PAGES["read, render"]
    paths = [path] * (options.clients or 2 * options.workers * options.threads)
    # A connection stays with the worker that accepted it: none has fewer than it has threads.
    enough = max(options.threads * 2, len(paths) - (options.workers - 1) * options.threads)
    shape = {"workers": options.workers, "threads": options.threads, "connections": enough}
    factory = f"{__spec__.name}:create_app()"
    with serving(factory, {ENVIRONMENT: json.dumps(app)}, **shape) as port:
        send(port, method, paths, requests=5)  # each worker opens its connections
        started = time.monotonic()
        answers = send(port, method, paths, seconds=options.seconds)
        seconds = time.monotonic() - started
    return Round.of(Counter(answer.status for answer in answers), seconds)


def create_app() -> Flask:
    """For gunicorn: what the environment says."""
    app = json.loads(os.environ[ENVIRONMENT])
    pool = {"pool_size": app["pool"], "max_overflow": 0}
    stack = WAYS[app["way"]].build(app["url"], app["table"], pool)
    stack.pause_by(lambda: time.sleep(RENDERING))
    return stack.app


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_url(parser, "postgresql+psycopg://127.0.0.1/test")
    parser.add_argument("--only", choices=["wait", "render"], action="append")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=4, help="of a round; default: %(default)s")
    parser.add_argument(
        "--clients", type=int, help="default: 40 for 'wait', two for each thread for 'render'"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes; default: %(default)s")
    parser.add_argument("--threads", type=int, default=8, help="of each; default: %(default)s")
    return parser.parse_args()


if __name__ == "__main__":
    main()
