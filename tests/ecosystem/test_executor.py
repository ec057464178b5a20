"""Flask-Executor: a job is a unit of its own, in a copy of the request's context."""

from __future__ import annotations

import time
from typing import Any

import pytest
from flask import Flask

from flask_uow import Database
from tests.support.recipes import Recipe
from tests.support.witness import Witness

pytest.importorskip("flask_executor")


def test_a_job_is_submitted_when_the_row_is_stored(
    recipe: Recipe, app: Flask, witness: Witness
) -> None:
    """It finds the row, and its own change is committed."""
    executor: Any = recipe("Flask-Executor").executor
    assert app.test_client().post("/users/ada").status_code == 200
    executor.shutdown(wait=True)
    assert witness.ask("SELECT email FROM users") == ["greeted"]


def test_a_job_may_read_while_the_view_waits_for_it(
    recipe: Recipe, app: Flask, db: Database, models: Any, witness: Witness
) -> None:
    """On SQLite, too, where the view has the only write lock."""
    executor: Any = recipe("Flask-Executor").executor

    @app.post("/")
    def view() -> str:
        db.session.add(models.User(name="ada"))
        db.session.flush()
        return str(executor.submit(lambda: db.session.query(models.User).count()).result())

    before = time.monotonic()
    response = app.test_client().post("/")
    assert (response.status_code, response.text) == (200, "0")
    assert time.monotonic() - before < 4  # the busy timeout is 5 seconds
    assert witness.ask("SELECT name FROM users") == ["ada"]
    executor.shutdown(wait=True)
