"""What a test with a database of its own costs: isolation beside the ways to empty the tables.

The app has twenty tables. A test commits one row in each of two requests, and a third one reads
them. The ways run by turns, and the medians of whole tests are compared.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from statistics import median

from flask import Flask
from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table, select, text

from flask_uow import Database, testing

from ._measure import table
from ._stacks import add_url, print_versions

TABLES = 20
Way = Callable[[], AbstractContextManager[None]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_url(parser)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    print_versions()
    metadata = MetaData()
    rows = Table("bench_0", metadata, Column("id", Integer, primary_key=True), _name())
    for number in range(1, TABLES):
        parent = ForeignKey(f"bench_{number - 1}.id")
        Table(
            f"bench_{number}",
            metadata,
            Column("id", Integer, primary_key=True),
            Column("parent", parent),
            _name(),
        )
    db = Database(metadata=metadata)
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = options.url
    db.init_app(app)

    @app.post("/")
    def store() -> str:
        db.session.execute(rows.insert().values(name="a"))
        return ""

    @app.get("/")
    def read() -> str:
        return str(db.session.scalars(select(rows.c.name)).all())

    client = app.test_client()

    def test() -> None:
        client.post("/")
        client.post("/")
        client.get("/")

    with app.app_context():
        db.drop_all()
        db.create_all()
    ways: dict[str, Way] = {
        "nothing": _nothing,
        "isolated()": lambda: testing.isolated(db, app=app),
        "truncated()": lambda: testing.truncated(db, app=app),
        "TRUNCATE of all tables": lambda: _truncating(app, db),
        "drop_all() and create_all()": lambda: _recreating(app, db),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    alone: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            for found, body in ((times, test), (alone, lambda: None)):
                started = time.perf_counter()
                with way():
                    body()
                found[name].append(time.perf_counter() - started)
    medians = {name: median(found) * 1000 for name, found in times.items()}
    isolated = medians["isolated()"]
    rows_ = [
        [name, f"{ms:.2f}", f"{ms / isolated:.1f}", f"{median(alone[name]) * 1000:.2f}"]
        for name, ms in medians.items()
    ]
    print(table(["a test with", "ms", "x isolated()", "ms of an empty test"], rows_))
    with app.app_context():
        db.drop_all()


def _name() -> Column[str]:
    return Column("name", String(50))


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _truncating(app: Flask, db: Database) -> Iterator[None]:
    yield
    with app.app_context(), db.engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"TRUNCATE {', '.join(db.metadata.tables)} RESTART IDENTITY"))
        else:
            for name in reversed(db.metadata.sorted_tables):
                connection.execute(name.delete())


@contextmanager
def _recreating(app: Flask, db: Database) -> Iterator[None]:
    yield
    with app.app_context():
        db.drop_all()
        db.create_all()


if __name__ == "__main__":
    main()
