"""Processes killed at random moments: what was acknowledged is stored, and nothing by halves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import ledger
from tests.support import databases
from tests.support.kills import kill_at_random
from tests.support.witness import Witness

pytestmark = pytest.mark.slow


@pytest.fixture
def witness(postgresql_url: str) -> Iterator[Witness]:
    """A database with an empty ledger; other tests would wipe it under the workers."""
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(databases.own_database(postgresql_url))
        yield ledger.prepare(url)


@pytest.mark.fault(
    "C11",
    fault="The process is killed at any moment, also between COMMIT and the response",
    then="All acknowledged work is stored, and none by halves (PostgreSQL)",
)
@pytest.mark.parametrize("kills", [6, pytest.param(130, marks=pytest.mark.stress)])
def test_no_acknowledged_unit_is_lost(kills: int, witness: Witness, tmp_path: Path) -> None:
    """P3: SIGKILL at any moment: a success that was answered is stored, a failure is not."""
    url = witness.engine.url.render_as_string(hide_password=False)
    history = kill_at_random(
        "tests.faults.ledger:make_unit", url, folder=tmp_path, kills=kills, workers=4
    )
    history.check(ledger.tokens(witness))
    assert ledger.differences(witness) == []
    assert history.count("ok") > kills
    assert history.count("failed") == 0
