"""Revisions by name: those that ``show`` and ``history`` are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import MigrationError
from ._env import alembic_private
from .preconditions import no_revision, require_revision

if TYPE_CHECKING:
    from alembic.script import Script, ScriptDirectory

Heads = Mapping[str, "tuple[str, ...]"]


def named(script: ScriptDirectory, revision: str, heads: Heads) -> list[Script]:
    """The revisions that a name means; ``"current"`` means *heads*."""
    wanted: Any = _all(heads) if revision == "current" else revision
    return list(script.get_revisions(wanted))


def none_of(revision: str, group: str, script: ScriptDirectory) -> str:
    """Why there is no revision of that name."""
    if not script.get_heads():
        return no_revision(group)
    if revision == "current":
        return f"No database has a revision yet. 'flask {group} status' says what is pending."
    return (
        f"{revision!r} is before the first revision, so there is nothing to show."
        f" 'flask {group} history' lists the revisions."
    )


def ends(rev_range: str | None, group: str) -> tuple[str, str]:
    """Start and end, empty if they are left out.

    :raises MigrationError: it is no range.
    """
    if rev_range is None:
        return "", ""
    start, separator, end = rev_range.strip().partition(":")
    if not separator:
        raise MigrationError(
            f"{rev_range!r} is no range of revisions. Write '[start]:[end]', for example"
            f" 'flask {group} history -r base:current'."
        )
    for one in (start, end):
        if one:
            require_revision(one, group)
    return start, end


def between(
    script: ScriptDirectory, ends: tuple[str, str], heads: Heads, *, mark: bool
) -> list[Script]:
    """The revisions from *ends* to *ends*, the newest first.

    :param mark: those that the databases are at.
    """
    current = _all(heads)
    start, end = (current if one == "current" else one for one in ends)
    if end == ():
        return []  # the databases are before the first revision
    base: Any = start or "base"
    head: Any = end or "heads"
    found = list(script.walk_revisions(base=base, head=head))
    for one in found if mark else ():
        alembic_private.mark_current(one, one.revision in current)
    return found


def _all(heads: Heads) -> tuple[str, ...]:
    return tuple({head for found in heads.values() for head in found})
