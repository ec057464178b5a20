"""Forks a process that has used its engines; a program, so that pytest is not what is forked.

``python -m tests.faults.forking URL REQUESTS`` prints one line of JSON for each scenario: its
name, and what happened. Names of scenarios behind these two choose some of them.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import faulthandler
import gc
import io
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from flask.testing import FlaskClient
from sqlalchemy import Connection, event, text
from sqlalchemy.orm import Session

from flask_uow import Database, Flask, UnitEnded
from flask_uow.errors import ForkedUnit
from tests.support.models import Base, Post, User

CHILDREN = 4

app, db = Flask("forking"), Database(Base)
app.test_client_class = (
    FlaskClient  # or each client imports it, under a lock that a thread may hold
)
SELECT = text("SELECT :token")


@app.get("/answer/<token>")
def answer(token: str) -> str:
    found: str = db.session.scalar(SELECT, {"token": token})
    return found


@app.post("/users/<name>")
def create(name: str) -> str:
    db.session.add(User(name=name))
    return name


# Asking the app -------------------------------------------------------------------------------


def ask(token: str) -> str:
    """``"ok"``, ``"wrong"`` if the answer belongs to another request, or the error."""
    send = app.test_client().post if token.startswith("new") else app.test_client().get
    response = send(f"/users/{token}" if token.startswith("new") else f"/answer/{token}")
    if response.status_code != 200:
        return f"{response.status} {errors[-1:]}"
    return "ok" if response.text == token else "wrong"


errors: list[str] = []


def note_error(_: Flask, exception: BaseException, **__: Any) -> None:
    errors.append(f"{type(exception).__name__}: {exception}"[:300])


def ask_many(name: str, requests: int) -> Counter[str]:
    """Each fifth request writes."""
    kinds = ("new", "read", "read", "read", "read")
    return Counter(ask(f"{kinds[n % 5]}-{name}-{n}") for n in range(requests))


def own_backend() -> str:
    """The server's name for the connection that this process has in its pool."""
    with app.app_context():
        connection = db.session.connection()
        query = {
            "postgresql": "SELECT pg_backend_pid()",
            "mariadb": "SELECT connection_id()",
        }.get(connection.dialect.name)
        return str(connection.exec_driver_sql(query).scalar()) if query else "a file"


# Forking --------------------------------------------------------------------------------------

_libc = ctypes.PyDLL(None)  # keeps the interpreter's lock, as a server that forks in C does

FORKS: dict[str, Callable[[], int]] = {"os.fork": os.fork, "fork in C": lambda: int(_libc.fork())}


class Child:
    """A forked process that does some work; what it returns, or raises, is sent to the parent.

    :param leave: how the child ends.
    """

    def __init__(
        self,
        work: Callable[[], Any],
        fork: Callable[[], int] = os.fork,
        leave: Callable[[], Any] = lambda: os._exit(0),
    ) -> None:
        self._from_child, to_parent = os.pipe()
        sys.stdout.flush()
        self.pid = fork()
        if self.pid:
            os.close(to_parent)
            return
        signal.alarm(30)
        os.close(self._from_child)
        try:
            result = work()
        except BaseException as error:
            result = f"{type(error).__name__}: {error}"
        os.write(to_parent, json.dumps(result).encode())
        os.close(to_parent)
        leave()
        raise AssertionError("the child is still here")

    def result(self) -> Any:
        found = read_all(self._from_child)
        _, status = os.waitpid(self.pid, 0)
        if os.waitstatus_to_exitcode(status):
            return f"ended with {os.waitstatus_to_exitcode(status)}, after {found!r}"
        return json.loads(found) if found else "nothing"


