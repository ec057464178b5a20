"""What an ``env.py`` calls: one engine after the other, each with its own transactions.

The logic is here and not in the file, so that an update of the package mends every project.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flask import has_app_context
from sqlalchemy import Connection, Engine, text

from .. import _activity
from .._binds import DEFAULT
from ..errors import MigrationError
from . import _models, _steps
from ._autogenerate import Comparison
from ._defaults import differ

if TYPE_CHECKING:
    from .._extension import Database

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
        """The engine that files without parts are for."""
        return DEFAULT if DEFAULT in self.engines else next(iter(self.engines))

    def name_of(self, context: Any) -> str:
        """The name of the engine of a ``MigrationContext``."""
        engine = context.connection.engine
        for name, one in self.engines.items():
            if one is engine or one.pool is engine.pool:
                return name
        return self.main

    def comparing(self, engine: str, options: dict[str, Any]) -> dict[str, Any]:
        """*options* with what the comparison of *engine* needs."""
        if self.comparison is None:
            return options
        metadata = _models.of_engine(self.db, engine, self.db.engines)
        given = options.get("include_name")
        return {**options, "include_name": self.comparison.include_name(engine, metadata, given)}

    def comparing_all(self, options: dict[str, Any]) -> dict[str, Any]:
        """As :meth:`comparing`, for an ``env.py`` that has one set of options for all engines."""
        if self.comparison is None:
            return options
        given, name = options.get("include_name"), self.main if len(self.engines) == 1 else ""
        include = self.comparison.include_name(name, self.db.metadatas, given)
        return {**options, "include_name": include}


def run(**options: Any) -> None:
    """Do what a command of ``flask db`` wants, on every engine; for ``env.py``.

    ::

        from flask_uow.migrations import run

        run(include_schemas=True)

    :param options: of Alembic's ``context.configure()``, for all engines; what they say goes
        before ``UOW_MIGRATIONS``.
    :raises MigrationError: it was not called by a command.
    """
    from alembic import context

    try:
        job = context.config.attributes.get(ATTRIBUTE)
    except (AttributeError, NameError):
        raise MigrationError(
            "An 'env.py' was run by itself. It is for Alembic, inside an app: write 'flask db"
            " upgrade', or call 'flask_uow.migrations.Migrations().upgrade()'."
        ) from None
    if job is None:
        job = _job_of_the_app(context.config)  # somebody has called Alembic's own functions
    for name, engine in job.engines.items():
        given = job.comparing(name, {**_defaults(engine), **job.options, **options})
        if context.is_offline_mode():
            _run_offline(context, job, name, engine, given)
        else:
            _run_online(context, job, name, engine, given)


def _job_of_the_app(config: Any) -> Job:
    """
    :raises MigrationError: there is none; 'alembic' itself was called.
    """
    from ._commands import Migrations

    if not has_app_context():
        raise MigrationError(
            "This folder belongs to an app, and none is active. Write 'flask db ...' instead of"
            " 'alembic ...', or call Alembic inside 'with app.app_context():'."
        )
    job = Migrations().job(writes=True)
    config.attributes.update({ATTRIBUTE: job, "engine_names": list(job.engines)})
    return job


def _defaults(engine: Engine) -> dict[str, Any]:
    is_sqlite = engine.dialect.name == "sqlite"
    defaults: dict[str, Any] = {
        "compare_type": True,
        "compare_server_default": differ,
        "render_as_batch": is_sqlite,
        "transaction_per_migration": True,
    }
    if is_sqlite:
        defaults["transactional_ddl"] = True  # our connections begin before DDL, too
    return defaults


def _run_online(context: Any, job: Job, name: str, engine: Engine, options: dict[str, Any]) -> None:
    with engine.connect() as connection:
        if job.writes:
            _announce_writing(connection)
            if engine.dialect.name == "sqlite":
                checks = _ForeignKeyChecks(connection)
                options["on_version_apply"] = [*_listed(options.get("on_version_apply")), checks]
        _configure(context, job, name, options, connection=connection)
        with context.begin_transaction():
            context.run_migrations()


def _run_offline(
    context: Any, job: Job, name: str, engine: Engine, options: dict[str, Any]
) -> None:
    output = io.StringIO()
    _configure(
        context,
        job,
        name,
        {"literal_binds": True, **options},
        url=engine.url,
        dialect_opts={"paramstyle": "named"},
        output_buffer=output,
    )
    with context.begin_transaction():
        context.run_migrations()
    job.scripts[name] = output.getvalue()


def _configure(context: Any, job: Job, name: str, options: dict[str, Any], **more: Any) -> None:
    metadata = _models.of_engine(job.db, name, job.db.engines)
    if len(job.engines) > 1:
        part = _models.part_name(name)
        more.update(upgrade_token=f"{part}_upgrades", downgrade_token=f"{part}_downgrades")
    context.configure(
        **{
            "target_metadata": metadata[0] if len(metadata) == 1 else metadata,
            **options,
            "process_revision_directives": _after(
                options.get("process_revision_directives"), job, name
            ),
            **more,
        }
    )
    migration = context.get_context()
    migration._migrations_fn = _steps.parts(migration._migrations_fn, name, main=name == job.main)


def _after(given: Callable[..., None] | None, job: Job, name: str) -> Callable[..., None]:
    """The user's own hook, and ours behind it."""
    last = list(job.engines)[-1]

    def process(context: Any, revision: Any, directives: list[Any]) -> None:
        if given is not None:
            given(context, revision, directives)
        if job.comparison is not None and directives:
            job.comparison.forget_versions(context)
        if job.skip_empty and name == last and directives and _is_empty(directives[0]):
            directives[:] = []

    return process


def _is_empty(directive: Any) -> bool:
    return all(operations.is_empty() for operations in directive.upgrade_ops_list)


def _announce_writing(connection: Connection) -> None:
    """On SQLite: take the write lock before the first look, and not when it is too late."""
    activity = _activity.Activity()
    activity.will_write = True
    _activity.observe(connection, activity)


class _ForeignKeyChecks:
    """SQLite does not enforce foreign keys during a migration, so they are looked at behind it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._before = self._violations()
        connection.rollback()  # Alembic leaves the transactions to whom has begun one

    def __call__(self, *, step: Any, **_: Any) -> None:
        more = self._violations() - self._before
        for table, parent in more:
            raise MigrationError(
                f"Rows of {table!r} would point to rows of {parent!r} that do not exist"
            )

    def _violations(self) -> Counter[tuple[str, str]]:
        rows = self._connection.execute(text("PRAGMA foreign_key_check"))
        return Counter((row[0], row[2]) for row in rows)


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple, set)) else [value]
