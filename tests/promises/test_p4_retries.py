"""P4: a view or a function that met a conflict is run again, where nothing is lost by it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import operator
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import (
    Blueprint,
    Flask,
    Response,
    after_this_request,
    current_app,
    flash,
    g,
    get_flashed_messages,
    request,
    session,
    stream_with_context,
)
from flask.testing import FlaskClient
from flask.views import MethodView, View
from sqlalchemy import event, func, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from werkzeug.datastructures import MultiDict

from flask_uow import ConfigError, Database, ReadOnly, testing
from flask_uow._unit import retries as _retry
from tests.conftest import MakeApp
from tests.support.databases import TestDatabase, anywhere, on
from tests.support.faults import Faults
from tests.support.models import Post, User
from tests.support.threads import in_threads
from tests.support.witness import Witness


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    """An app that hardly pauses before it repeats."""
    return make_app(UOW_RETRY_PAUSE=0.001)


def conflict(database: TestDatabase) -> Exception:
    """What the driver raises if another transaction was in the way."""
    if database.name == "postgresql":
        from psycopg.errors import SerializationFailure

        return SerializationFailure("could not serialize access")
    if database.name == "mariadb":
        from pymysql.err import OperationalError as Error

        deadlock: Exception = Error(1213, "Deadlock found when trying to get lock")
        return deadlock
    return sqlite3.OperationalError("database is locked")


@pytest.fixture
def attempts() -> list[Any]:
    """One entry for each time that the view or the function was run."""
    return []


@pytest.fixture
def meets_conflict(
    faults: Faults, database: TestDatabase, attempts: list[Any]
) -> Callable[..., None]:
    """``meets_conflict()`` in the first attempts lets the next step fail with a conflict."""

    def meet(step: Any = "commit", times: int = 1) -> None:
        attempts.append(len(attempts) + 1)
        if len(attempts) <= times:
            faults.fail(step, conflict(database))

    return meet


Meet = Callable[..., None]


# A view is run again --------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["statement", "commit"])
def test_view_is_run_again_after_a_conflict(
    step: str, app: Flask, db: Database, client: FlaskClient, witness: Witness, meets_conflict: Meet
) -> None:
    """Whether a statement met it or the COMMIT; its work is stored once."""

    @app.post("/")
    @db.unit(retries=3)
    def create() -> str:
        meets_conflict(step, times=2)
        db.session.add(User(name="ada"))
        return "stored"

    response = client.post("/")
    assert (response.status_code, response.text) == (200, "stored")
    assert witness.names() == ["ada"]


@anywhere
def test_view_without_retries_is_run_once(
    app: Flask,
    db: Database,
    client: FlaskClient,
    witness: Witness,
    meets_conflict: Meet,
    attempts: list[int],
) -> None:
    """Code that is run twice has to be written for it, so it is never done unasked."""

    @app.post("/")
    def create() -> str:
        meets_conflict()
        db.session.add(User(name="ada"))
        return ""

    assert client.post("/").status_code == 500
    assert (attempts, witness.names()) == ([1], [])


@anywhere
def test_conflict_of_an_after_request_function_is_an_error(
    app: Flask,
    db: Database,
    client: FlaskClient,
    witness: Witness,
    meets_conflict: Meet,
    attempts: list[int],
) -> None:
    """Flask makes a 500 of what these functions raise; nothing is stored."""

    @app.after_request
    def log(response: Response) -> Response:
        if response.status_code < 400:
            meets_conflict("statement")
            db.session.scalars(select(User)).all()
        return response

    @app.post("/")
    @db.unit(retries=3)
    def create() -> str:
        db.session.add(User(name="ada"))
        return ""

    assert client.post("/").status_code == 500
    assert (attempts, witness.names()) == ([1], [])


@anywhere
def test_conflict_costs_one_rollback_and_one_replay(
    app: Flask, db: Database, client: FlaskClient, traffic: list[str], meets_conflict: Meet
) -> None:
    """What is sent is the view twice, and nothing between the two but a ROLLBACK."""

    @app.post("/")
    @db.unit(retries=3)
    def create() -> str:
        db.session.scalars(select(Post)).all()
        meets_conflict("statement")
        db.session.add(User(name="ada"))
        return ""

    client.post("/")
    assert traffic == [
        *["checkout", "BEGIN", "SELECT", "INSERT", "ROLLBACK", "checkin"],
        *["checkout", "BEGIN", "SELECT", "INSERT", "COMMIT", "checkin"],
    ]


@anywhere
def test_view_that_meets_no_conflict_sends_nothing_else(
    app: Flask, db: Database, client: FlaskClient, traffic: list[str]
) -> None:
    """To be ready costs no statement."""

    @app.post("/")
    @db.unit(retries=3)
    def create() -> str:
        db.session.add(User(name="ada"))
        return ""

    client.post("/")
    assert traffic == ["checkout", "BEGIN", "INSERT", "COMMIT", "checkin"]


def test_last_error_is_the_driver_s_own_with_a_note(
    app: Flask,
    db: Database,
    client: FlaskClient,
    witness: Witness,
    database: TestDatabase,
    meets_conflict: Meet,
    attempts: list[int],
) -> None:
    """The app's handler is asked once, when there is no further attempt."""
    handled: list[DBAPIError] = []

    @app.errorhandler(DBAPIError)
    def handle(error: DBAPIError) -> tuple[str, int]:
        handled.append(error)
        db.session.add(Post(title="handled"))
        return "", 503

    @app.post("/")
    @db.unit(retries=2)
    def create() -> str:
        meets_conflict("statement", times=9)
        db.session.add(User(name="ada"))
        db.session.flush()
        return ""

    assert client.post("/").status_code == 503
    assert attempts == [1, 2, 3]
    (error,) = handled
    assert type(error.orig) is type(conflict(database))
    if sys.version_info >= (3, 11):
        assert error.__notes__ == [
            "flask_uow: this was attempt 3; the ones before met conflicts too"
        ]
    assert (witness.names(), witness.titles()) == ([], ["handled"])


