"""Flask-Migrate is the model of the names and options, and its folders go on working."""

from __future__ import annotations

import contextlib
import logging
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from flask import Flask as PlainFlask
from sqlalchemy import Column, Integer, MetaData, Table

from flask_uow import Database
from flask_uow.errors import ConfigNotice
from flask_uow.migrations.group import LazyGroup
from tests.migrations.projects import Project, people
from tests.support.databases import anywhere, concurrently, on

pytestmark = pytest.mark.slow

flask_migrate = pytest.importorskip("flask_migrate", reason="Flask-Migrate is the oracle here")
their_cli = pytest.importorskip("flask_migrate.cli")
pytest.importorskip("flask_sqlalchemy", reason="Flask-Migrate's own apps need it")

# What a project of Flask-Migrate looks like, and how its first revision comes about.
_APP = """
    from flask import Flask
    from flask_migrate import Migrate
    from flask_sqlalchemy import SQLAlchemy

    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = {url!r}
    app.config["SQLALCHEMY_BINDS"] = {binds!r}
    db = SQLAlchemy(app)
    Migrate(app, db)

    class Person(db.Model):
        __tablename__ = "people"
        id = db.Column(db.Integer, primary_key=True)
        name = db.Column(db.String(50), nullable=False)

    if app.config["SQLALCHEMY_BINDS"]:
        class Entry(db.Model):
            __tablename__ = "entries"
            __bind_key__ = "audit"
            id = db.Column(db.Integer, primary_key=True)
"""


def by_flask_migrate(project: Project, *init: str) -> None:
    """Let Flask-Migrate write the folder, and its first revision, without upgrading."""
    app = project.folder / "app.py"
    app.write_text(textwrap.dedent(_APP).format(url=project.url, binds=project.binds))
    for command in (["init", *init], ["migrate", "-m", "first"]):
        subprocess.run(
            [sys.executable, "-m", "flask", "db", *command],
            cwd=project.folder,
            check=True,
            capture_output=True,
        )
    app.unlink()


def with_entries(metadata: MetaData) -> None:
    people(metadata)
    info = {"bind_key": "audit"}
    Table("entries", metadata, Column("id", Integer, primary_key=True), info=info)


def with_more(metadata: MetaData) -> None:
    people(metadata, Column("age", Integer))
    info = {"bind_key": "audit"}
    more = Column("n", Integer)
    Table("entries", metadata, Column("id", Integer, primary_key=True), more, info=info)


def with_age(metadata: MetaData) -> None:
    people(metadata, Column("age", Integer))


@concurrently
def test_folder_for_one_database_goes_on_working(project: Project) -> None:
    """Unchanged: upgrade, downgrade, migrate, check, status, ``--sql``."""
    by_flask_migrate(project)
    assert "CREATE TABLE people" in project.do("db", "upgrade", "--sql")
    project.do("db", "upgrade")
    assert project.tables() == {"people"}
    project.query("CREATE TABLE somebody_elses (id INTEGER PRIMARY KEY)")
    text = project.migrate(with_age)
    assert "add_column" in text
    assert "somebody_elses" not in text
    assert "up to date" in project.do("db", "status", models=with_age)
    project.do("db", "check", models=with_age)
    assert "No file" in project.do("db", "migrate", models=with_age)
    project.do("db", "downgrade", "base", models=with_age)
    assert project.tables() == {"somebody_elses"}


@concurrently
def test_folder_for_several_databases_goes_on_working(project: Project, tmp_path: Path) -> None:
    """With the functions ``upgrade_()`` and ``upgrade_audit()``."""
    audit = f"sqlite:///{tmp_path / 'audit.db'}"
    project.binds = {"audit": audit}
    by_flask_migrate(project, "--multidb")
    project.do("db", "upgrade", models=with_entries)
    assert (project.tables(), project.tables(audit)) == ({"people"}, {"entries"})
    assert "def upgrade_audit():" in project.migrate(with_more)
    project.do("db", "check", models=with_more)
    assert "No file" in project.do("db", "migrate", models=with_more)
    assert project.do("db", "status", models=with_more).count("up to date") == 2
    project.do("db", "downgrade", "base", models=with_more)
    assert (project.tables(), project.tables(audit)) == (set(), set())


@anywhere
def test_our_env_runs_their_revisions(project: Project, tmp_path: Path) -> None:
    """``env.py`` may be replaced by the short one; the revisions stay as they are."""
    audit = f"sqlite:///{tmp_path / 'audit.db'}"
    project.binds = {"audit": audit}
    by_flask_migrate(project, "--multidb")
    (project.folder / "migrations" / "env.py").write_text(
        "from flask_uow.migrations import run\nrun()\n"
    )
    project.do("db", "upgrade", models=with_entries)
    assert (project.tables(), project.tables(audit)) == ({"people"}, {"entries"})
    project.do("db", "downgrade", models=with_entries)
    assert (project.tables(), project.tables(audit)) == (set(), set())


