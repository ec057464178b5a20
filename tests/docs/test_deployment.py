"""The servers of the page about deployment start as it says, and serve its app."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT
from tests.servers.serving import eventually
from tests.support import databases
from tests.support.witness import Witness

pytestmark = pytest.mark.servers

PAGE = (DOCS / "how-to" / "deployment.md").read_text(encoding="utf-8").replace("\\\n", "")
SERVERS = re.findall(r"^```console\n(.*0\.0\.0\.0.*)$", PAGE, re.MULTILINE)
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
NAME = "deployed"  # by which PostgreSQL knows the connections of the server
PASSED_TO_ALL = {"PGAPPNAME": NAME, "PYTHONPATH": str(ROOT), "PATH": PATH}


def file_of(name: str) -> str:
    """The Python that the page says to save under *name*."""
    (body,) = re.findall(rf"ave this as `{name}`:\n\n```python\n(.*?)^```$", PAGE, re.S | re.M)
    return str(body)


@dataclass
class Deployed:
    port: int

    def ask(self, method: str, path: str) -> int:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, headers={"Content-Length": "0"})
            return connection.getresponse().status

    def responds(self) -> bool:
        with contextlib.suppress(OSError):
            return self.ask("GET", "/live") == 200
        return False


@pytest.fixture
def witness(postgresql_url: str) -> Iterator[Witness]:
    with databases.own_database(postgresql_url) as url:
        yield Witness(url)


@contextlib.contextmanager
def deployed(command: str, witness: Witness, folder: Path) -> Iterator[Deployed]:
    """Start *command* in a folder with the files of the page, and end it by SIGTERM."""
    (folder / "app.py").write_text(file_of("app.py"))
    url = witness.engine.url.render_as_string(hide_password=False)
    environment = {**os.environ, **PASSED_TO_ALL, "FLASK_SQLALCHEMY_DATABASE_URI": url}
    (options,) = re.findall(r"^export FLASK_SQLALCHEMY_ENGINE_OPTIONS='(.+)'$", PAGE, re.M)
    environment["FLASK_SQLALCHEMY_ENGINE_OPTIONS"] = options
    create = "from app import app, db; app.app_context().push(); db.create_all()"
    subprocess.run([sys.executable, "-c", create], cwd=folder, env=environment, check=True)
    with socket.create_server(("127.0.0.1", 0)) as found:
        here = f"127.0.0.1:{found.getsockname()[1]}"
    config = folder / "gunicorn.conf.py"
    if config.exists():
        config.write_text(config.read_text().replace("0.0.0.0:8000", here))
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command.replace("0.0.0.0:8000", here).split(),
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    server = Deployed(int(here.partition(":")[2]))
    try:
        assert eventually(server.responds), log.read_text(errors="replace")
        yield server
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        print(log.read_text(errors="replace")[-3000:])


def limit_of(command: str) -> int:
    """The connections that the table of the page allows a server: 8 threads, or 8 in a pool."""
    found = re.findall(r"--(?:workers|processes) (\d+)", command)
    return int(found[0] if found else 1) * 8


@pytest.mark.parametrize("command", SERVERS, ids=lambda command: command.split()[0])
def test_servers_start_as_the_page_says(command: str, witness: Witness, tmp_path: Path) -> None:
    """Every request of 32 clients is stored, in as many connections as the page says."""
    assert len(SERVERS) == 4
    if shutil.which(command.split(maxsplit=1)[0], path=PATH) is None:
        databases.missing(command.split(maxsplit=1)[0], "pip install -e '.[servers]'")
    with deployed(command, witness, tmp_path) as server:
        assert server.ask("GET", "/ready") == 200
        with ThreadPoolExecutor(32) as clients:
            statuses = list(clients.map(lambda _: server.ask("POST", "/visits"), range(160)))
        assert statuses == [201] * 160
        count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = :name"
        (connections,) = witness.ask(count, name=NAME)
        assert 1 <= connections <= limit_of(command)
    assert witness.ask("SELECT count(*) FROM visit") == [160]


def test_command_of_the_container_starts(witness: Witness, tmp_path: Path) -> None:
    """gunicorn reads the file of the page by itself."""
    (command,) = re.findall(r"^CMD \[(.+)\]$", PAGE, re.MULTILINE)
    (tmp_path / "gunicorn.conf.py").write_text(file_of(r"gunicorn\.conf\.py"))
    with deployed(" ".join(re.findall(r'"(.+?)"', command)), witness, tmp_path) as server:
        assert server.ask("POST", "/visits") == 201
    assert witness.ask("SELECT count(*) FROM visit") == [1]
