"""How other libraries use a session and the contexts of an app, call by call, without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from flask import Response, after_this_request, g
from flask.sessions import SecureCookieSessionInterface, SessionMixin
from flask.testing import FlaskClient
from sqlalchemy.orm import scoped_session

from flask_uow import Database, DiscardedWork, Flask
from tests.conftest import MakeApp
from tests.support.models import User
from tests.support.witness import Witness

# Flask-SocketIO: each event in a request context that is never dispatched ----------------------

Emit = Callable[[Callable[[], Any]], Any]


@pytest.fixture
def emit(app: Flask) -> Emit:
    """Runs the handler of an event as Flask-SocketIO does, all on the environ of one client."""
    with app.test_request_context("/socket.io/") as context:
        environ = context.request.environ

    def emit(handler: Callable[[], Any]) -> Any:
        with app.request_context(environ):
            return handler()

    return emit


def test_event_that_does_not_commit_says_what_it_discards(
    db: Database, emit: Emit, witness: Witness
) -> None:
    """P7: nobody dispatched a request, so nobody commits, and a warning names the loss."""
    with pytest.warns(DiscardedWork, match=r"1 User \(new\)"):
        emit(lambda: db.session.add(User(name="lost")))
    assert witness.names() == []


def test_event_commits_by_itself(db: Database, emit: Emit, witness: Witness) -> None:
    """P7, P8: an event stores with a plain ``commit()``."""

    def handle() -> None:
        db.session.add(User(name="ada"))
        db.session.commit()

    emit(handle)
    assert witness.names() == ["ada"]


def test_events_of_one_client_have_units_of_their_own(db: Database, emit: Emit) -> None:
    """P2: the environ that they share is not the scope."""
    assert emit(db.session) is not emit(db.session)


def test_event_that_raises_stores_nothing(db: Database, emit: Emit, witness: Witness) -> None:
    """P6, P7: the error itself tells of the loss, so it comes without a warning."""

    def handle() -> None:
        db.session.add(User(name="half"))
        db.session.flush()
        raise ValueError("the event failed")

    with pytest.raises(ValueError, match="the event failed"):
        emit(handle)
    assert witness.names() == []


# Flask-Admin: a view object holds the session, commits and rolls back by itself ----------------


class AdminView:
    """What the ``ModelView`` of Flask-Admin does to create a row."""

    def __init__(self, session: Any) -> None:
        assert isinstance(session, scoped_session)  # anything else is taken for an extension
        self.session = session

    def create(self, name: str) -> str:
        try:
            self.session.add(User(name=name))
            self.session.commit()
        except Exception as error:
            self.session.rollback()
            return f"form with {type(error).__name__}"
        return "created"

    def count(self) -> int:
        number: int = self.session.query(User).count()
        return number


def test_view_object_commits_and_rolls_back_by_itself(
    db: Database, make_app: MakeApp, witness: Witness
) -> None:
    """P8: its own commit and rollback mean what they say, and leave a session that works."""
    view = AdminView(db.session)  # before any app exists
    app = make_app()
    app.add_url_rule("/<name>", view_func=lambda name: f"{view.create(name)}, {view.count()}")
    client = app.test_client()
    assert client.get("/ada").text == "created, 1"
    assert client.get("/ada").text == "form with IntegrityError, 1"
    assert client.get("/bert").text == "created, 2"
    assert witness.names() == ["ada", "bert"]


# marshmallow-sqlalchemy and factory_boy: a class holds the session ------------------------------


def test_class_holds_the_session_from_before_the_app_exists(
    db: Database, make_app: MakeApp, witness: Witness
) -> None:
    """P2, P8: a query without autoflush, an ``add``, a ``flush``; the request commits."""

    class Schema:
        session = db.session

        def load(self, name: str) -> User:
            with self.session.no_autoflush:
                found = self.session.query(User).filter_by(name=name).first()
            return found or User(name=name)

    class Factory:
        session = db.session

        def create(self, **values: str) -> User:
            user = User(**values)
            self.session.add(user)
            self.session.flush()
            return user

    app = make_app()

    @app.get("/")
    def index() -> str:
        made = Factory().create(name="ada")
        return str(Schema().load("ada") is made)

    assert app.test_client().get("/").text == "True"
    assert witness.names() == ["ada"]


# Flask-Login: the user is loaded at its first use and kept for the request ----------------------


def test_kept_user_can_be_read_after_the_rollback(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """P4.1: an error page that greets the user finds it, as it is stored."""
    witness.store(User(name="ada"))

    def current_user() -> User:
        if "user" not in g:
            g.user = db.session.get_one(User, 1)
        return cast(User, g.user)

    @app.get("/")
    def index() -> str:
        current_user().email = "half@example.org"
        db.session.flush()
        raise ValueError

    @app.errorhandler(ValueError)
    def greet(_: ValueError) -> str:
        return f"Sorry, {current_user().name}: {current_user().email}"

    assert client.get("/").text == "Sorry, ada: None"
    assert witness.ask("SELECT email FROM users") == [None]


# Flask-Security: a commit in after_this_request -------------------------------------------------


@pytest.mark.parametrize("status", [200, 400])
def test_commit_of_a_library_after_the_view_does_not_store_refused_work(
    app: Flask, db: Database, witness: Witness, traffic: list[str], status: int
) -> None:
    """P4, P8: refused work is already rolled back; other work is committed as usual."""

    @app.get("/")
    def index() -> tuple[str, int]:
        @after_this_request
        def commit(response: Response) -> Response:
            traffic.clear()
            db.session.commit()
            return response

        db.session.add(User(name="ada"))
        db.session.flush()
        return "", status

    assert app.test_client().get("/").status_code == status
    assert traffic == (["COMMIT", "checkin"] if status == 200 else [])
    assert witness.names() == (["ada"] if status == 200 else [])


# Flask-Session: a commit when the cookie session is saved ---------------------------------------


@pytest.mark.parametrize("status", [200, 400])
def test_commit_of_a_session_interface_does_not_store_refused_work(
    app: Flask, db: Database, client: FlaskClient, witness: Witness, status: int
) -> None:
    """P4: what the view wrote is decided upon before the session interface commits its own."""

    class InDatabase(SecureCookieSessionInterface):
        def save_session(self, app: Any, session: SessionMixin, response: Response) -> None:
            db.session.add(User(name="session"))
            db.session.commit()

    app.session_interface = InDatabase()

    @app.get("/")
    def index() -> tuple[str, int]:
        db.session.add(User(name="view"))
        db.session.flush()
        return "", status

    assert client.get("/").status_code == status
    assert witness.names() == (["session", "view"] if status == 200 else ["session"])
