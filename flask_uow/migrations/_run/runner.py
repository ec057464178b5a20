"""How one command runs: Alembic's objects, ``env.py``, the lock, and errors in sentences."""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy.exc import DBAPIError

from ..._config.settings import MigrationSettings
from ...errors import MigrationError, MigrationFailed, UowError
from .. import connectivity, messages
from .._compare.announce import Comparison
from .._env import alembic_private, directory
from .._env.metadata import MigratedDatabase
from .._env.request import EnvRequest, FlaskMigrateView, request_of
from ..results import OnStep, OnWait, Step
from . import lock, timeouts
from .steps import FindSteps, MigrationRun

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import Script, ScriptDirectory
    from flask import Flask

    from ..._engine.build import Engines


Heads = dict[str, "tuple[str, ...]"]
"""By engine, the identifiers of the revisions that its database is at."""

# Alembic's 'op' and 'context' belong to the whole process, and so do the loggers.
_ONE_AT_A_TIME = threading.RLock()


def silent(_: object) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class RunOptions:
    """How databases are changed; see :meth:`.Migrations.upgrade`.

    :ivar lock_timeout: seconds.
    :ivar statement_timeout: seconds.
    :ivar purge: forget first what is noted.
    """

    tag: str | None = None
    lock_timeout: float | None = None
    statement_timeout: float | None = None
    on_step: OnStep = silent
    on_wait: OnWait = silent
    purge: bool = False


