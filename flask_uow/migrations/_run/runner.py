"""How a command runs: Alembic's objects, ``env.py``, the lock, and errors in sentences."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from ..._config.settings import MigrationSettings
from ...errors import MigrationError, MigrationFailed, UowError
from .. import connectivity, messages, own_unit
from .._compare.announce import Comparison
from .._env import alembic_private, directory, flask_migrate, request
from .._env import logging as _logs
from .._env.request import Job
from . import failures, lock, timeouts
from .lock import Tell
from .steps import Report, Step, Travel

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import Script, ScriptDirectory
    from flask import Flask

    from ...database import Database

Heads = dict[str, "tuple[str, ...]"]

_ONE_AT_A_TIME = threading.RLock()  # Alembic's 'op' and 'context' belong to the whole process
_LOCK_TIMEOUT = 600.0


def _silent(_: object) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True)
class Manner:
    """How databases are changed; see :meth:`Migrations.upgrade`.

    :ivar purge: forget first what is noted.
    """

    tag: str | None = None
    lock_timeout: float | None = None
    statement_timeout: float | None = None
    report: Report = _silent
    tell: Tell = _silent
    purge: bool = False


class Runner:
    """Runs what the commands want, for one app and one folder."""

    def __init__(
        self,
        app: Flask,
        db: Database,
        settings: MigrationSettings,
        folder: Path,
        x_arg: Sequence[str],
    ) -> None:
        self.app = app
        self.db = db
        self.folder = folder
        self.group = settings.group
        self._settings = settings
        self._x_arg = list(x_arg)

    @property
    def engines(self) -> dict[str, Engine]:
        """The engines that are migrated, in order.

        :raises UnknownEngine: ``UOW_MIGRATIONS`` names one that is not configured.
        """
        return request.engines_of(self.db, self._settings)

    def job(self, **more: Any) -> Job:
        """What ``env.py`` is told.

        :raises UnknownEngine: as :attr:`engines`.
        """
        return request.job_of(self.db, self._settings, **more)

    def config(self, job: Job, *, autogenerate: bool = False, **more: Any) -> Config:
        config = directory.config_of(
            self.folder,
            x_arg=self._x_arg,
            autogenerate=autogenerate,
            **job.attributes,
        )
        for name, value in more.items():
            setattr(config, name, value)
        return config

    def scripts(self) -> ScriptDirectory:
        """
        :raises MigrationError: there is no folder, or a file in it cannot be loaded.
        """
        directory.check(self.folder, self.group, self.app)
        with self.translated():
            return messages.scripts(self.config(self.job()), self.folder)

    def pending(self, script: ScriptDirectory, heads: tuple[str, ...]) -> list[Script]:
        """The revisions that a database at *heads* lacks, in the order in which they run."""
        with self.translated():
            return [step.revision for step in alembic_private.upgrade_steps(script, "heads", heads)]

    def current(self, script: ScriptDirectory, only: Sequence[str] | None = None) -> Heads:
        """By engine, the identifiers of the revisions that its database is at.

        :raises DatabaseUnreachable: one of the databases gets no connection.
        """
        job = self.job()
        if only is not None:
            job.engines = {name: job.engines[name] for name in only}
        found: Heads = {}

        def collect(heads: Any, context: Any) -> list[Any]:
            found[job.name_of(context)] = tuple(sorted(heads))
            return []

        self.run(job, collect, script=script, dont_mutate=True)
        found = {name: found[name] for name in job.engines if name in found}
        if not found:
            raise MigrationError(
                f"{str(self.folder / 'env.py')!r} has run, and has asked no database. Replace all"
                " of it by 'from flask_uow.migrations import run' and 'run()'."
            )
        return found

    def noted(self, name: str) -> tuple[str, ...]:
        """What :meth:`current` says of one engine, without ``env.py``."""
        from alembic.runtime.migration import MigrationContext

        names = ("version_table", "version_table_schema")
        options = {
            key: self._settings.options[key] for key in names if key in self._settings.options
        }
        with self.translated(), self.engines[name].connect() as connection:
            return MigrationContext.configure(connection, opts=options).get_current_heads()

    def compare(self, job: Job, script: ScriptDirectory, arguments: dict[str, Any]) -> Any:
        """What :func:`._alembic.revision_context` returns, after the comparison."""
        names = ("message", "splice", "branch_label", "version_path", "rev_id", "depends_on")
        given = {**dict.fromkeys(names), "autogenerate": True, "sql": False, **arguments}
        comparison = cast(Comparison, job.comparison)

        def announce(context: Any, _revision: Any, directives: Any) -> None:
            if directives:
                comparison.announce(job.name_of(context), directives[0], context)

        config = self.config(job, autogenerate=job.skip_empty)
        context = alembic_private.revision_context(config, script, given, announce)

        def compare(rev: Any, migration: Any) -> list[Any]:
            if job.wants(migration):
                comparison.prepare(migration)
                context.run_autogenerate(rev, migration)
                comparison.forget_versions(migration)
            return []

        self.run(
            job,
            compare,
            config=config,
            script=script,
            template_args=context.template_args,
            revision_context=context,
            dont_mutate=True,
        )
        return context

    def travel(
        self,
        script: ScriptDirectory,
        steps: Callable[[Any], Any],
        revision: str,
        manner: Manner,
    ) -> list[Step]:
        """Run *steps* on every engine.

        :param steps: from the heads of a database to the steps that it needs.
        :param revision: where they lead.
        :raises MigrationFailed: a revision failed, or is not noted afterwards.
        :raises MigrationLocked: somebody else is migrating.
        :raises MigrationError: the current unit of work is in the way.
        """
        job = self.job(writes=True)
        travel = Travel(steps, job.name_of, job.engines, manner.report)
        wait = _LOCK_TIMEOUT if manner.lock_timeout is None else manner.lock_timeout
        with (
            self.translated(),
            self.reached(),
            lock.held(job.engines, wait, manner.tell) as confirm,
            timeouts.prepared(
                job.engines,
                lock_timeout=manner.lock_timeout,
                statement_timeout=manner.statement_timeout,
            ),
        ):
            travel.confirm = confirm
            own_unit.stand_aside(self.db)
            try:
                self.run(
                    job,
                    travel,
                    script=script,
                    destination_rev=revision,
                    tag=manner.tag,
                    purge=manner.purge,
                )
            except Exception as error:
                if travel.at is None:
                    raise
                raise self._failed(travel, travel.at, error) from (error.__cause__ or error)
            self._require_noted(travel, script)
        return travel.done

    def _failed(self, travel: Travel, step: Step, error: Exception) -> MigrationFailed:
        dialect = self.engines[step.engine].dialect.name
        stands = self._where(step.engine)
        text = failures.failed(travel, error, dialect, stands, self.group)
        return MigrationFailed(text, step.engine, step.revision)

    def _where(self, engine: str) -> str:
        try:
            heads = self.current(self.scripts(), [engine])[engine]
        except Exception:
            return f"where 'flask {self.group} status' says (it does not answer now)"
        return f"at {', '.join(heads)}" if heads else "as empty as before the first revision"

    def _require_noted(self, travel: Travel, script: ScriptDirectory) -> None:
        """
        :raises MigrationFailed: a database does not say of itself what was said here.
        """
        if not travel.heads:
            return
        for engine, found in self.current(script, list(travel.heads)).items():
            if set(found) != travel.heads[engine]:
                said = ", ".join(sorted(travel.heads[engine])) or "no revision"
                step = next(one for one in travel.done[::-1] if one.engine == engine)
                raise MigrationFailed(
                    f"The revisions have run, but the database of the engine {engine!r} is noted"
                    f" at {', '.join(found) or 'no revision'}, and not at {said}: one of them has"
                    " ended its transaction by the connection of the driver, or of somebody else."
                    f" Look at the tables, and note where they are: 'flask {self.group} stamp"
                    " REVISION'.",
                    engine,
                    step.revision,
                )

    def run(
        self,
        job: Job,
        steps: Callable[[Any, Any], Any],
        *,
        config: Config | None = None,
        script: ScriptDirectory,
        **options: Any,
    ) -> None:
        """Run ``env.py``, which calls *steps* with each database.

        :raises MigrationError: it failed.
        """
        from alembic.runtime.environment import EnvironmentContext

        config = config or self.config(job)
        with (
            self.translated(),
            self.reached(),
            self.running(job),
            EnvironmentContext(config, script, fn=steps, **options),
        ):
            script.run_env()

    @contextlib.contextmanager
    def running(self, job: Job) -> Iterator[None]:
        """For an ``env.py``: nobody else runs one, and logging stays what it is.

        Flask-Migrate's finds us, also where Flask-Migrate itself is registered: it cannot read
        the metadata of a ``Database``.
        """
        extensions = self.app.extensions
        with _ONE_AT_A_TIME, _logs.kept():
            before = extensions.get("migrate")
            given = None
            if not isinstance(before, flask_migrate.FlaskMigrateView):
                given = getattr(before, "configure_args", None)
            view = flask_migrate.FlaskMigrateView(self.app, self.db, given)
            view.overrides = job.comparing_all
            extensions["migrate"] = view
            try:
                yield
            finally:
                extensions["migrate"] = before

    @contextlib.contextmanager
    def reached(self) -> Iterator[None]:
        """
        :raises DatabaseUnreachable: an error came of a database that gets no connection.
        """
        try:
            yield
        except DBAPIError as error:
            if error.statement is None:
                connectivity.require(self.engines, self.group)
            raise

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Errors in sentences.

        :raises MigrationError: instead of Alembic's, and of what a file raises.
        """
        from alembic.util import CommandError

        try:
            yield
        except UowError:
            raise
        except SystemExit as error:
            raise failures.exited(error, self.folder, self.group) from error
        except CommandError as error:
            raise messages.command_error(error, self.folder, self.group) from error
        except DBAPIError as error:
            raise MigrationError(
                f"The database has refused a statement: {connectivity.words(error)}."
                f" 'flask --debug {self.group} ...' shows which."
            ) from error
        except Exception as error:
            raise messages.not_loaded(error, self.folder, self.group) from error
