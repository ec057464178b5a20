"""What an app gets: the group ``db``, what ``env.py`` files look for, a check at its first request.

Alembic is not imported here, and a command only when it is used.
"""

from __future__ import annotations

import logging
import threading
import warnings
from typing import Any

import click
from flask import Flask, request_started
from flask.cli import AppGroup

from .._config import reading
from ..errors import ConfigNotice, MigrationsPending, escaped
from ._env.metadata import EXTENSION, MigratedDatabase
from ._env.request import FlaskMigrateView
from .results import named

OPTIONS = "flask_uow.migrations"  # those of the group, in click's ``Context.meta``
COMMANDS = frozenset(
    """
    branches check current downgrade edit heads history init list-templates merge migrate revision
    show stamp status upgrade wait
    """.split()
)


def register(app: Flask, db: MigratedDatabase) -> None:
    """Give *app* the group of commands, under the name ``UOW_CLI_GROUP``.

    :raises ConfigError: a setting of the migrations is not possible.
    """
    reading.read_migrations(app.config)
    app.extensions[EXTENSION] = db
    app.extensions.setdefault("migrate", FlaskMigrateView(app, db))
    name, check = reading.read_migration_names(app.config)
    if name in app.cli.commands:
        warnings.warn(
            f"The app {app.name!r} has a group of commands {name!r} already{_owner(app, name)},"
            " which is kept. Set UOW_CLI_GROUP, for example to 'uow', before 'init_app': then the"
            " commands of flask_uow are 'flask uow ...'.",
            ConfigNotice,
            stacklevel=4,
        )
    elif name:
        app.cli.add_command(LazyGroup(name))
    if check:
        watch_requests(app, check)


def _owner(app: Flask, name: str) -> str:
    module = getattr(app.cli.commands[name].callback, "__module__", None) or ""
    known = {"flask_migrate": "Flask-Migrate", "flask_alembic": "Flask-Alembic"}
    owner = known.get(module.partition(".")[0])
    return f" ({owner}'s)" if owner else ""


class LazyGroup(AppGroup):
    """A group that knows the names of its commands, and imports them when it needs one."""

    def __init__(self, name: str) -> None:
        super().__init__(
            name,
            short_help="Migrate the databases.",
            help="Migrate the databases: write revisions, run them, see where they are.",
            params=[
                click.Option(["-d", "--directory"], help="The folder of the migrations."),
                click.Option(
                    ["-x", "--x-arg"], multiple=True, help="For 'env.py'; may be repeated."
                ),
            ],
            callback=_keep,
        )

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*COMMANDS, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            from .cli import commands

            return commands[cmd_name]
        return super().get_command(ctx, cmd_name)


def _keep(**options: Any) -> None:
    """Keep the options of the group for the command."""
    click.get_current_context().meta[OPTIONS] = options


# The first request --------------------------------------------------------------------------------


logger = logging.getLogger(__name__)


def watch_requests(app: Flask, mode: str) -> None:
    """Look for pending revisions at the first request of *app*.

    :param mode: ``"warn"``: log what is pending; ``"error"``: raise an error in each request until
        nothing is.
    """
    watcher = _Watcher(mode)
    app.extensions["uow_migrations_check"] = watcher  # the signal keeps a weak reference only
    request_started.connect(watcher.look, app)


class _Watcher:
    def __init__(self, mode: str) -> None:
        self._mode = mode
        self._once = threading.Lock()

    def look(self, app: Flask, **_: object) -> None:
        """Log or raise what is pending.

        :raises MigrationsPending: in the mode "error".
        """
        if self._mode != "error" and not self._once.acquire(blocking=False):
            return  # several first requests at once
        text = _pending() if app.debug else None
        if text is None or self._mode != "error":
            request_started.disconnect(self.look, app)
        if text is None:
            return
        if self._mode == "error":
            raise MigrationsPending(text)
        logger.warning("%s", text)


def _pending() -> str | None:
    """Return what is pending, in one sentence; None if nothing is, or if that is unknown."""
    from .api import Migrations

    try:
        migrations = Migrations()
        if not (migrations.folder / "env.py").is_file():
            return None
        behind = [status for status in migrations.status() if status.pending]
        command = migrations.upgrade_command if behind else ""
    except (Exception, SystemExit) as error:  # of an 'env.py', too; it must not end a request
        what = escaped(error) or type(error).__name__
        logger.warning("The migrations could not be checked: %s", what)
        return None
    if not behind:
        return None
    engines = "; ".join(
        f"of the engine {status.name!r}: {', '.join(map(named, status.pending))}"
        for status in behind
    )
    return f"Revisions are pending on the database {engines}. Write '{command}'."
