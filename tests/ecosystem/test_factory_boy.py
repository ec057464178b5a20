"""factory_boy: what a test makes is seen by its requests."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from flask_uow import CommitRefused, Database
from tests.support.recipes import Recipe
from tests.support.witness import Witness

pytest.importorskip("factory")


def test_an_object_of_a_factory_is_seen_by_a_request(
    recipe: Recipe, app: Flask, db: Database, models: Any, witness: Witness
) -> None:
    """And the test sees what the request has changed in it."""
    factory = recipe("factory_boy").UserFactory

    @app.post("/<int:number>")
    def change(number: int) -> str:
        db.session.get_one(models.User, number).email = "new"
        return ""

    with app.app_context():
        user = factory(name="ada")
        assert app.test_client().post(f"/{user.id}").status_code == 200
        assert user.email == "new"
        factory.create_batch(2)
    assert len(witness.ask("SELECT name FROM users")) == 3


def test_a_factory_that_commits_is_refused_in_a_block(
    recipe: Recipe, app: Flask, db: Database, witness: Witness
) -> None:
    """With ``"flush"`` it belongs to the block."""
    names = recipe("factory_boy")

    class Flushing(names.UserFactory):  # type: ignore[name-defined]
        class Meta:
            sqlalchemy_session_persistence = "flush"

    with app.app_context():
        with pytest.raises(CommitRefused), db.atomic():
            names.UserFactory()
        with pytest.raises(LookupError), db.atomic():  # noqa: PT012
            Flushing()
            raise LookupError
        assert witness.ask("SELECT name FROM users") == []
        with db.atomic():
            Flushing(name="ada")
    assert witness.ask("SELECT name FROM users") == ["ada"]
