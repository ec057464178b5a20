"""P4: a view that fails leaves nothing; an error handler that writes, writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pytest
from flask import Blueprint, Flask, Response, abort, redirect, request, stream_with_context
from flask.testing import FlaskClient
from flask.typing import ResponseReturnValue
from flask.views import MethodView, View
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, PendingRollbackError
from werkzeug.exceptions import BadRequest
from werkzeug.routing import RequestRedirect

from flask_uow import CommitRule, Database, RollbackOnly, testing
from tests.conftest import MakeApp
from tests.support.databases import anywhere, concurrently, on
from tests.support.models import Post, User
from tests.support.witness import Witness


def write(db: Database, name: str = "ada") -> None:
    """Send a row to the database, as views do that need its key."""
    db.session.add(User(name=name))
    db.session.flush()


# 1. An exception leaves the view --------------------------------------------------------------


def test_unhandled_error_leaves_nothing(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """What the view had written, flushed or not, is gone with its 500."""

    @app.post("/")
    def create() -> str:
        write(db)
        db.session.add(User(name="bob"))
        raise LookupError

    assert client.post("/").status_code == 500
    assert witness.names() == []


@pytest.mark.parametrize("status", [200, 201, 302, 400, 409, 500])
def test_handled_error_leaves_nothing_whatever_the_handler_answers(
    status: int, app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """A handler that makes a 200 or a redirect of it does not turn a failure into a success."""

    @app.errorhandler(LookupError)
    def handle(error: Exception) -> tuple[str, int]:
        return "", status

    @app.post("/")
    def create() -> str:
        write(db)
        raise LookupError

    assert client.post("/").status_code == status
    assert witness.names() == []


@anywhere
@pytest.mark.parametrize("status", [400, 404, 500])
def test_aborted_view_leaves_nothing(
    status: int, app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """``abort()`` is an exception like any other."""

    @app.post("/")
    def create() -> str:
        write(db)
        abort(status)

    assert client.post("/").status_code == status
    assert witness.names() == []


@anywhere
def test_abort_with_a_response_goes_by_its_status(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """``abort(response)`` fails with a response of 400 or more and succeeds below."""

    @app.post("/<int:status>")
    def create(status: int) -> str:
        write(db, str(status))
        abort(Response("", status))

    assert client.post("/202").status_code == 202
    assert client.post("/422").status_code == 422
    assert witness.names() == ["202"]


@anywhere
@pytest.mark.parametrize(
    "leave",
    [
        lambda: abort(redirect("/elsewhere")),
        lambda: abort(redirect("/elsewhere", 303)),
        lambda: _raise(RequestRedirect("/elsewhere")),
    ],
)
def test_raised_redirect_is_no_failure(
    leave: Callable[[], object], db: Database, client: FlaskClient, witness: Witness
) -> None:
    """An HTTP exception below 400 is an answer, and what was written is stored."""

    @client.application.post("/")
    def create() -> str:
        write(db)
        leave()
        return "not reached"

    assert client.post("/").status_code in {302, 303, 308}
    assert witness.names() == ["ada"]


def _raise(error: Exception) -> None:
    raise error


def test_error_in_before_request_leaves_nothing(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """A function before the view fails as the view does."""
    app.register_error_handler(LookupError, lambda error: "handled")

    @app.before_request
    def prepare() -> None:
        write(db)
        raise LookupError

    assert client.post("/").text == "handled"
    assert witness.names() == []


def test_error_in_the_view_undoes_what_before_request_wrote(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """One request is one unit: all of it is undone."""
    app.before_request(lambda: write(db, "before"))

    @app.post("/")
    def create() -> str:
        write(db, "view")
        raise LookupError

    assert client.post("/").status_code == 500
    assert witness.names() == []


@concurrently
def test_rollback_comes_before_the_error_handler(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """When the handler starts, no lock of the view's work is left: another connection writes."""

    @app.errorhandler(LookupError)
    def handle(error: Exception) -> str:
        witness.store(User(name="ada", email="of the witness"))
        return ""

    @app.post("/")
    def create() -> str:
        write(db)
        raise LookupError

    assert client.post("/").status_code == 200
    assert witness.ask(select(User.email)) == ["of the witness"]


