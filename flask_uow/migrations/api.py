"""``Migrations``: what the commands do, as functions that return data and raise."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flask import current_app, has_app_context
from sqlalchemy import Engine

from .._config import migrations_folder, reading
from ..errors import MigrationError, OutsideContext
from . import connectivity, preconditions
from ._compare.announce import Comparison
from ._compare.operations import describe
from ._env import alembic_private, metadata
from ._env import directory as _directory
from ._env.request import database_of
from ._run.runner import Heads, Runner, RunOptions, silent
from .results import Checked, Created, EngineStatus, Generated, OnStep, OnWait, Step

if TYPE_CHECKING:
    from alembic.script import Script


class Migrations:
    """The migrations of the current app.

    ::

        with app.app_context():
            for step in Migrations().upgrade():
                print(step.engine, step.revision, step.seconds)

    Nothing prints and nothing exits. Scripts are Alembic's ``Script`` objects.

    Each method that reads the folder raises :class:`.MigrationError` if there is no folder, or a
    file in it cannot be loaded; each that asks a database raises :class:`.DatabaseUnreachable` if
    one of them gets no connection, and :class:`.MigrationError` if two engines are one database.

    :param directory: the folder, instead of ``UOW_MIGRATIONS``.
    :param x_arg: for ``context.get_x_argument()`` in ``env.py``.
    :ivar folder: where the files are.
    :ivar group: what a command begins with, for messages: ``"db"``, or ``"db -d elsewhere"``.
    :raises OutsideContext: no app context is active.
    :raises MigrationError: the app has no ``Database``.
    :raises ConfigError: ``UOW_MIGRATIONS`` has a key that is no option of Alembic's.
    """

    def __init__(self, directory: str | None = None, *, x_arg: Sequence[str] = ()) -> None:
        if not has_app_context():
            raise OutsideContext(
                "'Migrations' needs a Flask context, and none is active. Use it inside"
                " 'with app.app_context():'."
            )
        self._app = cast(Any, current_app)._get_current_object()
        self._db = database_of(self._app)
        settings = reading.read_migrations(self._app.config)
        preconditions.require_options(settings.options)
        if directory and directory != settings.directory:
            # The group takes the option as well as the command.
            settings = replace(settings, group=f"{settings.group} -d {shlex.quote(directory)}")
        self._directory = directory or settings.directory
        self._settings = settings
        self._x_arg = x_arg
        self.group = settings.group
        self.folder = migrations_folder.find(self._directory, self._app.root_path)

    @contextlib.contextmanager
    def _command(self) -> Iterator[Runner]:
        """One command that reads the folder, with its errors in sentences."""
        runner = Runner(
            self._app,
            self._db,
            self._db.engines,
            self._settings,
            folder=self.folder,
            x_arg=self._x_arg,
        )
        with runner.translated():
            _ = runner.script  # loaded first: a damaged file is named before anything else
            yield runner

    @property
    def engines(self) -> dict[str, Engine]:
        """The engines that are migrated, in order.

        :raises UnknownEngine: ``UOW_MIGRATIONS`` names one that is not configured.
        """
        engines = self._db.engines
        return {name: engines[name] for name in self._settings.engines or engines}

    @property
    def upgrade_command(self) -> str:
        """The command that runs what is pending."""
        with self._command() as runner:
            return preconditions.upgrade_command(runner)

    # Files ------------------------------------------------------------------------------------

    def list_templates(self) -> dict[str, str]:
        """The templates of :meth:`init`, and what they are for."""
        return _directory.templates()

    def init(self, *, template: str | None = None, package: bool = False) -> Created:
        """Make the folder.

        :param template: one of :meth:`list_templates`, or the path of a folder.
        :param package: write empty ``__init__.py`` files, too.
        :raises MigrationError: the folder exists already, or cannot be written; there is no such
            template.
        """
        folder = Path(self._directory).absolute()
        app = _directory.name_of(self._app)
        files = _directory.make(folder, template, self.group, app=app, package=package)
        convention, has_base = metadata.has_convention(self._db), metadata.has_base(self._db)
        return Created(folder, files, convention, has_base)

    def revision(
        self,
        message: str | None = None,
        *,
        sql: bool = False,
        head: str = "head",
        splice: bool = False,
        branch_label: str | None = None,
        version_path: str | None = None,
        rev_id: str | None = None,
    ) -> Script:
        """Write an empty revision.

        The parameters are those of :meth:`migrate`.

        :raises MigrationError: as :meth:`migrate`.
        """
        from alembic import command

        with self._command() as runner:
            _require_place(runner, head, rev_id, branch_label)
            with _directory.writing(self.folder), runner.environment(runner.request):
                written: Any = command.revision(
                    runner.config,
                    message,
                    sql=sql,
                    head=head,
                    splice=splice,
                    branch_label=branch_label,
                    version_path=version_path,
                    rev_id=rev_id,
                )
            return cast("Script", written)

    def migrate(
        self,
        message: str | None = None,
        *,
        head: str = "head",
        splice: bool = False,
        branch_label: str | None = None,
        version_path: str | None = None,
        rev_id: str | None = None,
        drop_unknown: bool = False,
    ) -> Generated:
        """Compare the models with the databases, and write a revision of the differences.

        :param head: the revision that it follows.
        :param splice: allow a *head* that other revisions follow.
        :param version_path: the folder for the file, if there are several.
        :param rev_id: its identifier, instead of a random one.
        :param drop_unknown: drop the tables that the models do not know.
        :raises MigrationError: the models have no tables; a database is not up to date; several
            heads, or no such head; the identifier or the label is not possible, or taken; the
            folder cannot be written.
        :raises DatabaseUnreachable: one of the databases gets no connection.
        """
        with self._command() as runner:
            _require_place(runner, head, rev_id, branch_label)
            request = runner.request
            preconditions.require_own_databases(request.engines)
            tables = preconditions.count_tables(runner, "migrate")
            preconditions.require_current(runner, runner.heads(request.engines))
            comparison = Comparison(drop_unknown=drop_unknown)
            request.skip_empty = True
            compared = runner.compare(
                comparison,
                message=message,
                head=head,
                splice=splice,
                branch_label=branch_label,
                version_path=version_path,
                rev_id=rev_id,
            )
            with _directory.writing(self.folder):
                written = [script for script in compared.generate_scripts() if script is not None]
        return Generated(
            script=written[0] if written else None,
            tables=tables,
            modules=metadata.modules_of(self._db),
            unknown=comparison.unknown,
            drops=comparison.drops if written else comparison.unwritten,
        )

    def merge(
        self,
        revisions: Sequence[str] = (),
        message: str | None = None,
        *,
        branch_label: str | None = None,
        rev_id: str | None = None,
    ) -> Script:
        """Write a revision that joins *revisions*, by default all heads.

        :raises MigrationError: there is one head only, or a revision is not there; the identifier
            or the label is not possible, or taken; the folder cannot be written.
        """
        from alembic import command

        with self._command() as runner:
            for revision in revisions:
                preconditions.require_revision(revision, self.group)
            preconditions.require_new(runner, rev_id, branch_label)
            wanted: Any = list(revisions) or ["heads"]
            found = {script.revision for script in runner.script.get_revisions(wanted)}
            if len(found) < 2:
                raise MigrationError(
                    f"There is nothing to merge: {' '.join(found) or 'no revision'!r} is not"
                    f" several revisions. 'flask {self.group} heads' lists the heads."
                )
            with _directory.writing(self.folder), runner.environment(runner.request):
                merged: Any = command.merge(
                    runner.config, wanted, message, branch_label=branch_label, rev_id=rev_id
                )
            return cast("Script", merged)

    def show(self, revision: str = "head") -> list[Script]:
        """The revisions that a name means; ``"current"`` means those of the databases.

        :raises MigrationError: there is none of that name.
        """
        with self._command() as runner:
            preconditions.require_revision(revision, self.group)
            wanted: Any = revision
            if revision == "current":
                wanted = _all(runner.heads(runner.request.engines))
            found = list(runner.script.get_revisions(wanted))
            if not found:
                raise MigrationError(
                    f"{revision!r} is no revision of the folder, so there is nothing to show."
                    f" 'flask {self.group} history' lists the revisions."
                )
            return found

    def history(self, rev_range: str | None = None, *, current: bool = False) -> list[Script]:
        """All revisions, the newest first.

        :param rev_range: ``"start:end"``; each may be left out, or be ``"current"``.
        :param current: mark the revisions that the databases are at.
        :raises MigrationError: the range is none, or a revision is not there.
        """
        with self._command() as runner:
            ends = preconditions.range_of(rev_range or ":", self.group)
            asks = current or "current" in ends
            at = _all(runner.heads(runner.request.engines)) if asks else ()
            start, end = (at if name == "current" else name for name in ends)
            if end == ():
                return []  # the databases are before the first revision
            base, head = cast(Any, start or "base"), cast(Any, end or "heads")
            found = list(runner.script.walk_revisions(base=base, head=head))
            for script in found if current else ():
                alembic_private.mark_current(script, script.revision in at)
            return found

    def heads(self, *, resolve_dependencies: bool = False) -> list[Script]:
        """The newest revision of each branch.

        :param resolve_dependencies: without those that other revisions depend on.
        :raises MigrationError: see the class.
        """
        with self._command() as runner:
            wanted: Any = "heads" if resolve_dependencies else runner.script.get_heads()
            return list(runner.script.get_revisions(wanted))

    def branches(self) -> dict[Script, list[Script]]:
        """The revisions that several others follow, and those.

        :raises MigrationError: see the class.
        """
        with self._command() as runner:
            return {
                script: [runner.script.get_revision(name) for name in sorted(script.nextrev)]
                for script in runner.script.walk_revisions()
                if script.is_branch_point
            }

    # Where the databases are ------------------------------------------------------------------

    def current(self) -> dict[str, list[Script]]:
        """By engine, the revisions that its database is at.

        :raises MigrationError: the folder does not have one of them.
        :raises DatabaseUnreachable: one of the databases gets no connection.
        """
        with self._command() as runner:
            return {
                name: sorted(
                    runner.script.get_all_current(found), key=lambda script: script.revision
                )
                for name, found in _look(runner).items()
            }

    def status(self) -> list[EngineStatus]:
        """Where every database is; one that cannot be reached is a part of the result.

        :raises MigrationError: see the class.
        """
        return self._statuses(None)

    def _statuses(self, within: float | None) -> list[EngineStatus]:
        with self._command() as runner:
            engines = runner.request.engines
            errors = connectivity.reach(engines, within)
            preconditions.require_own_databases(engines)
            reachable = [name for name, error in errors.items() if error is None]
            heads: Heads = {}
            if len(reachable) < len(errors) and not runner.env.is_ours:
                # An 'env.py' of another origin connects to all databases or to none.
                heads = runner.heads_without_env(reachable)
            elif reachable:
                heads = runner.heads(reachable)
            return [_status(runner, name, errors[name], heads.get(name, ())) for name in engines]

    def wait(self, timeout: float = 60.0, *, tell: OnWait = silent) -> dict[str, str | None]:
        """Ask all databases until they respond, or *timeout* seconds have passed.

        A server that is silent has a second at least, and no longer than there is time.

        :param tell: is given a sentence when a database does not respond.
        :returns: by engine, why its database gets no connection; None if it does.
        :raises MigrationError: *timeout* is not a number of seconds.
        """
        engines = self.engines

        def ask(within: float) -> list[EngineStatus]:
            return [
                EngineStatus(name, connectivity.redacted_url(engines[name].url), error)
                for name, error in connectivity.reach(engines, within).items()
            ]

        statuses = _poll(ask, lambda status: status.error is None, timeout, tell)
        return {status.name: status.error for status in statuses}

    def wait_for_upgrade(
        self, timeout: float = 60.0, *, tell: OnWait = silent
    ) -> list[EngineStatus]:
        """Wait until nothing is pending either; another process has to upgrade.

        :param tell: is given a sentence when there is something to wait for.
        :raises MigrationError: *timeout* is not a number of seconds; otherwise see the class.
        """
        return _poll(self._statuses, lambda status: status.state == "up to date", timeout, tell)

    def check(self) -> Checked:
        """Compare the databases with the folder, then with the models.

        Several heads are no obstacle: a database that is at all of them is up to date.

        :raises MigrationError: the models have no tables; a database is at a revision that the
            folder does not have.
        :raises DatabaseUnreachable: one of the databases gets no connection.
        """
        with self._command() as runner:
            preconditions.require_own_databases(runner.request.engines)
            preconditions.count_tables(runner, "check")
            statuses = [_status(runner, name, None, found) for name, found in _look(runner).items()]
            behind = [status for status in statuses if status.pending]
            if behind:
                return Checked(behind, [])
            comparison = Comparison(comment=False)
            compared = runner.compare(comparison, head="head")
            differences = [
                line
                for operations in compared.generated_revisions[-1].upgrade_ops_list
                for diff in operations.as_diffs()
                for line in describe(diff)
            ]
            return Checked([], differences, comparison.unknown)

    # What changes databases -------------------------------------------------------------------

    def upgrade(
        self,
        revision: str = "head",
        *,
        tag: str | None = None,
        lock_timeout: float | None = None,
        statement_timeout: float | None = None,
        report: OnStep = silent,
        tell: OnWait = silent,
    ) -> list[Step]:
        """Run what is missing, engine by engine, each revision in a transaction of its own.

        If nothing is missing, no lock is asked for.

        :param lock_timeout: seconds to wait for another process that is migrating (600), and, if
            given, for the lock of a table.
        :param statement_timeout: seconds that a statement may take; PostgreSQL and MariaDB.
        :param report: is given each step when it starts, and again when it has ended.
        :param tell: is given a sentence while another process is waited for.
        :raises MigrationFailed: a revision failed; those before it stay.
        :raises MigrationLocked: another process is migrating.
        :raises MigrationError: no such revision; several heads; a database is at a revision that
            the folder does not have; a timeout is not a number of seconds, or no database has it;
            the unit of work of this context is in the way.
        :raises DatabaseUnreachable: one of the databases gets no connection.
        """
        options = RunOptions(tag, lock_timeout, statement_timeout, report, tell)
        with self._command() as runner:
            heads = _prepare(runner, revision, options)
            steps = runner.steps("upgrade", revision)
            if not any(map(steps, heads.values())):
                return []
            preconditions.require_idle_unit(self._db)
            return runner.migrate(steps, revision, options)

    def downgrade(
        self,
        revision: str = "-1",
        *,
        tag: str | None = None,
        lock_timeout: float | None = None,
        statement_timeout: float | None = None,
        report: OnStep = silent,
        tell: OnWait = silent,
    ) -> list[Step]:
        """Undo revisions down to *revision*.

        The parameters are those of :meth:`upgrade`.

        :raises MigrationError: there is nothing to undo; otherwise as :meth:`upgrade`.
        :raises MigrationFailed: as :meth:`upgrade`.
        :raises MigrationLocked: as :meth:`upgrade`.
        :raises DatabaseUnreachable: as :meth:`upgrade`.
        """
        options = RunOptions(tag, lock_timeout, statement_timeout, report, tell)
        with self._command() as runner:
            heads = _prepare(runner, revision, options)
            if re.fullmatch(r"-\d+", revision):
                preconditions.require_something_to_undo(heads, self.group)
            find = runner.steps("downgrade", revision)

            def steps(found: Any) -> Any:
                # Of a relative revision: another engine has something to undo, and this has not.
                return [] if revision.startswith("-") and not found else find(found)

            preconditions.require_idle_unit(self._db)
            return runner.migrate(steps, revision, options)

    def stamp(
        self,
        revision: str = "head",
        *,
        tag: str | None = None,
        purge: bool = False,
        lock_timeout: float | None = None,
        report: OnStep = silent,
        tell: OnWait = silent,
    ) -> list[Step]:
        """Note *revision* as the one that the databases are at, and run nothing.

        :param purge: forget what was noted before, whatever it is.
        :returns: a step for each database whose note has changed.
        :raises MigrationError: no such revision; a database is at one that the folder does not
            have; a timeout is not a number of seconds.
        :raises MigrationLocked: another process is migrating.
        :raises DatabaseUnreachable: one of the databases gets no connection.
        """
        options = RunOptions(tag, lock_timeout, on_step=report, on_wait=tell, purge=purge)
        with self._command() as runner:
            _prepare(runner, revision, options)
            preconditions.require_idle_unit(self._db)
            return runner.migrate(runner.steps("stamp", revision), revision, options)

    def as_sql(self, command: str, revision: str, *, tag: str | None = None) -> dict[str, str]:
        """What ``"upgrade"``, ``"downgrade"`` or ``"stamp"`` would send, by engine.

        No database is asked, so a range (``"start:end"``) says where to start from.

        :raises MigrationError: there is no such revision, or it needs to look at the database.
        """
        from alembic import command as commands

        preconditions.require_revision(revision, self.group, sql=True)
        output = io.StringIO()
        with self._command() as runner:
            request = runner.request
            runner.config.output_buffer = output
            with runner.environment(request):
                getattr(commands, command)(runner.config, revision, sql=True, tag=tag)
        # An 'env.py' that does not call 'run()' leaves it in the buffer, or writes files.
        return request.scripts or {request.main: output.getvalue()}


def _require_place(runner: Runner, head: str, *names: str | None) -> None:
    preconditions.require_revision(head, runner.group)
    preconditions.require_new(runner, *names)


def _prepare(runner: Runner, revision: str, options: RunOptions) -> Heads:
    """Refuse what cannot be run; return where the databases are."""
    preconditions.require_revision(revision, runner.group)
    preconditions.require_seconds(
        lock_timeout=options.lock_timeout, statement_timeout=options.statement_timeout
    )
    if options.purge:
        preconditions.require_own_databases(runner.request.engines)
        return {}
    heads = _look(runner)
    preconditions.require_statement_timeout(runner.request.engines, options.statement_timeout)
    return heads


def _look(runner: Runner) -> Heads:
    """Where the databases are, each at revisions that the folder has."""
    preconditions.require_own_databases(runner.request.engines)
    heads = runner.heads(runner.request.engines)
    preconditions.require_known(runner, heads)
    return heads


def _status(runner: Runner, name: str, error: str | None, heads: tuple[str, ...]) -> EngineStatus:
    url = connectivity.redacted_url(runner.request.engines[name].url)
    if error is not None:
        return EngineStatus(name, url, error)
    unknown = tuple(head for head in heads if not preconditions.knows(runner.script, head))
    pending = () if unknown else tuple(runner.pending(heads))
    return EngineStatus(name, url, None, heads, pending, unknown)


def _all(heads: Heads) -> tuple[str, ...]:
    return tuple({head for found in heads.values() for head in found})


def _poll(
    ask: Callable[[float], list[EngineStatus]],
    is_enough: Callable[[EngineStatus], bool],
    timeout: float,
    tell: OnWait,
) -> list[EngineStatus]:
    """Ask until each status is enough, or *timeout* seconds have passed; return the last ones.

    :param ask: is given the seconds that it may take.
    :param tell: is given what is waited for, each sentence once.
    """
    preconditions.require_seconds(timeout=timeout)
    told: set[str] = set()
    end, pause = time.monotonic() + timeout, 0.1
    while True:
        statuses = ask(max(1.0, end - time.monotonic()))  # a database has a second to respond
        waiting = [status.waiting() for status in statuses if not is_enough(status)]
        left = end - time.monotonic()
        if left <= 0 or not waiting:
            return statuses
        for sentence in waiting:
            if sentence not in told:
                told.add(sentence)
                tell(sentence)
        time.sleep(min(pause, left))
        pause = min(2 * pause, 2.0)
