"""Replicas: reads of a request that has not written."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select, text
from sqlalchemy.exc import ProgrammingError

from tests.faults.clusters import cluster, standby_of, wait_until
from tests.support import databases
from tests.support.databases import TestDatabase
from tests.support.recipes import Recipe
from tests.support.witness import Witness

IS_STANDBY = select(func.pg_is_in_recovery())


@pytest.fixture
def replica(database: TestDatabase, models: Any, tmp_path: Path, request: Any) -> Any:
    """Another database with other rows, which shows that it was read."""
    if database.is_sqlite:
        yield f"sqlite:///{tmp_path / 'replica.db'}"
        return
    with databases.own_database(database.url) as url:
        yield url


@pytest.fixture
def shop(recipe: Recipe, replica: str, app: Flask, models: Any, witness: Witness) -> Any:
    names = recipe("Read replicas", replica_url=replica)
    witness.store(models.User(name="primary"))
    models.Base.metadata.create_all(Witness(replica).engine)
    Witness(replica).store(models.User(name="replica"))
    return names


def test_reads_go_to_the_replica_until_the_session_writes(
    shop: Any, app: Flask, models: Any, witness: Witness
) -> None:
    """A request sees its own rows."""
    session, user = shop.db.session, models.User

    def names() -> list[str]:
        return list(session.scalars(select(user.name).order_by(user.id)))

    @app.get("/read")
    def read() -> list[Any]:
        return [names(), session.get(user, 1).name]

    @app.route("/write", methods=["GET", "POST"])
    def write() -> list[Any]:
        before = names()
        session.add(user(name=f"new {len(before)}{before[0]}"))
        return [before, names()]

    @app.get("/lock")
    def lock() -> str:
        locked: str = session.scalars(select(user.name).with_for_update()).first()
        return locked

    @app.get("/text")
    def by_text() -> list[Any]:
        session.execute(text("UPDATE users SET email = 'x'"))
        return names()

    client = app.test_client()
    assert client.get("/read").json == [["replica"], "replica"]
    assert client.get("/lock").text == "primary"
    assert client.post("/write").json == [["primary"], ["primary", "new 1primary"]]
    before, after = client.get("/write").json or ((), ())
    assert before == ["replica"]
    assert after == ["primary", "new 1primary", "new 1replica"]
    assert client.get("/text").json == after
    assert client.get("/read").json == [["replica"], "replica"]  # the next request
    assert len(witness.names()) == 3
    with app.app_context():  # of a command
        assert list(session.scalars(select(user.name).order_by(user.id))) == after


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite-file"], indirect=True)  # its URL is not used
def test_a_standby_serves_every_kind_of_read(recipe: Recipe, app: Flask, models: Any) -> None:
    """Plain reads, and those that need a transaction, also after a view that is read-only."""
    user = models.User
    with cluster() as primary:
        primary.start()
        wait_until(lambda: primary.says("ready to accept connections"), "a primary server")
        with standby_of(primary) as standby:
            app.config["SQLALCHEMY_DATABASE_URI"] = primary.url()
            db = recipe("Read replicas", replica_url=standby.url()).db

            def view(**options: Any) -> tuple[list[str], bool]:
                names = select(user.name).execution_options(**options)
                return list(db.session.scalars(names)), db.session.scalar(IS_STANDBY)

            app.add_url_rule("/plain", "plain", lambda: list(view()))
            app.add_url_rule("/cursor", "cursor", lambda: list(view(yield_per=1)))
            app.add_url_rule("/read-only", "strict", db.unit(read_only=True)(lambda: list(view())))
            Witness(primary.url()).store(user(name="ada"))
            wait_until(lambda: _names_in(Witness(standby.url())) == ["ada"], "the row there")
            client = app.test_client()
            for path in ("/plain", "/read-only", "/cursor", "/plain"):
                assert client.get(path).json == [["ada"], True], path
            with app.app_context():
                for engine in db.engines.values():
                    engine.dispose()


def _names_in(replica: Witness) -> list[str]:
    with contextlib.suppress(ProgrammingError):  # it does not have the table yet
        return replica.names()
    return []