@anywhere
def test_other_errors_are_not_repeated(
    app: Flask, db: Database, client: FlaskClient, witness: Witness, attempts: list[int]
) -> None:
    """A duplicate key is one the next time as well; so is a bug."""
    witness.store(User(name="ada"))
    app.register_error_handler(IntegrityError, lambda error: ("", 409))

    @app.post("/<int:bug>")
    @db.unit(retries=3)
    def create(bug: int) -> str:
        attempts.append(bug)
        if bug:
            raise LookupError
        db.session.add(User(name="ada"))
        return ""

    assert client.post("/0").status_code == 409
    assert client.post("/1").status_code == 500
    assert attempts == [0, 1]


def test_unknown_outcome_is_never_repeated(
    app: Flask, db: Database, client: FlaskClient, attempts: list[int]
) -> None:
    """The connection was lost at COMMIT: the work may be stored, and would be stored twice."""

    @app.post("/")
    @db.unit(retries=3)
    def create() -> str:
        attempts.append(1)
        db.session.add(User(name="ada"))
        return ""

    with testing.lose_connection(db, at="commit", app=app):
        assert client.post("/").status_code == 500
    assert attempts == [1]


@anywhere
def test_error_of_another_kind_in_a_later_attempt_is_handled(
    app: Flask, db: Database, client: FlaskClient, witness: Witness, meets_conflict: Meet
) -> None:
    """As if it had been the first one."""
    witness.store(User(name="ada"))
    app.register_error_handler(IntegrityError, lambda error: ("taken", 409))

    @app.post("/")
    @db.unit(retries=3)
    def create() -> str:
        meets_conflict("statement")
        db.session.add(User(name="ada"))
        db.session.flush()
        return ""

    response = client.post("/")
    assert (response.status_code, response.text) == (409, "taken")


@on("mariadb")
def test_conflict_that_the_view_swallowed_is_repeated(
    app: Flask, db: Database, client: FlaskClient, witness: Witness, meets_conflict: Meet
) -> None:
    """A deadlock victim has lost everything; the commit finds out, and the cause is transient."""

    @app.post("/")
    @db.unit(retries=3)
    def create() -> str:
        db.session.add(User(name="ada"))
        db.session.flush()
        meets_conflict("statement")
        with contextlib.suppress(OperationalError):
            db.session.execute(text("SELECT 1"))
        return ""

    assert client.post("/").status_code == 200
    assert witness.names() == ["ada"]


# As before the view ---------------------------------------------------------------------------


@anywhere
def test_g_and_the_cookie_session_are_as_before_the_view(
    app: Flask, db: Database, client: FlaskClient, meets_conflict: Meet, attempts: list[int]
) -> None:
    """What functions before the view have put there stays; what the view did is gone."""
    seen: list[Any] = []

    @app.before_request
    def prepare() -> None:
        g.user = "ada"
        session["cart"] = [1]
        session["old"] = True

    @app.post("/")
    @db.unit(retries=3)
    def create() -> dict[str, Any]:
        meets_conflict(times=2)
        seen.append((g.user, "x" in g, list(session["cart"]), "old" in session, "new" in session))
        g.user, g.x = "bob", 1
        session["cart"].append(2)
        session["new"] = session.pop("old")
        db.session.add(User(name="ada"))
        return {"cart": session["cart"]}

    assert client.post("/").json == {"cart": [1, 2]}
    assert seen == [("ada", False, [1], True, False)] * 3
    with client.session_transaction() as stored:
        assert dict(stored) == {"cart": [1, 2], "new": True}


class Audit:
    """An object of the app's own class in ``g``."""

    def __init__(self) -> None:
        self.entries: list[str] = []


class Handle:
    """An object that closes what it owns."""

    closed = 0

    def __init__(self) -> None:
        self.log: list[str] = []

    def __del__(self) -> None:
        Handle.closed += 1


@anywhere
def test_what_the_view_has_added_inside_g_is_gone(
    app: Flask, db: Database, client: FlaskClient, meets_conflict: Meet, attempts: list[int]
) -> None:
    """At any depth, also in objects of the app's own."""

    @app.before_request
    def prepare() -> None:
        g.audit = []
        g.deep = {"names": {"ada"}, "rows": [[1], (2, [3])]}
        g.own = Audit()
        g.space = SimpleNamespace(args=MultiDict([("a", 1)]))
        g.function = lambda: None
        session["cart"] = {"items": []}
        flash("before")

    @app.post("/")
    @db.unit(retries=3)
    def create() -> dict[str, Any]:
        meets_conflict(times=2)
        messages: list[Any] = get_flashed_messages()
        messages.append("seen")
        g.audit.append("visit")
        g.deep["names"].add(str(len(attempts)))
        g.deep["rows"][1][1].append(4)
        g.own.entries.append("visit")
        g.space.args.add("a", 2)
        session["cart"]["items"].append(1)
        flash("inside")
        assert callable(g.function)
        db.session.add(User(name="ada"))
        return {
            "messages": messages,
            "audit": g.audit,
            "names": sorted(g.deep["names"]),
            "rows": g.deep["rows"],
            "own": g.own.entries,
            "args": g.space.args.getlist("a"),
            "cart": session["cart"],
        }

    assert client.post("/").json == {
        "messages": ["before", "seen"],
        "audit": ["visit"],
        "names": ["3", "ada"],
        "rows": [[1], [2, [3, 4]]],
        "own": ["visit"],
        "args": [1, 2],
        "cart": {"items": [1]},
    }
    assert attempts == [1, 2, 3]


