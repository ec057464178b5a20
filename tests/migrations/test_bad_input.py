"""What goes wrong ends in one sentence, with the next command to type, and no traceback."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from click.testing import Result

from flask_uow import Database, Flask
from flask_uow.errors import DatabaseUnreachable, MigrationError, OutsideContext
from flask_uow.migrations import Migrations
from tests.migrations.projects import Project, nothing, people
from tests.support.databases import anywhere

pytestmark = anywhere


def refused(result: Result, *parts: str, code: int = 1) -> None:
    """It is an error of ours: said once, with all of *parts* in it."""
    assert result.exit_code == code, result.output
    assert len(re.findall("^Error: ", result.output, re.MULTILINE)) == 1, result.output
    assert "Traceback" not in result.output
    for part in parts:
        assert part in result.output


@pytest.mark.parametrize(
    "command",
    "branches check current downgrade edit heads history merge migrate revision show stamp status"
    " upgrade".split(),
)
def test_no_folder(project: Project, command: str) -> None:
    refused(project.flask("db", command), "There is no folder", "flask db init")


def test_folder_exists(started: Project) -> None:
    refused(started.flask("db", "init"), "exists already", "flask db migrate")


def test_folder_of_something_else(project: Project) -> None:
    Path("migrations").mkdir()
    refused(project.flask("db", "upgrade"), "has no 'env.py'", "flask db init -d")


@pytest.mark.parametrize("command", ["upgrade", "downgrade", "stamp", "show", "edit"])
def test_unknown_revision(started: Project, command: str) -> None:
    started.migrate(people)
    refused(started.flask("db", command, "nosuch"), "no revision 'nosuch'", "flask db history")


def test_relative_revision_that_leads_nowhere(started: Project) -> None:
    started.migrate(people)
    refused(started.flask("db", "upgrade", "+5"))
    refused(started.flask("db", "downgrade", "--", "-5"))


def test_nothing_to_downgrade(started: Project) -> None:
    refused(started.flask("db", "downgrade"), "nothing to downgrade", "flask db status")


@pytest.mark.parametrize("command", ["upgrade", "downgrade", "current", "migrate", "check"])
def test_database_at_a_revision_that_the_folder_does_not_know(
    started: Project, command: str
) -> None:
    started.migrate(people)
    started.query("UPDATE alembic_version SET version_num = 'lost'")
    parts = ("'lost'", "stamp --purge")
    refused(started.flask("db", command), *parts)
    status = started.flask("db", "status")
    assert status.exit_code == 1
    assert "unknown revision" in status.output
    assert started.flask("db", "stamp", "--purge", "head").exit_code == 0
    assert started.flask("db", "status").exit_code == 0


@pytest.mark.parametrize("command", ["upgrade", "current", "migrate", "stamp", "check", "status"])
def test_database_unreachable(started: Project, command: str) -> None:
    started.url = "postgresql://somebody:secret@127.0.0.1:9/nothing"
    result = started.flask("db", command)
    assert result.exit_code == 2
    assert "secret" not in result.output
    assert "Traceback" not in result.output
    assert re.search("cannot be reached|unreachable", result.output)


def test_status_of_an_unreachable_database_and_a_reachable_one(started: Project) -> None:
    """Each is reported; the exit code is 2."""
    started.binds = {"audit": "postgresql://somebody:secret@127.0.0.1:9/nothing"}
    result = started.flask("db", "status")
    assert result.exit_code == 2
    assert "up to date" in result.output
    assert "unreachable" in result.output
    assert "secret" not in result.output


def test_wait_ends_at_its_timeout(started: Project) -> None:
    start = time.monotonic()
    started.url = "postgresql://somebody:secret@127.0.0.1:9/nothing"
    assert started.flask("db", "wait", "--timeout", "0.3").exit_code == 2
    assert time.monotonic() - start < 30  # without the option: 60


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_that_cannot_be_written(started: Project) -> None:
    versions = Path("migrations/versions")
    versions.chmod(0o500)
    try:
        refused(started.flask("db", "migrate"), "Nothing can be written", "-d FOLDER")
    finally:
        versions.chmod(0o700)


def test_file_that_cannot_be_written(started: Project) -> None:
    Path("migrations/versions/abc_.py").mkdir()
    result = started.flask("db", "migrate", "--rev-id", "abc")
    refused(result, "Nothing can be written", "-d FOLDER")


def test_place_where_no_folder_can_be(project: Project) -> None:
    Path("file").write_text("")
    refused(
        project.flask("db", "init", "-d", "file/migrations"), "Nothing can be written", "-d FOLDER"
    )


def test_env_of_another_tool(started: Project) -> None:
    """Alembic's own wants a URL in ``alembic.ini``."""
    Path("migrations/env.py").write_text(
        "from alembic import context\n"
        "from sqlalchemy import engine_from_config\n"
        "engine_from_config(context.config.get_section('alembic'), prefix='sqlalchemy.')\n"
    )
    refused(
        started.flask("db", "upgrade"), "has not written", "from flask_uow.migrations import run"
    )


def test_env_that_does_nothing(started: Project) -> None:
    Path("migrations/env.py").write_text("")
    refused(started.flask("db", "upgrade"), "has asked no database")


def test_revision_that_cannot_be_loaded(started: Project) -> None:
    Path("migrations/versions/bad.py").write_text("def upgrade(:\n")
    refused(started.flask("db", "upgrade"), "versions/bad.py", "SyntaxError")


