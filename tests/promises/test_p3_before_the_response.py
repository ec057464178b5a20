"""P3: the commit is the last thing before the response leaves, and its failure is the view's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from flask import Flask, Response, after_this_request, redirect, request, request_finished
from flask.sessions import SecureCookieSessionInterface, SessionMixin
from flask.testing import FlaskClient
from flask.typing import ResponseReturnValue
from sqlalchemy import ForeignKey, event
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flask_uow import Database, testing
from tests.conftest import MakeApp
from tests.support.databases import TestDatabase, concurrently, on
from tests.support.engines import checked_out
from tests.support.models import Post, User
from tests.support.witness import Witness


class Base(DeclarativeBase):
    pass


class Parent(Base):
    __tablename__ = "parents"

    id: Mapped[int] = mapped_column(primary_key=True)


class Child(Base):
    """Its foreign key is checked by COMMIT, so it is COMMIT that fails."""

    __tablename__ = "children"

    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int] = mapped_column(
        ForeignKey(Parent.id, deferrable=True, initially="DEFERRED")
    )


def answer_409(app: Flask) -> list[Exception]:
    """Let *app* answer an integrity error with 409; returns the list of the handled errors."""
    handled: list[Exception] = []

    @app.errorhandler(IntegrityError)
    def conflict(error: Exception) -> tuple[str, int]:
        handled.append(error)
        return "taken", 409

    return handled


def allow_everybody(response: Response) -> Response:
    response.headers["Access-Control-Allow-Origin"] = "*"
    return response


# Success --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        pytest.param(lambda: "done", 200, id="text"),
        pytest.param(lambda: {"id": 1}, 200, id="json"),
        pytest.param(lambda: ("made", 201), 201, id="tuple"),
        pytest.param(lambda: ("", 204), 204, id="empty"),
        pytest.param(lambda: redirect("/", 302), 302, id="redirect"),
        pytest.param(lambda: Response("fine", 203), 203, id="response"),
        pytest.param(lambda: iter(["a", "b"]), 200, id="iterator"),
    ],
)
def test_success_is_stored_without_a_commit_in_the_view(
    answer: Callable[[], Any], status: int, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """A view that adds and returns has its row stored, in whatever form it answers."""

    @client.application.post("/")
    def create() -> ResponseReturnValue:
        db.session.add(User(name="ada"))
        result: ResponseReturnValue = answer()
        return result

    with client.post("/") as response:
        assert response.status_code == status
    assert witness.names() == ["ada"]


class LookingSessions(SecureCookieSessionInterface):
    """Looks at the database when Flask saves the cookie session."""

    def __init__(self, look: Callable[[], None]) -> None:
        self.look = look

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        self.look()


def test_commit_comes_after_everything_else(
    db: Database, database: TestDatabase, witness: Witness
) -> None:
    """After all ``after_request`` functions, the cookie session and the signal."""
    app = Flask("order")
    app.secret_key = "saved"
    app.config["SQLALCHEMY_DATABASE_URI"] = database.url
    seen: list[tuple[str, list[str]]] = []

    def looks(where: str) -> Callable[[Response], Response]:
        def look(response: Response) -> Response:
            seen.append((where, witness.names()))
            return response

        return look

    app.after_request(looks("before init_app"))
    db.init_app(app)
    app.after_request(looks("after init_app"))
    app.session_interface = LookingSessions(lambda: seen.append(("session", witness.names())))
    with app.app_context():
        db.create_all()

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        db.session.flush()
        after_this_request(looks("this request"))
        db.on_commit(lambda: seen.append(("hook", witness.names())))
        return ""

    def receive(*_: object, **__: object) -> None:
        seen.append(("request_finished", witness.names()))

    with request_finished.connected_to(receive, app):
        assert app.test_client().post("/").status_code == 200
    assert seen == [
        ("this request", []),
        ("after init_app", []),
        ("before init_app", []),
        ("session", []),
        ("request_finished", []),
        ("hook", ["ada"]),
    ]


def test_commit_comes_before_the_status_line(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """When the WSGI server is told the status, the row is there."""
    seen: list[list[str]] = []

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        return ""

    serve = app.wsgi_app

    def watched(environ: Any, start_response: Callable[..., Any]) -> Iterable[bytes]:
        def start(*args: Any) -> Any:
            seen.append(witness.names())
            return start_response(*args)

        return serve(environ, start)

    app.wsgi_app = watched  # type: ignore[method-assign]
    assert client.post("/").status_code == 200
    assert seen == [["ada"]]


def test_invalid_return_value_stores_nothing(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """A view that forgets to return has answered nothing, so there is nothing to commit."""

    @app.post("/")
    def create() -> Any:
        db.session.add(User(name="ada"))
        db.session.flush()

    assert client.post("/").status_code == 500
    assert witness.names() == []


# Failing commits ------------------------------------------------------------------------------


def test_failing_commit_is_answered_by_the_app_s_error_handler(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """A unique name that is taken is found by the flush of the commit: 409, nothing stored."""
    witness.store(User(name="ada"))
    handled = answer_409(app)

    @app.post("/")
    def create() -> tuple[str, int]:
        db.session.add_all([User(name="bob"), User(name="ada")])
        return "", 201

    response = client.post("/")
    assert (response.status_code, response.text) == (409, "taken")
    assert len(handled) == 1
    assert witness.names() == ["ada"]
    assert checked_out() == 0


def test_response_to_a_failing_commit_passes_the_after_request_functions(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The 409 has its CORS header; the function has also seen the replaced response."""
    witness.store(User(name="ada"))
    answer_409(app)
    passed: list[int] = []

    @app.after_request
    def count(response: Response) -> Response:
        passed.append(response.status_code)
        return allow_everybody(response)

    @app.post("/")
    def create() -> str:
        after_this_request(allow_everybody)
        db.session.add(User(name="ada"))
        return ""

    response = client.post("/")
    assert response.status_code == 409
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert passed == [200, 409]


