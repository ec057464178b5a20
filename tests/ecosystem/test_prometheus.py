"""Prometheus: gauges of the pools."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from flask_uow import Database
from tests.support.recipes import Recipe

prometheus_client: Any = pytest.importorskip("prometheus_client")


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry for each test: a collector stays in it."""
    registry = prometheus_client.CollectorRegistry()
    monkeypatch.setattr(prometheus_client, "REGISTRY", registry)
    make_wsgi_app = prometheus_client.make_wsgi_app
    monkeypatch.setattr(prometheus_client, "make_wsgi_app", lambda: make_wsgi_app(registry))


def gauges(app: Flask) -> dict[str, float]:
    lines = app.test_client().get("/metrics").text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def test_the_gauges_are_those_of_each_pool(recipe: Recipe, app: Flask, db: Database) -> None:
    """Now, and of every engine; also while the pool is dry, when a unit would wait."""
    app.config["SQLALCHEMY_BINDS"] = {"audit": app.config["SQLALCHEMY_DATABASE_URI"]}
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"pool_size": 2, "max_overflow": 0, "pool_timeout": 1}
    recipe("Prometheus", create_all=False)
    in_use, opened = 'db_pool_in_use{{engine="{}"}}', 'db_pool_open{{engine="{}"}}'
    names = [gauge.format(engine) for engine in ("default", "audit") for gauge in (in_use, opened)]
    assert gauges(app) == dict.fromkeys(names, 0.0)
    with app.app_context(), db.engine.connect(), db.engine.connect():
        assert gauges(app) == dict(zip(names, [2.0, 2.0, 0.0, 0.0], strict=True))
    with app.app_context(), db.engines["audit"].connect():
        assert gauges(app) == dict(zip(names, [0.0, 2.0, 1.0, 1.0], strict=True))
