"""What boundaries cost: ``db.atomic()``, ``db.on_commit()``, a view that is run again.

CPU on SQLite, in one process and interleaved; bytecodes, which are exact; round trips and
statements on PostgreSQL, counted. ``--only`` chooses some of the parts.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flask import Flask
from sqlalchemy import Engine, NullPool, create_engine, make_url, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from werkzeug.test import EnvironBuilder

from flask_uow import Database
from tests.support.recording import record

from ._measure import Case, case, interleave, ratio, table, versions
from ._wire import RoundTrips, counted
from .bytecodes import _count

BY_HAND, CONTROL, BLOCK = "session.begin_nested()", "the same again", "db.atomic()"
WARM_UP, REPEAT = 20, 20


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "benchmark_blocks"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    visits: Mapped[int] = mapped_column(default=0)


CHANGE = update(Row).where(Row.id == 1).values(visits=Row.visits + 1)
LOAD_AND_CHANGE = select(Row).where(Row.id == 1)

# The lines of a block: nothing, a statement, an object.
BODIES = {
    "nothing": "pass",
    "one UPDATE": "session.execute(change)",
    "one INSERT by the ORM": "session.add(row(name='Ada')); session.flush()",
}


class Bench:
    """An app whose view is exchanged: what is measured runs in a real request."""

    def __init__(self, url: str) -> None:
        self.db = Database(Base)
        self._app = Flask(__name__)
        self._app.config.update(SQLALCHEMY_DATABASE_URI=url, UOW_RETRY_PAUSE=0.001)
        self.db.init_app(self._app)
        with self._app.app_context():
            self.db.drop_all()
            self.db.create_all()
            self.engine: Engine = self.db.engine
            with self.db.atomic():
                self.db.session.add(Row(name="User"))

    def close(self) -> None:
        with self._app.app_context():
            self.db.drop_all()
        self.engine.dispose()

    def add(self, name: str, view: Callable[[], str]) -> Callable[[], bytes]:
        """Add a view for ``POST``; a function that sends the request, as a server would."""
        self._app.add_url_rule(f"/{name}", name, view, methods=["POST"])
        environ = EnvironBuilder(f"/{name}", method="POST").get_environ()
        statuses: list[str] = []

        def start_response(status: str, *_: Any) -> Callable[[bytes], object]:
            statuses[:] = [status]
            return lambda _: None

        def request() -> bytes:
            body: Any = self._app.wsgi_app({**environ, "wsgi.input": io.BytesIO()}, start_response)
            try:
                found = b"".join(body)
            finally:
                body.close()
            if not statuses[0].startswith("200"):
                raise RuntimeError(f"{name!r} answered {statuses[0]!r}: {found[:500]!r}")
            return found

        return request


@contextmanager
def opened(url: str) -> Iterator[Bench]:
    bench = Bench(url)
    try:
        yield bench
    finally:
        bench.close()


# A block behind other work of the request -------------------------------------------------------


class Blocks:
    """Runs a block in a request that has written before, so many times as one asks."""

    def __init__(self, bench: Bench) -> None:
        self._db = bench.db
        self.work: Callable[[], object] = lambda: None
        self._request = bench.add("blocks", self._view)

    def _view(self) -> str:
        self._db.session.execute(CHANGE)
        self.work()
        return ""

    def inside(self, work: Callable[[], object]) -> None:
        """Run *work* in a request."""
        self.work = work
        self._request()

    def names(self) -> dict[str, Any]:
        return {"db": self._db, "session": self._db.session(), "change": CHANGE, "row": Row}

    def case(self, code: str) -> Case:
        """The CPU of *code*; each measurement is one request, which ends behind it."""

        def run(repeat: int) -> float:
            seconds: list[float] = []
            self.inside(lambda: seconds.append(case(code, **self.names())(repeat)))
            return seconds[0]

        return run

    def bytecodes(self, code: str) -> int:
        compiled = compile(f"def run():\n    {code}\n", "<block>", "exec")
        found: list[int] = []

        def work() -> None:
            names = self.names()
            exec(compiled, names)
            found.append(_count(names["run"]).total())

        self.inside(work)
        return found[0]

    def trips(self, code: str, proxy: RoundTrips) -> float:
        compiled = compile(code, "<block>", "exec")
        found: list[float] = []

        def work() -> None:
            names = self.names()
            for _ in range(WARM_UP):
                exec(compiled, names)
            before = proxy.count
            for _ in range(REPEAT):
                exec(compiled, names)
            found.append((proxy.count - before) / REPEAT)

        self.inside(work)
        return found[0]


def _codes(body: str) -> dict[str, str]:
    by_hand = f"with session.begin_nested(): {body}"
    return {BY_HAND: by_hand, CONTROL: by_hand, BLOCK: f"with db.atomic(): {body}"}


def block_behind_work(options: argparse.Namespace) -> None:
    """A savepoint: both ways send the same."""
    rows = []
    with sqlite() as bench:
        blocks = Blocks(bench)
        for name, body in BODIES.items():
            codes = _codes(body)
            times = interleave(
                {way: blocks.case(code) for way, code in codes.items()},
                options.rounds,
                options.repeat,
            )
            counts = {way: blocks.bytecodes(code) for way, code in codes.items()}
            rows.append(
                [
                    name,
                    ratio(times, CONTROL, BY_HAND),
                    ratio(times, BLOCK, BY_HAND),
                    f"{counts[BY_HAND]} and {counts[BLOCK]}",
                    f"{counts[BLOCK] / counts[BY_HAND]:.3f}",
                ]
            )
    print(table(["in the block", CONTROL, f"{BLOCK}, CPU", "bytecodes", "ratio of these"], rows))


def round_trips(options: argparse.Namespace) -> None:
    rows = []
    with counted(make_url(options.postgresql)) as (proxied, proxy):
        with opened(proxied.render_as_string(hide_password=False)) as bench:
            blocks, requests = Blocks(bench), _requests(bench)
            for name, body in BODIES.items():
                codes = _codes(body)
                rows.append(
                    [name, *(f"{blocks.trips(codes[way], proxy):g}" for way in (BY_HAND, BLOCK))]
                )
            for name, request in requests.items():
                for _ in range(WARM_UP):
                    request()
                before = proxy.count
                for _ in range(REPEAT):
                    request()
                rows.append([f"a request: {name}", "", f"{(proxy.count - before) / REPEAT:g}"])
    print(table(["round trips", BY_HAND, BLOCK], rows))


# Whole requests ---------------------------------------------------------------------------------

PLAIN, PLAIN_AGAIN = "an insert", "the same request again"


def _requests(bench: Bench) -> dict[str, Callable[[], bytes]]:
    """Ways to store one row, each of them a view."""
    db = bench.db

    def insert() -> str:
        db.session.add(Row(name="Ada"))
        return ""

    def first_block() -> str:
        with db.atomic():
            db.session.add(Row(name="Ada"))
        return ""

    @db.atomic
    def decorated() -> str:
        db.session.add(Row(name="Ada"))
        return ""

    def hook() -> str:
        db.session.add(Row(name="Ada"))
        db.on_commit(nothing)
        return ""

    def nothing() -> None:
        pass

    ways = {
        PLAIN: insert,
        PLAIN_AGAIN: insert,
        "in a block, the first work": first_block,
        "the same by @db.atomic": decorated,
        "with one db.on_commit()": hook,
    }
    return {name: bench.add(str(number), way) for number, (name, way) in enumerate(ways.items())}


def whole_requests(options: argparse.Namespace) -> None:
    """A block with nothing before it needs no savepoint."""
    with sqlite() as bench:
        requests = _requests(bench)
        cases = {name: case("request()", request=one) for name, one in requests.items()}
        times = interleave(cases, options.rounds, max(1, options.repeat // 5))
        counts = {name: _count(one) for name, one in requests.items()}
    base = counts[PLAIN].total()
    rows = [
        [
            name,
            ratio(times, name, PLAIN),
            f"{counts[name].total() - base:+}",
            f"{counts[name].total() / base:.3f}",
            sum(n for code, n in counts[name].items() if "_commit_hooks" in code.co_filename),
        ]
        for name in requests
    ]
    head = [
        "request",
        "CPU",
        f"bytecodes more than {base}",
        "ratio",
        "of these in _commit_hooks.py",
    ]
    print(table(head, rows))


# A conflict -------------------------------------------------------------------------------------


def conflict(options: argparse.Namespace) -> None:
    """What a view sends that meets another transaction in its first attempt."""
    with opened(options.postgresql) as bench:
        db = bench.db
        log: list[str] = []
        other = create_engine(options.postgresql, poolclass=NullPool)
        met: list[bool] = []

        @db.unit(isolation_level="SERIALIZABLE", retries=3)
        def change() -> str:
            row = db.session.scalars(LOAD_AND_CHANGE).one()
            if met:
                met.clear()
                with other.begin() as connection:
                    connection.execute(CHANGE)
            row.visits += 1
            return ""

        request = bench.add("conflict", change)
        for _ in range(WARM_UP):
            request()
        record(bench.engine, log.append)
        rows = []
        for name, meets in (("without a conflict", False), ("with one conflict", True)):
            log.clear()
            met[:] = [True] * meets
            request()
            rows.append([name, " ".join(log)])
    print(table(["a view with retries", "what it sends"], rows))


@contextmanager
def sqlite() -> Iterator[Bench]:
    with TemporaryDirectory() as folder:
        with opened(f"sqlite:///{Path(folder, 'blocks.db')}") as bench:
            yield bench


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "blocks": block_behind_work,
    "requests": whole_requests,
    "trips": round_trips,
    "conflict": conflict,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--postgresql", default="postgresql+psycopg://127.0.0.1/test")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--repeat", type=int, default=200, help="blocks of each way in a round")
    parser.add_argument("--only", action="append", choices=PARTS, help="may be repeated")
    options = parser.parse_args()
    print(versions("Flask", "SQLAlchemy", "psycopg"))
    for name in options.only or PARTS:
        print()
        PARTS[name](options)


if __name__ == "__main__":
    main()
