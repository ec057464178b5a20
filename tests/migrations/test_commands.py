"""What the commands say, and what they refuse before they begin; many checks in each project."""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from flask import Flask as PlainFlask
from sqlalchemy import Column, Integer, MetaData, Table

from flask_uow import ConfigError, Database, Flask
from flask_uow import migrations as package
from flask_uow.errors import ConfigNotice, MigrationError
from flask_uow.migrations import Migrations
from flask_uow.migrations._env.metadata import part_name
from tests.migrations.projects import Project, people
from tests.migrations.test_bad_input import refused
from tests.support.databases import anywhere, on

VERSIONS = Path("migrations/versions")


def said(project: Project, *args: str, code: int = 0, **more: Any) -> str:
    result = project.flask("db", *args, **more)
    assert result.exit_code == code, result.output
    return str(result.output)


def without(name: str) -> None:
    (VERSIONS / f"{name}.py").unlink()


# Folders -------------------------------------------------------------------------------------


@anywhere
@pytest.mark.filterwarnings("error")
def test_damaged_folders_name_the_file(started: Project) -> None:
    """And not ``env.py``, which has nothing to do with it; Alembic's warnings are no output."""

    def damaged(*parts: str) -> None:
        for command in ("status", "upgrade"):
            result = started.flask("db", command)
            refused(result, *parts)
            assert "env.py" not in result.output

    started.write_revision("a", None, "pass")
    started.write_revision("b", "gone", "pass")
    damaged("gone -> b (head), b is not present", "deleted or not committed")
    without("b")
    text = (VERSIONS / "a.py").read_text()
    (VERSIONS / "a2.py").write_text(text)
    damaged("Revision a is present more than once")
    without("a2")
    (VERSIONS / "c.py").write_text(text.replace("'a'", "'c'") + "depends_on = 'lost'\n")
    damaged("the revision 'lost' is not present")
    (VERSIONS / "c.py").write_text(text.replace("'a'", "'c'") + "branch_labels = 'a'\n")
    damaged("Branch name 'a' in revision c already used by revision a")
    (VERSIONS / "c.py").write_text("revision = 'c'\ndef upgrade(): pass\n")
    damaged("versions/c.py", "no attribute 'down_revision'")
    (VERSIONS / "c.py").write_text("import nothing_of_that_name\n")
    damaged("versions/c.py", "ModuleNotFoundError")
    (VERSIONS / "c.py").write_text(text.replace("'a'", "'c'").replace("None", "'d'"))
    (VERSIONS / "d.py").write_text(text.replace("'a'", "'d'").replace("None", "'c'"))
    damaged("Cycle is detected in revisions (c, d)")
    without("d")
    (VERSIONS / "c.py").write_text(text.replace("'a'", "'c'").replace("None", "'c'"))
    damaged("oop is detected in revision")
    (VERSIONS / "c.py").write_text(text.replace("'a'", "'c'").replace("None", "'a'"))
    (VERSIONS / "c.py").write_text((VERSIONS / "c.py").read_text().partition("def downgrade")[0])
    said(started, "upgrade")
    refused(started.flask("db", "downgrade"), "no attribute 'downgrade'")


@anywhere
@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("pyproject.toml", b"[tool.alembic\nbad", ["pyproject.toml", "cannot be read"]),
        ("pyproject.toml", b"[tool.alembic]\nx = '\xff'\n", ["pyproject.toml", "cannot be read"]),
        ("pyproject.toml", b"[tool.alembic]\nfile_template = '%(rev)s'\n", ["'%%'"]),
        ("migrations/alembic.ini", b"nonsense\n", ["alembic.ini", "cannot be read"]),
        ("migrations/alembic.ini", b"[alembic]\nx=\xff\n", ["alembic.ini", "cannot be read"]),
        ("migrations/alembic.ini", b"[alembic]\nfile_template=%(rev)s\n", ["'%%'"]),
    ],
)
def test_damaged_settings_name_their_file(
    started: Project, name: str, text: bytes, parts: list[str]
) -> None:
    Path(name).write_bytes(text)
    result = started.flask("db", "status")
    if name == "pyproject.toml" and "from version 1.16 on" in result.output:
        pytest.skip("this Alembic does not read it")
    refused(result, *parts)
    assert "env.py" not in result.output