def test_no_models(started: Project) -> None:
    refused(started.flask("db", "migrate", models=nothing), "no tables", "import")
    refused(started.flask("db", "check", models=nothing), "no tables", "import")


def test_unknown_template(project: Project) -> None:
    refused(project.flask("db", "init", "-t", "nosuch"), "list-templates")


def test_range_that_is_none(started: Project) -> None:
    refused(started.flask("db", "history", "-r", "abc"), "[start]:[end]")


def test_timeout_that_is_none(started: Project) -> None:
    result = started.flask("db", "upgrade", "--lock-timeout", "soon")
    assert result.exit_code == 2
    assert "Usage:" in result.output


def test_statement_timeout_that_nothing_would_end(started: Project) -> None:
    """A protection that does nothing is refused, not ignored."""
    started.write_revision("one", None, "pass")
    result = started.flask("db", "upgrade", "--statement-timeout", "5")
    refused(result, "'--statement-timeout' needs a server", "sqlite does not", "Leave it out")
    assert started.revision() is None


def test_engine_that_is_not_configured(started: Project) -> None:
    app = started.app(UOW_MIGRATIONS={"engines": ["nosuch"]})
    refused(started.flask("db", "upgrade", app=app), "'nosuch'", "SQLALCHEMY_BINDS['nosuch']")


def test_two_engines_that_are_one_database(started: Project) -> None:
    started.binds = {"again": started.url}
    refused(started.flask("db", "migrate"), "one database", "UOW_MIGRATIONS")


def test_no_database_configured(started: Project) -> None:
    app = started.app()
    del app.config["SQLALCHEMY_DATABASE_URI"]
    result = app.test_cli_runner().invoke(args=["db", "upgrade"])
    refused(result, "SQLALCHEMY_DATABASE_URI")


def test_functions_raise_and_neither_print_nor_exit(
    started: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """They return data."""
    with pytest.raises(OutsideContext):
        Migrations()
    app = started.app()
    with app.app_context():
        migrations = Migrations()
        generated = migrations.migrate("people")
        assert generated.script is not None
        assert generated.tables == {"default": 1}
        (step,) = migrations.upgrade()
        assert (step.engine, step.message, step.direction) == ("default", "people", "upgrade")
        assert step.seconds is not None
        assert migrations.upgrade() == []
        (status,) = migrations.status()
        assert status.state == "up to date"
        with pytest.raises(MigrationError, match="nosuch"):
            migrations.upgrade("nosuch")
        app.extensions["uow"].engines["default"].dispose()
    other = started.app(SQLALCHEMY_DATABASE_URI="postgresql://somebody@127.0.0.1:9/nothing")
    with other.app_context(), pytest.raises(DatabaseUnreachable):
        Migrations().upgrade()
    with Flask("bare").app_context(), pytest.raises(MigrationError, match="init_app"):
        Migrations()
    captured = capsys.readouterr()
    assert captured.out == ""


def test_two_apps_with_one_folder_do_not_disturb_each_other(
    started: Project, tmp_path: Path
) -> None:
    """Of one app twice, each migrates its own database; an app of another name is refused."""
    started.migrate(people)
    first = started.app()
    second = started.app(SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path / 'second.db'}")
    assert started.flask("db", "upgrade", app=second).exit_code == 0
    assert started.flask("db", "downgrade", app=first).exit_code == 0
    assert started.tables(f"sqlite:///{tmp_path / 'second.db'}") == {"people"}
    assert started.tables() == set()
    other = Flask("blog", root_path=str(started.folder))
    other.config["SQLALCHEMY_DATABASE_URI"] = started.url
    other.register_extension(Database())
    refused(
        started.flask("db", "upgrade", app=other),
        "belongs to the app 'project', and this is 'blog'",
        "flask db -d migrations_blog init",
    )
    assert started.tables() == set()


def test_revision_that_fails_ends_its_line(started: Project) -> None:
    """What it says stands on a line of its own."""
    started.write_revision("bad", None, "1 / 0")
    output = started.flask("db", "upgrade").output
    assert output.startswith("upgrade bad bad ...\nError: ")


def test_lock_that_cannot_be_made(started: Project) -> None:
    started.write_revision("one", None, "pass")
    Path(f"{started.url.removeprefix('sqlite:///')}-migrate").mkdir()
    refused(started.flask("db", "upgrade"), "-migrate", "must be allowed to write")


def test_long_revision_is_no_leak(started: Project, caplog: pytest.LogCaptureFixture) -> None:
    """A connection that is held for long is reported, as everywhere; nothing else happens."""
    started.write_revision("slow", None, "time.sleep(0.5)")
    app = started.app(UOW_HOLD_WARNING=0.1)
    assert started.flask("db", "upgrade", app=app).exit_code == 0


def test_tables_that_create_all_has_made(started: Project) -> None:
    """There is nothing to write, or what is written cannot run: both say what to do."""
    app = started.app()
    with app.app_context():
        app.extensions["uow_migrations"].create_all()
    output = started.do("db", "migrate")
    assert "No file was written" in output
    assert "'db.create_all()' has created the tables. Remove the call from the app" in output
    started.write_revision("one", None, 'op.create_table("people", sa.Column("id", sa.Integer))')
    refused(started.flask("db", "upgrade"), "already exists", "'flask db stamp one'")
