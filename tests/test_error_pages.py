"""Every error and every warning has its entry in the docs."""

from __future__ import annotations

import re
from pathlib import Path

from flask_uow import errors

_PAGE = Path(__file__).parents[1] / "docs" / "errors.md"


def test_every_error_has_a_heading_and_there_is_no_other() -> None:
    """In the order of the module, so that nothing is described twice."""
    headings = re.findall(r"^##+ (.+)$", _PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    # The module also has the names of the classes of SQLAlchemy that its own inherit.
    classes = [name for name in vars(errors) if name in errors.__all__]
    assert headings == [f"`{name}`" for name in classes]
    assert len(classes) == len(errors.__all__)


def test_every_error_shows_its_message() -> None:
    """All but the two bases, which are never raised themselves."""
    shown = re.findall(r"^```text\n(\w+): ", _PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(shown) == set(errors.__all__) - {"UowError", "UowWarning"}