@anywhere
def test_folder_of_another_app_is_refused(started: Project) -> None:
    """``env.py`` says whose it is; without a name it is everybody's."""
    env = Path("migrations/env.py")
    assert 'run(app="project")' in env.read_text()
    other = Flask("shop.web", root_path=str(started.folder))
    other.config["SQLALCHEMY_DATABASE_URI"] = started.url
    Database(other)
    for command in ("upgrade", "status", "migrate", "history"):
        refused(
            started.flask("db", command, app=other),
            "belongs to the app 'project', and this is 'shop.web'",
            "flask db -d migrations_shop_web init",
            "env.py",
        )
    main = Flask("__main__", root_path=str(started.folder))  # as 'python app.py' has it
    main.config["SQLALCHEMY_DATABASE_URI"] = started.url
    Database(main)
    said(started, "status", app=main)
    said(started, "init", "-d", "any", app=main)
    assert "\nrun()\n" in Path("any/env.py").read_text()
    env.write_text(env.read_text().replace('app="project"', ""))
    said(started, "status", app=other)


@anywhere
def test_place_that_is_taken(started: Project) -> None:
    """No message says that the files of another program are to be removed."""
    Path("photos").mkdir()
    Path("photos/one.jpg").write_text("")
    refused(started.flask("db", "init", "-d", "photos"), "exists already", "init -d FOLDER")
    assert "Remove" not in said(started, "upgrade", "-d", "photos", code=1)
    assert "Continue with 'flask db migrate'" in said(started, "init", code=1)


# Sentences -----------------------------------------------------------------------------------


@anywhere
def test_what_there_is_nothing_to_do(started: Project) -> None:
    """Is said as it is: no revision at all, beyond the one that is named, or up to date."""
    none_yet = "There is no revision yet. Write one: 'flask db migrate -m MESSAGE'."
    assert none_yet in said(started, "upgrade")
    for command in ("merge", "show"):
        refused(started.flask("db", command), "nothing to")
    started.write_revision("a", None, "pass")
    for name in ("current", "base"):
        assert "nothing to show" in said(started, "show", name, code=1)
    assert "nothing to merge" in said(started, "merge", code=1)
    assert said(started, "history", "-r", ":current") == ""
    started.write_revision("b", "a", "pass")
    started.write_revision("c", "b", "pass")
    said(started, "upgrade", "b")
    assert said(started, "upgrade", "a") == "Nothing to do: every database has 'a' already.\n"
    assert "b" in said(started, "history", "-r", ":current")
    said(started, "upgrade")
    assert said(started, "upgrade") == "Nothing to do: the databases are up to date.\n"
    assert "Nothing to do: 'head' is recorded" in said(started, "stamp")
    assert "no database is beyond 'c'" in said(started, "downgrade", "c")
    assert "nothing to merge: 'c'" in said(started, "merge", "c", code=1)
    assert "downgrade c" in said(started, "downgrade", "-1")
    assert "downgrade b" in said(started, "downgrade", "-1", "--tag", "x")
    assert "No such option" in said(started, "downgrade", "--sqll", code=2)


@anywhere
def test_next_commands_can_be_typed(started: Project) -> None:
    """With ``-d``, if that was given."""
    assert "flask db -d other init" in said(started, "upgrade", "-d", "other", code=1)
    assert "Next: flask db -d other migrate" in said(started, "-d", "other", "init")
    assert "Next: flask db -d 'an other' migrate" in said(started, "init", "-d", "an other")
    assert "flask db -d other history" in said(started, "-d", "other", "show", "zz", code=1)
    assert "flask db -d other upgrade" in said(started, "migrate", "-d", "other")
    assert "flask db -d other upgrade" in said(started, "check", "-d", "other", code=1)
    nothing: Any = lambda metadata: None  # noqa: E731
    assert "'flask db check' again" in said(started, "check", code=1, models=nothing)
    assert "'flask db migrate' again" in said(started, "migrate", code=1, models=nothing)


