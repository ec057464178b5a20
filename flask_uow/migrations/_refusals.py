"""What a command looks at before it begins, and refuses in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import MigrationError
from . import _models, _translate
from ._runner import Heads, Runner

if TYPE_CHECKING:
    from alembic.script import Script, ScriptDirectory


def count_tables(runner: Runner) -> dict[str, int]:
    """By engine.

    :raises MigrationError: there are none at all.
    """
    engines = runner.db.engines
    require_own_databases(runner)
    counts = {
        name: sum(len(one.tables) for one in _models.of_engine(runner.db, name, engines))
        for name in runner.engines
    }
    if not any(counts.values()):
        raise MigrationError(
            f"The models of the app {runner.app.name!r} have no tables, so there is nothing to"
            " compare the database with. A model counts when its module has been imported, and"
            " its class is derived from the base of the Database: import the modules of your"
            f" models where the app is made ('import {runner.app.name}.models'), then write"
            f" 'flask {runner.group} migrate' again."
        )
    return counts


def require_own_databases(runner: Runner) -> None:
    """
    :raises MigrationError: two engines are one database, which notes one revision.
    """
    found: dict[object, str] = {}
    for name, engine in runner.engines.items():
        url = engine.url
        if url.database in {None, "", ":memory:"}:
            continue
        key = url.get_backend_name(), url.host, url.port, url.database
        other = found.setdefault(key, name)
        if other != name:
            raise MigrationError(
                f"The engines {other!r} and {name!r} are one database, which can note one"
                " revision only. Migrate one of them: UOW_MIGRATIONS ="
                f" {{'engines': [{other!r}]}}."
            )


def require_one_head(runner: Runner, script: ScriptDirectory) -> None:
    heads = script.get_heads()
    if len(heads) > 1:
        raise MigrationError(_translate.several_heads(heads, runner.folder, runner.group))


def require_known(runner: Runner, heads: Heads, script: ScriptDirectory) -> None:
    for name, found in heads.items():
        for head in found:
            if not knows(script, head):
                raise MigrationError(
                    _translate.unknown_head(name, head, runner.folder, runner.group)
                )


def require_current(runner: Runner, heads: Heads, script: ScriptDirectory) -> None:
    require_known(runner, heads, script)
    for name, found in heads.items():
        pending = runner.pending(script, found)
        if pending:
            raise MigrationError(
                f"The database of the engine {name!r} is not up to date, so it cannot be"
                f" compared: {_listed(pending)} {'is' if len(pending) == 1 else 'are'} missing."
                f" Write 'flask {runner.group} upgrade' first."
            )


def knows(script: ScriptDirectory, head: str) -> bool:
    from alembic.util import CommandError

    try:
        return script.get_revision(head) is not None
    except CommandError:
        return False


def _listed(scripts: Sequence[Script]) -> str:
    names = [f"{one.revision} ({one.doc})" if one.doc else one.revision for one in scripts[:5]]
    more = f" and {len(scripts) - 5} more" if len(scripts) > 5 else ""
    return f"{', '.join(names)}{more}"
