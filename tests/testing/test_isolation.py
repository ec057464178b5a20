"""``testing.isolated()``: the code notices nothing, and nothing is left of it."""

from __future__ import annotations

import gc
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, abort, stream_with_context
from flask.testing import FlaskClient
from sqlalchemy import StaticPool, create_engine, event, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from flask_uow import (
    ConfigNotice,
    Database,
    IsolationError,
    OutsideContext,
    Rollback,
    SetupError,
    testing,
)
from flask_uow._engine.plain_reads import is_deferring
from flask_uow.testing import shared_pool
from flask_uow.testing.isolation import undone
from tests.conftest import MakeApp
from tests.support.databases import TestDatabase, anywhere, concurrently, on
from tests.support.models import Base, Post, User
from tests.support.witness import Witness

servers = on("postgresql", "mariadb")


@pytest.fixture
def client(app: Flask, db: Database) -> FlaskClient:
    """The client of an app with the views of these tests."""

    @app.get("/")
    def names() -> list[str]:
        return list(db.session.scalars(select(User.name).order_by(User.name)))

    @app.post("/<name>")
    def add(name: str) -> str:
        db.session.add(User(name=name))
        return ""

    @app.post("/<name>/<int:status>")
    def fail(name: str, status: int) -> str:
        db.session.add(User(name=name))
        db.session.flush()
        if status == 500:
            raise ZeroDivisionError
        abort(status)

    @app.errorhandler(IntegrityError)
    def conflict(_: Exception) -> tuple[str, int]:
        return "", 409

    return app.test_client()


@pytest.fixture
def isolated(app: Flask, db: Database, witness: Witness) -> Iterator[None]:
    """Isolation around a test, which may not have changed the database at its end."""
    witness.store(User(name="before"))
    with testing.isolated(db, app=app):
        yield
        assert witness.names() == ["before"]
    assert witness.names() == ["before"]
    assert witness.count(Post) == 0
    with app.app_context():
        assert db.session.scalars(select(User.name)).all() == ["before"]


def names(client: FlaskClient) -> Any:
    return client.get("/").json


# The code notices nothing -----------------------------------------------------------------------


@concurrently
@pytest.mark.usefixtures("isolated")
def test_requests_commit_and_roll_back(client: FlaskClient) -> None:
    """Each one finds what earlier ones have committed; a rollback undoes its own work alone."""
    assert client.post("/ada").status_code == 200
    assert client.post("/grace/400").status_code == 400
    assert client.post("/joan/500").status_code == 500
    assert client.post("/ada").status_code == 409
    assert client.post("/emmy").status_code == 200
    assert names(client) == ["ada", "before", "emmy"]


@concurrently
@pytest.mark.usefixtures("isolated")
def test_rows_of_the_test_survive_a_rollback_of_a_request(
    app: Flask, db: Database, client: FlaskClient
) -> None:
    """What it has committed in a context of its own, or in one that stays pushed."""
    with app.app_context(), db.atomic():
        db.session.add(User(name="ada"))
    assert client.post("/grace/500").status_code == 500
    assert names(client) == ["ada", "before"]
    with app.app_context():
        db.session.add(User(name="joan"))
        db.session.commit()
        assert client.post("/joan").status_code == 409
        assert client.post("/emmy").status_code == 200
        assert db.session.scalars(select(User.name).order_by(User.name)).all() == [
            *("ada", "before", "emmy", "joan")
        ]


@concurrently
@pytest.mark.usefixtures("isolated")
def test_a_pushed_context_is_not_a_trap(app: Flask, db: Database, client: FlaskClient) -> None:
    """The test reads, a request writes, the test reads again and writes: fresh rows, no lock."""
    with app.app_context():
        before = db.session.scalars(select(User)).one()
        assert client.post("/ada").status_code == 200
        assert db.session.scalars(select(User.name).order_by(User.name)).all() == ["ada", "before"]
        before.email = "b@example.org"
        db.session.commit()
        assert client.post("/grace/500").status_code == 500
        assert names(client) == ["ada", "before"]
        assert before.email == "b@example.org"