@anywhere
def test_values_of_g_that_share_an_object_share_it_in_the_next_attempt(
    app: Flask, db: Database, client: FlaskClient, meets_conflict: Meet
) -> None:
    """Also one of ``g`` and one of the cookie session."""

    @app.before_request
    def prepare() -> None:
        g.audit = []
        g.by_name = {"audit": g.audit, "self": g.__dict__.setdefault("rows", [])}
        session["audit"] = g.audit

    @app.post("/")
    @db.unit(retries=1)
    def create() -> str:
        meets_conflict()
        g.audit.append("visit")
        assert g.by_name["audit"] is g.audit is session["audit"]
        assert g.by_name["self"] is g.rows
        db.session.add(User(name="ada"))
        return str(len(g.audit))

    assert client.post("/").text == "1"


@anywhere
def test_objects_that_are_not_data_are_kept(
    app: Flask, db: Database, client: FlaskClient, witness: Witness, meets_conflict: Meet
) -> None:
    """Mapped objects, the session and the app, also inside containers that are restored."""
    witness.store(User(name="ada", email=""), User(name="bob"))
    marker = object()
    first: dict[str, Any] = {}

    @app.before_request
    def load() -> None:
        users = db.session.scalars(select(User).order_by(User.name)).all()
        g.users = list(users)
        g.cart = Audit()
        setattr(g.cart, "owner", users[0])  # noqa: B010
        g.new = [Post(title="new")]
        g.parts = [db.session, db.session(), db.engine, app, current_app, request, marker, User]
        g.posts = users[0].posts
        first.update({name: list(g.get(name)) for name in ("users", "new", "parts")})
        first["posts"] = g.posts

    @app.post("/")
    @db.unit(retries=2)
    def create() -> str:
        meets_conflict(times=2)
        for name in ("users", "new", "parts"):
            assert len(g.get(name)) == len(first[name])
            assert all(map(operator.is_, g.get(name), first[name]))
            g.get(name).append("changed")
        assert g.cart.owner is first["users"][0]
        assert g.posts is first["posts"]
        assert g.users[0] in db.session
        g.users[0].email += "x"
        return ""

    assert client.post("/").status_code == 200
    assert sorted(witness.ask(select(User.email)), key=str) == [None, "x"]


@anywhere
def test_values_of_g_that_cannot_be_copied_are_kept(
    app: Flask, db: Database, client: FlaskClient, meets_conflict: Meet, tmp_path: Path
) -> None:
    """The others are restored all the same."""
    first: dict[str, Any] = {}

    class Unloadable(Exception):
        def __init__(self, one: str, two: str) -> None:
            super().__init__(one)

    @app.before_request
    def prepare() -> None:
        g.lock = threading.Lock()
        g.file = (tmp_path / "file").open("w+")
        g.locked = {"lock": threading.Lock(), "log": []}
        g.generator = (number for number in range(3))
        g.error = Unloadable("one", "two")
        g.handle = Handle()
        first.update(vars(g))
        g.audit = []

    @app.teardown_request
    def close(_error: BaseException | None) -> None:
        g.file.close()

    @app.post("/")
    @db.unit(retries=1)
    def create() -> str:
        meets_conflict()
        for name, value in first.items():
            assert g.get(name) is value
        g.audit.append("visit")
        g.handle.log.append("visit")
        db.session.add(User(name="ada"))
        return str(len(g.audit))

    assert client.post("/").text == "1"
    assert len(first["handle"].log) == 2
    assert Handle.closed == 0


@anywhere
def test_values_of_g_that_have_not_changed_are_kept(
    app: Flask, db: Database, client: FlaskClient, meets_conflict: Meet
) -> None:
    """An object in ``g`` may also be a global of a module."""
    service = Audit()

    @app.before_request
    def prepare() -> None:
        g.service = service

    @app.post("/")
    @db.unit(retries=1)
    def create() -> str:
        meets_conflict()
        assert g.service is service
        g.other = [threading.Lock()]
        db.session.add(User(name="ada"))
        return ""

    assert client.post("/").status_code == 200


@anywhere
def test_nothing_is_copied_where_no_retries_are_configured(
    app: Flask, db: Database, client: FlaskClient
) -> None:
    """An object in ``g`` is not pickled."""

    class Watched:
        def __reduce_ex__(self, protocol: object) -> str:
            raise AssertionError("copied")

    app.before_request(lambda: setattr(g, "watched", Watched()))
    app.add_url_rule("/", view_func=lambda: str(db.session.query(User).count()), endpoint="index")
    assert client.get("/").text == "0"


@anywhere
def test_functions_for_after_the_request_are_added_once(
    app: Flask, db: Database, client: FlaskClient, meets_conflict: Meet, attempts: list[int]
) -> None:
    """Those of lost attempts are gone, those from before the view stay; so with messages."""

    def header(name: str) -> None:
        @after_this_request
        def add(response: Response) -> Response:
            response.headers.add(name, "1")
            return response

    app.before_request(lambda: header("X-Before"))

    @app.post("/")
    @db.unit(retries=3)
    def create() -> str:
        meets_conflict(times=2)
        header("X-View")
        flash(f"attempt {len(attempts)}")
        db.session.add(User(name="ada"))
        return ",".join(map(str, get_flashed_messages()))

    response = client.post("/")
    assert response.headers.getlist("X-Before") == ["1"]
    assert response.headers.getlist("X-View") == ["1"]
    assert response.text == "attempt 3"


def the_file() -> str:
    text: str = request.files["file"].read().decode()
    return text


BODIES: dict[str, tuple[Callable[[], dict[str, Any]], Callable[[], Any]]] = {
    "json": (lambda: {"json": {"name": "ada"}}, lambda: request.get_json()["name"]),
    "json changed": (lambda: {"json": {"name": "ada"}}, lambda: request.get_json().pop("name")),
    "get_data": (lambda: {"data": b"ada"}, lambda: request.get_data().decode()),
    "data": (lambda: {"data": b"ada"}, lambda: request.data.decode()),
    "form": (lambda: {"data": {"name": "ada"}}, lambda: request.form["name"]),
    "values": (lambda: {"data": {"name": "ada"}}, lambda: request.values["name"]),
    "file": (lambda: {"data": {"file": (io.BytesIO(b"ada"), "a.txt")}}, the_file),
    "files": (
        lambda: {"data": {"file": [(io.BytesIO(b"a"), "a.txt"), (io.BytesIO(b"da"), "b.txt")]}},
        lambda: "".join(file.read().decode() for file in request.files.getlist("file")),
    ),
}


