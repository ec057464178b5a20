"""Errors in sentences that end with the next command: Alembic's, and those of a folder's files."""

from __future__ import annotations

import traceback
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from ..errors import MigrationError, UowError, escaped
from ._env import alembic_private
from .connectivity import driver_message
from .results import Step

_GENERATED = (
    "A batch cannot fill a generated column. Let it drop the column and add it again:"
    " batch_op.drop_column(NAME), then batch_op.add_column(sa.Column(NAME, TYPE, sa.Computed(SQL)))"
)
_BROKEN = (
    "SQLite cannot rename a table while one of its views or triggers names a table or a column that"
    " does not exist. Drop it before the change, and create it again after the change:"
    " op.execute('DROP VIEW ...') and op.execute('CREATE VIEW ...')"
)
# Parts of an error of a change that copies a table, and what to write.
_ON_SQLITE = [
    ("error in view ", "", _BROKEN),
    ("error in trigger ", "", _BROKEN),
    ("INSERT into generated column", "", _GENERATED),
    ("syntax error", "GENERATED ALWAYS AS ()", _GENERATED),  # SQLAlchemy has read too little of it
    ("unknown table option", "GENERATED ALWAYS AS", _GENERATED),  # or too much
    (
        "DDL for NullType",
        "",
        "SQLAlchemy does not know the type of that column: give 'op.batch_alter_table()'"
        " reflect_args=[sa.Column(NAME, TYPE)]",
    ),
    (
        "no such column",
        "",
        "If the revision drops that column, let it first drop what names it: an index by"
        " batch_op.drop_index(NAME), a CHECK by"
        " batch_op.drop_constraint(op.f(NAME), type_='check'), a generated column by"
        " batch_op.drop_column(NAME)",
    ),
]
_KEEP_DDL = {"mysql", "mariadb", "oracle"}


def command_error(error: Exception, folder: Path, group: str) -> MigrationError:
    """The sentence for a ``CommandError`` of Alembic."""
    from alembic.script import revision as revisions

    cause = error.__cause__
    lists = f"'flask {group} history' lists the revisions."
    if isinstance(cause, revisions.MultipleHeads):
        heads = sorted(cause.heads)
        return MigrationError(
            f"The folder {str(folder)!r} has {len(heads)} heads, {' and '.join(heads)}: two"
            f" revisions follow the same one. Join them with 'flask {group} merge"
            f" {' '.join(heads)}', or run all of them with 'flask {group} upgrade heads'."
        )
    if isinstance(cause, revisions.ResolutionError) and str(cause).startswith("No such"):
        return MigrationError(
            f"The folder {str(folder)!r} has no revision {cause.argument!r}. {lists}"
        )
    text = escaped(error).rstrip(".")
    if isinstance(cause, revisions.RevisionError):
        return MigrationError(f"{text}. {lists}")
    return MigrationError(f"{text}. 'flask --debug {group} ...' shows where.")


# Files of the folder ---------------------------------------------------------------------------


def file_failed(
    error: BaseException, folder: Path, group: str, *, env_is_ours: bool
) -> MigrationError:
    """A file of the folder cannot be run: whose it is, and where it failed."""
    what = f"{type(error).__name__}: {driver_message(error)}"
    where = _file_of(error, folder)
    shows = f"'flask --debug {group} ...' shows where"
    if where is None:
        return MigrationError(f"It failed ({what}). {shows}.")
    if where.name == "env.py" and not env_is_ours:
        return MigrationError(
            f"{str(where)!r}, which flask_uow has not written, failed ({what}). If it is not meant"
            " to stay, replace all of it by 'from flask_uow.migrations import run' and 'run()';"
            f" {shows} it failed."
        )
    return MigrationError(f"{str(where)!r} failed ({what}). {shows}.")


def file_exited(error: SystemExit, folder: Path, group: str) -> MigrationError:
    """A file of the folder asks to end the process."""
    where = _file_of(error, folder) or folder / "env.py"
    return MigrationError(
        f"{str(where)!r} {_exit(error)}, and nothing after that was done. Take it out: a file that"
        f" cannot continue raises an error. 'flask --debug {group} ...' shows where."
    )


def _exit(error: SystemExit) -> str:
    return f"has called sys.exit({'' if error.code is None else repr(error.code)})"


def _file_of(error: BaseException, folder: Path) -> Path | None:
    """The file of *folder* in which *error* came up, or that Alembic was loading."""
    if isinstance(error, SyntaxError) and error.filename:
        return Path(error.filename)
    where = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        path = Path(frame.f_code.co_filename)
        loaded = alembic_private.path_loaded_in(frame)
        if loaded is not None:
            where = Path(loaded)
        elif path.is_relative_to(folder) or path.is_relative_to(folder.resolve()):
            where = path
    return where


# Revisions that failed -------------------------------------------------------------------------


def revision_failed(
    step: Step,
    error: BaseException,
    *,
    dialect: str,
    heads: tuple[str, ...] | None,
    commits: int,
    is_first: bool,
    group: str,
) -> str:
    """Why *step* has failed, what of it stays, and what to do.

    :param heads: where the database is now; None if it does not respond.
    :param commits: how often the revision has committed by itself.
    :param is_first: the database had no revision before.
    """
    if heads is None:
        stands = f"where 'flask {group} status' says (it does not respond now)"
    else:
        stands = f"at {', '.join(heads)}" if heads else "as empty as before the first revision"
    if dialect in _KEEP_DDL:
        after = (
            f"{dialect} cannot roll back DDL: what the revision did before that stays, and the"
            f" database is recorded {stands}. Undo that part by hand, fix the file"
        )
    elif commits:
        after = (
            "What it had committed by itself (an 'autocommit_block()' does that, too) stays; the"
            f" rest was rolled back, and the database is recorded {stands}. Undo that part by hand,"
            " fix the file"
        )
    else:
        after = f"It was rolled back, and the database is {stands}. Fix the file"
    why = _why(error)
    if "already exists" in why and is_first and dialect not in _KEEP_DDL:
        why += (
            f". If 'db.create_all()' has made it, record the revision instead: 'flask {group} stamp"
            f" {step.revision}'"
        )
    if _waited_for_a_lock(error):
        why += (
            ". If the revision uses 'db.session', that is a second connection, which waits for what"
            " the revision itself has locked: use 'Session(op.get_bind())' instead"
        )
    if dialect == "sqlite":
        why += _advice_on_sqlite(str(error))
    return (
        f"The revision {step.revision} ({step.message or 'no message'}) failed on the engine"
        f" {step.engine!r}: {why}. {after} and write 'flask {group} {step.direction}' again."
    )


def _advice_on_sqlite(error: str) -> str:
    found = (advice for one, other, advice in _ON_SQLITE if one in error and other in error)
    return next((f". {advice}" for advice in found), "")


def _waited_for_a_lock(error: BaseException) -> bool:
    words = driver_message(error).lower()  # PostgreSQL's; MySQL's and MariaDB's
    return "due to lock timeout" in words or "lock wait timeout exceeded" in words


def _why(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it {_exit(error)}"
    if isinstance(error, AssertionError) and not str(error):
        return "AssertionError (a constraint without a name?)"
    if isinstance(error, UowError):
        return str(error).rstrip(".")
    what = driver_message(error)
    if not isinstance(error, DBAPIError):
        what = f"{type(error).__name__}: {what}"
    statement = escaped(getattr(error, "statement", None) or "")
    return f"{what} [{statement[:200]}]" if statement else what
