"""The app that the tests of this folder serve; its database comes from the environment."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

from flask import Flask as FlaskApp
from flask import Response, request, request_finished, stream_with_context
from flask.sessions import SecureCookieSessionInterface, SessionMixin
from sqlalchemy import Connection, Engine, ForeignKey, String, event, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flask_uow import Database, Flask

PARTY = 4
"""How many requests have to be at ``/met`` before any of them goes on."""


class Base(DeclarativeBase):
    pass


class Note(Base):
    """A wrong parent fails at COMMIT (where foreign keys are on), a taken text in the flush."""

    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(String(100), unique=True)
    parent_id: Mapped[int | None] = mapped_column(
        ForeignKey("notes.id", deferrable=True, initially="DEFERRED")
    )


db = Database(Base)
meeting = threading.Barrier(PARTY)


def create_app() -> Flask:
    app = Flask(__name__)
    app.config.from_prefixed_env()
    app.register_extension(db)
    with app.app_context():
        db.create_all()
    app.add_url_rule("/state", view_func=state)
    for view in (stored, orphan, refused, broken, asleep, asleep_in_sql, streamed, met):
        app.add_url_rule(f"/{view.__name__}/<text>", view_func=view, methods=["POST"])
    app.register_error_handler(IntegrityError, conflict)
    app.before_request(slow_down)
    app.after_request(sign)
    app.after_request(log_access)
    app.secret_key = "test"  # without one there is no session to save
    app.session_interface = Sessions()
    request_finished.connect(finish, app)
    return app


def state() -> dict[str, int]:
    return {"pid": os.getpid(), "checked_out": db.engine.pool.checkedout()}  # type: ignore[attr-defined]


def stored(text: str) -> tuple[str, int]:
    db.session.add(Note(text=text))
    return "stored", 201


def orphan(text: str) -> tuple[str, int]:
    db.session.add(Note(text=text, parent_id=-1))
    return "stored, so the view believes", 201


def refused(text: str) -> tuple[str, int]:
    write(text)
    return "refused", 400


def broken(text: str) -> str:
    write(text)
    raise RuntimeError(text)


def asleep(text: str) -> str:
    """Sleep for a minute, with a transaction open."""
    write(text)
    time.sleep(60)
    return "awake"


def asleep_in_sql(text: str) -> str:
    write(text)
    db.session.scalar(select(func.pg_sleep(5)))
    return "awake"


def streamed(text: str) -> Response:
    """Store *text*, then write something else in a body that has no end."""

    def body() -> Iterator[str]:
        write(f"{text}, half-written")
        while True:
            yield "x" * 20_000

    db.session.add(Note(text=text))
    return Response(stream_with_context(body()), 201)


def met(text: str) -> dict[str, Any]:
    """Write, meet the others who have written, and tell what this unit sees of them."""
    write(text)
    meeting.wait(timeout=10)
    db.session.scalar(select(func.pg_sleep(0.05)))
    seen = db.session.scalars(select(Note.text).where(Note.text.startswith("met"))).all()
    backend = db.session.scalar(select(func.pg_backend_pid()))
    meeting.wait(timeout=10)
    if "fails" in text:
        raise RuntimeError(text)
    return {"seen": seen, "backend": backend}


def write(text: str) -> None:
    db.session.add(Note(text=text))
    db.session.flush()


def conflict(_: Exception) -> tuple[str, int]:
    return "conflict", 409


def slow_down() -> None:
    if "slowly" in request.args:
        db.session.connection().info["slowly"] = True


def sign(response: Response) -> Response:
    response.headers["X-Signed"] = "yes"
    return response


def fail_at(step: str) -> None:
    """Raise if the client has asked for it."""
    if request.args.get("fails") == step:
        raise RuntimeError(step)


def log_access(response: Response) -> Response:
    """Store a note for the response, if the client has asked for it."""
    if "logged" in request.args:
        write(f"access {request.args['logged']} {response.status_code}")
    fail_at("after_request")
    return response


class Sessions(SecureCookieSessionInterface):
    def save_session(self, app: FlaskApp, session: SessionMixin, response: Response) -> None:
        fail_at("cookie")


def finish(_: Flask, response: Response) -> None:
    if response.status_code < 500:
        fail_at("request_finished")


@event.listens_for(Engine, "commit")
def commit_slowly(connection: Connection) -> None:
    """Give a server that does not wait for the COMMIT the time to show it."""
    if connection.info.pop("slowly", False):
        time.sleep(0.3)
