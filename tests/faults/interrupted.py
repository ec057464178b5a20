"""Runs units of work and interrupts most of them at a random moment; a program of its own.

``python -m tests.faults.interrupted URL WAY UNITS SEED`` prints a :class:`Report` as JSON.

===========  ====================================================================================
``signal``   a handler raises after a random time, in one unit after the other
``line``     the same at a random line of the libraries: also where hardly any time passes
``greenlet`` gevent raises, in one of four greenlets
===========  ====================================================================================

The pool has three connections. A third of the units is left in peace: these have to succeed.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import random
import signal
import statistics
import sys
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from flask import Flask, got_request_exception, has_request_context, request
from sqlalchemy import Connection, Engine, String, event, literal, select, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.orm import DeclarativeBase, Mapped, configure_mappers, mapped_column

from flask_uow import Database
from tests.support.backends import backends, in_transaction
from tests.support.history import History
from tests.support.witness import Witness

POOL = 3
GREENLETS = 4


class Base(DeclarativeBase):
    pass


class Part(Base):
    """Each unit stores two, in two statements."""

    __tablename__ = "parts"

    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(String(64))


class TookTooLong(Exception):
    """An interruption that looks like any other error."""


class StopNow(BaseException):
    """An interruption that ``except Exception`` does not catch."""


@dataclass
class Report:
    """What became of the units.

    :ivar outcomes: as in :class:`History`.
    :ivar stored: how many rows there are of each token.
    :ivar disturbed: what went wrong in units that nobody interrupted.
    :ivar wrong: tokens of units that got the answer to another question.
    :ivar reused: how often the pool lent a connection that was struck in the driver.
    :ivar lent: how many connections could be checked out at once in the end, of :data:`POOL`.
    :ivar in_transaction: transactions that were open on the server in the end.
    :ivar sessions: how many connections the server had in the end.
    :ivar figures: for the reader.
    """

    outcomes: dict[str, str] = field(default_factory=dict)
    stored: dict[str, int] = field(default_factory=dict)
    disturbed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    reused: int = 0
    lent: int = 0
    in_transaction: int = 0
    sessions: int = 0
    figures: Counter[str] = field(default_factory=Counter)


_SLEEP = {"postgresql": "SELECT pg_sleep(0.001)", "mariadb": "SELECT sleep(0.001)"}


class Run:
    """An app, its units, and what is known of them.

    :ivar complete: the tokens of the views that have returned; only these may be stored.
    """

    def __init__(self, url: str, seed: int, pause: Callable[[], object]) -> None:
        self.witness = Witness(url)
        Base.metadata.create_all(self.witness.engine)
        configure_mappers()  # once for all: it does not survive an interruption
        self.random = random.Random(seed)
        self.pause = pause
        self.history = History()
        self.report = Report()
        self.complete: set[str] = set()
        self.answers: dict[str, int] = {}
        self.errors: dict[str, str] = {}
        self.spans = deque([0.01], maxlen=9)  # seconds that the last units took
        self.app, self.db = self._make_app(url)
        self.client = self.app.test_client()
        self._listen()

    def _make_app(self, url: str) -> tuple[Flask, Database]:
        app, db = Flask("interrupted"), Database(Base)
        app.config.update(
            SQLALCHEMY_DATABASE_URI=url,
            SQLALCHEMY_ENGINE_OPTIONS={
                "pool_size": POOL,
                "max_overflow": 0,
                "pool_timeout": 5,
            },
        )
        db.init_app(app)
        app.logger.disabled = True
        sleep = text(_SLEEP[self.witness.engine.dialect.name])

        @app.post("/<token>")
        def store(token: str) -> tuple[str, int]:
            db.session.add(Part(token=token))
            db.session.flush()
            self.pause()
            db.session.execute(sleep)
            if db.session.scalar(select(literal(token))) != token:
                self.report.wrong.append(token)
            db.session.add(Part(token=token))
            if token.endswith("refused"):
                db.session.flush()
                return "", 409
            self.complete.add(token)
            return token, 200

        def note(_app: Flask, exception: BaseException) -> None:
            if has_request_context():  # not if the request was interrupted before it had begun
                token = request.path.removeprefix("/")
                self.errors[token] = f"{type(exception).__name__}: {exception}"

        got_request_exception.connect(note, app, weak=False)
        return app, db

    def _listen(self) -> None:
        figures = self.report.figures

        class Count(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                figures[f"log: {record.getMessage()[:60]}"] += 1

        for name in ("flask_uow", "sqlalchemy.pool"):
            logging.getLogger(name).addHandler(Count())
            logging.getLogger(name).propagate = False
        with self.app.app_context():
            self.engine: Engine = self.db.engine
        # Weak: what nobody has cannot come back.
        interrupted: weakref.WeakSet[Any] = weakref.WeakSet()

        def on_error(context: ExceptionContext) -> None:
            if context.sqlalchemy_exception is None and context.connection is not None:
                figures["interrupted in the driver"] += 1
                with contextlib.suppress(Exception):
                    interrupted.add(context.connection.connection.dbapi_connection)

        def on_checkout(connection: Any, *_: object) -> None:
            self.report.reused += connection in interrupted

        event.listen(self.engine, "handle_error", on_error)
        event.listen(self.engine, "checkout", on_checkout)

    # The units ------------------------------------------------------------------------------------

    def plan(self, units: int) -> Iterator[tuple[str, float | None]]:
        """A token for each unit, and how many seconds it has; None for one that is left alone."""
        for number in range(units):
            refused = self.random.random() < 0.1
            yield f"{number}-{'refused' if refused else 'stored'}", self.delay()
            if number % 2:
                yield f"{number}-alone", None

    def delay(self) -> float:
        """Anywhere in a unit, and now and then a little too late."""
        return max(1e-6, self.random.uniform(0, statistics.median(self.spans) * 1.1))

    def alone(self, token: str) -> None:
        """A unit that nobody interrupts."""
        self.history.begin(token)
        started = time.monotonic()
        self.post(token)
        self.spans.append(time.monotonic() - started)
        if self.answers[token] != 200:
            self.report.disturbed.append(f"{token}: {self.answers[token]} {self.errors.get(token)}")
        self.end(token)

    def post(self, token: str) -> None:
        """Send the request, and note what was answered."""
        self.answers[token] = self.client.post(f"/{token}").status_code

    def end(self, token: str) -> None:
        """Note what its client knows of a unit: nothing, if it has got no answer."""
        status = self.answers.get(token)
        if status == 200:
            self.history.ok(token)
        elif token not in self.complete:
            self.history.failed(token, status)
        self.report.figures[f"answer {status}"] += 1

    # The end --------------------------------------------------------------------------------------

    def conclusion(self) -> Report:
        """Look at the pool and at the server, while the app is still there."""
        report = self.report
        report.in_transaction = self._at_last(in_transaction, 0)
        # What was struck while it was connecting belongs to nobody, and only this closes it.
        gc.collect()
        report.sessions = self._at_last(backends, POOL)
        with contextlib.ExitStack() as stack:
            try:
                for number in range(POOL):
                    connection = stack.enter_context(self.engine.connect())
                    report.lent += connection.scalar(select(literal(number))) == number
            except Exception as error:
                report.disturbed.append(f"at the end: {error}")
        rows = self.witness.ask("SELECT token, count(*) FROM parts GROUP BY token")
        report.stored = {token: int(number) for token, number in rows}
        report.outcomes = self.history.outcomes
        return report

    def _at_last(self, find: Callable[[Connection], list[int]], at_most: int) -> int:
        """How many there are; the server takes a moment to notice that a client is gone."""
        end = time.monotonic() + 3
        while True:
            with self.witness.engine.connect() as connection:
                number = len(find(connection))
            if number <= at_most or time.monotonic() > end:
                return number
            time.sleep(0.02)


# One unit after the other ---------------------------------------------------------------------

_INTERRUPTIONS = [TookTooLong, StopNow, KeyboardInterrupt, SystemExit]


def by_signal(url: str, units: int, seed: int) -> Report:
    run, bomb = Run(url, seed, lambda: None), Bomb()
    signal.signal(signal.SIGALRM, bomb.on_signal)
    for token, delay in run.plan(units):
        if delay is None:
            run.alone(token)
            continue
        with _interruption(run, bomb, token):
            signal.setitimer(signal.ITIMER_REAL, delay)
            run.post(token)
        signal.setitimer(signal.ITIMER_REAL, 0)
        run.end(token)
    return run.conclusion()


def by_line(url: str, units: int, seed: int) -> Report:
    run, bomb = Run(url, seed, lambda: None), Bomb()
    run.alone("first")  # the only one that imports, and initializes the dialect
    lines = Lines(bomb.strike)
    with lines.counted(-1):
        run.alone("traced")
    total = lines.number
    for token, delay in run.plan(units):
        if delay is None:
            run.alone(token)
            continue
        with _interruption(run, bomb, token), lines.counted(run.random.randrange(total)):
            run.post(token)
        run.end(token)
    return run.conclusion()


class Bomb:
    """Raises once for each time that it is armed."""

    error: type[BaseException] | None = None

    def strike(self) -> None:
        if self.error is not None:
            raised, self.error = self.error, None
            raise raised

    def on_signal(self, _number: int, frame: FrameType | None) -> None:
        """Strike inside of a request, and not in the program around it, which would end."""
        while frame is not None and frame.f_code is not Run.post.__code__:
            frame = frame.f_back
        if frame is not None:
            self.strike()


@contextlib.contextmanager
def _interruption(run: Run, bomb: Bomb, token: str) -> Iterator[None]:
    run.history.begin(token)
    chosen = bomb.error = run.random.choice(_INTERRUPTIONS)
    try:
        yield
    except BaseException:
        # Whatever it became: Flask, struck while it pushes a context, raises a LookupError.
        if bomb.error is not None:
            raise
    if bomb.error is None:
        run.report.figures[f"raised {chosen.__name__}"] += 1
    bomb.error = None


class Lines:
    """Counts the lines that the libraries run, and calls *strike* at one of them.

    :ivar number: of the line that runs.
    """

    def __init__(self, strike: Callable[[], object]) -> None:
        self.number = self._chosen = 0
        self._strike = strike

    @contextlib.contextmanager
    def counted(self, chosen: int) -> Iterator[None]:
        """Count anew, and strike at the line number *chosen*."""
        self.number, self._chosen = 0, chosen
        sys.settrace(self._on_call)
        try:
            yield
        finally:
            sys.settrace(None)

    def _on_call(self, frame: FrameType, _event: str, _argument: object) -> Any:
        module = frame.f_globals.get("__name__", "")
        if module == _WITH_A_LOCK:
            return None
        return self._on_line if module.partition(".")[0] in _LIBRARIES else None

    def _on_line(self, _frame: FrameType, event: str, _argument: object) -> Any:
        if event == "line":
            self.number += 1
            if self.number == self._chosen:
                sys.settrace(None)
                self._strike()
        return self._on_line


# Not the drivers: what a trace function raises below compiled code has crashed the interpreter.
_LIBRARIES = {"flask_uow", "sqlalchemy"}

# SQLAlchemy counts its sessions under a lock. Python keeps the lock of a 'with' that is struck at
# its last line, and the next session would wait for ever.
_WITH_A_LOCK = "sqlalchemy.util.langhelpers"


# Greenlets ------------------------------------------------------------------------------------


def by_greenlet(url: str, units: int, seed: int) -> Report:
    from gevent import monkey

    monkey.patch_all()
    import gevent

    if "psycopg2" in url:
        _make_psycopg2_green()
    run = Run(url, seed, lambda: gevent.sleep(0))
    plan = run.plan(units)

    def work() -> None:
        for token, delay in plan:
            if delay is None:
                run.alone(token)
            else:
                interrupt(token, delay)

    def interrupt(token: str, delay: float) -> None:
        run.history.begin(token)

        def post_in_time(error: type[Exception] | None) -> None:
            with gevent.Timeout(delay, error):
                run.post(token)

        way = run.random.choice(["Timeout", "TookTooLong", "GreenletExit"])
        if way == "GreenletExit":
            job = gevent.spawn(run.post, token)
            job.join(delay)
            job.kill()
        else:
            with contextlib.suppress(gevent.Timeout, TookTooLong):
                post_in_time(None if way == "Timeout" else TookTooLong)
        run.end(token)

    gevent.joinall([gevent.spawn(work) for _ in range(GREENLETS)], raise_error=True)
    return run.conclusion()


def _make_psycopg2_green() -> None:
    """As psycopg2's documentation has it: otherwise no other greenlet runs meanwhile."""
    from gevent.socket import wait_read, wait_write
    from psycopg2 import extensions

    def wait(connection: Any) -> None:
        while (state := connection.poll()) != extensions.POLL_OK:
            (wait_read if state == extensions.POLL_READ else wait_write)(connection.fileno())

    extensions.set_wait_callback(wait)


if __name__ == "__main__":
    ways = {"signal": by_signal, "line": by_line, "greenlet": by_greenlet}
    run = ways[sys.argv[2]]
    print(json.dumps(vars(run(sys.argv[1], int(sys.argv[3]), int(sys.argv[4])))))