@concurrently
@pytest.mark.usefixtures("isolated")
def test_blocks_and_savepoints(app: Flask, db: Database, client: FlaskClient) -> None:
    """``atomic()``, ``Rollback`` and ``begin_nested()``, also after an error in them."""

    @app.post("/blocks")
    def blocks() -> str:
        db.session.add(User(name="a"))
        with db.atomic():
            db.session.add(User(name="b"))
            db.session.flush()
            raise Rollback
        with pytest.raises(IntegrityError), db.session.begin_nested():
            db.session.add(User(name="before"))
        with db.atomic():
            db.session.add(User(name="c"))
        return ""

    assert client.post("/blocks").status_code == 200
    assert names(client) == ["a", "before", "c"]


@concurrently
@pytest.mark.usefixtures("isolated")
def test_explicit_commits_and_core(app: Flask, db: Database, client: FlaskClient) -> None:
    """``commit()`` in the middle of a request, and connections of the app's own."""

    @app.post("/commits")
    def commits() -> str:
        db.session.add(User(name="kept"))
        db.session.commit()
        db.session.add(User(name="lost"))
        db.session.flush()
        abort(400)

    with app.app_context():
        with db.engine.begin() as connection:
            connection.execute(User.__table__.insert(), {"name": "core"})  # type: ignore[attr-defined]
        with db.engine.connect() as connection:
            connection.execute(User.__table__.insert(), {"name": "forgotten"})  # type: ignore[attr-defined]
        autocommit = db.engine.execution_options(isolation_level="AUTOCOMMIT")
        with autocommit.connect() as connection:
            connection.execute(User.__table__.insert(), {"name": "at once"})  # type: ignore[attr-defined]
    client.post("/commits")
    assert names(client) == ["at once", "before", "core", "kept"]


@servers
@pytest.mark.usefixtures("isolated")
def test_independent_rows_survive_the_rollback_of_the_unit(
    app: Flask, db: Database, client: FlaskClient
) -> None:
    """Also where the unit has written before, and with the keys that they got the first time."""
    keys: list[int] = []

    @app.post("/audited")
    def audited() -> str:
        db.session.add(User(name="lost"))
        db.session.flush()
        for name in ["one", "two"]:
            with db.independent() as session:
                user = User(name=name, posts=[Post(title=name)])
                session.add(user)
                session.flush()
                keys.append(user.id)
        abort(400)

    assert client.post("/audited").status_code == 400
    assert names(client) == ["before", "one", "two"]
    with app.app_context():
        found = db.session.scalars(select(User.id).where(User.name != "before").order_by(User.id))
        assert found.all() == keys
        assert db.session.scalars(select(Post.title).order_by(Post.title)).all() == ["one", "two"]
    assert client.post("/ada").status_code == 200  # its key is a new one
    assert names(client) == ["ada", "before", "one", "two"]


@servers
@pytest.mark.usefixtures("isolated")
def test_independent_rows_of_a_block_that_is_undone(
    app: Flask, db: Database, client: FlaskClient
) -> None:
    """The savepoint is the code's own; the unit around it is stored."""

    @app.post("/audited")
    def audited() -> str:
        db.session.add(User(name="kept"))
        db.session.flush()
        with db.independent() as session:
            session.add(User(name="independent"))
        return ""

    assert client.post("/audited").status_code == 200
    assert names(client) == ["before", "independent", "kept"]


