"""Extensions that put a function of their own in front of a method of the app.

Flask-RESTful and flask-restx replace ``handle_user_exception`` by a ``partial`` that answers
the errors of their own routes itself and leaves the others to the original; Flask-DebugToolbar
replaces ``dispatch_request``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flask import Response, request
from flask.testing import FlaskClient
from sqlalchemy.exc import IntegrityError

from flask_uow import Database, Flask
from tests.support.databases import TestDatabase
from tests.support.models import User
from tests.support.witness import Witness


class Refused(Exception):
    pass


class Api:
    """The error handling of an API extension.

    :ivar handle: answers the errors of its routes; what it raises goes on to the app.
    """

    def __init__(self, handle: Callable[[Exception], Response]) -> None:
        self.handle = handle

    def init_app(self, app: Flask) -> None:
        router = partial(self.route, app.handle_user_exception)
        app.handle_user_exception = router  # type: ignore[method-assign]

    def route(self, original: Callable[..., Any], *args: Any) -> Any:
        if not request.path.startswith("/api/"):
            return original(*args)
        try:
            return self.handle(args[-1])  # from Flask 3.2 on, the context comes first
        except Exception as error:
            return original(*args[:-1], error)


Build = Callable[..., Flask]


@pytest.fixture
def build(database: TestDatabase, db: Database, tmp_path: Path) -> Build:
    """Makes an app with these extensions, in their order, and with views that fail."""

    def build(*extensions: Database | Api) -> Flask:
        app = Flask("tests", instance_path=str(tmp_path))
        app.config["SQLALCHEMY_DATABASE_URI"] = database.url
        for extension in extensions:
            app.register_extension(extension)
        with app.app_context():
            db.create_all()

        @app.post("/api/raise")
        @app.post("/raise")
        def fail() -> str:
            db.session.add(User(name="half"))
            db.session.flush()
            raise Refused

        @app.post("/api/commit")
        def fail_to_commit() -> str:
            db.session.add_all([User(name="twice"), User(name="twice")])
            return "stored, so the view believes"

        return app

    return build


ids = ["api first", "database first"]
either_first = pytest.mark.parametrize("api_first", [True, False], ids=ids)


@pytest.mark.parametrize("api_first", [True, False], ids=ids)
@pytest.mark.parametrize("status", [200, 409])
def test_handler_of_an_api_starts_with_a_clean_session(
    build: Build, db: Database, witness: Witness, api_first: bool, status: int
) -> None:
    """P4.1: what the view wrote is gone, and what the API's own handler writes is stored."""

    def handle(error: Exception) -> Response:
        assert isinstance(error, Refused)
        db.session.add(User(name="log"))
        return Response("refused", status)

    app = build(*in_order(db, Api(handle), api_first))
    assert app.test_client().post("/api/raise").status_code == status
    assert witness.names() == ["log"]


@either_first
@pytest.mark.parametrize("path", ["/raise", "/api/raise"])
def test_error_that_an_api_leaves_to_the_app_is_rolled_back(
    build: Build, db: Database, witness: Witness, api_first: bool, path: str
) -> None:
    """P4.1: the same for other routes, and for an error that the API raises again."""

    def handle(error: Exception) -> Response:
        raise error

    app = build(*in_order(db, Api(handle), api_first))

    @app.errorhandler(Refused)
    def handle_in_app(_: Refused) -> str:
        db.session.add(User(name="log"))
        return "refused"

    assert app.test_client().post(path).status_code == 200
    assert witness.names() == ["log"]


@either_first
def test_failed_commit_is_answered_by_the_handler_of_an_api(
    build: Build, db: Database, witness: Witness, api_first: bool
) -> None:
    """P3: a commit that fails takes the way of an error of the view, whoever stands on it."""

    def handle(error: Exception) -> Response:
        assert isinstance(error, IntegrityError)
        db.session.add(User(name="log"))
        return Response("conflict", 409)

    app = build(*in_order(db, Api(handle), api_first))
    assert app.test_client().post("/api/commit").status_code == 409
    assert witness.names() == ["log"]


def test_replaced_dispatch_request_changes_nothing(
    build: Build, db: Database, witness: Witness
) -> None:
    """P4.1: the unit does not rely on how the app finds and calls its views."""
    app = build(db)
    original = app.dispatch_request
    app.dispatch_request = lambda *args: original(*args)  # type: ignore[method-assign]

    @app.errorhandler(Refused)
    def handle(_: Refused) -> str:
        db.session.add(User(name="log"))
        return "refused"

    assert app.test_client().post("/raise").status_code == 200
    assert witness.names() == ["log"]


def in_order(db: Database, api: Api, api_first: bool) -> list[Database | Api]:
    return [api, db] if api_first else [db, api]


@pytest.mark.parametrize("status", [201, 400])
@pytest.mark.parametrize("method", ["process_response", "finalize_request"])
def test_replaced_processing_of_a_response_leaves_the_decision(
    method: str, status: int, app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """P4.4: the app sends its responses without Flask's own method, and the rule holds."""
    setattr(app, method, lambda *args, **_: app.make_response(args[-1]))

    @app.post("/")
    def create() -> tuple[str, int]:
        db.session.add(User(name="ada"))
        return "", status

    assert client.post("/").status_code == status
    assert witness.names() == (["ada"] if status < 400 else [])
