"""The example app on the test's database, with a few accounts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from example_app import create_app
from example_app.database import db as ledger_db
from flask_uow import Database, Flask
from tests.support import databases
from tests.support.databases import TestDatabase

on_one_database = pytest.mark.parametrize("database", ["sqlite-file"], indirect=True)
"""For tests of what never reaches the database, or does not depend on it."""


@pytest.fixture
def db() -> Database:
    return ledger_db


@pytest.fixture(params=databases.EACH)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TestDatabase]:
    """Every database in turn, empty; on a server, the tables of the ledger may stay."""
    if request.param == "sqlite-file":
        yield databases.sqlite_file(tmp_path)
    elif request.param == "sqlite-memory":
        yield databases.sqlite_memory()
    else:
        url = request.getfixturevalue(f"{request.param}_url")
        databases.wipe(url, ledger_db.metadata)
        yield TestDatabase(request.param, url)


@pytest.fixture
def outbox(tmp_path: Path) -> Path:
    """The folder of the receipts."""
    return tmp_path / "outbox"


@pytest.fixture
def app(database: TestDatabase, outbox: Path) -> Flask:
    """The ledger, empty. Its revisions make the same tables, in more time: ``test_upgrade.py``."""
    app = create_app({"SQLALCHEMY_DATABASE_URI": database.url, "OUTBOX": outbox})
    with app.app_context():
        ledger_db.create_all()
    return app


@pytest.fixture
def ids(client: FlaskClient) -> dict[str, int]:
    """Three accounts by name: ``Bank`` has 100.00, ``Till`` nothing, ``Source`` has no limit."""
    found = {}
    for name, may_overdraw in (("Till", False), ("Source", True), ("Bank", False)):
        body = {"name": name, "may_overdraw": may_overdraw}
        answer = client.post("/api/accounts", json=body)
        assert answer.status_code == 201, answer.text
        found[name] = answer.get_json()["id"]
    opening = {"from": found["Source"], "to": found["Bank"], "amount": "100", "memo": "Opening"}
    assert client.post("/api/transfers", json=opening).status_code == 201
    return found
