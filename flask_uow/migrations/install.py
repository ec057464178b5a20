"""What an app gets at its start: the group ``db``, and what ``env.py`` files look for.

Nothing of Alembic is imported here, and no command before it is named.
"""

from __future__ import annotations

import warnings
from typing import Any

import click
from flask import Flask
from flask.cli import AppGroup

from .._config import reading
from ..errors import ConfigNotice
from ._env.flask_migrate import FlaskMigrateView
from ._env.metadata import EXTENSION, Database
from .startup_check import watch_requests

OPTIONS = "flask_uow.migrations"  # those of the group, in click's ``Context.meta``
COMMANDS = (
    "branches",
    "check",
    "current",
    "downgrade",
    "edit",
    "heads",
    "history",
    "init",
    "list-templates",
    "merge",
    "migrate",
    "revision",
    "show",
    "stamp",
    "status",
    "upgrade",
    "wait",
)


def install(app: Flask, db: Database) -> None:
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
            " and it stays. Set UOW_CLI_GROUP, for example to 'uow', before 'init_app': the"
            " migrations of flask_uow are 'flask uow ...' then.",
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