@anywhere
@pytest.mark.parametrize("body", list(BODIES))
@pytest.mark.parametrize("read_before", ["nothing", "form", "all"])
def test_body_is_read_anew_in_each_attempt(
    body: str,
    read_before: str,
    app: Flask,
    db: Database,
    client: FlaskClient,
    meets_conflict: Meet,
    attempts: list[int],
) -> None:
    """Also if a function before the view has looked at it."""
    sent, read = BODIES[body]

    @app.before_request
    def look() -> None:
        if read_before != "nothing":
            request.get_data(parse_form_data=read_before == "form")

    @app.post("/")
    @db.unit(retries=3)
    def create() -> str:
        meets_conflict(times=2)
        name: str = read()
        db.session.add(User(name=name))
        return name

    response = client.post("/", **sent())
    assert (response.text, attempts) == ("ada", [1, 2, 3])


@anywhere
def test_objects_that_were_loaded_before_the_view_are_as_stored(
    app: Flask, db: Database, client: FlaskClient, witness: Witness, meets_conflict: Meet
) -> None:
    """What a lost attempt has changed on the user in ``g`` is not there in the next one."""
    witness.store(User(name="ada", email=""))

    @app.before_request
    def load() -> None:
        g.user = db.session.scalars(select(User)).one()

    @app.post("/")
    @db.unit(retries=3)
    def create() -> str:
        meets_conflict(times=2)
        g.user.email += "x"
        return ""

    assert client.post("/").status_code == 200
    assert witness.ask(select(User.email)) == ["x"]


@anywhere
def test_hooks_of_lost_attempts_are_dropped(
    app: Flask, db: Database, client: FlaskClient, meets_conflict: Meet
) -> None:
    """The mail is sent once, for what is stored; each lost attempt is a rollback."""
    ran: list[str] = []

    @app.post("/")
    @db.unit(retries=3)
    def create() -> str:
        meets_conflict(times=2)
        db.session.add(User(name="ada"))
        db.on_commit(ran.append, "mail")
        db.on_rollback(ran.append, "undone")
        return ""

    client.post("/")
    assert ran == ["undone", "undone", "mail"]


@anywhere
def test_mark_for_rollback_of_a_lost_attempt_is_gone(
    app: Flask,
    db: Database,
    client: FlaskClient,
    witness: Witness,
    meets_conflict: Meet,
    attempts: list[int],
) -> None:
    """The next attempt decides for itself."""

    @app.post("/")
    @db.unit(retries=3)
    def create() -> str:
        meets_conflict("statement")
        if len(attempts) == 1:
            db.set_rollback_only()
        db.session.add(User(name="ada"))
        db.session.flush()
        return ""

    client.post("/")
    assert witness.names() == ["ada"]


@anywhere
def test_answer_of_a_lost_attempt_is_closed(
    app: Flask, db: Database, client: FlaskClient, meets_conflict: Meet
) -> None:
    """It may hold a file; the one that is sent is not closed before."""
    closed: list[int] = []

    @app.post("/")
    @db.unit(retries=3)
    def create() -> Response:
        meets_conflict()
        db.session.add(User(name="ada"))
        response = Response("done")
        number = len(closed) + 1
        response.call_on_close(lambda: closed.append(number))
        return response

    response = client.post("/")
    assert (response.status_code, response.text) == (200, "done")
    response.close()
    assert closed == [1, 2]


@anywhere
def test_stream_is_started_by_the_attempt_that_is_stored(
    app: Flask, db: Database, client: FlaskClient, meets_conflict: Meet
) -> None:
    """The unit is committed before the first byte, so no byte of a lost attempt is sent."""

    @app.post("/")
    @db.unit(retries=3)
    def create() -> Response:
        meets_conflict()
        user = User(name="ada")
        db.session.add(user)

        def body() -> Iterator[str]:
            yield f"user {user.name}"

        return Response(stream_with_context(body()))

    assert client.post("/").text == "user ada"


# Where it is not run again --------------------------------------------------------------------


@anywhere
@pytest.mark.parametrize(
    "irrevocable", ["commit", "begin", "commit in a new session", "nested commit"]
)
def test_view_that_has_committed_is_not_run_again(
    irrevocable: str,
    app: Flask,
    db: Database,
    client: FlaskClient,
    witness: Witness,
    meets_conflict: Meet,
    attempts: list[int],
) -> None:
    """What it has stored would be stored twice, however it did that."""

    @app.post("/")
    @db.unit(retries=3)
    def create() -> str:
        if irrevocable == "begin":
            with db.session.begin():
                db.session.add(Post(title="stored"))
        elif irrevocable == "nested commit":
            db.session.add(User(name="lost"))
            db.session.begin_nested()
            db.session.add(Post(title="stored"))
            db.session.commit()
        else:
            if irrevocable == "commit in a new session":
                db.session.remove()
            db.session.add(Post(title="stored"))
            db.session.commit()
        meets_conflict(times=9)
        db.session.add(User(name="ada"))
        return ""

    assert client.post("/").status_code == 500
    assert (attempts, witness.titles()) == ([1], ["stored"])


@anywhere
def test_view_with_savepoints_is_run_again(
    app: Flask, db: Database, client: FlaskClient, witness: Witness, meets_conflict: Meet
) -> None:
    """A RELEASE stores nothing."""

    @app.post("/")
    @db.unit(retries=3)
    def create() -> str:
        db.session.add(User(name="ada"))
        with db.atomic():
            db.session.add(Post(title="1"))
        with db.session.begin_nested():
            db.session.add(Post(title="2"))
        with db.session.no_autoflush:
            meets_conflict()
        return ""

    assert client.post("/").status_code == 200
    assert (witness.names(), witness.titles()) == (["ada"], ["1", "2"])


