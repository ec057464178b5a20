"""A test that forgets to commit, or to roll back, what it has added."""

from __future__ import annotations

from flask_uow import Database, Flask
from tests.support.models import User


def test_forgets(app: Flask, db: Database) -> None:
    db.session.add(User(name="forgotten"))