class Runner:
    """One command on one folder.

    :ivar request: what the command asks of ``env.py``.
    :raises UnknownEngine: ``UOW_MIGRATIONS`` names an engine that is not configured.
    """

    def __init__(
        self,
        app: Flask,
        db: MigratedDatabase,
        engines: Engines,
        settings: MigrationSettings,
        *,
        folder: Path,
        x_arg: Sequence[str],
    ) -> None:
        self.app = app
        self.db = db
        self.folder = folder
        self.group = settings.group
        self.request = request_of(db, engines, settings)
        self._x_arg = x_arg

    @cached_property
    def env(self) -> directory.EnvFile:
        return directory.read_env(self.folder)

    @cached_property
    def config(self) -> Config:
        """Alembic's settings.

        :raises MigrationError: their file cannot be read.
        """
        return directory.config_of(self.folder, x_arg=self._x_arg, **self.request.attributes)

    @cached_property
    def script(self) -> ScriptDirectory:
        """The revisions.

        :raises MigrationError: there is no folder, or a file in it cannot be loaded.
        """
        directory.check(self.folder, self.env, self.group, self.app)
        return directory.load(self.config, self.folder)

    def steps(self, direction: str, revision: str) -> FindSteps:
        """From the heads of a database to the steps to *revision*."""
        return lambda heads: alembic_private.steps(self.script, direction, revision, heads)

    def pending(self, heads: tuple[str, ...]) -> list[Script]:
        """The revisions that a database at *heads* lacks, in the order in which they run."""
        steps: list[Any] = self.steps("upgrade", "heads")(heads)
        return [step.revision for step in steps]

    # Where the databases are ------------------------------------------------------------------

    def heads(self, engines: Iterable[str]) -> Heads:
        """Ask the databases where they are.

        By ``env.py``, unless that does nothing but call ``run()``.

        :raises MigrationError: ``env.py`` has asked no database.
        """
        options = self.env.version_table
        if options is not None:
            return self.heads_without_env(engines, **options)
        found: Heads = {}

        def collect(heads: tuple[str, ...], context: MigrationContext) -> list[Any]:
            found[self.request.name_of(context)] = tuple(sorted(heads))
            return []

        look = self.request.to_look_at(engines)
        self.run_env(collect, look, dont_mutate=True)
        found = {name: found[name] for name in look.engines if name in found}
        if not found:
            raise MigrationError(
                f"{str(self.folder / 'env.py')!r} has run, and has asked no database. Replace all"
                " of it by 'from flask_uow.migrations import run' and 'run()'."
            )
        return found

    def heads_without_env(self, engines: Iterable[str], **options: str | None) -> Heads:
        """As :meth:`heads`.

        :param options: where the revision is noted, if not where ``UOW_MIGRATIONS`` says.
        """
        from alembic.runtime.migration import MigrationContext

        opts = {**self.request.options, **options}
        found = {}
        with logging_kept():
            for name in engines:
                with self.request.engines[name].connect() as connection:
                    context = MigrationContext.configure(connection, opts=opts)
                    found[name] = tuple(sorted(context.get_current_heads()))
        return found

    # What changes something -------------------------------------------------------------------

    def compare(self, comparison: Comparison, **arguments: Any) -> Any:
        """Compare models and databases.

        :param arguments: for a new revision; without a ``message`` none is written.
        :returns: what :func:`.alembic_private.revision_context` returns.
        """
        request = self.request
        request.comparison = comparison
        # The 'env.py' of Flask-Migrate asks for it where it empties the list of directives.
        cast(Any, self.config.cmd_opts).autogenerate = request.skip_empty
        names = ("message", "splice", "branch_label", "version_path", "rev_id", "depends_on")
        given = {**dict.fromkeys(names), "autogenerate": True, "sql": False, **arguments}

        def announce(context: MigrationContext, _revision: object, directives: list[Any]) -> None:
            if directives:
                comparison.announce(request.name_of(context), directives[0], context)

        revision = alembic_private.revision_context(self.config, self.script, given, announce)

        def compare(heads: object, context: MigrationContext) -> list[Any]:
            if request.name_of(context) in request.engines:
                comparison.prepare(context)
                revision.run_autogenerate(heads, context)
                comparison.forget_versions(context)
            return []

        self.run_env(
            compare,
            request,
            template_args=revision.template_args,
            revision_context=revision,
            dont_mutate=True,
        )
        return revision

    def migrate(self, find_steps: FindSteps, revision: str, options: RunOptions) -> list[Step]:
        """Run the steps to *revision* on every engine.

        :raises MigrationFailed: a revision failed, or is not recorded after it has run.
        :raises MigrationLocked: another process is migrating.
        """
        self.request.writes = True
        wait = 600.0 if options.lock_timeout is None else options.lock_timeout
        with lock.held(self.request.engines, wait, options.on_wait) as confirm:
            run = MigrationRun(find_steps, self.request, options.on_step, confirm)
            with timeouts.prepared(
                self.request.engines,
                lock_timeout=options.lock_timeout,
                statement_timeout=options.statement_timeout,
            ):
                self._run(run, revision, options)
            self._require_noted(run)
        return run.done

    def _run(self, run: MigrationRun, revision: str, options: RunOptions) -> None:
        try:
            self.run_env(
                run,
                self.request,
                destination_rev=revision,
                tag=options.tag,
                purge=options.purge,
            )
        except (Exception, SystemExit) as error:
            if run.current_step is None:
                raise
            raise self._failed(run, run.current_step, error) from error

    def _failed(
        self, run: MigrationRun, step: Step, error: Exception | SystemExit
    ) -> MigrationFailed:
        heads = None
        with contextlib.suppress(Exception):
            heads = self.heads([step.engine])[step.engine]
        text = messages.revision_failed(
            step,
            error,
            dialect=self.request.engines[step.engine].dialect.name,
            heads=heads,
            commits=run.commits,
            is_first=run.is_first,
            group=self.group,
        )
        return MigrationFailed(text, step.engine, step.revision)

    def _require_noted(self, run: MigrationRun) -> None:
        """Ask the databases where they are, by new connections.

        :raises MigrationFailed: one of them is not where the revisions have led.
        """
        if not run.heads:
            return
        for engine, found in self.heads(list(run.heads)).items():
            if set(found) != run.heads[engine]:
                wanted = ", ".join(sorted(run.heads[engine])) or "no revision"
                last = next(step for step in run.done[::-1] if step.engine == engine)
                raise MigrationFailed(
                    f"The revisions have run, but the database of the engine {engine!r} is recorded"
                    f" at {', '.join(found) or 'no revision'}, not at {wanted}: a revision has"
                    " ended its transaction on the driver's connection, or on another one. Look at"
                    f" the tables, and record their revision: 'flask {self.group} stamp REVISION'.",
                    engine,
                    last.revision,
                )

    # env.py -----------------------------------------------------------------------------------

    def run_env(
        self, steps: Callable[[Any, MigrationContext], Any], request: EnvRequest, **options: Any
    ) -> None:
        """Run ``env.py``, which calls *steps* with each database of *request*."""
        from alembic.runtime.environment import EnvironmentContext

        script = self.script
        with (
            self.environment(request),
            _warnings_of_success(),
            alembic_private.operations_removed(),
            EnvironmentContext(self.config, script, fn=steps, **options),
        ):
            script.run_env()

    @contextlib.contextmanager
    def environment(self, request: EnvRequest) -> Iterator[None]:
        """What an ``env.py`` finds: no other one runs, and logging stays what it is.

        Flask-Migrate's finds a view of ours, also where Flask-Migrate itself is registered: it
        cannot read the metadata of a ``Database``.
        """
        self.config.attributes.update(request.attributes)
        extensions = self.app.extensions
        with logging_kept():
            before = extensions.get("migrate")
            theirs = None if isinstance(before, FlaskMigrateView) else before
            given = getattr(theirs, "configure_args", {})
            extensions["migrate"] = FlaskMigrateView(self.app, self.db, given, request)
            try:
                yield
            finally:
                extensions["migrate"] = before

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Put errors into sentences.

        :raises MigrationError: instead of Alembic's, and of what a file raises.
        :raises DatabaseUnreachable: an error came of a database that gets no connection.
        """
        from alembic.util import CommandError

        try:
            yield
        except UowError:
            raise
        except SystemExit as error:
            raise messages.file_exited(error, self.folder, self.group) from error
        except CommandError as error:
            raise messages.command_error(error, self.folder, self.group) from error
        except DBAPIError as error:
            if error.statement is None:
                connectivity.require(self.request.engines, self.group)
            raise MigrationError(
                f"The database has refused a statement: {connectivity.driver_message(error)}."
                f" 'flask --debug {self.group} ...' shows which."
            ) from error
        except Exception as error:
            raise messages.file_failed(
                error, self.folder, self.group, env_is_ours=self.env.is_ours
            ) from error


@contextlib.contextmanager
def _warnings_of_success() -> Iterator[None]:
    """Show the warnings after the block. If it fails, show only its error."""
    with warnings.catch_warnings(record=True) as caught:
        # A batch that would lose such a constraint is refused; see 'sqlite.py'.
        warnings.filterwarnings("ignore", "Unnamed CHECK constraint on reflected table")
        yield
    for one in caught:
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


# Logging ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def logging_kept() -> Iterator[None]:
    """Put back what the block changes, and keep Alembic's lines out of what the commands print.

    The lines stay where the app has set the level of Alembic's loggers.
    """
    with _ONE_AT_A_TIME:
        logging.getLogger("alembic.env")  # of the files that Alembic runs
        loggers = [logging.root, *logging.Logger.manager.loggerDict.values()]
        before = [
            (logger, logger.level, logger.disabled, logger.propagate, logger.handlers[:])
            for logger in loggers
            if isinstance(logger, logging.Logger)
        ]
        quiet = []
        if logging.getLogger("alembic").level == logging.NOTSET:
            quiet = [logger for logger, *_ in before if logger.name.startswith("alembic.")]
        for logger in quiet:
            logger.addFilter(_is_warning)  # not a level, which 'fileConfig()' would set again
        try:
            yield
        finally:
            for logger in quiet:
                logger.removeFilter(_is_warning)
            for logger, level, disabled, propagate, handlers in before:
                logger.disabled, logger.propagate = disabled, propagate
                if logger.level != level:
                    logger.setLevel(level)
                logger.handlers[:] = handlers


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING
