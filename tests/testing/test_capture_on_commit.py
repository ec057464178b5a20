"""Hooks are looked at instead of being run; the commit itself is a real one."""

from __future__ import annotations

import pytest
from flask import Flask, abort
from flask.testing import FlaskClient

from flask_uow import Database, Rollback, testing
from flask_uow.errors import BlockRefused, SetupError
from tests.conftest import MakeApp
from tests.support.databases import anywhere, on
from tests.support.models import User
from tests.support.witness import Witness

each_database = on("sqlite-file", "postgresql", "mariadb")


@pytest.fixture
def sent() -> list[str]:
    """The mails that were sent."""
    return []


@pytest.fixture
def client(app: Flask, db: Database, sent: list[str]) -> FlaskClient:
    """Of an app that sends a mail for each user."""

    @app.post("/<name>")
    def create(name: str) -> str:
        db.session.add(User(name=name))
        db.on_commit(sent.append, name)
        db.on_rollback(sent.append, f"not {name}")
        if name == "bad":
            abort(400)
        with db.atomic():
            db.on_commit(sent.append, "undone")
            raise Rollback
        return ""

    return app.test_client()


@each_database
def test_hooks_are_kept_instead_of_run(
    client: FlaskClient, db: Database, sent: list[str], witness: Witness
) -> None:
    """With their functions and arguments, after a real commit; a test may run them later."""
    with testing.capture_on_commit(db) as hooks:
        client.post("/ada")
        assert witness.names() == ["ada"]
        (hook,) = hooks
    assert (hook.function, hook.args, hook.kwargs) == (sent.append, ("ada",), {})
    assert hook.on_commit
    assert sent == []
    hook.run()
    assert sent == ["ada"]
    client.post("/bob")
    assert sent == ["ada", "bob"]
    assert len(hooks) == 1


@each_database
def test_hooks_of_a_rollback_are_kept_too(
    client: FlaskClient, db: Database, sent: list[str], witness: Witness
) -> None:
    """They have effects as well; those of the commit that has not come are dropped."""
    with testing.capture_on_commit(db) as hooks:
        client.post("/bad")
    assert [(hook.on_commit, hook.args) for hook in hooks] == [(False, ("not bad",))]
    assert (sent, witness.names()) == ([], [])


@anywhere
def test_hooks_of_a_failed_commit_are_dropped(
    client: FlaskClient, app: Flask, db: Database
) -> None:
    """Nothing is stored, so nothing is to be told."""
    with testing.fail_commit(db, app=app), testing.capture_on_commit(db) as hooks:
        assert client.post("/ada").status_code == 500
    assert [hook.on_commit for hook in hooks] == [False]


@anywhere
def test_hooks_run_at_the_end_if_wanted(client: FlaskClient, db: Database, sent: list[str]) -> None:
    """After the block, in their order; not after an error."""
    with testing.capture_on_commit(db, run=True):
        client.post("/ada")
        client.post("/bob")
        assert sent == []
    assert sent == ["ada", "bob"]
    capture = testing.capture_on_commit(db, run=True)
    with pytest.raises(ZeroDivisionError), capture as hooks:
        raise ZeroDivisionError(client.post("/eve"))
    assert len(hooks) == 1
    assert sent == ["ada", "bob"]


@anywhere
def test_error_of_a_hook_that_is_run_at_the_end_is_raised(app: Flask, db: Database) -> None:
    """In production it would be logged; a test wants to see it."""
    with app.app_context(), pytest.raises(ZeroDivisionError):
        with testing.capture_on_commit(db, run=True), db.atomic():
            db.on_commit(divmod, 1, 0)


def test_hook_that_waits_for_nothing_is_kept(db: Database, sent: list[str]) -> None:
    """Without a unit it would be called at once; no context is needed."""
    with testing.capture_on_commit(db) as hooks:
        db.on_commit(sent.append, "ada")
        db.on_rollback(sent.append, "never")
    assert [hook.args for hook in hooks] == [("ada",)]
    assert sent == []


@anywhere
def test_hook_counts_when_its_time_comes(app: Flask, db: Database, sent: list[str]) -> None:
    """Not when it was added: a commit in the block, and not one after it."""
    with app.app_context():
        with testing.capture_on_commit(db) as hooks:
            db.session.add(User(name="ada"))
            db.on_commit(sent.append, "ada")
        db.session.commit()
        assert (hooks, sent) == ([], ["ada"])
        db.session.add(User(name="bob"))
        db.on_commit(sent.append, "bob")
        with testing.capture_on_commit(db) as hooks:
            db.session.commit()
        assert ([hook.args for hook in hooks], sent) == ([("bob",)], ["ada"])


@anywhere
def test_hooks_of_one_app(
    client: FlaskClient, make_app: MakeApp, db: Database, sent: list[str]
) -> None:
    """Those of another app run."""
    other = make_app()
    with testing.capture_on_commit(db, app=other) as hooks:
        client.post("/ada")
        with other.app_context():
            db.on_commit(sent.append, "other")
        db.on_commit(sent.append, "no app")
    assert [hook.args for hook in hooks] == [("other",)]
    assert sent == ["ada", "no app"]


def test_blocks_stand_in_one_another(db: Database, sent: list[str]) -> None:
    """The inner one keeps the hooks; whichever ends first, nothing is kept in the end."""
    first, second = testing.capture_on_commit(db), testing.capture_on_commit(db)
    with first as outer:
        db.on_commit(sent.append, "outer")
        with second as inner:
            db.on_commit(sent.append, "inner")
        with pytest.raises(BlockRefused, match="is open already"):
            first.__enter__()
    assert [hook.args for hook in (*outer, *inner)] == [("outer",), ("inner",)]
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    db.on_commit(sent.append, "real")
    assert sent == ["real"]


def test_app_must_be_registered(db: Database) -> None:
    with pytest.raises(SetupError, match="is not registered with this Database"):
        testing.capture_on_commit(db, app=Flask("other"))
