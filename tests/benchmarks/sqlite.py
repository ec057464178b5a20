"""SQLite under several clients: what is lost, what fails, how long the slowest request waits.

* ``last seen``: a GET, before which the app writes when its user was seen, with four and eight
  clients, each one a user.
* ``view counter``: a GET that reads a row and then counts in it, by one UPDATE.
* ``read-modify-write``: a POST that reads a counter, adds one and writes it back.

The app is served by gunicorn. A client sends its requests one after the other over one connection.
"""

from __future__ import annotations

import argparse
import os
import random
import sqlite3
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from flask import Flask, request
from sqlalchemy import Connection, Engine, create_engine, event, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from flask_uow import Database

from ._http import Answer, send, serving
from ._measure import table, versions
from ._stacks import tune

OURS, NO_QUEUE, BY_HAND = "flask_uow", "flask_uow without the queue", "hand-tuned"
PACKAGES = ("Flask", "SQLAlchemy", "gunicorn", "Flask-SQLAlchemy", "Flask-SQLAlchemy-Lite",
            "advanced-alchemy", "alchemical")  # fmt: skip
USERS = 16


# The ways to write the app ------------------------------------------------------------------------


class Base(DeclarativeBase):
    pass


class Counter(Base):
    __tablename__ = "counters"

    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int]


