"""Every error and every warning has its entry in the docs."""

from __future__ import annotations

import re
from pathlib import Path

from flask_uow import errors

# The module also has the names of the classes of SQLAlchemy that its own inherit.
_CLASSES = [
    name
    for name, value in vars(errors).items()
    if name in errors.__all__ and isinstance(value, type)
]
_BEFORE = ["Find a message"]
_AFTER = ["What went wrong: 409 and 503", "A missing table or column"]
_BASES = {"UowError", "UowWarning"}
_PAGE = Path(__file__).parents[1] / "docs" / "reference" / "errors.md"


def test_every_error_has_a_heading_and_there_is_no_other() -> None:
    """In the order of the module, so that nothing is described twice."""
    headings = re.findall(r"^## (.+)$", _PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == [*_BEFORE, *(f"`{name}`" for name in _CLASSES), *_AFTER]


def test_every_error_is_found_by_its_topic() -> None:
    """All but the two bases have a line in one of the tables at the top."""
    tables = _PAGE.read_text(encoding="utf-8").partition("\n## `")[0]
    listed = re.findall(r"^\| \[`(\w+)`\]\(#(\w+)\) \|", tables, re.MULTILINE)
    assert all(name.lower() == anchor for name, anchor in listed)
    assert sorted(name for name, _ in listed) == sorted({*_CLASSES} - _BASES)


def test_every_error_shows_its_message() -> None:
    """All but the two bases, which are never raised themselves."""
    shown = re.findall(r"^```text\n(\w+): ", _PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(shown) == set(_CLASSES) - _BASES
