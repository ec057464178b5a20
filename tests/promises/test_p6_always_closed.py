"""P6: the session is closed and its connection is back, however the context or the app ends."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable
from typing import Any, NoReturn
from unittest import mock

import pytest
from flask import Flask, Response, request_finished
from flask.sessions import SecureCookieSessionInterface
from flask.testing import FlaskClient
from sqlalchemy import Engine, event, insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from flask_uow import Database
from tests.conftest import MakeApp
from tests.support import engines
from tests.support.databases import TestDatabase, anywhere, concurrently, on
from tests.support.engines import checked_out
from tests.support.faults import Faults, backend_id, kill_backend
from tests.support.models import Base, Post, User
from tests.support.witness import Witness


class Killed(BaseException):
    """Stands for ``GreenletExit`` and other exceptions that are thrown into a worker."""


SIGNALS = [KeyboardInterrupt, SystemExit, Killed]


def fail(error: BaseException) -> Callable[..., NoReturn]:
    """A function of somebody else that raises *error*, whatever it is called with."""

    def function(*_: object) -> NoReturn:
        raise error

    return function


# Every way for a request to end ---------------------------------------------------------------


@pytest.mark.parametrize("answer", ["ok", "400", "error", "handled", "abort"])
def test_connection_is_back_when_the_answer_is_there(
    answer: str, app: Flask, db: Database, client: FlaskClient, traffic: list[str]
) -> None:
    """Success, refusal, unhandled and handled error: one checkout, one checkin."""
    app.register_error_handler(ZeroDivisionError, lambda error: "handled")

    @app.post("/")
    def create() -> tuple[str, int]:
        db.session.add(User(name="ada"))
        db.session.flush()
        if answer in {"error", "abort"}:
            raise LookupError
        return "", 400 if answer == "400" else 200 // (answer != "handled")

    client.post("/")
    assert checked_out() == 0
    assert traffic.count("checkout") == traffic.count("checkin") == 1
    assert "discard" not in traffic


def test_session_is_closed_when_the_context_ends(app: Flask, db: Database) -> None:
    """Its objects are detached, so that none of them reaches for a connection later."""
    with app.app_context():
        user = User(name="ada")
        db.session.add(user)
        db.session.commit()
        session = db.session()
        assert user in session
    assert user not in session
    assert not session.in_transaction()


def test_next_request_has_a_clean_connection(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """Nothing of a failed request is committed by the next one on the same connection."""

    @app.post("/<name>")
    def create(name: str) -> str:
        db.session.add(User(name=name))
        db.session.flush()
        if name == "bad":
            raise LookupError
        return ""

    for name, status in (("bad", 500), ("good", 200), ("bad", 500)):
        assert client.post(f"/{name}").status_code == status
    assert witness.names() == ["good"]


# Teardown functions of others -----------------------------------------------------------------


def leaves(error: BaseException) -> list[BaseException]:
    """The errors in a group, or just *error*; from Flask 3.2 on, teardown raises groups."""
    return [leaf for one in getattr(error, "exceptions", ()) for leaf in leaves(one)] or [error]


@pytest.mark.parametrize("where", ["request", "app context", "both"])
def test_raising_teardown_function_does_not_keep_the_connection(
    where: str, app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """Functions of somebody else that raise in teardown stop Flask's list, not ours."""
    if where != "app context":
        app.teardown_request(fail(LookupError("request")))
    if where != "request":
        app.teardown_appcontext(fail(LookupError("app context")))

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        return ""

    with pytest.raises(Exception) as caught:  # noqa: PT011
        client.post("/")
    assert {type(error) for error in leaves(caught.value)} == {LookupError}
    assert checked_out() == 0
    assert witness.names() == ["ada"]


def test_raising_teardown_function_of_an_app_context_does_not_keep_the_connection(
    app: Flask, db: Database
) -> None:
    """The same outside of requests."""
    app.teardown_appcontext(fail(LookupError("somebody else")))
    with pytest.raises(Exception) as caught, app.app_context():  # noqa: PT011
        db.session.query(User).count()
    assert [str(error) for error in leaves(caught.value)] == ["somebody else"]
    assert checked_out() == 0


