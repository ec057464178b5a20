"""P5: what ``after_request`` functions write is part of the unit and of its commit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from flask import Blueprint, Flask, Response, abort, after_this_request, redirect, session
from flask.sessions import SecureCookieSessionInterface, SessionMixin
from flask.testing import FlaskClient

from flask_uow import CommitRule, Database
from tests.conftest import MakeApp
from tests.support.databases import TestDatabase, anywhere
from tests.support.engines import checked_out
from tests.support.faults import Faults
from tests.support.models import Post, User
from tests.support.witness import Witness


def writes(db: Database, title: str) -> Callable[[Response], Response]:
    """An ``after_request`` function that adds a post."""

    def after(response: Response) -> Response:
        db.session.add(Post(title=title))
        return response

    return after


def test_after_request_functions_are_committed_wherever_they_are_registered(
    db: Database, database: TestDatabase, witness: Witness
) -> None:
    """Before and after ``init_app``, on a blueprint, and for this request only."""
    app = Flask("late")
    app.config["SQLALCHEMY_DATABASE_URI"] = database.url
    app.after_request(writes(db, "before init_app"))
    db.init_app(app)
    app.after_request(writes(db, "after init_app"))
    blueprint = Blueprint("shop", __name__)
    blueprint.after_request(writes(db, "blueprint"))

    @blueprint.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        after_this_request(writes(db, "this request"))
        return ""

    app.register_blueprint(blueprint)
    with app.app_context():
        db.create_all()
    assert app.test_client().post("/").status_code == 200
    assert witness.names() == ["ada"]
    assert witness.titles() == ["after init_app", "before init_app", "blueprint", "this request"]


def test_work_is_committed_before_the_status_line(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """When the WSGI server is told the status, the row is there."""
    app.after_request(writes(db, "late"))
    app.add_url_rule("/", view_func=lambda: "")
    seen: list[list[str]] = []
    serve = app.wsgi_app

    def watched(environ: Any, start_response: Callable[..., Any]) -> Iterable[bytes]:
        def start(*args: Any) -> Any:
            seen.append(witness.titles())
            return start_response(*args)

        return serve(environ, start)

    app.wsgi_app = watched  # type: ignore[method-assign]
    assert client.get("/").status_code == 200
    assert seen == [["late"]]


def test_after_request_function_may_be_the_first_to_use_the_session(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """A unit that opens after the view is committed as well."""
    app.after_request(writes(db, "late"))
    app.add_url_rule("/", view_func=lambda: "")
    assert client.get("/").status_code == 200
    assert witness.titles() == ["late"]
    assert checked_out() == 0


class StoredSessions(SecureCookieSessionInterface):
    """Notes every saved session in the database, as server-side sessions do."""

    def __init__(self, db: Database) -> None:
        self.db = db

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        self.db.session.add(Post(title=f"session of {session.get('user')}"))


def test_work_of_the_session_interface_is_committed(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """Flask saves the session after every ``after_request`` function, and that is not too late."""
    app.session_interface = StoredSessions(db)

    @app.post("/")
    def log_in() -> str:
        session["user"] = "ada"
        db.session.add(User(name="ada"))
        return ""

    assert client.post("/").status_code == 200
    assert (witness.names(), witness.titles()) == (["ada"], ["session of ada"])


@anywhere
@pytest.mark.parametrize(
    ("rule", "status", "stored"),
    [
        ("on_success", 200, True),
        ("on_success", 400, True),
        ("always", 400, True),
        ("explicit", 200, False),
        (lambda response: response.status_code == 418, 418, True),
        (lambda response: response.status_code == 418, 200, True),
    ],
)
@pytest.mark.parametrize("touched", ["written", "read", "not"])
def test_access_log_is_stored_for_every_status(
    touched: str,
    rule: CommitRule,
    status: int,
    stored: bool,
    make_app: MakeApp,
    db: Database,
    witness: Witness,
) -> None:
    """P4: the view's work is rolled back before the functions run, so theirs stands on its own."""
    app = make_app()
    app.after_request(writes(db, "log"))

    @app.get("/")
    @db.unit(commit=rule)
    def index() -> tuple[str, int]:
        if touched == "written":
            db.session.add(User(name="ada"))
            db.session.flush()
        elif touched == "read":
            db.session.get(User, 1)
        return "", status

    assert app.test_client().get("/").status_code == status
    assert witness.titles() == (["log"] if stored else [])
    is_kept = touched == "written" and (
        rule == "always" or (rule == "on_success" and status < 400) or status == 418
    )
    assert witness.names() == (["ada"] if is_kept else [])


