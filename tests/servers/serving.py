"""Starts real servers, and talks to them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.witness import Witness

ROOT = Path(__file__).parents[2]
GUNICORN = "gunicorn --config tests/servers/gunicorn.conf.py tests.servers.app:create_app()"
COMMANDS = {
    "gunicorn-sync": f"{GUNICORN} --bind fd://{{}} --worker-class sync",
    "gunicorn-gthread": f"{GUNICORN} --bind fd://{{}} --worker-class gthread --threads 8",
    "gunicorn-gevent": f"{GUNICORN} --bind fd://{{}} --worker-class gevent",
    "waitress": "tests.servers waitress {}",
    "werkzeug": "tests.servers werkzeug {}",
}
CONCURRENT = [kind for kind in COMMANDS if kind != "gunicorn-sync"]
THREADED = [kind for kind in CONCURRENT if kind != "gunicorn-gevent"]


@dataclass
class Server:
    """A running server.

    :ivar kind: a key of :data:`COMMANDS`; PostgreSQL knows its connections by this name.
    :ivar url: its database.
    :ivar log: the file that has what it printed.
    """

    kind: str
    port: int
    url: str
    log: Path

    def post(self, path: str) -> Answer:
        """Send a request and read the whole answer."""
        return self._ask("POST", path)

    def state(self) -> dict[str, int]:
        """The process id of the worker that answers, and how many connections it has in use."""
        state: dict[str, int] = json.loads(self._ask("GET", "/state").body)
        return state

    @contextlib.contextmanager
    def posting(self, path: str) -> Iterator[socket.socket]:
        """Send a request and leave the answer to be read byte by byte."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(
                f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode()
            )
            yield connection

    def sessions(self, witness: Witness) -> list[str]:
        """What PostgreSQL says about the connections of this server, such as ``"idle"``."""
        return witness.ask(
            "SELECT state FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = :name ORDER BY state",
            name=self.kind,
        )

    def _ask(self, method: str, path: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path)
            response = connection.getresponse()
            return Answer(response.status, response.read(), dict(response.headers))


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@contextlib.contextmanager
def running(kind: str, url: str, folder: Path, *options: str) -> Iterator[Server]:
    """Start a server of one of :data:`COMMANDS`, kill it at the end.

    Its socket is bound here and handed down, so no other program can take the port in between,
    and requests wait in the socket until the server takes them.
    """
    log = folder / "server.log"
    environment = {
        "FLASK_SQLALCHEMY_DATABASE_URI": url,
        "PGAPPNAME": kind,
        "PYTHONUNBUFFERED": "1",
    }
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener, log.open("wb") as output:
        number = listener.fileno()
        process = subprocess.Popen(
            [sys.executable, "-m", *COMMANDS[kind].format(number).split(), *options],
            env=os.environ | environment,
            cwd=ROOT,
            pass_fds=[number],
            stdout=output,
            stderr=output,
            start_new_session=True,  # and a process group, which has gunicorn's workers too
        )
        port = listener.getsockname()[1]
    try:
        yield _ready(Server(kind, port, url, log))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _ready(server: Server) -> Server:
    try:
        server.state()
    except (OSError, http.client.HTTPException) as error:
        raise RuntimeError(f"no answer from {server.kind}:\n{server.log.read_text()}") from error
    return server


def read_line(connection: socket.socket) -> str:
    """Read up to the end of the line and not a byte more."""
    with connection.makefile("rb", buffering=0) as stream:
        return stream.readline().decode().strip()


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    """Does *condition* become true? How long that may take is a limit, no expectation."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
