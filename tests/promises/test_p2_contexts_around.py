"""P2: when a unit commits, units of the contexts around it read their objects again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from contextvars import copy_context
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import ForeignKey, String, event, inspect, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from flask_uow import Database, DiscardedWork
from tests.conftest import MakeApp
from tests.support.databases import TestDatabase, anywhere, concurrently, on
from tests.support.faults import backend_id
from tests.support.models import Post, User
from tests.support.threads import in_thread
from tests.support.witness import Witness


@pytest.fixture(autouse=True)
def stored(database: TestDatabase, app: Flask, witness: Witness) -> None:
    """Two users, and a view that gives each an address."""
    witness.store(User(name="ada"), User(name="bob"))


@pytest.fixture
def app(make_app: MakeApp, db: Database) -> Flask:
    app = make_app()

    @app.post("/<email>")
    def change(email: str) -> str:
        for user in users(db):
            user.email = email
        return ""

    @app.post("/explicit/<email>")
    def commit(email: str) -> str:
        change(email)
        db.session.commit()
        return ""

    @app.post("/failing/<email>")
    def fail(email: str) -> str:
        change(email)
        db.session.flush()
        raise LookupError

    return app


def users(db: Database) -> list[User]:
    return list(db.session.scalars(select(User).order_by(User.name)))


@pytest.mark.parametrize("path", ["/new", "/explicit/new"])
@pytest.mark.parametrize("is_request", [False, True])
def test_objects_of_a_test_show_what_a_request_has_stored(
    is_request: bool, path: str, app: Flask, db: Database, client: FlaskClient
) -> None:
    """The test has pushed an app context or, like pytest-flask, a request context."""
    with app.test_request_context() if is_request else app.app_context():
        ada, bob = users(db)
        assert ada.email is None
        assert client.post(path).status_code == 200
        assert [ada.email, bob.email] == ["new", "new"]
        assert client.post("/newer").status_code == 200
        assert [ada.email, bob.email] == ["newer", "newer"]


@concurrently
def test_listener_that_raises_undoes_no_commit(
    app: Flask, db: Database, witness: Witness, caplog: pytest.LogCaptureFixture
) -> None:
    """What is stored is acknowledged, although an object around it did not expire."""

    def refuse(*_: object) -> None:
        raise LookupError

    with app.app_context():
        ada, _ = users(db)
        event.listen(User, "expire", refuse)
        try:
            with app.app_context(), db.atomic():
                db.session.add(User(name="cid"))
        finally:
            event.remove(User, "expire", refuse)
        assert ada.name == "ada"
    assert witness.names() == ["ada", "bob", "cid"]
    assert "could not be expired" in caplog.text


def test_contexts_further_out_see_it_as_well(app: Flask, db: Database, client: FlaskClient) -> None:
    """Each has objects of its own."""
    with app.app_context():
        outer, _ = users(db)
        with app.test_request_context():
            middle, _ = users(db)
            with app.app_context():
                inner, _ = users(db)
                client.post("/new")
                assert inner.email == "new"
            assert middle.email == "new"
        assert outer.email == "new"
        assert len({outer, middle, inner}) == 3


def test_request_that_stored_nothing_expires_nothing(
    app: Flask, db: Database, client: FlaskClient
) -> None:
    """The transaction of the test continues."""
    with app.app_context():
        ada, _ = users(db)
        assert client.post("/failing/new").status_code == 500
        assert not inspect(ada).expired_attributes
        assert db.session.in_transaction()
        assert ada.email is None


def test_objects_with_changes_keep_them(
    database: TestDatabase, app: Flask, db: Database, client: FlaskClient
) -> None:
    """New, changed and deleted ones; the others are read again."""
    with pytest.warns(DiscardedWork, match=r"1 Post \(new\), 1 User \(changed\)"):
        with app.app_context():
            ada, bob = users(db)
            ada.email = "mine"
            post = Post(title="new", author=None)
            db.session.add(post)
            assert client.post("/new").status_code == 200
            with db.session.no_autoflush:
                assert ada.email == "mine"
                assert post in db.session.new
                assert "email" in inspect(bob).expired_attributes
                if database.name == "postgresql":  # on others, its snapshot shows the same
                    assert bob.email == "new"
    with pytest.warns(DiscardedWork, match=r"1 User \(deleted\)"), app.app_context():
        ada, bob = users(db)
        db.session.delete(ada)
        assert client.post("/newer").status_code == 200
        assert ada in db.session.deleted


class Tree(DeclarativeBase):
    pass


class Parent(Tree):
    __tablename__ = "parents"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    children: Mapped[list[Child]] = relationship(cascade="all, delete-orphan")


class Child(Tree):
    __tablename__ = "children"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    parent_id: Mapped[int] = mapped_column(ForeignKey("parents.id"))


@on("sqlite-file", "postgresql")
def test_change_of_a_child_survives_its_unchanged_parent(
    app: Flask, db: Database, client: FlaskClient
) -> None:
    """SQLAlchemy expires along a relationship with the cascade "all"."""
    with app.app_context():
        Tree.metadata.drop_all(db.engine)
        Tree.metadata.create_all(db.engine)
        with db.atomic():
            parent = Parent(name="parent", children=[Child(name="child"), Child(name="other")])
            db.session.add(parent)
        child, _ = parent.children
        child.name = "changed"
        client.post("/new")
        with db.session.no_autoflush:
            assert "name" in inspect(parent).expired_attributes
            assert child.name == "changed"
            assert child in db.session.dirty
        db.session.commit()
        assert db.session.scalars(select(Child.name).order_by(Child.name)).all() == [
            "changed",
            "other",
        ]


def _block(db: Database) -> Any:
    return db.atomic()


def _savepoint(db: Database) -> Any:
    return db.session.begin_nested()


def _hook(db: Database) -> Any:
    db.session.scalars(select(User)).all()
    db.on_commit(str)
    return nullcontext()


def _lock(db: Database) -> Any:
    db.session.scalars(select(User).where(User.name == "nobody").with_for_update()).all()
    return nullcontext()


@on("postgresql")
@pytest.mark.filterwarnings("ignore::flask_uow.DiscardedWork")
@pytest.mark.parametrize("promise", [_block, _savepoint, _hook, _lock])
def test_transaction_that_is_needed_continues(
    promise: Callable[[Database], Any], app: Flask, db: Database, client: FlaskClient
) -> None:
    """Blocks, savepoints, hooks and locks: the objects are read again, in the same transaction."""
    with app.app_context():
        with promise(db):
            ada, _ = users(db)
            connection = db.session.connection()
            number = backend_id(connection)
            client.post("/new")
            assert ada.email == "new"
            assert db.session.connection() is connection
            assert backend_id(connection) == number


@on("postgresql", "mariadb")
def test_snapshot_that_was_asked_for_stays(app: Flask, db: Database, client: FlaskClient) -> None:
    """A block at REPEATABLE READ reads the same, whatever was stored meanwhile."""
    with app.app_context():
        with db.atomic(isolation_level="REPEATABLE READ"):
            ada, _ = users(db)
            client.post("/new")
            assert ada.email is None
        assert db.session.scalars(select(User.email)).all() == ["new", "new"]


@on("postgresql")
def test_view_around_a_request_sees_what_it_stored(
    app: Flask, db: Database, client: FlaskClient
) -> None:
    """In the transaction of the view, which continues."""

    @app.get("/around")
    def around() -> str:
        ada, _ = users(db)
        transaction = db.session.get_transaction()
        app.test_client().post("/new")
        assert db.session.get_transaction() is transaction
        return str(ada.email)

    assert client.get("/around").text == "new"


def test_block_in_a_context_inside_is_seen(app: Flask, db: Database) -> None:
    """Objects that stayed readable after their own transaction, too."""
    with app.app_context():
        with db.atomic():
            ada, _ = users(db)
        with app.app_context():
            with db.atomic():
                users(db)[0].email = "old"
                with db.atomic():
                    users(db)[0].email = "new"
            assert ada.email == "new"
        with app.app_context():
            assert users(db)[0].email == "new"


@concurrently
def test_rows_that_are_being_read_stay_readable(app: Flask, db: Database) -> None:
    """A job that uses a separate context for each row can continue to read its rows."""
    seen: list[str] = []
    with app.app_context():
        for user in db.session.scalars(
            select(User).order_by(User.name).execution_options(yield_per=1)
        ):
            seen.append(user.name)
            if db.engine.dialect.name != "sqlite":
                with app.app_context(), db.atomic():
                    db.session.add(Post(title=user.name))
            else:
                with app.app_context(), db.atomic(read_only=True):
                    users(db)
    assert seen == ["ada", "bob"]


@anywhere
def test_unit_of_another_thread_is_left_alone(app: Flask, db: Database) -> None:
    """The variables are copied, but the outer unit may be in use."""

    def job() -> None:
        with app.app_context(), db.atomic():
            users(db)[0].email = "new"

    with app.app_context():
        ada, _ = users(db)
        db.session.commit()
        db.session.refresh(ada)
        variables = copy_context()
        in_thread(lambda: variables.run(job))
        assert "email" not in inspect(ada).expired_attributes


@anywhere
def test_flush_around_continues(app: Flask, db: Database, witness: Witness) -> None:
    """A listener of the flush that uses a context of its own, and commits in it."""
    from sqlalchemy import event

    def look(*_: Any) -> None:
        with app.app_context(), db.atomic():
            users(db)

    with app.app_context():
        event.listen(db.session(), "before_flush", look)
        with db.atomic():
            db.session.add(User(name="eve"))
    assert witness.names() == ["ada", "bob", "eve"]


@anywhere
def test_request_that_is_served_has_no_listener(
    app: Flask, db: Database, client: FlaskClient
) -> None:
    """Without a context around it there is nothing to expire, so its commit costs nothing extra."""
    heard: list[bool] = []

    @app.get("/")
    def index() -> str:
        heard.append(bool(db.session().dispatch.after_commit))
        return ""

    client.get("/")
    with app.app_context():
        client.get("/")
    assert heard == [False, True]
