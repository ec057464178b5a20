"""What the package uses of Alembic that is private there: all of it is here, and nowhere else.

Alembic's commands open connections, print, and exit; what they do in between has no public name.
:data:`NAMES` is the list, and a test looks for each name in the installed version. If a version
renames one, a command that needs it fails with the ``AttributeError`` or ``ImportError`` of this
module, before a database is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext, MigrationStep
    from alembic.script import Script, ScriptDirectory
    from sqlalchemy.engine import Transaction

Steps = Callable[..., "Iterable[MigrationStep]"]

NAMES = (
    ("alembic.script.ScriptDirectory", "_upgrade_revs", "'upgrade', 'status', 'migrate', 'check'"),
    ("alembic.script.ScriptDirectory", "_downgrade_revs", "'downgrade'"),
    ("alembic.script.ScriptDirectory", "_stamp_revs", "'stamp'"),
    ("alembic.script.Script", "_from_path", "the name of a file that cannot be loaded"),
    ("alembic.script.Script", "_db_current_indicator", "the mark of 'history -i'"),
    ("alembic.autogenerate.RevisionContext", "run_autogenerate", "'migrate', 'check'"),
    ("alembic.runtime.migration.MigrationContext", "_migrations_fn", "'upgrade_audit()'"),
    ("alembic.runtime.migration.MigrationContext", "_transaction", "revisions that commit"),
    ("alembic.runtime.migration.MigrationContext", "_in_external_transaction", "the same"),
    ("alembic.operations.Operations", "_remove_proxy", "a migration that fails"),
    ("alembic.ddl.impl.DefaultImpl", "memo", "types of PostgreSQL that are created again"),
)
"""Class, name, and what needs it. Only ``_db_current_indicator`` would be lost without an error."""


def steps(
    script: ScriptDirectory, direction: str, revision: str, heads: object
) -> list[MigrationStep]:
    """The steps that lead from *heads* to *revision*.

    :param direction: ``"upgrade"``, ``"downgrade"``, or ``"stamp"``, whose steps run nothing.
    """
    directory: Any = script
    find = {
        "upgrade": directory._upgrade_revs,
        "downgrade": directory._downgrade_revs,
        "stamp": directory._stamp_revs,
    }[direction]
    return list(find(revision, heads))


def path_loaded_in(frame: FrameType) -> str | None:
    """The path of the revision that Alembic loads in *frame*; None if it loads none there."""
    names = {"_from_path": ["path"], "_from_filename": ["dir_", "filename"]}  # newest, lowest
    parts = [str(frame.f_locals.get(name)) for name in names.get(frame.f_code.co_name, ())]
    return str(Path(*parts)) if parts else None


def mark_current(script: Script, is_current: bool) -> None:
    """Let *script* say of itself that a database is at it."""
    marked: Any = script
    marked._db_current_indicator = is_current


def revision_context(
    config: Config, script: ScriptDirectory, arguments: dict[str, Any], process: Callable[..., None]
) -> Any:
    """What compares models and databases, and writes the file."""
    from alembic.autogenerate import RevisionContext

    return RevisionContext(config, script, arguments, process_revision_directives=process)


def wrap_steps(context: MigrationContext, wrap: Callable[[Steps], Steps]) -> None:
    """Replace the function that *context* asks for the steps."""
    private: Any = context
    private._migrations_fn = wrap(private._migrations_fn)


def transaction_of(context: MigrationContext) -> Transaction | None:
    """The transaction that Alembic has begun, and will commit."""
    return context._transaction


def is_in_foreign_transaction(context: MigrationContext) -> bool:
    """Tell whether ``env.py`` has begun one transaction for all revisions, and commits it."""
    return bool(context._in_external_transaction)


def forget_created_types(context: MigrationContext) -> None:
    """Let a revision create a type of PostgreSQL again that an earlier one has dropped."""
    context.impl.memo.clear()


@contextmanager
def operations_removed() -> Iterator[None]:
    """Let ``alembic.op`` keep no migration that has failed, and no app with it."""
    from alembic import op

    try:
        yield
    finally:
        left: Any = getattr(op, "_proxy", None)
        if left is not None:
            left._remove_proxy()
