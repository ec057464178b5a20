"""P8: ``commit()``, ``rollback()``, savepoints and connections mean what SQLAlchemy says."""

from __future__ import annotations

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient
from sqlalchemy import event, insert, inspect, select, text
from sqlalchemy.exc import IntegrityError

from flask_uow import Database
from tests.support.databases import concurrently, on
from tests.support.engines import checked_out
from tests.support.models import Post, User
from tests.support.witness import Witness


def test_explicit_commit_stands_though_the_view_fails(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """What the view committed is stored at once; what came later is undone."""

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="kept"))
        db.session.commit()
        assert witness.names() == ["kept"]
        db.session.add(User(name="undone"))
        db.session.flush()
        raise LookupError

    assert client.post("/").status_code == 500
    assert witness.names() == ["kept"]


def test_work_after_an_explicit_commit_is_a_new_transaction_of_the_same_unit(
    app: Flask, db: Database, client: FlaskClient, witness: Witness, traffic: list[str]
) -> None:
    """The session stays, the second transaction commits with the answer."""

    @app.post("/")
    def create() -> str:
        first = db.session()
        db.session.add(User(name="first"))
        db.session.commit()
        assert db.session() is first
        db.session.add(User(name="second"))
        return ""

    assert client.post("/").status_code == 200
    assert witness.names() == ["first", "second"]
    assert (traffic.count("BEGIN"), traffic.count("COMMIT")) == (2, 2)


def test_explicit_rollback_undoes_only_what_came_before(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """Later work of the view is committed."""

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="undone"))
        db.session.flush()
        db.session.rollback()
        db.session.add(User(name="kept"))
        return ""

    assert client.post("/").status_code == 200
    assert witness.names() == ["kept"]


def test_explicit_commit_that_fails_can_be_caught(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """A view that handles the error itself rolls back, goes on and is committed."""
    witness.store(User(name="ada"))

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        try:
            db.session.commit()
        except IntegrityError:
            db.session.rollback()
        db.session.add(User(name="bob"))
        return ""

    assert client.post("/").status_code == 200
    assert witness.names() == ["ada", "bob"]


def test_savepoint_that_is_rolled_back_takes_only_its_own_work(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """``begin_nested()``: the error inside is caught, the rest of the view is stored."""
    witness.store(User(name="ada"))

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="before"))
        db.session.flush()
        with pytest.raises(IntegrityError), db.session.begin_nested():
            db.session.add(User(name="ada"))
        with db.session.begin_nested():
            db.session.add(User(name="inside"))
        db.session.add(User(name="behind"))
        return ""

    assert client.post("/").status_code == 200
    assert witness.names() == ["ada", "before", "behind", "inside"]


def test_release_of_a_savepoint_commits_nothing(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """A savepoint that ended well is undone with its unit."""

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="before"))
        db.session.flush()
        with db.session.begin_nested():
            db.session.add(User(name="inside"))
        raise LookupError

    assert client.post("/").status_code == 500
    assert witness.names() == []


