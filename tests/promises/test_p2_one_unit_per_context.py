"""P2: one unit of work per Flask context, and never one for two."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import nullcontext
from contextvars import Context, copy_context
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from flask import (
    Flask,
    Request,
    Response,
    copy_current_request_context,
    render_template_string,
    stream_with_context,
)
from flask.testing import FlaskClient
from sqlalchemy import event, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from flask_uow import ConcurrentUse, Database, DiscardedWork, OutsideContext, UnitEnded
from flask_uow._unit.session import UnitSession
from tests.conftest import MakeApp
from tests.support.databases import TestDatabase, concurrently
from tests.support.engines import checked_out
from tests.support.models import Base, User
from tests.support.threads import in_thread, in_threads
from tests.support.witness import Witness

# One session within a context -----------------------------------------------------------------


def test_request_has_one_session_from_its_first_function_to_its_last(
    app: Flask, db: Database, client: FlaskClient
) -> None:
    """before_request, the view, a template, after_request and teardown see the same session."""
    seen: list[Session] = []

    def look(*_: object) -> None:
        seen.append(db.session())

    def look_at_response(response: Response) -> Response:
        look()
        return response

    app.before_request(look)
    app.after_request(look_at_response)
    app.teardown_request(look)

    @app.get("/")
    def index() -> str:
        look()
        return render_template_string("{{ look() or '' }}", look=look)

    assert client.get("/").status_code == 200
    assert len(seen) == 5
    assert len(set(map(id, seen))) == 1


def test_request_and_its_error_handler_share_the_session(
    app: Flask, db: Database, client: FlaskClient
) -> None:
    """The handler of an error works in the unit of the view that raised it."""
    seen: list[Session] = []

    @app.errorhandler(LookupError)
    def handle(error: Exception) -> str:
        seen.append(db.session())
        return ""

    @app.get("/")
    def index() -> str:
        seen.append(db.session())
        raise LookupError

    client.get("/")
    assert len(seen) == 2
    assert seen[0] is seen[1]


def test_app_context_has_one_session(app: Flask, db: Database) -> None:
    """Outside of requests the app context is the scope; the next one has another session."""
    with app.app_context():
        first = db.session()
        assert db.session() is first
    with app.app_context():
        assert db.session() is not first


def test_session_is_reached_by_every_way_of_scoped_session(app: Flask, db: Database) -> None:
    """Calling, attributes, ``in`` and iteration all mean the session of this context."""
    with app.app_context():
        user = User(name="ada")
        db.session.add(user)
        assert user in db.session
        assert list(db.session) == [user]
        assert db.session.new == db.session().new
        assert db.session.registry() is db.session()
        db.session.expunge_all()


# Two contexts, two sessions -------------------------------------------------------------------


@concurrently
def test_threads_never_share_a_session(app: Flask, db: Database, witness: Witness) -> None:
    """Eight requests at once have eight sessions, and each stores its own row."""
    inside = threading.Barrier(8)
    seen: list[Session] = []

    @app.post("/<name>")
    def create(name: str) -> str:
        seen.append(db.session())
        inside.wait(timeout=30)
        db.session.add(User(name=name))
        return ""

    names = list("abcdefgh")
    answers = in_threads(lambda: app.test_client().post(f"/{names.pop()}").status_code)
    assert answers == [200] * 8
    assert len(set(map(id, seen))) == 8
    assert witness.names() == list("abcdefgh")


@concurrently
def test_error_in_one_thread_leaves_the_other_alone(
    app: Flask, db: Database, witness: Witness
) -> None:
    """A rollback undoes the work of its own request only."""
    inside = threading.Barrier(2)

    @app.post("/<name>")
    def create(name: str) -> str:
        db.session.add(User(name=name))
        inside.wait(timeout=30)
        if name == "bad":
            raise LookupError
        return ""

    names = ["good", "bad"]
    answers = in_threads(lambda: app.test_client().post(f"/{names.pop()}").status_code, times=2)
    assert sorted(answers) == [200, 500]
    assert witness.names() == ["good"]


def test_copied_request_context_has_a_session_of_its_own(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """A thread with ``copy_current_request_context`` neither shares the unit nor ends it."""

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="view"))
        mine = db.session()

        @copy_current_request_context
        def work() -> Session:
            assert list(db.session.new) == []
            return db.session()

        assert in_thread(work) is not mine
        assert db.session() is mine
        return ""

    assert client.post("/").status_code == 200
    assert witness.names() == ["view"]


@concurrently
def test_copied_request_context_commits_for_itself(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """What the copy commits stays, though the view fails afterwards."""

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="view"))

        @copy_current_request_context
        def work() -> None:
            db.session.add(User(name="copy"))
            db.session.commit()

        in_thread(work)
        raise LookupError

    assert client.post("/").status_code == 500
    assert witness.names() == ["copy"]


def test_request_does_not_share_the_session_of_a_test_around_it(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """A test's own app context keeps its session and its pending work; the request has its own."""
    seen: list[Session] = []

    @app.post("/")
    def create() -> str:
        seen.append(db.session())
        assert list(db.session.new) == []
        db.session.add(User(name="request"))
        return ""

    with pytest.warns(DiscardedWork, match=r"1 User \(new\)"), app.app_context():
        outer = db.session()
        db.session.add(User(name="test"))
        client.post("/")
        client.post("/")
        assert db.session() is outer
        assert [user.name for user in db.session.new] == ["test"]
        assert witness.names() == ["request"]
    assert len({id(outer), *map(id, seen)}) == 3


