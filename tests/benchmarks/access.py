"""CPU of one access to the session: what stands between ``db.session`` and the session."""

from __future__ import annotations

import argparse
import statistics

from ._measure import Case, case, interleave, ratio, table
from ._stacks import OURS, Stack, open_stacks, print_versions

REAL = "the session itself"
OTHER = "Flask-SQLAlchemy"
ACCESSES = {"info": "session.info", "add": "session.add(new)"}


def main() -> None:
    options = _options()
    print_versions()
    with open_stacks("sqlite://") as stacks:
        proxies = {name: stacks[name] for name in (OURS, OTHER) if name in stacks}
        names = [REAL, *proxies]
        rows = []
        for code in ACCESSES.values():
            cases = {
                REAL: _in_request(stacks[OURS], code, real=True),
                **{name: _in_request(stack, f"db.{code}") for name, stack in proxies.items()},
            }
            times = interleave(cases, options.rounds, options.repeat)
            nanoseconds = [round(statistics.median(times[name]) * 1e9) for name in names]
            ratios = [ratio(times, OURS, name) for name in names if name != OURS]
            rows.append([code, *nanoseconds, *ratios])
    head = ["access", *(f"{name}, ns" for name in names)]
    print(table([*head, *(f"{OURS} / {name}" for name in names if name != OURS)], rows))


def _in_request(stack: Stack, code: str, *, real: bool = False) -> Case:
    """The access in a request context whose session has one new object."""

    def run(repeat: int) -> float:
        with stack.app.test_request_context():
            session = stack.db.session() if real else None
            new = stack.user(name="Ada")
            stack.db.session.add(new)
            try:
                return case(code, db=stack.db, session=session, new=new)(repeat)
            finally:
                stack.db.session.expunge(new)

    return run


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=20_000, help="accesses in a round")
    return parser.parse_args()


if __name__ == "__main__":
    main()