@anywhere
def test_several_heads(started: Project) -> None:
    """What cannot be told is refused; what is said can be done."""
    started.migrate(people)
    (first,) = started.versions
    name = started.revision()
    for one in "xy":
        started.write_revision(one, name, "pass")
    assert "Write 'flask db upgrade heads'." in said(started, "check", code=1)
    said(started, "upgrade", "heads")
    assert "up to date" in said(started, "check")
    refused(started.flask("db", "downgrade"), "2 revisions, x and y", "flask db downgrade x@-1")
    assert said(started, "downgrade", "x@-1").startswith("downgrade x")
    assert "x already" not in said(started, "upgrade", "heads")
    assert "not a head" in said(started, "revision", "--head", str(name), code=1)
    assert "--splice" in said(started, "merge", str(name), "x", code=1)
    assert first.exists()


@anywhere
def test_batch_changes_need_a_connection(started: Project) -> None:
    started.write_revision(
        "one", None, 'with op.batch_alter_table("people") as b:\n    b.drop_column("name")'
    )
    refused(started.flask("db", "upgrade", "--sql"), "requires a live database connection")


# Arguments -----------------------------------------------------------------------------------


@anywhere
def test_new_identifiers(started: Project) -> None:
    """A file is never overwritten, and none is written that breaks the folder."""
    said(started, "revision", "--rev-id", "abc", "-m", "one")
    before = VERSIONS.joinpath("abc_one.py").read_text()
    for command in ("revision", "migrate", "merge"):
        refused(
            started.flask("db", command, "--rev-id", "abc", "-m", "one"), "'abc' cannot be", "taken"
        )
    for name in ("a/b", "../x", "base", "head", "", "a b", "a@b", "x" * 33, "-x"):
        refused(started.flask("db", "revision", f"--rev-id={name}"), "Choose", "identifier")
    for name in ("abc", "heads", ""):
        refused(started.flask("db", "revision", f"--branch-label={name}"), "branch label")
    for head in ("", "a@"):
        refused(started.flask("db", "revision", f"--head={head}"), "names no revision")
    assert [path.read_text() for path in started.versions] == [before]
    said(started, "revision", "--rev-id", "v1.2_x", "--branch-label", "web")
    assert "'web' cannot be" in said(started, "revision", "--rev-id", "web", code=1)


@anywhere
def test_names_of_no_revision(started: Project) -> None:
    started.write_revision("a", None, "pass")
    for command in ("upgrade", "downgrade", "stamp", "show", "edit", "merge"):
        for name in ("", " ", "a@", "@", "@a"):
            refused(started.flask("db", command, name), "names no revision", "flask db history")
    refused(started.flask("db", "stamp", ":"), "--sql")
    refused(started.flask("db", "upgrade", "a:a"), "--sql")
    for name in (":", "a:", ":a", "a:b:c", ""):
        refused(started.flask("db", "upgrade", "--sql", name), "names no revision")
    refused(started.flask("db", "history", "-r", "a@:"), "names no revision")


@anywhere
@pytest.mark.parametrize(
    "message", [r"C:\users", 'say """hi"""', '"', "ends with \\", "${1 + 1}", "% done", r"\N{x}"]
)
def test_messages_are_read_as_they_were_written(started: Project, message: str) -> None:
    said(started, "revision", "-m", message)
    with started.app().app_context():
        (script,) = Migrations().heads()
    assert script.doc == message
    assert "def upgrade() -> None:" in Path(script.path).read_text()


