"""The order of events of a request. The lists are the documentation; the app writes them down.

Every place where an app, an extension or the database takes part appends a line to the log:
functions that Flask calls, what the engine is told (in capitals), and what the server gets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from typing import Any

import pytest
from flask import (
    Flask,
    Response,
    after_this_request,
    got_request_exception,
    request_finished,
    request_started,
    stream_with_context,
)
from flask.sessions import SecureCookieSessionInterface, SessionMixin
from flask.testing import FlaskClient
from packaging.version import Version
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from flask_uow import Database
from flask_uow._request.flask_private import SEPARATE_REQUEST_CONTEXT
from tests.conftest import MakeApp
from tests.support.models import Base, Post, User
from tests.support.recording import record
from tests.support.witness import Witness


class Log(list[str]):
    """The lines so far."""

    def note(self, line: str) -> None:
        self.append(line)

    def noting(self, line: str) -> Callable[..., None]:
        """A function that notes *line*, whatever it is called with."""
        return lambda *_, **__: self.append(line)

    def passing_on(self, line: str) -> Callable[[Response], Response]:
        """The same for functions that get a response and return it."""

        def function(response: Response) -> Response:
            self.append(line)
            return response

        return function


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def db(log: Log) -> Database:
    class NotedSession(Session):
        def close(self) -> None:
            super().close()
            log.note("session closed")

    return Database(Base, session_options={"class_": NotedSession})


@pytest.fixture
def app(
    make_app: MakeApp, db: Database, log: Log, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Flask]:
    """An app in which everybody writes down that his turn has come."""
    app = make_app()

    class NotedInterface(SecureCookieSessionInterface):
        def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
            log.note("cookie session saved")

    app.session_interface = NotedInterface()
    app.before_request(log.noting("before_request"))
    app.after_request(log.passing_on("after_request"))
    app.teardown_request(log.noting("teardown_request"))
    app.teardown_appcontext(log.noting("teardown_appcontext"))
    make_response, made = app.make_response, list[Response]()

    def noted_make_response(value: Any) -> Response:
        response = make_response(value)
        if response not in made:  # it may be asked for again
            made.append(response)
            log.note(f"response made: {response.status_code}")
        return response

    monkeypatch.setattr(app, "make_response", noted_make_response)
    serve = app.wsgi_app

    def server(environ: Any, start_response: Callable[..., Any]) -> Iterable[bytes]:
        def start(status: str, *rest: Any) -> Any:
            log.note(f"the client gets {status[:3]}")
            return start_response(status, *rest)

        return serve(environ, start)

    monkeypatch.setattr(app, "wsgi_app", server)
    with app.app_context():
        record(db.engine, log.note)
    signals = {
        request_started: "request_started",
        request_finished: "request_finished",
        got_request_exception: "got_request_exception",
    }
    listeners = {signal: log.noting(name) for signal, name in signals.items()}
    for signal, listener in listeners.items():
        signal.connect(listener, app)
    log.clear()
    yield app
    for signal, listener in listeners.items():
        signal.disconnect(listener, app)


# Most versions keep the context pushed for a streamed body; these pop it, and push it again.
POPS_BEFORE_THE_BODY = Version("3.1.2") <= Version(version("flask")) < Version("3.2.dev0")


def end_of_context(*closing: str) -> str:
    """What happens when the context ends; *closing* is what becomes of the unit then.

    Flask 3.2 has one context for a request. Before, an app context surrounds the request's, and
    the unit ends with the inner one.
    """
    order = ["teardown_request", *closing, "teardown_appcontext"]
    if not SEPARATE_REQUEST_CONTEXT:
        order = ["teardown_request", "teardown_appcontext", *closing]
    return "\n".join(order)


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def test_success(app: Flask, db: Database, client: FlaskClient, log: Log) -> None:
    """The view returns: its work is committed as the last thing before the response leaves."""

    @app.post("/")
    def create() -> tuple[str, int]:
        log.note("view")
        after_this_request(log.passing_on("after_this_request"))
        db.session.add(User(name="ada"))
        db.session.flush()
        log.note("view returns")
        return "", 201

    client.post("/").close()
    assert log == lines(f"""
        request_started
        before_request
        view
        checkout
        BEGIN
        INSERT
        view returns
        response made: 201
        after_this_request
        after_request
        cookie session saved
        request_finished
        COMMIT
        checkin
        the client gets 201
        {end_of_context("session closed")}
    """)


def test_handled_error(app: Flask, db: Database, client: FlaskClient, log: Log) -> None:
    """An exception leaves the view: rolled back before the handler, whose work is committed."""

    @app.errorhandler(LookupError)
    def handle(error: Exception) -> tuple[str, int]:
        log.note("error handler")
        db.session.add(Post(title="failed"))
        db.session.flush()
        log.note("error handler returns")
        return "", 422

    @app.post("/")
    def create() -> str:
        log.note("view")
        db.session.add(User(name="ada"))
        db.session.flush()
        log.note("view raises")
        raise LookupError

    client.post("/").close()
    assert log == lines(f"""
        request_started
        before_request
        view
        checkout
        BEGIN
        INSERT
        view raises
        ROLLBACK
        checkin
        error handler
        checkout
        BEGIN
        INSERT
        error handler returns
        response made: 422
        after_request
        cookie session saved
        request_finished
        COMMIT
        checkin
        the client gets 422
        {end_of_context("session closed")}
    """)


def test_unhandled_error(app: Flask, db: Database, client: FlaskClient, log: Log) -> None:
    """The same without a handler: Flask's own 500, which it takes for a streamed body."""

    @app.post("/")
    def create() -> str:
        log.note("view")
        db.session.add(User(name="ada"))
        db.session.flush()
        log.note("view raises")
        raise LookupError

    client.post("/").close()
    assert log == lines(f"""
        request_started
        before_request
        view
        checkout
        BEGIN
        INSERT
        view raises
        ROLLBACK
        checkin
        got_request_exception
        response made: 500
        after_request
        cookie session saved
        request_finished
        the client gets 500
        {end_of_context()}
        session closed
    """)


