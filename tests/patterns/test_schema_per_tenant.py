"""A schema for each tenant: one engine, and SQL with the schema of the request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, g
from sqlalchemy import MetaData, func, select

from tests.support import databases
from tests.support.databases import TestDatabase
from tests.support.recipes import Recipe
from tests.support.witness import Witness


@pytest.fixture
def database(postgresql_url: str) -> Iterator[TestDatabase]:
    """With the schemas of two tenants."""
    databases.wipe(postgresql_url, MetaData())
    witness = Witness(postgresql_url)
    with witness.engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA acme")
        connection.exec_driver_sql("CREATE SCHEMA blue")
    yield TestDatabase("postgresql", postgresql_url)
    with witness.engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA acme CASCADE")
        connection.exec_driver_sql("DROP SCHEMA blue CASCADE")


@pytest.fixture
def shop(recipe: Recipe, app: Flask) -> Any:
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 1}
    names = recipe("Schema per tenant", create_all=False)
    with app.app_context():
        for schema in ("acme", "blue"):
            engine = names.engine_of(names.db.engine, schema)
            names.TenantBase.metadata.create_all(engine)
    app.before_request(_choose_tenant)
    return names


def _choose_tenant() -> None:
    g.schema = "acme"


def test_a_request_reads_and_writes_in_the_schema_of_its_tenant(
    shop: Any, app: Flask, witness: Witness
) -> None:
    """On one connection, in one transaction, also at another isolation level."""
    invoice, session = shop.Invoice, shop.db.session

    def view(schema: str) -> dict[str, Any]:
        g.schema = schema
        before = list(session.scalars(select(invoice.number)))
        session.add(invoice(number=schema))
        session.flush()
        with shop.db.atomic():
            session.add(invoice(number=f"{schema} 2"))
        after = session.scalar(select(func.count()).select_from(invoice))
        return {"before": before, "after": after}

    app.add_url_rule("/plain/<schema>", "plain", view, methods=["POST"])
    strict = shop.db.unit(isolation_level="SERIALIZABLE")(lambda schema: view(schema))
    app.add_url_rule("/strict/<schema>", "strict", strict, methods=["POST"])
    client = app.test_client()
    for schema in ("acme", "blue"):
        assert client.post(f"/plain/{schema}").json == {"before": [], "after": 2}
        numbers = [schema, f"{schema} 2"]
        assert client.post(f"/strict/{schema}").json == {"before": numbers, "after": 4}
    for schema in ("acme", "blue"):
        stored = witness.ask(f"SELECT DISTINCT number FROM {schema}.invoices ORDER BY number")
        assert stored == [schema, f"{schema} 2"]


def test_a_unit_without_a_tenant_sends_nothing(shop: Any, app: Flask) -> None:
    """It does not read the rows of the last tenant."""
    with app.app_context(), pytest.raises(AttributeError):
        shop.db.session.scalars(select(shop.Invoice)).all()
