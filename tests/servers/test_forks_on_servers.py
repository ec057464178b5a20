"""P13: servers that fork after the app has used its database, without a word from the user."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.support import databases
from tests.support.witness import Witness

pytestmark = pytest.mark.servers

ROOT = Path(__file__).parents[2]
GUNICORN = (
    f"{sys.executable} -m gunicorn --config tests/servers/gunicorn.conf.py --bind fd://{{}}"
    " --preload tests.servers.forked:app"
)
UWSGI = "uwsgi --http-socket fd://{} --module tests.servers.forked:app"
COMMANDS = {
    "gunicorn sync": f"{GUNICORN} --workers 4",
    "gunicorn gthread": f"{GUNICORN} --workers 2 --worker-class gthread --threads 4",
    "gunicorn gevent": f"{GUNICORN} --workers 2 --worker-class gevent",
    "uwsgi processes": f"{UWSGI} --processes 4",
    "uwsgi threads": f"{UWSGI} --processes 2 --threads 4",
}
CELERY = f"{sys.executable} -m celery --app tests.servers.forked:celery worker --concurrency 4"


@pytest.fixture
def witness(postgresql_url: str) -> Iterator[Witness]:
    """A connection of our own to a database that only the server of the test uses."""
    with databases.own_database(postgresql_url) as url:
        yield Witness(url)


@contextlib.contextmanager
def running(
    command: str, witness: Witness, log: Path, listener: socket.socket | None = None, **more: str
) -> Iterator[None]:
    """Start a server in a process group of its own, and kill that at the end."""
    url = witness.engine.url.render_as_string(hide_password=False)
    environment = {"FLASK_SQLALCHEMY_DATABASE_URI": url, "PYTHONPATH": str(ROOT), "PATH": PATH}
    number = listener.fileno() if listener else 0
    with log.open("wb") as output:
        process = subprocess.Popen(
            command.format(number).split(),
            env=os.environ | environment | more,
            cwd=ROOT,
            pass_fds=[number],
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        print(log.read_text(errors="replace")[-5000:])


PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def demand(name: str) -> None:
    """Skip the test, or fail it, if a server is not installed."""
    if find_spec(name) is None and shutil.which(name, path=PATH) is None:
        databases.missing(name, f"{name} is not installed: pip install -e '.[servers]'")


def ask(port: int, token: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request("POST", f"/{token}", headers={"Content-Length": "0"})
        response = connection.getresponse()
        body = response.read()
    return json.loads(body) if response.status == 200 else f"{response.status} {body[:200]!r}"


def assert_each_had_its_own(answers: list[Any], tokens: list[str], witness: Witness) -> None:
    """No error, no row of another; the master's connection is as it was."""
    assert [answer for answer in answers if not isinstance(answer, dict)] == []
    assert [answer["found"] for answer in answers] == [[token] * 5 for token in tokens]
    assert len({answer["pid"] for answer in answers}) > 1
    (master,) = {answer["master"] for answer in answers}
    state = "SELECT state FROM pg_stat_activity WHERE pid = :pid"
    assert witness.ask(state, pid=master) == ["idle"]
    assert sorted(witness.ask("SELECT text FROM notes")) == sorted(tokens)


@pytest.mark.fault(
    "W1",
    fault="A server (gunicorn --preload) forks after the database was used: sync, gthread, gevent",
    then="Each process gets its own rows, and the parent keeps its connection",
)
@pytest.mark.fault(
    "W2",
    fault="A server (uWSGI) forks in C, where Python's hooks do not run",
    then="Each process gets its own rows, and the parent keeps its connection",
)
@pytest.mark.parametrize(
    "server",
    [
        pytest.param(name, marks=pytest.mark.stress) if "gthread" in name else name
        for name in COMMANDS
    ],
)
def test_workers_forked_from_a_used_engine_answer_with_their_own_rows(
    server: str, witness: Witness, tmp_path: Path
) -> None:
    """W1, W2: 200 requests from 8 clients."""
    demand(server.partition(" ")[0])
    tokens = [f"token-{number}" for number in range(200)]
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        port = listener.getsockname()[1]
        with running(COMMANDS[server], witness, tmp_path / "log", listener):
            with ThreadPoolExecutor(8) as clients:
                answers = list(clients.map(lambda token: ask(port, token), tokens))
            assert_each_had_its_own(answers, tokens, witness)


@pytest.mark.fault(
    "W5",
    fault="Celery forks its prefork workers",
    then="Each process gets its own rows, and the parent keeps its connection",
)
def test_celery_prefork_workers_answer_with_their_own_rows(
    witness: Witness, tmp_path: Path
) -> None:
    """W5: 200 tasks for four child processes."""
    demand("celery")
    tokens = [f"token-{number}" for number in range(200)]
    folder = tmp_path / "celery"
    folder.mkdir()
    client = [sys.executable, "-m", "tests.servers.celery_client", str(folder)]
    subprocess.run([*client, "0"], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    with running(CELERY, witness, tmp_path / "log", CELERY_FOLDER=str(folder)):
        ran = subprocess.run([*client, "200"], cwd=ROOT, check=True, stdout=subprocess.PIPE)
        printed = ran.stdout
        assert_each_had_its_own(json.loads(printed), tokens, witness)
