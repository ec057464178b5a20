"""What a command looks at before it begins, and refuses in words."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from .._config import reading
from .._sqlite import profile
from ..errors import MigrationError
from . import connectivity, messages
from ._env import metadata
from ._run.runner import Heads, Runner
from .results import named

if TYPE_CHECKING:
    from alembic.script import Script, ScriptDirectory

LONGEST = 1_000_000  # seconds, which every server takes for a timeout
_NO_NAMES = {"base", "current", "head", "heads"}
_LENGTH = 32  # of the column in which a database notes its revision


# Arguments -------------------------------------------------------------------------------------


def require_options(options: Mapping[str, Any]) -> None:
    """
    :param options: those of ``UOW_MIGRATIONS`` that are Alembic's.
    :raises ConfigError: one of them is not.
    """
    if not options:
        return
    from alembic.runtime.environment import EnvironmentContext

    known = set(inspect.signature(EnvironmentContext.configure).parameters) - {"self", "kw"}
    known |= {"version_table", "version_table_schema", "version_table_pk"}
    reading.refuse_unknown_options(options, known)


def require_seconds(**given: Any) -> None:
    """
    :param given: arguments by name; None is one that was left out.
    :raises MigrationError: one of them is no number of seconds.
    """
    for name, value in given.items():
        if value is None:
            continue
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or not 0 <= value <= LONGEST:
            raise MigrationError(
                f"{name!r} is {value!r}, and it must be a number of seconds, at most {LONGEST}."
            )


def require_revision(revision: str, group: str, *, sql: bool = False) -> None:
    """
    :param revision: what a user has typed.
    :param sql: it may be a range, ``"start:end"``.
    :raises MigrationError: it cannot name a revision.
    """
    parts = revision.split(":")
    if len(parts) > 1 and not sql:
        raise MigrationError(
            f"{revision!r} is a range of revisions, which goes with '--sql' only. Name the one to"
            f" go to; 'flask {group} history' lists them."
        )
    ends = [end for part in parts for end in part.split("@")]
    if len(parts) > 2 or not all(end.strip() for end in ends):
        raise MigrationError(
            f"{revision!r} names no revision. Write an identifier, the beginning of one, 'head',"
            f" 'base' or BRANCH@head; 'flask {group} history' lists the revisions."
        )


def require_new(
    runner: Runner, script: ScriptDirectory, rev_id: str | None, branch_label: str | None
) -> None:
    """
    :raises MigrationError: a new revision cannot have this identifier or this label, or two
        engines would share its functions.
    """
    metadata.part_names(runner.config(runner.job()))
    taken: dict[str, Script] = {}
    for one in script.walk_revisions():
        taken.update(dict.fromkeys([one.revision, *one.branch_labels], one))
    for what, name in (("identifier", rev_id), ("branch label", branch_label)):
        if name is None:
            continue
        if not re.fullmatch(r"\w[\w.]*", name) or name in _NO_NAMES:
            raise MigrationError(
                f"{name!r} cannot be the {what} of a revision, which has letters, digits,"
                " underscores and dots, and is none of 'head', 'heads', 'base', 'current'. Choose"
                " another one."
            )
        if name in taken:
            raise MigrationError(
                f"{name!r} is taken: {Path(taken[name].path).name} has it already. Choose another"
                f" {what}."
            )
    if rev_id is not None and len(rev_id) > _LENGTH:
        raise MigrationError(
            f"{rev_id!r} is longer than {_LENGTH} characters, which is what a database can note"
            " of a revision. Choose a shorter identifier."
        )


# Models and databases --------------------------------------------------------------------------


def count_tables(runner: Runner, command: str) -> dict[str, int]:
    """By engine.

    :param command: the one to write again.
    :raises MigrationError: there are none at all, or two engines are one database.
    """
    engines = runner.db.engines
    require_own_databases(runner)
    counts = {
        name: sum(len(one.tables) for one in metadata.of_engine(runner.db, name, engines))
        for name in runner.engines
    }
    if not any(counts.values()):
        raise MigrationError(
            f"The models of the app {runner.app.name!r} have no tables, so there is nothing to"
            " compare the database with. A model counts when its module has been imported, and"
            " its class is derived from the base of the Database: import the modules of your"
            f" models where the app is made ('import {runner.app.name}.models'), then write"
            f" 'flask {runner.group} {command}' again."
        )
    return counts


def require_own_databases(runner: Runner) -> None:
    """
    :raises MigrationError: two engines are one database, which notes one revision; or the URL of
        one names none.
    """
    found: dict[object, str] = {}
    for name, engine in runner.engines.items():
        key = _identity(engine)
        if key is None:
            _require_a_database(name, engine)
            continue
        other = found.setdefault(key, name)
        if other != name:
            raise MigrationError(
                f"The engines {other!r} and {name!r} are one database, which can note one"
                " revision only. Migrate one of them: UOW_MIGRATIONS ="
                f" {{'engines': [{other!r}]}}."
            )


def _identity(engine: Engine) -> object:
    """What two engines of one database share, as far as their URLs tell; None for nothing.

    Schemas that are searched first make two of one, as far as the note of the revision goes.
    """
    url = engine.url
    kind = url.get_backend_name()
    if kind == "sqlite":
        return None if profile.is_memory(url) else ("sqlite", _file_of(url))
    if not url.database:
        return None
    if kind in {"mysql", "mariadb"}:
        kind = "mysql"
    schemas = engine.get_execution_options().get("schema_translate_map")
    return kind, url.host, url.port, url.database, url.query.get("options"), repr(schemas)


def _file_of(url: URL) -> str:
    path, _ = profile.path_of(url.database or "", is_uri="uri" in url.query)
    return str(Path(path).resolve()) if path else str(url.database)


def _require_a_database(name: str, engine: Engine) -> None:
    """MySQL and MariaDB connect without one, and fail at the first table."""
    if engine.url.get_backend_name() not in {"mysql", "mariadb"}:
        return
    try:
        with engine.connect() as connection:
            found = connection.scalar(text("SELECT DATABASE()"))
    except SQLAlchemyError:
        return  # who needs it will hear of it
    if found is None:
        raise MigrationError(
            f"The URL of the engine {name!r} ({connectivity.address(engine.url)}) names no"
            " database. Write it after the host: '.../DATABASE'."
        )


# Revisions -------------------------------------------------------------------------------------


def require_one_head(runner: Runner, script: ScriptDirectory) -> None:
    """
    :raises MigrationError: the folder has several heads.
    """
    heads = script.get_heads()
    if len(heads) > 1:
        raise MigrationError(messages.several_heads(heads, runner.folder, runner.group))


def require_known(runner: Runner, heads: Heads, script: ScriptDirectory) -> None:
    """
    :raises MigrationError: a database is at a revision that the folder does not have.
    """
    for name, found in heads.items():
        for head in found:
            if not knows(script, head):
                raise MigrationError(messages.unknown_head(name, head, runner.folder, runner.group))


def require_current(runner: Runner, heads: Heads, script: ScriptDirectory) -> None:
    """
    :raises MigrationError: a revision is pending on one of the databases, or unknown.
    """
    require_known(runner, heads, script)
    for name, found in heads.items():
        pending = runner.pending(script, found)
        if pending:
            raise MigrationError(
                f"The database of the engine {name!r} is not up to date, so it cannot be"
                f" compared: {_listed(pending)} {'is' if len(pending) == 1 else 'are'} missing."
                f" Write '{upgrade_command(runner.group, script)}' first."
            )


def require_something_to_undo(heads: Heads, group: str) -> None:
    """For "the last one".

    :raises MigrationError: no database has a revision, or one is at several.
    """
    if not any(heads.values()):
        raise MigrationError(
            "There is nothing to downgrade: no database has a revision."
            f" 'flask {group} status' says where they are."
        )
    for name, found in heads.items():
        if len(found) > 1:
            raise MigrationError(
                f"The database of the engine {name!r} is at {len(found)} revisions,"
                f" {' and '.join(found)}, so the last one may be any of them. Name it:"
                f" 'flask {group} downgrade {found[0]}@-1'."
            )


def require_several(found: Sequence[Script], wanted: Sequence[str], group: str) -> None:
    """For ``merge``.

    :raises MigrationError: there are not two revisions.
    """
    if len({one.revision for one in found}) > 1:
        return
    if not found and not wanted:
        raise MigrationError(no_revision(group))
    if wanted:
        raise MigrationError(
            f"There is nothing to merge: {' '.join(wanted)!r} is one revision."
            f" 'flask {group} heads' lists the heads."
        )
    raise MigrationError(
        f"There is nothing to merge: the folder has one head, {named(found[0])}."
        f" 'flask {group} history' lists the revisions."
    )


def no_revision(group: str) -> str:
    return f"There is no revision yet. Write one: 'flask {group} migrate -m MESSAGE'."


def upgrade_command(group: str, script: ScriptDirectory) -> str:
    """The one that runs what is pending."""
    return f"flask {group} upgrade{' heads' if len(script.get_heads()) > 1 else ''}"


def knows(script: ScriptDirectory, head: str) -> bool:
    """Does the folder have this revision?"""
    from alembic.util import CommandError

    try:
        return script.get_revision(head) is not None
    except CommandError:
        return False


def _listed(scripts: Sequence[Script]) -> str:
    names = [named(one) for one in scripts[:5]]
    more = f" and {len(scripts) - 5} more" if len(scripts) > 5 else ""
    return f"{', '.join(names)}{more}"
