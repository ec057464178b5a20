"""CPU of whole requests, from the call of ``wsgi_app`` to the closed response."""

from __future__ import annotations

import argparse
import statistics

from ._measure import case, interleave, ratio, table
from ._stacks import (
    CONTROL,
    HAND_WRITTEN,
    REQUESTS,
    SAME_ENGINE,
    TUNED,
    add_url,
    open_stacks,
    print_versions,
)


def main() -> None:
    options = _options()
    print_versions()
    with open_stacks(options.url) as stacks:
        base = options.base
        others = [name for name in stacks if name != base]
        rows = []
        for request in options.only or REQUESTS:
            cases = {
                name: case("request()", request=stack.request(request))
                for name, stack in stacks.items()
            }
            times = interleave(cases, options.rounds, options.repeat)
            microseconds = round(statistics.median(times[base]) * 1e6)
            ratios = [ratio(times, name, base) for name in others]
            rows.append([request, microseconds, *ratios])
            print(*rows[-1], sep="  ", flush=True)
    print()
    print(table(["request", f"{base}, µs", *others], rows))
    print(f"\n{CONTROL!r} is the same code as {HAND_WRITTEN!r}: how far it is from 1 is noise.")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_url(parser)
    parser.add_argument("--base", choices=[HAND_WRITTEN, SAME_ENGINE, TUNED], default=HAND_WRITTEN)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=20, help="requests of each app in a round")
    parser.add_argument("--only", action="append", choices=REQUESTS, help="may be repeated")
    return parser.parse_args()


if __name__ == "__main__":
    main()