@pytest.mark.fault(
    "C9",
    fault="A deferred constraint fails at COMMIT",
    then="Nothing is stored, and the app's error handler returns a response",
)
@on("sqlite-file", "sqlite-memory", "postgresql")
def test_constraint_that_fails_at_commit_is_answered_by_the_error_handler(
    database: TestDatabase, make_app: MakeApp
) -> None:
    """A deferred foreign key fails in COMMIT itself: the same 409, and nothing is stored."""
    db = Database(Base)
    app = make_app(db)
    handled = answer_409(app)
    app.after_request(allow_everybody)
    witness = Witness(database.url)
    if database.is_sqlite:
        with app.app_context():
            engine = db.engine
            engine.dispose()
        event.listen(engine, "connect", lambda dbapi, _: dbapi.execute("PRAGMA foreign_keys = ON"))
        with app.app_context():
            db.create_all()  # in memory the database has ended with dispose()

    @app.post("/")
    def create() -> tuple[str, int]:
        db.session.add(Parent(id=1))
        db.session.flush()
        db.session.add(Child(id=1, parent_id=2))
        db.session.flush()  # no complaint yet
        return "", 201

    for _ in range(2):
        response = app.test_client().post("/")
        assert response.status_code == 409
        assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert len(handled) == 2
    assert witness.ask("SELECT id FROM parents") == []
    assert checked_out() == 0


