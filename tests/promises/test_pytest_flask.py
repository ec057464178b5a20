"""pytest-flask: its autouse request context, its client that keeps contexts, its live server.

The plugin pushes a request context round every test that uses ``app``; ``tests/conftest.py``
turns that off, and this module turns it on again.
"""

from __future__ import annotations

import multiprocessing
import urllib.error
import urllib.request
from collections.abc import Iterator

import flask
import pytest
from flask import Flask
from flask.testing import FlaskClient
from pytest_flask import fixtures, plugin  # type: ignore[import-untyped]
from pytest_flask.live_server import LiveServer  # type: ignore[import-untyped]
from sqlalchemy import select
from sqlalchemy.orm import Session

from flask_uow import Database
from tests.conftest import MakeApp
from tests.support.databases import concurrently, free_port
from tests.support.engines import checked_out
from tests.support.models import User
from tests.support.witness import Witness

client = fixtures.client
_push_request_context = plugin._push_request_context


@pytest.fixture
def seen() -> list[Session]:
    """The sessions of the views, in their order."""
    return []


@pytest.fixture
def app(make_app: MakeApp, db: Database, seen: list[Session]) -> Flask:
    """``POST /<name>`` stores a user; ``bad`` fails after writing."""
    app = make_app()

    @app.post("/<name>")
    def create(name: str) -> list[str]:
        seen.append(db.session())
        db.session.add(User(name=name))
        db.session.flush()
        if name == "bad":
            raise LookupError
        return list(db.session.scalars(select(User.name).order_by(User.name)))

    return app


def test_plugin_pushes_a_context_round_the_test(app: Flask) -> None:
    """So that the other tests of this module test what they say."""
    assert flask.has_request_context()
    assert flask.request.path == "/"


def test_request_commits_inside_the_context_of_the_test(
    client: FlaskClient, witness: Witness
) -> None:
    """A request is dispatched as ever, and decides for itself."""
    assert client.post("/bad").status_code == 500
    assert client.post("/good").json == ["good"]
    assert witness.names() == ["good"]


def test_test_has_a_session_of_its_own(
    client: FlaskClient, db: Database, seen: list[Session], witness: Witness
) -> None:
    """What the test has not committed is not seen by the request, and the other way round."""
    db.session.add(User(name="test"))
    mine = db.session()
    assert client.post("/ada").json == ["ada"]
    assert seen[0] is not mine
    assert [user.name for user in mine.new] == ["test"]
    assert witness.names() == ["ada"]
    mine.rollback()


def test_test_reads_what_the_request_has_committed(client: FlaskClient, db: Database) -> None:
    """``db.session`` in the test, behind a request, is a session that works."""
    client.post("/ada")
    assert db.session.scalars(select(User.name)).all() == ["ada"]
    client.post("/bob")
    assert db.session.query(User).count() == 2


def test_client_that_keeps_the_context_keeps_no_connection(
    client: FlaskClient, seen: list[Session]
) -> None:
    """The plugin's client leaves the context of its last request pushed; the unit has ended."""
    client.post("/ada")
    assert flask.request.path == "/ada"
    assert checked_out() == 0
    client.post("/bob")
    assert checked_out() == 0
    assert seen[0] is not seen[1]


def test_fixture_may_write_before_the_request(
    app: Flask, client: FlaskClient, db: Database, seen: list[Session]
) -> None:
    """A test that stores its rows with an explicit commit finds them in the request."""
    db.session.add(User(name="fixture"))
    db.session.commit()
    assert client.post("/ada").json == ["ada", "fixture"]


@pytest.fixture
def server(app: Flask, db: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveServer]:
    """The plugin's live server for this app; its own fixture lives for the whole run."""
    with app.app_context():
        db.engine.dispose()  # a forked process must not find a connection in the pool
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr("pytest_flask.live_server.multiprocessing", fork)
    server = LiveServer(app, "localhost", free_port(), wait=20, clean_stop=True)
    server.start()
    yield server
    server.stop()


def post(server: LiveServer, path: str) -> int:
    request = urllib.request.Request(server.url(path), method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            status: int = response.status
    except urllib.error.HTTPError as error:
        error.close()
        status = error.code
    return status


@concurrently
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_live_server_commits(server: LiveServer, db: Database, witness: Witness) -> None:
    """A real server in another process, with a context of the plugin round the test here."""
    assert post(server, "/bad") == 500
    assert post(server, "/good") == 200
    assert witness.names() == ["good"]
    assert db.session.scalars(select(User.name)).all() == ["good"]
