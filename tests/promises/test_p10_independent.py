"""``db.independent()``: stored whatever becomes of the request around it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from flask import Flask, abort
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError, OperationalError

from flask_uow import BlockRefused, Database, OutsideContext, Rollback, UnitEnded, testing
from tests.support.databases import anywhere, concurrently, on
from tests.support.engines import checked_out
from tests.support.models import Post, User
from tests.support.witness import Witness


@pytest.mark.parametrize("how", ["refused", "aborted", "raised", "marked"])
def test_independent_work_survives_the_request(
    how: str, app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The audit row of a failed login: whatever ends the request, it is stored."""

    @app.post("/")
    def login() -> tuple[str, int]:
        db.session.scalars(select(User)).all()
        with db.independent() as session:
            session.add(Post(title="failed login"))
        db.session.add(User(name="ada"))
        db.session.flush()
        if how == "marked":
            db.set_rollback_only()
        elif how == "aborted":
            abort(401)
        elif how == "raised":
            raise LookupError
        return "", 200 if how == "marked" else 401

    client.post("/")
    assert (witness.names(), witness.titles()) == ([], ["failed login"])


@anywhere
def test_independent_work_survives_a_commit_that_fails(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """It was stored long before."""
    witness.store(User(name="ada"))
    app.register_error_handler(IntegrityError, lambda error: ("", 409))

    @app.post("/")
    def create() -> str:
        with db.independent() as session:
            session.add(Post(title="tried"))
        db.session.add(User(name="ada"))
        return ""

    assert client.post("/").status_code == 409
    assert witness.titles() == ["tried"]


def test_independent_work_is_stored_at_the_end_of_its_block(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """Not with the request; its connection is back in the pool then."""

    @app.post("/")
    def create() -> str:
        with db.independent() as session:
            session.add(Post(title="audit"))
        assert witness.titles() == ["audit"]
        assert checked_out() == 0
        return ""

    assert client.post("/").status_code == 200


@concurrently
def test_independent_session_is_another_one(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """``db.session`` stays what it is; neither sees what the other has not committed."""

    @app.get("/")
    def index() -> str:
        ours = db.session()
        db.session.scalars(select(User)).all()
        with db.independent() as session:
            assert session is not ours
            assert db.session() is ours
            session.add(User(name="ada"))
            session.flush()
            assert db.session.scalars(select(User)).all() == []
        return ""

    assert client.get("/").status_code == 200
    assert witness.names() == ["ada"]


def test_independent_work_that_fails_is_undone(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """As a whole; the request goes on if it catches the error."""
    witness.store(User(name="ada"))

    @app.post("/")
    def create() -> str:
        with pytest.raises(LookupError):  # noqa: PT012
            with db.independent() as session:
                session.add(Post(title="undone"))
                session.flush()
                raise LookupError
        with pytest.raises(IntegrityError):
            with db.independent() as session:
                session.add_all([Post(title="undone"), User(name="ada")])
        assert checked_out() == 0
        db.session.add(User(name="bob"))
        return ""

    assert client.post("/").status_code == 200
    assert (witness.names(), witness.titles()) == (["ada", "bob"], [])


@anywhere
def test_independent_commit_that_fails_is_raised(
    app: Flask, db: Database, witness: Witness
) -> None:
    """Where the block ends; nothing is left open."""
    with app.app_context():
        with testing.fail_commit(db), pytest.raises(IntegrityError, match="on_demand"):
            with db.independent() as session:
                session.add(Post(title="lost"))
        assert checked_out() == 0
    assert witness.titles() == []


@anywhere
def test_rollback_leaves_independent_work_undone(
    app: Flask, db: Database, witness: Witness
) -> None:
    """Without an error; a ``Rollback`` for another block passes, and undoes it as well."""
    with app.app_context():
        with db.independent() as session:
            session.add(Post(title="undone"))
            raise Rollback
        with db.independent() as session:
            session.add(Post(title="stored"))
        around = db.atomic()
        with around:
            with db.independent() as session:
                session.add(Post(title="undone with it"))
                raise Rollback(around)
    assert witness.titles() == ["stored"]


def test_independent_block_in_a_command(app: Flask, db: Database, witness: Witness) -> None:
    """Also inside an ``atomic`` that fails."""
    with app.app_context():
        with pytest.raises(LookupError):  # noqa: PT012
            with db.atomic():
                with db.independent() as session:
                    session.add(Post(title="audit"))
                db.session.add(User(name="ada"))
                db.session.flush()
                raise LookupError
    assert (witness.names(), witness.titles()) == ([], ["audit"])


def test_independent_objects_stay_readable(app: Flask, db: Database) -> None:
    """What was stored can be named in the answer; the session itself is over."""
    with app.app_context():
        with db.independent() as session:
            post = Post(title="audit")
            session.add(post)
        assert (post.title, post.id) == ("audit", 1)
        with pytest.raises(UnitEnded):
            session.scalars(select(Post)).all()


def test_independent_blocks_may_be_nested(app: Flask, db: Database, witness: Witness) -> None:
    """Each has a session of its own."""
    with app.app_context():
        with pytest.raises(LookupError):  # noqa: PT012
            with db.independent() as outer:
                with db.independent() as inner:
                    assert inner is not outer
                    inner.add(Post(title="inner"))
                outer.add(Post(title="outer"))
                raise LookupError
    assert witness.titles() == ["inner"]


@on("sqlite-file", "sqlite-memory")
@pytest.mark.parametrize("around", ["request", "command"])
def test_sqlite_refuses_at_once_where_it_would_wait_for_itself(
    around: str, app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The unit around it has the one write lock; the sentence comes now, not after a timeout."""

    def attempt() -> None:
        db.session.add(User(name="ada"))
        db.session.flush()
        began = time.monotonic()
        with pytest.raises(OperationalError) as caught:
            with db.independent() as session:
                session.add(Post(title="audit"))
        assert time.monotonic() - began < 4  # the timeout is 5
        assert "this thread has the write lock" in str(caught.value)
        assert "Commit that one first, or do all the writing in it" in str(caught.value)

    @app.post("/")
    def create() -> str:
        attempt()
        return ""

    if around == "request":
        assert client.post("/").status_code == 200
    else:
        with app.app_context(), db.atomic():
            attempt()
    assert (witness.names(), witness.titles()) == (["ada"], [])


@on("postgresql", "mariadb")
def test_servers_store_beside_a_unit_that_has_written(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """They lock rows, not databases."""

    @app.post("/")
    def create() -> tuple[str, int]:
        db.session.add(User(name="ada"))
        db.session.flush()
        with db.independent() as session:
            session.add(Post(title="audit"))
        return "", 400

    client.post("/")
    assert (witness.names(), witness.titles()) == ([], ["audit"])


# Bad input ------------------------------------------------------------------------------------


def test_independent_block_needs_a_context(db: Database) -> None:
    """The engine is an app's."""
    with pytest.raises(OutsideContext):
        with db.independent():
            pass


@anywhere
def test_independent_block_is_entered_once(app: Flask, db: Database) -> None:
    """Each ``with`` needs an object of its own."""
    block: Any = db.independent()
    with app.app_context(), block:
        with pytest.raises(BlockRefused, match="is open already"):
            block.__enter__()
