"""What a command looks at before it begins, and refuses in words."""

from __future__ import annotations

import inspect
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine

from .._config import reading
from .._sqlite import profile
from .._unit.pending import pending
from .._unit.unit import has_begun_by_hand
from ..errors import MigrationError
from . import connectivity
from ._env import metadata
from ._env.metadata import MigratedDatabase
from ._run import timeouts
from ._run.runner import Heads, Runner
from .results import named

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

LONGEST = 1_000_000  # seconds, which every server takes for a timeout

_MYSQL = {"mysql", "mariadb"}
_RESERVED = {"base", "current", "head", "heads"}
_IS_NAME = re.compile(r"\w[\w.]{0,31}").fullmatch


# Arguments -------------------------------------------------------------------------------------


def require_options(options: Mapping[str, Any]) -> None:
    """Refuse typing errors.

    :param options: those of ``UOW_MIGRATIONS`` that are Alembic's.
    :raises ConfigError: Alembic has no option of that name.
    """
    if not options:
        return
    from alembic.runtime.environment import EnvironmentContext

    known = set(inspect.signature(EnvironmentContext.configure).parameters) - {"self", "kw"}
    known |= {"version_table", "version_table_schema", "version_table_pk"}
    reading.refuse_unknown_options(options, known)


def require_seconds(**given: Any) -> None:
    """Refuse what no server takes for a timeout.

    :param given: arguments by name; None is one that was left out.
    :raises MigrationError: an argument is not a number of seconds.
    """
    for name, value in given.items():
        if value is None:
            continue
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (is_number and math.isfinite(value) and 0 <= value <= LONGEST):
            raise MigrationError(
                f"{name!r} is {value!r}, but it must be a number of seconds, at most {LONGEST}."
            )


def require_statement_timeout(engines: Mapping[str, Engine], seconds: float | None) -> None:
    """Refuse a timeout that would do nothing.

    :raises MigrationError: none of the databases can end a statement.
    """
    if seconds is None or any(map(timeouts.can_end_statements, engines.values())):
        return
    kinds = " and ".join(sorted({engine.dialect.name for engine in engines.values()}))
    raise MigrationError(
        f"'--statement-timeout' needs a server that ends a statement, which {kinds} does not."
        " PostgreSQL and MariaDB do. Leave it out here."
    )


def require_revision(revision: str, group: str, *, sql: bool = False) -> None:
    """Refuse what cannot name a revision.

    :param revision: what a user has typed.
    :param sql: it may be a range, ``"start:end"``.
    :raises MigrationError: it is empty, or a range.
    """
    parts = revision.split(":")
    ends = [end for part in parts for end in part.split("@")]
    if len(parts) > (2 if sql else 1) or not all(end.strip() for end in ends):
        raise MigrationError(
            f"{revision!r} names no revision. Write an identifier, the beginning of one, 'head',"
            " 'base' or BRANCH@head, and a range, START:END, with '--sql' only;"
            f" 'flask {group} history' lists the revisions."
        )


def range_of(rev_range: str, group: str) -> tuple[str, str]:
    """Start and end of ``"start:end"``, empty if they are left out.

    :raises MigrationError: it is no range.
    """
    start, separator, end = rev_range.strip().partition(":")
    if not separator:
        raise MigrationError(
            f"{rev_range!r} is no range of revisions. Write '[start]:[end]', for example"
            f" 'flask {group} history -r base:current'."
        )
    for revision in filter(None, (start, end)):
        require_revision(revision, group)
    return start, end


def require_new(runner: Runner, *names: str | None) -> None:
    """Refuse what would replace a file, or break the folder.

    :param names: the identifier and the label of a new revision; None if Alembic chooses.
    :raises MigrationError: one of them is taken, or impossible; or two engines would share
        functions.
    """
    metadata.part_names(runner.config)
    scripts = list(runner.script.walk_revisions())
    taken = {name for script in scripts for name in (script.revision, *script.branch_labels)}
    for name in names:
        if name is not None and (name in _RESERVED | taken or not _IS_NAME(name)):
            raise MigrationError(
                f"{name!r} cannot be the identifier or the branch label of a new revision: it is"
                " taken, or is not made of at most 32 letters, digits, underscores and dots."
                " Choose another one."
            )


# Models and databases --------------------------------------------------------------------------


