"""How a command runs: Alembic's objects, ``env.py``, the lock, and errors in sentences."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from .._settings import MigrationSettings
from ..errors import MigrationError, MigrationFailed, UowError
from . import _adopted, _connections, _folder, _lock, _logs, _reach, _translate
from ._autogenerate import Comparison
from ._environment import ATTRIBUTE, Job
from ._lock import Tell
from ._steps import Report, Step, Travel

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import Script, ScriptDirectory
    from flask import Flask

    from .._extension import Database

Heads = dict[str, "tuple[str, ...]"]

_ONE_AT_A_TIME = threading.RLock()  # Alembic's 'op' and 'context' belong to the whole process
_LOCK_TIMEOUT = 600.0


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
        engines = self.db.engines
        return {name: engines[name] for name in self._settings.engines or engines}

    def job(self, **more: Any) -> Job:
        """What ``env.py`` is told.

        :raises UnknownEngine: as :attr:`engines`.
        """
        return Job(self.db, self.engines, dict(self._settings.options), **more)

    def config(self, job: Job, *, autogenerate: bool = False, **more: Any) -> Config:
        config = _folder.config_of(
            self.folder,
            x_arg=self._x_arg,
            autogenerate=autogenerate,
            **{ATTRIBUTE: job, "engine_names": list(job.engines)},
        )
        for name, value in more.items():
            setattr(config, name, value)
        return config

    def scripts(self) -> ScriptDirectory:
        """
        :raises MigrationError: there is no folder, or a file in it cannot be loaded.
        """
        from alembic.script import ScriptDirectory

        _folder.check(self.folder, self.group)
        with self.translated():
            script = ScriptDirectory.from_config(self.config(self.job()))
            list(script.walk_revisions())
        return script

    def pending(self, script: ScriptDirectory, heads: tuple[str, ...]) -> list[Script]:
        """The revisions that a database at *heads* lacks, in the order in which they run."""
        with self.translated():
            steps: Any = script._upgrade_revs("heads", cast(Any, heads))
            return [step.revision for step in steps]

    def heads(self, script: ScriptDirectory, only: Sequence[str] | None = None) -> Heads:
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
        if not found:
            raise MigrationError(
                f"{str(self.folder / 'env.py')!r} has run, and has asked no database. Replace all"
                " of it by 'from flask_uow.migrations import run' and 'run()'."
            )
        return {name: found[name] for name in job.engines if name in found}

    def noted(self, name: str) -> tuple[str, ...]:
        """What :meth:`heads` says of one engine, without ``env.py``."""
        from alembic.runtime.migration import MigrationContext

        names = ("version_table", "version_table_schema")
        options = {
            key: self._settings.options[key] for key in names if key in self._settings.options
        }
        with self.translated(), self.engines[name].connect() as connection:
            return MigrationContext.configure(connection, opts=options).get_current_heads()

    def compare(self, job: Job, script: ScriptDirectory, arguments: dict[str, Any]) -> Any:
        """Alembic's ``RevisionContext`` after its comparison."""
        from alembic.autogenerate import RevisionContext

        names = ("message", "splice", "branch_label", "version_path", "rev_id", "depends_on")
        given = {**dict.fromkeys(names), "autogenerate": True, "sql": False, **arguments}
        comparison = cast(Comparison, job.comparison)

        def announce(context: Any, _revision: Any, directives: Any) -> None:
            if comparison.comment and directives:
                operations = directives[0].upgrade_ops_list[-1]
                comparison.announce(job.name_of(context), operations, context)

        config = self.config(job, autogenerate=job.skip_empty)
        context = RevisionContext(config, script, given, process_revision_directives=announce)

        def compare(rev: Any, migration: Any) -> list[Any]:
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
        *,
        tag: str | None,
        lock_timeout: float | None,
        statement_timeout: float | None = None,
        report: Report,
        tell: Tell,
        purge: bool = False,
    ) -> list[Step]:
        job = self.job(writes=True)
        travel = Travel(steps, job.name_of, report)
        wait = _LOCK_TIMEOUT if lock_timeout is None else lock_timeout
        with (
            self.translated(),
            self.reached(),
            _lock.held(job.engines, wait, tell),
            _connections.prepared(
                job.engines, lock_timeout=lock_timeout, statement_timeout=statement_timeout
            ),
        ):
            try:
                self.run(job, travel, script=script, destination_rev=revision, tag=tag, purge=purge)
            except Exception as error:
                if travel.at is None:
                    raise
                raise self._failed(travel.at, error) from (error.__cause__ or error)
        return travel.done

    def _failed(self, step: Step, error: Exception) -> MigrationFailed:
        engine = self.engines[step.engine]
        cause = error.__cause__ if isinstance(error, MigrationError) and error.__cause__ else error
        what = _reach.words(cause)
        if not isinstance(cause, (DBAPIError, UowError)):
            what = f"{type(cause).__name__}: {what}"
        statement = " ".join(str(getattr(cause, "statement", None) or "").split())
        if statement:
            what += f" [{statement[:200]}]"
        if "already exists" in what:
            what += (
                f". If 'db.create_all()' has made it, note the revision instead: 'flask"
                f" {self.group} stamp {step.revision}'"
            )
        stands = self._where(step.engine)
        if engine.dialect.name in {"mysql", "mariadb"}:
            after = (
                f"{engine.dialect.name} cannot roll back DDL: what the revision did before that"
                f" stays, and the database is noted {stands}. Undo that part by hand, mend the file"
            )
        else:
            after = f"It was rolled back, and the database is {stands}. Mend the file"
        return MigrationFailed(
            f"The revision {step.revision} ({step.message or 'no message'}) failed on the engine"
            f" {step.engine!r}: {what}. {after} and write 'flask {self.group} {step.direction}'"
            " again.",
            step.engine,
            step.revision,
        )

    def _where(self, engine: str) -> str:
        try:
            heads = self.heads(self.scripts(), [engine])[engine]
        except Exception:
            return f"where 'flask {self.group} status' says (it does not answer now)"
        return f"at {', '.join(heads)}" if heads else "as empty as before the first revision"

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
            if not isinstance(before, _adopted.FlaskMigrateView):
                given = getattr(before, "configure_args", None)
            view = _adopted.FlaskMigrateView(self.app, self.db, given)
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
                _reach.require(self.engines, self.group)
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
        except CommandError as error:
            raise _translate.command_error(error, self.folder, self.group) from error
        except DBAPIError as error:
            raise MigrationError(
                f"The database has refused a statement: {_reach.words(error)}."
                f" 'flask --debug {self.group} ...' shows which."
            ) from error
        except Exception as error:
            raise _translate.not_loaded(error, self.folder, self.group) from error
