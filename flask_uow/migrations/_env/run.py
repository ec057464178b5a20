"""What an ``env.py`` calls: one engine after the other, each with its own transactions.

The logic is here and not in the file, so that an update of the package fixes every project.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from flask import current_app, has_app_context
from sqlalchemy import Engine

from ..._transaction.record import TransactionRecord, attach
from ...errors import MigrationError
from .._run import steps
from . import alembic_private
from .metadata import part_name
from .request import ATTRIBUTE, DEFAULTS, EnvRequest, request_from_plain_alembic

if TYPE_CHECKING:
    from alembic.config import Config

Hook = Callable[[Any, Any, "list[Any]"], None]


def run(*, app: str | None = None, **options: Any) -> None:
    """Do what a command of ``flask db`` asks for, on every engine; for ``env.py``.

    ::

        from flask_uow.migrations import run

        run(include_schemas=True)

    :param app: the name of the app whose folder it is; commands of other apps refuse to use it.
    :param options: of Alembic's ``context.configure()``, for all engines; they override
        ``UOW_MIGRATIONS``.
    :raises MigrationError: no command has called it; the app has no ``Database``.
    """
    from alembic import context

    del app  # the commands read it from the file before they run it
    try:
        request = context.config.attributes.get(ATTRIBUTE)
    except (AttributeError, NameError):
        raise MigrationError(
            "An 'env.py' was run by itself. It is for Alembic, inside an app: write 'flask db"
            " upgrade', or call 'flask_uow.migrations.Migrations().upgrade()'."
        ) from None
    if request is None:
        request = _request_of_the_app(context.config)
    for name, engine in request.engines.items():
        given = {**DEFAULTS, **request.options, **options}
        if engine.dialect.name == "sqlite":
            # Our connections begin before DDL, too.
            given = {"render_as_batch": True, "transactional_ddl": True, **given}
        if context.is_offline_mode():
            _run_offline(request, name, engine, given)
        else:
            _run_online(request, name, engine, given)


def _request_of_the_app(config: Config) -> EnvRequest:
    if not has_app_context():
        raise MigrationError(
            "This folder belongs to an app, and none is active. Write 'flask db ...' instead of"
            " 'alembic ...', or call Alembic inside 'with app.app_context():'."
        )
    request = request_from_plain_alembic(cast(Any, current_app)._get_current_object())
    config.attributes.update(request.attributes)
    return request


def _run_online(request: EnvRequest, name: str, engine: Engine, options: dict[str, Any]) -> None:
    from alembic import context

    with engine.connect() as connection:
        if request.writes:
            # On SQLite: take the write lock before the first look, and not when it is too late.
            attach(connection, TransactionRecord(will_write=True))
        _configure(request, name, options, connection=connection)
        with context.begin_transaction():
            context.run_migrations()


def _run_offline(request: EnvRequest, name: str, engine: Engine, options: dict[str, Any]) -> None:
    from alembic import context

    output = io.StringIO()
    _configure(
        request,
        name,
        {"literal_binds": True, **options},
        url=engine.url,
        dialect_opts={"paramstyle": "named"},
        output_buffer=output,
    )
    with context.begin_transaction():
        context.run_migrations()
    request.scripts[name] = output.getvalue()


def _configure(request: EnvRequest, name: str, options: dict[str, Any], **more: Any) -> None:
    from alembic import context

    metadata = request.metadata_of(name)
    if request.has_parts:
        part = part_name(name)
        more.update(upgrade_token=f"{part}_upgrades", downgrade_token=f"{part}_downgrades")
    context.configure(
        **{
            "target_metadata": metadata[0] if len(metadata) == 1 else metadata,
            **request.filtered(options, name),
            "process_revision_directives": _with_ours(
                options.get("process_revision_directives"), request, name
            ),
            **more,
        }
    )
    alembic_private.wrap_steps(
        context.get_context(),
        partial(steps.functions_for_engine, engine=name, main=name == request.main),
    )


def _with_ours(given: Hook | None, request: EnvRequest, name: str) -> Hook:
    """The hook of the app's ``env.py``, and ours after it."""
    last = list(request.engines)[-1]

    def process(context: object, revision: object, directives: list[Any]) -> None:
        if given is not None:
            given(context, revision, directives)
        if request.skip_empty and name == last and directives and _is_empty(directives[0]):
            directives[:] = []

    return process


def _is_empty(directive: Any) -> bool:
    return all(operations.is_empty() for operations in directive.upgrade_ops_list)
