"""What needs processes: ten that start at once, one that is killed, and the whole program."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table

from tests.migrations.projects import Models, Project, people
from tests.support.databases import anywhere, concurrently, on

pytestmark = pytest.mark.slow

SLOWLY = """
    op.create_table("slow", sa.Column("id", sa.Integer, primary_key=True))
    op.execute("INSERT INTO slow (id) VALUES (1)")
    open("begun", "a").write("x")
    time.sleep(1.5)
"""


@pytest.fixture
def slow(started: Project) -> Project:
    """A project whose one revision takes a second, and would fail if it ran twice."""
    started.write_app()
    started.write_revision("slow", None, SLOWLY)
    return started


def wait_for(path: Path) -> None:
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.02)


@concurrently
def test_of_ten_that_start_at_once_one_migrates(slow: Project) -> None:
    """The others wait, find nothing to do, and succeed."""
    processes = [slow.start("db", "upgrade") for _ in range(10)]
    results = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * 10, results
    assert Path("begun").read_text() == "x"
    assert sum("upgrade slow" in out for out, _ in results) == 1
    assert slow.query("SELECT id FROM slow") == [(1,)]


@concurrently
def test_who_waits_longer_than_the_timeout_gives_up(slow: Project) -> None:
    """Exit code 1, and nothing was done."""
    first = slow.start("db", "upgrade")
    wait_for(Path("begun"))
    result = slow.flask("db", "upgrade", "--lock-timeout", "0.7")
    assert result.exit_code == 1
    assert "Waiting for" in result.output
    assert "for more than 0.7 s" in result.output
    first.communicate(timeout=60)
    assert first.returncode == 0


@concurrently
def test_lock_of_a_killed_process_is_free(slow: Project) -> None:
    """It is the database, or the kernel, that holds the lock for a process."""
    first = slow.start("db", "upgrade")
    wait_for(Path("begun"))
    first.send_signal(signal.SIGKILL)
    first.communicate()
    Path("begun").unlink()
    if slow.url.startswith("mariadb"):
        slow.query("DROP TABLE slow")  # MariaDB cannot roll back DDL
    code, out, err = slow.run("db", "upgrade", "--lock-timeout", "20")
    assert (code, slow.revision()) == (0, "slow"), out + err


@anywhere
def test_group_costs_next_to_nothing_at_the_start(started: Project) -> None:
    """``flask --help`` and an app import no Alembic."""
    started.write_app()
    code = "import sys, app; app.app.cli.commands; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    loaded = set(run.stdout.split())
    assert "flask_uow.migrations" in loaded
    assert not loaded & {"alembic", "mako", "flask_uow.migrations.cli"}
    assert "Migrate the databases." in started.run("--help")[1]


def with_pets(metadata: MetaData) -> None:
    people(metadata, Column("nick", String(20)))
    Table("pets", metadata, Column("id", Integer, primary_key=True))


@anywhere
def test_whole_program(project: Project) -> None:
    """From nothing to a second revision, to base, and back.

    Each command once by an interpreter that has imported nothing yet.
    """
    known = set()

    def flask(*args: str, models: Models = with_pets) -> tuple[int, str]:
        done = project.command("db", *args, models=models, fresh=args[0] not in known)
        known.add(args[0])
        assert "Traceback" not in done.output
        return done.exit_code, done.output

    assert flask("init")[0] == 0
    code, output = flask("migrate", "-m", "people", "--rev-id", "one", models=people)
    assert code == 0
    assert "Written: migrations/versions/one_people.py" in output
    assert flask("upgrade", models=people)[0] == 0
    assert project.tables() == {"people"}
    code, output = flask("check")
    assert code == 3
    assert "  add table 'pets'" in output
    assert flask("migrate", "-m", "pets", "--rev-id", "two")[0] == 0
    assert flask("check")[0] == 1
    assert flask("status")[0] == 1
    code, output = flask("upgrade")
    assert code == 0
    assert output.startswith("upgrade two pets ... 0.")
    code, output = flask("check")
    assert code == 0
    assert output == "The databases are up to date and match the models.\n"
    assert flask("downgrade", "base")[0] == 0
    assert project.tables() == set()
    assert flask("upgrade", "nosuch") == (
        1,
        f"Error: The folder {str(project.folder / 'migrations')!r} has no revision 'nosuch'."
        " 'flask db history' lists the revisions.\n",
    )
    code, output = flask("upgrade")
    assert code == 0
    assert [line.partition(" ...")[0] for line in output.splitlines()] == [
        "upgrade one people",
        "upgrade two pets",
    ]
    assert project.tables() == {"people", "pets"}
    code, output = flask("status")
    assert code == 0
    assert output.endswith(": up to date, at two\n")
    project.url = "postgresql+psycopg://nobody@127.0.0.1:9/nothing"
    assert flask("status")[0] == 2


@anywhere
def test_status_in_json_and_exit_codes(started: Project) -> None:
    """0 up to date, 1 pending, 2 unreachable; the JSON is all that is printed."""
    started.write_app()
    started.write_revision("one", None, "pass")
    code, out, _ = started.run("db", "status", "--json")
    (engine,) = json.loads(out)["engines"]
    assert code == 1
    assert (engine["state"], engine["current"]) == ("pending", [])
    assert engine["pending"] == [{"revision": "one", "message": "one"}]
    assert started.run("db", "upgrade")[0] == 0
    code, out, _ = started.run("db", "status", "--json")
    assert (code, json.loads(out)["engines"][0]["state"]) == (0, "up to date")


@anywhere
def test_errors_are_one_sentence_and_debug_shows_the_traceback(started: Project) -> None:
    started.write_app()
    started.write_revision("one", None, "1 / 0")
    code, _, err = started.run("db", "upgrade")
    assert code == 1
    assert "ZeroDivisionError: division by zero" in err
    assert "Traceback" not in err
    code, _, err = started.run("--debug", "db", "upgrade")
    assert code == 1
    assert "Traceback" in err
    assert "1 / 0" in err


@on("postgresql")
def test_server_that_goes_away_in_the_middle(started: Project) -> None:
    """Nothing is claimed of a database that does not answer; the next command goes on."""
    started.write_revision(
        "cut",
        None,
        'op.execute("SELECT pg_terminate_backend(pg_backend_pid())")',
    )
    result = started.flask("db", "upgrade")
    assert result.exit_code == 1
    assert "The revision cut (cut) failed" in result.output
    assert started.revision() is None


@concurrently
def test_revision_whose_statement_is_only_a_comment_ends(started: Project) -> None:
    """To read it took a regular expression for ever, and the process hung."""
    started.write_app()
    started.write_revision("one", None, f'op.execute("-- {"-" * 60}")')
    code, out, err = started.run("db", "upgrade")
    assert code == 0, out + err
    assert started.revision() == "one"
