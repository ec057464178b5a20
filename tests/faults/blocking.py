"""Asks whether other greenlets run while a driver waits; a program, because gevent changes all.

``python -m tests.faults.blocking URL [HABIT]`` prints, as JSON, how often another greenlet ran
during one statement of each of three requests, and the warnings of flask_uow.

A habit is one of :data:`HABITS`: what some apps do about their driver.
"""

from __future__ import annotations

import json
import sys
import warnings
from importlib import import_module
from typing import Any

REQUESTS = 3
HABITS = ("", "imported before", "wait callback")


def main(url: str, habit: str) -> None:
    if habit == "imported before":  # as an app that gunicorn preloads
        import_module("psycopg")
    from gevent import monkey

    monkey.patch_all()
    if habit == "wait callback":  # what psycogreen is about
        import_module("psycopg2.extensions").set_wait_callback(
            import_module("psycopg2.extras").wait_select
        )
    print(json.dumps(observe(url)))


def observe(url: str) -> dict[str, Any]:
    import gevent
    from sqlalchemy import text

    from flask_uow import Database, Flask, UowWarning

    app, db = Flask("blocking"), Database()
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    app.register_extension(db)
    ticks = 0
    during: list[int] = []

    @app.get("/")
    def index() -> str:
        connection = db.session.connection()
        gevent.sleep(0.05)  # let the others connect first
        before = ticks
        connection.execute(text(SLEEP[connection.dialect.name]))
        during.append(ticks - before)
        return ""

    def tick() -> None:
        nonlocal ticks
        while True:
            gevent.sleep(0.005)
            ticks += 1

    ticking = gevent.spawn(tick)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        jobs = [gevent.spawn(app.test_client().get, "/") for _ in range(REQUESTS)]
        answers = [job.get() for job in jobs]
    ticking.kill()
    with app.app_context():
        db.engine.dispose()
    notices = [str(one.message) for one in caught if issubclass(one.category, UowWarning)]
    return {
        "statuses": [answer.status_code for answer in answers],
        "ticks": during,
        "notices": notices,
    }


SLEEP = {"postgresql": "SELECT pg_sleep(0.1)", "mariadb": "SELECT sleep(0.1)", "sqlite": "SELECT 1"}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
