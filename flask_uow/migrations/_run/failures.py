"""What a failed revision says: why, what of it stays, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from sqlalchemy.exc import DBAPIError

from ...errors import MigrationError, UowError
from .. import connectivity, messages
from .steps import Step, Travel

_KEEP_DDL = {"mysql", "mariadb", "oracle"}


def exited(error: SystemExit, folder: Path, group: str) -> MigrationError:
    """A file of the folder wants to end the process."""
    where = messages.file_of(error, folder) or folder / "env.py"
    return MigrationError(
        f"{str(where)!r} {_exit(error)}, and nothing behind that was done. Take it out: a file that"
        f" cannot go on raises an error. 'flask --debug {group} ...' shows where."
    )


def failed(travel: Travel, error: BaseException, dialect: str, stands: str, group: str) -> str:
    """What is said of the step of *travel* that has raised *error*.

    :param stands: where the database is now.
    """
    step = cast(Step, travel.at)
    if dialect in _KEEP_DDL:
        after = (
            f"{dialect} cannot roll back DDL: what the revision did before that stays, and the"
            f" database is noted {stands}. Undo that part by hand, mend the file"
        )
    elif travel.commits:
        after = (
            "What it had committed by itself (an 'autocommit_block()' does that, too) stays; the"
            f" rest was rolled back, and the database is noted {stands}. Undo that part by hand,"
            " mend the file"
        )
    else:
        after = f"It was rolled back, and the database is {stands}. Mend the file"
    why = _why(error)
    if "already exists" in why and travel.is_first and dialect not in _KEEP_DDL:
        why += (
            f". If 'db.create_all()' has made it, note the revision instead: 'flask {group} stamp"
            f" {step.revision}'"
        )
    return (
        f"The revision {step.revision} ({step.message or 'no message'}) failed on the engine"
        f" {step.engine!r}: {why}. {after} and write 'flask {group} {step.direction}' again."
    )


def _why(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error, MigrationError) and error.__cause__ else error
    if isinstance(cause, SystemExit):
        return f"it {_exit(cause)}"
    if isinstance(cause, AssertionError) and not str(cause):
        return "AssertionError (a constraint without a name?)"
    what = connectivity.words(cause)
    if not isinstance(cause, (DBAPIError, UowError)):
        what = f"{type(cause).__name__}: {what}"
    statement = " ".join(str(getattr(cause, "statement", None) or "").split())
    return f"{what} [{statement[:200]}]" if statement else what


def _exit(error: SystemExit) -> str:
    return f"has called sys.exit({'' if error.code is None else repr(error.code)})"
