"""What a page by key adds to the statement that it runs: machine instructions, counted by valgrind.

The table and the orders are those of ``pages``. *By hand* is a select with the shortest condition
that is right for the row of the cursor, whose values are Python objects: nothing is read from a
client. Both read twenty-one rows, and both make the select in each call, also with a condition of
the list itself (*filtered*). What makes the session forget its objects is subtracted. What the
database does is in the count on SQLite only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from flask import Flask
from sqlalchemy import ColumnElement, and_, event, or_, select, tuple_

from ._measure import table
from ._stacks import print_versions
from .instructions import _shift_cache, counts_with_statements
from .pages import GROUPS, ORDERS, SIZE, Item, by_key, cursor_of, db, filled
from .queries import NOTHING, _measure

PAGES = (1, 2, 10_000)


def conditions(name: str, last: Item) -> ColumnElement[bool]:
    """For the rows after *last*, by hand."""
    dated = tuple_(Item.created_at, Item.id)
    if name == "id":
        return Item.id > last.id
    if name == "created_at desc":
        return dated < (last.created_at, last.id)
    if name == "published_at":
        if last.published_at is None:  # and so are those of the page
            return and_(Item.published_at.is_(None), Item.id > last.id)
        return tuple_(Item.published_at, Item.id) > (last.published_at, last.id)
    same = and_(Item.priority == last.priority, dated > (last.created_at, last.id))
    return and_(Item.priority <= last.priority, or_(Item.priority < last.priority, same))


def chosen(name: str, filtered: bool) -> Any:
    found = select(Item).order_by(*ORDERS[name])
    return found.where(Item.title != "hidden") if filtered else found


def by_hand(name: str, filtered: bool, last: Item | None) -> list[Item]:
    found = chosen(name, filtered)
    if last is not None:
        found = found.where(conditions(name, last))
    return list(db.session.scalars(found.limit(SIZE + 1)).all())


def by_helper(name: str, filtered: bool, cursor: str) -> list[Item]:
    return by_key(chosen(name, filtered), cursor)


Ways = tuple[Callable[[], list[Item]], Callable[[], list[Item]]]
Starts = dict[str, dict[str, tuple[int, str]]]
"""By order and page: the primary key of the row before the page, 0 for none, and its cursor."""


def starts(rows: int) -> Starts:
    found: Starts = {}
    for name in ORDERS:
        pages = {f"page {page:,}": page for page in PAGES}
        if name.startswith("priority"):
            pages["page, the end of a group"] = -(-(rows // GROUPS + 1) // SIZE)
        found[name] = {}
        for title, page in pages.items():
            before = chosen(name, False).with_only_columns(Item.id).offset((page - 1) * SIZE - 1)
            last = db.session.scalar(before.limit(1)) if page > 1 else 0
            found[name][title] = last, cursor_of(chosen(name, False), page)
    return found


def cases(name: str, start: dict[str, tuple[int, str]]) -> dict[str, Ways]:
    """The two ways of each page."""
    found: dict[str, Ways] = {}
    for title, (identity, cursor) in start.items():
        last = db.session.get(Item, identity)
        db.session.expunge_all()
        for filtered in (False, True) if title != "page 2" else (False,):
            ways = (
                partial(by_hand, name, filtered, last),
                partial(by_helper, name, filtered, cursor),
            )
            ids = [[item.id for item in way()][:SIZE] for way in ways]
            assert ids[0] == ids[1], (name, title)
            found[f"{title}, filtered" if filtered else title] = ways
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--postgresql", help="a URL; without it only SQLite is counted")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _run(options.child)
    if shutil.which("valgrind") is None:
        sys.exit("valgrind is not installed.")
    print_versions()
    with TemporaryDirectory() as folder:
        for url in filter(None, [f"sqlite:///{Path(folder, 'pages.db')}", options.postgresql]):
            with filled(url, options.rows) as app, app.app_context():
                found = json.dumps(starts(options.rows))
                db.session.remove()
                print(f"\n{url.partition(':')[0]}, {options.rows:,} rows\n")
                print(_table(url, found, options.seeds))


def _table(url: str, starts: str, seeds: int) -> str:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = list(pool.map(lambda seed: _counts(url, starts, seed), range(seeds)))
    first: dict[tuple[str, bool], float] = {}
    lines = []
    for case in (name for name in runs[0] if name.endswith(" 0")):
        order, title = case[:-2].split(": ")
        hand, helper = (
            median(run[f"{case[:-2]} {way}"] - run[NOTHING] for run in runs) for way in (0, 1)
        )
        one = first.setdefault((order, "filtered" in title), helper)
        lines.append(
            [order, title, *(f"{value / 1000:.0f}" for value in (hand, helper)),
             f"{helper / hand:.2f}", f"{helper / one:.2f}",
             int(runs[0][f"{case[:-2]} 1 statements"])]
        )  # fmt: skip
    head = ["order", "", "by hand, k", "by key, k", "ratio", "of page 1", "statements"]
    return table(head, lines)


def _counts(url: str, starts: str, seed: int) -> dict[str, float]:
    """Instructions and statements of one call, by the name of the case."""
    return counts_with_statements(__spec__.name, ["--child", url], seed, starts)


# What valgrind watches ----------------------------------------------------------------------------


def _run(url: str) -> NoReturn:
    """Call each way in a request. Ends the process, without the work of an ordinary exit."""
    _shift_cache(int(os.environ["PYTHONHASHSEED"]))
    found = json.load(sys.stdin)
    app = Flask(__name__)
    app.config.update(SECRET_KEY="benchmark", SQLALCHEMY_DATABASE_URI=url, UOW_HOLD_WARNING=None)
    db.init_app(app)
    with app.test_request_context("/"):
        sent: list[object] = []
        event.listen(db.engine, "before_cursor_execute", lambda *_: sent.append(None))
        _measure(db, NOTHING, lambda: None, sent)
        for name in ORDERS:
            for title, ways in cases(name, found[name]).items():
                for number, way in enumerate(ways):
                    _measure(db, f"{name}: {title} {number}", way, sent)
    os._exit(0)


if __name__ == "__main__":
    main()
