"""What Alembic says, in sentences that end with the next command."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from ..errors import MigrationError
from . import _folder
from ._reach import words


def command_error(error: Exception, folder: Path, group: str) -> MigrationError:
    """The sentence for a ``CommandError``."""
    from alembic.script import revision as revisions

    cause = error.__cause__
    if isinstance(cause, revisions.MultipleHeads):
        return MigrationError(several_heads(cause.heads, folder, group))
    if isinstance(cause, revisions.ResolutionError):
        return MigrationError(
            f"The folder {str(folder)!r} has no revision {cause.argument!r}."
            f" 'flask {group} history' lists those that it has."
        )
    text = str(error).rstrip(".")
    return MigrationError(f"{text}. 'flask {group} history' lists the revisions.")


def several_heads(heads: Any, folder: Path, group: str) -> str:
    names = sorted(heads)
    return (
        f"The folder {str(folder)!r} has {len(names)} heads, {' and '.join(names)}: two revisions"
        f" follow the same one. Join them with 'flask {group} merge {' '.join(names)}', or go to"
        f" all of them with 'flask {group} upgrade heads'."
    )


def unknown_head(engine: str, head: str, folder: Path, group: str) -> str:
    return (
        f"The database of the engine {engine!r} is at revision {head!r}, which the folder"
        f" {str(folder)!r} does not have: the code is older than the database, or the file was"
        f" deleted. Get the file back, or write 'flask {group} stamp --purge REVISION' with the"
        f" revision that the tables are at."
    )


def not_loaded(error: BaseException, folder: Path, group: str) -> MigrationError:
    """A file of the folder cannot be run: whose it is, and where it failed."""
    where = folder / "env.py"
    for frame in traceback.extract_tb(error.__traceback__):
        if Path(frame.filename).is_relative_to(folder):
            where = Path(frame.filename)
    what = f"{type(error).__name__}: {words(error)}"
    if isinstance(error, SyntaxError) and error.filename:
        where = Path(error.filename)
    if where.name == "env.py" and not _folder.is_ours(folder):
        return MigrationError(
            f"{str(where)!r}, which flask_uow has not written, failed ({what}). If it is not meant"
            " to stay, replace all of it by 'from flask_uow.migrations import run' and 'run()';"
            f" 'flask --debug {group} ...' shows where it failed."
        )
    return MigrationError(
        f"{str(where)!r} failed ({what}). 'flask --debug {group} ...' shows where."
    )