@anywhere
@pytest.mark.parametrize("what", ["write", "hook"])
def test_view_behind_earlier_work_is_not_run_again(
    what: str,
    app: Flask,
    db: Database,
    client: FlaskClient,
    witness: Witness,
    meets_conflict: Meet,
    attempts: list[int],
) -> None:
    """It is lost with the transaction, and nobody would do it again."""

    @app.before_request
    def prepare() -> None:
        if what == "write":
            db.session.add(Post(title="counted"))
        else:
            db.on_commit(print)

    @app.post("/")
    @db.unit(retries=3)
    def create() -> str:
        meets_conflict(times=9)
        db.session.add(User(name="ada"))
        return ""

    assert client.post("/").status_code == 500
    assert (attempts, witness.names()) == ([1], [])


@anywhere
@pytest.mark.parametrize("how", ["stream", "data that is not kept", "closed file"])
def test_view_that_has_used_up_the_body_is_not_run_again(
    how: str,
    app: Flask,
    db: Database,
    client: FlaskClient,
    meets_conflict: Meet,
    attempts: list[int],
) -> None:
    """It came over the wire once. The app's handler is given the conflict itself."""
    app.register_error_handler(OperationalError, lambda error: ("", 503))

    @app.post("/")
    @db.unit(retries=3)
    def create() -> str:
        if how == "stream":
            request.stream.read()
        elif how == "closed file":
            request.files["file"].close()
        else:
            request.get_data(cache=False)
        meets_conflict(times=9)
        db.session.add(User(name="ada"))
        return ""

    response = client.post("/", data={"file": (io.BytesIO(b"ada"), "a.txt")})
    assert (response.status_code, attempts) == (503, [1])


@anywhere
def test_conflict_of_an_after_request_function_runs_the_view_again(
    app: Flask, db: Database, client: FlaskClient, witness: Witness, meets_conflict: Meet
) -> None:
    """The work of the function is part of the unit, and nothing is stored yet."""
    views: list[int] = []

    @app.post("/")
    @db.unit(retries=3)
    def create() -> str:
        views.append(1)

        @after_this_request
        def late(response: Response) -> Response:
            if len(views) == 1:
                meets_conflict(times=1)
            db.session.add(Post(title="late"))
            return response

        db.session.add(User(name="ada"))
        return ""

    assert client.post("/").status_code == 200
    assert (views, witness.names(), witness.titles()) == ([1, 1], ["ada"], ["late"])


@anywhere
def test_conflict_before_the_view_is_not_repeated(
    app: Flask, db: Database, client: FlaskClient, meets_conflict: Meet, attempts: list[int]
) -> None:
    """It is the view that promises that it can be run again."""

    @app.before_request
    def prepare() -> None:
        meets_conflict("statement", times=9)
        db.session.scalars(select(User)).all()

    @app.post("/")
    @db.unit(retries=3)
    def create() -> str:
        return "not reached"

    assert client.post("/").status_code == 500
    assert attempts == [1]


# Kinds of views -------------------------------------------------------------------------------


@anywhere
@pytest.mark.parametrize("place", ["method", "class", "decorators", "dispatch_request"])
def test_view_classes_are_run_again(
    place: str,
    app: Flask,
    db: Database,
    client: FlaskClient,
    witness: Witness,
    meets_conflict: Meet,
) -> None:
    """Wherever the mark is written."""
    mark = db.unit(retries=3)

    def store() -> str:
        meets_conflict()
        db.session.add(User(name="ada"))
        return "stored"

    view: type[View]
    if place == "dispatch_request":

        class Plain(View):
            methods = ["POST"]  # noqa: RUF012

            @mark
            def dispatch_request(self) -> str:
                return store()

        view = Plain
    else:

        class Methods(MethodView):
            decorators = [mark] if place == "decorators" else []

            def post(self) -> str:
                return store()

            if place == "method":
                post = mark(post)

        view = mark(Methods) if place == "class" else Methods
    app.add_url_rule("/", view_func=view.as_view("view"))
    assert client.post("/").text == "stored"
    assert witness.names() == ["ada"]