@pytest.mark.parametrize("where", ["request", "app context"])
def test_teardown_functions_can_use_the_session(
    where: str, app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The unit ends behind all of them: they read from it, and commit explicitly."""
    seen: list[Any] = []

    def teardown(_: BaseException | None) -> None:
        seen.append(db.session.query(User).count())
        db.session.add(Post(title="torn down"))
        db.session.commit()

    (app.teardown_request if where == "request" else app.teardown_appcontext)(teardown)

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        return ""

    assert client.post("/").status_code == 200
    assert seen == [1]
    assert witness.titles() == ["torn down"]
    assert checked_out() == 0


# Failing commits, rollbacks and closes --------------------------------------------------------


@pytest.mark.fault(
    "C13",
    fault="A COMMIT fails and leaves the driver's transaction open",
    then="The transaction is rolled back: the next user of the connection does not commit it",
)
def test_failed_commit_gives_the_connection_back_clean(
    app: Flask, db: Database, client: FlaskClient, witness: Witness, faults: Faults
) -> None:
    """The transaction that could not be committed is over: the next request does not store it."""

    @app.post("/<name>")
    def create(name: str) -> str:
        db.session.add(User(name=name))
        return ""

    faults.fail("commit")
    assert client.post("/lost").status_code == 500
    assert checked_out() == 0
    assert client.post("/kept").status_code == 200
    assert witness.names() == ["kept"]


@pytest.mark.fault(
    "C13",
    fault="A listener of the app raises an exception at the COMMIT",
    then="The transaction is rolled back: the next user of the connection does not commit it",
)
@pytest.mark.parametrize("way", ["session", "connection"])
def test_commit_that_a_listener_refuses_is_not_stored_by_the_next_request(
    way: str,
    app: Flask,
    db: Database,
    client: FlaskClient,
    database: TestDatabase,
    witness: Witness,
) -> None:
    """SQLAlchemy takes it for ended, and spares the pool its rollback."""
    if database.name != "sqlite-memory":
        app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"pool_size": 1}
    app.testing = False

    @app.post("/<name>")
    def create(name: str) -> str:
        if way == "session":
            db.session.add(User(name=name))
        else:
            with db.engine.connect() as connection:
                connection.execute(insert(User).values(name=name))
                connection.commit()
        return ""

    with app.app_context():
        event.listen(db.engine, "commit", mock.Mock(side_effect=[RuntimeError("no"), None]))
    assert client.post("/refused").status_code == 500
    assert client.post("/kept").status_code == 200
    assert witness.names() == ["kept"]


@pytest.mark.parametrize("times", [None, 1])
def test_failed_rollback_is_logged_and_does_not_hide_the_error(
    times: int | None,
    app: Flask,
    db: Database,
    client: FlaskClient,
    database: TestDatabase,
    witness: Witness,
    faults: Faults,
    traffic: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The app's handler of the view's own error answers.

    The connection is dropped, unless the reset of the pool undoes the work at the second try.
    """
    app.register_error_handler(LookupError, lambda error: ("the view's own", 422))

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        db.session.flush()
        raise LookupError

    faults.fail("rollback", times=times)
    response = client.post("/")
    assert (response.status_code, response.text) == (422, "the view's own")
    assert "rollback" in caplog.text
    assert "failed on demand" in caplog.text
    # psycopg: an error without a SQLSTATE may leave the connection in the middle of a reply.
    unknown = database.name == "postgresql"
    assert ("discard" in traffic) == (times is None or unknown)
    faults.stop()
    assert checked_out() == 0
    assert witness.names() == []


def test_failed_rollback_after_a_failed_commit_leaves_the_first_error(
    app: Flask, db: Database, client: FlaskClient, witness: Witness, faults: Faults
) -> None:
    """What the app's handler gets is the error of the commit."""
    app.register_error_handler(DBAPIError, lambda error: (str(error.orig), 503))

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        return ""

    faults.fail("commit")
    faults.fail("rollback", times=None)
    response = client.post("/")
    assert response.status_code == 503
    assert "the commit failed" in response.text
    faults.stop()
    assert checked_out() == 0
    assert witness.names() == []


def test_failed_rollback_of_a_refused_answer_does_not_change_it(
    app: Flask, db: Database, client: FlaskClient, witness: Witness, faults: Faults
) -> None:
    """A 400 stays a 400 if its rollback fails; the connection is dropped, so nothing is stored."""

    @app.post("/")
    def create() -> tuple[str, int]:
        db.session.add(User(name="ada"))
        db.session.flush()
        return "", 400

    faults.fail("rollback", times=None)
    assert client.post("/").status_code == 400
    faults.stop()
    assert checked_out() == 0
    assert witness.names() == []


def test_failed_close_of_the_driver_does_not_change_the_answer(
    app: Flask, db: Database, client: FlaskClient, witness: Witness, faults: Faults
) -> None:
    """A connection that can be neither rolled back nor closed is no matter of the client."""
    app.register_error_handler(LookupError, lambda error: ("the view's own", 422))

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        db.session.flush()
        raise LookupError

    faults.fail("rollback", times=None)
    faults.fail("close", times=None)
    assert client.post("/").status_code == 422
    faults.stop()
    assert checked_out() == 0


class Unclosable(Session):
    def close(self) -> None:
        super().close()
        raise RuntimeError("this session refuses to close")


def test_failed_close_of_the_session_is_logged(
    make_app: MakeApp, witness: Witness, caplog: pytest.LogCaptureFixture
) -> None:
    """It happens after the answer is made, and does not change it."""
    db = Database(Base, session_options={"class_": Unclosable})
    app = make_app(db)

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        return ""

    assert app.test_client().post("/").status_code == 200
    assert "refuses to close" in caplog.text
    assert witness.names() == ["ada"]
    assert checked_out() == 0


@on("postgresql", "mariadb")
@pytest.mark.parametrize("when", ["read", "written"])
def test_killed_backend_is_replaced(
    when: str, app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """A server that ends the connection inside a request costs that request and no other."""
    app.register_error_handler(DBAPIError, lambda error: ("gone", 503))

    @app.post("/<name>")
    def create(name: str) -> str:
        number = backend_id(db.session.connection())
        if when == "written":
            db.session.add(Post(title=name))
            db.session.flush()
        if name == "killed":
            kill_backend(witness, number)
        db.session.add(User(name=name))
        db.session.flush()
        return ""

    assert client.post("/killed").status_code == 503
    assert client.post("/alive").status_code == 200
    assert witness.names() == ["alive"]
    assert witness.titles() == (["alive"] if when == "written" else [])
    assert checked_out() == 0


@on("postgresql", "mariadb")
def test_backend_that_is_killed_before_the_commit_is_a_failed_commit(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The app's handler answers, and what it writes itself is stored by a new connection."""

    @app.errorhandler(DBAPIError)
    def handle(error: Exception) -> tuple[str, int]:
        db.session.add(Post(title="gone"))
        return "", 503

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        db.session.flush()
        kill_backend(witness, backend_id(db.session.connection()))
        return ""

    assert client.post("/").status_code == 503
    assert (witness.names(), witness.titles()) == ([], ["gone"])
    assert checked_out() == 0


# BaseException --------------------------------------------------------------------------------


@pytest.mark.fault(
    "W7",
    fault="GreenletExit, SystemExit or KeyboardInterrupt, anywhere in a request",
    then="The connection is dropped, and uncommitted work is rolled back",
)
@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize(
    "where",
    ["before_request", "view", "handler", "after_request", "cookie session", "request_finished"],
)
def test_base_exception_discards_the_connection(
    where: str,
    signal: type[BaseException],
    app: Flask,
    db: Database,
    client: FlaskClient,
    witness: Witness,
    traffic: list[str],
) -> None:
    """The protocol state is unknown: the connection is not reused, and nothing is stored."""

    def work(step: str) -> None:
        db.session.add(Post(title=step))
        db.session.flush()
        if step == where and not stopped:
            stopped.append(step)
            raise signal

    stopped: list[str] = []

    @app.before_request
    def before() -> None:
        work("before_request")

    @app.errorhandler(LookupError)
    def handle(error: Exception) -> str:
        work("handler")
        return ""

    @app.after_request
    def after(response: Response) -> Response:
        work("after_request")
        return response

    class Sessions(SecureCookieSessionInterface):
        def save_session(self, *_: object, **__: object) -> None:
            work("cookie session")

    app.session_interface = Sessions()

    @app.post("/")
    def create() -> str:
        work("view")
        if where == "handler":
            raise LookupError
        return ""

    def receive(*_: object, **__: object) -> None:
        work("request_finished")

    with request_finished.connected_to(receive, app):
        with pytest.raises(signal):
            client.post("/")
        assert stopped == [where]
        assert "discard" in traffic
        assert checked_out() == 0
        assert witness.titles() == []
        traffic.clear()
        client.post("/")
    assert "discard" not in traffic
    assert witness.titles() != []


@pytest.mark.fault(
    "W7",
    fault="GreenletExit, SystemExit or KeyboardInterrupt, in a statement or in COMMIT",
    then="The connection is dropped, and uncommitted work is rolled back",
)
@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("step", ["statement", "commit"])
def test_base_exception_inside_the_driver_discards_the_connection(
    step: Any,
    signal: type[BaseException],
    app: Flask,
    db: Database,
    client: FlaskClient,
    witness: Witness,
    faults: Faults,
    traffic: list[str],
) -> None:
    """In the midst of a statement or of COMMIT: the connection is not reused."""

    @app.post("/<name>")
    def create(name: str) -> str:
        db.session.add(User(name=name))
        return ""

    faults.fail(step, signal())
    with pytest.raises(signal):
        client.post("/ada")
    assert "discard" in traffic
    assert checked_out() == 0
    assert client.post("/bob").status_code == 200
    assert witness.names() == ["bob"]


@pytest.mark.parametrize("signal", SIGNALS)
def test_base_exception_inside_the_rollback_discards_the_connection(
    signal: type[BaseException],
    app: Flask,
    db: Database,
    client: FlaskClient,
    witness: Witness,
    faults: Faults,
    traffic: list[str],
) -> None:
    """The worker is told to stop while a failed view is being rolled back."""

    @app.post("/<name>")
    def create(name: str) -> str:
        db.session.add(User(name=name))
        db.session.flush()
        if name == "ada":
            raise LookupError
        return ""

    faults.fail("rollback", signal())
    with pytest.raises(signal):
        client.post("/ada")
    assert "discard" in traffic
    assert checked_out() == 0
    assert client.post("/bob").status_code == 200
    assert witness.names() == ["bob"]


@pytest.mark.parametrize("signal", SIGNALS)
def test_base_exception_in_an_app_context_discards_the_connection(
    signal: type[BaseException], app: Flask, db: Database, witness: Witness, traffic: list[str]
) -> None:
    """The same outside of requests: Ctrl-C in a command."""
    with pytest.raises(signal), app.app_context():  # noqa: PT012
        db.session.add(User(name="ada"))
        db.session.flush()
        raise signal("not a success")
    assert "discard" in traffic
    assert checked_out() == 0
    assert witness.names() == []


@concurrently
def test_discarded_connection_keeps_no_lock(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The server undoes the work of a connection that was dropped, so others can write."""

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        db.session.flush()
        raise Killed

    with pytest.raises(Killed):
        client.post("/")
    witness.store(User(name="ada"))
    assert witness.names() == ["ada"]


def test_session_can_be_discarded_by_hand(
    app: Flask, db: Database, client: FlaskClient, witness: Witness, traffic: list[str]
) -> None:
    """``db.session.invalidate()`` drops the connection, and the view goes on in a new unit."""

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="lost"))
        db.session.flush()
        db.session.invalidate()
        db.session.add(User(name="kept"))
        return ""

    assert client.post("/").status_code == 200
    assert traffic.count("discard") == 1
    assert witness.names() == ["kept"]


def test_session_can_be_removed_by_hand(
    app: Flask, db: Database, client: FlaskClient, witness: Witness, traffic: list[str]
) -> None:
    """``db.session.remove()`` undoes what is not committed, and the view goes on in a new unit."""

    @app.post("/")
    def create() -> str:
        first = db.session()
        db.session.add(User(name="lost"))
        db.session.flush()
        db.session.remove()
        assert checked_out() == 0
        assert db.session() is not first
        db.session.add(User(name="kept"))
        return ""

    assert client.post("/").status_code == 200
    assert "discard" not in traffic
    assert witness.names() == ["kept"]


def test_error_of_a_session_listener_does_not_keep_the_connection(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """A ``before_commit`` listener of the app that raises is a failed commit."""
    app.register_error_handler(LookupError, lambda error: ("vetoed", 409))

    @app.post("/")
    def create() -> str:
        event.listen(db.session(), "before_commit", fail(LookupError("no")))
        db.session.add(User(name="ada"))
        return ""

    assert client.post("/").text == "vetoed"
    assert witness.names() == []
    assert checked_out() == 0


def test_view_that_swallows_a_failed_flush_stores_nothing(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """It went on without a rollback: its commit fails, all of it is undone, the client gets 500."""
    witness.store(User(name="ada"))

    @app.post("/")
    def create() -> str:
        db.session.add_all([User(name="bob"), User(name="ada")])
        try:
            db.session.flush()
        except IntegrityError:
            db.session.add(User(name="carol"))
        return ""

    assert client.post("/").status_code == 500
    assert witness.names() == ["ada"]
    assert checked_out() == 0


# Contexts that are used for the first time at their end ---------------------------------------


def test_unit_that_is_opened_while_the_app_context_ends_is_closed_too(
    app: Flask, db: Database, client: FlaskClient
) -> None:
    """The first one of the app as well as the next."""
    seen: list[Session] = []

    @app.teardown_appcontext
    def last(_error: BaseException | None) -> None:
        seen.append(db.session())
        db.session.execute(text("SELECT 1"))

    app.add_url_rule("/", view_func=lambda: "")
    for number in range(3):
        assert client.get("/").status_code == 200
        assert checked_out() == 0
        assert len(set(map(id, seen))) == number + 1


def test_unit_is_closed_although_somebody_replaced_the_teardown_meanwhile(
    app: Flask, db: Database
) -> None:
    """A mock that wraps the method, and puts back what it found."""
    with mock.patch.object(app, "do_teardown_appcontext", wraps=app.do_teardown_appcontext):
        with app.app_context():
            db.session.execute(text("SELECT 1"))
        assert checked_out() == 0
    with app.app_context():
        db.session.execute(text("SELECT 1"))
    assert checked_out() == 0


# The end of an app ----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*deleted while still open:ResourceWarning")  # psycopg's
@on("sqlite-file", "sqlite-memory", "postgresql", "mariadb")
@pytest.mark.parametrize(
    "config", [{}, {"SQLALCHEMY_RECORD_QUERIES": True}, {"UOW_BEGIN": "first"}]
)
def test_app_that_is_dropped_is_freed_with_its_connections(
    config: dict[str, Any], make_app: MakeApp, db: Database
) -> None:
    """As a test suite drops an app for each test, while the models and the ``Database`` stay.

    The mappers keep the dialects for which they have compiled a statement, with all listeners.
    """

    def use_app() -> list[weakref.ref[Any]]:
        app = make_app(**config)

        @app.post("/")
        def store() -> str:
            db.session.add(User(name="ada"))
            db.session.flush()
            return str(db.session.scalars(select(User.name)).one())

        with app.app_context():
            pool = db.engine.pool
        assert app.test_client().post("/").text == "ada"
        with app.test_request_context(), contextlib.suppress(DBAPIError):
            db.session.execute(text("SELECT * FROM missing"))
        return [weakref.ref(app), weakref.ref(pool)]

    used = use_app()
    engines.forget()  # the test bench keeps those that it will dispose of
    gc.collect()
    assert [reference() for reference in used] == [None, None]


@anywhere
def test_engine_may_outlive_its_app(make_app: MakeApp, db: Database) -> None:
    """Code that has kept it gets the errors of SQLAlchemy, without advice about an app."""

    def engine_of_an_app() -> Engine:
        with make_app().app_context():
            return db.engine

    engine = engine_of_an_app()
    gc.collect()
    with engine.connect() as connection, pytest.raises(DBAPIError, match="missing") as caught:
        connection.execute(text("SELECT * FROM missing"))
    assert "create_all" not in str(caught.value)
