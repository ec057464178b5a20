"""``Migrations``: what the commands do, as functions that return data and raise."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from . import connectivity, preconditions
from ._compare.announce import Comparison
from ._compare.describe import describe
from ._env import alembic_private
from ._env import directory as _folder
from ._run.lock import Tell
from ._run.runner import Heads, Manner
from ._run.steps import Report, Step
from .files import Files
from .results import Checked, EngineStatus, Waiting

if TYPE_CHECKING:
    from alembic.script import Script, ScriptDirectory


def _silent(_: object) -> None:
    """Nobody wants to know."""


class Migrations(Files):
    """The migrations of the current app.

    ::

        with app.app_context():
            for step in Migrations().upgrade():
                print(step.engine, step.revision, step.seconds)

    Nothing prints and nothing exits. Scripts are Alembic's ``Script`` objects.

    :param directory: the folder, instead of ``UOW_MIGRATIONS``.
    :param x_arg: for ``context.get_x_argument()`` in ``env.py``.
    :ivar folder: where the files are.
    :ivar group: what a command begins with, for messages: ``"db"``, or ``"db -d elsewhere"``.
    :raises OutsideContext: no app context is active.
    :raises MigrationError: the app has no ``Database``.
    :raises ConfigError: ``UOW_MIGRATIONS`` has a key that is no option of Alembic's.
    """

    def __init__(self, directory: str | None = None, *, x_arg: Sequence[str] = ()) -> None:
        super().__init__(directory, x_arg=x_arg)
        self._heads: Heads = {}  # as the last method has found them

    def _found(self, command: str = "") -> tuple[ScriptDirectory, Heads]:
        """The revisions, and where the databases are, all of which are known.

        :param command: one that compares the models, which are looked at before the databases.
        """
        script = self._scripts()
        if command:
            preconditions.count_tables(self._runner, command)
        preconditions.require_own_databases(self._runner)
        self._heads = self._runner.current(script)
        preconditions.require_known(self._runner, self._heads, script)
        return script, self._heads

    def _next_upgrade(self) -> str:
        """The command that runs what the last method has found pending."""
        return preconditions.upgrade_command(self.group, self._script or self._scripts())

    def _nothing_to_do(self, revision: str) -> str:
        """Why :meth:`upgrade` had nothing to run."""
        script = self._script or self._scripts()
        if not script.get_heads():
            return preconditions.no_revision(self.group)
        if any(self._runner.pending(script, found) for found in self._heads.values()):
            return f"Nothing to do: every database has {revision!r} already."
        return "Nothing to do: the databases are up to date."

    # Databases --------------------------------------------------------------------------------

    def current(self) -> dict[str, list[Script]]:
        """By engine, the revisions that its database is at.

        :raises MigrationError: the folder does not have one of them.
        :raises DatabaseUnreachable: one of the databases gets no connection.
        """
        script, heads = self._found()
        with self._runner.translated():
            return {
                name: sorted(script.get_all_current(found), key=lambda one: one.revision)
                for name, found in heads.items()
            }

    def status(self) -> list[EngineStatus]:
        """Where every database is; one that cannot be reached is a part of the answer.

        :raises MigrationError: there is no folder, or a file in it cannot be loaded; two engines
            are one database.
        """
        return self._statuses(connectivity.ping(self.engines))

    def _statuses(self, errors: dict[str, str | None]) -> list[EngineStatus]:
        script = self._scripts()
        preconditions.require_own_databases(self._runner)
        reachable = [name for name, error in errors.items() if error is None]
        heads: Heads = {}
        if len(reachable) < len(errors) and not _folder.is_ours(self.folder):
            # An 'env.py' of somebody else connects to all or to none.
            heads = {name: self._runner.noted(name) for name in reachable}
        elif reachable:
            heads = self._runner.current(script, reachable)
        return [self._status(name, errors[name], heads.get(name, ()), script) for name in errors]

    def _status(
        self, name: str, error: str | None, heads: tuple[str, ...], script: ScriptDirectory
    ) -> EngineStatus:
        url = connectivity.address(self.engines[name].url)
        if error is not None:
            return EngineStatus(name, url, error)
        unknown = tuple(head for head in heads if not preconditions.knows(script, head))
        pending = () if unknown else tuple(self._runner.pending(script, heads))
        return EngineStatus(name, url, None, heads, pending, unknown)

    def ping(self) -> dict[str, str | None]:
        """By engine: why its database gets no connection; None if it does."""
        return connectivity.ping(self.engines)

    def wait(self, timeout: float = 60.0, *, tell: Tell = _silent) -> dict[str, str | None]:
        """Ping until all databases answer, or *timeout* seconds have passed.

        A server that is silent has a second at least, and no longer than there is time.

        :param tell: is given a sentence when a database does not answer.
        :raises MigrationError: *timeout* is no number of seconds.
        """
        preconditions.require_seconds(timeout=timeout)
        engines = self.engines

        def say(errors: dict[str, str | None]) -> None:
            told(EngineStatus(name, where[name], error) for name, error in errors.items())

        told = Waiting(tell)
        where = {name: connectivity.address(engine.url) for name, engine in engines.items()}
        return connectivity.repeat(
            partial(connectivity.ping, engines), lambda found: not any(found.values()), timeout, say
        )

    def wait_for_upgrade(
        self, timeout: float = 60.0, *, tell: Tell = _silent
    ) -> list[EngineStatus]:
        """Wait until nothing is pending either; somebody else has to upgrade.

        :param tell: is given a sentence when there is something to wait for.
        :raises MigrationError: as :meth:`status` and :meth:`wait`.
        """
        preconditions.require_seconds(timeout=timeout)
        return connectivity.repeat(
            lambda within: self._statuses(connectivity.ping(self.engines, within)),
            lambda found: all(one.state == "up to date" for one in found),
            timeout,
            Waiting(tell),
        )

    def upgrade(
        self,
        revision: str = "head",
        *,
        tag: str | None = None,
        lock_timeout: float | None = None,
        statement_timeout: float | None = None,
        report: Report = _silent,
        tell: Tell = _silent,
    ) -> list[Step]:
        """Run what is missing, engine by engine, each revision in a transaction of its own.

        If nothing is missing, no lock is asked for.

        :param lock_timeout: seconds to wait for somebody else who is migrating (600), and, if
            given, for the lock of a table.
        :param statement_timeout: seconds that a statement may take; PostgreSQL and MariaDB.
        :param report: is given each step when it starts, and again when it has ended.
        :param tell: is given a sentence while somebody else is waited for.
        :raises MigrationFailed: a revision failed; those before it stay.
        :raises MigrationLocked: somebody else is migrating.
        :raises MigrationError: there is no such revision, or several heads; a database is at a
            revision that the folder does not have; two engines are one database; a timeout is
            none.
        :raises DatabaseUnreachable: one of the databases gets no connection.
        """
        preconditions.require_revision(revision, self.group)
        preconditions.require_seconds(
            lock_timeout=lock_timeout, statement_timeout=statement_timeout
        )
        script, heads = self._found()
        if revision == "head":
            preconditions.require_one_head(self._runner, script)

        def steps(rev: Any) -> Any:
            return alembic_private.upgrade_steps(script, revision, rev)

        with self._runner.translated():
            if not any(steps(found) for found in heads.values()):
                return []
        manner = Manner(tag, lock_timeout, statement_timeout, report, tell)
        return self._runner.travel(script, steps, revision, manner)

    def downgrade(
        self,
        revision: str = "-1",
        *,
        tag: str | None = None,
        lock_timeout: float | None = None,
        statement_timeout: float | None = None,
        report: Report = _silent,
        tell: Tell = _silent,
    ) -> list[Step]:
        """Undo revisions down to *revision*; arguments and errors as :meth:`upgrade`."""
        preconditions.require_revision(revision, self.group)
        preconditions.require_seconds(
            lock_timeout=lock_timeout, statement_timeout=statement_timeout
        )
        script, heads = self._found()
        if re.fullmatch(r"-\d+", revision):
            preconditions.require_something_to_undo(heads, self.group)

        def steps(rev: Any) -> Any:
            if revision.startswith("-") and not rev:
                return []  # another engine has something to undo
            return alembic_private.downgrade_steps(script, revision, rev)

        manner = Manner(tag, lock_timeout, statement_timeout, report, tell)
        return self._runner.travel(script, steps, revision, manner)

    def stamp(
        self,
        revision: str = "head",
        *,
        tag: str | None = None,
        purge: bool = False,
        lock_timeout: float | None = None,
        report: Report = _silent,
        tell: Tell = _silent,
    ) -> list[Step]:
        """Note *revision* as the one that the databases are at, and run nothing.

        :param purge: forget what was noted before, whatever it is.
        :returns: a step for each database whose note has changed.
        :raises MigrationError: there is no such revision; a database is at one that the folder
            does not have; two engines are one database; a timeout is none.
        :raises MigrationLocked: somebody else is migrating.
        :raises DatabaseUnreachable: one of the databases gets no connection.
        """
        preconditions.require_revision(revision, self.group)
        preconditions.require_seconds(lock_timeout=lock_timeout)
        if purge:
            script = self._scripts()
            preconditions.require_own_databases(self._runner)
        else:
            script, _ = self._found()

        def steps(rev: Any) -> Any:
            return alembic_private.stamp_steps(script, revision, rev)

        manner = Manner(tag, lock_timeout, report=report, tell=tell, purge=purge)
        return self._runner.travel(script, steps, revision, manner)

    def as_sql(self, command: str, revision: str, *, tag: str | None = None) -> dict[str, str]:
        """What ``"upgrade"``, ``"downgrade"`` or ``"stamp"`` would send, by engine.

        No database is asked, so a range (``"start:end"``) says where to start from.

        :raises MigrationError: there is no such revision, or it needs to look at the database.
        """
        from alembic import command as commands

        preconditions.require_revision(revision, self.group, sql=True)
        self._scripts()
        output = io.StringIO()
        job = self._runner.job()
        config = self._runner.config(job, output_buffer=output)
        with self._runner.translated(), self._runner.running(job):
            getattr(commands, command)(config, revision, sql=True, tag=tag)
        # An 'env.py' that flask_uow has not written leaves it in the buffer, or writes files.
        return job.scripts or {job.main: output.getvalue()}

    def check(self) -> Checked:
        """Are the databases up to date, and are the models what they are?

        Several heads are no obstacle: a database that is at all of them is up to date.

        :raises MigrationError: the models have no tables; a database is at a revision that the
            folder does not have; two engines are one database.
        :raises DatabaseUnreachable: one of the databases gets no connection.
        """
        script, heads = self._found("check")
        behind = [self._status(name, None, found, script) for name, found in heads.items()]
        behind = [one for one in behind if one.pending]
        if behind:
            return Checked(behind, [])
        comparison = Comparison(comment=False)
        context = self._runner.compare(
            self._runner.job(comparison=comparison), script, {"head": "head"}
        )
        found = context.generated_revisions[-1].upgrade_ops_list
        differences = [line for one in found for diff in one.as_diffs() for line in describe(diff)]
        return Checked([], differences, comparison.unknown)