@anywhere
def test_view_of_a_blueprint_below_another_decorator(
    app: Flask, db: Database, client: FlaskClient, witness: Witness, meets_conflict: Meet
) -> None:
    """A decorator that uses ``functools.wraps`` is run again with the view."""
    blueprint = Blueprint("shop", __name__)
    calls: list[str] = []

    def counted(view: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(view)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            calls.append(view.__name__)
            return view(*args, **kwargs)

        return wrapper

    @blueprint.post("/<name>")
    @counted
    @db.unit(retries=3)
    def create(name: str) -> str:
        meets_conflict()
        db.session.add(User(name=name))
        return name

    app.register_blueprint(blueprint)
    assert client.post("/ada").text == "ada"
    assert (witness.names(), calls) == (["ada"], ["create", "create"])


@pytest.mark.parametrize("step", ["statement", "commit"])
@anywhere
def test_async_view_is_run_again(
    step: str, app: Flask, db: Database, client: FlaskClient, witness: Witness, meets_conflict: Meet
) -> None:
    """As any other."""
    pytest.importorskip("asgiref", reason="async views need 'pip install flask[async]'")

    @app.post("/")
    @db.unit(retries=3)
    async def create() -> str:
        meets_conflict(step)
        await asyncio.sleep(0)
        db.session.add(User(name="ada"))
        return "stored"

    assert client.post("/").text == "stored"
    assert witness.names() == ["ada"]


@anywhere
def test_function_that_is_called_without_flask_is_run_once(
    app: Flask, db: Database, witness: Witness
) -> None:
    """A view is a function that a test or a command may call."""

    @db.unit(retries=3)
    def create(name: str) -> str:
        db.session.add(User(name=name))
        db.session.commit()
        return name

    with app.app_context():
        assert create("ada") == "ada"
    assert witness.names() == ["ada"]


@anywhere
def test_options_that_a_decorator_has_lost_are_named(
    app: Flask, db: Database, client: FlaskClient
) -> None:
    """Without ``functools.wraps`` nobody could know them before the view runs."""
    app.register_error_handler(ConfigError, lambda error: (str(error), 500))

    def careless(view: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper() -> Any:
            return view()

        return wrapper

    def create() -> str:
        db.session.add(User(name="ada"))
        return ""

    lossy = careless(db.unit(retries=3)(create))
    app.add_url_rule("/", "create", lossy, methods=["POST"])
    answer = client.post("/").text
    assert "The view of the endpoint 'create' is" in answer
    assert "has lost its '@db.unit(...)' options on the way. Use 'functools.wraps'" in answer


@anywhere
def test_view_that_calls_another_one_has_lost_nothing(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """In a factory, where the other view is a name of the function around both."""

    @app.post("/other")
    @db.unit(retries=3)
    def other() -> str:
        db.session.add(User(name="ada"))
        return "other"

    @app.post("/")
    def create() -> str:
        return other()

    assert client.post("/").text == "other"
    assert witness.names() == ["ada"]


# With the other options -----------------------------------------------------------------------


@on("postgresql", "mariadb")
@pytest.mark.parametrize(
    "asked", ["SERIALIZABLE", {"postgresql": "SERIALIZABLE", "mariadb": "SERIALIZABLE"}]
)
def test_isolation_level_holds_before_the_view_and_in_each_attempt(
    app: Flask, db: Database, client: FlaskClient, meets_conflict: Meet, asked: Any
) -> None:
    """The route is known before the unit opens, so the user loader reads at the same level."""
    levels: list[str] = []

    def note() -> None:
        postgresql = db.engine.dialect.name == "postgresql"
        question = "SHOW transaction_isolation" if postgresql else "SELECT @@tx_isolation"
        levels.append(db.session.execute(text(question)).scalar_one().upper().replace("-", " "))

    app.before_request(note)

    @app.post("/")
    @db.unit(retries=3, isolation_level=asked)
    def create() -> str:
        note()
        meets_conflict("statement")
        db.session.add(User(name="ada"))
        db.session.flush()
        return ""

    @app.get("/")
    def usual() -> str:
        return ""

    assert client.post("/").status_code == 200
    assert levels == ["SERIALIZABLE"] * 3
    client.get("/")
    assert levels[3] != "SERIALIZABLE"


@anywhere
def test_unknown_isolation_level_of_a_view(app: Flask, db: Database, client: FlaskClient) -> None:
    """The engine is known only in a request; the sentence is the one of ``db.atomic()``."""
    app.register_error_handler(ConfigError, lambda error: (str(error), 500))

    @app.post("/")
    @db.unit(isolation_level="CHAOS")
    def create() -> str:
        return ",".join(db.session.scalars(select(User.name)))

    answer = client.post("/").text
    assert "The isolation level 'CHAOS' is not known to the engine 'default' (sqlite)" in answer
    assert "'SERIALIZABLE'" in answer


def test_read_only_view_refuses_what_writes(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """With the class and the attribute, at the flush; nothing was sent."""
    witness.store(User(name="ada"))
    app.register_error_handler(ReadOnly, lambda error: (str(error), 500))

    @app.post("/<how>")
    @db.unit(read_only=True)
    def report(how: str) -> str:
        ada = db.session.scalars(select(User)).one()
        if how == "flush":
            ada.email = "new"
        elif how == "statement":
            db.session.execute(update(User).values(email="new"))
        return ada.name

    assert client.post("/none").text == "ada"
    assert "would write: User (email)" in client.post("/flush").text
    assert "'UPDATE users SET" in client.post("/statement").text
    assert witness.ask(select(User.email)) == [None]


# Functions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["statement", "commit"])
def test_function_is_run_again_after_a_conflict(
    step: str, app: Flask, db: Database, witness: Witness, meets_conflict: Meet
) -> None:
    """In a command or a worker: in a new transaction each time, and stored once."""
    ran: list[str] = []

    @db.atomic(retries=3)
    def create(name: str, *, email: str) -> str:
        meets_conflict(step, times=2)
        assert db.session.scalar(select(func.count()).select_from(User)) == 0
        db.session.add(User(name=name, email=email))
        db.on_commit(ran.append, "mail")
        return name

    @app.cli.command("create")
    def command() -> None:
        print(create("ada", email="a@b"))

    result = app.test_cli_runner().invoke(args=["create"])
    assert result.output == "ada\n"
    assert (witness.ask(select(User.name, User.email)), ran) == ([("ada", "a@b")], ["mail"])


@anywhere
def test_function_with_retries_follows_another_transaction_of_its_context(
    app: Flask, db: Database, witness: Witness
) -> None:
    """The connection of the earlier transaction is closed, and its commits are not counted."""

    @db.atomic(retries=1)
    def create() -> None:
        db.session.add(User(name="bob"))

    with app.app_context():
        with db.atomic():
            db.session.add(User(name="ada"))
        create()
    assert witness.names() == ["ada", "bob"]


@anywhere
def test_async_function_is_run_again_after_a_conflict(
    app: Flask, db: Database, witness: Witness, meets_conflict: Meet
) -> None:
    """It pauses without holding up the event loop."""

    @db.atomic(retries=3)
    async def create(name: str) -> str:
        meets_conflict(times=2)
        await asyncio.sleep(0)
        db.session.add(User(name=name))
        return name

    with app.app_context():
        assert asyncio.run(create("ada")) == "ada"
    assert witness.names() == ["ada"]


@anywhere
def test_last_error_of_a_function_is_raised_as_it_was(
    app: Flask, db: Database, witness: Witness, meets_conflict: Meet, attempts: list[Any]
) -> None:
    """With the number of attempts as a note; other errors come at once and without one."""

    @db.atomic(retries=2)
    def create() -> None:
        meets_conflict(times=9)
        db.session.add(User(name="ada"))

    @db.atomic(retries=2)
    def fail() -> None:
        attempts.append("fail")
        raise LookupError

    with app.app_context():
        with pytest.raises(OperationalError, match="database is locked") as caught:
            create()
        assert attempts == [1, 2, 3]
        if sys.version_info >= (3, 11):
            assert "this was attempt 3" in caught.value.__notes__[0]
        with pytest.raises(LookupError) as other:
            fail()
        assert attempts == [1, 2, 3, "fail"]
        assert not hasattr(other.value, "__notes__")
    assert witness.names() == []


def test_unknown_outcome_of_a_function_is_never_repeated(
    app: Flask, db: Database, attempts: list[int]
) -> None:
    """As with a view."""

    @db.atomic(retries=3)
    def create() -> None:
        attempts.append(1)
        db.session.add(User(name="ada"))

    with app.app_context(), testing.lose_connection(db, at="commit"), pytest.raises(DBAPIError):
        create()
    assert attempts == [1]


def test_pause_grows_and_is_random() -> None:
    """Between half and all of a time that doubles, up to two seconds."""
    for attempt, longest in ((2, 0.05), (3, 0.1), (4, 0.2), (20, 2.0)):
        pauses = [_retry.pause_before(attempt) for _ in range(50)]
        assert longest / 2 <= min(pauses) < max(pauses) <= longest
    assert _retry.pause_before(9, 0) == 0
    assert _retry.pause_before(2, 5.0) >= 2.5


# Real conflicts -------------------------------------------------------------------------------

WORKERS = 8


def on_call(db: Database) -> list[str]:
    return list(db.session.scalars(select(User.name).where(User.email == "on call")))


def leave_the_rota(
    make_app: MakeApp, db: Database, witness: Witness, retries: int
) -> tuple[list[tuple[int, str]], int]:
    """Eight on call, and all want to go home at once; one has to stay.

    Each looks how many there are and leaves if it is not the last. That is write skew: every one
    is right by what it has read. The answers, and how many are on call in the end.
    """
    app = make_app(UOW_RETRY_PAUSE=0.005, SQLALCHEMY_ENGINE_OPTIONS={"pool_size": WORKERS})
    witness.store(*[User(name=str(number), email="on call") for number in range(WORKERS)])
    meeting = threading.Barrier(WORKERS)
    first = threading.local()

    @app.errorhandler(OperationalError)
    def handle(error: OperationalError) -> tuple[str, int]:
        return type(error.orig).__name__, 503

    @app.post("/<name>")
    @db.unit(retries=retries, isolation_level="SERIALIZABLE")
    def leave(name: str) -> str:
        others = len(on_call(db)) - 1
        if not getattr(first, "is_over", False):
            first.is_over = True
            meeting.wait(timeout=30)  # now all have read
        if not others:
            return "stays"
        db.session.execute(update(User).where(User.name == name).values(email="at home"))
        return "leaves"

    names = iter(range(WORKERS))

    def work() -> tuple[int, str]:
        response = app.test_client().post(f"/{next(names)}")
        return response.status_code, response.text

    answers = in_threads(work, times=WORKERS)
    return answers, len(witness.ask(select(User.name).where(User.email == "on call")))


@on("postgresql")
def test_write_skew_of_eight_threads_with_retries(
    make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """Every request ends right, and somebody is on call: as if they had come one by one."""
    answers, left = leave_the_rota(make_app, db, witness, retries=50)
    assert sorted(answers) == [(200, "leaves")] * (WORKERS - 1) + [(200, "stays")]
    assert left == 1


@on("postgresql")
def test_write_skew_of_eight_threads_without_retries(
    make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """The losers get the driver's own error, and what was told is what is stored."""
    answers, left = leave_the_rota(make_app, db, witness, retries=0)
    leavers = answers.count((200, "leaves"))
    assert answers.count((503, "SerializationFailure")) == WORKERS - leavers > 0
    assert left == WORKERS - leavers


_QUICK = {
    "postgresql": {"options": "-c deadlock_timeout=20ms -c lock_timeout=200ms"},
    "mariadb": {"init_command": "SET SESSION innodb_lock_wait_timeout = 1"},
}


@on("postgresql", "mariadb")
def test_deadlock_of_two_requests(
    make_app: MakeApp, db: Database, witness: Witness, database: TestDatabase
) -> None:
    """The server picks a victim; it is run again, and both end right."""
    app = make_app(
        UOW_RETRY_PAUSE=0.005,
        SQLALCHEMY_ENGINE_OPTIONS={"connect_args": _QUICK[database.name]},
    )
    witness.store(User(name="0", email=""), User(name="1", email=""))
    meeting, attempts = threading.Barrier(2), []

    def mark(number: int) -> None:
        db.session.execute(
            update(User).where(User.name == str(number)).values(email=User.email + "x")
        )

    @app.post("/<int:first>")
    @db.unit(retries=5)
    def both(first: int) -> str:
        attempts.append(first)
        mark(first)
        if len(attempts) <= 2:
            meeting.wait(timeout=30)
        mark(1 - first)
        return ""

    numbers = iter(range(2))
    answers = in_threads(lambda: app.test_client().post(f"/{next(numbers)}").status_code, times=2)
    assert answers == [200, 200]
    assert len(attempts) >= 3
    assert witness.ask(select(User.email)) == ["xx", "xx"]


@on("postgresql", "mariadb")
def test_lock_timeout_is_repeated(
    make_app: MakeApp, db: Database, witness: Witness, database: TestDatabase
) -> None:
    """Somebody else holds the row during the first attempt and lets it go then."""
    app = make_app(SQLALCHEMY_ENGINE_OPTIONS={"connect_args": _QUICK[database.name]})
    witness.store(User(name="ada"))
    attempts: list[int] = []
    with witness.engine.connect() as holder:
        holder.execute(select(User).with_for_update())

        @app.post("/")
        @db.unit(retries=2)
        def change() -> str:
            attempts.append(1)
            if len(attempts) == 2:
                holder.rollback()
            db.session.add(Post(title=f"attempt {len(attempts)}"))
            db.session.flush()
            db.session.execute(update(User).values(email="new"))
            return ""

        assert app.test_client().post("/").status_code == 200
    assert (witness.ask(select(User.email)), witness.titles()) == (["new"], ["attempt 2"])


@on("sqlite-file")
def test_sqlite_unit_that_was_out_of_date_is_repeated(
    make_app: MakeApp, db: Database, witness: Witness, attempts: list[int]
) -> None:
    """Another writer came between the read and the write; the second attempt reads again."""
    app = make_app(UOW_BEGIN="first")
    witness.store(User(name="ada", email=""))

    @app.get("/")
    @db.unit(retries=2)
    def change() -> str:
        attempts.append(1)
        ada = db.session.scalars(select(User)).one()
        if len(attempts) == 1:
            with witness.engine.begin() as connection:
                connection.execute(update(User).values(email="theirs, "))
        ada.email = f"{ada.email}ours"
        return ""

    assert app.test_client().get("/").status_code == 200
    assert len(attempts) == 2
    assert witness.ask(select(User.email)) == ["theirs, ours"]


# Bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("retries", [-1, 101, 2.5, True, "3", None])
@pytest.mark.parametrize("place", ["unit", "atomic"])
def test_silly_number_of_retries_is_refused(place: str, retries: Any, db: Database) -> None:
    """Where it is written."""
    with pytest.raises(ConfigError, match=f"'retries' of .*db.{place}") as caught:
        getattr(db, place)(retries=retries)
    assert "must be a whole number from 0 to 100" in str(caught.value)
    assert f"is {retries!r}, but" in str(caught.value)


@pytest.mark.parametrize("pause", [-1, "long", True, None, 2_000_001, float("inf")])
@anywhere
def test_silly_pause_is_refused(pause: Any, make_app: MakeApp) -> None:
    """It is a number of seconds."""
    with pytest.raises(ConfigError, match=r"UOW_RETRY_PAUSE is .* a number of seconds, 0 or more"):
        make_app(UOW_RETRY_PAUSE=pause)


@pytest.mark.parametrize("thing", ["a text", 3, None])
@pytest.mark.parametrize("options", [{"retries": 2}, {"read_only": True}])
def test_unit_on_what_is_no_view_is_refused(
    options: dict[str, Any], thing: Any, db: Database
) -> None:
    """Whatever the options are."""
    with pytest.raises(ConfigError, match=f"put on {thing!r}, which is not a view function"):
        db.unit(**options)(thing)


def test_unit_without_its_options_is_refused(db: Database) -> None:
    """``@db.unit`` alone would do nothing."""

    def view() -> str:
        return ""

    with pytest.raises(ConfigError, match=r"without its options.*leave it out"):
        db.unit(view)


# The small print ------------------------------------------------------------------------------


def test_mark_set_before_the_view_is_there_in_the_next_attempt(
    app: Flask, db: Database, client: FlaskClient, witness: Witness, meets_conflict: Meet
) -> None:
    """``set_rollback_only()`` of a ``before_request`` function speaks for the whole request."""
    app.before_request(lambda: db.set_rollback_only())

    @app.post("/")
    @db.unit(retries=3)
    def create() -> str:
        meets_conflict("statement")
        db.session.add(User(name="ada"))
        db.session.flush()
        return ""

    assert client.post("/").status_code == 200
    assert witness.names() == []


def test_body_that_is_no_form_is_not_run_again_when_it_was_read(
    app: Flask, db: Database, client: FlaskClient, witness: Witness, meets_conflict: Meet
) -> None:
    """Who asks for ``request.form`` meanwhile, as checks of a CSRF token do, has not kept it."""
    app.before_request(lambda: request.form.get("csrf") and None)

    @app.post("/")
    @db.unit(retries=3)
    def create() -> str:
        name = request.stream.read().decode()
        meets_conflict()
        db.session.add(User(name=name))
        return ""

    assert client.post("/", data="ada", content_type="text/plain").status_code == 500
    assert witness.names() == []


def test_view_whose_listener_raises_behind_the_commit_is_not_run_again(
    app: Flask,
    db: Database,
    client: FlaskClient,
    database: TestDatabase,
    witness: Witness,
    attempts: list[Any],
) -> None:
    """The COMMIT is what counts, not who has heard of it first."""

    def fail(_: object) -> None:
        raise OperationalError("", {}, conflict(database))

    @app.post("/")
    @db.unit(retries=3)
    def create() -> str:
        attempts.append(1)
        event.listen(db.session(), "after_commit", fail, insert=True)
        db.session.add(User(name=f"ada {len(attempts)}"))
        return ""

    assert client.post("/").status_code == 500
    assert witness.names() == ["ada 1"]


def test_view_that_calls_a_marked_view_has_not_asked_for_retries(
    app: Flask, db: Database, client: FlaskClient, witness: Witness, meets_conflict: Meet
) -> None:
    """And it is no view that has lost its options."""

    @db.unit(retries=3)
    def marked() -> str:
        meets_conflict()
        db.session.add(User(name="ada"))
        return ""

    @functools.wraps(marked)
    def decorated() -> str:
        return marked()

    app.add_url_rule("/marked", view_func=decorated, endpoint="marked", methods=["POST"])
    app.add_url_rule("/other", view_func=lambda: decorated(), endpoint="other", methods=["POST"])
    assert client.post("/other").status_code == 500
    assert witness.names() == []
    assert client.post("/marked").status_code == 200
    assert witness.names() == ["ada"]


def test_a_view_has_one_mark(db: Database) -> None:
    """Of two, one would be lost in silence."""
    with pytest.raises(ConfigError, match="has two"):
        db.unit(commit="always")(db.unit(retries=2)(lambda: ""))
