"""P7: outside of a dispatched request nothing commits by itself, and what is lost is named."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable

import click
import pytest
from flask import Flask, copy_current_request_context, request_finished
from flask.testing import FlaskClient
from sqlalchemy import delete, insert, select, text, update

from flask_uow import Database, DiscardedWork
from tests.conftest import MakeApp
from tests.support.databases import anywhere, concurrently
from tests.support.engines import checked_out
from tests.support.models import Post, User
from tests.support.threads import in_thread
from tests.support.witness import Witness


def test_app_context_commits_nothing(app: Flask, db: Database, witness: Witness) -> None:
    """Work that nobody committed is rolled back, and a warning counts it by class."""
    with pytest.warns(DiscardedWork, match=r"1 Post \(new\), 2 User \(new\)"), app.app_context():
        db.session.add_all([User(name="ada"), User(name="bob"), Post(title="first")])
    assert (witness.names(), witness.titles()) == ([], [])
    assert checked_out() == 0


def test_flushed_work_is_named_as_well(app: Flask, db: Database, witness: Witness) -> None:
    """It makes no difference what was sent to the database already."""
    with pytest.warns(DiscardedWork, match=r"2 User \(new\)"), app.app_context():
        db.session.add(User(name="ada"))
        db.session.flush()
        db.session.add(User(name="bob"))
    assert witness.names() == []


@pytest.mark.parametrize("flushed", [True, False])
def test_changed_and_deleted_objects_are_named(
    flushed: bool, app: Flask, db: Database, witness: Witness
) -> None:
    """The warning tells new, changed and deleted apart."""
    witness.store(User(name="ada"), User(name="bob"))
    expected = r"1 User \(changed\), 1 User \(deleted\)"
    with pytest.warns(DiscardedWork, match=expected), app.app_context():
        ada, bob = db.session.scalars(select(User).order_by(User.name))
        ada.email = "ada@example.com"
        db.session.delete(bob)
        if flushed:
            db.session.flush()
    assert witness.ask(select(User.email)) == [None, None]


@pytest.mark.parametrize(
    "statement",
    [
        insert(User).values(name="bob"),
        update(User).values(email="new"),
        delete(User),
        text("UPDATE users SET email = 'new'"),
    ],
)
def test_statements_are_named(
    statement: object, app: Flask, db: Database, witness: Witness
) -> None:
    """Of what ``execute()`` sent, the classes are not known, but it is named."""
    witness.store(User(name="ada"))
    with pytest.warns(DiscardedWork, match="SQL statements"), app.app_context():
        db.session.execute(statement)  # type: ignore[call-overload]
    assert witness.ask(select(User.name, User.email)) == [("ada", None)]


@pytest.mark.parametrize("how", ["nothing", "read", "commit", "rollback", "expunge", "nested"])
def test_no_warning_where_nothing_is_lost(
    how: str, app: Flask, db: Database, witness: Witness
) -> None:
    """Reading, committing and undoing by hand are fine. (Warnings are errors in these tests.)"""
    witness.store(User(name="ada"))
    with app.app_context():
        db.session.scalars(select(User)).all()
        if how not in {"nothing", "read"}:
            db.session.add(User(name="bob"))
        if how == "commit":
            db.session.commit()
        elif how == "rollback":
            db.session.flush()
            db.session.rollback()
        elif how == "expunge":
            db.session.expunge_all()
        elif how == "nested":
            db.session.commit()
            with db.session.begin_nested():
                db.session.scalars(select(User)).all()
    committed = how in {"commit", "nested"}
    assert witness.names() == (["ada", "bob"] if committed else ["ada"])


def test_no_warning_beside_an_error(app: Flask, db: Database, witness: Witness) -> None:
    """Who leaves the context with an exception knows that the work did not get done."""
    with pytest.raises(LookupError), app.app_context():  # noqa: PT012
        db.session.add(User(name="ada"))
        db.session.flush()
        raise LookupError
    assert witness.names() == []


def test_work_after_a_commit_is_lost_and_named(app: Flask, db: Database, witness: Witness) -> None:
    """A commit in the middle stores what came before, and only that."""
    with pytest.warns(DiscardedWork, match=r": 1 Post \(new\)\."), app.app_context():
        db.session.add(User(name="ada"))
        db.session.commit()
        db.session.add(Post(title="lost"))
    assert (witness.names(), witness.titles()) == (["ada"], [])


def test_request_context_that_is_never_dispatched_commits_nothing(
    app: Flask, db: Database, witness: Witness
) -> None:
    """``test_request_context()``, and what socket servers push round their events."""
    with pytest.warns(DiscardedWork, match=r"1 User \(new\)"), app.test_request_context():
        db.session.add(User(name="ada"))
    assert witness.names() == []


@anywhere
@pytest.mark.parametrize("rule", ["always", "explicit"])
def test_rule_of_the_app_is_for_requests(
    rule: str, make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """Neither "always" nor "explicit" speaks of other contexts: no commit, and a warning."""
    app = make_app(UOW_COMMIT=rule)
    for context in (app.app_context(), app.test_request_context()):
        with pytest.warns(DiscardedWork, match=r"1 User \(new\)"), context:
            db.session.add(User(name="ada"))
    assert witness.names() == []


def run_command(app: Flask, work: Callable[[], object]) -> BaseException | None:
    app.cli.command("work")(lambda: click.echo(work()))
    result = app.test_cli_runner().invoke(args=["work"])
    assert result.output != ""
    return result.exception


def test_command_commits_nothing(app: Flask, db: Database, witness: Witness) -> None:
    """``flask COMMAND`` that forgets to commit is told so."""
    with pytest.warns(DiscardedWork, match=r"1 User \(new\)"):
        assert run_command(app, lambda: db.session.add(User(name="ada"))) is None
    assert witness.names() == []
    assert checked_out() == 0


def test_command_that_commits_is_stored(app: Flask, db: Database, witness: Witness) -> None:
    """``db.session.commit()`` is what a command says."""

    def work() -> None:
        db.session.add(User(name="ada"))
        db.session.commit()

    assert run_command(app, work) is None
    assert witness.names() == ["ada"]


def test_view_function_that_is_only_called_commits_nothing(
    app: Flask, db: Database, witness: Witness
) -> None:
    """Calling a view in a test is no request."""

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        return ""

    with pytest.warns(DiscardedWork), app.test_request_context("/", method="POST"):
        create()
    assert witness.names() == []


@concurrently
def test_thread_with_a_copied_request_context_commits_nothing(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The copy is a context of its own that Flask does not dispatch."""

    @app.post("/")
    def create() -> str:
        @copy_current_request_context
        def work() -> None:
            db.session.add(User(name="thread"))

        with pytest.warns(DiscardedWork, match=r"1 User \(new\)"):
            in_thread(work)
        db.session.add(User(name="view"))
        return ""

    assert client.post("/").status_code == 200
    assert witness.names() == ["view"]


