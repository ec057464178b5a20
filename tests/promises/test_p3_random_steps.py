"""P3: wherever a request fails before the first byte, its status and the stored data agree."""

from __future__ import annotations

import random
from typing import Any

import pytest
from flask import Flask, Response, g, request, request_finished
from flask.sessions import SecureCookieSessionInterface, SessionMixin
from sqlalchemy.exc import IntegrityError

from flask_uow import Database
from tests.support.engines import checked_out
from tests.support.faults import Faults
from tests.support.models import Post, User
from tests.support.witness import Witness

STEPS = """
    nothing before_request view handler returned rollback_only rule after_request status session
    request_finished flush COMMIT hook
""".split()


class Broken(Exception):
    """What a step raises."""


def fail_at(step: str) -> None:
    """Raise where the request wants it, and once only: Flask makes a response for the error."""
    if request.args["step"] == step and step not in g.setdefault("failed", set()):
        g.failed.add(step)
        raise Broken(step)


class Sessions(SecureCookieSessionInterface):
    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        fail_at("session")


def rule(response: Response) -> bool:
    fail_at("rule")
    return response.status_code < 400


@pytest.fixture
def site(app: Flask, db: Database) -> Flask:
    """An app each part of which may fail; the view stores a user, the log a post."""
    app.session_interface = Sessions()

    @app.before_request
    def before() -> None:
        db.session.add(Post(title=f"before {request.args['name']}"))
        fail_at("before_request")

    @app.errorhandler(Broken)
    def handle(error: Broken) -> tuple[str, int]:
        fail_at("handler")
        return str(error), 409

    @app.errorhandler(IntegrityError)
    def conflict(error: Exception) -> tuple[str, int]:
        return "taken", 409

    @app.after_request
    def log(response: Response) -> Response:
        if "log" in request.args:
            db.session.add(Post(title=f"log {request.args['name']}"))
        fail_at("after_request")
        if request.args["step"] == "status":
            response.status_code = 503
        return response

    def create() -> tuple[str, int]:
        name, step = request.args["name"], request.args["step"]
        db.session.add(User(name=name))
        if "flushes" in request.args:
            db.session.flush()
        db.on_commit(fail_at, "hook")
        if step == "handler":
            raise Broken("view")
        fail_at("view")
        if step == "rollback_only":
            db.set_rollback_only()
        if step == "flush":
            db.session.add(User(name="taken"))
        return "", 422 if step == "returned" else 201

    @app.post("/rule")
    @db.unit(commit=rule)
    def by_rule() -> tuple[str, int]:
        return create()

    app.add_url_rule("/on_success", view_func=create, methods=["POST"])
    return app


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3))])
def test_status_and_data_agree(seed: int, site: Flask, witness: Witness, faults: Faults) -> None:
    """A success is stored, an error is not; an access log is stored if it was not undone."""
    witness.store(User(name="taken"))
    chosen = random.Random(seed)
    client = site.test_client()

    def receive(*_: object, **__: object) -> None:
        fail_at("request_finished")

    with request_finished.connected_to(receive, site):
        for number in range(40):
            name, step = f"user {number}", chosen.choice(STEPS)
            query: dict[str, Any] = {"name": name, "step": step}
            query |= {one: "1" for one in ("log", "flushes") if chosen.random() < 0.5}
            path = "/rule" if step == "rule" else chosen.choice(["/on_success", "/rule"])
            if step == "COMMIT":
                faults.fail("commit")
            status = client.post(path, query_string=query).status_code
            told = (query, path, status)
            stored = name in witness.names()
            assert (status < 400) is (step in {"nothing", "rollback_only", "hook"}), told
            # A rule of the app is asked once, for the response of the view.
            overruled = step == "status" and path == "/rule"
            assert stored is ((status < 400 or overruled) and step != "rollback_only"), told
            titles = witness.titles()
            assert (f"before {name}" in titles) is stored, told
            # After the view's work is undone, the log stands on its own; a failing commit undoes
            # it, and the function runs again.
            is_logged = "log" in query and (stored or step != "status")
            assert (f"log {name}" in titles) is is_logged, told
    assert checked_out() == 0
