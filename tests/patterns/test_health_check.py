"""A health check: whether the process runs, and whether it should get requests."""

from __future__ import annotations

from flask import Flask

from flask_uow import Database
from tests.support.faults import Faults
from tests.support.recipes import Recipe


def test_an_outage_of_the_database_is_seen_by_readiness_only(
    recipe: Recipe, app: Flask, db: Database
) -> None:
    """The liveness check sends nothing to the database."""
    recipe("Health check")
    client = app.test_client()
    with app.app_context():
        faults = Faults(db.engine)
    assert client.get("/ready").status_code == 200
    assert faults.calls["statement"]
    faults.calls.clear()
    faults.fail("statement", times=None)
    assert client.get("/live").status_code == 200
    assert not faults.calls
    assert client.get("/ready").status_code == 503
    faults.stop()
    assert client.get("/ready").status_code == 200
