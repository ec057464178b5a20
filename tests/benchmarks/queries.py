"""What the query helpers add to the statements that they run, and how many statements those are.

Machine instructions, counted by valgrind, C code included: the helper beside the same statements by
``db.session``, in a request. What makes the session forget its objects is subtracted.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NoReturn

from flask import Flask, abort, request
from sqlalchemy import Select, String, event, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flask_uow import Database

from ._measure import table
from ._stacks import add_url, print_versions
from .instructions import COUNT, WARM_UP, _Measured, _shift_cache, counts_with_statements

ROWS = 100
NOTHING = "nothing"


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = f"benchmark_queries_{os.getpid()}"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    visits: Mapped[int] = mapped_column(default=0)


db = Database(Base)
ONE = select(Row).where(Row.name == "row 7")
ALL = select(Row).order_by(Row.id)


def _page() -> object:
    page, size = request.args.get("page", 1, type=int), request.args.get("per_page", 20, type=int)
    # One row more, as the helper reads: it tells whether there is another page.
    rows = db.session.scalars(ALL.limit(min(size, 100) + 1).offset((page - 1) * size)).all()
    return rows or abort(404)


def _total_of(statement: Select[Row]) -> int | None:
    rows = statement.order_by(None).subquery()
    return db.session.scalar(select(func.count()).select_from(rows))


WAYS: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
    "get_or_404": (
        lambda: db.session.get(Row, 100_007) or abort(404),
        lambda: db.get_or_404(Row, 100_007),
    ),
    "get_or_404, text": (
        lambda: db.session.get(Row, int("100007")) or abort(404),
        lambda: db.get_or_404(Row, "100007"),
    ),
    "first_or_404": (
        lambda: db.session.scalars(ONE.limit(1)).first() or abort(404),
        lambda: db.first_or_404(ONE),
    ),
    "one_or_404": (
        lambda: db.session.scalars(ONE).one_or_none() or abort(404),
        lambda: db.one_or_404(ONE),
    ),
    "paginate": (
        lambda: (_page(), _total_of(ALL)),
        lambda: db.paginate(ALL),
    ),
    "paginate, no count": (_page, lambda: db.paginate(ALL, count=False)),
    "paginate, 100 rows, last page": (
        lambda: (db.session.scalars(ALL.limit(101)).all(), _total_of(ALL)),
        lambda: db.paginate(ALL, page=1, per_page=100),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2, help="default: %(default)s")
    add_url(parser)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _run(options.url)
    if shutil.which("valgrind") is None:
        sys.exit("valgrind is not installed.")
    print_versions()
    print(_table(options.url, options.seeds))


def _table(url: str, seeds: int) -> str:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = list(pool.map(lambda seed: _counts(url, seed), range(seeds)))
    rows = []
    for name in WAYS:
        by_hand = median(run[f"{name} 0"] - run[NOTHING] for run in runs)
        helper = median(run[f"{name} 1"] - run[NOTHING] for run in runs)
        statements = [int(runs[0][f"{name} {way} statements"]) for way in (0, 1)]
        rows.append([name, *(f"{value / 1000:.0f}" for value in (by_hand, helper)),
                     f"{helper / by_hand:.3f}", *statements])  # fmt: skip
    return table(["", "by hand, k", "helper, k", "ratio", "statements by hand", "helper"], rows)


def _counts(url: str, seed: int) -> dict[str, float]:
    """Instructions and statements of one call, by the name of the way."""
    return counts_with_statements(__spec__.name, ["--url", url, "--child"], seed)


# What valgrind watches ----------------------------------------------------------------------------


def _run(url: str) -> NoReturn:
    """Call each way in a request. Ends the process, without the work of an ordinary exit."""
    _shift_cache(int(os.environ["PYTHONHASHSEED"]))
    with TemporaryDirectory() as folder:
        app = Flask(__name__)
        file = f"sqlite:///{Path(folder, 'app.db')}"
        app.config["SQLALCHEMY_DATABASE_URI"] = file if url == "sqlite://" else url
        db.init_app(app)
        with app.test_request_context("/?page=2"):
            db.create_all()
            with db.atomic():
                db.session.add_all(
                    Row(id=100_000 + number, name=f"row {number}") for number in range(ROWS)
                )
            sent: list[object] = []
            event.listen(db.engine, "before_cursor_execute", lambda *_: sent.append(None))
            db.session.remove()
            _measure(db, NOTHING, lambda: None, sent)
            for name, ways in WAYS.items():
                for number, way in enumerate(ways):
                    _measure(db, f"{name} {number}", way, sent)
            db.session.remove()
            db.drop_all()
    os._exit(0)


def _measure(db: Database, name: str, way: Callable[[], object], sent: list[object]) -> None:
    def call() -> bytes:
        way()
        db.session.expunge_all()
        return b""

    for _ in range(WARM_UP):
        call()
    sent.clear()
    call()
    print(name, len(sent), flush=True)
    gc.collect()
    gc.disable()
    _ = _Measured(call) @ COUNT
    gc.enable()


if __name__ == "__main__":
    main()