def read_all(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as stream:
        return stream.read()


@contextlib.contextmanager
def same_backend() -> Iterator[dict[str, Any]]:
    """Notes whether this process has the same connection at the end, and whether it works.

    Files are closed before a fork, because SQLite's library demands it, and opened again.
    """
    found: dict[str, Any] = {}
    before = own_backend()
    yield found
    found["parent"] = ask("parent")
    found["same connection"] = own_backend() in {before, "a file"}


# Scenarios ------------------------------------------------------------------------------------

Scenario = Callable[[int], Any]
scenarios: dict[str, Scenario] = {}


def scenario(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Note a function that takes one of *names*, and the number of requests."""

    def note(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            scenarios[name] = lambda requests, name=name: function(name, requests)  # type: ignore[misc]
        return function

    return note


@scenario(*FORKS)
def forked_at_once(name: str, requests: int) -> Any:
    """Several children and their parent work at the same time."""
    each = requests // CHILDREN
    with same_backend() as found:
        gate, go = os.pipe()

        def work(number: int) -> Any:
            os.close(go)
            os.read(gate, 1)  # until the parent closes its end
            return ask_many(f"{name} {number}", each)

        children = [Child(lambda n=n: work(n), FORKS[name]) for n in range(CHILDREN)]  # type: ignore[misc]
        os.close(go)
        os.close(gate)
        counts = ask_many(f"{name} parent", each)
        for child in children:
            result = child.result()
            counts += Counter(result) if isinstance(result, dict) else Counter([result])
        found["counts"] = counts
    return found


@scenario("multiprocessing", "concurrent.futures")
def pool_of_processes(name: str, requests: int) -> Any:
    tokens = [f"{'new' if n % 5 == 0 else 'read'}-{name}-{n}" for n in range(requests)]
    context = multiprocessing.get_context("fork")
    with same_backend() as found:
        if name == "multiprocessing":
            with context.Pool(CHILDREN) as pool:
                found["counts"] = Counter(pool.map(ask, tokens, chunksize=5))
                pool.close()
                pool.join()
        else:
            with concurrent.futures.ProcessPoolExecutor(CHILDREN, mp_context=context) as executor:
                found["counts"] = Counter(executor.map(ask, tokens, chunksize=5))
    return found


@scenario("engine only")
def engine_only(_: str, requests: int) -> Any:
    """The child knows nothing of units."""

    def work() -> Any:
        with app.app_context():
            engine = db.engine
        with engine.connect() as connection:
            tokens = [str(number) for number in range(20)]
            return [connection.scalar(SELECT, {"token": token}) for token in tokens] == tokens

    with same_backend() as found:
        found["child"] = Child(work).result()
    return found


@scenario("grandchild")
def grandchild(name: str, requests: int) -> Any:
    def work() -> Any:
        before = ask_many("child", 3)
        below = Child(lambda: ask_many("grandchild", 3)).result()
        return [before, below, ask_many("again", 3)]

    with same_backend() as found:
        found["child"] = Child(work).result()
    return found


# A unit is open at the fork -------------------------------------------------------------------


def collect_and_exit() -> None:
    gc.collect()
    os._exit(0)


LEAVE: dict[str, Callable[[], Any]] = {
    "os._exit": lambda: os._exit(0),
    "sys.exit": lambda: sys.exit(0),  # through the view and Flask, to the end of the interpreter
    "garbage collection": collect_and_exit,
}


def kind(error: BaseException) -> str:
    assert not isinstance(error, ForkedUnit) or isinstance(error, UnitEnded)
    return type(error).__name__


def attempts(user: User, connection: Connection) -> dict[str, str]:
    """What a child gets that goes on with the unit of its parent."""

    def flush() -> None:
        db.session.add(Post(title="of the child"))
        db.session.flush()

    def own_unit() -> None:
        with app.app_context():
            assert db.session.scalar(SELECT, {"token": "own"}) == "own"

    actions: dict[str, Callable[[], Any]] = {
        "query": lambda: db.session.scalar(SELECT, {"token": "child"}),
        "flush": flush,
        "lazy load": lambda: user.posts,
        "savepoint": db.session.begin_nested,
        "commit": db.session.commit,
        "rollback": db.session.rollback,
        "connection": lambda: connection.scalar(SELECT, {"token": "child"}),
        "connection.commit": connection.commit,
        "connection.rollback": connection.rollback,
        "connection.close": connection.close,
        "close": db.session.close,
        "own unit": own_unit,
    }
    return kinds(actions)


def kinds(actions: dict[str, Callable[[], Any]]) -> dict[str, str]:
    """The kind of error that each of *actions* raises, or "done"."""
    found = {}
    for name, action in actions.items():
        try:
            action()
        except Exception as error:
            found[name] = kind(error)
        else:
            found[name] = "done"
    return found


@scenario(*[f"open unit, {how}" for how in LEAVE])
def open_unit(name: str, requests: int) -> Any:
    """A view forks; the child tries all, and ends."""
    leave = LEAVE[name.partition(", ")[2]]
    found: dict[str, Any] = {}

    def fork() -> str:
        user = User(name=f"before the fork, {name}")
        db.session.add(user)
        db.session.flush()
        connection = db.session.connection()
        found["child"] = Child(lambda: attempts(user, connection), leave=leave).result()
        db.session.add(User(name=f"after the fork, {name}"))
        return "done"

    with same_backend() as same:
        found["status"] = in_view(fork)
    names = stored()
    found["stored"] = [f"{when} the fork, {name}" in names for when in ("before", "after")]
    found["posts"] = "of the child" in names
    return found | same


@scenario("child answers")
def child_answers(_: str, requests: int) -> Any:
    """A view forks, and the child returns a response as if it were the parent."""
    from_child, to_parent = os.pipe()

    def fork() -> str:
        db.session.add(User(name="before the answer"))
        db.session.flush()
        sys.stdout.flush()
        if (pid := os.fork()) == 0:
            signal.alarm(30)
            return "child"
        os.waitpid(pid, 0)
        return "parent"

    parent = os.getpid()
    with same_backend() as same:
        status = in_view(fork)
        if os.getpid() != parent:
            os.write(to_parent, json.dumps([status, errors[-1]]).encode())
            os._exit(0)
        os.close(to_parent)
    in_child = json.loads(read_all(from_child))
    stays = "before the answer" in stored()
    return {"child": in_child[0], "error": in_child[1], "status": status, "stored": stays} | same


@scenario("open connection")
def open_connection(_: str, requests: int) -> Any:
    """A connection without a unit has written; the child ends, or drops it."""
    found: dict[str, Any] = {"child": []}
    with app.app_context():
        engine = db.engine
    for how, leave in LEAVE.items():
        with engine.connect() as connection:
            connection.execute(User.__table__.insert(), {"name": f"plain, {how}"})  # type: ignore[attr-defined]
            found["child"].append(Child(lambda: "alive", leave=leave).result())
            connection.commit()
    names = stored()
    found["stored"] = [f"plain, {how}" in names for how in LEAVE]
    found["parent"] = ask("parent")
    return found


@scenario("inherited connection")
def inherited_connection(name: str, requests: int) -> Any:
    """A child uses what its parent has opened without a unit; the parent goes on with it."""
    found: dict[str, Any] = {}
    with app.app_context():
        engine, session = db.engine, db.sessionmaker()
    with engine.connect() as writer, engine.connect() as idle, session:
        session.scalar(SELECT, {"token": "before"})
        idle.scalar(SELECT, {"token": "before"})
        idle.rollback()
        writer.execute(INSERT, {"name": f"before the fork, {name}"})
        found["writer"] = Child(lambda: with_the_words(writer)).result()
        found["idle"] = Child(lambda: with_the_words(idle)).result()
        found["session"] = Child(lambda: kinds(_of_session(session))).result()
        found["parent's"] = [
            one.scalar(SELECT, {"token": "after"}) == "after" for one in (idle, session)
        ]
        writer.execute(INSERT, {"name": f"after the fork, {name}"})
        writer.commit()
    names = stored()
    found["stored"] = [f"{when} the fork, {name}" in names for when in ("before", "after")]
    found["by the child"] = "of the child" in names
    found["parent"] = ask("parent")
    return found


INSERT = User.__table__.insert()  # type: ignore[attr-defined]


def with_the_words(connection: Connection) -> list[Any]:
    """What a child gets that uses a connection of its parent, and what else is written."""
    words = io.StringIO()
    with contextlib.redirect_stderr(words), warnings.catch_warnings():
        warnings.simplefilter("always")
        found = kinds(_of_connection(connection))
        gc.collect()
    return [found, words.getvalue()]


def _of_connection(connection: Connection) -> dict[str, Callable[[], Any]]:
    def work() -> None:
        with connection:
            connection.execute(INSERT, {"name": "of the child"})

    return {
        "query": lambda: connection.scalar(SELECT, {"token": "child"}),
        "write": lambda: connection.execute(INSERT, {"name": "of the child"}),
        "savepoint": connection.begin_nested,
        "commit": connection.commit,
        "driver's cursor": lambda: connection.connection.cursor().execute("SELECT 1"),
        "rollback": connection.rollback,
        "write after a rollback": lambda: connection.execute(INSERT, {"name": "of the child"}),
        "with connection": work,
        "close": connection.close,
    }


def _of_session(session: Session) -> dict[str, Callable[[], Any]]:
    return {
        "query": lambda: session.scalar(SELECT, {"token": "child"}),
        "connection": session.connection,
        "commit": session.commit,
    }


@scenario("earlier fork")
def earlier_fork(_: str, requests: int) -> Any:
    """What was in use when its pool was replaced went back to that; nobody collects garbage."""
    with app.app_context():
        engine = db.engine
    gc.disable()
    try:
        with engine.connect() as connection:
            connection.scalar(SELECT, {"token": "at the fork"})
            Child(lambda: "nothing").result()
        with engine.connect() as connection:
            connection.scalar(SELECT, {"token": "at dispose()"})
            engine.dispose()
        return Child(lambda: ask("new of the second child")).result()
    finally:
        gc.enable()


@scenario("lingering child")
def lingering_child(_: str, requests: int) -> Any:
    """The child of a unit lives on; the parent's locks are its own to release."""
    until, end = os.pipe()
    children: list[Child] = []

    def linger() -> str:
        os.close(end)
        os.read(until, 1)
        return "lingered"

    def fork() -> str:
        db.session.add(User(name="lingering"))
        db.session.flush()
        children.append(Child(linger))
        return "done"

    with same_backend() as found:
        found["status"] = in_view(fork)
        begin = time.monotonic()
        found["others"] = [
            ask("new after lingering"),
            Child(lambda: ask("new of a sibling")).result(),
        ]
        found["soon"] = time.monotonic() - begin < 4
        os.close(end)
        found["child"] = children[0].result()
    return found


@scenario("parent closes", "parent closes, open unit")
def parent_closes(name: str, requests: int) -> Any:
    """The child goes on to write when the parent has closed all its connections."""
    until, closed = os.pipe()
    started, start = os.pipe()
    children: list[Child] = []

    def write() -> list[str]:
        os.close(closed)
        first = ask(f"new {name} 0")
        os.write(start, b".")
        os.read(until, 1)
        return [first, *[ask(f"new {name} {number}") for number in range(1, 4)]]

    def fork() -> str:
        db.session.add(User(name=f"before, {name}"))
        db.session.flush()
        children.append(Child(write))
        return "done"

    if "unit" in name:
        in_view(fork)
    else:
        children.append(Child(write))
    os.read(started, 1)
    ask("new " + name)
    with app.app_context():
        db.engine.dispose()
    stored()  # opens and closes what nobody else, as far as SQLite knows, has open
    os.close(closed)
    told = children[0].result()
    names = stored()
    return {
        "told": [answer == "ok" for answer in told],
        "answers": told,
        "stored": [f"new {name} {number}" in names for number in range(4)],
        "of the parent": f"new {name}" in names,
        "parent": ask("parent"),
    }


@scenario("busy pool")
def busy_pool(_: str, requests: int) -> Any:
    """Other threads hold the locks of the pool, and of everything else, at the fork."""
    ask_many("first", 5)  # what happens once, such as imports, has locks of its own
    stop = threading.Event()

    def be_busy(number: int) -> None:
        for count in range(10**9):
            if stop.is_set():
                return
            ask(f"busy-{number}")
            if count % 5 == 0:
                ask(f"new busy-{number}-{count}")

    threads = [threading.Thread(target=be_busy, args=[number]) for number in range(3)]
    for thread in threads:
        thread.start()
    results: list[Any] = []
    for number in range(max(10, requests // 5)):
        work = lambda n=number: [ask(f"child-{n}"), ask(f"new child-{n}")]  # noqa: E731
        results.append(Child(work).result())
        time.sleep(0.001)
    stop.set()
    for thread in threads:
        thread.join()
    return results


@scenario("opening")
def opening(_: str, requests: int) -> Any:
    """Another thread is about to open a connection at the fork."""
    with app.app_context():
        engine = db.engine
    arrived, go_on = threading.Event(), threading.Event()

    def wait(*_: object) -> None:
        if threading.current_thread() is thread:
            arrived.set()
            go_on.wait(timeout=20)

    event.listen(engine, "do_connect", wait)
    engine.dispose()
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(ask("new of a thread")))
    thread.start()
    arrived.wait(timeout=20)
    child = Child(lambda: ask("new of a child")).result()
    go_on.set()
    thread.join()
    return {"child": child, "thread": answers, "parent": ask("parent")}


_view: Callable[[], str] = str


def in_view(work: Callable[[], str]) -> int:
    global _view
    _view = work
    return app.test_client().post("/view").status_code


@app.post("/view")
def view() -> str:
    return _view()


def stored() -> list[str]:
    """The names and titles that another connection sees."""
    from tests.support.witness import Witness

    witness = Witness(app.config["SQLALCHEMY_DATABASE_URI"])
    return witness.names() + witness.titles()


def main(url: str, requests: int, *names: str) -> None:
    from flask import got_request_exception

    app.config["SQLALCHEMY_DATABASE_URI"] = url
    app.register_extension(db)
    app.logger.disabled = True
    got_request_exception.connect(note_error, app)
    with app.app_context():
        db.create_all()
    faulthandler.register(signal.SIGALRM, chain=True)  # who hangs says where, and is killed
    for name in names or scenarios:
        signal.alarm(60)
        try:
            result = scenarios[name](requests)
        except Exception:
            result = traceback.format_exc()
        print(json.dumps([name, result]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
