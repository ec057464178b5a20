"""Where settings of migrations may be, and what an app is told at its first request."""

from __future__ import annotations

import logging
import logging.config
import threading
from pathlib import Path
from typing import Any

import alembic
import pytest
from alembic.script import ScriptDirectory
from packaging.version import Version
from sqlalchemy import Column, Integer, MetaData, inspect

from flask_uow import ConfigError, Flask
from flask_uow.errors import MigrationsPending
from flask_uow.migrations import Migrations
from tests.migrations.projects import Project, people
from tests.support.databases import anywhere, concurrently, on

# The first request ---------------------------------------------------------------------------


def served(project: Project, mode: object, *, debug: bool = True) -> Flask:
    app = project.app(UOW_CHECK_MIGRATIONS=mode, DEBUG=debug, PROPAGATE_EXCEPTIONS=False)
    app.add_url_rule("/", "index", lambda: "ok")
    return app


def dispose(app: Flask) -> None:
    for engine in app.extensions["uow"].engines.values():
        engine.dispose()


@anywhere
def test_pending_revisions_are_logged_once(
    started: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """With their names and the command to run; the request is served."""
    started.do("db", "migrate", "-m", "people")
    app = served(started, "warn")
    for _ in range(2):
        assert app.test_client().get("/").status_code == 200
    (record,) = [one for one in caplog.records if one.name.startswith("flask_uow")]
    assert "(people)" in record.getMessage()
    assert "flask db upgrade" in record.getMessage()
    dispose(app)


@anywhere
def test_pending_revisions_are_an_error_until_they_are_run(started: Project) -> None:
    started.do("db", "migrate", "-m", "people")
    app = served(started, "error")
    app.config["PROPAGATE_EXCEPTIONS"] = True
    for _ in range(2):
        with pytest.raises(MigrationsPending, match=r"\(people\).*flask db upgrade"):
            app.test_client().get("/")
    started.do("db", "upgrade")
    assert app.test_client().get("/").status_code == 200
    dispose(app)


@anywhere
@pytest.mark.parametrize(("mode", "debug"), [(False, True), ("error", False)])
def test_nothing_is_asked_if_nobody_wants_to_know(
    started: Project, mode: object, debug: bool
) -> None:
    """Switched off, or not in debug mode."""
    started.do("db", "migrate", "-m", "people")
    app = served(started, mode, debug=debug)
    assert app.test_client().get("/").status_code == 200
    assert app.extensions["uow"]._engines is None


@anywhere
def test_app_without_a_folder_is_not_bothered(project: Project) -> None:
    app = served(project, "error")
    assert app.test_client().get("/").status_code == 200
    assert app.extensions["uow"]._engines is None


@anywhere
def test_unreachable_database_does_not_stop_requests(
    started: Project, caplog: pytest.LogCaptureFixture
) -> None:
    started.url = "postgresql://somebody:secret@127.0.0.1:9/nothing"
    app = served(started, "error")
    assert app.test_client().get("/").status_code == 200
    assert "secret" not in caplog.text


# Settings ------------------------------------------------------------------------------------


@anywhere
@pytest.mark.parametrize(
    ("key", "value"),
    [("UOW_CHECK_MIGRATIONS", "yes"), ("UOW_CLI_GROUP", 5), ("UOW_MIGRATIONS", 5)],
)
def test_setting_that_is_none_is_refused_in_words(
    project: Project, key: str, value: object
) -> None:
    config: dict[str, Any] = {key: value}
    with pytest.raises(ConfigError, match=key):
        project.app(**config)


@anywhere
def test_group_may_be_left_out(project: Project) -> None:
    app = project.app(UOW_CLI_GROUP=None)
    assert "db" not in app.cli.commands


@anywhere
def test_folder_may_have_another_name(project: Project) -> None:
    """In ``UOW_MIGRATIONS``, in ``-d`` of the group, and in ``-d`` of the command."""
    app = project.app(UOW_MIGRATIONS="elsewhere")
    assert project.flask("db", "init", app=app).exit_code == 0
    assert Path("elsewhere/env.py").exists()
    project.do("db", "-d", "there", "init")
    project.do("db", "init", "-d", "here", "--package")
    assert Path("here/versions/__init__.py").exists()
    project.do("db", "migrate", "-d", "here")
    assert list(Path("here/versions").glob("*.py"))
    assert project.do("db", "-d", "here", "heads")


@anywhere
def test_folder_is_found_from_elsewhere(
    started: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the app, for servers that start in another folder."""
    monkeypatch.chdir(tmp_path)
    assert "up to date" in started.do("db", "status")


@anywhere
def test_alembic_reads_pyproject(started: Project) -> None:
    """``[tool.alembic]``; no other file is needed."""
    Path("pyproject.toml").write_text("[tool.alembic]\nfile_template = 'r_%%(rev)s'\n")
    if Version(alembic.__version__) < Version("1.16"):
        assert "from version 1.16 on" in started.flask("db", "revision").output
        return
    started.do("db", "revision", "--rev-id", "abc")
    assert [path.name for path in started.versions] == ["r_abc.py"]


@anywhere
def test_env_gets_the_arguments_of_the_command_line(started: Project) -> None:
    """``-x`` of the group or of the command, and ``--tag``."""
    env = Path("migrations/env.py")
    env.write_text(
        "from alembic import context\n"
        "print(context.get_x_argument(), context.get_tag_argument())\n" + env.read_text()
    )
    started.write_revision("one", None, "pass")
    assert "['a=1'] mark" in started.do("db", "upgrade", "-x", "a=1", "--tag", "mark")
    assert "['b=2'] None" in started.do("db", "-x", "b=2", "downgrade")


@anywhere
def test_template_may_be_a_folder_of_ones_own(project: Project) -> None:
    own = Path("own")
    own.mkdir()
    for name in ("env.py", "script.py.mako", "README"):
        (own / name).write_text(name)
    (own / "alembic.ini.mako").write_text("[alembic]\nscript_location = ${script_location}\n")
    project.do("db", "init", "-t", "./own")
    assert Path("migrations/env.py").read_text() == "env.py"
    assert str(Path("migrations").absolute()) in Path("migrations/alembic.ini").read_text()


@anywhere
def test_logging_of_an_app_works_after_an_upgrade_in_its_process(
    started: Project, caplog: pytest.LogCaptureFixture
) -> None:
    started.write_revision("one", None, "pass")
    app = started.app()
    app.logger.warning("before")
    assert started.flask("db", "upgrade", app=app).exit_code == 0
    app.logger.warning("after")
    assert [one.getMessage() for one in caplog.records if one.name == "project"] == [
        "before",
        "after",
    ]
    assert not logging.getLogger("project").disabled


@anywhere
def test_alembic_is_quiet_unless_the_app_says_otherwise(
    started: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lines would be in the middle of ours; in Flask-Migrate's ``env.py``, too."""
    ini = (
        "[loggers]\nkeys = root,alembic\n[handlers]\nkeys = console\n[formatters]\nkeys =\n"
        "[logger_root]\nlevel = WARNING\nhandlers = console\n"
        "[logger_alembic]\nlevel = INFO\nhandlers =\nqualname = alembic\n"
        "[handler_console]\nclass = StreamHandler\nargs = (sys.stderr,)\n"
    )
    Path("logging.ini").write_text(ini)
    env = Path("migrations/env.py")
    env.write_text(
        "import logging.config\nlogging.config.fileConfig('logging.ini')\n" + env.read_text()
    )
    found: list[str] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: found.append(record.getMessage()))
    monkeypatch.setattr(logging.root, "level", logging.INFO)
    alembic = logging.getLogger("alembic")
    logging.root.addHandler(handler)
    try:
        started.write_revision("one", None, "pass")
        output = started.do("db", "upgrade") + started.do("db", "status")
        assert "[alembic" not in output
        assert "Running upgrade" not in output
        assert not any("Running upgrade" in one for one in found)
        assert handler in logging.root.handlers
        assert alembic.level == logging.NOTSET
        alembic.setLevel(logging.INFO)
        env.write_text(env.read_text().split("\n", 2)[2])  # handlers of its own would get them
        started.flask("db", "downgrade", app=started.app())
        assert any("Running downgrade" in one for one in found)
        assert alembic.level == logging.INFO
    finally:
        alembic.setLevel(logging.NOTSET)
        logging.root.removeHandler(handler)


@anywhere
def test_functions_that_configure_logging_are_not_replaced(started: Project) -> None:
    """Other threads may configure theirs; what ``env.py`` has changed is put back at its end."""
    env = Path("migrations/env.py")
    env.write_text(
        "import logging.config, pathlib\n"
        "logging.config.dictConfig({'version': 1, 'root': {'level': 'ERROR'}})\n"
        "seen = logging.getLogger('shop.orders').disabled, logging.config.dictConfig.__module__\n"
        "pathlib.Path('seen').write_text(str(seen))\n" + env.read_text()
    )
    orders = logging.getLogger("shop.orders")
    orders.setLevel(logging.DEBUG)
    level = logging.root.level
    assert started.flask("db", "status", app=started.app()).exit_code == 0
    assert Path("seen").read_text() == str((True, "logging.config"))
    assert (orders.disabled, orders.level, logging.root.level) == (False, logging.DEBUG, level)


@anywhere
def test_one_thread_at_a_time_runs_env_py(started: Project) -> None:
    """What it works with, ``alembic.context``, belongs to the whole process."""
    env = Path("migrations/env.py")
    env.write_text(
        "import time\nlog = open('threads', 'a', buffering=1)\nlog.write('(')\n"
        + env.read_text()
        + "time.sleep(0.2)\nlog.write(')')\nlog.close()\n"
    )
    app, errors = started.app(), []

    def ask() -> None:
        try:
            with app.app_context():
                Migrations().current()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    dispose(app)
    assert errors == []
    assert Path("threads").read_text() in {"()" * 3, "()" * 6}


@anywhere
def test_env_py_that_only_calls_run_is_run_once_for_each_upgrade(
    started: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says is read before; any other file is asked where the databases are, too."""
    runs: list[str] = []
    run_env = ScriptDirectory.run_env

    def counted(self: ScriptDirectory) -> None:
        runs.append("")
        run_env(self)

    monkeypatch.setattr(ScriptDirectory, "run_env", counted)
    app = started.app()
    started.write_revision("one", None, "pass")
    started.write_revision("two", "one", "pass")
    with app.app_context():
        assert len(Migrations().upgrade("one")) == 1
        assert len(runs) == 1
        assert Migrations().status()[0].state == "pending"
        assert len(runs) == 1
        env = Path("migrations/env.py")
        env.write_text(f"import logging\n{env.read_text()}")
        assert len(Migrations().upgrade()) == 1
        assert len(runs) == 4
    dispose(app)


@anywhere
@pytest.mark.parametrize("where", ["'notes'", "'not' + 'es'", "**{'version_table': 'notes'}"])
def test_table_for_the_note_may_be_named_in_env_py(started: Project, where: str) -> None:
    """However it is written there, each command asks that table."""
    argument = where if where.startswith("*") else f"version_table={where}"
    Path("migrations/env.py").write_text(
        f"from flask_uow.migrations import run\n\nrun({argument})\n"
    )
    started.write_revision("one", None, "pass")
    started.do("db", "upgrade")
    assert started.query("SELECT version_num FROM notes") == [("one",)]
    assert "up to date, at one" in started.do("db", "status")
    assert started.tables() == {"notes"}
    started.do("db", "downgrade")
    assert started.query("SELECT version_num FROM notes") == []


@anywhere
def test_edit_opens_the_file(started: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    started.write_revision("one", None, "pass")
    monkeypatch.setenv("VISUAL", "touch edited")
    started.do("db", "edit")
    assert Path("edited").exists()


@on("sqlite-memory")
def test_database_in_memory_is_migrated_without_a_lock(started: Project) -> None:
    """In the process that uses it, as a test does."""
    started.write_revision("one", None, "op.create_table('one', sa.Column('id', sa.Integer))")
    app = started.app()
    result = app.test_cli_runner().invoke(args=["db", "upgrade"])
    assert result.exit_code == 0, result.output
    (engine,) = app.extensions["uow"].engines.values()
    assert set(inspect(engine).get_table_names()) == {"alembic_version", "one"}


# Timeouts ------------------------------------------------------------------------------------


def with_age(metadata: MetaData) -> None:
    people(metadata, Column("age", Integer))


@on("postgresql", "mariadb")
def test_lock_timeout_ends_the_wait_for_a_table(started: Project) -> None:
    """An ``ALTER TABLE`` that waits lets everybody else wait behind it."""
    from sqlalchemy import NullPool, create_engine

    started.migrate(people)
    started.do("db", "migrate", "-m", "age", models=with_age)
    engine = create_engine(started.url, poolclass=NullPool)
    with engine.connect() as reader:
        reader.exec_driver_sql("SELECT * FROM people")
        result = started.flask("db", "upgrade", "--lock-timeout", "1", models=with_age)
    assert result.exit_code == 1
    assert "imeout" in result.output
    started.do("db", "upgrade", models=with_age)


# Waiting -------------------------------------------------------------------------------------


@concurrently
def test_wait_ends_when_somebody_has_upgraded(started: Project) -> None:
    """For containers that do not migrate themselves."""
    started.write_revision("one", None, "pass")
    assert started.do("db", "wait", "--timeout", "0") == "default: reachable\n"
    waiting = started.flask("db", "wait", "--upgraded", "--timeout", "0.2")
    assert waiting.exit_code == 1
    assert "pending: one" in waiting.output
    started.do("db", "upgrade")
    started.do("db", "wait", "--upgraded", "--timeout", "0.2")