@anywhere
def test_their_env_leaves_logging_as_it_is(project: Project) -> None:
    """It calls ``fileConfig()``, which switches off every logger there is."""
    by_flask_migrate(project)
    logger = logging.getLogger("tests.migrations.somebody")
    handlers = logging.root.handlers[:]
    level = logging.root.level
    project.do("db", "upgrade")
    assert not logger.disabled
    assert (logging.root.handlers, logging.root.level) == (handlers, level)


def _commands_of(group: click.Group) -> dict[str, click.Command]:
    context = click.Context(group)
    names = group.list_commands(context)
    return {name: group.get_command(context, name) for name in names}  # type: ignore[misc]


@pytest.mark.parametrize("name", sorted(_commands_of(their_cli.db)))
def test_command_has_the_options_of_theirs(name: str) -> None:
    """All of them, with the same letters, kinds and defaults."""
    theirs, ours = _commands_of(their_cli.db)[name], _commands_of(LazyGroup("db"))[name]
    known = {param.name: param for param in ours.params}
    defaults = theirs.make_context(name, []).params
    assert defaults.items() <= ours.make_context(name, []).params.items()
    for param in theirs.params:
        mine: Any = known[param.name]
        assert set(param.opts) <= set(mine.opts)
        assert (param.nargs, param.multiple) == (mine.nargs, mine.multiple)
        assert getattr(param, "is_flag", False) == getattr(mine, "is_flag", False)


@anywhere
def test_init_writes_what_theirs_writes(project: Project) -> None:
    """But for ``alembic.ini``, whose settings may be in ``pyproject.toml``."""
    by_flask_migrate(project)
    folder = project.folder / "migrations"
    theirs = {path.name for path in folder.iterdir() if path.name != "__pycache__"}
    shutil.rmtree(folder)
    project.do("db", "init")
    assert {path.name for path in folder.iterdir()} == theirs - {"alembic.ini"}


@anywhere
def test_group_of_flask_migrate_stays(project: Project) -> None:
    """And a notice says how ours is reached."""
    app = PlainFlask("theirs")
    app.config["SQLALCHEMY_DATABASE_URI"] = project.url
    flask_migrate.Migrate(app, object())
    with pytest.warns(ConfigNotice, match=r"\(Flask-Migrate's\).*UOW_CLI_GROUP"):
        Database(app)
    assert not isinstance(app.cli.commands["db"], LazyGroup)
    assert isinstance(app.extensions["migrate"], flask_migrate._MigrateConfig)


@anywhere
def test_group_may_have_another_name(project: Project) -> None:
    """``UOW_CLI_GROUP``; messages name it."""
    app = PlainFlask("theirs", root_path=str(project.folder))
    app.config.update(SQLALCHEMY_DATABASE_URI=project.url, UOW_CLI_GROUP="uow")
    flask_migrate.Migrate(app, object())
    Database(app)
    result = app.test_cli_runner().invoke(args=["uow", "upgrade"])
    assert "flask uow init" in result.output


@anywhere
def test_status_of_their_folder_when_one_database_is_unreachable(project: Project) -> None:
    """Their ``env.py`` connects to all; the others are asked without it."""
    by_flask_migrate(project)
    project.do("db", "upgrade")
    project.binds = {"audit": "postgresql://somebody:secret@127.0.0.1:9/nothing"}
    result = project.flask("db", "status")
    assert result.exit_code == 2
    assert f"up to date, at {project.revision()}" in result.output
    assert "unreachable" in result.output


@anywhere
def test_functions_of_alembic_work_with_our_env(started: Project) -> None:
    """For tools that call them, inside an app context; elsewhere a sentence says so."""
    from alembic import command
    from alembic.config import Config

    from flask_uow.errors import MigrationError

    started.do("db", "migrate")
    config = Config()
    config.set_main_option("script_location", "migrations")
    with pytest.raises(MigrationError, match="flask db"):
        command.upgrade(config, "head")
    app = started.app()
    with app.app_context():
        command.upgrade(config, "head")
        app.extensions["uow"].engines["default"].dispose()
    assert started.tables() == {"people"}


@on("postgresql")
def test_failing_revision_of_their_folder_leaves_the_last_good_one(project: Project) -> None:
    """Theirs would undo all of them, which may be days of work."""
    by_flask_migrate(project)
    (first,) = project.versions
    project.write_revision("bad", first.name.partition("_")[0], "1 / 0")
    assert project.flask("db", "upgrade").exit_code == 1
    assert project.tables() == {"people"}