def count_tables(runner: Runner, command: str) -> dict[str, int]:
    """The number of tables of each engine.

    :param command: the one to write again.
    :raises MigrationError: the models have no table.
    """
    request = runner.request
    counts = {
        name: sum(len(models.tables) for models in request.metadata_of(name))
        for name in request.engines
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


def require_own_databases(engines: Mapping[str, Engine]) -> None:
    """Refuse engines that would note their revisions in one place, or nowhere.

    :raises MigrationError: two engines are one database; or the URL of one names none.
    """
    owners: dict[object, str] = {}
    for name, engine in engines.items():
        url = engine.url
        if url.get_backend_name() in _MYSQL and not url.database:
            # The server takes the connection, and fails at the first table.
            raise MigrationError(
                f"The URL of the engine {name!r} ({connectivity.redacted_url(url)}) names no"
                " database. Write it after the host: '.../DATABASE'."
            )
        key = _identity(engine)
        owner = name if key is None else owners.setdefault(key, name)
        if owner != name:
            raise MigrationError(
                f"The engines {owner!r} and {name!r} are one database, which can record one"
                " revision only. Migrate one of them: UOW_MIGRATIONS ="
                f" {{'engines': [{owner!r}]}}."
            )


def _identity(engine: Engine) -> object:
    """What two engines of one database share, as far as their URLs tell; None for nothing.

    Two engines that search other schemas first have two tables for the note of the revision.
    """
    url = engine.url
    kind = url.get_backend_name()
    if kind == "sqlite":
        path, _ = profile.path_of(url.database or "", is_uri="uri" in url.query)
        return None if profile.is_memory(url) else str(Path(path).resolve())
    if not url.database:
        return None
    server = "mysql" if kind in _MYSQL else kind
    schemas = engine.get_execution_options().get("schema_translate_map")
    return server, url.host, url.port, url.database, url.query.get("options"), repr(schemas)


def require_idle_unit(db: MigratedDatabase) -> None:
    """End the transaction of the unit of work of this context, if it has only read.

    A migration would wait for its locks, in the same thread.

    :raises MigrationError: it has written, or is inside of a block: its end is not ours to choose.
    """
    unit = db.current_unit()
    if unit is None or not unit.session.in_transaction():
        return
    session = unit.session
    if unit.has_work:
        changes = Counter([*session.record.flushed, *pending(session)])
        what = ", ".join(
            f"{count} {name} ({kind})" for (name, kind), count in sorted(changes.items())
        )
        raise MigrationError(
            f"The unit of work of this context has uncommitted work ({what or 'SQL statements'}),"
            " and a migration would wait for its locks for ever. Call 'db.session.commit()' or"
            " 'db.session.rollback()' first."
        )
    if not session.connections:
        return
    if unit.blocks or has_begun_by_hand(session):
        raise MigrationError(
            "The unit of work of this context is inside 'with db.atomic():' or"
            " 'session.begin()' and has read, and a migration would wait for its locks for ever."
            " Migrate before the block, or after it."
        )
    unit.release(warn=False)


# Revisions -------------------------------------------------------------------------------------


def require_known(runner: Runner, heads: Heads) -> None:
    """Refuse a database that is beyond the folder.

    :raises MigrationError: a database is at a revision that the folder does not have.
    """
    for name, revisions in heads.items():
        for head in revisions:
            if not knows(runner.script, head):
                raise MigrationError(
                    f"The database of the engine {name!r} is at revision {head!r}, which the folder"
                    f" {str(runner.folder)!r} does not have: the code is older than the database,"
                    " or the file was deleted. Get the file back, or write"
                    f" 'flask {runner.group} stamp --purge REVISION' with the revision that the"
                    " tables are at."
                )


def require_current(runner: Runner, heads: Heads) -> None:
    """Refuse to compare a database that is not up to date.

    :raises MigrationError: a revision is pending on one of the databases, or unknown.
    """
    require_known(runner, heads)
    for name, revisions in heads.items():
        missing = runner.pending(revisions)
        if missing:
            more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise MigrationError(
                f"The database of the engine {name!r} is not up to date, so it cannot be compared:"
                f" {named(missing[0])} is missing{more}. Write '{upgrade_command(runner)}' first."
            )


def require_something_to_undo(heads: Heads, group: str) -> None:
    """Refuse "the last one" where that means nothing, or several things.

    :raises MigrationError: no database has a revision, or one is at several.
    """
    if not any(heads.values()):
        raise MigrationError(
            "There is nothing to downgrade: no database has a revision."
            f" 'flask {group} status' says where they are."
        )
    for name, revisions in heads.items():
        if len(revisions) > 1:
            raise MigrationError(
                f"The database of the engine {name!r} is at {len(revisions)} revisions,"
                f" {' and '.join(revisions)}, so the last one may be any of them. Name it:"
                f" 'flask {group} downgrade {revisions[0]}@-1'."
            )


def upgrade_command(runner: Runner) -> str:
    """The command that runs what is pending."""
    return f"flask {runner.group} upgrade{' heads' if len(runner.script.get_heads()) > 1 else ''}"


def knows(script: ScriptDirectory, head: str) -> bool:
    """Tell whether the folder has this revision."""
    from alembic.util import CommandError

    try:
        return script.get_revision(head) is not None
    except CommandError:
        return False
