"""The fixtures of the tests of migrations."""

from __future__ import annotations

from collections.abc import Iterator
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
    project = Project(folder, database.url)
    yield project
    project.end()


@pytest.fixture
def started(project: Project) -> Project:
    """A project in which ``flask db init`` has been run."""
    project.do("db", "init")
    return project


@pytest.hookimpl(tryfirst=True)  # before the marks choose
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long is run where there is time for it: processes on servers, DDL of MariaDB."""
    for item in items:
        if "migrations" not in item.path.parts:
            continue
        on_server = "postgresql" in item.name or "mariadb" in item.name
        if "mariadb" in item.name or (on_server and item.path.name == "test_processes.py"):
            item.add_marker(pytest.mark.stress)