def test_failing_commit(
    app: Flask, db: Database, client: FlaskClient, log: Log, witness: Witness
) -> None:
    """The flush of the commit finds a name that is taken, and the app's handler runs."""
    witness.store(User(name="ada"))

    @app.errorhandler(IntegrityError)
    def handle(error: Exception) -> tuple[str, int]:
        log.note("error handler")
        return "", 409

    @app.post("/")
    def create() -> tuple[str, int]:
        log.note("view")
        db.session.add(User(name="ada"))
        log.note("view returns")
        return "", 201

    client.post("/").close()
    assert log == lines(f"""
        request_started
        before_request
        view
        view returns
        response made: 201
        after_request
        cookie session saved
        request_finished
        checkout
        BEGIN
        INSERT
        ROLLBACK
        checkin
        error handler
        response made: 409
        after_request
        cookie session saved
        request_finished
        the client gets 409
        {end_of_context("session closed")}
    """)


def test_access_log(
    app: Flask, db: Database, client: FlaskClient, log: Log, witness: Witness
) -> None:
    """The view returns 422, so its work is gone; an after_request function writes."""

    @app.after_request
    def audit(response: Response) -> Response:
        log.note("after_request that writes")
        db.session.add(Post(title="log"))
        return response

    @app.post("/")
    def create() -> tuple[str, int]:
        log.note("view")
        db.session.add(User(name="ada"))
        log.note("view returns")
        return "", 422

    client.post("/").close()
    assert log == lines(f"""
        request_started
        before_request
        view
        view returns
        response made: 422
        after_request that writes
        after_request
        cookie session saved
        request_finished
        checkout
        BEGIN
        INSERT
        COMMIT
        checkin
        the client gets 422
        {end_of_context("session closed")}
    """)
    assert (witness.names(), witness.titles()) == ([], ["log"])


def test_stream(app: Flask, db: Database, client: FlaskClient, log: Log) -> None:
    """A streamed body works in the unit of its view, which is closed after it."""

    @app.post("/")
    def create() -> Response:
        log.note("view")
        db.session.add(User(name="ada"))

        def body() -> Iterator[str]:
            log.note("body starts")
            yield str(db.session.query(User).count())
            log.note("body ends")

        log.note("view returns")
        return Response(stream_with_context(body()))

    with client.post("/") as response:
        response.get_data()
        log.note("the server closes the response")
    between = end_of_context() if POPS_BEFORE_THE_BODY else ""
    expected = f"""
        request_started
        before_request
        view
        view returns
        response made: 200
        after_request
        cookie session saved
        request_finished
        checkout
        BEGIN
        INSERT
        COMMIT
        checkin
        the client gets 200
        {between}
        body starts
        checkout
        BEGIN
        SELECT
        body ends
        {end_of_context("ROLLBACK", "checkin")}
        the server closes the response
        session closed
    """
    assert log == lines(expected)
