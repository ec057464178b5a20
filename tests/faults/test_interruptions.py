"""Units of work interrupted at random moments: a signal handler that raises, gevent's timeouts.

Each unit stores two rows with its token; what runs, and where, is in ``interrupted.py``.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import random
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from sqlalchemy import make_url, select

from flask_uow import Database
from tests.conftest import MakeApp
from tests.faults.conftest import ON_POSTGRESQL
from tests.faults.interrupted import POOL, Report
from tests.support.databases import concurrently, own_database
from tests.support.history import History
from tests.support.models import User
from tests.support.pools import make_engine
from tests.support.tracing import traced
from tests.support.witness import Witness

pytestmark = pytest.mark.slow

_ROOT = Path(__file__).parents[2]
_STRESS = pytest.mark.stress
_WAYS = [
    pytest.param("signal", 12),
    pytest.param("signal", 400, marks=_STRESS),
    pytest.param("greenlet", 12),
    pytest.param("greenlet", 400, marks=_STRESS),
    pytest.param("line", 400, marks=_STRESS),
]


@pytest.mark.fault(
    "W7",
    fault="A timeout, a signal handler or a killed greenlet interrupts any line of code",
    then="Nothing is stored by halves, the pool loses no place, the connection is not reused",
)
@pytest.mark.parametrize(("way", "units"), _WAYS)
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "pymysql"])
def test_interrupted_units_leave_nothing_behind(
    driver: str, way: str, units: int, request: pytest.FixtureRequest
) -> None:
    """P6, P13: wherever it strikes: whole units only, no slot lost, no transaction left open."""
    if way == "greenlet" and find_spec("gevent") is None:
        pytest.skip("gevent is not installed")
    server = "postgresql" if driver in ON_POSTGRESQL else "mariadb"
    with own_database(request.getfixturevalue(f"{server}_url")) as url:
        report = interrupt(_by(driver, url), way, units)
    history = History()
    history.outcomes = report.outcomes
    print(f"{driver}, {way}: {history.summary(report.stored)}; {report.figures}")

    history.check(list(report.stored))  # what was answered 200 is stored, what was refused is not
    assert {token: rows for token, rows in report.stored.items() if rows != 2} == {}
    assert report.disturbed == []  # the next units succeed
    assert report.wrong == []
    assert report.reused == 0
    assert report.lent == POOL
    assert report.in_transaction == 0
    assert report.sessions <= POOL
    assert history.count("ok") >= units // 2  # as many were left alone


class Struck(Exception):
    pass


@concurrently
def test_session_struck_between_two_states_stores_nothing(
    make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """P4: a session that was struck in a change of state refuses to roll back."""
    app = make_app()

    def strike(frame: FrameType, _event: str, _argument: object) -> Any:
        here = frame.f_locals
        if frame.f_code.co_name == "_go" and here.get("fn") and here["fn"].__name__ == "commit":
            if getattr(here["self"]._next_state, "name", "") == "CHANGE_IN_PROGRESS":
                sys.settrace(None)
                raise Struck
            return strike
        return strike if frame.f_code.co_name == "_go" else None

    @app.post("/")
    def store() -> str:
        db.session.add(User(name="half"))
        db.session.flush()
        db.session.add(User(name="other half"))
        with traced(strike):
            db.session.flush()
        return ""

    logging.disable()  # the records would keep the exception, and that the session
    try:
        assert app.test_client().post("/").status_code == 500
    finally:
        logging.disable(logging.NOTSET)
    assert witness.names() == []
    with app.app_context():
        assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    gc.collect()  # the session, which Flask keeps in a circle with the exception


def test_slot_in_a_circle_of_references_comes_back(postgresql_url: str) -> None:
    """P6: Flask keeps an unhandled exception in a circle with its traceback, and so a connection.

    Python looks for circles now and then, or never, if the app has switched that off.
    """
    engine = make_engine(postgresql_url, pool_size=1, max_overflow=0, pool_timeout=0.1)
    gc.disable()
    try:
        circle: list[object] = [engine.connect()]
        circle.append(circle)
        del circle
        with engine.connect() as connection:
            assert connection.scalar(select(1)) == 1
    finally:
        gc.enable()
        gc.collect()
        engine.dispose()


def _by(driver: str, url: str) -> str:
    parsed = make_url(url)
    chosen = parsed.set(drivername=f"{parsed.get_backend_name()}+{driver}")
    return chosen.render_as_string(hide_password=False)


def interrupt(url: str, way: str, units: int) -> Report:
    """Run the program; ``UOW_TEST_SEED`` chooses the moments, else they are new ones."""
    seed = os.environ.get("UOW_TEST_SEED") or str(random.SystemRandom().randrange(10**6))
    print(f"UOW_TEST_SEED={seed}")
    program = [sys.executable, "-m", "tests.faults.interrupted", url, way, str(units), seed]
    done = subprocess.run(
        program, cwd=_ROOT, check=False, capture_output=True, text=True, timeout=300
    )
    print(done.stderr[-3000:])
    assert done.returncode == 0, done.stderr[-3000:]
    return Report(**json.loads(done.stdout.splitlines()[-1]))
