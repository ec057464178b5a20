"""Folders that Flask-Migrate has written: what their ``env.py`` looks for.

It reads ``current_app.extensions["migrate"]``: ``.db.get_engine()``, ``.db.engines``,
``.db.metadatas[bind_key]`` and ``.configure_args``; its ``script.py.mako`` asks ``.db`` for
``bind_names()`` too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from flask import Flask
from sqlalchemy import Engine, MetaData

from ..._config import reading
from ..._transaction.routing import DEFAULT
from ...errors import MigrationError
from . import metadata as models
from .metadata import Database


class FlaskMigrateView:
    """``app.extensions["migrate"]``, where Flask-Migrate itself is not registered.

    :param given: the arguments that the app has given to Flask-Migrate, if it is registered.
    :ivar overrides: what the running command adds to the arguments.
    """

    def __init__(self, app: Flask, db: Database, given: Mapping[str, Any] | None = None) -> None:
        self._app = app
        self._given = given or {}
        self.db = FlaskSQLAlchemyView(db)
        self.overrides: Callable[[dict[str, Any]], dict[str, Any]] = dict

    @property
    def directory(self) -> str:
        return reading.read_migrations(self._app.config).directory

    @property
    def migrate(self) -> NoReturn:
        """What Flask-Migrate's own commands and functions ask for first.

        Up to version 3 its group ``db`` is an entry point, which Flask prefers to ours.

        :raises MigrationError: always.
        """
        raise MigrationError(
            "Flask-Migrate was called, and the migrations of this app are flask_uow's. Uninstall"
            " Flask-Migrate, or set UOW_CLI_GROUP = 'uow' and write 'flask uow ...'; in code it is"
            " 'flask_uow.migrations.Migrations().upgrade()'."
        )

    @property
    def configure_args(self) -> dict[str, Any]:
        """For ``context.configure()``; a new dict each time, because ``env.py`` adds to it."""
        settings = reading.read_migrations(self._app.config)
        defaults = {
            "compare_type": True,
            "render_as_batch": True,
            "transaction_per_migration": True,
        }
        return self.overrides({**defaults, **self._given, **settings.options})

    @property
    def metadata(self) -> MetaData:
        return self.db.metadata


class FlaskSQLAlchemyView:
    """A ``Database`` under the names of Flask-SQLAlchemy."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def get_engine(self, *given: object, **named: object) -> Engine:
        """``get_engine(bind)``, or ``get_engine(app, bind)``, which folders of version 2 call."""
        names = [value for value in (*given, *named.values()) if isinstance(value, str)]
        return self._db.engines[names[0] if names else None]

    @property
    def engine(self) -> Engine:
        return self._db.engine

    @property
    def engines(self) -> dict[str | None, Engine]:
        engines: dict[str | None, Engine] = dict(self._db.engines)
        return {None: engines[DEFAULT], **engines} if DEFAULT in engines else engines

    @property
    def metadata(self) -> MetaData:
        return self._db.metadata

    @property
    def metadatas(self) -> dict[str | None, list[MetaData]]:
        """By bind key, ``None`` for the default."""
        engines = self._db.engines
        return {
            None if name == DEFAULT else name: models.of_engine(self._db, name or DEFAULT, engines)
            for name in engines
        }

    def bind_names(self) -> list[str]:
        """The named engines; asked for where there is no ``SQLALCHEMY_BINDS``."""
        return [name for name in self._db.engines.named if name != DEFAULT]
