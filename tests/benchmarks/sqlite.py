"""SQLite under many writers: what is lost, what fails, how long the slowest request waits.

A request reads a counter, adds one and writes it back. The app is served by gunicorn, and each
client sends its requests one after the other, over a new connection each time.
"""

from __future__ import annotations

import argparse
import http.client
import os
import random
import socket
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flask import Flask
from sqlalchemy import create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from flask_uow import Database

from ._measure import table, versions

ROOT = Path(__file__).parents[2]
OURS, NO_QUEUE = "flask_uow", "flask_uow without the queue"
PACKAGES = ("Flask", "SQLAlchemy", "gunicorn", "Flask-SQLAlchemy", "Flask-SQLAlchemy-Lite")


# The ways to write the app --------------------------------------------------------------------


class Base(DeclarativeBase):
    pass


class Counter(Base):
    __tablename__ = "counters"

    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int]


def add_one(session: Any) -> None:
    session.get(Counter, 1).value += 1


def flask_uow(url: str, **config: Any) -> Flask:
    app, db = Flask(__name__), Database(Base)
    app.config.update(SQLALCHEMY_DATABASE_URI=url, **config)
    db.init_app(app)

    @app.post("/")
    def count() -> str:
        add_one(db.session)
        return ""

    return app


def flask_uow_without_queue(url: str) -> Flask:
    return flask_uow(url, UOW_SQLITE_QUEUE=False)


def recipe(url: str) -> Flask:
    """Written by hand, in WAL mode, with the transactions of SQLAlchemy's documentation."""
    app, engine = Flask(__name__), create_engine(url)

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")

    @app.post("/")
    def count() -> str:
        with Session(engine) as session, session.begin():
            add_one(session)
        return ""

    return app


def flask_sqlalchemy(url: str) -> Flask:
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    return _with_extension(app, import_module("flask_sqlalchemy").SQLAlchemy())


def flask_sqlalchemy_lite(url: str) -> Flask:
    app = Flask(__name__)
    app.config["SQLALCHEMY_ENGINES"] = {"default": url}
    return _with_extension(app, import_module("flask_sqlalchemy_lite").SQLAlchemy())


def _with_extension(app: Flask, db: Any) -> Flask:
    db.init_app(app)

    @app.post("/")
    def count() -> str:
        add_one(db.session)
        db.session.commit()
        return ""

    return app


# name -> how to build it, and the module it needs
WAYS: dict[str, tuple[Callable[[str], Flask], str]] = {
    OURS: (flask_uow, "flask_uow"),
    NO_QUEUE: (flask_uow_without_queue, "flask_uow"),
    "SQLAlchemy's recipe, WAL": (recipe, "sqlalchemy"),
    "Flask-SQLAlchemy": (flask_sqlalchemy, "flask_sqlalchemy"),
    "Lite": (flask_sqlalchemy_lite, "flask_sqlalchemy_lite"),
}


def create_app() -> Flask:
    """For gunicorn: what the environment says."""
    build, _ = WAYS[os.environ["BENCHMARK_WAY"]]
    return build(os.environ["BENCHMARK_URL"])


# One round ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Round:
    """What became of the requests; times in seconds."""

    failed: int
    lost: int
    rate: float
    times: list[float]

    @property
    def slowest(self) -> float:
        return max(self.times)


