"""What ``flask db`` costs beside Alembic's own commands, and beside no commands at all.

Alembic is given the same models and the same comparisons.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import (
    URL,
    Column,
    DateTime,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    event,
    func,
    inspect,
    make_url,
)

from flask_uow import Database, Flask
from flask_uow.migrations import NAMING_CONVENTION, Migrations

from ._measure import Times, case, interleave, ratio, table, versions
from ._stacks import add_url
from ._wire import counted

Call = Callable[[], object]

# The file that Alembic's documentation would have, with the comparisons that ours makes.
_ENV = """
from alembic import context

given = context.config.attributes
with given["engine"].connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=given["metadata"],
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()
"""

_APP = """
import os
from sqlalchemy import Column, Integer, MetaData, Table
from flask_uow import Database, Flask

metadata = MetaData()
Table("people", metadata, Column("id", Integer, primary_key=True))
app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///benchmark.db"
app.config["UOW_CLI_GROUP"] = os.environ.get("BENCHMARK_GROUP")
app.register_extension(Database(metadata=metadata))
"""


def main() -> None:
    options = _options()
    print(versions("alembic", "sqlalchemy", "flask", "psycopg", "pymysql"), end="\n\n")
    if options.starts:
        print(_starts(options.starts), end="\n\n")
    print(_commands(options))


# The start of a process -----------------------------------------------------------------------


def _starts(rounds: int) -> str:
    """CPU time of whole processes, with the group and without it, in turn."""
    programs = {"`flask --help`": ["-m", "flask", "--help"], "an app, made": ["-c", "import app"]}
    rows = []
    with tempfile.TemporaryDirectory() as name:
        Path(name, "app.py").write_text(_APP)
        for what, program in programs.items():
            times: Times = {"db": [], "": []}
            for number in range(rounds + 1):
                for group in times if number % 2 else reversed(times):
                    seconds = _child(program, name, group)
                    if number:  # the first round writes bytecode
                        times[group].append(seconds * 1e3)
            pairs = zip(times["db"], times[""], strict=True)
            low, middle, high = statistics.quantiles((one - other for one, other in pairs), n=4)
            rows.append(
                [
                    what,
                    *[f"{statistics.median(one):.1f} ({min(one):.1f})" for one in times.values()],
                    f"{middle:.1f} ({low:.1f} to {high:.1f})",
                    f"{min(times['db']) - min(times['']):.1f}",
                    15,
                ]
            )
    head = "CPU, ms,with the group (best),without (best),difference (quartiles),of the best,target"
    head = head.replace("CPU, ms", "CPU in ms")
    return table(head.split(","), rows)


def _child(program: list[str], folder: str, group: str) -> float:
    environment = {key: value for key, value in os.environ.items() if key != "BENCHMARK_GROUP"}
    if group:
        environment["BENCHMARK_GROUP"] = group
    root = str(Path(__file__).parents[2])
    child = subprocess.Popen(
        [sys.executable, *program],
        cwd=folder,
        env={**environment, "PYTHONPATH": root},
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    return usage.ru_utime + usage.ru_stime


# The commands ---------------------------------------------------------------------------------


def _commands(options: argparse.Namespace) -> str:
    """Times on the database itself, then what is sent: the proxy's own work is in no time."""
    url = make_url(options.url or "sqlite:///benchmark.db")
    with _project(url, options) as apps:
        times = [
            [name, *_times(theirs, ours, rounds)]
            for name, theirs, ours, rounds, _ in _pairs(apps, options)
        ]
    with contextlib.ExitStack() as stack:
        trips: Callable[[], int] | None = None
        if url.get_backend_name() != "sqlite":
            url, proxy = stack.enter_context(counted(url))
            trips = lambda: proxy.count  # noqa: E731
        apps = stack.enter_context(_project(url, options))
        sent = [_sent(theirs, ours, db, trips) for _, theirs, ours, _, db in _pairs(apps, options)]
    head = "command|Alembic, ms|flask_uow|Alembic again|statements|round trips|target"
    rows = [[*time, *counts, 1.1] for time, counts in zip(times, sent, strict=True)]
    return table(head.split("|"), rows)