@anywhere
@pytest.mark.parametrize(
    "leave",
    [
        pytest.param(lambda: click.get_current_context().exit(), id="click"),
        pytest.param(lambda: sys.exit(0), id="sys.exit"),
    ],
)
def test_command_that_exits_early_is_warned_as_well(
    leave: Callable[[], object], app: Flask, db: Database, witness: Witness
) -> None:
    """An exit with success is an ordinary end, though Python makes an exception of it."""

    @app.cli.command("work")
    def work() -> None:
        db.session.add(User(name="ada"))
        leave()

    with pytest.warns(DiscardedWork, match=r"1 User \(new\)"):
        assert app.test_cli_runner().invoke(args=["work"]).exit_code == 0
    assert witness.names() == []


def test_work_of_a_request_finished_receiver_is_stored(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """That signal is sent before the commit."""

    def receiver(*_: object, **__: object) -> None:
        db.session.add(Post(title="receiver"))

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        return ""

    with request_finished.connected_to(receiver, app):
        assert client.post("/").status_code == 200
    assert (witness.names(), witness.titles()) == (["ada"], ["receiver"])


@pytest.mark.parametrize("flushed", [True, False])
def test_work_of_teardown_functions_is_lost_and_named(
    flushed: bool, app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """They run after the answer: what they write without a commit is too late."""

    @app.teardown_request
    def teardown(_: BaseException | None) -> None:
        db.session.add(Post(title="too late"))
        if flushed:
            db.session.flush()

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        return ""

    with pytest.warns(DiscardedWork, match=r": 1 Post \(new\)\."):
        assert client.post("/").status_code == 200
    assert (witness.names(), witness.titles()) == (["ada"], [])


@anywhere
def test_request_is_never_warned_about(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """What a dispatched request rolls back, it was told to: no warning, whatever the reason."""

    @app.post("/<reason>")
    def create(reason: str) -> tuple[str, int]:
        db.session.add(User(name="ada"))
        db.session.flush()
        if reason == "rollback_only":
            db.set_rollback_only()
        if reason == "error":
            raise LookupError
        return "", 200 if reason == "rollback_only" else 400

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for reason in ("rollback_only", "error", "status"):
            client.post(f"/{reason}")
    assert witness.names() == []


@anywhere
def test_lost_work_is_logged_each_time_with_its_place(
    app: Flask, db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Python shows a warning once; a worker loses work of the same kind with every job."""
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        for name in ("ada", "bob", "eve"):
            _lose(app, db, name)
    assert len(shown) == 1
    assert shown[0].filename == __file__
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
    for record in caplog.records:
        assert record.name == "flask_uow._unit.unit"
        message = record.getMessage()
        assert message.startswith("Uncommitted work was rolled back: 1 User (new). ")
        assert f"{__file__}:{shown[0].lineno} in _lose" in message


@anywhere
def test_lost_work_is_shown_each_time_where_logging_is_not_configured(
    app: Flask, db: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the warning is shown: Python would print a log record to stderr, too."""
    monkeypatch.setattr(logging.getLogger("flask_uow"), "propagate", False)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        for name in ("ada", "bob", "eve"):
            _lose(app, db, name)
    assert len(shown) == 3
    assert capsys.readouterr().err == ""


def _lose(app: Flask, db: Database, name: str) -> None:
    with app.app_context():
        db.session.add(User(name=name))


def test_warning_says_what_to_write(app: Flask, db: Database) -> None:
    """It names the remedy."""
    with pytest.warns(DiscardedWork, match=r"call 'db\.session\.commit\(\)'"), app.app_context():
        db.session.add(User(name="ada"))