@anywhere
def test_seconds(started: Project) -> None:
    """A number, and one that every server takes."""
    for value in ("nan", "inf", "-1", "1e9"):
        for option in ("--lock-timeout", "--statement-timeout"):
            assert "number of seconds" in said(started, "upgrade", f"{option}={value}", code=1)
        assert "number of seconds" in said(started, "wait", f"--timeout={value}", code=1)
    assert "Usage:" in said(started, "wait", "--timeout=soon", code=2)
    with started.app().app_context():
        migrations = Migrations()
        none: list[Any] = [float("nan"), float("inf"), -1, 1e9, True, "1"]
        for seconds in none:
            with pytest.raises(MigrationError, match="number of seconds"):
                migrations.upgrade(lock_timeout=seconds)
            with pytest.raises(MigrationError, match="number of seconds"):
                migrations.downgrade(statement_timeout=seconds)
            with pytest.raises(MigrationError, match="number of seconds"):
                migrations.stamp(lock_timeout=seconds)
            with pytest.raises(MigrationError, match="number of seconds"):
                migrations.wait(seconds)
            with pytest.raises(MigrationError, match="number of seconds"):
                migrations.wait_for_upgrade(seconds)


@anywhere
def test_settings_with_typing_errors(started: Project) -> None:
    at_once: list[tuple[dict[str, Any], str]] = [
        ({"engines": "default"}, "list of names"),
        ({"engines": []}, "list of names"),
        ({"engines": [5]}, "list of names"),
        ({"engines": ["default", None]}, "only once"),
        ({"directory": None}, "name of a folder"),
        ({"directory": ""}, "name of a folder"),
    ]
    for value, words in at_once:
        with pytest.raises(ConfigError, match=words):
            started.app(UOW_MIGRATIONS=value)
    later: list[tuple[dict[str, Any], str]] = [
        ({"foo": 1}, "neither an option of Alembic's"),
        ({"engine": ["default"]}, "Did you mean 'engines'"),
        ({"include_shemas": True}, "Did you mean 'include_schemas'"),
        ({"version_table_shema": "x"}, "Did you mean 'version_table_schema'"),
    ]
    for value, words in later:
        refused(started.flask("db", "status", app=started.app(UOW_MIGRATIONS=value)), words)


# Several engines -----------------------------------------------------------------------------


@anywhere
def test_two_engines_that_are_one_database_are_refused_by_each_command(started: Project) -> None:
    """Also if the file has two names."""
    started.write_revision("a", None, "pass")
    url = started.url.removeprefix("sqlite:///")
    Path("link.db").symlink_to(url)
    for other in (
        started.url,
        f"{started.url}?timeout=5",
        f"sqlite:///{Path('link.db').absolute()}",
    ):
        started.binds = {"again": other}
        for command in ("upgrade", "downgrade", "stamp", "status", "migrate", "check", "current"):
            refused(started.flask("db", command), "'default' and 'again' are one database")
        refused(started.flask("db", "stamp", "--purge"), "one database")


def test_schemas_of_one_database_are_two() -> None:
    """As far as the URLs say."""
    from sqlalchemy import create_engine

    from flask_uow.migrations.preconditions import _identity

    url = "postgresql+psycopg://host/db"
    one, same, two = (
        create_engine(url + more)
        for more in (
            "?options=-csearch_path%3Da",
            "?connect_timeout=3",
            "?options=-csearch_path%3Db",
        )
    )
    assert len({_identity(engine) for engine in (one, two, create_engine(url))}) == 3
    assert _identity(same) == _identity(create_engine(url))
    translated = create_engine(url, execution_options={"schema_translate_map": {None: "x"}})
    assert _identity(translated) != _identity(same)


@on("mariadb")
def test_url_without_a_database(started: Project) -> None:
    from sqlalchemy import make_url

    url = make_url(started.url).set(database="")
    started.url = url.render_as_string(hide_password=False)
    for command in ("upgrade", "status", "migrate"):
        refused(started.flask("db", command), "names no database")


def both(metadata: MetaData) -> None:
    people(metadata)
    Table("notes", metadata, Column("id", Integer, primary_key=True), info={"bind_key": "a/b"})


