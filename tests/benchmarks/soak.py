"""Many requests, half of them failing: what is left behind, and does it grow?"""

from __future__ import annotations

import argparse
import gc
import itertools
import logging
from collections import Counter
from collections.abc import Iterator
from tempfile import TemporaryDirectory
from typing import Any

import flask.ctx
import psutil
from flask import Flask, stream_with_context
from flask.ctx import AppContext
from sqlalchemy import Connection, ForeignKey, event
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from flask_uow import Database
from flask_uow._unit.unit import UnitOfWork

from ._measure import table, versions
from ._stacks import add_url

WATCHED: dict[str, tuple[type[Any], ...]] = {
    "sessions": (Session,),
    "units": (UnitOfWork,),
    # From Flask 3.2 on, there is one class of contexts.
    "contexts": (AppContext, vars(flask.ctx).get("RequestContext", AppContext)),
    "connections": (Connection,),
}
# path -> status, and how many bytes of the body the client takes; None: all of them
SUCCESSES: dict[str, tuple[int, int | None]] = {
    "/read": (200, None),
    "/insert": (200, None),
    "/update": (200, None),
    "/untouched": (200, None),
    "/stream": (200, None),
}
FAILURES: dict[str, tuple[int, int | None]] = {
    "/raises-handled": (422, None),
    "/raises-unhandled": (500, None),
    "/flush-of-the-commit-fails": (409, None),
    "/commit-fails": (409, None),
    "/answers-400": (400, None),
    "/stream": (200, 3),
}


class Base(DeclarativeBase):
    pass


class Entry(Base):
    __tablename__ = "benchmark_entry"
    id: Mapped[int] = mapped_column(primary_key=True)
    # Checked by COMMIT, not by INSERT.
    after: Mapped[int | None] = mapped_column(
        ForeignKey("benchmark_entry.id", deferrable=True, initially="DEFERRED")
    )
    visits: Mapped[int] = mapped_column(default=0)


class Refused(Exception):
    pass


def main() -> None:
    options = _options()
    logging.disable(logging.CRITICAL)  # half of the requests would log a traceback
    print(versions("Flask", "SQLAlchemy", "psycopg"), "\n")
    with TemporaryDirectory() as folder:
        db = Database(Base)
        url = options.url if options.url != "sqlite://" else f"sqlite:///{folder}/soak.db"
        app = new_app(db, url)
        with app.app_context():
            engine = db.engine
            if engine.name == "sqlite":
                event.listen(engine, "connect", lambda one, _: one.execute("PRAGMA foreign_keys=1"))
            Base.metadata.drop_all(engine)
            Base.metadata.create_all(engine)
            db.session.add_all(Entry() for _ in range(10))
            db.session.commit()
        try:
            rows = list(_soak(app, engine, options.requests, options.checkpoints))
        finally:
            Base.metadata.drop_all(engine)
            engine.dispose()
    head = ["requests", *WATCHED, "checked out", "resident, KiB", "answers"]
    print(table(head, rows))


def new_app(db: Database, url: str) -> Flask:
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    db.init_app(app)
    session = db.session
    app.register_error_handler(Refused, lambda _: ("refused", 422))
    app.register_error_handler(IntegrityError, lambda _: ("conflict", 409))

    @app.get("/untouched")
    def untouched() -> str:
        return "untouched"

    @app.get("/read")
    def read() -> str:
        return str(session.get_one(Entry, 1).visits)

    @app.get("/insert")
    def insert() -> str:
        session.add(Entry())
        return "inserted"

    @app.get("/update")
    def update() -> str:
        session.get_one(Entry, 2).visits += 1
        return "updated"

    @app.get("/stream")
    def stream() -> Any:
        session.add(Entry())
        first = session.get_one(Entry, 1)

        def lines() -> Iterator[str]:
            for number in range(10):
                yield f"{number} {first.visits} {session.get_one(Entry, number + 1).id}\n"

        return app.response_class(stream_with_context(lines()))

    @app.get("/raises-handled")
    def raises_handled() -> str:
        session.add(Entry())
        session.flush()
        raise Refused

    @app.get("/raises-unhandled")
    def raises_unhandled() -> str:
        session.add(Entry())
        session.flush()
        raise RuntimeError("nobody handles this")

    @app.get("/flush-of-the-commit-fails")
    def flush_of_the_commit_fails() -> str:
        session.add(Entry(id=1))
        return "not stored"

    @app.get("/commit-fails")
    def commit_fails() -> str:
        session.add(Entry(after=-1))
        return "not stored"

    @app.get("/answers-400")
    def answers_400() -> tuple[str, int]:
        session.add(Entry())
        return "not stored", 400

    return app


def _soak(app: Flask, engine: Any, requests: int, checkpoints: int) -> Iterator[list[Any]]:
    successes, failures = (itertools.cycle(kind.items()) for kind in (SUCCESSES, FAILURES))
    answers: Counter[int] = Counter()
    yield _checkpoint(0, engine, answers)
    for number in range(1, requests + 1):
        path, (expected, taken) = next(successes if number % 2 else failures)
        status = _request(app, path, taken)
        answers[status] += 1
        if status != expected:
            raise RuntimeError(f"{path} answered {status}, not {expected}")
        if number % (requests // checkpoints) == 0:
            yield _checkpoint(number, engine, answers)


def _request(app: Flask, path: str, taken: int | None) -> int:
    """Send a request as a client that goes away after *taken* chunks of the body."""
    with app.test_client() as client:
        response = client.get(path, buffered=False)
        chunks = response.iter_encoded()
        for _ in itertools.islice(chunks, taken):
            pass
        response.close()
    return response.status_code


def _checkpoint(requests: int, engine: Any, answers: Counter[int]) -> list[Any]:
    gc.collect()
    alive = Counter(map(type, gc.get_objects()))
    counts = [
        sum(count for one, count in alive.items() if issubclass(one, kind))
        for kind in WATCHED.values()
    ]
    resident = psutil.Process().memory_info().rss // 1024
    return [requests, *counts, engine.pool.checkedout(), resident, dict(sorted(answers.items()))]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_url(parser)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--checkpoints", type=int, default=10)
    return parser.parse_args()


if __name__ == "__main__":
    main()