def test_second_request_in_a_test_sees_nothing_of_the_first(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """Inside one app context, what a failed request had written is gone for the next one."""

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        db.session.flush()
        raise LookupError

    @app.get("/")
    def names() -> list[str]:
        return list(db.session.scalars(select(User.name)))

    with app.app_context():
        assert client.post("/").status_code == 500
        assert client.get("/").json == []
    assert witness.names() == []


@concurrently
def test_request_inside_a_view_has_its_own_unit(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The inner request commits though the outer one fails, and leaves its session alone."""

    @app.post("/inner")
    def inner() -> str:
        db.session.add(User(name="inner"))
        return ""

    @app.post("/outer")
    def outer() -> str:
        mine = db.session()
        db.session.add(User(name="outer"))
        assert app.test_client().post("/inner").status_code == 200
        assert db.session() is mine
        assert [user.name for user in db.session.new] == ["outer"]
        raise LookupError

    assert client.post("/outer").status_code == 500
    assert witness.names() == ["inner"]


@concurrently
def test_failing_request_inside_a_view_fails_alone(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The inner request is rolled back, the outer one commits."""

    @app.post("/inner")
    def inner() -> str:
        db.session.add(User(name="inner"))
        db.session.flush()
        raise LookupError

    @app.post("/outer")
    def outer() -> str:
        assert app.test_client().post("/inner").status_code == 500
        db.session.add(User(name="outer"))
        return ""

    assert client.post("/outer").status_code == 200
    assert witness.names() == ["outer"]


def test_app_context_inside_a_view_has_its_own_unit(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """``with app.app_context()`` is a scope of its own, and never commits by itself."""

    @app.post("/")
    def create() -> str:
        mine = db.session()
        with pytest.warns(DiscardedWork), app.app_context():
            assert db.session() is not mine
            db.session.add(User(name="inner"))
        assert db.session() is mine
        db.session.add(User(name="outer"))
        return ""

    assert client.post("/").status_code == 200
    assert witness.names() == ["outer"]


@pytest.mark.parametrize(
    "around",
    [
        "nothing",
        "a test's app context",
    ],
)
def test_contexts_inside_a_view_can_come_before_its_own_first_use(
    around: str, app: Flask, db: Database, client: FlaskClient
) -> None:
    """The unit of a context that was nested in a view is never taken for the view's."""
    seen: list[Session] = []

    @app.get("/")
    def index() -> str:
        with app.app_context():
            seen.append(db.session())
            with app.test_request_context():
                seen.append(db.session())
            assert db.session() is seen[0]
        seen.append(db.session())
        return ""

    with app.app_context() if around != "nothing" else nullcontext():
        client.get("/")
    assert len(set(map(id, seen))) == 3


def test_abandoned_context_hands_its_session_to_nobody(app: Flask, db: Database) -> None:
    """A context that was never popped keeps its unit to itself, whatever addresses are reused."""

    def abandon() -> None:
        app.app_context().push()
        db.session.info["abandoned"] = True

    for _ in range(50):
        copy_context().run(abandon)
        with app.app_context():
            assert db.session.info == {}


def test_two_apps_on_one_database_share_nothing(
    make_app: MakeApp, db: Database, tmp_path: Path, witness: Witness
) -> None:
    """A request to another app, made inside a view, has that app's engine and a unit of its own."""
    first, second = make_app(), make_app(url=f"sqlite:///{tmp_path / 'second.db'}")

    @second.post("/")
    def inner() -> str:
        db.session.add(User(name="second"))
        return ""

    @first.post("/")
    def outer() -> str:
        mine = db.session()
        db.session.add(User(name="first"))
        assert second.test_client().post("/").status_code == 200
        with second.app_context():
            assert db.session.get_bind() is db.engine is not mine.get_bind()
        assert db.session() is mine
        return ""

    assert first.test_client().post("/").status_code == 200
    assert witness.names() == ["first"]
    assert Witness(f"sqlite:///{tmp_path / 'second.db'}").names() == ["second"]


def test_two_databases_on_two_apps_never_meet(make_app: MakeApp, db: Database) -> None:
    """Each ``Database`` finds its own unit on its own app's context, in either nesting."""
    from tests.support.models import Base

    other = Database(Base)
    first, second = make_app(), make_app(other)
    with first.app_context():
        mine = db.session()
        with second.app_context():
            assert other.session() is not mine
        assert db.session() is mine


# Greenlets and tasks --------------------------------------------------------------------------


@pytest.mark.slow
@concurrently
def test_greenlets_never_share_a_session(app: Flask, database: TestDatabase) -> None:
    """Twelve greenlets that are inside a view at once have twelve sessions."""
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-m", "tests.support.greenlets", database.url],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.stdout.split() == ["12", "12", "12", "12"], run.stderr


def test_async_view_shares_the_session_of_its_request(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """An ``async def`` view runs in another thread, and works with the unit of its request."""
    pytest.importorskip("asgiref", reason="async views need 'pip install flask[async]'")
    seen: list[Session] = []
    app.before_request(lambda: seen.append(db.session()))

    @app.post("/")
    async def create() -> str:
        seen.append(db.session())
        await asyncio.sleep(0)
        db.session.add(User(name="ada"))
        db.session.flush()
        return ""

    assert client.post("/").status_code == 200
    assert seen[0] is seen[1]
    assert witness.names() == ["ada"]


def test_async_view_that_fails_leaves_nothing(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """What an ``async def`` view has written is rolled back like any other view's."""
    pytest.importorskip("asgiref", reason="async views need 'pip install flask[async]'")

    @app.post("/")
    async def create() -> str:
        db.session.add(User(name="ada"))
        db.session.flush()
        raise LookupError

    assert client.post("/").status_code == 500
    assert witness.names() == []


@concurrently
def test_async_requests_never_share_a_session(app: Flask, db: Database, witness: Witness) -> None:
    """Eight async views at once have eight sessions."""
    pytest.importorskip("asgiref", reason="async views need 'pip install flask[async]'")
    inside = threading.Barrier(8)
    seen: list[Session] = []

    @app.post("/<name>")
    async def create(name: str) -> str:
        seen.append(db.session())
        inside.wait(timeout=30)
        db.session.add(User(name=name))
        return ""

    names = list("abcdefgh")
    answers = in_threads(lambda: app.test_client().post(f"/{names.pop()}").status_code)
    assert answers == [200] * 8
    assert len(set(map(id, seen))) == 8
    assert witness.names() == list("abcdefgh")


# A unit in two threads ------------------------------------------------------------------------


def test_unit_may_be_handed_to_another_thread(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """A thread with the view's context variables works in the view's unit, one after the other."""

    def work() -> Session:
        db.session.add(User(name="thread"))
        db.session.flush()
        return db.session()

    @app.post("/")
    def create() -> str:
        assert in_thread(partial(copy_context().run, work)) is db.session()
        db.session.add(User(name="view"))
        return ""

    assert client.post("/").status_code == 200
    assert witness.names() == ["thread", "view"]


def while_inside(db: Database, action: Callable[[], object]) -> list[BaseException | object]:
    """Let another thread do *action* in the midst of this thread's next statement.

    What it returned or raised is put into the returned list.
    """
    outcome: list[BaseException | object] = []

    @event.listens_for(db.engine, "before_cursor_execute", once=True)
    def interrupt(*_: Any) -> None:
        try:
            outcome.append(in_thread(partial(copy_context().run, action)))
        except BaseException as error:
            outcome.append(error)

    return outcome


USES: dict[str, Callable[[Database, Session], object]] = {
    "db.session": lambda db, session: db.session(),
    "query": lambda db, session: session.scalars(select(User)),
    "core": lambda db, session: session.execute(text("SELECT 1")),
    "get": lambda db, session: session.get(User, 1),
    "flush": lambda db, session: session.flush(),
    "connection": lambda db, session: session.connection().exec_driver_sql("SELECT 1"),
    "commit": lambda db, session: session.commit(),
    "rollback": lambda db, session: session.rollback(),
}


@pytest.mark.fault(
    "W10",
    fault="Two threads use one unit at once",
    then="The second thread is refused with ConcurrentUse, the first one continues",
)
@pytest.mark.parametrize("use", USES)
def test_two_threads_at_once_in_one_unit_are_refused(
    use: str, app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The second thread gets a sentence, and the first is not disturbed."""

    @app.post("/")
    def create() -> str:
        session = db.session()
        outcome = while_inside(db, lambda: USES[use](db, session))
        db.session.add(User(name="ada"))
        db.session.flush()
        assert isinstance(outcome[0], ConcurrentUse), outcome
        assert "in use by another thread" in str(outcome[0])
        return ""

    assert client.post("/").status_code == 200
    assert witness.names() == ["ada"]


@concurrently
def test_request_that_ends_waits_for_a_thread_in_its_unit(
    app: Flask, db: Database, client: FlaskClient
) -> None:
    """To close the connection under its statement would end the process, or stop that thread."""
    inside, go_on = threading.Event(), threading.Event()
    dropped, jobs = list[object](), list[Future[Any]]()

    def read() -> Any:
        event.listen(db.engine, "after_cursor_execute", stay, once=True)
        return db.session.scalars(select(User)).all()

    def stay(*_: Any) -> None:
        inside.set()
        go_on.wait(10)

    with ThreadPoolExecutor(2) as pool:

        @app.post("/")
        def leave_a_thread() -> str:
            db.session.scalars(select(User)).all()
            event.listen(db.engine, "close", lambda *found: dropped.append(found))
            jobs.append(pool.submit(copy_context().run, read))
            assert inside.wait(10)
            return ""

        response = pool.submit(client.post, "/")
        assert inside.wait(10)
        try:
            with pytest.raises(FutureTimeout):
                response.result(0.2)
        finally:
            go_on.set()
        assert response.result(10).status_code == 500
        assert jobs[0].result(10) == []
    assert (dropped, checked_out()) == ([], 0)


def test_unit_can_be_used_again_after_a_statement_failed(
    app: Flask, db: Database, client: FlaskClient
) -> None:
    """A failed statement leaves the unit free for another thread."""

    @app.post("/")
    def create() -> str:
        db.session.add_all([User(name="ada"), User(name="ada")])
        with pytest.raises(IntegrityError):
            db.session.flush()
        db.session.rollback()
        count = in_thread(partial(copy_context().run, lambda: db.session.scalars(select(User))))
        assert list(count) == []
        return ""

    assert client.post("/").status_code == 200


# After the end --------------------------------------------------------------------------------

LATE_USES: dict[str, Callable[[Session], object]] = {
    "query": lambda session: session.scalars(select(User)).all(),
    "core": lambda session: session.execute(text("SELECT 1")),
    "get": lambda session: session.get(User, 1),
    "add": lambda session: session.add(User(name="late")),
    "add all": lambda session: session.add_all([User(name="late")]),
    "merge": lambda session: session.merge(User(id=1, name="late")),
    "connection": lambda session: session.connection(),
    "begin": lambda session: session.begin(),
    "begin_nested": lambda session: session.begin_nested(),
}


@pytest.mark.fault(
    "D10",
    fault="A session is used after its unit has ended, by a thread for example",
    then="The use is refused with UnitEnded or OutsideContext",
)
@pytest.mark.parametrize("use", LATE_USES)
@pytest.mark.parametrize("ending", ["success", "error", "app context"])
def test_session_kept_beyond_its_context_is_refused(
    use: str, ending: str, app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """A session that outlived its unit takes no connection and stores nothing."""
    kept: list[Session] = []

    @app.get("/")
    def index() -> str:
        kept.append(db.session())
        db.session.scalars(select(User)).all()
        if ending == "error":
            raise LookupError
        return ""

    if ending == "app context":
        with app.app_context():
            kept.append(db.session())
    else:
        client.get("/").close()  # as a server does; Flask's own error pages are streamed bodies
    with pytest.raises(UnitEnded, match="unit of work has ended"):
        LATE_USES[use](kept[0])
    assert checked_out() == 0
    assert witness.names() == []


@pytest.mark.fault(
    "D10",
    fault="A session is used after its unit has ended, by a thread for example",
    then="The use is refused with UnitEnded or OutsideContext",
)
def test_thread_that_outlives_its_request_is_refused(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """A thread with copied context variables gets a sentence once the context has ended."""
    answered = threading.Event()
    outcome: list[BaseException] = []

    def work() -> None:
        answered.wait(timeout=30)
        try:
            db.session.add(User(name="late"))
            db.session.commit()
        except OutsideContext as error:
            outcome.append(error)

    threads: list[threading.Thread] = []

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="view"))
        threads.append(threading.Thread(target=copy_context().run, args=(work,)))
        threads[0].start()
        return ""

    client.post("/")
    answered.set()
    threads[0].join(timeout=30)
    assert "has ended" in str(outcome[0])
    assert "copy_current_request_context" in str(outcome[0])
    assert witness.names() == ["view"]
    assert checked_out() == 0


@pytest.mark.parametrize("around", ["a request", "an app context"])
def test_thread_that_outlives_its_request_may_have_its_own_context(
    around: str, app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """As the error advises, although it has inherited the variables of an ended context."""
    ended = threading.Event()

    def work() -> str:
        ended.wait(timeout=30)
        with app.app_context(), db.atomic():
            db.session.add(User(name="late"))
        with app.app_context():
            db.session.add(User(name="later"))
            db.session.commit()
        return "done"

    with ThreadPoolExecutor(1) as pool:
        jobs: list[Future[str]] = []

        @app.post("/")
        def create() -> str:
            db.session.add(User(name="view"))
            jobs.append(pool.submit(copy_context().run, work))
            return ""

        if around == "a request":
            client.post("/")
        else:
            with app.app_context():
                create()
                db.session.commit()
        ended.set()
        assert jobs[0].result(timeout=30) == "done"
    assert witness.names() == ["late", "later", "view"]
    assert checked_out() == 0


def test_unit_that_a_thread_opens_while_its_context_ends_is_refused(
    app: Flask, db: Database, client: FlaskClient
) -> None:
    """After the last function of the request, and before Flask forgets it."""
    outcome: list[object] = []

    def work() -> None:
        try:
            outcome.append(db.session.scalars(select(User)).all())
        except OutsideContext as error:
            outcome.append(error)

    class Closing(Request):
        def close(self) -> None:
            thread = threading.Thread(target=copy_context().run, args=(work,))
            thread.start()
            thread.join(timeout=30)

    app.request_class = Closing

    @app.get("/")
    def index() -> str:
        return ""

    assert client.get("/").status_code == 200
    assert "has ended" in str(outcome[0])
    assert checked_out() == 0


def test_block_that_a_thread_enters_while_its_context_ends_is_refused(
    app: Flask,
    db: Database,
    client: FlaskClient,
    witness: Witness,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between two steps of ``with db.atomic():`` the unit that it has found is gone."""
    found, ended = threading.Event(), threading.Event()
    outcome: list[Exception] = []
    refuse = UnitSession.refuse_other_thread

    def pause(session: UnitSession) -> None:
        refuse(session)
        if threading.current_thread() is not threading.main_thread():
            found.set()
            ended.wait(timeout=30)

    def work() -> None:
        try:
            with db.atomic():
                db.session.add(User(name="late"))
        except Exception as error:
            outcome.append(error)

    monkeypatch.setattr(UnitSession, "refuse_other_thread", pause)
    threads: list[threading.Thread] = []

    @app.get("/")
    def index() -> str:
        threads.append(threading.Thread(target=copy_context().run, args=(work,)))
        threads[0].start()
        assert found.wait(timeout=30)
        return ""

    assert client.get("/").status_code == 200
    ended.set()
    threads[0].join(timeout=30)
    assert "has ended" in str(outcome[0])
    assert witness.names() == []
    assert checked_out() == 0


def test_context_that_ends_in_the_midst_of_a_thread_s_work_leaks_nothing(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The thread had the session already: its next statement is refused, no connection is lost."""
    started, answered = threading.Event(), threading.Event()
    outcome: list[BaseException] = []

    def work() -> None:
        session = db.session()
        session.scalars(select(User)).all()
        started.set()
        answered.wait(timeout=30)
        try:
            session.add(User(name="late"))
            session.commit()
        except UnitEnded as error:
            outcome.append(error)

    threads: list[threading.Thread] = []

    @app.get("/")
    def index() -> str:
        threads.append(threading.Thread(target=copy_context().run, args=(work,)))
        threads[0].start()
        started.wait(timeout=30)
        return ""

    assert client.get("/").status_code == 200
    answered.set()
    threads[0].join(timeout=30)
    assert len(outcome) == 1
    assert witness.names() == []
    assert checked_out() == 0


def test_outside_of_any_context_there_is_no_session(app: Flask, db: Database) -> None:
    """``db.session`` without a context is refused and says where it can be used."""
    with pytest.raises(OutsideContext, match="outside of a Flask context"):
        db.session.add(User(name="nowhere"))


# Requests that are pushed again ---------------------------------------------------------------


def test_app_context_beside_a_request_that_a_client_keeps_is_apart(
    app: Flask, db: Database
) -> None:
    """``with app.test_client()`` leaves the last request pushed; each block has its own unit."""

    @app.get("/")
    def index() -> str:
        db.session.execute(text("SELECT 1"))
        return ""

    with app.test_client() as client:
        client.get("/")
        seen = []
        for _ in range(2):
            with app.app_context():
                seen.append(db.session())
                db.session.execute(text("SELECT 1"))
            assert checked_out() == 0
    assert seen[0] is not seen[1]


@pytest.mark.parametrize("when", ["in the view", "in the body"])
def test_app_context_around_a_streamed_body_is_apart(
    when: str, app: Flask, db: Database, client: FlaskClient
) -> None:
    """A body that runs in the context of its request pushes that a second time."""
    seen: dict[str, Session] = {}

    def look() -> None:
        with app.app_context():
            seen["inner"] = db.session()

    def body() -> Iterator[str]:
        if when == "in the body":
            look()
        yield "text"

    @app.get("/")
    def stream() -> Response:
        seen["view"] = db.session()
        response = Response(stream_with_context(body()))
        if when == "in the view":
            look()
        return response

    assert client.get("/").text == "text"
    assert seen["inner"] is not seen["view"]


def test_two_threads_in_one_context_open_one_unit(make_app: MakeApp) -> None:
    """Both have a session ready before either is kept; the second thread finds the first's."""
    both_are_opening = threading.Barrier(2)
    one_has_opened = threading.Event()

    class SlowSession(Session):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            arrival = both_are_opening.wait(timeout=30)
            if arrival == 0:
                one_has_opened.wait(timeout=30)

    db = Database(Base, session_options={"class_": SlowSession})

    def use(variables: Context) -> Session:
        session = variables.run(db.session)
        one_has_opened.set()
        return session

    copies = Queue[Context]()
    with make_app(db).test_request_context():
        copies.put(copy_context())
        copies.put(copy_context())
        first, second = in_threads(lambda: use(copies.get()), times=2)
        assert first is second is db.session()


def test_teardown_that_is_called_by_hand_ends_the_unit_only(app: Flask, db: Database) -> None:
    """As some tests do: the context goes on, with a new unit."""
    with app.app_context():
        first = db.session()
        app.do_teardown_appcontext()
        assert db.session() is not first
        assert db.session.scalars(select(User)).all() == []
    assert checked_out() == 0
