"""What an ``env.py`` asks for: ours a request of the running command, Flask-Migrate's a view.

The request is handed over in Alembic's ``config.attributes``. The files of Flask-Migrate read
``current_app.extensions["migrate"]``: ``.db.get_engine()``, ``.db.engines``,
``.db.metadatas[bind_key]`` and ``.configure_args``; its ``script.py.mako`` asks ``.db`` for
``bind_names()`` too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

from flask import Flask
from sqlalchemy import Engine, MetaData

from ..._config import reading
from ..._config.settings import MigrationSettings
from ..._transaction.routing import DEFAULT
from ...errors import MigrationError
from . import metadata as models
from .metadata import EXTENSION, MigratedDatabase

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext

    from ..._engine.build import Engines
    from .._compare.announce import Comparison


ATTRIBUTE = "flask_uow"  # the key in ``config.attributes``
DEFAULTS = {"compare_type": True, "transaction_per_migration": True}
"""For ``context.configure()``, in every ``env.py``."""


@dataclass
class EnvRequest:
    """What one command asks of the environment; made once for each command.

    :ivar app_engines: all engines of the app.
    :ivar engines: those that are migrated, in order.
    :ivar options: for ``context.configure()``, from ``UOW_MIGRATIONS``.
    :ivar writes: the databases will be changed.
    :ivar comparison: set if models and databases are compared.
    :ivar skip_empty: write no file if there is nothing to do.
    :ivar scripts: by engine, the SQL that ``--sql`` has made.
    """

    db: MigratedDatabase
    app_engines: Mapping[str, Engine]
    engines: Mapping[str, Engine]
    options: Mapping[str, Any]
    writes: bool = False
    comparison: Comparison | None = None
    skip_empty: bool = False
    scripts: dict[str, str] = field(default_factory=dict)

    @cached_property
    def main(self) -> str:
        """The engine that files without parts are for.

        One of all engines of the app: what a file means does not change with ``UOW_MIGRATIONS``.
        """
        return DEFAULT if DEFAULT in self.app_engines else next(iter(self.app_engines))

    @cached_property
    def has_parts(self) -> bool:
        """Tell whether new files say by name which engine their functions are for."""
        return list(self.engines) != [self.main]

    @property
    def attributes(self) -> dict[str, Any]:
        """For ``config.attributes``."""
        return {ATTRIBUTE: self, "engine_names": list(self.engines) if self.has_parts else []}

    def name_of(self, context: MigrationContext) -> str:
        """The name of the engine of *context*, which may be one that is not migrated."""
        connection: Any = context.connection
        for name, engine in self.app_engines.items():
            if engine is connection.engine or engine.pool is connection.engine.pool:
                return name
        return self.main if self.main in self.engines else next(iter(self.engines))

    def to_look_at(self, engines: Iterable[str]) -> EnvRequest:
        """A request that only asks where *engines* are."""
        some = {name: self.engines[name] for name in engines}
        return EnvRequest(self.db, self.app_engines, some, self.options)

    def metadata_of(self, engine: str) -> list[MetaData]:
        """The metadata of the tables of one engine.

        :raises UnknownEngine: a table belongs to an engine that is not configured.
        """
        return models.of_engine(self.db, engine, self.app_engines)

    def filtered(self, options: dict[str, Any], engine: str = "") -> dict[str, Any]:
        """*options* with the filter of tables that the comparison of *engine* needs.

        :param engine: empty for an ``env.py`` that has one set of options for all engines.
        """
        if self.comparison is None:
            return options
        metadata = self.metadata_of(engine) if engine else self.db.metadatas
        if len(self.engines) == 1:
            (engine,) = self.engines

        def default_schema() -> str | None:  # known once the engine has connected
            return self.engines[engine].dialect.default_schema_name if engine else None

        include = self.comparison.include_name(
            engine, metadata, options.get("include_name"), default_schema
        )
        return {**options, "include_name": include}


def request_of(db: MigratedDatabase, engines: Engines, settings: MigrationSettings) -> EnvRequest:
    """Make the request of one command.

    :param engines: all engines of the app.
    :raises UnknownEngine: ``UOW_MIGRATIONS`` names an engine that is not configured.
    """
    migrated = {name: engines[name] for name in settings.engines or engines}
    return EnvRequest(db, engines.copy(), migrated, dict(settings.options))


def database_of(app: Flask) -> MigratedDatabase:
    """The ``Database`` of *app*.

    :raises MigrationError: the app has none.
    """
    db: MigratedDatabase | None = app.extensions.get(EXTENSION)
    if db is None:
        raise MigrationError(
            f"The app {app.name!r} has no Database. Call 'db.init_app(app)' first."
        )
    return db


def request_from_plain_alembic(app: Flask) -> EnvRequest:
    """For code that has called Alembic's own functions: no command of ours has made a request.

    :raises MigrationError: the app has no ``Database``.
    :raises UnknownEngine: as :func:`request_of`.
    """
    db = database_of(app)
    request = request_of(db, db.engines, reading.read_migrations(app.config))
    request.writes = True
    return request


# Flask-Migrate's ----------------------------------------------------------------------------------


class FlaskMigrateView:
    """``app.extensions["migrate"]``, where Flask-Migrate itself is not registered.

    :param given: the arguments that the app has given to Flask-Migrate, if it is registered.
    :param request: of the running command.
    """

    def __init__(
        self,
        app: Flask,
        db: MigratedDatabase,
        given: Mapping[str, Any] = MappingProxyType({}),
        request: EnvRequest | None = None,
    ) -> None:
        self._app = app
        self._given = given
        self._request = request
        self.db = FlaskSQLAlchemyView(db)

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
        arguments = {**DEFAULTS, "render_as_batch": True, **self._given, **settings.options}
        return arguments if self._request is None else self._request.filtered(arguments)

    @property
    def metadata(self) -> MetaData:
        return self.db.metadata


class FlaskSQLAlchemyView:
    """A ``Database`` under the names of Flask-SQLAlchemy."""

    def __init__(self, db: MigratedDatabase) -> None:
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
