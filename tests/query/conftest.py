"""An app with the models of ``tests.query.models``, and an empty database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import NullPool, create_engine

from flask_uow import Database, Flask
from tests.conftest import MakeApp
from tests.support.databases import TestDatabase

from .models import Base


@pytest.fixture
def db() -> Database:
    return Database(Base)


@pytest.fixture
def app(make_app: MakeApp, db: Database, database: TestDatabase) -> Iterator[Flask]:
    """An app in a pushed context, which has a unit of its own."""
    app = make_app()
    with app.app_context():
        yield app
        db.session.rollback()
    if not database.is_sqlite:
        engine = create_engine(database.url, poolclass=NullPool)
        Base.metadata.drop_all(engine)
