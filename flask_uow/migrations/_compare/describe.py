"""The differences that Alembic finds, in words."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Enum


def describe(diff: Any) -> list[str]:
    """One of Alembic's differences in words; what they call "remove" is a drop."""
    if isinstance(diff, list):
        return [line for one in diff for line in describe(one)]
    kind = str(diff[0])
    what = kind.replace("remove_", "drop_", 1).replace("_", " ")
    if kind.endswith("_enum_value"):
        return [f"{what.replace('enum ', '')} {diff[2]!r} of the type {diff[1]!r}"]
    if kind.endswith("_table"):
        return [f"{what} {diff[1].fullname!r}"]
    if kind.endswith("_column"):
        return [f"{what} {diff[3].name!r} of {full(diff[1], diff[2])!r}"]
    if kind.startswith("modify_"):
        what = what.removeprefix("modify ")
        table = full(diff[1], diff[2])
        return [f"change {what} of {table!r}.{diff[3]!r}: {_short(diff[5])} to {_short(diff[6])}"]
    if kind.endswith("table_comment"):
        return [f"{what} of {diff[1].fullname!r}"]
    item = diff[1] if len(diff) > 1 else ""
    of = getattr(getattr(item, "table", None), "fullname", None)
    name = getattr(item, "name", None) or "without a name"
    return [f"{what} {name!r}{f' of {of!r}' if of else ''}"]


def full(schema: str | None, name: str) -> str:
    """A name as people write it."""
    return f"{schema}.{name}" if schema else name


def _short(value: object) -> str:
    if isinstance(value, Enum):
        return f"{type(value).__name__.upper()}({', '.join(map(repr, value.enums))})"
    text = " ".join(str(getattr(value, "arg", value)).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
