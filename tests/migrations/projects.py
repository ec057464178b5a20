"""A folder with an app in it, whose models change from one revision to the next.

Commands run in this process, or, with ``UOW_TEST_CLI=process``, as ``python -m flask``.
"""

from __future__ import annotations

import ast
import os
import pickle
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from click.testing import Result
from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    NullPool,
    String,
    Table,
    create_engine,
    inspect,
    make_url,
    text,
)

from flask_uow import Database, Flask
from flask_uow.migrations import NAMING_CONVENTION
from tests.migrations import commands
from tests.migrations.commands import Done

Models = Callable[[MetaData], object]


def people(metadata: MetaData, *more: Any) -> Table:
    """The table that most tests begin with."""
    return Table(
        "people",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("name", String(50), nullable=False),
        *more,
    )


def nothing(metadata: MetaData) -> None:
    """No models."""


def metadata_of(models: Models) -> MetaData:
    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    models(metadata)
    return metadata


_IN_PROCESSES = os.environ.get("UOW_TEST_CLI") == "process"

# Models may be a lambda of a test, so it is what they have made that goes to the other process.
_APP = """\
import pickle
from pathlib import Path

from tests.migrations.projects import Project

metadata, url, binds = {made}
app = Project(Path(__file__).parent, url, binds).app_of(pickle.loads(metadata))
"""


