"""Row-level security: the tenant of a request is set in each transaction, and nowhere else."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask, g, request
from sqlalchemy import Connection, MetaData, make_url, select
from sqlalchemy.exc import DBAPIError

from flask_uow import Database
from tests.support import databases
from tests.support.databases import TestDatabase
from tests.support.faults import backend_id
from tests.support.recipes import Recipe, code_under
from tests.support.witness import Witness

HEADING = "Row-level security"


@pytest.fixture
def database(postgresql_url: str) -> Iterator[TestDatabase]:
    """Seen by a role that owns its tables and is no superuser."""
    databases.wipe(postgresql_url, MetaData())
    role = f"uow_tenant_{os.getpid()}"
    administrator = Witness(postgresql_url).engine
    with administrator.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {role}")
        connection.exec_driver_sql(f"GRANT ALL ON SCHEMA public TO {role}")
    url = make_url(postgresql_url).update_query_dict({"options": f"-c role={role}"})
    yield TestDatabase("postgresql", url.render_as_string(hide_password=False))
    databases.wipe(postgresql_url, MetaData())
    with administrator.begin() as connection:
        connection.exec_driver_sql(f"DROP OWNED BY {role}")
        connection.exec_driver_sql(f"DROP ROLE {role}")


@pytest.fixture
def witness(postgresql_url: str) -> Witness:
    """A superuser, who sees the rows of all tenants."""
    return Witness(postgresql_url)


@pytest.fixture
def pool_size() -> int:
    """One connection, which every request gets."""
    return 1


@pytest.fixture
def shop(recipe: Recipe, app: Flask, db: Database, witness: Witness, pool_size: int) -> Any:
    """The recipe, and a row of each tenant."""
    options = {"pool_size": pool_size, "max_overflow": 0, "pool_timeout": 5}
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = options
    names = recipe(HEADING)
    with app.app_context(), db.engine.begin() as connection:
        for statement in code_under(HEADING, "sql").split(";\n"):
            if statement:
                connection.exec_driver_sql(statement)
    _add_views(app, db, names.Invoice)
    witness.store(*(names.Invoice(tenant_id=number, number=f"{number}") for number in (1, 2)))
    return names


def _add_views(app: Flask, db: Database, invoice: Any) -> None:
    @app.before_request
    def choose_tenant() -> None:
        if "tenant" in request.headers:
            g.tenant_id = int(request.headers["tenant"])

    @app.get("/invoices")
    def invoices() -> str:
        return " ".join(db.session.scalars(select(invoice.number).order_by(invoice.id)))

    @app.post("/invoices")
    def create() -> str:
        db.session.add(invoice(number=str(g.get("tenant_id"))))
        db.session.flush()
        return invoices()


def ask(app: Flask, tenant: str | None, method: str = "GET", path: str = "/invoices") -> str:
    headers = {"tenant": tenant} if tenant else {}
    return app.test_client().open(path, method=method, headers=headers).text


def setting_of(connection: Connection) -> Any:
    return connection.exec_driver_sql("SELECT current_setting('app.tenant', true)").scalar()


def test_a_request_sees_the_rows_of_its_tenant(shop: Any, app: Flask, witness: Witness) -> None:
    """By plain reads as well; without a tenant it sees none, on the same connections."""
    for tenant, seen in [("1", "1"), (None, ""), ("2", "2"), (None, ""), ("1", "1")]:
        assert ask(app, tenant) == seen


def test_a_row_belongs_to_the_tenant_of_its_request(
    shop: Any, app: Flask, witness: Witness
) -> None:
    """The server fills its column in."""
    assert ask(app, "2", "POST") == "2 2"
    assert witness.ask("SELECT tenant_id FROM invoices ORDER BY id") == [1, 2, 2]


def test_a_connection_of_its_own_sees_no_tenant(shop: Any, app: Flask, db: Database) -> None:
    """After the request of a tenant, the setting is gone, and its connection is used again."""

    def look() -> int:
        with app.app_context(), db.engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM invoices").scalar() == 0
            assert not setting_of(connection)
            return backend_id(connection)

    before = look()
    for tenant in ("1", "2"):
        ask(app, tenant)
        assert look() == before
        ask(app, tenant, "POST")  # a COMMIT would keep a setting that is not of its transaction
        assert look() == before


def test_each_transaction_of_a_request_has_the_tenant(shop: Any, app: Flask, db: Database) -> None:
    """After a commit, a rollback, a block that was undone, and in a session of its own."""
    invoice = shop.Invoice

    @app.post("/all")
    def everything() -> str:
        def see(session: Any) -> None:
            seen.append(list(session.scalars(select(invoice.number))))

        seen: list[list[str]] = []
        see(db.session)
        db.session.commit()
        see(db.session)
        db.session.rollback()
        with pytest.raises(LookupError), db.atomic():  # noqa: PT012
            see(db.session)
            raise LookupError
        see(db.session)
        db.session.commit()
        with db.independent() as session:
            see(session)
        return str(seen == [["2"]] * 5)

    @app.errorhandler(LookupError)
    def sorry(_error: LookupError) -> str:
        return " ".join(db.session.scalars(select(invoice.number)))

    @app.post("/fail")
    def fail() -> str:
        db.session.add(invoice(number="lost"))
        db.session.flush()
        raise LookupError

    assert ask(app, "2", "POST", "/all") == "True"
    assert ask(app, "1", "POST", "/fail") == "1"


def test_a_row_of_another_tenant_is_refused(shop: Any, app: Flask, db: Database) -> None:
    """And so is one without a tenant."""

    @app.post("/foreign")
    def foreign() -> str:
        with pytest.raises(DBAPIError, match="row-level security"), db.atomic():
            db.session.add(shop.Invoice(number="x", tenant_id=2))
        return "refused"

    assert ask(app, "1", "POST", "/foreign") == "refused"
    assert ask(app, None, "POST", "/foreign") == "refused"


@pytest.mark.parametrize("pool_size", [2])
def test_threads_that_share_the_pool_keep_their_tenants(shop: Any, app: Flask) -> None:
    """Each waits for the connections of the others."""
    start = threading.Barrier(4)

    def visit(number: int) -> set[tuple[str, str]]:
        start.wait()
        tenants = [str((number + step) % 2 + 1) for step in range(10)]
        return {(tenant, ask(app, tenant)) for tenant in tenants}

    with ThreadPoolExecutor(4) as threads:
        seen = set().union(*threads.map(visit, range(4)))
    assert seen == {("1", "1"), ("2", "2")}
