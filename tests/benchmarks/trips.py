"""PostgreSQL round trips per request, counted on the wire."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from sqlalchemy import make_url

from ._measure import table
from ._stacks import REQUESTS, add_url, open_stacks
from ._wire import RoundTrips, counted

WARM_UP, REPEAT = 20, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_url(parser, "postgresql+psycopg://127.0.0.1/test")
    url = make_url(parser.parse_args().url)
    with counted(url, 5432) as (proxied, proxy):
        with open_stacks(proxied.render_as_string(hide_password=False)) as stacks:
            rows = [
                [name, *(_per_request(proxy, stack.request(name)) for stack in stacks.values())]
                for name in REQUESTS
            ]
        print(table(["request", *stacks], rows))


def _per_request(proxy: RoundTrips, request: Callable[[], bytes]) -> str:
    for _ in range(WARM_UP):  # a driver prepares a statement that it has seen some times
        request()
    before = proxy.count
    for _ in range(REPEAT):
        request()
    return f"{(proxy.count - before) / REPEAT:g}"


if __name__ == "__main__":
    main()
