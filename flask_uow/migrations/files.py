"""The folder: what the commands do with revisions, as functions that return data and raise."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flask import current_app, has_app_context
from sqlalchemy import Engine

from .._config import reading
from ..errors import MigrationError, OutsideContext
from . import history as _history
from . import preconditions
from ._compare.announce import Comparison
from ._env import directory as _folder
from ._env import init as _init
from ._env import logging, metadata
from ._env.request import database_of
from ._run.runner import Runner
from .results import Created, Generated

if TYPE_CHECKING:
    from alembic.script import Script, ScriptDirectory


class Files:
    """The half of :class:`~flask_uow.migrations.Migrations` that writes and reads revisions."""

    def __init__(self, directory: str | None = None, *, x_arg: Sequence[str] = ()) -> None:
        if not has_app_context():
            raise OutsideContext(
                "'Migrations' needs a Flask context, and none is active. Use it inside"
                " 'with app.app_context():'."
            )
        app: Any = cast(Any, current_app)._get_current_object()
        db = database_of(app)
        settings = reading.read_migrations(app.config)
        preconditions.require_options(settings.options)
        if directory and directory != settings.directory:
            # The group takes the option as well as the command.
            settings = replace(settings, group=f"{settings.group} -d {shlex.quote(directory)}")
        self._directory = directory or settings.directory
        self.group = settings.group
        self.folder = _folder.find(app, self._directory)
        self._db = db
        self._runner = Runner(app, db, settings, self.folder, x_arg)
        self._script: ScriptDirectory | None = None  # as the last method has found it

    @property
    def engines(self) -> dict[str, Engine]:
        """The engines that are migrated, in order.

        :raises UnknownEngine: ``UOW_MIGRATIONS`` names one that is not configured.
        """
        return self._runner.engines

    def _scripts(self) -> ScriptDirectory:
        self._script = self._runner.scripts()
        return self._script

    def _new(self, head: str, rev_id: str | None, branch_label: str | None) -> ScriptDirectory:
        """The revisions, to which one may be added."""
        script = self._scripts()
        preconditions.require_revision(head, self.group)
        if head == "head":
            preconditions.require_one_head(self._runner, script)
        preconditions.require_new(self._runner, script, rev_id, branch_label)
        return script

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
        app = _folder.name_of(self._runner.app)
        files = _init.make(folder, template, self.group, app=app, package=package)
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

        :raises MigrationError: there are several heads, or none of that name; the identifier or
            the label is none, or taken; the folder cannot be written.
        """
        from alembic import command

        self._new(head, rev_id, branch_label)
        config = self._runner.config(self._runner.job())
        with self._runner.translated(), _init.writing(self.folder), logging.kept():
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
        :raises MigrationError: the models have no tables, a database is not up to date; otherwise
            as :meth:`revision`.
        :raises DatabaseUnreachable: one of the databases gets no connection.
        """
        script = self._new(head, rev_id, branch_label)
        tables = preconditions.count_tables(self._runner, "migrate")
        preconditions.require_current(self._runner, self._runner.current(script), script)
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
            or the label is none, or taken; the folder cannot be written.
        """
        from alembic import command

        script = self._scripts()
        for one in revisions:
            preconditions.require_revision(one, self.group)
        preconditions.require_new(self._runner, script, rev_id, branch_label)
        wanted = list(revisions) or ["heads"]
        with self._runner.translated():
            found = list(script.get_revisions(wanted))
        preconditions.require_several(found, revisions, self.group)
        config = self._runner.config(self._runner.job())
        with self._runner.translated(), _init.writing(self.folder), logging.kept():
            merged: Any = command.merge(
                config, cast(Any, wanted), message, branch_label=branch_label, rev_id=rev_id
            )
        return cast("Script", merged)

    def show(self, revision: str = "head") -> list[Script]:
        """The revisions that a name means; ``"current"`` means those of the databases.

        :raises MigrationError: there is none of that name.
        """
        script = self._scripts()
        preconditions.require_revision(revision, self.group)
        heads = self._runner.current(script) if revision == "current" else {}
        with self._runner.translated():
            found = _history.named(script, revision, heads)
        if not found:
            raise MigrationError(_history.none_of(revision, self.group, script))
        return found

    def history(self, rev_range: str | None = None, *, current: bool = False) -> list[Script]:
        """All revisions, the newest first.

        :param rev_range: ``"start:end"``; each may be left out, or be ``"current"``.
        :param current: mark the revisions that the databases are at.
        :raises MigrationError: the range is none, or a revision is not there.
        :raises DatabaseUnreachable: they have to be asked, and one gets no connection.
        """
        script = self._scripts()
        ends = _history.ends(rev_range, self.group)
        heads = self._runner.current(script) if current or "current" in ends else {}
        with self._runner.translated():
            return _history.between(script, ends, heads, mark=current)

    def heads(self, *, resolve_dependencies: bool = False) -> list[Script]:
        """The newest revision of each branch.

        :param resolve_dependencies: without those that others depend on.
        :raises MigrationError: there is no folder, or a file in it cannot be loaded.
        """
        script = self._scripts()
        with self._runner.translated():
            wanted: Any = "heads" if resolve_dependencies else script.get_heads()
            return list(script.get_revisions(wanted))

    def branches(self) -> dict[Script, list[Script]]:
        """The revisions that several others follow, and those.

        :raises MigrationError: there is no folder, or a file in it cannot be loaded.
        """
        script = self._scripts()
        with self._runner.translated():
            return {
                one: [script.get_revision(name) for name in sorted(one.nextrev)]
                for one in script.walk_revisions()
                if one.is_branch_point
            }
