"""Round trips to a server per request, counted on the wire, and how long a connection is in use.

A figure in brackets is with ``pool_pre_ping``, which the other ways need for what an engine of
flask_uow does without it: a connection that died while it was idle is replaced.

The second table says in which share of a request a connection is out of the pool, so that no
other request can have it: on pages that render for 10 ms, or wait as long for another service.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import URL, event, make_url

from ._measure import table
from ._stacks import (
    COMPARED,
    OURS,
    PAGES,
    REQUESTS,
    Stack,
    open_stacks,
    print_versions,
)
from ._wire import RoundTrips, counted

WARM_UP, REPEAT = 20, 50
COUNTED = [name for name in REQUESTS if not name.startswith("1,000")]
PAUSE, STEPS = 0.01, 10  # seconds, and in how many parts


def main() -> None:
    options = _options()
    print_versions()
    for text in options.url or ["postgresql+psycopg://127.0.0.1/test"]:
        url = make_url(text)
        print(f"Round trips, {url.drivername}; in brackets with pool_pre_ping:\n")
        print(_trips(url), end="\n\n")
        print("The share of the request in which a connection is out of the pool:\n")
        print(_shares(text, options.repeat), end="\n\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--url",
        action="append",
        help="of a database that is reached by TCP; may be repeated;"
        " default: postgresql+psycopg://127.0.0.1/test",
    )
    parser.add_argument("--repeat", type=int, default=REPEAT, help="requests of the second table")
    return parser.parse_args()


# Round trips --------------------------------------------------------------------------------------


def _trips(url: URL) -> str:
    with counted(url) as (proxied, proxy):
        text = proxied.render_as_string(hide_password=False)
        with open_stacks(text, COMPARED) as stacks:
            plain = _count(proxy, stacks)
        others = [way for way in COMPARED if way != OURS]
        with open_stacks(text, others, {"pool_pre_ping": True}) as stacks:
            pinged = _count(proxy, stacks)
    rows = [
        [request, *(_cell(counts, pinged.get(way), request) for way, counts in plain.items())]
        for request in COUNTED
    ]
    return table(["request", *plain], rows)


def _cell(counts: dict[str, str], pinged: dict[str, str] | None, request: str) -> str:
    if pinged is None or pinged[request] == counts[request]:
        return counts[request]
    return f"{counts[request]} ({pinged[request]})"


def _count(proxy: RoundTrips, stacks: dict[str, Stack]) -> dict[str, dict[str, str]]:
    """The round trips of each request of each way."""
    return {
        way: {name: _per_request(proxy, stack.request(name)) for name in COUNTED}
        for way, stack in stacks.items()
    }


def _per_request(proxy: RoundTrips, request: Callable[[], bytes]) -> str:
    for _ in range(WARM_UP):  # a driver prepares a statement that it has seen some times
        request()
    before = proxy.count
    for _ in range(REPEAT):
        request()
    return f"{(proxy.count - before) / REPEAT:g}"


# Time out of the pool -----------------------------------------------------------------------------


class Watch:
    """How long the pool of an app lacks a connection.

    The events of the pool say when a connection goes and comes, and whenever a view pauses, the
    pool is asked: the one of flask_uow does not count what it may take back.

    :ivar seconds: the time in which one was missing.
    """

    def __init__(self, stack: Stack) -> None:
        self.seconds = 0.0
        self._engine, self._out = stack.engine, 0
        self._missing, self._since = False, 0.0
        event.listen(stack.engine, "checkout", lambda *_: self._move(1))
        event.listen(stack.engine, "checkin", lambda *_: self._move(-1))

    def look(self) -> None:
        """Add the time since the last look, and look again."""
        now = time.perf_counter()
        if self._missing:
            self.seconds += now - self._since
        self._since = now
        pool: Any = self._engine.pool
        # At the event, a connection that comes back is still counted by the pool.
        self._missing = min(self._out, pool.checkedout()) > 0

    def pause(self) -> None:
        for _ in range(STEPS):
            self.look()
            time.sleep(PAUSE / STEPS)
        self.look()

    def _move(self, by: int) -> None:
        self._out += by
        self.look()


def _shares(url: str, repeat: int) -> str:
    with open_stacks(url, COMPARED) as stacks:
        rows: list[list[str]] = [[name] for name in PAGES]
        for stack in stacks.values():
            watch = Watch(stack)
            stack.pause_by(watch.pause)
            for row in rows:
                row.append(f"{_share(watch, stack.request(row[0]), repeat):.2f}")
    return table(["request", *stacks], rows)


def _share(watch: Watch, request: Callable[[], bytes], repeat: int) -> float:
    """The median over the requests."""
    shares = []
    for _ in range(repeat):
        before, started = watch.seconds, time.perf_counter()
        request()
        watch.look()
        shares.append((watch.seconds - before) / (time.perf_counter() - started))
    return statistics.median(shares)


if __name__ == "__main__":
    main()
