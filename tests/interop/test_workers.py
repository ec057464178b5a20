"""Work that is no request: threads, commands, the shell, socket events, tasks of Celery (P7).

And the other way round: code of others that ends a transaction in the middle of a request.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent
from typing import Any, TypeVar, cast
from unittest import mock

import click
import pytest
from flask import Blueprint
from flask.cli import FlaskGroup
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import scoped_session

from flask_uow import CommitRefused, Database, DiscardedWork, Flask, OutsideContext
from tests.conftest import MakeApp
from tests.support import databases
from tests.support.databases import anywhere, concurrently, on
from tests.support.models import User
from tests.support.threads import in_thread, in_threads
from tests.support.witness import Witness

ROOT = Path(__file__).parents[2]

# Threads ----------------------------------------------------------------------------------------


@concurrently
def test_thread_stores_its_work_in_one_line(app: Flask, db: Database, witness: Witness) -> None:
    """P2, P7: each thread has a context, and so a unit, of its own; the block commits."""
    names = iter("ada bert cleo dora emil fritz gina hugo".split())

    def work() -> None:
        with app.app_context(), db.atomic():
            db.session.add(User(name=next(names)))

    in_threads(work)
    assert witness.names() == "ada bert cleo dora emil fritz gina hugo".split()


def test_thread_that_fails_stores_nothing_of_its_block(
    app: Flask, db: Database, witness: Witness
) -> None:
    """P4, P7: what was stored before the block stays, and the error is the thread's own."""

    def work() -> None:
        with app.app_context():
            with db.atomic():
                db.session.add(User(name="stored"))
            with db.atomic():
                db.session.add(User(name="half"))
                db.session.flush()
                raise ValueError("the thread failed")

    with pytest.raises(ValueError, match="the thread failed"):
        in_thread(work)
    assert witness.names() == ["stored"]


