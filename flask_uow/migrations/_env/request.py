"""What one command wants of ``env.py``, handed over by way of Alembic's ``Config``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from flask import Flask
from sqlalchemy import Engine, MetaData

from ..._config import reading
from ..._config.settings import MigrationSettings
from ..._transaction.routing import DEFAULT
from ...errors import MigrationError
from .._compare.announce import Comparison
from . import metadata as _models

if TYPE_CHECKING:
    from ...database import Database

ATTRIBUTE = "flask_uow"  # of Alembic's ``config.attributes``


@dataclass
class Job:
    """What one command wants of the environment.

    :ivar engines: those that are migrated, in order.
    :ivar options: for ``context.configure()``, from ``UOW_MIGRATIONS``.
    :ivar writes: the databases will be changed.
    :ivar comparison: set if models and databases are compared.
    :ivar skip_empty: no file is wanted if there is nothing to do.
    :ivar scripts: by engine, the SQL that ``--sql`` has made.
    """

    db: Database
    engines: Mapping[str, Engine]
    options: Mapping[str, Any]
    writes: bool = False
    comparison: Comparison | None = None
    skip_empty: bool = False
    scripts: dict[str, str] = field(default_factory=dict)

    @property
    def main(self) -> str:
        """The engine that files without parts are for.

        Of all engines of the app: what a file means does not change with ``UOW_MIGRATIONS``.
        """
        names = list(self.db.engines.named)
        return DEFAULT if DEFAULT in names else names[0]

    @property
    def has_parts(self) -> bool:
        """Do new files say by name which engine they are for?"""
        return list(self.engines) != [self.main]

    @property
    def attributes(self) -> dict[str, Any]:
        """For ``config.attributes``."""
        return {ATTRIBUTE: self, "engine_names": list(self.engines) if self.has_parts else []}

    def name_of(self, context: Any) -> str:
        """The name of the engine of a ``MigrationContext``; it may be one that is left out."""
        engine = context.connection.engine
        for name, one in self.db.engines.named.items():
            if one is engine or one.pool is engine.pool:
                return name
        return self.main if self.main in self.engines else next(iter(self.engines))

    def wants(self, context: Any) -> bool:
        """Is it the ``MigrationContext`` of an engine that is migrated?"""
        return self.name_of(context) in self.engines

    def comparing(self, engine: str, options: dict[str, Any]) -> dict[str, Any]:
        """*options* with what the comparison of *engine* needs."""
        if self.comparison is None:
            return options
        metadata = _models.of_engine(self.db, engine, self.db.engines)
        return {**options, "include_name": self._include_name(engine, metadata, options)}

    def comparing_all(self, options: dict[str, Any]) -> dict[str, Any]:
        """As :meth:`comparing`, for an ``env.py`` that has one set of options for all engines."""
        if self.comparison is None:
            return options
        name = next(iter(self.engines)) if len(self.engines) == 1 else ""
        return {**options, "include_name": self._include_name(name, self.db.metadatas, options)}

    def _include_name(
        self, engine: str, metadata: Iterable[MetaData], options: Mapping[str, Any]
    ) -> Callable[..., bool]:
        def default_schema() -> str | None:  # known when it has connected
            return self.engines[engine].dialect.default_schema_name if engine else None

        comparison = cast(Comparison, self.comparison)
        return comparison.include_name(
            engine, metadata, options.get("include_name"), default_schema
        )


def engines_of(db: Database, settings: MigrationSettings) -> dict[str, Engine]:
    """The engines that are migrated, in order.

    :raises UnknownEngine: ``UOW_MIGRATIONS`` names one that is not configured.
    """
    engines = db.engines
    return {name: engines[name] for name in settings.engines or engines}


def job_of(db: Database, settings: MigrationSettings, **more: Any) -> Job:
    """
    :raises UnknownEngine: as :func:`engines_of`.
    """
    return Job(db, engines_of(db, settings), dict(settings.options), **more)


def database_of(app: Flask) -> Database:
    """
    :raises MigrationError: the app has no ``Database``.
    """
    db: Database | None = app.extensions.get("uow_migrations")
    if db is None:
        raise MigrationError(
            f"The app {app.name!r} has no Database. Call 'db.init_app(app)' first."
        )
    return db


def job_of_the_app(app: Flask) -> Job:
    """For somebody who has called Alembic's own functions.

    :raises MigrationError: the app has no ``Database``.
    """
    return job_of(database_of(app), reading.read_migrations(app.config), writes=True)