@dataclass
class Project:
    """One folder; the current folder of the test.

    :ivar binds: the URLs of more engines.
    """

    folder: Path
    url: str
    binds: dict[str, str] = field(default_factory=dict)
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def backend(self) -> str:
        """``"sqlite"``, ``"postgresql"`` or ``"mariadb"``."""
        return make_url(self.url).get_backend_name()

    @property
    def versions(self) -> list[Path]:
        return sorted((self.folder / "migrations" / "versions").glob("*.py"))

    def version(self, message: str) -> Path:
        """The file of the revision with this message."""
        return next(path for path in self.versions if path.stem.endswith(f"_{message}"))

    def app(self, models: Models = people, **config: Any) -> Flask:
        """A new app with *models*."""
        return self.app_of(metadata_of(models), **config)

    def app_of(self, metadata: MetaData, **config: Any) -> Flask:
        """A new app with *metadata*."""
        app = Flask("project", instance_path=str(self.folder), root_path=str(self.folder))
        app.config.update(SQLALCHEMY_DATABASE_URI=self.url, SQLALCHEMY_BINDS=self.binds)
        app.config.update(config)
        app.register_extension(Database(metadata=metadata))
        return app

    def flask(self, *args: str, models: Models = people, app: Flask | None = None) -> Result:
        """Run ``flask ARGS`` with a new app, or with *app*, which is in this process."""
        if app is None and _IN_PROCESSES and self.url != "sqlite://":
            return cast(Result, self.command(*args, models=models))
        app = app or self.app(models)
        try:
            return app.test_cli_runner().invoke(args=list(args))
        finally:
            with app.app_context():
                for engine in app.extensions["uow"].engines.values():
                    engine.dispose()

    def command(self, *args: str, models: Models = people, fresh: bool = False) -> Done:
        """As :meth:`flask`, in a process of its own.

        :param fresh: as in :func:`tests.migrations.commands.flask`.
        """
        made = (pickle.dumps(metadata_of(models)), self.url, self.binds)
        app = self.folder / "project.py"
        app.write_text(_APP.format(made=made))
        return commands.flask("--app", str(app), *args, folder=Path.cwd(), fresh=fresh)

    def do(self, *args: str, models: Models = people) -> str:
        """As :meth:`flask`, where nothing may go wrong; return what was printed."""
        result = self.flask(*args, models=models)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return str(result.output)

    def migrate(self, models: Models, message: str = "change", *options: str) -> str:
        """``migrate`` and ``upgrade``; return the file."""
        before = set(self.versions)
        self.do("db", "migrate", "-m", message, *options, models=models)
        (path,) = set(self.versions) - before
        self.do("db", "upgrade", models=models)
        return path.read_text()

    def write_revision(
        self, name: str, down: str | None, upgrade: str, downgrade: str = "pass"
    ) -> None:
        """A revision by hand."""
        body = (
            '"""{name}"""\nimport time\nfrom alembic import op\nimport sqlalchemy as sa\n\n'
            "revision = {name!r}\ndown_revision = {down!r}\n\n"
            "def upgrade():\n{upgrade}\n\ndef downgrade():\n{downgrade}\n"
        ).format(
            name=name,
            down=down,
            upgrade=textwrap.indent(textwrap.dedent(upgrade).strip(), "    "),
            downgrade=textwrap.indent(textwrap.dedent(downgrade).strip(), "    "),
        )
        (self.folder / "migrations" / "versions" / f"{name}.py").write_text(body)

    def tables(self, url: str | None = None) -> set[str]:
        """What a second connection sees."""
        engine = create_engine(url or self.url, poolclass=NullPool)
        with engine.connect() as connection:
            return set(inspect(connection).get_table_names()) - {"alembic_version"}

    def query(self, statement: str, url: str | None = None) -> list[Any]:
        engine = create_engine(url or self.url, poolclass=NullPool)
        with engine.begin() as connection:
            result = connection.execute(text(statement))
            return list(result.all()) if result.returns_rows else []

    def revision(self, url: str | None = None) -> str | None:
        if "alembic_version" not in self._all_tables(url):
            return None
        rows = self.query("SELECT version_num FROM alembic_version", url)
        return ",".join(sorted(row[0] for row in rows)) or None

    def _all_tables(self, url: str | None) -> list[str]:
        engine = create_engine(url or self.url, poolclass=NullPool)
        with engine.connect() as connection:
            return list(inspect(connection).get_table_names())

    def write_app(self, body: str = "") -> None:
        """``app.py``, for real processes."""
        (self.folder / "app.py").write_text(
            textwrap.dedent(
                f"""\
                from sqlalchemy import Column, Integer, MetaData, String, Table
                from flask_uow import Database, Flask

                metadata = MetaData()
                Table("people", metadata, Column("id", Integer, primary_key=True))
                app = Flask("project")
                app.config["SQLALCHEMY_DATABASE_URI"] = {self.url!r}
                """
            )
            + textwrap.dedent(body)
            + "\napp.register_extension(Database(metadata=metadata))\n"
        )

    def start(self, *args: str, **environment: str) -> subprocess.Popen[str]:
        """``flask ARGS`` in a process of its own."""
        process = subprocess.Popen(
            [sys.executable, "-m", "flask", *args],
            cwd=self.folder,
            env={
                **os.environ,
                "PYTHONPATH": str(commands.ROOT),
                "PYTHONWARNINGS": "default",
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def end(self) -> None:
        """Leave no process behind."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.communicate()

    def run(self, *args: str, **environment: str) -> tuple[int, str, str]:
        """As :meth:`start`, to its end."""
        process = self.start(*args, **environment)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err


def snippets(text: str) -> list[str]:
    """Return the calls of Alembic's operations in a message; each has to be valid Python.

    A call must not stand in quotes of the kind that it contains.
    """
    found = []
    for start in [match.start() for match in re.finditer(r"\b(?:op|batch_op)\.[\w.]+\(", text)]:
        ends = [match.end() for match in re.finditer(r"\)", text) if match.end() > start]
        call = next((text[start:end] for end in ends if _is_python(text[start:end])), None)
        assert call, f"no Python: {text[start:]}"
        assert text[start - 1 : start] not in {"'", '"'} & set(call), f"in its own quotes: {call}"
        found.append(call)
    return found


def _is_python(code: str) -> bool:
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True


def with_name(mapping: Mapping[str, Any], name: str) -> Any:
    """The entry of a list of dicts that has this name."""
    return next(one for one in mapping["engines"] if one["name"] == name)