@concurrently
def test_thread_of_a_request_has_its_own_outcome(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """P2, P7: the thread has committed; that the view fails then is no concern of its work."""

    def work() -> None:
        with app.app_context(), db.atomic():
            db.session.add(User(name="thread"))

    @app.get("/")
    def index() -> str:
        in_thread(work)
        db.session.add(User(name="view"))
        return 1 / 0  # type: ignore[return-value]

    assert client.get("/").status_code == 500
    assert witness.names() == ["thread"]


@anywhere
def test_thread_without_a_context_is_told_what_to_write(app: Flask, db: Database) -> None:
    """P11: the sentence names the line that was left out."""

    def work() -> None:
        with db.atomic():
            pass

    with pytest.raises(OutsideContext, match=r"with app\.app_context\(\)"):
        in_thread(work)


# Commands and the shell -------------------------------------------------------------------------


def test_command_is_a_block(app: Flask, db: Database, witness: Witness) -> None:
    """P7: ``@db.atomic`` commits what a command has done, all of it or nothing."""

    @app.cli.command("add")
    @click.argument("name")
    @db.atomic
    def add(name: str) -> None:
        db.session.add(User(name=name))
        db.session.flush()
        if name == "half":
            raise ValueError
        db.session.add(User(name=f"{name}'s friend"))

    runner = app.test_cli_runner()
    assert runner.invoke(args=["add", "ada"]).exit_code == 0
    assert isinstance(runner.invoke(args=["add", "half"]).exception, ValueError)
    assert witness.names() == ["ada", "ada's friend"]


@anywhere
def test_command_keeps_its_name_and_its_help(app: Flask, db: Database) -> None:
    """The block has the name, the docstring and the parameters of the function."""

    @app.cli.command()
    @click.option("--name", default="ada", help="Whose.")
    @db.atomic
    def add_user(name: str) -> None:
        """Add a user."""

    output = app.test_cli_runner().invoke(args=["add-user", "--help"]).output
    assert "Add a user." in output
    assert "--name" in output


@anywhere
def test_command_that_exits_inside_its_block_stores_nothing_of_it(
    app: Flask, db: Database, witness: Witness
) -> None:
    """P7: ``exit()`` of click ends the context at once, so the loss is named; the code is kept."""

    @app.cli.command("add")
    @click.pass_context
    def add(context: click.Context) -> None:
        with db.atomic():
            db.session.add(User(name="stored"))
        with db.atomic():
            db.session.add(User(name="lost"))
            context.exit(3)

    with pytest.warns(DiscardedWork, match=r"1 User \(new\)"):
        assert app.test_cli_runner().invoke(args=["add"]).exit_code == 3
    assert witness.names() == ["stored"]


def shell(app: Flask, *lines: str) -> str:
    """What ``flask shell`` answers to *lines*."""
    group = FlaskGroup(create_app=lambda: app)
    with mock.patch.dict(os.environ):  # 'flask' notes there that it runs, for good
        result = app.test_cli_runner().invoke(group, ["shell"], input="\n".join([*lines, ""]))
    return f"{result.output}{result.exception or ''}"


@anywhere
def test_shell_offers_db_and_the_models(app: Flask, witness: Witness) -> None:
    """P7: ``db`` and the classes are there; a block stores."""
    lines = ["with db.atomic():", "    db.session.add(User(name='ada'))", "", "Post.__tablename__"]
    assert "'posts'" in shell(app, *lines)
    assert witness.names() == ["ada"]


@anywhere
def test_shell_tells_what_it_discards(app: Flask, witness: Witness) -> None:
    """P7: nobody commits for a shell, and it does not end in silence."""
    with pytest.warns(DiscardedWork, match=r"1 User \(new\)"):
        shell(app, "db.session.add(User(name='lost'))")
    assert witness.names() == []


# Socket events ----------------------------------------------------------------------------------


Handler = TypeVar("Handler", bound=Callable[..., Any])


class Simulated:
    """What Flask-SocketIO does with a handler: a request context that is never dispatched."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._handlers: dict[str, Callable[..., Any]] = {}
        with app.test_request_context("/socket.io/") as context:
            self._environ = context.request.environ

    def on(self, name: str) -> Callable[[Handler], Handler]:
        def register(handler: Handler) -> Handler:
            self._handlers[name] = handler
            return handler

        return register

    def emit(self, name: str, *values: object) -> None:
        """Send an event, as a client does."""
        with self._app.request_context(self._environ):
            self._handlers[name](*values)


class Real(Simulated):
    """Flask-SocketIO itself, with its test client."""

    def __init__(self, app: Flask) -> None:
        if find_spec("flask_socketio") is None:
            databases.missing("flask_socketio", "pip install flask-socketio")
        super().__init__(app)
        self._server: Any = import_module("flask_socketio").SocketIO(app, async_mode="threading")

    def on(self, name: str) -> Callable[[Handler], Handler]:
        return cast("Callable[[Handler], Handler]", self._server.on(name))

    def emit(self, name: str, *values: object) -> None:
        client = self._server.test_client(self._app)
        try:
            client.emit(name, *values)
        finally:
            client.disconnect()


@pytest.fixture(params=[Simulated, pytest.param(Real, marks=pytest.mark.slow)])
def events(request: pytest.FixtureRequest, app: Flask) -> Simulated:
    """Takes handlers of events, and sends events to them."""
    found: Simulated = request.param(app)
    return found


def test_event_is_a_block(events: Simulated, db: Database, witness: Witness) -> None:
    """P7: ``@db.atomic`` on a handler commits; an exception leaves nothing."""

    @events.on("open")
    @db.atomic
    def open_account(name: str) -> None:
        db.session.add(User(name=name))
        db.session.flush()
        if name == "half":
            raise ValueError("the event failed")

    events.emit("open", "ada")
    with pytest.raises(ValueError, match="the event failed"):
        events.emit("open", "half")
    events.emit("open", "bert")
    assert witness.names() == ["ada", "bert"]


def test_event_that_does_not_commit_says_what_it_discards(
    events: Simulated, db: Database, witness: Witness
) -> None:
    """P7: a handler is no request, so nothing is stored by itself."""
    events.on("open")(lambda name: db.session.add(User(name=name)))
    with pytest.warns(DiscardedWork, match=r"1 User \(new\)"):
        events.emit("open", "lost")
    assert witness.names() == []


def test_event_tells_others_when_it_is_stored(
    events: Simulated, db: Database, witness: Witness
) -> None:
    """P10: what is sent to the others by ``on_commit`` is sent after the COMMIT, or never."""
    told: list[tuple[str, list[str]]] = []

    @events.on("open")
    @db.atomic
    def open_account(name: str) -> None:
        db.session.add(User(name=name))
        db.on_commit(lambda: told.append((name, witness.names())))
        if name == "half":
            raise ValueError("the event failed")

    events.emit("open", "ada")
    with pytest.raises(ValueError, match="the event failed"):
        events.emit("open", "half")
    assert told == [("ada", ["ada"])]


# Celery -----------------------------------------------------------------------------------------

# The file of a user: a worker, and if it is run as a program, the web app that sends the tasks.
CELERY_APP = """
    import json
    import os
    from sqlalchemy.exc import OperationalError
    from flask_uow import Database, Flask
    from tests.servers.celery_client import configured
    from tests.support.models import Base, User

    db = Database(Base)
    app = Flask(__name__)
    app.config.from_prefixed_env()
    db.init_app(app)
    celery = configured(os.environ["CELERY_FOLDER"])
    results = []

    @celery.task(
        bind=True,
        name="add",
        autoretry_for=(OperationalError,),
        default_retry_delay=0,
        max_retries=3,
    )
    def add(task, name, failures):
        with app.app_context(), db.atomic():
            db.session.add(User(name=name, email=f"attempt {task.request.retries}"))
            db.session.flush()
            if task.request.retries < failures:
                raise OperationalError("INSERT", {}, Exception("database is locked"))
        return task.request.retries

    @celery.task(name="greet")
    def greet(user_id):
        with app.app_context(), db.atomic():
            user = db.session.get_one(User, user_id)
            user.email = "greeted"
            return user.name

    @app.post("/<name>/<int:status>")
    def register(name, status):
        user = User(name=name)
        db.session.add(user)
        db.session.flush()
        db.on_commit(lambda: results.append(greet.delay(user.id)))
        return "", status

    if __name__ == "__main__":
        client = app.test_client()
        for path in ("/ada/201", "/nobody/400"):
            client.post(path)
        results += [add.delay("bert", 0), add.delay("cleo", 2), add.delay("dora", 9)]
        answers = []
        for result in results:
            try:
                answers.append(result.get(timeout=60, interval=0.02))
            except Exception:
                answers.append("failed")
        print(json.dumps(answers))
"""


@pytest.fixture
def send_tasks(app: Flask, witness: Witness, tmp_path: Path) -> Iterator[Callable[[], list[Any]]]:
    """Runs the web app beside a real worker, on a broker in a folder; the results of the tasks."""
    if find_spec("celery") is None:
        databases.missing("celery", "celery is not installed: pip install -e '.[servers]'")
    folder = tmp_path / "broker"
    folder.mkdir()
    (tmp_path / "tasks.py").write_text(dedent(CELERY_APP))
    environment = {
        "FLASK_SQLALCHEMY_DATABASE_URI": app.config["SQLALCHEMY_DATABASE_URI"],
        "CELERY_FOLDER": str(folder),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}",
    }
    command = [sys.executable, "-m", "celery", "--app", "tasks:celery", "worker", "--pool", "solo"]
    command += ["--loglevel", "INFO"]
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=tmp_path,
            env=os.environ | environment,
        )

    def send() -> list[Any]:
        # Both sides create the queue of this broker, and one of two that do so at once fails.
        deadline = time.monotonic() + 60
        while b" ready." not in (tmp_path / "log").read_bytes():
            assert time.monotonic() < deadline, "the worker has not started"
            time.sleep(0.05)
        done = subprocess.run(
            [sys.executable, "tasks.py"],
            check=True,
            stdout=subprocess.PIPE,
            timeout=120,
            cwd=tmp_path,
            env=os.environ | environment,
        )
        answers: list[Any] = json.loads(done.stdout.splitlines()[-1])
        return answers

    try:
        yield send
    finally:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
        print((tmp_path / "log").read_text(errors="replace")[-5000:])


@pytest.mark.servers
@on("sqlite-file", "postgresql")
def test_task_is_a_block_that_celery_may_run_again(
    send_tasks: Callable[[], list[Any]], witness: Witness
) -> None:
    """P4, P7, P10: a failed attempt leaves nothing, the next one has a new unit. A task that was
    sent by ``on_commit`` finds the row; of a request that stored nothing none was sent."""
    assert send_tasks() == ["ada", 0, 2, "failed"]
    assert witness.ask(select(User.name, User.email).order_by(User.name)) == [
        ("ada", "greeted"),
        ("bert", "attempt 0"),
        ("cleo", "attempt 2"),
    ]


# Extensions that commit in the middle of a request ----------------------------------------------


class Datastore:
    """Stands for Flask-Admin and the datastore of Flask-Security: it commits what it adds."""

    def __init__(self, session: scoped_session[Any]) -> None:
        self._session = session

    def create_user(self, name: str) -> None:
        self._session.add(User(name=name))
        self._session.commit()


@pytest.fixture
def register(db: Database) -> Blueprint:
    """A blueprint whose view lets an extension commit in the middle, and may fail behind it."""
    blueprint = Blueprint("accounts", __name__)
    datastore = Datastore(db.session)

    @blueprint.post("/<int:status>")
    def register(status: int) -> tuple[str, int]:
        db.session.add(User(name="before"))
        datastore.create_user("by the extension")
        db.session.add(User(name="behind"))
        return "", status

    return blueprint


ALL = ["before", "behind", "by the extension"]


@pytest.mark.parametrize(
    ("mode", "good", "bad"),
    [("allow", ALL, ["before", "by the extension"]), ("flush", ALL, [])],
)
@pytest.mark.parametrize("status", [201, 409])
def test_extension_that_commits_in_the_middle_is_allowed_or_only_flushes(
    make_app: MakeApp,
    register: Blueprint,
    witness: Witness,
    mode: str,
    status: int,
    good: list[str],
    bad: list[str],
) -> None:
    """P4, P8: with "allow" its commit is a commit; with "flush" the request is all or nothing."""
    app = make_app(UOW_EXPLICIT_COMMIT=mode)
    app.register_blueprint(register)
    assert app.test_client().post(f"/{status}").status_code == status
    assert witness.names() == (good if status == 201 else bad)


def test_extension_that_commits_in_the_middle_may_be_found(
    make_app: MakeApp, register: Blueprint, witness: Witness
) -> None:
    """P11: with "forbid" the error names its line, and nothing is stored."""
    app = make_app(UOW_EXPLICIT_COMMIT="forbid", TESTING=True)
    app.register_blueprint(register)
    with pytest.raises(CommitRefused, match=r"test_workers\.py:\d+"):
        app.test_client().post("/201")
    assert witness.names() == []


def test_mode_may_be_that_of_the_extensions_blueprint(
    make_app: MakeApp, db: Database, register: Blueprint, witness: Witness
) -> None:
    """P4: the pages of the extension only flush; the app's own views commit as they say."""
    app = make_app(UOW_EXPLICIT_COMMIT={"accounts": "flush"})
    app.register_blueprint(register)

    @app.post("/own")
    def own() -> tuple[str, int]:
        db.session.add(User(name="own"))
        db.session.commit()
        return "", 409

    client = app.test_client()
    client.post("/409")
    client.post("/own")
    assert witness.names() == ["own"]


def test_view_may_let_the_extension_flush_for_a_moment(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """P4: inside the block its commit is a flush, also within ``db.atomic()``."""
    datastore = Datastore(db.session)

    @app.post("/<int:status>")
    def index(status: int) -> tuple[str, int]:
        with db.atomic(), db.explicit_commit("flush"):
            datastore.create_user(f"user {status}")
        return "", status

    assert [client.post(f"/{status}").status_code for status in (409, 201)] == [409, 201]
    assert witness.names() == ["user 201"]