@concurrently
def test_failing_commit_keeps_no_lock(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """After a COMMIT that failed another connection can write the same row at once."""
    witness.store(User(name="ada"))

    @app.post("/")
    def rename() -> str:
        db.session.get_one(User, 1).email = "late@example.com"
        return ""

    with testing.fail_commit(db, app=app):
        assert client.post("/").status_code == 500
    with witness.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE users SET email = 'other@example.com'")
    assert witness.ask("SELECT email FROM users") == ["other@example.com"]


def test_failing_commit_of_the_driver_reaches_the_error_handler(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """Whatever error COMMIT raises, it is the app's to answer."""

    @app.errorhandler(IntegrityError)
    def refused(error: Exception) -> tuple[str, int]:
        return str(error), 409

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        return ""

    with testing.fail_commit(db, app=app):
        response = client.post("/")
    assert response.status_code == 409
    assert "on_demand" in response.text
    assert witness.names() == []


def test_failing_commit_without_a_handler_is_a_500(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """An answer of the view that was not stored does not leave, and the next request works."""

    @app.post("/<name>")
    def create(name: str) -> str:
        db.session.add(User(name=name))
        return ""

    with testing.fail_commit(db, app=app):
        assert client.post("/ada").status_code == 500
    assert client.post("/bob").status_code == 200
    assert witness.names() == ["bob"]


def test_failing_commit_is_raised_to_a_test(
    make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """With ``TESTING`` the test client raises the error of the commit, as it does for a view's."""
    app = make_app(TESTING=True)
    witness.store(User(name="ada"))

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        return ""

    with pytest.raises(IntegrityError):
        app.test_client().post("/")
    assert witness.names() == ["ada"]


@pytest.mark.parametrize("handled", [True, False])
def test_answer_that_a_failing_commit_replaces_is_closed(
    handled: bool, app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """It is never sent, so nobody else closes what it holds: a file, a stream, a context."""
    witness.store(User(name="ada"))
    if handled:
        answer_409(app)
    closed: list[str] = []

    @app.post("/")
    def create() -> Response:
        db.session.add(User(name="ada"))
        response = Response(iter(["never", "sent"]))
        response.call_on_close(lambda: closed.append("view's"))
        return response

    assert client.post("/").status_code == (409 if handled else 500)
    assert closed == ["view's"]


def test_what_the_handler_of_a_failing_commit_writes_is_stored(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The handler has a clean session, and its own work is committed with its answer."""
    witness.store(User(name="ada"))

    @app.errorhandler(IntegrityError)
    def conflict(error: Exception) -> tuple[str, int]:
        assert db.session.query(User).count() == 1
        db.session.add(Post(title="ada was taken"))
        return "", 409

    @app.post("/")
    def create() -> str:
        db.session.add_all([User(name="bob"), User(name="ada")])
        return ""

    assert client.post("/").status_code == 409
    assert witness.names() == ["ada"]
    assert witness.titles() == ["ada was taken"]


def test_handler_of_a_failing_commit_whose_own_work_fails_is_a_500(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """There is no second round: what the handler wrote is undone and the client gets 500."""
    witness.store(User(name="ada"))
    calls: list[Exception] = []

    @app.errorhandler(IntegrityError)
    def conflict(error: Exception) -> tuple[str, int]:
        calls.append(error)
        db.session.add(User(name="ada"))
        return "", 409

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        return ""

    assert client.post("/").status_code == 500
    assert len(calls) == 1
    assert witness.names() == ["ada"]
    assert checked_out() == 0


@pytest.mark.parametrize("where", ["after_request", "session", "request_finished"])
def test_what_raises_after_the_view_undoes_its_work(
    where: str, app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The client gets a 500, so nothing is stored: status and data agree."""

    def fail(*_: object, **__: object) -> Any:
        raise LookupError

    if where == "after_request":
        app.after_request(fail)
    elif where == "session":
        app.session_interface = LookingSessions(fail)

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        db.session.flush()
        return ""

    with contextlib.ExitStack() as stack:
        if where == "request_finished":
            stack.enter_context(request_finished.connected_to(fail, app))
        assert client.post("/").status_code == 500
    assert witness.names() == []
    assert checked_out() == 0


def test_handler_of_a_failing_commit_still_has_the_loaded_objects(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """What the view loaded belongs to the session still, and shows what is stored."""
    witness.store(User(name="ada", posts=[Post(title="one")]))
    loaded: list[User] = []

    @app.errorhandler(IntegrityError)
    def refuse(error: IntegrityError) -> tuple[str, int]:
        return f"{loaded[0].name} {loaded[0].posts[0].title}", 409

    @app.post("/")
    def rename() -> str:
        loaded.append(db.session.query(User).one())
        loaded[0].name = "changed"
        db.session.add(User(name="new"))
        return ""

    with testing.fail_commit(db, app=app):
        response = client.post("/")
    assert (response.status_code, response.text) == (409, "ada one")
    assert witness.names() == ["ada"]


@pytest.mark.parametrize("engines", [1, 2])
def test_flush_error_that_the_view_swallows_is_a_failed_commit(
    engines: int, make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """The flush has rolled everything back, so there is nothing to acknowledge."""
    binds = {"other": "sqlite://"} if engines == 2 else {}
    app = make_app(SQLALCHEMY_BINDS=binds)
    witness.store(User(name="ada"))

    @app.post("/")
    def create() -> tuple[str, int]:
        db.session.add(User(name="lost"))
        db.session.flush()
        db.session.add(User(name="ada"))
        with contextlib.suppress(IntegrityError):
            db.session.flush()
        if engines == 2:
            db.session.connection(bind_arguments={"bind": db.engines["other"]})
        return "", 201

    assert app.test_client().post("/").status_code == 500
    assert witness.names() == ["ada"]
    assert checked_out() == 0


def test_connection_that_was_rolled_back_by_hand_is_a_failed_commit(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The session does not know, so it has work to store that is gone."""

    @app.post("/")
    def create() -> tuple[str, int]:
        db.session.add(User(name="lost"))
        db.session.flush()
        db.session.connection().rollback()
        return "", 201

    assert client.post("/").status_code == 500
    assert witness.names() == []


def test_response_that_is_not_sent_is_not_changed(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """An app may use one response object for many requests."""
    stored = Response("stored", 201)

    @app.post("/<name>")
    def create(name: str) -> Response:
        db.session.add(User(name=name))
        return stored

    with testing.fail_commit(db, app=app):
        assert client.post("/ada").status_code == 500
    assert client.post("/bob").status_code == 201
    assert witness.names() == ["bob"]


def test_handler_of_a_failing_commit_may_remove_the_session(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """What it writes in a new unit is stored; if that fails, no handler runs again."""
    witness.store(User(name="ada"))

    @app.errorhandler(IntegrityError)
    def conflict(error: Exception) -> tuple[str, int]:
        db.session.remove()
        name = request.args.get("store")
        if name:
            db.session.add(User(name=name))
        return "", 409

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        return ""

    assert client.post("/").status_code == 409
    assert client.post("/?store=bob").status_code == 409
    assert client.post("/?store=ada").status_code == 500
    assert witness.names() == ["ada", "bob"]
    assert checked_out() == 0
