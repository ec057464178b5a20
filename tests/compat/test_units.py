"""View by view: which views are units of work, and what stays as it was."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, abort, request, stream_with_context
from sqlalchemy import event, orm
from sqlalchemy.exc import ProgrammingError

from flask_uow import (
    ConfigError,
    DiscardedWork,
    OutsideContext,
    ReadOnly,
    SetupError,
    TransactionLost,
    signals,
)
from flask_uow._request.flask_private import SEPARATE_REQUEST_CONTEXT
from flask_uow.compat import SQLAlchemy
from flask_uow.compat.track_modifications import before_models_committed, models_committed
from flask_uow.testing import isolated, truncated
from tests.compat.conftest import Moved

Make = Callable[..., Moved]


def add_views(moved: Moved, unit: Any = None) -> list[Any]:
    """``/before`` commits nothing, ``/unit`` is a unit if *unit* says so; returns what they see."""
    app, db, User = moved.app, moved.db, moved.User
    seen: list[Any] = []

    def work(name: str) -> tuple[str, int]:
        db.session.add(User(name=name))
        db.session.flush()
        if "abort" in request.args:
            abort(409)
        return "", int(request.args.get("status", 200))

    @app.errorhandler(409)
    def conflict(_: Exception) -> tuple[str, int]:
        seen.append(User.query.count())
        return "", 409

    @app.post("/before/<name>")
    def before(name: str) -> Any:
        return work(name)

    def view(name: str) -> Any:
        return work(name)

    app.add_url_rule("/unit/<name>", "view", unit(view) if unit else view, methods=["POST"])
    return seen


def test_view_commits_nothing_by_itself(moved: Moved) -> None:
    """As before; and its handler sees what it has done."""
    seen = add_views(moved)
    client = moved.app.test_client()
    for query in ("", "?status=404", "?abort"):
        client.post(f"/before/a{query}")
    assert (seen, moved.stored()) == ([1], [])


def test_one_view_becomes_a_unit(moved: Moved) -> None:
    """``@db.unit(commit="on_success")``: it commits, and its handler finds a clean session (P4)."""
    seen = add_views(moved, moved.db.unit(commit="on_success"))
    client = moved.app.test_client()
    for name in ("a", "b?status=404", "c?abort"):
        client.post(f"/unit/{name}")
        client.post("/before/d")
    assert (seen, moved.stored()) == ([1], ["a"])  # the handler of "c" sees "a"


def test_unit_of_a_view_can_be_explicit(moved: Moved) -> None:
    """``@db.unit(...)`` without ``commit``: rolled back at once (P4), and nothing is automatic."""
    seen = add_views(moved, moved.db.unit(isolation_level="SERIALIZABLE"))
    client = moved.app.test_client()
    for query in ("", "?abort"):
        client.post(f"/unit/a{query}")
    assert (seen, moved.stored()) == ([0], [])


def test_whole_app_becomes_automatic(make: Make) -> None:
    """``UOW_COMMIT``: every view is a unit; work that a context loses is named again (P7)."""
    moved = make(UOW_COMMIT="on_success")
    seen = add_views(moved)
    client = moved.app.test_client()
    for name in ("a", "b?status=404", "c?abort"):
        client.post(f"/before/{name}")
    assert (seen, moved.stored()) == ([1], ["a"])
    with pytest.warns(DiscardedWork), moved.app.app_context():
        moved.db.session.add(moved.User(name="lost"))


def test_lost_work_is_not_named(moved: Moved, caplog: pytest.LogCaptureFixture) -> None:
    """An app that commits by itself has always lost it: its log stays as it was."""
    add_views(moved)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moved.app.test_client().post("/before/a")
        with moved.app.app_context():
            moved.db.session.add(moved.User(name="b"))
            moved.db.session.flush()
    assert (moved.stored(), caplog.records) == ([], [])


def test_lost_work_is_sent_to_receivers(moved: Moved) -> None:
    """The signals of units know of it."""
    rolled_back: list[Any] = []

    def receive(sender: Any, **extra: Any) -> None:
        rolled_back.append(sender)

    with signals.unit_rolled_back.connected_to(receive), moved.app.app_context():
        moved.db.session.add(moved.User(name="b"))
        moved.db.session.flush()
    assert rolled_back == [moved.app]


@pytest.mark.skipif(not SEPARATE_REQUEST_CONTEXT, reason="Flask 3.2: a request has its own")
def test_request_shares_the_session_of_a_test(moved: Moved) -> None:
    """The session of the app context, which such a request does not push again."""
    add_views(moved)
    with moved.app.app_context():
        session = moved.db.session()
        moved.app.test_client().post("/before/a")
        assert moved.db.session() is session
        assert [user.name for user in moved.User.query] == ["a"]
        moved.db.session.commit()
    assert moved.stored() == ["a"]


def test_unit_does_not_share_the_session_of_a_test(moved: Moved) -> None:
    """P2: it has its own, and the objects of the test are up to date afterwards."""
    db, User = moved.db, moved.User

    @moved.app.post("/")
    @db.unit(commit="on_success")
    def rename() -> str:
        db.session.scalars(sa.select(User)).one().name = "grace"
        return ""

    with moved.app.app_context():
        ada = User(name="ada")
        db.session.add(ada)
        db.session.commit()
        assert ada.name == "ada"
        moved.app.test_client().post("/")
        assert ada.name == "grace"


def test_context_inside_a_unit(moved: Moved) -> None:
    """It has a session of its own, which commits by itself."""
    app, db, User = moved.app, moved.db, moved.User

    @app.post("/")
    @db.unit(commit="on_success")
    def view() -> tuple[str, int]:
        with app.app_context():
            db.session.add(User(name="inside"))
            db.session.commit()
        db.session.add(User(name="unit"))
        return "", 400

    app.test_client().post("/")
    assert moved.stored() == ["inside"]


def test_block_commits_in_a_view_that_is_no_unit(moved: Moved) -> None:
    """``db.atomic()`` is the whole transaction, with its hooks: block by block."""
    app, db, User = moved.app, moved.db, moved.User
    seen: list[list[str]] = []

    @app.post("/")
    def view() -> tuple[str, int]:
        with db.atomic():
            db.session.add(User(name="block"))
            db.on_commit(lambda: seen.append(moved.stored()))
        db.session.add(User(name="after"))
        return "", 400

    app.test_client().post("/")
    assert (seen, moved.stored()) == ([["block"]], ["block"])


def test_hook_waits_for_the_commit_of_the_app(moved: Moved) -> None:
    """P10, with ``db.session.commit()``; without work it is called at once."""
    app, db, User = moved.app, moved.db, moved.User
    seen: list[str] = []

    @app.post("/")
    def view() -> str:
        db.on_commit(seen.append, "at once")
        assert seen == ["at once"]
        db.session.add(User(name="ada"))
        db.on_commit(seen.append, "committed")
        db.on_rollback(seen.append, "rolled back")
        assert seen == ["at once"]
        db.session.commit()
        db.session.add(User(name="bob"))
        db.on_commit(seen.append, "never")
        db.on_rollback(seen.append, "lost")
        return ""

    app.test_client().post("/")
    assert (seen, moved.stored()) == (["at once", "committed", "lost"], ["ada"])


def test_read_only_view(moved: Moved) -> None:
    """The other options of ``@db.unit`` hold, too."""
    app, db, User = moved.app, moved.db, moved.User

    @app.post("/")
    @db.unit(read_only=True)
    def view() -> str:
        db.session.add(User(name="ada"))
        with pytest.raises(ReadOnly):
            db.session.commit()
        return ""

    assert app.test_client().post("/").status_code == 200


def test_streams(moved: Moved) -> None:
    """The body of a unit reads with the session of its view (P9); another body has a new one."""
    app, db, User = moved.app, moved.db, moved.User
    with app.app_context():
        db.session.add_all([User(name="ada"), User(name="bob")])
        db.session.commit()

    def view() -> Any:
        session, first = db.session(), User.query.order_by(User.id).first()

        def body() -> Iterator[str]:
            yield from (user.name for user in User.query.order_by(User.id))
            if db.session() is session:
                db.session.refresh(first)
                yield first.name

        return stream_with_context(body())

    app.add_url_rule("/before", "before", lambda: view())
    app.add_url_rule("/unit", "unit", db.unit(commit="on_success")(view))
    client = app.test_client()
    bodies = [client.get("/before").text, client.get("/unit").text]
    has_new_context = SEPARATE_REQUEST_CONTEXT and not version("flask").startswith("3.0.")
    assert bodies == ["adabob" if has_new_context else "adabobada", "adabobada"]


def test_lost_options(moved: Moved) -> None:
    """A decorator without ``functools.wraps`` has lost them: a sentence, and a plain 500."""

    def careless(view: Any) -> Any:
        return lambda: view()

    @careless
    @moved.db.unit(commit="on_success")
    def view() -> str:
        moved.db.session.add(moved.User(name="ada"))
        return ""

    moved.app.add_url_rule("/", "view", view, methods=["POST"])
    assert moved.app.test_client().post("/").status_code == 500
    moved.app.testing = True
    with pytest.raises(ConfigError, match=r"has lost its '@db.unit"):
        moved.app.test_client().post("/")


def test_commit_that_stores_nothing(make: Make, postgresql_url: str) -> None:
    """P3: the server had thrown the transaction away after an error that the view has swallowed."""
    moved = make(SQLALCHEMY_BINDS={"server": postgresql_url})
    session = moved.db.session
    with moved.app.app_context():
        server = {"bind": moved.db.engines["server"]}
        session.execute(sa.text("CREATE TEMPORARY TABLE t (n int)"), bind_arguments=server)
        with pytest.raises(ProgrammingError):
            session.execute(sa.text("SELECT no_such_column"), bind_arguments=server)
        with pytest.raises(TransactionLost):
            session.commit()


@pytest.mark.parametrize("automatic", [False, True])
def test_events_of_the_session(automatic: bool, moved: Moved) -> None:
    """P8: ``event.listen(db.session, ...)`` at import, before any app."""
    db, heard = SQLAlchemy(), []
    event.listen(db.session, "before_commit", lambda _: heard.append("commit"))
    app = Flask("later")
    app.config["SQLALCHEMY_DATABASE_URI"] = moved.app.config["SQLALCHEMY_DATABASE_URI"]
    db.init_app(app)

    def view() -> str:
        db.session.execute(sa.text("INSERT INTO compat_user (id, name) VALUES (1, 'ada')"))
        if not automatic:
            db.session.commit()
        return ""

    commit: Any = "on_success" if automatic else "explicit"
    app.add_url_rule("/", "view", db.unit(commit=commit)(view), methods=["POST"])
    assert app.test_client().post("/").status_code == 200
    assert (heard, moved.stored()) == (["commit"], ["ada"])


def test_signals_of_savepoints(make: Make) -> None:
    """A savepoint that is released is not committed; of one that is rolled back, nothing is."""
    moved = make(SQLALCHEMY_TRACK_MODIFICATIONS=True)
    app, db, User = moved.app, moved.db, moved.User
    sent: list[Any] = []

    def receive(_: Any, changes: Any) -> None:
        sent.append([model.name for model, _ in changes])

    before = before_models_committed.connected_to(receive)
    with before, models_committed.connected_to(receive), app.app_context():
        db.session.add(User(name="before"))
        with db.session.begin_nested():
            db.session.add(User(name="kept"))
            with db.session.begin_nested() as inner:
                db.session.add(User(name="undone"))
                db.session.flush()
                inner.rollback()
        assert sent == []
        db.session.commit()
        assert sent == [["before", "kept"]] * 2
        db.session.commit()
    assert len(sent) == 2


def test_signals_of_a_unit(make: Make) -> None:
    """The automatic commit sends them, with the changes of its own flush."""
    moved = make(SQLALCHEMY_TRACK_MODIFICATIONS=True, UOW_COMMIT="on_success")
    sent: list[Any] = []

    @moved.app.post("/<name>")
    def view(name: str) -> tuple[str, int]:
        moved.db.session.add(moved.User(name=name))
        return "", int(request.args.get("status", 200))

    def receive(_: Any, changes: Any) -> None:
        sent.append([[model.name, operation] for model, operation in changes])

    with models_committed.connected_to(receive):
        for path in ("/a?status=400", "/b"):
            moved.app.test_client().post(path)
    assert sent == [[["b", "insert"]]]


def test_session_of_a_test_on_one_connection(moved: Moved) -> None:
    """A fixture that many projects have: all is rolled back after the test, commits included."""
    app, db, User = moved.app, moved.db, moved.User
    with app.app_context():
        before = db.session
        connection = db.engine.connect()
        transaction = connection.begin()
        options = {"bind": connection, "join_transaction_mode": "create_savepoint"}
        db.session = db._make_scoped_session(options=options)

        @app.post("/")
        def view() -> str:
            db.session.add(User(name="ada"))
            db.session.commit()
            return ""

        assert app.test_client().post("/").status_code == 200
        assert [user.name for user in User.query] == ["ada"]
        assert moved.stored() == []
        db.session.remove()
        transaction.rollback()
        connection.close()
        db.session = before
        assert User.query.all() == []


def test_session_for_the_registry(moved: Moved) -> None:
    """One that the app has made with SQLAlchemy is refused; what the sentence names is accepted."""
    session = moved.db.session
    with moved.app.app_context():
        with pytest.raises(SetupError, match=r"Make it with 'db.session.session_factory\("):
            session.registry.set(orm.Session(moved.db.engine))
        made = session.session_factory(autoflush=False)
        session.registry.set(made)
        assert session() is made


@pytest.mark.parametrize("kit", [isolated, truncated])
@pytest.mark.parametrize("several", [False, True])
def test_kit_for_tests(kit: Any, several: bool, make: Make) -> None:
    """What a view has committed in a block of ``flask_uow.testing`` is gone after it."""
    moved = make(**({"SQLALCHEMY_BINDS": {"other": "sqlite://"}} if several else {}))
    app, db, User = moved.app, moved.db, moved.User

    @app.post("/")
    def view() -> str:
        db.session.add(User(name="ada"))
        db.session.commit()
        return str(User.query.count())

    with kit(db, app=app):
        assert app.test_client().post("/").text == "1"
    assert moved.stored() == []


def test_no_context() -> None:
    """The sentence of the core."""
    db = SQLAlchemy()
    with pytest.raises(OutsideContext, match="outside of a Flask context"):
        db.session.add(object())


@pytest.mark.parametrize(
    "model_class", [orm.DeclarativeBase, orm.DeclarativeBaseNoMeta, "User", object()]
)
def test_wrong_model_class(model_class: Any) -> None:
    """A base has to be a class of the app."""
    with pytest.raises(ConfigError, match=r"not a class of the app. Write 'class Base"):
        SQLAlchemy(model_class=model_class)
