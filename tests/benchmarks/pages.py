"""Pages of a long table: by key, where each page costs the same, and by offset, which counts rows.

Page 1, 100 and 10,000 of twenty rows, by four orders with an index each:

* ``id``: the primary key.
* ``created_at desc``: two columns in one direction, with the primary key.
* ``priority desc, created_at``: mixed directions, and a first column of seven values.
* ``published_at``: two of three values are NULL.

A time is the median over the rounds of the whole call, with the part of Python: the statement is
built and sent, its objects are loaded. All cases take turns. *Blocks* are the 8 KB that the
executor of PostgreSQL reads, by EXPLAIN (ANALYZE, BUFFERS).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from random import sample
from tempfile import TemporaryDirectory
from typing import Any

from flask import Flask
from sqlalchemy import ColumnElement, Index, Select, event, insert, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, load_only, mapped_column

from flask_uow import Database

from ._measure import table, versions

SIZE = 20
PAGES = (1, 100, 10_000)
GROUPS = 7
START = datetime(2026, 1, 1)


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "benchmark_items"

    id: Mapped[int] = mapped_column(primary_key=True)
    created_at: Mapped[datetime]
    priority: Mapped[int]
    published_at: Mapped[datetime | None]
    title: Mapped[str]


Index("benchmark_items_created", Item.created_at, Item.id)
Index("benchmark_items_priority", Item.priority.desc(), Item.created_at, Item.id)
Index("benchmark_items_published", Item.published_at, Item.id)

# With the primary key, as the page by key adds it: the same rows for both.
ORDERS: dict[str, list[ColumnElement[Any]]] = {
    "id": [Item.id.asc()],
    "created_at desc": [Item.created_at.desc(), Item.id.desc()],
    "priority desc, created_at": [Item.priority.desc(), Item.created_at.asc(), Item.id.asc()],
    "published_at": [Item.published_at.asc(), Item.id.asc()],
}

db = Database(Base)


@contextmanager
def filled(url: str, rows: int) -> Iterator[Flask]:
    """An app whose database has *rows* items; the table is dropped before and after."""
    app = Flask("benchmark")
    app.config.update(SECRET_KEY="benchmark", SQLALCHEMY_DATABASE_URI=url, UOW_HOLD_WARNING=None)
    db.init_app(app)
    with app.app_context():
        db.drop_all()
        db.create_all()
    try:
        with app.app_context(), db.engine.begin() as connection:
            for first in range(0, rows, 20_000):
                numbers = range(first, min(first + 20_000, rows))
                connection.execute(insert(Item), [row_of(number, rows) for number in numbers])
        with app.app_context(), db.engine.connect() as connection:
            analyze = connection.execution_options(isolation_level="AUTOCOMMIT")
            is_server = db.engine.dialect.name == "postgresql"
            analyze.execute(text("VACUUM ANALYZE benchmark_items" if is_server else "ANALYZE"))
        yield app
    finally:
        with app.app_context():
            db.drop_all()
            db.engine.dispose()


def row_of(number: int, rows: int) -> dict[str, Any]:
    shuffled = number * 7919 % rows
    return {
        "created_at": START + timedelta(seconds=shuffled // 2),
        "priority": shuffled % GROUPS,
        "published_at": None if shuffled % 3 else START + timedelta(seconds=shuffled),
        "title": f"item {number}",
    }


def by_offset(chosen: Select[tuple[Item]], page: int) -> list[Item]:
    statement: Any = chosen.limit(SIZE).offset((page - 1) * SIZE)
    return list(db.session.scalars(statement))


def by_key(chosen: Any, cursor: str) -> list[Item]:
    items: list[Item] = db.paginate_by_key(chosen, per_page=SIZE, after=cursor).items
    return items


def cursor_of(chosen: Any, page: int) -> str:
    """What leads to the page of this number, from the page before it."""
    if page == 1:
        return ""
    long = None
    if page > 2:
        narrow = chosen.options(load_only(Item.id))
        long = db.paginate_by_key(narrow, per_page=(page - 2) * SIZE).next_cursor
    before = db.paginate_by_key(chosen, per_page=SIZE, after=long)
    db.session.expunge_all()
    return str(before.next_cursor)


def blocks_read(run: Callable[[], object]) -> str:
    """How many blocks PostgreSQL reads for the statement of *run*."""
    plans: list[str] = []

    def explain(connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        with connection.connection.cursor() as other:
            other.execute(f"EXPLAIN (ANALYZE, BUFFERS) {statement}", parameters)
            plans.extend(line for (line,) in other.fetchall())

    event.listen(db.engine, "before_cursor_execute", explain)
    with db.atomic():
        run()
    event.remove(db.engine, "before_cursor_execute", explain)
    counts = next(line for line in plans if "Buffers" in line)  # of the whole plan
    return f"{sum(int(word.partition('=')[2]) for word in counts.split() if '=' in word):,}"


def measure(name: str, rounds: int) -> list[list[str]]:
    """Rows of the table for one order."""
    chosen: Any = select(Item).order_by(*ORDERS[name])
    cases: dict[tuple[str, int], Callable[[], list[Item]]] = {}
    for page in PAGES:
        cursor = cursor_of(chosen, page)
        cases["by key", page] = partial(by_key, chosen, cursor)
        cases["by offset", page] = partial(by_offset, chosen, page)
        same = [[item.id for item in cases[way, page]()] for way in ("by key", "by offset")]
        assert same[0] == same[1], (name, page)
    times: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case in sample(list(cases), len(cases)):
            db.session.expunge_all()
            start = time.perf_counter()
            cases[case]()
            times[case].append(time.perf_counter() - start)
    found = []
    for way in ("by key", "by offset"):
        middle = [statistics.median(times[way, page]) for page in PAGES]
        cells = [f"{seconds * 1000:,.2f}" for seconds in middle]
        blocks = ["", "", ""]
        if db.engine.dialect.name == "postgresql":
            blocks = [blocks_read(cases[way, page]) for page in PAGES]
        ratios = [f"{middle[-1] / middle[0]:,.2f}", f"{middle[-1] / middle[1]:,.2f}"]
        found.append([name, way, *cells, *ratios, *blocks])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--postgresql", help="a URL; without it only SQLite is measured")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    print(versions("Flask", "SQLAlchemy", "psycopg"))
    head = ["order", "way", *[f"page {page:,}, ms" for page in PAGES]]
    head += ["10,000 of 1", "10,000 of 100", *[f"blocks, {page:,}" for page in PAGES]]
    with TemporaryDirectory() as folder:
        urls = [f"sqlite:///{Path(folder, 'pages.db')}", options.postgresql]
        for url in filter(None, urls):
            with filled(url, options.rows) as app, app.app_context():
                print(f"\n{db.engine.dialect.name}, {options.rows:,} rows\n")
                rows = [row for name in ORDERS for row in measure(name, options.rounds)]
                print(table(head, rows))


if __name__ == "__main__":
    main()
