"""Celery: a task is a unit of its own, or part of the request's with ``task_always_eager``."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from flask_uow import Database
from tests.support.recipes import Recipe
from tests.support.witness import Witness

pytest.importorskip("celery")


def emails(witness: Witness) -> list[Any]:
    return witness.ask("SELECT email FROM users")


def test_a_task_of_a_worker_commits(
    recipe: Recipe, app: Flask, models: Any, witness: Witness
) -> None:
    """In an app context of its own; a task that fails stores nothing."""
    names = recipe("Celery")
    witness.store(models.User(name="ada"))

    @names.celery.task
    @names.db.atomic
    def fail(number: int) -> None:
        names.db.session.get_one(models.User, number).email = "failed"
        raise LookupError

    with pytest.raises(LookupError):
        fail(1)
    assert emails(witness) == [None]
    names.greet(1)  # as the worker calls it
    assert emails(witness) == ["greeted"]


def test_an_eager_task_sees_what_the_request_has_stored(
    recipe: Recipe, app: Flask, witness: Witness
) -> None:
    """It is called when the COMMIT is done, and its own change is committed as well."""
    names = recipe("Celery")
    names.celery.conf.task_always_eager = True
    assert app.test_client().post("/users/ada").status_code == 200
    assert emails(witness) == ["greeted"]


@pytest.mark.parametrize(("status", "expected"), [(200, ["greeted"]), (400, [])])
def test_an_eager_task_in_the_middle_joins_the_request(
    status: int,
    expected: list[str],
    recipe: Recipe,
    app: Flask,
    db: Database,
    models: Any,
    witness: Witness,
) -> None:
    """It sees the row that is not committed yet, and shares its outcome."""
    names = recipe("Celery")
    names.celery.conf.task_always_eager = True

    @app.post("/eager")
    def view() -> tuple[str, int]:
        user = models.User(name="ada")
        db.session.add(user)
        db.session.flush()
        names.greet.delay(user.id)
        return "", status

    assert app.test_client().post("/eager").status_code == status
    assert emails(witness) == expected
