"""Tests as a user of pytest-flask writes them: a request context is pushed round each."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from flask import has_request_context
from flask.testing import FlaskClient

from flask_uow import Database, Flask
from tests.support.models import User

Stored = Callable[[str], bool]


def test_plugin_pushes_a_request_context_round_the_test(app: Flask) -> None:
    """What the other tests rely on: the plugin is active."""
    assert has_request_context()


def test_client_request_stores_without_a_commit(client: FlaskClient, stored: Stored) -> None:
    """P3: inside the test's context a request commits as it does in production."""
    assert client.post("/users/ada").status_code == 201
    assert stored("ada")


def test_client_request_does_not_share_the_unit_of_the_test(
    db: Database, client: FlaskClient, stored: Stored
) -> None:
    """P2: what the test has pending is not committed by a request."""
    own = db.session()
    db.session.add(User(name="pending"))
    assert client.post("/users/bert").status_code == 201
    assert stored("bert")
    assert not stored("pending")
    assert [user.name for user in own.new] == ["pending"]
    own.rollback()


def test_failed_request_leaves_the_unit_of_the_test_alone(
    db: Database, client: FlaskClient, stored: Stored
) -> None:
    """P4: what a request rolls back is its own work."""
    own = db.session()
    db.session.add(User(name="kept"))
    assert client.post("/users/carl/broken").status_code == 400
    own.commit()
    assert stored("kept")
    assert not stored("carl")


def test_request_sees_what_the_test_committed(db: Database, client: FlaskClient) -> None:
    """P8: rows are arranged with plain SQLAlchemy."""
    db.session.add(User(name="dora"))
    db.session.commit()
    assert client.get("/users/dora").text == "1"


def test_test_sees_what_requests_stored(db: Database, client: FlaskClient) -> None:
    """P2: also through the context that the plugin's client keeps after its last request."""
    for name in ("emil", "erna"):
        client.post(f"/users/{name}")
        assert db.session.query(User).filter_by(name=name).count() == 1


@pytest.mark.parametrize("time", ["first", "second"])
def test_each_test_has_a_unit_of_its_own(app: Flask, db: Database, time: str) -> None:
    """P2: the second time nothing is left of the first."""
    assert "seen" not in db.session.info
    db.session.info["seen"] = time


def test_live_server_stores_what_it_acknowledges(
    db: Database, live_server: Any, stored: Stored
) -> None:
    """P3, P4: in the forked process of ``live_server`` a request is a unit as well."""
    assert _post(live_server, "/users/fred") == 201
    assert stored("fred")
    assert db.session.query(User).filter_by(name="fred").count() == 1
    with pytest.raises(urllib.error.HTTPError, match="400"):
        _post(live_server, "/users/greta/broken")
    assert not stored("greta")


def _post(live_server: Any, path: str) -> int:
    url = f"http://localhost:{live_server.port}{path}"
    with urllib.request.urlopen(urllib.request.Request(url, method="POST")) as response:
        status: int = response.status
        return status
