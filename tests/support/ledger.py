"""The example app as its README starts it: migrated, seeded, and served in a process of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

from tests.support.databases import free_port

ROOT = Path(__file__).parents[2]


def environment(folder: Path) -> dict[str, str]:
    """The variables with which ``flask`` finds the ledger, its database and its receipts."""
    return os.environ | {
        "FLASK_APP": "example_app",
        "FLASK_SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder}/ledger.db",
        "FLASK_OUTBOX": str(folder / "outbox"),
        "PYTHONUNBUFFERED": "1",
    }


def flask(folder: Path, *args: str) -> str:
    """Run a command of the ledger, and return what it prints."""
    command = [sys.executable, "-m", "flask", *args]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(folder), check=True, capture_output=True, text=True
    )
    return done.stdout


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a new ledger with example data, and yield its address.

    :param folder: of its database and receipts.
    """
    flask(folder, "db", "upgrade")
    flask(folder, "seed")
    port = free_port()
    log = folder / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "flask", "run", "--port", str(port)],
            cwd=ROOT,
            env=environment(folder),
            stdout=output,
            stderr=output,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(address, server, log)
        yield address
    finally:
        server.kill()
        server.wait()


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        if server.poll() is not None:
            break
        with contextlib.suppress(OSError), urlopen(f"{address}/static/icon.svg"):
            return
        time.sleep(0.05)
    raise RuntimeError(f"the ledger does not run:\n{log.read_text()}")
