"""Are two server defaults the same? Databases report them in words of their own.

Alembic compares texts, and would find ``now()`` of a model and ``current_timestamp()`` of MariaDB
different for ever, or ``''`` and ``('')`` of SQLite; PostgreSQL it asks, with a quote in the text
in a statement that cannot be parsed.
"""

from __future__ import annotations

import re
from typing import Any

_SYNONYMS = {
    "current_timestamp": "now",
    "current_timestamp()": "now",
    "now()": "now",
    "true": "1",
    "false": "0",
}


def differ(
    _context: object,
    _inspected_column: object,
    _column: object,
    inspected: str | None,
    default: Any,
    rendered: str | None,
) -> bool | None:
    """Alembic's hook of that name.

    :returns: False if they are the same, True if both are texts that differ, None if Alembic has
        to decide.
    """
    wanted = getattr(default, "arg", None)
    if inspected is None or wanted is None:
        return None
    found, is_text = _value(inspected)
    if isinstance(wanted, str):
        expected, wanted_is_text = wanted, True
    else:
        expected, wanted_is_text = _value(rendered or "")
    if is_text and wanted_is_text:
        return found != expected
    same = _SYNONYMS.get(found, found) == _SYNONYMS.get(expected, expected)
    return False if same else None


def _value(default: str) -> tuple[str, bool]:
    """A default without what the database has put round it; and whether it is a text."""
    default = default.strip()
    while default.startswith("(") and default.endswith(")"):
        default = default[1:-1].strip()
    quoted = re.fullmatch(r"'((?:[^']|'')*)'(?:::[\w\s\"\[\]]+(?:\([\d,\s]*\))?)?", default)
    if quoted:
        return quoted[1].replace("''", "'"), True
    return default.lower(), False
