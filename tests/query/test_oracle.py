"""Flask-SQLAlchemy is the oracle of names, pages and 404s: the same calls through both."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

pytest.importorskip("flask_sqlalchemy", reason="Flask-SQLAlchemy is the oracle here")

Results = dict[str, tuple[int, object]]


def results_of(package: str) -> Results:
    """What the cases respond through *package*, by their names."""
    program = Path(__file__).with_name("oracle_pages.py")
    run = subprocess.run(
        [sys.executable, "-W", "ignore", program, package],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    results = {name: (status, body) for name, status, body in lines}
    assert len(results) == len(lines)
    return results


@pytest.fixture(scope="module")
def theirs() -> Results:
    return results_of("flask_sqlalchemy")


@pytest.fixture(scope="module")
def ours() -> Results:
    return results_of("flask_uow")


def test_the_same_responses(theirs: Results, ours: Results) -> None:
    """Statuses, descriptions, items, numbers and links."""
    same = [name for name in theirs if not name.startswith("different")]
    assert len(same) > 150
    assert {theirs[name][0] for name in same} == {200, 404}
    for name in same:
        assert ours[name] == theirs[name], name


# What theirs responds, and what ours does.
DIFFERENT: dict[str, tuple[object, object]] = {
    "rows": (["1", "2"], ["(1, 'author 1')", "(2, 'author 2')"]),
    "first row": ("1", "(1, 'author 1')"),
    "count=False": (False, True),
    "own limit": (["author 4", "author 8"], ["author 4", "author 6"]),
    "repeated": (["author 1"], ["author 1", "author 1"]),
    "statements of a last page": (2, 1),
    "per_page=1000": (1000, 100),
}


def test_known_differences(theirs: Results, ours: Results) -> None:
    """Each is what ``docs/how-to/queries.md`` says."""
    found = {
        name.removeprefix("different: "): (theirs[name][1], ours[name][1])
        for name in theirs
        if name.startswith("different")
    }
    assert found == DIFFERENT