@concurrently
@pytest.mark.usefixtures("isolated")
def test_hooks_and_retries(app: Flask, db: Database, client: FlaskClient) -> None:
    """``on_commit`` functions run after the commit of a request, and a conflict is retried."""
    ran: list[str] = []
    app.config["UOW_RETRY_PAUSE"] = 0.001

    @app.post("/hooks")
    def hooks() -> str:
        db.session.add(User(name="ada"))
        db.on_commit(ran.append, "committed")
        db.on_rollback(ran.append, "rolled back")
        return ""

    @app.post("/hooks/fail")
    def hooks_fail() -> str:
        db.session.add(User(name="grace"))
        db.on_commit(ran.append, "committed")
        db.on_rollback(ran.append, "rolled back")
        abort(400)

    @app.post("/retried")
    @db.unit(retries=2)
    def retried() -> str:
        ran.append("run")
        db.session.add(User(name="joan"))
        db.session.flush()
        if ran.count("run") < 2:
            raise conflict_of(db)
        return ""

    client.post("/hooks")
    client.post("/hooks/fail")
    assert ran == ["committed", "rolled back"]
    assert client.post("/retried").status_code == 200
    assert names(client) == ["ada", "before", "joan"]


def conflict_of(db: Database) -> OperationalError:
    """An error that means a conflict with another transaction, on each database."""
    driver: Any = db.engine.dialect.loaded_dbapi
    name = db.engine.dialect.name
    if name == "postgresql":
        error = driver.errors.SerializationFailure("could not serialize access")
    elif name == "sqlite":
        error = driver.OperationalError("database is locked")
    else:
        error = driver.OperationalError(1213, "Deadlock found")
    return OperationalError("UPDATE", {}, error)


@concurrently
@pytest.mark.usefixtures("isolated")
def test_threads_with_the_client(client: FlaskClient, app: Flask) -> None:
    """Eight at once, each with requests that commit and that are rolled back."""
    failed: list[object] = []

    def work(number: int) -> None:
        own = app.test_client()
        for turn in range(5):
            failed.append(own.post(f"/{number}-{turn}").status_code != 200)
            failed.append(own.post(f"/{number}-{turn}-x/500").status_code != 500)
            failed.append(b"before" not in own.get("/").data)

    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(failed)
    assert len(names(client)) == 41


@concurrently
@pytest.mark.usefixtures("isolated")
def test_coroutine_views_and_streams(app: Flask, db: Database, client: FlaskClient) -> None:
    """Sync code in ``async def`` views, and a body that reads after the commit."""

    @app.post("/async")
    async def view() -> str:
        db.session.add(User(name="ada"))
        return ""

    @app.post("/stream")
    def stream() -> Response:
        db.session.add(User(name="grace"))

        def body() -> Iterator[str]:
            yield from sorted(db.session.scalars(select(User.name)))

        return Response(stream_with_context(body()))

    assert client.post("/async").status_code == 200
    assert client.post("/stream").text == "adabeforegrace"
    assert names(client) == ["ada", "before", "grace"]


@concurrently
@pytest.mark.usefixtures("isolated")
def test_an_error_outside_of_a_transaction_ends_nothing(
    app: Flask, db: Database, client: FlaskClient
) -> None:
    """A read that fails, in a context of the test and in a request that goes on."""

    @app.post("/swallowed")
    def swallowed() -> str:
        with pytest.raises(DBAPIError):
            db.session.execute(text("SELECT x FROM no_such_table"))
        return str(db.session.scalar(text("SELECT 1")))

    client.post("/ada")
    assert client.post("/swallowed").text == "1"
    with app.app_context():
        with pytest.raises(DBAPIError):
            db.session.execute(text("SELECT x FROM no_such_table"))
        db.session.rollback()
    assert names(client) == ["ada", "before"]


@concurrently
@pytest.mark.usefixtures("isolated")
def test_a_failed_flush_and_work_after_it(app: Flask, db: Database, client: FlaskClient) -> None:
    """A swallowed error makes the commit fail; an error handler can write."""

    @app.post("/swallow")
    def swallow() -> str:
        db.session.add(User(name="lost"))
        db.session.flush()
        db.session.add(User(name="before"))
        with pytest.raises(IntegrityError):
            db.session.flush()
        return ""

    @app.post("/handled")
    def handled() -> str:
        db.session.add(User(name="lost"))
        db.session.flush()
        raise LookupError

    @app.errorhandler(LookupError)
    def handle(_: Exception) -> tuple[str, int]:
        db.session.add(User(name="noted"))
        return "", 503

    assert client.post("/swallow").status_code == 500
    assert client.post("/handled").status_code == 503
    assert names(client) == ["before", "noted"]


