"""Requests of a worker that may be killed behind a COMMIT; a program, because it dies.

``python -m tests.faults.dying URL MOMENT NAME ...`` stores users of these names, with a request
each, and prints the statuses of the answers. At the moment, one of :data:`MOMENTS` or none, the
process is killed.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from sqlalchemy import event
from sqlalchemy.exc import IntegrityError

from flask_uow import Database, Flask
from tests.support.models import Base, User

MOMENTS = ("after_commit", "on_commit", "teardown_request")
"""What runs after the COMMIT: an event of the session, and functions of the app."""


def main(url: str, moment: str, *names: str) -> None:
    app, db = Flask("dying"), Database(Base)
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    app.register_extension(db)
    with app.app_context():
        db.create_all()

    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @app.post("/<name>")
    def create(name: str) -> str:
        db.session.add(User(name=name))
        if moment == "after_commit":
            event.listen(db.session(), "after_commit", die)
        if moment == "on_commit":
            db.on_commit(die)
        return ""

    if moment == "teardown_request":
        app.teardown_request(die)
    app.register_error_handler(IntegrityError, lambda _: ("this name is stored", 409))
    client = app.test_client()
    print(*[client.post(f"/{name}").status_code for name in names])
    with app.app_context():
        db.engine.dispose()


if __name__ == "__main__":
    main(*sys.argv[1:])