@pytest.mark.parametrize("flushed", [True, False])
def test_error_handler_starts_with_a_clean_session(
    flushed: bool, app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """Nothing of the view is pending, and a query finds nothing of it."""

    @app.errorhandler(LookupError)
    def handle(error: Exception) -> str:
        assert list(db.session) == []
        return str(db.session.query(User).count())

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        if flushed:
            db.session.flush()
        raise LookupError

    assert client.post("/").text == "0"
    assert witness.names() == []


def test_error_handler_can_query_after_a_failed_flush(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """No ``PendingRollbackError`` and no aborted transaction: the handler just queries."""
    witness.store(User(name="ada"))

    @app.errorhandler(IntegrityError)
    def handle(error: Exception) -> tuple[str, int]:
        return ",".join(db.session.scalars(select(User.name))), 409

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        db.session.flush()
        return "not reached"

    assert client.post("/").text == "ada"


def test_error_handler_can_query_after_an_error_that_the_view_translated(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """Also when what left the view says nothing of a database."""
    witness.store(User(name="ada"))

    @app.errorhandler(BadRequest)
    def handle(error: Exception) -> tuple[str, int]:
        return ",".join(db.session.scalars(select(User.name))), 400

    @app.post("/")
    def create() -> str:
        try:
            db.session.execute(insert(User), {"name": "ada"})
        except IntegrityError as error:
            raise BadRequest from error
        return "not reached"

    assert client.post("/").text == "ada"


def test_error_handler_can_query_after_a_read_that_failed(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """A query that fails aborts a transaction in PostgreSQL, though nothing was written."""
    witness.store(User(name="ada"))

    @app.errorhandler(BadRequest)
    def handle(error: Exception) -> tuple[str, int]:
        return ",".join(db.session.scalars(select(User.name))), 400

    @app.get("/")
    def index() -> str:
        try:
            db.session.execute(text("SELECT nothing FROM nowhere"))
        except DBAPIError as error:
            raise BadRequest from error
        return "not reached"

    assert client.get("/").text == "ada"


def test_error_handler_can_query_where_the_view_ran_into_a_pending_rollback(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The view swallowed the first error and stumbled over SQLAlchemy's refusal to go on."""
    witness.store(User(name="ada"))

    @app.errorhandler(PendingRollbackError)
    def handle(error: Exception) -> str:
        return ",".join(db.session.scalars(select(User.name)))

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        try:
            db.session.flush()
        except IntegrityError:
            db.session.scalars(select(User)).all()
        return "not reached"

    assert client.post("/").text == "ada"


@pytest.mark.parametrize("status", [200, 302, 400, 404, 500])
def test_what_the_error_handler_writes_is_stored(
    status: int, app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The error log is committed with the handler's answer, the view's work is not."""

    @app.errorhandler(LookupError)
    def handle(error: Exception) -> tuple[str, int]:
        db.session.add(Post(title="failed"))
        return "", status

    @app.post("/")
    def create() -> str:
        write(db)
        raise LookupError

    assert client.post("/").status_code == status
    assert (witness.names(), witness.titles()) == ([], ["failed"])


@pytest.mark.parametrize("status", [200, 400, 500])
def test_what_the_error_handler_writes_is_stored_if_the_view_never_touched_the_database(
    status: int, app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """It makes no difference that the handler's is the first use of the session."""

    @app.errorhandler(LookupError)
    def handle(error: Exception) -> tuple[str, int]:
        db.session.add(Post(title="failed"))
        return "", status

    @app.post("/")
    def create() -> str:
        raise LookupError

    assert client.post("/").status_code == status
    assert witness.titles() == ["failed"]


def test_what_the_handler_of_an_unknown_page_writes_is_stored(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """A 404 of the router is an exception too, and its handler may count it."""

    @app.errorhandler(404)
    def handle(error: Exception) -> tuple[str, int]:
        db.session.add(Post(title="missing"))
        return "", 404

    assert client.get("/nowhere").status_code == 404
    assert witness.titles() == ["missing"]


def test_what_the_handler_of_all_errors_writes_is_stored(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The handler of 500, which Flask calls last, logs the error and that is stored."""

    @app.errorhandler(500)
    def handle(error: Exception) -> tuple[str, int]:
        db.session.add(Post(title="broken"))
        return "", 500

    @app.post("/")
    def create() -> str:
        write(db)
        raise LookupError

    assert client.post("/").status_code == 500
    assert (witness.names(), witness.titles()) == ([], ["broken"])


def test_error_handler_that_raises_leaves_nothing(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """Neither the view's nor the handler's work is stored with the 500."""

    @app.errorhandler(LookupError)
    def handle(error: Exception) -> str:
        db.session.add(Post(title="failed"))
        db.session.flush()
        raise RuntimeError

    @app.post("/")
    def create() -> str:
        write(db)
        raise LookupError

    assert client.post("/").status_code == 500
    assert (witness.names(), witness.titles()) == ([], [])


def test_failed_view_that_only_read_keeps_its_loaded_objects(
    app: Flask, db: Database, client: FlaskClient, witness: Witness, traffic: list[str]
) -> None:
    """The error page still has its user, can lazy-load from it, and nothing was rolled back."""
    witness.store(User(name="ada", posts=[Post(title="first")]))
    loaded: list[User] = []

    @app.before_request
    def load() -> None:
        loaded.append(db.session.get_one(User, 1))

    @app.errorhandler(LookupError)
    def handle(error: Exception) -> tuple[str, int]:
        assert loaded[0] in db.session
        assert traffic.count("ROLLBACK") == 0
        return f"{loaded[0].name}: {loaded[0].posts[0].title}", 404

    @app.get("/")
    def index() -> str:
        raise LookupError

    assert client.get("/").text == "ada: first"
    assert traffic.count("BEGIN") == 1


# 2. set_rollback_only -------------------------------------------------------------------------


@anywhere
@pytest.mark.parametrize("rule", ["on_success", "always", "explicit", lambda response: True])
@pytest.mark.parametrize("status", [200, 302, 400])
def test_rollback_only_wins_over_status_and_rule(
    status: int, rule: CommitRule, make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """A unit that was marked stores nothing, whatever is answered and configured."""
    app = make_app(UOW_COMMIT=rule)

    @app.post("/")
    def create() -> tuple[str, int]:
        write(db)
        db.set_rollback_only()
        db.session.add(User(name="bob"))
        return "", status

    assert app.test_client().post("/").status_code == status
    assert witness.names() == []


@pytest.mark.fault(
    "D9",
    fault="A view calls commit() after db.set_rollback_only()",
    then="The call is refused with RollbackOnly",
)
def test_rollback_only_refuses_an_explicit_commit(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """``commit()`` after the mark is refused in words, and nothing is stored."""

    @app.post("/")
    def create() -> str:
        write(db)
        db.set_rollback_only()
        with pytest.raises(RollbackOnly, match="set_rollback_only"):
            db.session.commit()
        return ""

    assert client.post("/").status_code == 200
    assert witness.names() == []


def test_rollback_only_does_not_undo_an_earlier_commit(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The mark speaks of the work since the last commit."""

    @app.post("/")
    def create() -> str:
        write(db, "before")
        db.session.commit()
        write(db, "after")
        db.set_rollback_only()
        return ""

    client.post("/")
    assert witness.names() == ["before"]


def test_rollback_only_goes_with_the_work_of_a_view_that_raised(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The mark was spoken of the view's work; what the error handler writes is stored."""

    @app.errorhandler(LookupError)
    def handle(error: Exception) -> tuple[str, int]:
        db.session.add(Post(title="failed"))
        return "", 400

    @app.post("/")
    def create() -> str:
        write(db)
        db.set_rollback_only()
        raise LookupError

    client.post("/")
    assert (witness.names(), witness.titles()) == ([], ["failed"])


# 3 and 4. The rules ---------------------------------------------------------------------------

RULES: list[tuple[CommitRule, dict[int, bool]]] = [
    ("on_success", {200: True, 302: True, 399: True, 400: False, 404: False, 500: False}),
    ("always", {200: True, 302: True, 400: True, 500: True}),
    ("explicit", {200: False, 302: False, 400: False, 500: False}),
    (lambda response: response.status_code != 418, {200: True, 400: True, 418: False}),
]
ANSWERS = [(rule, status, stored) for rule, by in RULES for status, stored in by.items()]


@anywhere
@pytest.mark.parametrize("place", ["UOW_COMMIT", "@db.unit"])
@pytest.mark.parametrize(("rule", "status", "stored"), ANSWERS)
def test_rule_decides_about_a_returned_answer(
    rule: CommitRule,
    status: int,
    stored: bool,
    place: str,
    make_app: MakeApp,
    db: Database,
    witness: Witness,
) -> None:
    """Each rule, as the app's or as the view's own, against statuses."""
    app = make_app(UOW_COMMIT=rule) if place == "UOW_COMMIT" else make_app(UOW_COMMIT="explicit")

    def create() -> tuple[str, int]:
        write(db)
        return "", status

    app.post("/")(create if place == "UOW_COMMIT" else db.unit(commit=rule)(create))
    assert app.test_client().post("/").status_code == status
    assert witness.names() == (["ada"] if stored else [])


@anywhere
@pytest.mark.parametrize("rule", [rule for rule, _ in RULES])
def test_no_rule_stores_the_work_of_a_view_that_raised(
    rule: CommitRule, make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """Not even "always": the exception comes before the rule."""
    app = make_app(UOW_COMMIT=rule)
    app.register_error_handler(LookupError, lambda error: "handled")

    @app.post("/")
    def create() -> str:
        write(db)
        raise LookupError

    assert app.test_client().post("/").text == "handled"
    assert witness.names() == []


@anywhere
def test_view_s_own_rule_comes_before_the_app_s(
    make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """One view says "explicit" in an app that says "always", and its neighbor does not."""
    app = make_app(UOW_COMMIT="always")

    @app.post("/own")
    @db.unit(commit="explicit")
    def own() -> str:
        write(db, "own")
        return ""

    @app.post("/neighbor")
    def neighbor() -> tuple[str, int]:
        write(db, "neighbor")
        return "", 400

    client = app.test_client()
    client.post("/own")
    client.post("/neighbor")
    assert witness.names() == ["neighbor"]


@anywhere
def test_view_s_own_rule_holds_for_a_unit_that_before_request_opened(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The route is known before the unit opens, and so is the rule."""
    app.before_request(lambda: write(db))

    @app.post("/")
    @db.unit(commit="always")
    def create() -> tuple[str, int]:
        return "", 400

    client.post("/")
    assert witness.names() == ["ada"]


def test_rule_is_asked_once_with_the_final_response_of_the_view(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """A callable sees what the view has answered, headers included."""
    asked: list[Response] = []

    def by_header(response: Response) -> bool:
        asked.append(response)
        return response.headers.get("X-Store") == "yes"

    @app.post("/<answer>")
    @db.unit(commit=by_header)
    def create(answer: str) -> tuple[str, dict[str, str]]:
        write(db, answer)
        return "", {"X-Store": answer}

    client.post("/yes")
    client.post("/no")
    assert len(asked) == 2
    assert witness.names() == ["yes"]


def test_rule_that_raises_is_an_error_of_the_view(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """Without an answer to the question nothing is stored, and the app's handler answers."""
    app.register_error_handler(LookupError, lambda error: ("no rule", 422))

    def broken(response: Response) -> bool:
        raise LookupError

    @app.post("/")
    @db.unit(commit=broken)
    def create() -> str:
        write(db)
        return ""

    assert client.post("/").text == "no rule"
    assert witness.names() == []


def test_explicit_view_keeps_what_it_committed_itself(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """With "explicit" the view's own commits count and the rest is undone, without a warning."""

    @app.post("/")
    @db.unit(commit="explicit")
    def create() -> str:
        write(db, "kept")
        db.session.commit()
        write(db, "undone")
        return ""

    assert client.post("/").status_code == 200
    assert witness.names() == ["kept"]


# Where the rule of a view is written ----------------------------------------------------------


def passes_on(view: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(view)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return view(*args, **kwargs)

    return wrapper


@anywhere
@pytest.mark.parametrize(
    "decorate",
    [
        pytest.param(lambda mark, view: mark(view), id="plain"),
        pytest.param(lambda mark, view: passes_on(mark(view)), id="below a decorator"),
        pytest.param(lambda mark, view: mark(passes_on(view)), id="above a decorator"),
        pytest.param(lambda mark, view: passes_on(mark(passes_on(view))), id="between two"),
    ],
)
def test_rule_of_a_view_survives_decorators(
    decorate: Callable[..., Any], app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """Decorators that use ``functools.wraps`` carry the options of the view on."""

    def create() -> tuple[str, int]:
        write(db)
        return "", 400

    app.post("/")(decorate(db.unit(commit="always"), create))
    assert client.post("/").status_code == 400
    assert witness.names() == ["ada"]


@anywhere
def test_rule_of_a_view_works_on_a_blueprint(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The options belong to the view function, wherever it is registered."""
    blueprint = Blueprint("shop", __name__, url_prefix="/shop")

    @blueprint.post("/")
    @db.unit(commit="always")
    def create() -> tuple[str, int]:
        write(db)
        return "", 400

    app.register_blueprint(blueprint)
    assert client.post("/shop/").status_code == 400
    assert witness.names() == ["ada"]


def refuse(db: Database, name: str) -> ResponseReturnValue:
    write(db, name)
    return "", 400


def stored_by_get_and_post(view: type[View], app: Flask, witness: Witness) -> list[str]:
    app.add_url_rule("/", view_func=view.as_view("view"))
    for method in ("get", "post"):
        assert app.test_client().open(method=method).status_code == 400
    return witness.names()


@anywhere
def test_rule_of_one_method_of_a_class_based_view(
    app: Flask, db: Database, witness: Witness
) -> None:
    """``@db.unit`` on ``post`` says nothing about ``get``."""

    class Marked(MethodView):
        def get(self) -> ResponseReturnValue:
            return refuse(db, "get")

        @db.unit(commit="always")
        def post(self) -> ResponseReturnValue:
            return refuse(db, "post")

    assert stored_by_get_and_post(Marked, app, witness) == ["post"]


@anywhere
def test_rule_of_all_methods_of_a_class_based_view(
    app: Flask, db: Database, witness: Witness
) -> None:
    """In ``decorators`` it holds for every method, except one that has its own."""

    class Marked(MethodView):
        decorators = [db.unit(commit="always")]  # noqa: RUF012

        def get(self) -> ResponseReturnValue:
            return refuse(db, "get")

        @db.unit(commit="on_success")
        def post(self) -> ResponseReturnValue:
            return refuse(db, "post")

    assert stored_by_get_and_post(Marked, app, witness) == ["get"]


@anywhere
def test_rule_on_a_view_class(app: Flask, db: Database, witness: Witness) -> None:
    """``@db.unit`` directly on the class holds for every method."""

    @db.unit(commit="always")
    class Marked(MethodView):
        def get(self) -> ResponseReturnValue:
            return refuse(db, "get")

        def post(self) -> ResponseReturnValue:
            return refuse(db, "post")

    assert stored_by_get_and_post(Marked, app, witness) == ["get", "post"]


@anywhere
def test_rule_of_get_holds_for_head(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """Flask sends HEAD to ``get``, and so its options are those of ``get``."""

    class Marked(MethodView):
        @db.unit(commit="always")
        def get(self) -> ResponseReturnValue:
            return refuse(db, "get")

    app.add_url_rule("/", view_func=Marked.as_view("marked"))
    assert client.head("/").status_code == 400
    assert witness.names() == ["get"]


@anywhere
def test_rule_on_dispatch_request_of_a_view_class(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """A plain ``View`` has one method, and ``@db.unit`` on it is found."""

    class Marked(View):
        @db.unit(commit="always")
        def dispatch_request(self) -> ResponseReturnValue:
            write(db)
            return "", 400

    app.add_url_rule("/", view_func=Marked.as_view("marked"))
    client.get("/")
    assert witness.names() == ["ada"]


@anywhere
def test_rule_of_an_async_view(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """An ``async def`` view has its options like any other."""
    pytest.importorskip("asgiref", reason="async views need 'pip install flask[async]'")

    @app.post("/")
    @db.unit(commit="always")
    async def create() -> tuple[str, int]:
        write(db)
        return "", 400

    client.post("/")
    assert witness.names() == ["ada"]


@anywhere
def test_before_request_that_answers_goes_by_its_status(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """What a function before the view returns is the request's answer."""

    @app.before_request
    def answer() -> tuple[str, int]:
        write(db, request.args["status"])
        return "", int(request.args["status"])

    client.get("/?status=204")
    client.get("/?status=403")
    assert witness.names() == ["204"]


def test_what_a_driver_s_own_cursor_writes_is_rolled_back_too(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """It passes SQLAlchemy by, so a connection that was handed out counts as a write."""

    @app.errorhandler(LookupError)
    def answer(error: LookupError) -> str:
        return "fine"

    @app.post("/")
    def create() -> str:
        cursor = db.session.connection().connection.cursor()
        cursor.execute("INSERT INTO users (name) VALUES ('ada')")
        cursor.close()
        raise LookupError

    assert client.post("/").status_code == 200
    assert witness.names() == []


def test_what_a_cursor_writes_behind_an_undone_savepoint_is_rolled_back_too(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """Who has the connection has it still, whatever the savepoint has undone."""
    app.register_error_handler(LookupError, lambda _: "fine")

    @app.post("/")
    def create() -> str:
        savepoint = db.session.begin_nested()
        connection = db.session.connection().connection
        savepoint.rollback()
        cursor = connection.cursor()
        cursor.execute("INSERT INTO users (name) VALUES ('ada')")
        cursor.close()
        raise LookupError

    assert client.post("/").status_code == 200
    assert witness.names() == []


_TOTAL = """
    CREATE FUNCTION total(new text) RETURNS int LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO users (name) VALUES (new); RETURN 1; END $$
"""
# Beside the database's own function of this name.
_WRITES_UNSEEN = """
    CREATE FUNCTION lower(new int) RETURNS int LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO users (name) VALUES ('ada'); RETURN 1; END $$
"""


@contextmanager
def _function(witness: Witness, definition: str) -> Iterator[None]:
    with witness.engine.begin() as connection:
        connection.execute(text(definition))
    try:
        yield
    finally:
        signature = definition.split("CREATE FUNCTION ")[1].split(" RETURNS", maxsplit=1)[0]
        with witness.engine.begin() as connection:
            connection.execute(text(f"DROP FUNCTION {signature}"))


@on("postgresql")
@pytest.mark.parametrize("query", ["SELECT total('ada')", 'SELECT "total" (:name)'])
def test_what_a_function_of_the_app_writes_is_not_stored(
    query: str, app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """Also one whose name is that of another database's function which only reads."""

    @app.errorhandler(LookupError)
    def answer(error: LookupError) -> str:
        db.session.add(User(name="noted"))
        return "fine"

    @app.post("/<int:status>")
    def create(status: int) -> tuple[str, int]:
        parameters = {"name": "ada"} if ":name" in query else {}
        db.session.execute(text(query), parameters).all()
        if status == 500:
            raise LookupError
        return "refused", status

    with _function(witness, _TOTAL):
        assert client.post("/400").status_code == 400
        assert witness.names() == []
        assert client.post("/500").status_code == 200
        assert witness.names() == ["noted"]


@on("postgresql")
@pytest.mark.parametrize("query", ["SELECT lower(1)", "SELECT lower/**/(1)"])
def test_query_that_writes_unseen_is_not_stored_by_a_handler_that_writes_nothing(
    query: str, app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """Nobody can tell from its words; a handler that has nothing to store commits nothing."""
    ran: list[str] = []

    @app.errorhandler(LookupError)
    def answer(error: LookupError) -> str:
        db.session.begin_nested()  # somebody has forgotten it
        db.on_commit(ran.append, "hook")
        return "fine"

    @app.post("/")
    def create() -> str:
        db.session.execute(text(query)).all()
        raise LookupError

    with _function(witness, _WRITES_UNSEEN):
        assert client.post("/").text == "fine"
        assert witness.names() == []
        assert ran == ["hook"]  # nothing was to be stored, so it has nothing to wait for


def test_objects_stay_readable_behind_a_failure_that_stored_nothing(
    app: Flask, db: Database, client: FlaskClient, witness: Witness, traffic: list[str]
) -> None:
    """P9: nothing expires; an error page that is streamed has its user, and can lazy-load."""
    witness.store(User(name="ada", posts=[Post(title="first")]))

    @app.errorhandler(LookupError)
    def handle(error: Exception) -> Response:
        user = db.session.get_one(User, 1)

        def body() -> Iterator[str]:
            traffic.append("body")
            yield user.name
            traffic.append("read")
            yield f": {user.posts[0].title}"

        return Response(stream_with_context(body()), 404)

    @app.get("/")
    def index() -> str:
        db.session.get_one(User, 1)
        raise LookupError

    assert client.get("/").text == "ada: first"
    assert traffic[traffic.index("body") + 1] == "read"
    assert "COMMIT" not in traffic


@on("postgresql")
def test_several_statements_in_one_are_rolled_back(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """A text that begins as a query may go on as something else, with PostgreSQL's drivers."""
    witness.store(User(name="ada"))
    app.register_error_handler(LookupError, lambda _: "fine")

    @app.post("/")
    def delete() -> str:
        db.session.execute(text("SELECT 1; DELETE FROM users"))
        raise LookupError

    assert client.post("/").status_code == 200
    assert witness.names() == ["ada"]


def test_error_page_whose_own_commit_fails_is_no_success(
    app: Flask,
    db: Database,
    client: FlaskClient,
    witness: Witness,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Flask has no handler left for the error; a 200 would say that the row is stored."""
    app.config["PROPAGATE_EXCEPTIONS"] = False

    @app.errorhandler(500)
    def page(error: Exception) -> str:
        db.session.add(User(name="logged"))
        return "sorry"

    @app.post("/")
    def fail() -> str:
        raise LookupError

    with testing.fail_commit(db, app=app):
        response = client.post("/")
    assert response.status_code == 500
    assert "sorry" not in response.text
    assert "The work of an error handler could not be stored." in caplog.messages
    assert witness.names() == []
