"""``Migrations``: what the commands do, as functions that return data and raise."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flask import current_app, has_app_context
from sqlalchemy import Engine

from .. import _settings
from ..errors import MigrationError, OutsideContext
from . import _folder, _init, _logs, _models, _reach, _refusals
from ._autogenerate import Comparison, describe
from ._environment import Job
from ._lock import Tell
from ._results import Checked, Created, EngineStatus, Generated
from ._runner import Heads, Runner
from ._steps import Report, Step

if TYPE_CHECKING:
    from alembic.script import Script, ScriptDirectory


def _silent(_: object) -> None:
    """Nobody wants to know."""


class Migrations:
    """The migrations of the current app.

    ::

        with app.app_context():
            for step in Migrations().upgrade():
                print(step.engine, step.revision, step.seconds)

    Nothing prints and nothing exits. Scripts are Alembic's ``Script`` objects.

    :param directory: the folder, instead of ``UOW_MIGRATIONS``.
    :param x_arg: for ``context.get_x_argument()`` in ``env.py``.
    :raises OutsideContext: no app context is active.
    :raises MigrationError: the app has no ``Database``.
    """

    def __init__(self, directory: str | None = None, *, x_arg: Sequence[str] = ()) -> None:
        if not has_app_context():
            raise OutsideContext(
                "'Migrations' needs a Flask context, and none is active. Use it inside"
                " 'with app.app_context():'."
            )
        app: Any = cast(Any, current_app)._get_current_object()
        db = app.extensions.get("uow_migrations")
        if db is None:
            raise MigrationError(
                f"The app {app.name!r} has no Database. Call 'db.init_app(app)' first."
            )
        settings = _settings.read_migrations(app.config)
        self._directory = directory or settings.directory
        self.group = settings.group
        self.folder = _folder.find(app, self._directory)
        self._db = db
        self._runner = Runner(app, db, settings, self.folder, x_arg)

    @property
    def engines(self) -> dict[str, Engine]:
        """The engines that are migrated, in order.

        :raises UnknownEngine: ``UOW_MIGRATIONS`` names one that is not configured.
        """
        return self._runner.engines

    def job(self, *, writes: bool = False) -> Job:
        """What ``env.py`` is told, for somebody who calls Alembic's own functions."""
        return self._runner.job(writes=writes)

    # Files ------------------------------------------------------------------------------------

    def list_templates(self) -> dict[str, str]:
        """The templates of :meth:`init`, and what they are for."""
        return _init.templates()

    def init(self, *, template: str | None = None, package: bool = False) -> Created:
        """Make the folder.

        :param template: one of :meth:`list_templates`, or the path of a folder.
        :param package: with empty ``__init__.py`` files.
        :raises MigrationError: the folder is there already, or cannot be written; there is no
            such template.
        """
        folder = Path(self._directory).absolute()
        files = _init.make(folder, template, self.group, package=package)
        return Created(folder, files, _models.has_convention(self._db))

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

        :raises MigrationError: there are several heads, or none of that name; the folder cannot
            be written.
        """
        from alembic import command

        script = self._runner.scripts()
        if head == "head":
            _refusals.require_one_head(self._runner, script)
        config = self._runner.config(self._runner.job())
        with self._runner.translated(), _init.writing(self.folder), _logs.kept():
            found: Any = command.revision(
                config,
                message,
                sql=sql,
                head=head,
                splice=splice,
                branch_label=branch_label,
                version_path=version_path,
                rev_id=rev_id,
            )
        return cast("Script", found)

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

        :param drop_unknown: drop the tables that the models do not know.
        :raises MigrationError: the models have no tables, a database is not up to date, there are
            several heads, or the folder cannot be written.
        :raises DatabaseUnreachable: one of the databases gets no connection.
        """
        tables = _refusals.count_tables(self._runner)
        script = self._runner.scripts()
        if head == "head":
            _refusals.require_one_head(self._runner, script)
        _refusals.require_current(self._runner, self._runner.heads(script), script)
        comparison = Comparison(drop_unknown=drop_unknown)
        job = self._runner.job(comparison=comparison, skip_empty=True)
        context = self._runner.compare(
            job,
            script,
            {
                "message": message,
                "head": head,
                "splice": splice,
                "branch_label": branch_label,
                "version_path": version_path,
                "rev_id": rev_id,
            },
        )
        with self._runner.translated(), _init.writing(self.folder):
            written = [one for one in context.generate_scripts() if one is not None]
        return Generated(
            script=written[0] if written else None,
            tables=tables,
            modules=_models.modules_of(self._db),
            unknown=comparison.unknown,
            drops=comparison.drops if written else [],
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

        :raises MigrationError: there is one head only, or a revision is not there.
        """
        from alembic import command

        script = self._runner.scripts()
        wanted = list(revisions) or ["heads"]
        with self._runner.translated():
            found = {one.revision for one in script.get_revisions(wanted)}
        if len(found) < 2:
            raise MigrationError(
                f"There is nothing to merge: {' '.join(wanted)!r} is one revision."
                f" 'flask {self.group} heads' lists the heads."
            )
        config = self._runner.config(self._runner.job())
        with self._runner.translated(), _init.writing(self.folder), _logs.kept():
            merged: Any = command.merge(
                config, cast(Any, wanted), message, branch_label=branch_label, rev_id=rev_id
            )
        return cast("Script", merged)

    def show(self, revision: str = "head") -> list[Script]:
        """The revisions that a name means; ``"current"`` means those of the databases.

        :raises MigrationError: there is none of that name.
        """
        script = self._runner.scripts()
        wanted: Any = revision
        if revision == "current":
            wanted = tuple(
                {head for heads in self._runner.heads(script).values() for head in heads}
            )
        with self._runner.translated():
            found = list(script.get_revisions(wanted))
        if not found:
            raise MigrationError(
                f"No revision is meant by {revision!r}: there is none yet. Write one with"
                f" 'flask {self.group} migrate -m MESSAGE'."
            )
        return found

    def history(self, rev_range: str | None = None, *, current: bool = False) -> list[Script]:
        """All revisions, the newest first.

        :param rev_range: ``"start:end"``; each may be left out, or be ``"current"``.
        :param current: mark the revisions that the databases are at.
        :raises MigrationError: the range is none.
        """
        script = self._runner.scripts()
        base, head = self._range(rev_range)
        heads: set[str] = set()
        if current or "current" in {base, head}:
            heads = {one for found in self._runner.heads(script).values() for one in found}
        if head == "current":
            head = cast(Any, tuple(heads))
        if base == "current":
            base = cast(Any, tuple(heads) or "base")
        with self._runner.translated():
            found = list(script.walk_revisions(base=base or "base", head=head or "heads"))
        for one in found if current else ():
            one._db_current_indicator = one.revision in heads
        return found

    def _range(self, rev_range: str | None) -> tuple[str, str]:
        if rev_range is None:
            return "", ""
        base, separator, head = rev_range.strip().partition(":")
        if not separator:
            raise MigrationError(
                f"{rev_range!r} is no range of revisions. Write '[start]:[end]', for example"
                f" 'flask {self.group} history -r base:current'."
            )
        return base, head

    def heads(self, *, resolve_dependencies: bool = False) -> list[Script]:
        """The newest revision of each branch."""
        script = self._runner.scripts()
        with self._runner.translated():
            wanted: Any = "heads" if resolve_dependencies else script.get_heads()
            return list(script.get_revisions(wanted))

    def branches(self) -> dict[Script, list[Script]]:
        """The revisions that several others follow, and those."""
        script = self._runner.scripts()
        with self._runner.translated():
            return {
                one: [script.get_revision(name) for name in sorted(one.nextrev)]
                for one in script.walk_revisions()
                if one.is_branch_point
            }

    # Databases --------------------------------------------------------------------------------

    def current(self) -> dict[str, list[Script]]:
        """By engine, the revisions that its database is at.

        :raises MigrationError: the folder does not have one of them.
        :raises DatabaseUnreachable: one of the databases gets no connection.
        """
        script = self._runner.scripts()
        heads = self._runner.heads(script)
        _refusals.require_known(self._runner, heads, script)
        with self._runner.translated():
            return {
                name: sorted(script.get_all_current(found), key=lambda one: one.revision)
                for name, found in heads.items()
            }

    def status(self) -> list[EngineStatus]:
        """Where every database is; one that cannot be reached is a part of the answer."""
        script = self._runner.scripts()
        errors = _reach.ping(self.engines)
        reachable = [name for name, error in errors.items() if error is None]
        heads: Heads = {}
        if len(reachable) < len(errors) and not _folder.is_ours(self.folder):
            # An 'env.py' of somebody else connects to all or to none.
            heads = {name: self._runner.noted(name) for name in reachable}
        elif reachable:
            heads = self._runner.heads(script, reachable)
        return [self._status(name, errors[name], heads.get(name, ()), script) for name in errors]

    def _status(
        self, name: str, error: str | None, heads: tuple[str, ...], script: ScriptDirectory
    ) -> EngineStatus:
        url = _reach.address(self.engines[name].url)
        if error is not None:
            return EngineStatus(name, url, error)
        unknown = tuple(head for head in heads if not _refusals.knows(script, head))
        pending = () if unknown else tuple(self._runner.pending(script, heads))
        return EngineStatus(name, url, None, heads, pending, unknown)

    def ping(self) -> dict[str, str | None]:
        """By engine: why its database gets no connection; None if it does."""
        return _reach.ping(self.engines)

    def wait(self, timeout: float = 60.0) -> dict[str, str | None]:
        """Ping until all databases answer, or *timeout* seconds have passed."""
        return _reach.repeat(self.ping, lambda found: not any(found.values()), timeout)

    def wait_for_upgrade(self, timeout: float = 60.0) -> list[EngineStatus]:
        """Wait until nothing is pending either; somebody else has to upgrade."""
        return _reach.repeat(
            self.status, lambda found: all(one.state == "up to date" for one in found), timeout
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
            revision that the folder does not have.
        :raises DatabaseUnreachable: one of the databases gets no connection.
        """
        script = self._runner.scripts()
        heads = self._runner.heads(script)
        _refusals.require_known(self._runner, heads, script)
        if revision == "head":
            _refusals.require_one_head(self._runner, script)

        def steps(rev: Any) -> Any:
            return cast(Any, script)._upgrade_revs(revision, rev)

        with self._runner.translated():
            if not any(list(steps(found)) for found in heads.values()):
                return []
        return self._runner.travel(
            script,
            steps,
            revision,
            tag=tag,
            lock_timeout=lock_timeout,
            statement_timeout=statement_timeout,
            report=report,
            tell=tell,
        )

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
        script = self._runner.scripts()
        heads = self._runner.heads(script)
        _refusals.require_known(self._runner, heads, script)
        if revision.startswith("-") and not any(heads.values()):
            raise MigrationError(
                "There is nothing to downgrade: no database has a revision."
                f" 'flask {self.group} status' says where they are."
            )

        def steps(rev: Any) -> Any:
            if revision.startswith("-") and not rev:
                return []  # another engine has something to undo
            return cast(Any, script)._downgrade_revs(revision, rev)

        return self._runner.travel(
            script,
            steps,
            revision,
            tag=tag,
            lock_timeout=lock_timeout,
            statement_timeout=statement_timeout,
            report=report,
            tell=tell,
        )

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
        """
        script = self._runner.scripts()
        if not purge:
            _refusals.require_known(self._runner, self._runner.heads(script), script)

        def steps(rev: Any) -> Any:
            return script._stamp_revs(cast(Any, revision), rev)

        return self._runner.travel(
            script,
            steps,
            revision,
            tag=tag,
            lock_timeout=lock_timeout,
            report=report,
            tell=tell,
            purge=purge,
        )

    def as_sql(self, command: str, revision: str, *, tag: str | None = None) -> dict[str, str]:
        """What ``"upgrade"``, ``"downgrade"`` or ``"stamp"`` would send, by engine.

        No database is asked, so a range (``"start:end"``) says where to start from.

        :raises MigrationError: there is no such revision, or it needs to look at the database.
        """
        from alembic import command as commands

        self._runner.scripts()
        output = io.StringIO()
        job = self._runner.job()
        config = self._runner.config(job, output_buffer=output)
        with self._runner.translated(), self._runner.running(job):
            getattr(commands, command)(config, revision, sql=True, tag=tag)
        # An 'env.py' that flask_uow has not written leaves it in the buffer, or writes files.
        return job.scripts or {job.main: output.getvalue()}

    def check(self) -> Checked:
        """Are the databases up to date, and are the models what they are?

        :raises MigrationError: the models have no tables, or there are several heads.
        :raises DatabaseUnreachable: one of the databases gets no connection.
        """
        _refusals.count_tables(self._runner)
        script = self._runner.scripts()
        heads = self._runner.heads(script)
        _refusals.require_known(self._runner, heads, script)
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
