"""The recipes of the page about background work that need a package, with the real package.

The default environment does not have these packages; ``.[servers]`` has Celery and Flask-SocketIO.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import pytest

from tests.docs.pages import DOCS, ROOT
from tests.support import databases

pytestmark = pytest.mark.slow

PAGE = DOCS / "how-to" / "background-work.md"
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def code_of(heading: str) -> str:
    """The Python of a section, with what is below its smaller headings."""
    text = f"\n{PAGE.read_text(encoding='utf-8')}\n## "
    _, found, section = text.partition(f"\n## {heading}\n")
    assert found, heading
    return "\n\n".join(PYTHON.findall(section.partition("\n## ")[0]))


def demand(package: str) -> None:
    if find_spec(package) is None:
        databases.missing(package, f"{package} is not installed: pip install -e '.[servers]'")


@pytest.fixture
def app_of_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the first file of the page, and a section after it, as the module ``app``."""

    monkeypatch.chdir(tmp_path)

    def make(heading: str) -> Any:
        module = ModuleType("app")
        monkeypatch.setitem(sys.modules, "app", module)
        code = f"{code_of('The three lines')}\n\n{code_of(heading)}"
        exec(compile(code, str(PAGE), "exec", dont_inherit=True), vars(module))
        names: Any = module
        with names.app.app_context():
            names.db.create_all()
        return names

    return make


# Flask-SocketIO ---------------------------------------------------------------------------------


def test_events_of_flask_socketio(app_of_page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others hear of a row that is stored, and a background task stores its own work."""
    demand("flask_socketio")
    SocketIO = import_module("flask_socketio").SocketIO
    monkeypatch.setattr("flask_socketio.SocketIO", partial(SocketIO, async_mode="threading"))
    names = app_of_page("Flask-SocketIO")
    client = names.socketio.test_client(names.app)
    client.emit("order", {"email": "ada@example.org"})
    assert [(event["name"], event["args"]) for event in client.get_received()] == [
        ("ordered", [{"id": 1}])
    ]
    monkeypatch.setattr(names.socketio, "sleep", lambda _: None)
    client.emit("remind", {"id": 1})
    until(lambda: ask(names, "SELECT note FROM 'order'") == [("reminded",)])
    until(lambda: [event["name"] for event in client.get_received()] == ["reminded"])
    client.disconnect()


# APScheduler ------------------------------------------------------------------------------------


def test_job_of_apscheduler(app_of_page: Any) -> None:
    """The job that is scheduled commits what it does."""
    pytest.importorskip("apscheduler")
    names = app_of_page("Cron")
    scheduler: Any = ModuleType("scheduler")
    code, _, _ = code_of("APScheduler").partition("\n\nclass Job")
    exec(compile(code, str(PAGE), "exec"), vars(scheduler))
    with names.app.app_context(), names.db.atomic():
        names.db.session.add_all(
            [
                names.Order(email="ada@example.org", receipt_sent=True),
                names.Order(email="grace@example.org"),
            ]
        )
    (job,) = scheduler.scheduler.get_jobs()
    job.func()
    assert ask(names, "SELECT email FROM 'order'") == [("grace@example.org",)]


# Celery -----------------------------------------------------------------------------------------

# Mails go to a file, and the first one about a reminder finds the database locked.
MAIL = """
    import pathlib

    from sqlalchemy.exc import OperationalError

    def send_mail(address, text):
        mails = pathlib.Path("mails")
        lines = mails.read_text() if mails.exists() else ""
        mails.write_text(f"{lines}{address}: {text}\\n")
        if "waiting" in text and "waiting" not in lines:
            import sqlite3

            locked = sqlite3.OperationalError("database is locked")
            locked.sqlite_errorcode = sqlite3.SQLITE_BUSY
            locked.sqlite_errorname = "SQLITE_BUSY"
            raise OperationalError("UPDATE", {}, locked)
"""
CLIENT = """
    import app

    with app.app.app_context():
        app.db.create_all()
    client = app.app.test_client()
    assert client.post("/orders", data={"email": "ada@example.org"}).status_code == 201
    app.send_reminder.delay(1)
    app.send_receipt.delay(1)
    app.send_receipt.delay(99)
"""


@pytest.mark.servers
def test_tasks_of_celery(tmp_path: Path) -> None:
    """A worker, started as the page says, finds the row, and tries again after a lock."""
    demand("celery")
    code = f"{code_of('The three lines')}\n\n{code_of('Celery')}\n\n{dedent(MAIL)}"
    (tmp_path / "app.py").write_text(code)
    (tmp_path / "client.py").write_text(dedent(CLIENT))
    environment = {
        **os.environ,
        "CELERY_BROKER_URL": f"sqla+sqlite:///{tmp_path}/broker.db",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    subprocess.run([sys.executable, "client.py"], cwd=tmp_path, env=environment, check=True)
    (command,) = re.findall(r"^celery --app .+$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    mails = tmp_path / "mails"
    with worker(command, tmp_path, environment) as log:
        until(lambda: mails.exists() and len(mails.read_text().splitlines()) == 3, 60)
        until(lambda: "NoResultFound" in log.read_text())
        until(lambda: stored(tmp_path) == [("ada@example.org", "reminded", 1)])
    assert sorted(mails.read_text().splitlines()) == [
        "ada@example.org: You have ordered number 1.",
        "ada@example.org: Your order is waiting for you.",
        "ada@example.org: Your order is waiting for you.",
    ]


@contextlib.contextmanager
def worker(command: str, folder: Path, environment: dict[str, str]) -> Iterator[Path]:
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command.split(),
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield log
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        print(log.read_text(errors="replace")[-5000:])


def stored(folder: Path) -> list[Any]:
    with contextlib.closing(sqlite3.connect(folder / "instance" / "shop.db")) as witness:
        return witness.execute("SELECT email, note, receipt_sent FROM 'order'").fetchall()


def ask(names: Any, sql: str) -> list[Any]:
    path = Path(names.app.instance_path) / "shop.db"
    with contextlib.closing(sqlite3.connect(path)) as witness:
        return witness.execute(sql).fetchall()


def until(condition: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
