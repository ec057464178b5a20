"""What an ``env.py`` calls: one engine after the other, each with its own transactions.

The logic is here and not in the file, so that an update of the package mends every project.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from flask import current_app, has_app_context
from sqlalchemy import Connection, Engine

from ..._transaction.record import TransactionRecord, attach
from ...errors import MigrationError
from .._run import steps
from . import alembic_private
from . import metadata as _models
from .request import ATTRIBUTE, Job, job_of_the_app


def run(*, app: str | None = None, **options: Any) -> None:
    """Do what a command of ``flask db`` wants, on every engine; for ``env.py``.

    ::

        from flask_uow.migrations import run

        run(include_schemas=True)

    :param app: the name of the app whose folder it is; the commands of others refuse to use it.
    :param options: of Alembic's ``context.configure()``, for all engines; what they say goes
        before ``UOW_MIGRATIONS``.
    :raises MigrationError: it was not called by a command.
    """
    from alembic import context

    del app  # the commands read it before they run this
    try:
        job = context.config.attributes.get(ATTRIBUTE)
    except (AttributeError, NameError):
        raise MigrationError(
            "An 'env.py' was run by itself. It is for Alembic, inside an app: write 'flask db"
            " upgrade', or call 'flask_uow.migrations.Migrations().upgrade()'."
        ) from None
    if job is None:
        job = _job_of_a_stranger(context.config)
    for name, engine in job.engines.items():
        given = job.comparing(name, {**_defaults(engine), **job.options, **options})
        if context.is_offline_mode():
            _run_offline(context, job, name, engine, given)
        else:
            _run_online(context, job, name, engine, given)


def _job_of_a_stranger(config: Any) -> Job:
    """Somebody has called Alembic's own functions.

    :raises MigrationError: there is no app; 'alembic' itself was called.
    """
    if not has_app_context():
        raise MigrationError(
            "This folder belongs to an app, and none is active. Write 'flask db ...' instead of"
            " 'alembic ...', or call Alembic inside 'with app.app_context():'."
        )
    job = job_of_the_app(cast(Any, current_app)._get_current_object())
    config.attributes.update(job.attributes)
    return job


def _defaults(engine: Engine) -> dict[str, Any]:
    is_sqlite = engine.dialect.name == "sqlite"
    defaults: dict[str, Any] = {
        "compare_type": True,
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
    if job.has_parts:
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
    alembic_private.wrap_steps(migration, partial(steps.parts, engine=name, main=name == job.main))


def _after(given: Callable[..., None] | None, job: Job, name: str) -> Callable[..., None]:
    """The user's own hook, and ours behind it."""
    last = list(job.engines)[-1]

    def process(context: Any, revision: Any, directives: list[Any]) -> None:
        if given is not None:
            given(context, revision, directives)
        if job.skip_empty and name == last and directives and _is_empty(directives[0]):
            directives[:] = []

    return process


def _is_empty(directive: Any) -> bool:
    return all(operations.is_empty() for operations in directive.upgrade_ops_list)


def _announce_writing(connection: Connection) -> None:
    """On SQLite: take the write lock before the first look, and not when it is too late."""
    record = TransactionRecord()
    record.will_write = True
    attach(connection, record)
