"""An app behind gunicorn, and clients that keep their connections."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0  # seconds that a client waits for a response


@dataclass(frozen=True)
class Answer:
    """What became of one request.

    :ivar status: of HTTP; 0 if there was no response.
    """

    status: int
    seconds: float


@contextmanager
def serving(
    factory: str,
    environment: Mapping[str, str],
    *,
    workers: int,
    threads: int,
    connections: int = 1000,
) -> Iterator[int]:
    """Serve an app with gunicorn; yields the port.

    :param factory: what makes the app, as gunicorn writes it.
    :param environment: added to that of this process.
    :param connections: that a worker accepts, more than it has threads.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        command = [
            *(sys.executable, "-m", "gunicorn", factory, "--worker-class", "gthread"),
            *("--bind", f"fd://{listener.fileno()}", "--log-level", "critical"),
            *("--workers", str(workers), "--threads", str(threads)),
            *("--worker-connections", str(connections), "--keep-alive", "30"),
        ]
        server = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            pass_fds=[listener.fileno()],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield listener.getsockname()[1]
        finally:
            server.terminate()
            server.wait(60)


def send(
    port: int, method: str, paths: Sequence[str], *, requests: int = 0, seconds: float = 0
) -> list[Answer]:
    """Let clients send requests, each one after the other over a connection of its own.

    :param paths: one for each client.
    :param requests: of each client; 0 for as many as there is time for.
    :param seconds: the time in which the clients send; 0 for no limit.
    """
    answers: list[Answer] = []
    until = time.monotonic() + (seconds or float("inf"))

    def client(path: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        sent = 0
        while time.monotonic() < until and (sent < requests or not requests):
            answers.append(_send_one(connection, method, path))
            sent += 1
        connection.close()

    threads = [threading.Thread(target=client, args=[path]) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def _send_one(connection: http.client.HTTPConnection, method: str, path: str) -> Answer:
    started = time.monotonic()
    try:
        connection.request(method, path)
        response = connection.getresponse()
        response.read()
        status = response.status
    except (OSError, http.client.HTTPException):
        connection.close()  # the next request opens it again
        status = 0
    return Answer(status, time.monotonic() - started)
