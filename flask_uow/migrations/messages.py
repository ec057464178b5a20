"""What Alembic says, in sentences that end with the next command."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import MigrationError
from ._env import alembic_private, directory
from .connectivity import words

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import Script, ScriptDirectory


def scripts(config: Config, folder: Path) -> ScriptDirectory:
    """The revisions of *folder*, all of them loaded.

    :raises MigrationError: a file cannot be loaded, or they do not fit together.
    """
    from alembic.script import ScriptDirectory
    from alembic.script.revision import CycleDetected, RevisionMap

    try:
        found = ScriptDirectory.from_config(config)
    except directory.UNREADABLE as error:
        raise directory.not_read(config, error) from error
    try:
        loaded = alembic_private.load(found)
    except CycleDetected as error:
        raise MigrationError(_circle(error.revisions)) from error
    _refuse_damage(loaded, folder)
    found.revision_map = RevisionMap(lambda: iter(loaded))  # which need not load them again
    list(found.walk_revisions())
    return found


def _refuse_damage(scripts: Sequence[Script], folder: Path) -> None:
    """Alembic warns, and fails later.

    :raises MigrationError: two files are one revision, or one follows none that is there.
    """
    owners: dict[str, Script] = {}
    for script in scripts:
        other = owners.setdefault(script.revision, script)
        if other is not script:
            raise MigrationError(
                f"{_file(other)} and {_file(script)} are both revision {script.revision!r}. Give"
                " one of them another one."
            )
        if not callable(getattr(script.module, "upgrade", None)):
            raise MigrationError(_no_function(script.path, "upgrade"))
    for label, script in [(label, one) for one in scripts for label in sorted(one.branch_labels)]:
        other = owners.setdefault(label, script)
        if other is not script or label == script.revision:
            raise MigrationError(
                f"The branch label {label!r} of {_file(script)} is taken: it is that of"
                f" {_file(other)}, or its revision. Give it another one."
            )
    for script in scripts:
        for setting, name in _wanted(script):
            if name not in owners:
                how = "follows" if setting == "down_revision" else "depends on"
                raise MigrationError(
                    f"The folder {str(folder)!r} has no revision {name!r}, which {_file(script)}"
                    f" {how}: its file was deleted or not committed. Get it back, or set"
                    f" {setting} in {_file(script)}."
                )


def _wanted(script: Script) -> Iterator[tuple[str, str]]:
    """The revisions that *script* names, and where."""
    from alembic.util import to_tuple

    for setting in ("down_revision", "depends_on"):
        names: Any = to_tuple(getattr(script.module, setting, None), default=())
        for name in names:
            yield setting, name


def _file(script: Script) -> str:
    return Path(script.path).name


def command_error(error: Exception, folder: Path, group: str) -> MigrationError:
    """The sentence for a ``CommandError``."""
    from alembic.script import revision as revisions

    cause = error.__cause__
    text = str(error).rstrip(".")
    lists = f"'flask {group} history' lists the revisions."
    if isinstance(cause, revisions.MultipleHeads):
        return MigrationError(several_heads(cause.heads, folder, group))
    if isinstance(cause, revisions.CycleDetected):
        return MigrationError(_circle(cause.revisions))
    if isinstance(cause, revisions.ResolutionError):
        if str(cause).startswith("No such"):
            return MigrationError(
                f"The folder {str(folder)!r} has no revision {cause.argument!r}."
                f" 'flask {group} history' lists those that it has."
            )
        return MigrationError(f"{str(cause).rstrip('.')}. {lists}")
    if "batch mode" in text and "live database" in text:
        return MigrationError(
            "SQLite copies the table, which '--sql' cannot: run it with a connection, 'flask"
            f" {group} upgrade'."
        )
    if "is not a head revision" in text:
        return MigrationError(
            f"{text.partition(';')[0]}: others follow it. 'flask {group} heads' lists the heads;"
            f" 'flask {group} revision --splice' begins a new branch there."
        )
    if isinstance(cause, revisions.RevisionError):
        return MigrationError(f"{text}. {lists}")
    return MigrationError(f"{text}. 'flask --debug {group} ...' shows where.")


def _circle(names: Iterable[str]) -> str:
    found = sorted(names)
    if len(found) == 1:
        return f"The revision {found[0]} follows itself. Mend 'down_revision' in its file."
    return (
        f"The revisions {', '.join(found[:-1])} and {found[-1]} follow each other in a circle."
        " Mend 'down_revision' (or 'depends_on') in one of them."
    )


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
    module = getattr(error, "obj", None)
    name = getattr(error, "name", None)
    if isinstance(module, ModuleType) and name in {"upgrade", "downgrade"}:
        return MigrationError(_no_function(str(module.__file__), name))
    if isinstance(module, ModuleType) and name == "down_revision":
        return MigrationError(
            f"{str(module.__file__)!r} is no revision: it has no 'down_revision'. Set it to"
            " the revision before it, or to None if it is the first."
        )
    what = f"{type(error).__name__}: {words(error)}"
    where = file_of(error, folder)
    if where is None:
        return MigrationError(f"It failed ({what}). 'flask --debug {group} ...' shows where.")
    if where.name == "env.py" and not directory.is_ours(folder):
        return MigrationError(
            f"{str(where)!r}, which flask_uow has not written, failed ({what}). If it is not meant"
            " to stay, replace all of it by 'from flask_uow.migrations import run' and 'run()';"
            f" 'flask --debug {group} ...' shows where it failed."
        )
    return MigrationError(
        f"{str(where)!r} failed ({what}). 'flask --debug {group} ...' shows where."
    )


def _no_function(path: str, name: str) -> str:
    return (
        f"{path!r} has no function '{name}()'. Write one, with 'pass' in it if there is nothing"
        " to do."
    )


def file_of(error: BaseException, folder: Path) -> Path | None:
    """The file of *folder* in which *error* came up, or that Alembic was loading."""
    if isinstance(error, SyntaxError) and error.filename:
        return Path(error.filename)
    where = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        path = Path(frame.f_code.co_filename)
        if frame.f_code.co_name == "_from_path":
            where = Path(frame.f_locals.get("path", "?"))
        elif path.is_relative_to(folder) or path.is_relative_to(folder.resolve()):
            where = path
    return where
