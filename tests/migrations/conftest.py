"""The fixtures of the tests of migrations."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from sqlalchemy import MetaData

from tests.migrations.projects import Project
from tests.support import databases
from tests.support.databases import TestDatabase


@pytest.fixture
def project(
    database: TestDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Project]:
    """An empty folder with an empty database."""
    if not database.is_sqlite:  # other tests leave their tables, empty
        databases.wipe(database.url, MetaData())
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a file may change twice in a second
    project = Project(folder, database.url)
    yield project
    project.end()


@pytest.fixture
def started(project: Project) -> Project:
    """A project in which ``flask db init`` has been run."""
    project.do("db", "init")
    return project


_ENVS = ["ours", *(["Flask-Migrate's"] if find_spec("flask_migrate") else [])]


@pytest.fixture(params=_ENVS)
def either(request: pytest.FixtureRequest, project: Project) -> Project:
    """A project with our ``env.py``, or with Flask-Migrate's."""
    if request.param == "ours":
        project.do("db", "init")
    else:
        theirs = import_module("flask_migrate")
        template = Path(str(theirs.__file__)).parent / "templates" / "flask"
        folder = project.folder / "migrations"
        (folder / "versions").mkdir(parents=True)
        for name in ("env.py", "script.py.mako"):
            shutil.copy(template / name, folder / name)
        shutil.copy(template / "alembic.ini.mako", folder / "alembic.ini")
    return project


# What is run on PostgreSQL by default, too; all the rest on servers takes longer.
_BY_DEFAULT = {"test_one_engine.py", "test_runs.py"}
# Many processes, whatever the database.
_LONG = {"test_logging.py", "test_oracle.py"}


@pytest.hookimpl(tryfirst=True)  # before the marks choose
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long is run where there is time for it: processes on servers, DDL of MariaDB."""
    for item in items:
        if "migrations" not in item.path.parts:
            continue
        on_postgresql = "postgresql" in item.name and item.path.name not in _BY_DEFAULT
        is_long = item.path.name in _LONG or "of_ten" in item.name
        if "mariadb" in item.name or on_postgresql or is_long:
            item.add_marker(pytest.mark.stress)