@anywhere
def test_sql_of_several_engines_overwrites_nothing_of_others(
    started: Project, tmp_path: Path
) -> None:
    started.binds = {"a/b": f"sqlite:///{tmp_path / 'other.db'}"}
    started.do("db", "migrate", models=both)
    assert "a_b.sql" in said(started, "upgrade", "--sql", models=both)
    text = Path("default.sql").read_text()
    said(started, "upgrade", "--sql", models=both)  # what it has written itself
    assert Path("default.sql").read_text() == text
    Path("default.sql").write_text("SELECT 1;")
    Path("a_b.sql").unlink()
    refused(started.flask("db", "upgrade", "--sql", models=both), "default.sql", "other content")
    assert Path("default.sql").read_text() == "SELECT 1;"
    assert not Path("a_b.sql").exists()
    Path("default.sql").unlink()
    Path("a_b.sql").symlink_to("nowhere/x.sql")
    refused(started.flask("db", "upgrade", "--sql", models=both), "cannot be written")
    assert "ENGINE.sql" in said(started, "upgrade", "--help")


def test_parts_of_names_are_what_python_reads() -> None:
    """Letters that Python takes for others, digits that are none, signs."""
    assert [part_name(name) for name in ("²", "ﬁles", "1st", "a b", "a/b", "é", "x%y")] == [
        "2", "files", "1st", "a_b", "a_b", "é", "x_y"
    ]  # fmt: skip


@anywhere
def test_engines_with_odd_names_get_their_functions(started: Project, tmp_path: Path) -> None:
    def odd(metadata: MetaData) -> None:
        people(metadata)
        for name in ("²", "ﬁles"):
            Table(f"t{name}", metadata, Column("id", Integer), info={"bind_key": name})

    started.binds = {name: f"sqlite:///{tmp_path / name}.db" for name in ("²", "ﬁles")}
    started.migrate(odd)
    for name, url in started.binds.items():
        assert started.tables(url) == {f"t{name}"}
    started.binds = dict.fromkeys(("a b", "a/b"), "sqlite://")
    started.binds["a/b"] = f"sqlite:///{tmp_path / 'more.db'}"
    refused(started.flask("db", "revision"), "would share functions")


# Reaching databases --------------------------------------------------------------------------


@anywhere
@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://somebody:secret@" + "x" * 70 + ".example/db",
        "postgresql+psycopg://somebody:secret@127.0.0.1:9/db?nosuch=1",
        "postgresql+psycopg://somebody:secret@127.0.0.1:9/db?connect_timeout=x",
        "mysql+pymysql://somebody:secret@127.0.0.1:9/db?nosuch=1",
        "mysql+pymysql://somebody:secret@" + "x" * 70 + ".example/db",
    ],
)
def test_what_drivers_refuse_is_said_in_words(started: Project, url: str) -> None:
    started.url = url
    for command in (["status"], ["wait", "--timeout", "0"]):
        output = said(started, *command, code=2)
        assert "unreachable" in output
        assert "Traceback" not in output
        assert "secret" not in output


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that accepts, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.slow
@anywhere
def test_wait_ends_in_time_and_says_what_it_waits_for(started: Project, silent: str) -> None:
    """Also if a server takes the connection and is silent."""
    started.url = f"postgresql+psycopg://somebody@{silent}/db"
    for options in ([], ["--upgraded"]):
        start = time.monotonic()
        assert "no response within" in said(started, "wait", "--timeout", "0.2", *options, code=2)
        assert time.monotonic() - start < 30  # without the option: 60
    started.url = "postgresql+psycopg://somebody@127.0.0.1:9/db"
    app = started.app()
    result = app.test_cli_runner().invoke(args=["db", "wait", "--timeout", "0.5"])
    assert result.stderr.count("Waiting: the database of the engine 'default'") == 1
    assert "Waiting" not in result.stdout