@concurrently
@pytest.mark.usefixtures("isolated")
def test_disposing_of_the_engine_does_not_end_isolation(
    app: Flask, db: Database, client: FlaskClient
) -> None:
    """Code that forks, or that starts workers, does so."""
    client.post("/ada")
    with app.app_context():
        db.engine.dispose()
    client.post("/grace")
    assert names(client) == ["ada", "before", "grace"]


@concurrently
@pytest.mark.usefixtures("isolated")
def test_listeners_of_the_app_for_its_pool_are_called(app: Flask, db: Database) -> None:
    """One for "checkout" may choose the tenant."""
    lent: list[object] = []
    with app.app_context():
        event.listen(db.engine, "checkout", lambda *_: lent.append(1))
        db.session.scalars(select(User)).all()
    assert lent


@on("postgresql")
def test_several_engines(
    make_app: MakeApp, database: TestDatabase, tmp_path: Path, witness: Witness
) -> None:
    """Each in its own way: a server and a file."""
    path = f"sqlite:///{tmp_path}/other.db"
    db = Database(Base)
    app = make_app(db, SQLALCHEMY_BINDS={"other": path})
    other = create_engine(path)
    Base.metadata.create_all(other)
    with testing.isolated(db, app=app), app.app_context():
        for engine in db.engines.values():
            with engine.begin() as connection:
                connection.execute(User.__table__.insert(), {"name": "ada"})  # type: ignore[attr-defined]
    assert witness.names() == []
    with other.connect() as connection:
        assert connection.scalars(select(User.name)).all() == []
    other.dispose()


# Nothing is left ----------------------------------------------------------------------------------


@concurrently
def test_without_isolation_the_rows_stay(client: FlaskClient, witness: Witness) -> None:
    """So the tests above show something."""
    client.post("/ada")
    assert witness.names() == ["ada"]


