"""The stories, told with ours and with Flask-SQLAlchemy itself: both say what ``facts.json`` says.

``python -m tests.compat.test_oracle`` writes the file again, with Flask-SQLAlchemy.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.compat import stories_of_models, stories_of_requests
from tests.compat.kit import STORIES, Kit

FACTS = Path(__file__).parent / "facts.json"
ORACLE = "flask_sqlalchemy"

assert STORIES, (stories_of_models, stories_of_requests)

needs_oracle = pytest.mark.skipif(
    importlib.util.find_spec(ORACLE) is None, reason="Flask-SQLAlchemy is the oracle here"
)


def tell(name: str, package: str, folder: Path) -> Any:
    """Tell one story, and return what JSON makes of it."""
    kit = Kit(package, folder)
    try:
        with warnings.catch_warnings():
            # Query.get(), which SQLAlchemy calls legacy; a class of one name for each kind of base.
            warnings.simplefilter("ignore")
            return json.loads(json.dumps(STORIES[name](kit)))
    finally:
        kit.close()


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    """What Flask-SQLAlchemy has said."""
    found: dict[str, Any] = json.loads(FACTS.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("name", STORIES)
def test_compat_tells_the_same(name: str, facts: dict[str, Any], tmp_path: Path) -> None:
    """Ours."""
    assert tell(name, "flask_uow.compat", tmp_path) == facts[name]


@needs_oracle
@pytest.mark.parametrize("name", STORIES)
def test_flask_sqlalchemy_tells_the_same(name: str, facts: dict[str, Any], tmp_path: Path) -> None:
    """The oracle: so the facts are not ours."""
    assert tell(name, ORACLE, tmp_path) == facts[name]


def write() -> None:
    """Write the facts, one story a line."""
    lines = []
    for name in STORIES:
        with tempfile.TemporaryDirectory() as folder:
            told = tell(name, ORACLE, Path(folder))
        lines.append(f"{json.dumps(name)}: {json.dumps(told, ensure_ascii=False)}")
    FACTS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    write()