@on("postgresql")
def test_status_asks_a_connection_that_lay_in_the_pool(started: Project) -> None:
    """Where the pool would hand it out unasked."""
    app = started.app(UOW_LIVENESS=False)
    with app.app_context():
        migrations = Migrations()
        assert migrations.wait(0) == {"default": None}
        engine = migrations.engines["default"]
        with engine.connect() as connection:
            pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        started.query(f"SELECT pg_terminate_backend({pid})")
        time.sleep(0.1)
        (status,) = migrations.status()
        assert status.error is not None
        engine.dispose()


@anywhere
def test_status_in_json_is_json(started: Project) -> None:
    """Whatever ``env.py`` prints, and whatever is refused."""
    env = Path("migrations/env.py")
    env.write_text(f"print('hello')\n{env.read_text()}")
    app = started.app()
    result = app.test_cli_runner().invoke(args=["db", "status", "--json"])
    assert json.loads(result.stdout)["engines"][0]["state"] == "up to date"
    assert "hello" in result.stderr
    env.unlink()
    result = app.test_cli_runner().invoke(args=["db", "status", "--json"])
    assert result.exit_code == 1
    assert "no 'env.py'" in json.loads(result.stdout)["error"]
    assert "a revision that the folder" in " ".join(said(started, "status", "--help").split())
    app.extensions["uow"].engines["default"].dispose()


@anywhere
@pytest.mark.parametrize("line", ["1 / 0", "import sys; sys.exit(3)"])
def test_look_at_the_first_request_is_no_danger_to_it(
    started: Project, caplog: pytest.LogCaptureFixture, line: str
) -> None:
    env = Path("migrations/env.py")
    env.write_text(f"{line}\n{env.read_text()}")
    app = started.app(DEBUG=True)
    app.add_url_rule("/", "index", lambda: "ok")
    assert app.test_client().get("/").status_code == 200
    (record,) = [one for one in caplog.records if one.name.startswith("flask_uow")]
    assert "could not be checked" in record.getMessage()


@anywhere
def test_unforeseen_error_of_the_look_is_logged(
    started: Project, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Migrations) -> list[Any]:
        raise SystemExit

    monkeypatch.setattr(Migrations, "status", broken)
    app = started.app(DEBUG=True)
    app.add_url_rule("/", "index", lambda: "ok")
    assert app.test_client().get("/").status_code == 200
    assert "could not be checked: SystemExit" in caplog.text


@anywhere
def test_six_first_requests_log_once(
    started: Project, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    started.write_revision("a", None, "pass")
    status = Migrations.status

    def slow(self: Migrations) -> list[Any]:
        time.sleep(0.2)
        return status(self)

    monkeypatch.setattr(Migrations, "status", slow)
    app = started.app(DEBUG=True)
    app.add_url_rule("/", "index", lambda: "ok")
    threads = [threading.Thread(target=app.test_client().get, args=("/",)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert sum("Revisions are pending" in one.getMessage() for one in records) == 1
    app.extensions["uow"].engines["default"].dispose()


# Neighbors ----------------------------------------------------------------------------------


@anywhere
def test_group_of_flask_alembic_stays(project: Project) -> None:
    """A stand-in for it: what counts is the module of the group's function."""

    def callback() -> None:
        """Of the group."""

    callback.__module__ = "flask_alembic.cli.click"
    app = PlainFlask("theirs")
    app.config["SQLALCHEMY_DATABASE_URI"] = project.url
    app.cli.add_command(click.Group("db", callback=callback))
    with pytest.warns(ConfigNotice, match=r"\(Flask-Alembic's\).*UOW_CLI_GROUP"):
        Database(app)
    assert app.cli.commands["db"].callback is callback


def test_types_of_what_is_returned_can_be_imported() -> None:
    """And naming one imports no Alembic."""
    for name in ("Checked", "Created", "EngineStatus", "Generated", "Step"):
        assert getattr(package, name).__name__ == name
    with pytest.raises(AttributeError, match="Nothing"):
        package.Nothing  # noqa: B018
    assert "flask_uow.migrations" in sys.modules
