"""A driver that waits in C stops all greenlets of a worker: who does so is warned, nobody else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults.blocking import REQUESTS
from tests.faults.drivers import address

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "errors.md"


def observed(
    driver: str, habit: str, request: pytest.FixtureRequest, folder: Path
) -> dict[str, Any]:
    """What :mod:`tests.faults.blocking` sees; all its requests have succeeded."""
    url = address(driver, request, folder)
    command = [sys.executable, "-m", "tests.faults.blocking", url, habit]
    run = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, timeout=60)
    found: dict[str, Any] = json.loads(run.stdout)
    assert found["statuses"] == [200] * REQUESTS
    return found


@pytest.mark.fault(
    "W9",
    fault="A driver waits in C, so all greenlets of a gevent worker wait",
    then="A warning at the first connection says what to use or to set instead",
)
@pytest.mark.parametrize(
    ("driver", "habit", "advice"),
    [
        ("psycopg2", "", "Use 'postgresql+psycopg://', or install psycogreen"),
        ("psycopg", "imported before", "variable PSYCOPG_WAIT_FUNC=wait_select. Or let gevent"),
    ],
)
def test_driver_that_stops_all_greenlets_is_warned_of(
    driver: str, habit: str, advice: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Once, though each of the requests opens a connection."""
    found = observed(driver, habit, request, tmp_path)
    assert found["ticks"] == [0] * REQUESTS
    [notice] = found["notices"]
    assert f"gevent has patched this process, and the driver of 'postgresql+{driver}://'" in notice
    assert "all other greenlets of the process stand still" in notice
    assert advice in notice
    assert driver == "psycopg" or notice in " ".join(PAGE.read_text(encoding="utf-8").split())


@pytest.mark.fault(
    "W9",
    fault="A driver lets the other greenlets run: psycopg, PyMySQL, psycopg2 with psycogreen",
    then="No warning",
)
@pytest.mark.parametrize(
    ("driver", "habit"), [("psycopg", ""), ("psycopg2", "wait callback"), ("pymysql", "")]
)
def test_driver_that_lets_greenlets_run_is_not_warned_of(
    driver: str, habit: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Others run while each of the requests waits."""
    found = observed(driver, habit, request, tmp_path)
    assert min(found["ticks"]) > 0
    assert found["notices"] == []


def test_variable_of_the_advice_helps(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PSYCOPG_WAIT_FUNC=wait_select, with an app that was imported before gevent patched."""
    monkeypatch.setenv("PSYCOPG_WAIT_FUNC", "wait_select")
    found = observed("psycopg", "imported before", request, tmp_path)
    assert min(found["ticks"]) > 0
    assert found["notices"] == []


def test_sqlite_is_not_warned_of(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A file answers at once; there is no other driver that one could use."""
    assert observed("sqlite", "", request, tmp_path)["notices"] == []
