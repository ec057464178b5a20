"""CPU of one checkout: the check of idle connections, and the memory of who holds them."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from flask_uow._config.settings import PoolSettings
from flask_uow._engine import liveness
from flask_uow._engine import pool as _pool
from flask_uow._engine.checkouts import CheckoutTracker
from flask_uow._engine.pool import ConnectionPool
from tests.support.pools import Contexts

from ._measure import Case, Times, case, interleave, table

PLAIN = "a QueuePool"
CONTROL = "the same again"
NOTHING = "a listener that does nothing"
BY_SESSION = "{}, by a session"


class Request:
    """What a connection is held for."""

    name = "GET /"


REQUEST = Request()


def nothing(_engine: Engine) -> None:
    """Leave the engine as it is."""


def listen(engine: Engine) -> None:
    event.listen(engine, "checkout", lambda *_: None)


def hold(engine: Engine) -> None:
    CheckoutTracker(Contexts(lambda: REQUEST)).track(engine)


def check(engine: Engine) -> None:
    liveness.replace_dead_connections(engine, {}, PoolSettings())


def everything(engine: Engine) -> None:
    check(engine)
    _pool.track_checkouts(engine, PoolSettings(), Contexts(lambda: REQUEST))


ADDITIONS: dict[str, tuple[Callable[[Engine], object], type[QueuePool]]] = {
    PLAIN: (nothing, QueuePool),
    CONTROL: (nothing, QueuePool),
    NOTHING: (listen, QueuePool),
    "the check": (check, QueuePool),
    "the holders": (hold, QueuePool),
    "both, in our pool": (everything, ConnectionPool),
}


def main() -> None:
    options = _options()
    rows = []
    for url in options.url:
        with ExitStack() as stack:
            cases: dict[str, Case] = {}
            for name, (add, pool) in ADDITIONS.items():
                engine = stack.enter_context(_engine(url, add, pool))
                cases[name] = case("connect().close()", connect=engine.pool.connect)
                cases[BY_SESSION.format(name)] = case("use(engine)", use=_use, engine=engine)
            times = interleave(cases, options.rounds, options.repeat)
        driver = make_url(url).drivername
        rows += [
            [
                driver,
                name,
                *(_microseconds(times, form.format(name)) for form in ("{}", BY_SESSION)),
            ]
            for name in ADDITIONS
        ]
    print(table(["driver", "pool", "checkout, µs", "a session that connects, µs"], rows))
    print("\nThe median; in brackets, what is added to a QueuePool. Nothing is sent: no ROLLBACK.")


@contextmanager
def _engine(url: str, add: Callable[[Engine], object], pool: type[QueuePool]) -> Iterator[Engine]:
    engine = create_engine(url, poolclass=pool, pool_reset_on_return=None)
    # Or the session would send a ROLLBACK of its own.
    engine.dialect.do_rollback = lambda _: None  # type: ignore[assignment,method-assign]
    add(engine)
    yield engine
    engine.dispose()


def _use(engine: Engine) -> None:
    with Session(engine) as session:
        session.connection()


def _microseconds(times: Times, name: str) -> str:
    base = BY_SESSION.format(PLAIN) if name.endswith("session") else PLAIN
    pairs = zip(times[name], times[base], strict=True)
    added = statistics.median(mine - plain for mine, plain in pairs)
    return f"{statistics.median(times[name]) * 1e6:.2f} ({added * 1e6:+.2f})"


def _options() -> Any:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--url",
        action="append",
        required=True,
        help="of a server; may be repeated; nothing is written there",
    )
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=500, help="checkouts in a round")
    return parser.parse_args()


if __name__ == "__main__":
    main()
