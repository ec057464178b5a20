"""What is used of Alembic that is private there: all of it is here, and nowhere else.

Alembic's commands open connections, print, and exit; what they do in between has no public name. If
a new version renames one of these, each command that needs it fails at once with the
``AttributeError`` or ``ImportError`` of this module, before a database is touched:

===============================  ===============================================================
``ScriptDirectory._upgrade_revs``   ``upgrade``, ``status``, ``migrate``, ``check``
``ScriptDirectory._downgrade_revs`` ``downgrade``
``ScriptDirectory._stamp_revs``     ``stamp``
``ScriptDirectory._load_revisions`` every command
``Script._db_current_indicator``    the mark in ``history -i``; lost without an error
``autogenerate.RevisionContext``    ``migrate`` and ``check``
``MigrationContext._migrations_fn`` the functions for several engines: ``upgrade_audit()``
``MigrationContext._transaction``, ``_in_external_transaction``
                                    revisions that commit by themselves
===============================  ===============================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import Script, ScriptDirectory

Steps = Callable[..., Iterable[Any]]


def upgrade_steps(script: ScriptDirectory, revision: str, heads: Any) -> list[Any]:
    """The steps from *heads* up to *revision*."""
    directory: Any = script
    return list(directory._upgrade_revs(revision, heads))


def downgrade_steps(script: ScriptDirectory, revision: str, heads: Any) -> list[Any]:
    """The steps from *heads* down to *revision*."""
    directory: Any = script
    return list(directory._downgrade_revs(revision, heads))


def stamp_steps(script: ScriptDirectory, revision: str, heads: Any) -> list[Any]:
    """The steps that note *revision* instead of *heads*, and run nothing."""
    directory: Any = script
    return list(directory._stamp_revs(revision, heads))


def load(script: ScriptDirectory) -> list[Any]:
    """The files of all revisions, before Alembic looks whether they fit together."""
    directory: Any = script
    return list(directory._load_revisions())


def mark_current(script: Script, is_current: bool) -> None:
    """Let *script* say of itself that a database is at it."""
    one: Any = script
    one._db_current_indicator = is_current


def revision_context(
    config: Config, script: ScriptDirectory, arguments: dict[str, Any], process: Callable[..., None]
) -> Any:
    """What compares models and databases, and writes the file."""
    from alembic.autogenerate import RevisionContext

    return RevisionContext(config, script, arguments, process_revision_directives=process)


def wrap_steps(context: Any, wrap: Callable[[Steps], Steps]) -> None:
    """Replace what a ``MigrationContext`` asks for the steps."""
    context._migrations_fn = wrap(context._migrations_fn)


def transaction_of(context: Any) -> Any:
    """The transaction that Alembic has begun, and will commit; None if there is none."""
    return context._transaction


def is_in_foreign_transaction(context: Any) -> bool:
    """Has ``env.py`` begun one transaction for all revisions, which it commits itself?"""
    return bool(context._in_external_transaction)