def test_access_log_is_stored_after_set_rollback_only(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """P4: the mark undoes the view's work once there is a response, and no later work."""
    app.after_request(writes(db, "log"))

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        db.set_rollback_only()
        return ""

    assert client.post("/").status_code == 200
    assert (witness.names(), witness.titles()) == ([], ["log"])


def test_access_log_is_stored_after_an_error_handler_marks_its_own_work(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """P4: the mark of a handler undoes its work in the same moment as that of a view."""
    app.after_request(writes(db, "log"))

    @app.errorhandler(LookupError)
    def handle(error: Exception) -> tuple[str, int]:
        db.session.add(Post(title="handler"))
        db.set_rollback_only()
        return "", 422

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        raise LookupError

    assert client.post("/").status_code == 422
    assert (witness.names(), witness.titles()) == ([], ["log"])


@anywhere
@pytest.mark.parametrize("touched", [True, False])
@pytest.mark.parametrize("handled", [True, False])
def test_work_after_a_failed_view_is_stored_with_the_error_page(
    handled: bool, touched: bool, app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """An audit row beside an error page is treated like one that the error handler writes."""
    app.after_request(writes(db, "late"))
    if handled:
        app.register_error_handler(LookupError, lambda error: ("", 500))

    @app.get("/")
    def index() -> str:
        if touched:
            db.session.add(User(name="ada"))
        raise LookupError

    assert client.get("/").status_code == 500
    assert (witness.names(), witness.titles()) == ([], ["late"])


def test_after_request_function_can_mark_the_unit_for_rollback(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """``set_rollback_only()`` there undoes all of the unit."""

    @app.after_request
    def after(response: Response) -> Response:
        db.session.add(Post(title="late"))
        db.set_rollback_only()
        return response

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        return ""

    assert client.post("/").status_code == 200
    assert (witness.names(), witness.titles()) == ([], [])


@pytest.mark.parametrize("touched", [True, False])
def test_after_request_function_that_turns_a_success_into_an_error_undoes_all(
    touched: bool,
    app: Flask,
    db: Database,
    client: FlaskClient,
    witness: Witness,
) -> None:
    """P4: the client gets an error, so nothing is stored."""

    @app.after_request
    def after(response: Response) -> Response:
        db.session.add(Post(title="late"))
        response.status_code = 500
        return response

    @app.post("/")
    def create() -> str:
        if touched:
            db.session.add(User(name="ada"))
        return ""

    assert client.post("/").status_code == 500
    assert (witness.names(), witness.titles()) == ([], [])


def test_work_that_fails_is_a_500(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """All or nothing: the work of the view and that of the function have one COMMIT."""
    witness.store(User(name="ada"))

    @app.after_request
    def after(response: Response) -> Response:
        db.session.add(User(name="ada"))
        return response

    @app.post("/")
    def create() -> tuple[str, int]:
        db.session.add(User(name="bob"))
        return "", 201

    assert client.post("/").status_code == 500
    assert witness.names() == ["ada"]
    assert checked_out() == 0


def test_commit_of_the_driver_that_fails_is_a_500(
    app: Flask, db: Database, client: FlaskClient, witness: Witness, faults: Faults
) -> None:
    """There is one COMMIT, and it fails."""
    app.after_request(writes(db, "late"))

    @app.post("/")
    def create() -> tuple[str, int]:
        db.session.add(User(name="ada"))
        return "", 201

    faults.fail("commit", times=None)
    assert client.post("/").status_code == 500
    assert (witness.names(), witness.titles()) == ([], [])
    assert checked_out() == 0


@pytest.mark.parametrize("rule", ["on_success", "always"])
def test_error_in_an_after_request_function_undoes_all(
    rule: CommitRule, make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """P4, whatever the rule: an exception that leaves the function undoes the unit."""
    app = make_app(UOW_COMMIT=rule)

    @app.after_request
    def after(response: Response) -> Response:
        if response.status_code != 500:
            db.session.add(Post(title="late"))
            db.session.flush()
            raise LookupError
        return response

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        return ""

    assert app.test_client().post("/").status_code == 500
    assert (witness.names(), witness.titles()) == ([], [])


@pytest.mark.parametrize("rule", ["on_success", "always", lambda response: True])
@pytest.mark.parametrize("where", ["after_request", "handler"])
def test_redirect_that_flask_does_not_send_undoes_all(
    where: str, rule: CommitRule, make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """After the view, a raised redirect is an error like others: Flask makes a 500 of it."""
    app = make_app(UOW_COMMIT=rule)

    def turn_away(*_: object) -> Any:
        abort(redirect("/log-in"))

    @app.errorhandler(LookupError)
    def handle(error: Exception) -> Any:
        db.session.add(Post(title="handler"))
        return turn_away()

    @app.after_request
    def after(response: Response) -> Response:
        return turn_away() if response.status_code < 400 else response

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        if where == "handler":
            raise LookupError
        return ""

    assert app.test_client().post("/").status_code == 500
    assert (witness.names(), witness.titles()) == ([], [])


def test_there_is_one_commit(
    app: Flask, db: Database, client: FlaskClient, traffic: list[str]
) -> None:
    """One BEGIN and one COMMIT, whatever the ``after_request`` functions do to the response."""
    app.after_request(lambda response: response)

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        return ""

    client.post("/")
    assert traffic == ["checkout", "BEGIN", "INSERT", "COMMIT", "checkin"]


def test_reader_is_part_of_the_unit(
    app: Flask, db: Database, client: FlaskClient, traffic: list[str], witness: Witness
) -> None:
    """An ``after_request`` function sees what the view has written."""
    witness.store(User(name="ada"))

    @app.after_request
    def after(response: Response) -> Response:
        response.headers["X-Users"] = str(db.session.query(User).count())
        return response

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="bob"))
        return ""

    assert client.post("/").headers["X-Users"] == "2"
    assert traffic.count("COMMIT") == 1
    assert checked_out() == 0


@pytest.mark.parametrize("status", [201, 422])
def test_session_that_is_removed_before_the_commit_is_named(
    status: int,
    app: Flask,
    db: Database,
    client: FlaskClient,
    witness: Witness,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An ``after_request`` function undoes a success: the log says so, and what to write."""

    @app.after_request
    def remove(response: Response) -> Response:
        db.session.remove()
        return response

    @app.post("/")
    def create() -> tuple[str, int]:
        db.session.add(User(name="ada"))
        return "", status

    assert client.post("/").status_code == status
    assert witness.names() == []
    assert ("came after the view and before the commit" in caplog.text) == (status == 201)