@anywhere
def test_their_folder_is_ours_while_they_are_registered_too(project: Project) -> None:
    """With their arguments; afterwards their place is theirs again."""
    by_flask_migrate(project)
    app = PlainFlask("both", root_path=str(project.folder), instance_path=str(project.folder))
    app.config.update(SQLALCHEMY_DATABASE_URI=project.url, UOW_CLI_GROUP="uow")
    metadata = MetaData()
    people(metadata)
    db = Database(metadata=metadata)
    flask_migrate.Migrate(app, db, version_table="noted")
    theirs = app.extensions["migrate"]
    db.init_app(app)
    for command in ("upgrade", "check"):
        result = app.test_cli_runner().invoke(args=["uow", command])
        assert result.exit_code == 0, result.output
    assert app.extensions["migrate"] is theirs
    assert project.tables() == {"people", "noted"}
    with app.app_context():
        db.engine.dispose()


# What a folder of version 2 does with two databases, in short.
_OLD_ENV = """
from alembic import context
from flask import current_app
from sqlalchemy import MetaData

db = current_app.extensions["migrate"].db
engines = {"": db.engine}
for name in current_app.config["SQLALCHEMY_BINDS"]:
    assert db.get_engine(current_app, name) is db.get_engine(app=current_app, bind=name)
    engines[name] = db.get_engine(current_app, name)
for name, engine in engines.items():
    metadata = MetaData()
    for table in db.metadata.tables.values():
        if (table.info.get("bind_key") or "") == name:
            table.to_metadata(metadata)
    with engine.connect() as connection:
        context.configure(
            connection=connection,
            upgrade_token=f"{name}_upgrades",
            downgrade_token=f"{name}_downgrades",
            target_metadata=metadata,
            **current_app.extensions["migrate"].configure_args,
        )
        with context.begin_transaction():
            context.run_migrations(engine_name=name)
"""


@anywhere
def test_folder_of_version_2_for_several_databases(project: Project, tmp_path: Path) -> None:
    """It asks for ``get_engine(current_app, bind)``."""
    audit = f"sqlite:///{tmp_path / 'audit.db'}"
    project.binds = {"audit": audit}
    by_flask_migrate(project, "--multidb")
    (project.folder / "migrations" / "env.py").write_text(_OLD_ENV)
    project.do("db", "upgrade", models=with_entries)
    assert (project.tables(), project.tables(audit)) == ({"people"}, {"entries"})
    assert "up to date" in project.do("db", "status", models=with_entries)


@anywhere
@pytest.mark.parametrize("command", sorted(_commands_of(their_cli.db)))
def test_commands_of_flask_migrate_say_whose_the_migrations_are(
    started: Project, command: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Up to version 3 they are an entry point, which Flask prefers to the group of the app."""
    app = started.app()
    arguments = {"merge": ["a", "b"]}.get(command, [])
    result = app.test_cli_runner().invoke(their_cli.db, [command, *arguments])
    if command == "list-templates":
        return  # it asks no database
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "the migrations of this app are flask_uow's" in caplog.text
    assert "UOW_CLI_GROUP" in caplog.text
    caplog.clear()
    with app.app_context(), pytest.raises(SystemExit):
        flask_migrate.upgrade()
    assert "Migrations().upgrade()" in caplog.text


@concurrently
def test_their_own_commands_run_beside_ours(project: Project, tmp_path: Path) -> None:
    """``Migrate(app, db, command="fm")``: each command, for one database and for several."""
    audit = f"sqlite:///{tmp_path / 'audit.db'}"
    for options, binds, folder in (([], {}, "one"), (["--multidb"], {"audit": audit}, "several")):
        project.binds = binds

        def fm(*args: str, models: Any = with_entries if binds else people) -> str:
            app = project.app(models)
            flask_migrate.Migrate(app, app.extensions["uow_migrations"], folder, command="fm")  # noqa: B023
            result = project.flask("fm", *args, app=app)
            assert result.exception is None, result.output
            return str(result.output)

        with configured_logging():
            fm("init", *options)
            fm("migrate", "-m", "first")
            fm("upgrade")
            assert "people" in project.tables()
            assert not binds or project.tables(audit) == {"entries"}
            fm("check")
            fm("stamp", "head")
            fm("current", "--verbose")
            fm("history")
            fm("heads")
            fm("migrate", "-m", "second", models=with_more if binds else with_age)
            fm("upgrade", models=with_more if binds else with_age)
            fm("downgrade", "base")
            assert "people" not in project.tables()


@contextlib.contextmanager
def configured_logging() -> Iterator[None]:
    """Restore the handlers and levels that their ``env.py`` sets."""
    loggers = [logging.getLogger(name) for name in ("", "alembic", "sqlalchemy.engine")]
    loggers.append(logging.getLogger("flask_migrate"))
    kept = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    disabled = [
        logger
        for logger in logging.root.manager.loggerDict.values()
        if isinstance(logger, logging.Logger) and not logger.disabled
    ]
    try:
        yield
    finally:
        for logger, level, handlers in kept:
            logger.setLevel(level)
            logger.handlers[:] = handlers
        for logger in disabled:
            logger.disabled = False
