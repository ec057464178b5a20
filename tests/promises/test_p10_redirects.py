"""A redirect that is raised inside ``db.atomic()`` leaves the block like a return."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import pytest
from flask import Flask, Response, abort, redirect
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect

from flask_uow import Database
from tests.conftest import MakeApp
from tests.promises.test_p4_retries import conflict
from tests.support.databases import TestDatabase, anywhere, on
from tests.support.faults import Faults
from tests.support.models import User
from tests.support.witness import Witness


class NotModified(HTTPException):
    """An exception of the app's own below 400."""

    code = 304


def _raise_redirect() -> NoReturn:
    raise RequestRedirect("/elsewhere")


def _raise_own() -> NoReturn:
    raise NotModified


def _abort_redirect() -> NoReturn:
    abort(redirect("/elsewhere"))


def _abort_success() -> NoReturn:
    abort(Response("stored", 200))


def _abort_422() -> NoReturn:
    abort(Response("invalid", 422))


def _abort_404() -> NoReturn:
    abort(404)


_WAYS: list[tuple[Callable[[], NoReturn], int]] = [
    (_raise_redirect, 308),
    (_raise_own, 304),
    (_abort_redirect, 302),
    (_abort_success, 200),
]
_FAILURES: list[tuple[Callable[[], NoReturn], int]] = [(_abort_422, 422), (_abort_404, 404)]


@pytest.mark.parametrize("savepoint", [False, True])
@pytest.mark.parametrize(("leave", "status"), _WAYS)
def test_block_keeps_its_work(
    leave: Callable[[], NoReturn],
    status: int,
    savepoint: bool,
    app: Flask,
    db: Database,
    client: FlaskClient,
    witness: Witness,
) -> None:
    """In a request: the block, the blocks around it, and their hooks."""
    ran: list[str] = []

    @app.post("/")
    def create() -> str:
        if savepoint:
            db.session.scalars(select(User)).all()
        with db.atomic():
            db.session.add(User(name="outer"))
            with db.atomic():
                db.session.add(User(name="inner"))
                db.on_commit(ran.append, "hook")
                leave()
        return "not reached"

    assert client.post("/").status_code == status
    assert witness.names() == ["inner", "outer"]
    assert ran == ["hook"]


@anywhere
@pytest.mark.parametrize(("leave", "status"), _FAILURES)
def test_block_that_is_left_by_a_failure_is_undone(
    leave: Callable[[], NoReturn],
    status: int,
    app: Flask,
    db: Database,
    client: FlaskClient,
    witness: Witness,
) -> None:
    """From 400 on, the exception undoes the block, as everywhere."""

    @app.post("/")
    def create() -> str:
        with db.atomic():
            db.session.add(User(name="ada"))
            leave()
        return "not reached"

    @app.post("/caught")
    def catch() -> str:
        try:
            create()
        except HTTPException:
            db.session.add(User(name="after"))
        return "stored"

    assert client.post("/").status_code == status
    assert witness.names() == []
    assert client.post("/caught").status_code == 200
    assert witness.names() == ["after"]


@anywhere
def test_block_that_a_redirect_leaves_keeps_its_work_where_the_view_catches_it(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The work was kept when the block ended, whatever happens to the exception."""

    @app.post("/")
    def create() -> str:
        try:
            with db.atomic():
                db.session.add(User(name="ada"))
                _abort_redirect()
        except HTTPException:
            pass
        return "stored"

    assert client.post("/").status_code == 200
    assert witness.names() == ["ada"]


@pytest.mark.parametrize(("leave", "status"), _WAYS)
def test_outermost_block_commits(
    leave: Callable[[], NoReturn], status: int, app: Flask, db: Database, witness: Witness
) -> None:
    """Outside of a request: as a block, durable or not, and as a decorated function."""
    ran: list[str] = []

    @db.atomic
    def decorated() -> None:
        db.session.add(User(name="decorated"))
        leave()

    @db.atomic(durable=True, retries=1)
    def repeatable() -> None:
        db.session.add(User(name="repeatable"))
        leave()

    with app.app_context():
        with pytest.raises(HTTPException):  # noqa: PT012
            with db.atomic(durable=True):
                db.on_commit(ran.append, "hook")
                db.session.add(User(name="block"))
                leave()
        assert ran == ["hook"]
        with pytest.raises(HTTPException):
            decorated()
        with pytest.raises(HTTPException):
            repeatable()
        assert not db.session.in_transaction()
    assert witness.names() == ["block", "decorated", "repeatable"]


@on("postgresql", "mariadb")
def test_independent_block_commits(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """``db.independent()`` is a block, too."""

    @app.post("/<int:status>")
    def create(status: int) -> str:
        with db.independent() as session:
            session.add(User(name=str(status)))
            abort(Response("", status))
        return "not reached"

    assert client.post("/303").status_code == 303
    assert client.post("/403").status_code == 403
    assert witness.names() == ["303"]


@anywhere
def test_coroutine_function_commits(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """A decorated ``async def`` is the same block."""

    @app.post("/")
    @db.atomic
    async def create() -> str:
        db.session.add(User(name="ada"))
        _abort_redirect()

    assert client.post("/").status_code == 302
    assert witness.names() == ["ada"]


def test_block_whose_end_fails_raises_that_error(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The work cannot be stored, so the redirect would be a lie."""
    witness.store(User(name="ada"))
    app.register_error_handler(IntegrityError, lambda error: ("taken", 409))

    @app.post("/")
    def create() -> str:
        with db.atomic():
            db.session.add(User(name="ada"))
            _abort_redirect()
        return "not reached"

    response = client.post("/")
    assert (response.status_code, response.text) == (409, "taken")
    assert witness.names() == ["ada"]


def test_function_whose_commit_met_a_conflict_is_run_again(
    make_app: MakeApp, db: Database, database: TestDatabase, witness: Witness
) -> None:
    """The redirect leaves only the attempt that is stored."""
    app, attempts = make_app(UOW_RETRY_PAUSE=0.001), []

    @db.atomic(retries=1)
    def create() -> None:
        attempts.append(1)
        db.session.add(User(name="ada"))
        _abort_redirect()

    with app.app_context():
        Faults(db.engine).fail("commit", conflict(database))
        with pytest.raises(HTTPException):
            create()
    assert len(attempts) == 2
    assert witness.names() == ["ada"]


@anywhere
def test_rollback_only_and_the_rule_decide_as_without_a_block(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """A redirect is no failure, but it does not overrule what says that nothing is stored."""

    @app.post("/rule")
    @db.unit(commit=lambda response: response.status_code == 200)
    def by_rule() -> str:
        with db.atomic():
            db.session.add(User(name="rule"))
            _abort_redirect()
        return "not reached"

    @app.post("/mark")
    def by_mark() -> str:
        db.session.add(User(name="before"))
        with db.atomic():
            db.session.add(User(name="inside"))
            db.set_rollback_only()
            _abort_redirect()
        return "not reached"

    assert client.post("/rule").status_code == 302
    assert witness.names() == []
    assert client.post("/mark").status_code == 302
    assert witness.names() == ["before"]
