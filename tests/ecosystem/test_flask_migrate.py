"""Flask-Migrate beside ``flask db``: its own commands, under another name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import create_engine, inspect
from sqlalchemy.orm import Mapped, mapped_column

from tests.support.databases import TestDatabase
from tests.support.recipes import Recipe

pytest.importorskip("flask_migrate")


@pytest.mark.parametrize("binds", [False, True])
def test_the_commands_of_flask_migrate_work(
    binds: bool,
    recipe: Recipe,
    app: Flask,
    models: Any,
    database: TestDatabase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With one database and with several, as far as Flask-Migrate goes itself."""
    monkeypatch.chdir(tmp_path)
    if binds:
        app.config["SQLALCHEMY_BINDS"] = {"audit": f"sqlite:///{tmp_path / 'audit.db'}"}
        log = {"id": mapped_column(primary_key=True), "__annotations__": {"id": Mapped[int]}}
        names = {"__tablename__": "log", "__bind_key__": "audit"} | log
        type("Log", (models.Base,), names)
    recipe("Flask-Migrate", create_all=False)
    runner = app.test_cli_runner()
    for command in (
        "fm init --multidb" if binds else "fm init",
        "fm migrate -m first",
        "fm upgrade",
        "fm current",
        "fm history",
    ):
        result = runner.invoke(args=command.split())
        assert result.exit_code == 0, (command, result.output, result.exception)
    engine = create_engine(database.url)
    assert set(inspect(engine).get_table_names()) == {"users", "posts", "alembic_version"}
    if binds:
        audit = create_engine(f"sqlite:///{tmp_path / 'audit.db'}")
        assert set(inspect(audit).get_table_names()) == {"log", "alembic_version"}
    assert runner.invoke(args=["fm", "downgrade"]).exit_code == 0
    assert not {"users", "posts"} & set(inspect(engine).get_table_names())
    engine.dispose()


def test_flask_db_is_still_ours(recipe: Recipe, app: Flask) -> None:
    """``status`` is a command that Flask-Migrate does not have."""
    recipe("Flask-Migrate")
    assert "status" in app.test_cli_runner().invoke(args=["db", "--help"]).output
