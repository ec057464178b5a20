"""Python bytecodes per request: exact on any machine, but blind to time that is spent in C."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from ._measure import table
from ._stacks import HAND_WRITTEN, OURS, REQUESTS, Stack, add_url, open_stacks, print_versions

WARM_UP = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_url(parser)
    parser.add_argument(
        "--functions", choices=REQUESTS, help=f"where {OURS} and {HAND_WRITTEN} differ"
    )
    options = parser.parse_args()
    print_versions()
    with open_stacks(options.url) as stacks:
        if options.functions:
            print(_differences(stacks, options.functions))
        else:
            print(_totals(stacks))


def _totals(stacks: dict[str, Stack]) -> str:
    rows = []
    for name in REQUESTS:
        base, *others = (_count(stack.request(name)).total() for stack in stacks.values())
        rows.append([name, base, *(f"{other / base:.3f}" for other in others)])
    return table(["request", *stacks], rows)


def _differences(stacks: dict[str, Stack], request: str) -> str:
    ours, theirs = (_count(stacks[way].request(request)) for way in (OURS, HAND_WRITTEN))
    ours.subtract(theirs)
    rows = [[f"{more:+}", _place(code)] for code, more in ours.most_common() if more]
    return table(["bytecodes", "function"], rows)


def _place(code: CodeType) -> str:
    path = Path(code.co_filename)
    return f"{path.parent.name}/{path.name}:{code.co_firstlineno} {code.co_name}"


def _count(request: Callable[[], bytes]) -> Counter[CodeType]:
    """The bytecodes of one request, by function."""
    counts: Counter[CodeType] = Counter()

    def trace(frame: FrameType, happening: str, _: Any) -> Any:
        if happening == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif happening == "opcode":
            counts[frame.f_code] += 1
        return trace

    for _ in range(WARM_UP):
        request()
    sys.settrace(trace)
    try:
        request()
    finally:
        sys.settrace(None)
    return counts


if __name__ == "__main__":
    main()
