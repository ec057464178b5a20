"""A worker that is killed when its COMMIT is done, and before the client hears of it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.dying import MOMENTS
from tests.support.databases import TestDatabase
from tests.support.models import Base
from tests.support.witness import Witness

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
OTHERS = ("sqlite-file", "mariadb")


def work(database: TestDatabase, moment: str, *names: str) -> tuple[int, str]:
    """Let a new worker store users; how it ended, and which statuses it answered."""
    command = [sys.executable, "-m", "tests.faults.dying", database.url, moment, *names]
    run = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.PIPE, timeout=60)
    return run.returncode, run.stdout.decode().strip()


@pytest.mark.fault(
    "C12",
    fault="The process is killed after the COMMIT, before the code that follows it",
    then="No response, and the work is stored once; the code that follows does not run",
)
@pytest.mark.parametrize(
    "database",
    ["postgresql", *(pytest.param(name, marks=pytest.mark.stress) for name in OTHERS)],
    indirect=True,
)
@pytest.mark.parametrize("moment", MOMENTS)
def test_worker_killed_after_the_commit_has_stored_its_work_once(
    moment: str, database: TestDatabase, witness: Witness
) -> None:
    """No lock is left: the next worker stores. Who sends the same again hears that it is there."""
    Base.metadata.create_all(witness.engine)
    assert work(database, moment, "ada") == (-signal.SIGKILL, "")
    assert witness.names() == ["ada"]
    assert work(database, "", "grace", "ada") == (0, "200 409")
    assert witness.names() == ["ada", "grace"]