@concurrently
def test_an_error_in_the_block_undoes_it_too(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """It passes through."""

    def fail() -> None:
        with testing.isolated(db, app=app):
            client.post("/ada")
            assert witness.names() == []
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert witness.names() == []
    client.post("/ada")
    assert witness.names() == ["ada"]


@concurrently
def test_the_engine_is_as_before(app: Flask, db: Database, client: FlaskClient) -> None:
    """Its pool, its listeners, and whether its transactions are deferred."""
    with app.app_context():
        engine = db.engine

    def state() -> list[object]:
        steps = ("do_execute", "do_executemany", "do_execute_no_params", "do_connect")
        dispatch: Any = engine.dialect.dispatch
        listeners = [len(list(getattr(dispatch, step))) for step in steps]
        return [engine.pool, is_deferring(engine.dialect), listeners]

    client.get("/")
    before = state()
    for _ in range(2):
        with testing.isolated(db, app=app):
            client.post("/ada")
            assert state() != before
        assert state() == before


@concurrently
def test_work_that_no_code_has_ended(app: Flask, db: Database, witness: Witness) -> None:
    """A context that is still pushed at the end, with a transaction of its own."""
    with app.app_context():
        with testing.isolated(db, app=app):
            db.session.add(User(name="ada"))
            db.session.flush()
        assert db.session.scalars(select(User.name)).all() == []
        assert witness.names() == []
        db.session.add(User(name="grace"))
        db.session.commit()
    assert witness.names() == ["grace"]


@concurrently
def test_a_connection_that_outlives_the_isolation_is_told(
    app: Flask, db: Database, database: TestDatabase
) -> None:
    """It belongs to a transaction, or to a file, that is gone."""
    with app.app_context(), testing.isolated(db):
        connection = db.engine.connect()
        connection.execute(text("SELECT 1"))
    if database.name == "sqlite-file":
        with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
            connection.execute(text("SELECT 1"))
    else:
        with pytest.raises(IsolationError, match="'default' was used after its isolation"):
            connection.execute(text("SELECT 1"))
    connection.close()


@concurrently
def test_keys_and_several_isolations(app: Flask, db: Database, client: FlaskClient) -> None:
    """One after the other, and each begins with an empty table."""
    for _ in range(3):
        with testing.isolated(db, app=app):
            assert client.post("/ada").status_code == 200
            assert names(client) == ["ada"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@concurrently
def test_a_forked_child_is_not_in_it(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """It cannot use the connection of its parent. On SQLite, it may not open the file."""
    with testing.isolated(db, app=app):
        # A name that no other test has stored: while MariaDB still has a deleted row of this name,
        # an INSERT locks the index around it, and the child would wait.
        client.post("/from-the-parent")
        gc.collect()
        child = os.fork()
        if not child:
            try:
                response = client.post("/from-the-child")
                os.write(2, response.data)
                os._exit(response.status_code != 200)
            finally:
                os._exit(2)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert "from-the-parent" in names(client)


@concurrently
def test_each_example_begins_with_what_was_prepared(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """Inside of an isolation: only the example is undone, also what it has left open."""
    with testing.isolated(db, app=app):
        client.post("/prepared")
        for _ in range(3):
            with undone(db, app=app):
                assert names(client) == ["prepared"]
                client.post("/example")
                assert client.post("/failing/500").status_code == 500
                assert names(client) == ["example", "prepared"]
                thread = threading.Thread(target=client.post, args=["/thread"])
                thread.start()
                thread.join()
                assert names(client) == ["example", "prepared", "thread"]
        assert client.post("/after").status_code == 200
        assert names(client) == ["after", "prepared"]
    assert witness.names() == []


@concurrently
def test_requests_find_what_was_not_committed(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """With ``commit_before_requests()``, and only with it."""
    with testing.isolated(db, app=app), app.app_context():
        with testing.commit_before_requests(db, app=app):
            db.session.add(User(name="ada"))
            assert names(client) == ["ada"]
            assert client.post("/grace/500").status_code == 500
            assert db.session.scalars(select(User.name)).all() == ["ada"]
        db.session.add(User(name="joan"))
        assert names(client) == ["ada"]
        db.session.rollback()
    assert witness.names() == []


# Bad input ----------------------------------------------------------------------------------------


@concurrently
def test_isolation_does_not_nest(app: Flask, db: Database, client: FlaskClient) -> None:
    """The outer one stays."""
    with testing.isolated(db, app=app):
        client.post("/ada")
        with pytest.raises(IsolationError, match="'default' is isolated already"):
            with testing.isolated(db, app=app):
                pass  # pragma: no cover
        assert names(client) == ["ada"]


@anywhere
def test_an_app_is_needed(app: Flask, db: Database) -> None:
    """The current one, or a given one, that is registered."""
    with pytest.raises(OutsideContext), testing.isolated(db):
        pass  # pragma: no cover
    with pytest.raises(SetupError), testing.isolated(db, app=Flask("other")):
        pass  # pragma: no cover
    with app.app_context(), db.test_isolation():
        db.session.scalars(select(User)).all()


@concurrently
def test_a_connection_in_use_is_refused(app: Flask, db: Database, client: FlaskClient) -> None:
    """What is done on it would stay. A session that has only read is no obstacle."""
    with app.app_context():
        db.session.scalars(select(User)).all()
        with testing.isolated(db):
            client.post("/ada")
        db.session.remove()
        with db.engine.connect() as connection:
            connection.execute(select(User))
            with pytest.raises(IsolationError, match=r"(?s)in use.*test_isolation\.py"):
                with testing.isolated(db):
                    pass  # pragma: no cover
    with testing.isolated(db, app=app):
        client.post("/ada")


@on("mariadb")
def test_statements_that_commit_by_themselves_are_refused(
    app: Flask, db: Database, client: FlaskClient
) -> None:
    """DDL on MariaDB and MySQL."""
    with testing.isolated(db, app=app):
        client.post("/ada")
        with app.app_context():
            for statement in ["CREATE TABLE x (id INTEGER)", "/* x */ truncate users"]:
                with pytest.raises(IsolationError, match="commits before and after"):
                    db.session.execute(text(statement))
            db.session.execute(text("CREATE TEMPORARY TABLE x (id INTEGER)"))
            db.session.rollback()
        assert names(client) == ["ada"]


@on("postgresql")
def test_ddl_is_undone_on_postgresql(app: Flask, db: Database, witness: Witness) -> None:
    """It belongs to the transaction there."""
    with testing.isolated(db, app=app), app.app_context():
        db.session.execute(text("CREATE TABLE made_in_a_test (id INTEGER)"))
        db.session.commit()
        db.session.execute(text("SELECT * FROM made_in_a_test"))
    with pytest.raises(DBAPIError):
        witness.ask("SELECT * FROM made_in_a_test")


@servers
@pytest.mark.parametrize("statement", ["COMMIT", "rollback", "BEGIN", "-- x\nSTART TRANSACTION"])
def test_the_end_of_a_transaction_as_sql_is_refused(
    app: Flask, db: Database, client: FlaskClient, statement: str
) -> None:
    """It would end that of the whole test."""
    with testing.isolated(db, app=app):
        client.post("/ada")
        with app.app_context(), pytest.raises(IsolationError, match="sent as SQL"):
            db.session.execute(text(statement))
        assert names(client) == ["ada"]


@servers
def test_transactions_that_write_by_turns_are_refused(
    app: Flask, db: Database, client: FlaskClient
) -> None:
    """Savepoints form a stack: the outer one cannot write while the inner one is open."""
    with testing.isolated(db, app=app), app.app_context():
        db.session.add(User(name="outer"))
        db.session.flush()
        with db.independent() as session:
            session.add(User(name="inner"))
            session.flush()
            assert len(db.session.scalars(select(User)).all()) == 2
            db.session.add(User(name="outer again"))
            with pytest.raises(IsolationError, match="write by turns"):
                db.session.flush()
        db.session.rollback()
        assert db.session.scalars(select(User.name)).all() == ["inner"]


def test_a_database_without_known_savepoints_is_refused() -> None:
    """Before anything is sent, and with the way that works."""
    engine = create_engine("postgresql+psycopg://nowhere.invalid/x")
    engine.dialect.name = "oracle"
    with pytest.raises(IsolationError, match=r"'audit'.*'oracle'.*testing\.truncated"):
        with shared_pool.isolate(engine, "audit"):
            pass  # pragma: no cover


@anywhere
def test_a_creator_of_the_app_is_refused(make_app: MakeApp, tmp_path: Path) -> None:
    """Its connections cannot be led to the copy. A pool of the app's own can."""

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(tmp_path / "own.db", check_same_thread=False)

    db = Database(Base)
    with pytest.warns(ConfigNotice):
        app = make_app(db, SQLALCHEMY_ENGINE_OPTIONS={"creator": connect})
    with pytest.raises(IsolationError, match="'creator'"), testing.isolated(db, app=app):
        pass  # pragma: no cover
    db = Database(Base)
    app = make_app(db, SQLALCHEMY_ENGINE_OPTIONS={"poolclass": StaticPool})
    with testing.isolated(db, app=app), app.app_context():
        db.session.add(User(name="ada"))
        db.session.commit()
    with app.app_context():
        assert db.session.scalars(select(User)).all() == []


@anywhere
def test_a_database_in_memory(make_app: MakeApp) -> None:
    """``sqlite://``, as tests often have it."""
    db = Database(Base)
    app = make_app(db, url="sqlite://")
    with app.app_context():
        with db.atomic():
            db.session.add(User(name="before"))
        with db.test_isolation():
            with db.atomic():
                db.session.add(User(name="ada"))
            assert len(db.session.scalars(select(User)).all()) == 2
        assert db.session.scalars(select(User.name)).all() == ["before"]