def test_savepoint_that_was_left_open_is_committed_with_the_unit(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The commit of the unit is the outermost one, as ``Session.commit()`` is."""

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="before"))
        db.session.flush()
        db.session.begin_nested()
        db.session.add(User(name="inside"))
        return ""

    assert client.post("/").status_code == 200
    assert witness.names() == ["before", "inside"]


@pytest.mark.parametrize("kind", ["construct", "text", "connection"])
def test_core_statements_belong_to_the_unit(
    kind: str, app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """They are committed with the answer, and undone with an error."""

    @app.post("/<name>")
    def create(name: str) -> str:
        if kind == "construct":
            db.session.execute(insert(User), {"name": name})
        elif kind == "text":
            db.session.execute(text("INSERT INTO users (name) VALUES (:name)"), {"name": name})
        else:
            db.session.connection().execute(insert(User), {"name": name})
        if name == "bad":
            raise LookupError
        return ""

    assert client.post("/bad").status_code == 500
    assert client.post("/good").status_code == 200
    assert witness.names() == ["good"]


@concurrently
def test_engine_connection_is_a_transaction_of_its_own(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """``db.engine.connect()`` commits when told so, whatever becomes of the unit."""

    @app.post("/")
    def create() -> str:
        with db.engine.connect() as connection:
            connection.execute(insert(Post), {"title": "kept"})
            connection.commit()
            connection.execute(insert(Post), {"title": "undone"})
        with db.engine.begin() as connection:
            connection.execute(insert(Post), {"title": "begun"})
        db.session.add(User(name="ada"))
        db.session.flush()
        raise LookupError

    assert client.post("/").status_code == 500
    assert (witness.names(), witness.titles()) == ([], ["begun", "kept"])
    assert checked_out() == 0


def test_automatic_commit_does_not_expire_loaded_objects(
    app: Flask, db: Database, client: FlaskClient, witness: Witness, traffic: list[str]
) -> None:
    """A hook reads what the view loaded and made, without any SQL."""
    witness.store(User(name="ada", email="ada@example.com"))
    users: list[User] = []
    read: list[str] = []

    def look() -> None:
        traffic.clear()
        read.extend(f"{user.id}:{user.name}" for user in users)

    @app.post("/")
    def create() -> str:
        users.append(db.session.scalars(select(User)).one())
        users.append(User(name="bob"))
        db.session.add(users[1])
        db.on_commit(look)
        return ""

    assert client.post("/").status_code == 200
    assert read == ["1:ada", "2:bob"]
    assert traffic == []


def test_objects_stay_attached_after_the_automatic_commit(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """A hook may lazy-load what the view did not."""
    witness.store(User(name="ada", posts=[Post(title="first")]))
    users: list[User] = []
    read: list[str] = []

    @app.post("/")
    def create() -> str:
        users.append(db.session.scalars(select(User)).one())
        users[0].email = "new"
        db.on_commit(lambda: read.extend(post.title for post in users[0].posts))
        return ""

    assert client.post("/").status_code == 200
    assert read == ["first"]
    assert checked_out() == 0


def test_explicit_commit_expires_as_sqlalchemy_says(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The next look at an object reads what others have written since, as everywhere."""
    witness.store(User(name="ada"))

    @app.post("/")
    def create() -> str:
        user = db.session.get_one(User, 1)
        db.session.commit()
        assert inspect(user).expired
        return user.name

    assert client.post("/").text == "ada"


@on("sqlite-file", "postgresql", "mariadb")
@pytest.mark.parametrize("expire", [True, False])
def test_option_of_the_session_is_as_before_after_the_automatic_commit(
    expire: bool, app: Flask, db: Database, client: FlaskClient
) -> None:
    """``expire_on_commit`` is the user's own, and is left as it was found."""
    seen: list[bool] = []

    @app.after_request
    def after(response: Response) -> Response:
        seen.append(db.session().expire_on_commit)
        return response

    @app.post("/")
    def create() -> str:
        db.session().expire_on_commit = expire
        db.session.add(User(name="ada"))
        return ""

    client.post("/")
    assert seen == [expire]


def test_events_of_the_session_are_sent(app: Flask, db: Database, client: FlaskClient) -> None:
    """Listeners for flush, commit and rollback see the automatic ones."""
    seen: list[str] = []

    @app.post("/<name>")
    def create(name: str) -> str:
        session = db.session()
        for point in ("before_flush", "before_commit", "after_commit", "after_rollback"):
            event.listen(session, point, lambda *_, point=point: seen.append(point))
        db.session.add(User(name=name))
        db.session.flush()
        if name == "bad":
            raise LookupError
        return ""

    client.post("/good")
    assert seen == ["before_flush", "before_commit", "after_commit"]
    seen.clear()
    client.post("/bad")
    assert seen == ["before_flush", "after_rollback"]


def test_begin_as_a_block_commits_at_its_end(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """``with db.session.begin():`` is SQLAlchemy's, and later work is committed as well."""

    @app.post("/")
    def create() -> str:
        with db.session.begin():
            db.session.add(User(name="inside"))
        assert witness.names() == ["inside"]
        db.session.add(User(name="behind"))
        return ""

    assert client.post("/").status_code == 200
    assert witness.names() == ["behind", "inside"]


def test_session_that_the_view_closed_is_committed_as_closed(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """``close()`` undoes and detaches; what is added behind it is stored."""

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="undone"))
        db.session.flush()
        db.session.close()
        db.session.add(User(name="kept"))
        return ""

    assert client.post("/").status_code == 200
    assert witness.names() == ["kept"]


def test_session_maker_makes_sessions_that_belong_to_nobody(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """``db.sessionmaker()`` is closed and committed by who made it, after the unit as well."""

    @app.post("/")
    def create() -> str:
        with db.sessionmaker.begin() as session:
            session.add(User(name="own"))
        raise LookupError

    assert client.post("/").status_code == 500
    assert witness.names() == ["own"]
    assert checked_out() == 0


@on("sqlite-file", "postgresql", "mariadb")
def test_no_listener_makes_each_statement_slower(app: Flask, db: Database) -> None:
    """With a listener on an engine, SQLAlchemy looks for others at each statement."""
    with app.app_context():
        db.session.execute(text("SELECT 1"))
        # The listeners of the tests are on the class.
        assert not vars(db.engine).get("_has_events", False)