def _pairs(
    apps: dict[str, tuple[Flask, Database]], options: argparse.Namespace
) -> Iterator[tuple[str, Call, Call, int, Database]]:
    """The name of each command, Alembic's, ours, how often, and on which database."""
    tables = f"{options.tables} tables"
    app, db = apps["same"]
    with app.app_context():
        config = _config(db)
        yield (
            "`upgrade`, nothing to do",
            lambda: command.upgrade(config, "head"),
            lambda: Migrations().upgrade(),
            options.rounds * 4,
            db,
        )
        yield (
            f"`check`, {tables}",
            lambda: command.check(config),
            lambda: Migrations().check(),
            options.rounds,
            db,
        )
    app, db = apps["changed"]
    with app.app_context():
        changed = _config(db)
        yield (
            f"`migrate`, {tables}, 20 changes",
            lambda: _removed(command.revision(changed, "changes", autogenerate=True)),
            lambda: _removed(Migrations().migrate("changes").script),
            options.rounds,
            db,
        )


def _removed(script: Any) -> None:
    path = Path(script.path)
    found = path.read_text().split("def downgrade")[0]
    assert found.count("batch_alter_table") == 20 or found.count("    op.") == 20, found
    path.unlink()


def _times(theirs: Call, ours: Call, rounds: int) -> list[str]:
    calls = {"Alembic": theirs, "flask_uow": ours, "Alembic again": theirs}
    cases = {name: case("call()", call=call) for name, call in calls.items()}
    times = interleave(cases, rounds, 1)
    return [
        f"{statistics.median(times['Alembic']) * 1e3:.1f}",
        *[ratio(times, one, "Alembic") for one in ("flask_uow", "Alembic again")],
    ]


def _sent(theirs: Call, ours: Call, db: Database, trips: Callable[[], int] | None) -> list[str]:
    statements, turns = [], []
    for call in (theirs, ours):
        call()  # the connection is in the pool then
        before = trips() if trips else 0
        call()
        turns.append(str(trips() - before) if trips else "")
        sent = 0

        def count(*_: object) -> None:
            nonlocal sent
            sent += 1

        event.listen(db.engine, "before_cursor_execute", count)
        call()
        event.remove(db.engine, "before_cursor_execute", count)
        statements.append(str(sent))
    return [" and ".join(statements), " and ".join(filter(None, turns))]


def _models(count: int, changes: int) -> MetaData:
    """*count* tables; the first ones have something new: a column, a type, no index."""
    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    for number in range(count):
        change = number % 3 if number < changes else None
        made = Table(
            f"benchmark_{number}",
            metadata,
            Column("id", Integer, primary_key=True),
            Column("name", String(60 if change == 0 else 50), nullable=False, unique=True),
            Column("number", Integer, index=change != 1),
            Column("parent", ForeignKey(f"benchmark_{max(number - 1, 0)}.id")),
            Column("at", DateTime, server_default=func.now()),
        )
        if change == 2:
            made.append_column(Column("added", Integer))
    return metadata


@contextlib.contextmanager
def _project(url: URL, options: argparse.Namespace) -> Iterator[dict[str, tuple[Flask, Database]]]:
    here = Path.cwd()
    metadata = {"same": _models(options.tables, 0), "changed": _models(options.tables, 20)}
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        apps = {}
        for kind, models in metadata.items():
            app = Flask("benchmark", instance_path=name, root_path=name)
            app.config["SQLALCHEMY_DATABASE_URI"] = url.render_as_string(hide_password=False)
            db = Database(metadata=models)
            app.register_extension(db)
            apps[kind] = app, db
        app, db = apps["same"]
        try:
            with app.app_context():
                Migrations().init()
                Migrations().migrate("tables")
                for number in range(options.revisions):
                    Migrations().revision(f"empty {number}")
                Migrations().upgrade()
                shutil.copytree("migrations", "plain")
                Path("plain/env.py").write_text(_ENV)
            yield apps
        finally:
            os.chdir(here)
            with app.app_context():
                metadata["same"].drop_all(db.engine)
                if inspect(db.engine).has_table("alembic_version"):
                    Table("alembic_version", MetaData()).drop(db.engine)
            for app, db in apps.values():
                with app.app_context():
                    db.engine.dispose()


def _config(db: Database) -> Config:
    """Alembic's, for the folder ``plain``."""
    options = argparse.Namespace(quiet=True, x=[])
    given: dict[str, Any] = {"engine": db.engine, "metadata": db.metadata}
    config = Config(attributes=given, cmd_opts=options)
    config.set_main_option("script_location", str(Path("plain").absolute()))
    return config


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_url(parser, "")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tables", type=int, default=200)
    parser.add_argument("--revisions", type=int, default=20)
    parser.add_argument("--starts", type=int, default=30, help="processes of each kind; 0: none")
    return parser.parse_args()


if __name__ == "__main__":
    main()
