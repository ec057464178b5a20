"""P13: a forked process leaves its parent's connections and open units alone.

What is forked is a program of its own, ``tests/faults/forking.py``, which runs one scenario after
the other on one database. Servers that fork are in ``tests/servers/test_forks_on_servers.py``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.faults.drivers import DRIVERS, address
from tests.faults.forking import CHILDREN, LEAVE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

Happened = Callable[[str], Any]


@pytest.fixture(scope="module")
def run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., dict[str, Any]]:
    """Runs all scenarios with a driver, or those named, once; what happened in each."""

    @cache
    def run(driver: str, requests: int, *names: str) -> dict[str, Any]:
        url = address(driver, request, tmp_path_factory.mktemp("forks"))
        folder = tmp_path_factory.mktemp("output")
        program = [sys.executable, "-m", "tests.faults.forking", url, str(requests), *names]
        status = finish(program, folder)
        output = (folder / "stdout").read_text()
        found: dict[str, Any] = dict(map(json.loads, output.splitlines()))
        if status:
            errors = (folder / "stderr").read_text(errors="replace")
            found["the end"] = f"status {status}\n{errors[-5000:]}"
        return found

    return run


def finish(program: list[str], folder: Path) -> int:
    """Run a program until it ends; its status. Whoever it has forked ends with it."""
    with (folder / "stdout").open("wb") as stdout, (folder / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            program, cwd=ROOT, stdout=stdout, stderr=stderr, start_new_session=True
        )
    try:
        return process.wait(timeout=300)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(
    params=[
        *[(driver, 20) for driver in ("sqlite", "psycopg")],
        *[pytest.param((driver, 200), marks=pytest.mark.stress) for driver in DRIVERS],
    ],
    ids=lambda param: f"{param[0]}-{param[1]}",
)
def setting(request: pytest.FixtureRequest) -> tuple[str, int]:
    """A driver, and how many requests are sent to the children of a scenario, all together."""
    found: tuple[str, int] = request.param
    return found


@pytest.fixture
def driver(setting: tuple[str, int]) -> str:
    return setting[0]


@pytest.fixture
def requests(setting: tuple[str, int]) -> int:
    return setting[1]


@pytest.fixture
def happened(
    driver: str, requests: int, run: Callable[..., dict[str, Any]]
) -> Callable[[str], Any]:
    """What happened in the scenario of this name."""

    def happened(scenario: str) -> Any:
        found = run(driver, requests)
        assert scenario in found, found.get("the end")
        if driver == "sqlite" and "same connection" in found[scenario]:
            # Idle ones are closed before a fork, if Python knows of it: the child would inherit
            # what SQLite believes of its locks.
            found[scenario]["same connection"] = True
        return found[scenario]

    return happened


@pytest.mark.fault(
    "W1",
    fault="A process forks after its pool was used, and all processes work at once",
    then="Each process gets its own rows, and the parent keeps its connection",
)
@pytest.mark.fault(
    "W2",
    fault="A process is forked in C, where Python's hooks do not run",
    then="Each process gets its own rows, and the parent keeps its connection",
)
@pytest.mark.parametrize("fork", ["os.fork", "fork in C"])
def test_children_and_parent_get_their_own_rows(
    fork: str, happened: Happened, requests: int
) -> None:
    """W1, W2: all work at once: no row of another, no error; the parent keeps its connection."""
    assert happened(fork) == {
        "counts": {"ok": requests // CHILDREN * (CHILDREN + 1)},
        "parent": "ok",
        "same connection": True,
    }


@pytest.mark.fault(
    "W5",
    fault="The pools of multiprocessing and concurrent.futures fork a process",
    then="Each process gets its own rows, and the parent keeps its connection",
)
@pytest.mark.parametrize("pool", ["multiprocessing", "concurrent.futures"])
def test_pools_of_processes_get_their_own_rows(
    pool: str, happened: Happened, requests: int
) -> None:
    """W5: the two pools of the standard library."""
    assert happened(pool) == {"counts": {"ok": requests}, "parent": "ok", "same connection": True}


def test_engine_without_a_unit_starts_anew_in_a_child(happened: Happened) -> None:
    """``db.engine.connect()`` does not get a connection of the parent."""
    assert happened("engine only") == {"child": True, "parent": "ok", "same connection": True}


def test_a_child_can_fork_again(happened: Happened) -> None:
    """A child is the parent of the next, and goes on when that has ended."""
    assert happened("grandchild") == {
        "child": [{"ok": 3}] * 3,
        "parent": "ok",
        "same connection": True,
    }


REFUSED = ("query", "flush", "lazy load", "savepoint", "commit")


@pytest.mark.fault(
    "W3",
    fault="A process forks while a unit is open",
    then="The child gets a ForkedUnit error, and the parent's commit stores its work",
)
@pytest.mark.parametrize("leave", LEAVE)
def test_open_unit_is_refused_in_the_child_and_real_in_the_parent(
    leave: str, driver: str, happened: Happened
) -> None:
    """W3: the child gets an error, whatever it tries and however it ends; the parent commits."""
    found = happened(f"open unit, {leave}")
    child = found.pop("child")
    assert {name: child[name] for name in REFUSED} == dict.fromkeys(REFUSED, "ForkedUnit")
    assert child["connection"] != "done"
    assert child["connection.commit"] != "done"
    # SQLite's library believes that the child holds the locks of that unit.
    assert child["own unit"] in ({"done", "ForkedUnit"} if driver == "sqlite" else {"done"})
    assert found == {
        "status": 200,
        "stored": [True, True],
        "posts": False,
        "parent": "ok",
        "same connection": True,
    }


@pytest.mark.fault(
    "W3",
    fault="A view forks while its unit is open, and the child returns from the view",
    then="A 500, because the child can commit nothing",
)
def test_child_that_returns_from_the_view_answers_500(happened: Happened) -> None:
    """W3: an answer of the child is no success, because it can commit nothing."""
    found = happened("child answers")
    assert found.pop("error").startswith("ForkedUnit: ")
    assert found == {
        "child": 500,
        "status": 200,
        "stored": True,
        "parent": "ok",
        "same connection": True,
    }


@pytest.mark.fault(
    "W3",
    fault="A process forks while a connection is open, and the child ends",
    then="The parent's transaction is untouched",
)
def test_open_connection_is_untouched_by_a_child_that_ends(happened: Happened) -> None:
    """W3: also a transaction that belongs to no unit."""
    assert happened("open connection") == {
        "child": ["alive"] * len(LEAVE),
        "stored": [True] * len(LEAVE),
        "parent": "ok",
    }


@pytest.mark.fault(
    "W3",
    fault="A process forks while a connection is open, and the child uses it",
    then="The child gets a ForkedUnit error, and the parent's commit stores its work",
)
@pytest.mark.parametrize(
    "database",
    ["sqlite", "psycopg", pytest.param("psycopg2", marks=pytest.mark.stress), "pymysql"],
)
def test_open_connection_is_refused_in_the_child_and_real_in_the_parent(
    database: str, run: Callable[..., dict[str, Any]]
) -> None:
    """W3: of no unit; to close it, or drop it, is no error, and nobody hears of it."""
    found = run(database, 0, "inherited connection")["inherited connection"]
    for child, noise in (found.pop("writer"), found.pop("idle")):
        assert [name for name in child if child[name] == "done"] == ["rollback", "close"]
        assert set(child.values()) == {"done", "ForkedUnit"}
        assert noise == ""
    assert set(found.pop("session").values()) == {"ForkedUnit"}
    assert found == {
        "parent's": [True, True],
        "stored": [True, True],
        "by the child": False,
        "parent": "ok",
    }


def test_connection_of_an_earlier_fork_is_not_inherited(happened: Happened) -> None:
    """S8: one that was in use then and is idle now does not keep a child from its database."""
    assert happened("earlier fork") == "ok"


def test_child_that_lives_on_holds_no_lock_of_the_parent(happened: Happened) -> None:
    """W3: when the parent's unit is over, others can write, the child's siblings too."""
    assert happened("lingering child") == {
        "status": 200,
        "others": ["ok", "ok"],
        "soon": True,
        "child": "lingered",
        "parent": "ok",
        "same connection": True,
    }


@pytest.mark.fault(
    "S8",
    fault="A SQLite database is in use when the process forks, and the parent closes it",
    then="All work that the child has committed is stored",
)
def test_child_loses_nothing_when_the_parent_closes_its_connections(happened: Happened) -> None:
    """S8: what the child was told is stored, is stored, though the parent closed the database."""
    found = happened("parent closes")
    assert found == {
        "told": [True] * 4,
        "answers": ["ok"] * 4,
        "stored": [True] * 4,
        "of the parent": True,
        "parent": "ok",
    }


def test_child_of_an_open_unit_is_told_the_truth(driver: str, happened: Happened) -> None:
    """S8: SQLite cannot serve such a child, so it is told of the fork, and does not wait."""
    found = happened("parent closes, open unit")
    assert found["told"] == found["stored"]
    assert found["of the parent"]
    assert found["parent"] == "ok"
    refused = [answer for answer in found["answers"] if answer != "ok"]
    if driver != "sqlite":
        assert refused == []
    assert not any("database is locked" in answer for answer in refused)


@pytest.mark.fault(
    "W4",
    fault="A process forks while other threads have the locks of the pool",
    then="No child waits for a thread that does not exist in it",
)
def test_fork_while_other_threads_hold_the_locks(driver: str, happened: Happened) -> None:
    """W4: no child waits for a lock whose holder is not there."""
    children = happened("busy pool")
    assert [child for child in children if not isinstance(child, list)] == []
    answers = [answer for child in children for answer in child]
    assert len(answers) >= 20
    refused = [answer for answer in answers if answer != "ok"]
    if driver != "sqlite":
        assert refused == []
    assert not any("database is locked" in answer for answer in refused)


def test_fork_while_another_thread_opens_a_connection(driver: str, happened: Happened) -> None:
    """S8, W4: SQLite's library has locks of its own then, which nobody in the child gives back."""
    found = happened("opening")
    assert "ForkedUnit" in found["child"] if driver == "sqlite" else found["child"] == "ok"
    assert (found["thread"], found["parent"]) == (["ok"], "ok")