def run(way: str, shape: argparse.Namespace) -> Round:
    """Serve the app in a new folder, and let the clients loose on it."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "app.db")
        with closing(sqlite3.connect(file)) as connection, connection:
            connection.execute("CREATE TABLE counters (id INTEGER PRIMARY KEY, value INTEGER)")
            connection.execute("INSERT INTO counters VALUES (1, 0)")
        with serving(way, file, shape) as port:
            send(port, shape.clients, 5)  # each process opens its connections
            before = value_of(file)
            started = time.monotonic()
            answers = send(port, shape.clients, shape.requests)
            seconds = time.monotonic() - started
            counted = value_of(file) - before
    succeeded = sum(status == 200 for status, _ in answers)
    return Round(
        failed=len(answers) - succeeded,
        lost=succeeded - counted,
        rate=succeeded / seconds,
        times=[seconds for _, seconds in answers],
    )


@contextmanager
def serving(way: str, file: Path, shape: argparse.Namespace) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        command = [
            *(sys.executable, "-m", "gunicorn", "tests.benchmarks.sqlite:create_app()"),
            *("--worker-class", "gthread", "--bind", f"fd://{listener.fileno()}"),
            *("--workers", str(shape.workers), "--threads", str(shape.threads)),
            *("--log-level", "critical"),
        ]
        server = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "BENCHMARK_WAY": way, "BENCHMARK_URL": f"sqlite:///{file}"},
            pass_fds=[listener.fileno()],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield listener.getsockname()[1]
        finally:
            server.terminate()
            server.wait(30)


def send(port: int, clients: int, requests: int) -> list[tuple[int, float]]:
    """The status of each request, and how long it took."""
    answers: list[tuple[int, float]] = []

    def client() -> None:
        for _ in range(requests):
            started = time.monotonic()
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
                connection.request("POST", "/")
                status = connection.getresponse().status
            answers.append((status, time.monotonic() - started))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def value_of(file: Path) -> int:
    with closing(sqlite3.connect(file)) as connection:
        value: int = connection.execute("SELECT value FROM counters").fetchone()[0]
    return value


# The table ------------------------------------------------------------------------------------


def row(way: str, rounds: list[Round]) -> list[str]:
    total = sum(len(one.times) for one in rounds)
    lost, failed = sum(one.lost for one in rounds), sum(one.failed for one in rounds)
    middle = [statistics.median(one.times) * 1000 for one in rounds]
    late = [statistics.quantiles(one.times, n=100)[-1] * 1000 for one in rounds]
    slowest = [one.slowest * 1000 for one in rounds]
    return [
        way,
        f"{lost} ({lost / total:.0%})",
        f"{failed} ({failed / total:.0%})",
        f"{statistics.median(one.rate for one in rounds):.0f}",
        *(f"{statistics.median(figures):.0f} ms" for figures in (middle, late, slowest)),
    ]


def ratios(results: dict[str, list[Round]]) -> str:
    """What the queue does: the medians of the ratios within a round."""
    pairs = list(zip(results[OURS], results[NO_QUEUE], strict=True))
    slowest = statistics.median(mine.slowest / other.slowest for mine, other in pairs)
    rate = statistics.median(mine.rate / other.rate for mine, other in pairs)
    return (
        f"The queue against none: slowest request {slowest:.2f} (target: 0.35 at most),"
        f" requests per second {rate:.2f} (target: not below 1)."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--clients", type=int, default=16, help="default: %(default)s")
    parser.add_argument("--requests", type=int, default=100, help="of each client")
    parser.add_argument("--workers", type=int, default=4, help="processes; default: %(default)s")
    parser.add_argument("--threads", type=int, default=4, help="of each; default: %(default)s")
    parser.add_argument("--only", nargs="+", default=list(WAYS), choices=list(WAYS), metavar="WAY")
    shape = parser.parse_args()
    print(versions(*PACKAGES), f"SQLite {sqlite3.sqlite_version}", sep=", ", end="\n\n")
    ways = [way for way in WAYS if way in shape.only and find_spec(WAYS[way][1])]
    results: dict[str, list[Round]] = {way: [] for way in ways}
    for _ in range(shape.rounds):
        for way in random.sample(ways, len(ways)):
            results[way].append(run(way, shape))
    head = ["", "lost", "failed", "requests/s", "median", "99 %", "slowest"]
    print(table(head, [row(way, results[way]) for way in ways]))
    if OURS in results and NO_QUEUE in results:
        print(f"\n{ratios(results)}")


if __name__ == "__main__":
    main()
