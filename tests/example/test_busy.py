"""A database that is busy or away: a 503 with a page of its own, and not a fault of the app."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from example_app import create_app
from example_app.database import db
from flask_uow import Flask, testing
from tests.support.databases import on
from tests.support.witness import Witness

from .conftest import on_one_database

CHECK = "Before you send anything again, check whether it was stored."


def assert_is_busy(response: TestResponse, *, is_json: bool = False) -> None:
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "5"
    if is_json:
        assert "The database is busy or cannot be reached." in response.get_json()["error"]
    else:
        assert "<h1>The ledger is busy</h1>" in response.text


@on("postgresql", "mariadb")
@pytest.mark.parametrize("at", ["execute", "commit"])
def test_lost_connection_is_a_503(
    app: Flask, client: FlaskClient, ids: dict[str, int], witness: Witness, at: Any
) -> None:
    """In the view or after it; the same request succeeds a little later."""
    with testing.lose_connection(db, at=at, app=app):
        page = client.post("/accounts/new", data={"name": "Rent"})
    with testing.lose_connection(db, at=at, app=app):
        body = client.post("/api/accounts", json={"name": "Rent"})
    assert_is_busy(page)
    assert_is_busy(body, is_json=True)
    assert CHECK in page.text
    assert CHECK in body.get_json()["error"]
    assert witness.ask("SELECT COUNT(*) FROM accounts WHERE name = 'Rent'") == [0]
    assert client.post("/accounts/new", data={"name": "Rent"}).status_code == 302


@on("postgresql", "mariadb")
def test_error_page_that_loses_its_connection_is_a_503(
    app: Flask, client: FlaskClient, ids: dict[str, int]
) -> None:
    """The form of a refused transfer lists the accounts, so its error handler may fail, too."""
    with testing.lose_connection(db, at="execute", app=app):
        assert_is_busy(client.post("/transfers/new", data={"amount": "x"}))
    assert client.post("/transfers/new", data={"amount": "x"}).status_code == 422


@on("sqlite-file", "postgresql", "mariadb")
def test_conflict_that_is_not_tried_again_is_a_503(
    app: Flask, client: FlaskClient, ids: dict[str, int], witness: Witness
) -> None:
    """And not in the journal, which has refusals."""
    with testing.deadlock_once(db, app=app):
        assert_is_busy(client.post("/accounts/new", data={"name": "Rent"}))
    assert witness.ask("SELECT COUNT(*) FROM attempts") == [0]


@on_one_database
def test_transfer_that_meets_a_conflict_is_made(
    app: Flask, client: FlaskClient, ids: dict[str, int], outbox: Path
) -> None:
    """Its view is run again, and the receipt waits for the attempt that is stored."""
    body = {"from": ids["Bank"], "to": ids["Till"], "amount": "1"}
    with testing.capture_on_commit(db) as hooks, testing.deadlock_once(db, app=app):
        assert client.post("/api/transfers", json=body).status_code == 201
    assert [hook.args for hook in hooks] == [(2,)]


# SQLite's write lock ----------------------------------------------------------------------------


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Flask]:
    """The ledger on a file, with requests that wait a short time, and one connection."""
    app = create_app(
        {
            "SQLALCHEMY_DATABASE_URI": f"sqlite:///{tmp_path}/ledger.db",
            "SQLALCHEMY_ENGINE_OPTIONS": {"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.05},
            "UOW_SQLITE_BUSY_TIMEOUT": 0.05,
            "OUTBOX": tmp_path,
        }
    )
    with app.app_context():
        db.create_all()
    yield app
    with app.app_context():
        db.engine.dispose()


# A transfer is tried again, which takes 5 seconds.
@pytest.mark.parametrize(
    "path", [pytest.param("/transfers/new", marks=pytest.mark.slow), "/accounts/new", "/import"]
)
def test_form_is_a_503_while_another_process_writes(
    impatient: Flask, tmp_path: Path, path: str
) -> None:
    """Reading needs no lock."""
    client = impatient.test_client()
    file = (io.BytesIO(b"from,to,amount\nBank,Till,1\n"), "good.csv")
    form = {"from": "3", "to": "4", "amount": "1", "name": "Rent", "file": file}
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        assert_is_busy(client.post(path, data=form))
        assert client.get(path).status_code == 200
    assert client.post("/accounts/new", data={"name": "Rent"}).status_code == 302


def test_form_that_is_refused_needs_no_lock(impatient: Flask, tmp_path: Path) -> None:
    """The reason is shown, with the accounts as they are, while another process writes."""
    client = impatient.test_client()
    client.post("/accounts/new", data={"name": "Rent"})
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        response = client.post("/transfers/new", data={"from": "3", "to": "3", "amount": "x"})
    assert response.status_code == 422
    assert "Rent · 0.00" in response.text


def test_pool_without_a_connection_is_a_503(impatient: Flask) -> None:
    """For a page to read, the way back is to try again."""
    with impatient.app_context(), db.engine.connect():
        page = impatient.test_client().get("/?after=x")
        body = impatient.test_client().get("/api/accounts")
    assert_is_busy(page)
    assert_is_busy(body, is_json=True)
    assert CHECK not in page.text
    assert 'href="/?after=x">Try again</a>' in page.text


def test_busy_database_is_in_the_log(impatient: Flask, caplog: pytest.LogCaptureFixture) -> None:
    """As a warning with the reason, which the page does not show."""
    with impatient.app_context(), db.engine.connect():
        impatient.test_client().get("/")
    (record,) = [one for one in caplog.records if one.name == "example_app"]
    assert record.levelname == "WARNING"
    assert "PoolExhausted" in caplog.text
