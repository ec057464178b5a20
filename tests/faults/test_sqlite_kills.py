"""Processes killed at random moments, on SQLite: in its file, in the queue in front of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import ledger
from tests.support.kills import kill_at_random

pytestmark = pytest.mark.slow


def make_unit(url: str, journal_mode: str) -> Callable[[str], None]:
    """For ``kill_at_random()``: stores a transfer through a request."""
    app, _ = ledger.make_app(url, UOW_SQLITE_JOURNAL_MODE=journal_mode)
    client = app.test_client()

    def unit(token: str) -> None:
        answer = client.post(f"/transfers/{token}")
        if answer.status_code != 201:
            raise RuntimeError(f"{answer.status} {answer.text}")

    return unit


@pytest.mark.fault(
    "S5",
    fault="A process is killed in the middle of a transaction, in either journal mode",
    then="All acknowledged work is stored, none by halves; the next writer gets the lock at once",
)
@pytest.mark.parametrize("kills", [6, pytest.param(130, marks=pytest.mark.stress)])
@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_no_acknowledged_unit_is_lost(journal_mode: str, kills: int, tmp_path: Path) -> None:
    """P12: SIGKILL at any moment: the file is sound, and nobody waits for the dead."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    witness = ledger.prepare(url)
    history = kill_at_random(
        "tests.faults.test_sqlite_kills:make_unit",
        url,
        journal_mode,
        folder=tmp_path,
        kills=kills,
        workers=8 if kills > 6 else 4,
    )
    history.check(ledger.tokens(witness))
    assert ledger.differences(witness) == []
    assert witness.ask("PRAGMA integrity_check") == ["ok"]
    assert history.count("ok") > kills
    assert history.count("failed") == 0