class User(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    last_seen: Mapped[datetime | None]


def see(session: Session, user: int) -> None:
    session.get_one(User, user).last_seen = datetime.now(timezone.utc)


def show(session: Session) -> str:
    return str(session.scalars(select(Counter.value)).all())


def view(session: Session) -> str:
    counter = session.get_one(Counter, 1)
    session.execute(update(Counter).where(Counter.id == 1).values(value=Counter.value + 1))
    return str(counter.id)


def add_one(session: Session) -> None:
    session.get_one(Counter, 1).value += 1


def by_hand(url: str) -> Flask:
    """Written by hand, and tuned as the advice for SQLite under load has it."""
    engine = create_engine(url)
    tune(engine, "BEGIN IMMEDIATE")
    return _on_engine(engine)


def recipe(url: str) -> Flask:
    """Written by hand, in WAL mode, with the transactions of SQLAlchemy's documentation."""
    engine = create_engine(url)

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return _on_engine(engine)


def _on_engine(engine: Engine) -> Flask:
    app = Flask(__name__)

    @app.before_request
    def note() -> None:
        if user := request.args.get("user", type=int):
            with Session(engine) as session, session.begin():
                see(session, user)

    @app.get("/")
    def index() -> str:
        with Session(engine) as session, session.begin():
            return show(session)

    @app.get("/viewed")
    def viewed() -> str:
        with Session(engine) as session, session.begin():
            return view(session)

    @app.post("/")
    def count() -> str:
        with Session(engine) as session, session.begin():
            add_one(session)
        return ""

    return app


def flask_uow(url: str, **config: object) -> Flask:
    app, db = Flask(__name__), Database(Base)
    app.config.update(SQLALCHEMY_DATABASE_URI=url, **config)
    db.init_app(app)
    return _with_views(app, db, commit=False)


def flask_uow_without_queue(url: str) -> Flask:
    return flask_uow(url, UOW_SQLITE_QUEUE=False)


def flask_uow_with_commits(url: str) -> Flask:
    """The views of the extensions that do not commit, whose ``before_request`` ends with one."""
    app, db = Flask(__name__), Database(Base)
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    db.init_app(app)
    return _with_views(app, db, commit=True)


def flask_sqlalchemy(url: str) -> Flask:
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    db = import_module("flask_sqlalchemy").SQLAlchemy()
    db.init_app(app)
    return _with_views(app, db, commit=True)


def flask_sqlalchemy_lite(url: str) -> Flask:
    app = Flask(__name__)
    app.config["SQLALCHEMY_ENGINES"] = {"default": url}
    db = import_module("flask_sqlalchemy_lite").SQLAlchemy()
    db.init_app(app)
    return _with_views(app, db, commit=True)


def advanced_alchemy(url: str) -> Flask:
    app = Flask(__name__)
    package = import_module("advanced_alchemy.extensions.flask")
    config = package.SQLAlchemySyncConfig(connection_string=url, commit_mode="autocommit")

    class Extension(package.AdvancedAlchemy):  # type: ignore[misc, name-defined]
        session = property(lambda self: self.get_sync_session())

    return _with_views(app, Extension(config, app), commit=False)


def alchemical(url: str) -> Flask:
    app = Flask(__name__)
    app.config["ALCHEMICAL_DATABASE_URL"] = url
    db = import_module("alchemical.flask").Alchemical()
    db.init_app(app)
    return _with_views(app, db, commit=True)


def _with_views(app: Flask, db: Any, *, commit: bool) -> Flask:
    """The same views with ``db.session``.

    :param commit: the extension leaves the commit to the view.
    """

    @app.before_request
    def note() -> None:
        if user := request.args.get("user", type=int):
            see(db.session, user)
            if commit:
                db.session.commit()

    @app.get("/")
    def index() -> str:
        return show(db.session)

    @app.get("/viewed")
    def viewed() -> str:
        shown = view(db.session)
        if commit:
            db.session.commit()
        return shown

    @app.post("/")
    def count() -> str:
        add_one(db.session)
        if commit:
            db.session.commit()
        return ""

    return app


# name -> how to build it, and the module it needs
WAYS: dict[str, tuple[Callable[[str], Flask], str]] = {
    OURS: (flask_uow, "flask_uow"),
    "flask_uow, commits in the views": (flask_uow_with_commits, "flask_uow"),
    NO_QUEUE: (flask_uow_without_queue, "flask_uow"),
    BY_HAND: (by_hand, "sqlalchemy"),
    "SQLAlchemy's recipe, WAL": (recipe, "sqlalchemy"),
    "Flask-SQLAlchemy": (flask_sqlalchemy, "flask_sqlalchemy"),
    "Lite": (flask_sqlalchemy_lite, "flask_sqlalchemy_lite"),
    "Advanced Alchemy": (advanced_alchemy, "advanced_alchemy"),
    "Alchemical": (alchemical, "alchemical"),
}


def create_app() -> Flask:
    """For gunicorn: what the environment says."""
    build, _ = WAYS[os.environ["BENCHMARK_WAY"]]
    return build(os.environ["BENCHMARK_URL"])


# The scenarios ------------------------------------------------------------------------------------


class Scenario(NamedTuple):
    """What the clients do.

    :ivar path: with the number of the client, from 1 on.
    :ivar counts: each request that succeeds adds one to the counter.
    """

    method: str
    path: str
    clients: int
    requests: int
    counts: bool = True


SCENARIOS = {
    "last seen, 4 x 25": Scenario("GET", "/?user={}", 4, 25, counts=False),
    "last seen, 8 x 15": Scenario("GET", "/?user={}", 8, 15, counts=False),
    "view counter, 8 x 25": Scenario("GET", "/viewed", 8, 25),
    "read-modify-write, 16 x 100": Scenario("POST", "/", 16, 100),
}
LONG = "read-modify-write, 16 x 100"


@dataclass(frozen=True)
class Round:
    """What became of the requests; times in seconds.

    :ivar lost: None if it cannot be told.
    """

    failed: int
    lost: int | None
    rate: float
    times: list[float]

    @classmethod
    def of(cls, answers: list[Answer], seconds: float, counted: int | None) -> Round:
        succeeded = sum(answer.status == 200 for answer in answers)
        return cls(
            failed=len(answers) - succeeded,
            lost=None if counted is None else succeeded - counted,
            rate=(succeeded if counted is None else counted) / seconds,
            times=[answer.seconds for answer in answers],
        )

    @property
    def slowest(self) -> float:
        return max(self.times)


def run(way: str, scenarios: list[str], shape: argparse.Namespace) -> dict[str, Round]:
    """Serve the app in a new folder, and let the clients loose on it."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "app.db")
        _create(file)
        environment = {"BENCHMARK_WAY": way, "BENCHMARK_URL": f"sqlite:///{file}"}
        factory = f"{__spec__.name}:create_app()"
        with serving(factory, environment, workers=shape.workers, threads=shape.threads) as port:
            send(port, "GET", ["/"] * USERS, requests=5)  # each process opens its connections
            send(port, "POST", ["/"] * USERS, requests=2)
            return {name: _round(port, file, SCENARIOS[name]) for name in scenarios}


def _create(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE counters (id INTEGER PRIMARY KEY, value INTEGER)")
        connection.execute("INSERT INTO counters VALUES (1, 0)")
        connection.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, last_seen DATETIME)")
        connection.executemany("INSERT INTO users (id) VALUES (?)", [[n + 1] for n in range(USERS)])


def _round(port: int, file: Path, scenario: Scenario) -> Round:
    paths = [scenario.path.format(number + 1) for number in range(scenario.clients)]
    before, started = _counter(file), time.monotonic()
    answers = send(port, scenario.method, paths, requests=scenario.requests)
    seconds = time.monotonic() - started
    return Round.of(answers, seconds, _counter(file) - before if scenario.counts else None)


def _counter(file: Path) -> int:
    with closing(sqlite3.connect(file, timeout=60)) as connection:
        value: int = connection.execute("SELECT value FROM counters").fetchone()[0]
    return value


# The tables ---------------------------------------------------------------------------------------


def row(way: str, rounds: list[Round]) -> list[str]:
    total = sum(len(one.times) for one in rounds)
    failed, lost = sum(one.failed for one in rounds), [one.lost for one in rounds]
    middle = [statistics.median(one.times) * 1000 for one in rounds]
    late = [statistics.quantiles(one.times, n=100)[-1] * 1000 for one in rounds]
    slowest = [one.slowest * 1000 for one in rounds]
    return [
        way,
        f"{failed} ({failed / total:.0%})",
        "" if None in lost else f"{sum(filter(None, lost))}",
        f"{statistics.median(one.rate for one in rounds):.0f}",
        *(f"{statistics.median(figures):.0f} ms" for figures in (middle, late, slowest)),
    ]


def ratios(results: dict[str, list[Round]], other: str) -> str:
    """The medians of the ratios within a round."""
    pairs = list(zip(results[OURS], results[other], strict=True))
    slowest = statistics.median(mine.slowest / theirs.slowest for mine, theirs in pairs)
    rate = statistics.median(mine.rate / theirs.rate for mine, theirs in pairs)
    return f"{OURS} beside {other}: slowest request {slowest:.2f}, stored per second {rate:.2f}."


def main() -> None:
    shape = _options()
    print(versions(*PACKAGES), f"SQLite {sqlite3.sqlite_version}", sep=", ", end="\n\n")
    ways = [way for way in WAYS if way in shape.only and find_spec(WAYS[way][1])]
    rounds: dict[str, list[dict[str, Round]]] = {way: [] for way in ways}
    for _ in range(shape.rounds):
        for way in random.sample(ways, len(ways)):
            rounds[way].append(run(way, shape.scenario or list(SCENARIOS), shape))
    for scenario in shape.scenario or SCENARIOS:
        results = {way: [each[scenario] for each in rounds[way]] for way in ways}
        head = [scenario, "failed", "lost", "stored/s", "median", "99 %", "slowest"]
        print(table(head, [row(way, results[way]) for way in ways]), end="\n\n")
        for other in (NO_QUEUE, BY_HAND):
            if scenario == LONG and {OURS, other} <= results.keys():
                print(ratios(results, other))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=4, help="processes; default: %(default)s")
    parser.add_argument("--threads", type=int, default=4, help="of each; default: %(default)s")
    parser.add_argument(
        "--scenario", action="append", choices=SCENARIOS, help="may be repeated; default: all"
    )
    parser.add_argument("--only", nargs="+", default=list(WAYS), choices=list(WAYS), metavar="WAY")
    return parser.parse_args()


if __name__ == "__main__":
    main()
