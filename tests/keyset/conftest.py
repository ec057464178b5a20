"""A ``Database`` with the models of these tests."""

from __future__ import annotations

import pytest

from flask_uow import Database
from tests.keyset.things import Base


@pytest.fixture
def db() -> Database:
    return Database(Base)
