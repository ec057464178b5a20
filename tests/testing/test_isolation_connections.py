"""``testing.isolated()`` on a server, for code that works below the session.

Cursors of the driver, settings of the engine, and what a COMMIT does beside storing.
"""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import NullPool, event, insert, make_url, select, text
from sqlalchemy.exc import DBAPIError, DisconnectionError, IntegrityError

from flask_uow import Database, IsolationError, testing
from tests.conftest import MakeApp
from tests.support.databases import TestDatabase, on
from tests.support.models import Base, User
from tests.support.witness import Witness

servers = on("postgresql", "mariadb")
drivers = pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])

INSERT = "INSERT INTO users (name) VALUES ('{}')"


def add(name: str) -> Any:
    return insert(User).values(name=name)


def names(db: Database) -> list[str]:
    return sorted(db.session.scalars(select(User.name)))


@pytest.fixture
def client(app: Flask, db: Database) -> FlaskClient:
    """Stores a user for each POST."""

    @app.post("/<name>")
    def create(name: str) -> str:
        db.session.add(User(name=name))
        return ""

    return app.test_client()


# Cursors of the driver ----------------------------------------------------------------------------


@servers
def test_cursors_of_the_driver(app: Flask, db: Database, witness: Witness) -> None:
    """Their transaction ends by their connection, and an error in it ends no other one."""
    with testing.isolated(db, app=app), app.app_context():
        db.session.add(User(name="unit"))
        db.session.commit()
        for name, end in [("lost", "rollback"), ("kept", "commit"), ("closed", "close")]:
            connection: Any = db.engine.raw_connection()
            with connection.cursor() as cursor:
                cursor.execute(INSERT.format(name))
            getattr(connection, end)()
            connection.close()
        connection = db.engine.raw_connection()
        cursor = connection.cursor()
        with pytest.raises(db.engine.dialect.loaded_dbapi.Error):
            cursor.execute("INSERT INTO no_such_table VALUES (1)")
        connection.rollback()
        cursor.execute("SELECT name FROM users ORDER BY name")
        assert [row[0] for row in cursor] == ["kept", "unit"]
        connection.close()
        assert names(db) == ["kept", "unit"]
    assert witness.names() == []


@servers
def test_a_cursor_in_the_transaction_of_a_session(app: Flask, db: Database) -> None:
    """Also where it is the first to write."""
    with testing.isolated(db, app=app), app.app_context():
        cursor: Any = db.session.connection().connection.cursor()
        cursor.execute(INSERT.format("lost"))
        db.session.rollback()
        assert names(db) == []


@servers
def test_a_cursor_that_outlives_the_isolation_is_told(app: Flask, db: Database) -> None:
    """It was opened inside."""
    with app.app_context(), testing.isolated(db):
        connection: Any = db.engine.raw_connection()
        cursor = connection.cursor()
    with pytest.raises(IsolationError, match="'default' was used after its isolation"):
        cursor.execute(INSERT.format("late"))
    connection.close()


@on("postgresql")
@drivers
def test_copy(make_app: MakeApp, database: TestDatabase, driver: str) -> None:
    """It writes, without a statement that could be read."""
    db = Database(Base)
    app = make_app(db, url=with_driver(database, driver))
    with testing.isolated(db, app=app), app.app_context():
        for end in [db.session.rollback, db.session.commit]:
            cursor: Any = db.session.connection().connection.cursor()
            if driver == "psycopg":
                with cursor.copy("COPY users (name) FROM STDIN") as copy:
                    copy.write_row(["ada"])
            else:
                import io

                cursor.copy_expert("COPY users (name) FROM STDIN", io.StringIO("ada\n"))
            end()
            assert names(db) == (["ada"] if end == db.session.commit else [])


def with_driver(database: TestDatabase, driver: str) -> str:
    url = make_url(database.url).set(drivername=f"postgresql+{driver}")
    return url.render_as_string(hide_password=False)


@on("postgresql")
def test_a_transaction_block_of_psycopg(app: Flask, db: Database) -> None:
    """It commits, and is a savepoint where its connection is in a transaction."""
    with testing.isolated(db, app=app), app.app_context():
        connection: Any = db.engine.raw_connection()
        with connection.transaction():
            connection.execute(INSERT.format("kept"))
        connection.rollback()
        connection.execute(INSERT.format("lost"))
        with connection.transaction():
            connection.execute(INSERT.format("lost, too"))
        connection.rollback()
        connection.close()
        assert names(db) == ["kept"]


@servers
def test_a_cursor_of_the_server(app: Flask, db: Database) -> None:
    """Other code may use the connection before its last row."""
    with testing.isolated(db, app=app), app.app_context():
        with db.engine.begin() as connection:
            connection.execute(insert(User), [{"name": str(number)} for number in range(20)])
        found = []
        with db.engine.connect() as connection:
            streaming = connection.execution_options(stream_results=True, max_row_buffer=2)
            for (name,) in streaming.execute(select(User.name).order_by(User.id)):
                found.append(name)
                if len(found) in {3, 9}:
                    with db.independent() as session:
                        session.add(User(name=f"after {name}"))
        assert len(found) == 20
        assert len(names(db)) == 22


# Transactions -------------------------------------------------------------------------------------


@servers
def test_a_savepoint_lasts_while_others_write(
    app: Flask, db: Database, client: FlaskClient
) -> None:
    """Also if its transaction has only read."""
    with testing.isolated(db, app=app), app.app_context():
        with db.session.begin_nested():
            assert names(db) == []
            assert client.post("/ada").status_code == 200
            with db.engine.begin() as connection:
                connection.execute(add("core"))
        db.session.add(User(name="grace"))
        db.session.commit()
        assert names(db) == ["ada", "core", "grace"]


@on("postgresql")
def test_deferred_constraints_are_checked_by_a_commit(
    app: Flask, db: Database, witness: Witness
) -> None:
    """And not before it, in each transaction."""
    with testing.isolated(db, app=app), app.app_context():
        db.session.execute(
            text(
                "CREATE TABLE nodes (id INTEGER PRIMARY KEY,"
                " parent INTEGER REFERENCES nodes DEFERRABLE INITIALLY DEFERRED)"
            )
        )
        db.session.commit()
        for number in [1, 3]:
            db.session.execute(text(f"INSERT INTO nodes VALUES ({number}, {number + 1})"))
            with pytest.raises(IntegrityError):
                db.session.commit()
            db.session.rollback()
            db.session.execute(text(f"INSERT INTO nodes VALUES ({number}, {number + 1})"))
            with db.independent() as session:
                session.add(User(name=f"independent {number}"))
            db.session.execute(text(f"INSERT INTO nodes VALUES ({number + 1}, NULL)"))
            db.session.commit()
        assert db.session.scalar(text("SELECT count(*) FROM nodes")) == 4
        assert len(names(db)) == 2
    assert witness.names() == []


@servers
def test_an_error_in_autocommit(app: Flask, db: Database) -> None:
    """Of a write and of a read; the next statement stands on its own."""
    with testing.isolated(db, app=app), app.app_context():
        autocommit = db.engine.execution_options(isolation_level="AUTOCOMMIT")
        with autocommit.connect() as connection:
            connection.execute(add("ada"))
            with pytest.raises(IntegrityError):
                connection.execute(add("ada"))
            connection.execute(add("grace"))
            with pytest.raises(DBAPIError):
                connection.execute(text("SELECT no_such_column FROM users"))
            connection.execute(add("joan"))
        assert names(db) == ["ada", "grace", "joan"]


@servers
def test_set_transaction_is_refused(app: Flask, db: Database) -> None:
    """The server would refuse it after the first statement, and abort the transaction."""
    with testing.isolated(db, app=app), app.app_context():
        with pytest.raises(IsolationError, match="SET TRANSACTION"):
            db.session.execute(text("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"))
        db.session.add(User(name="ada"))
        db.session.commit()
        assert names(db) == ["ada"]


@on("postgresql")
@drivers
def test_a_hidden_commit_is_told(
    make_app: MakeApp, database: TestDatabase, witness: Witness, driver: str
) -> None:
    """The rows stay, and the error of the test says why."""
    db = Database(Base)
    app = make_app(db, url=with_driver(database, driver))
    with pytest.raises(IsolationError, match="'default' around a test had ended before"):
        with testing.isolated(db, app=app), app.app_context(), db.engine.connect() as connection:
            connection.exec_driver_sql(f"{INSERT.format('ada')}; COMMIT")
    assert witness.names() == ["ada"]
    with app.app_context():
        db.session.execute(text("DELETE FROM users"))
        db.session.commit()
    assert witness.names() == []


@on("postgresql")
def test_a_server_that_goes_away(app: Flask, db: Database, witness: Witness) -> None:
    """The end of isolation is no other error, and the next one has a new connection."""
    for name in ["ada", "grace"]:
        with testing.isolated(db, app=app), app.app_context():
            db.session.add(User(name=name))
            db.session.commit()
            process = db.session.scalar(text("SELECT pg_backend_pid()"))
            witness.ask(f"SELECT pg_terminate_backend({process}, 5000)")
            with pytest.raises(DBAPIError):
                db.session.execute(text("SELECT 1"))
    assert witness.names() == []


# Engines ------------------------------------------------------------------------------------------


@servers
@pytest.mark.parametrize("is_psycopg2", [False, True])
def test_an_engine_in_autocommit(
    make_app: MakeApp, database: TestDatabase, witness: Witness, is_psycopg2: bool
) -> None:
    """Each statement is committed, in isolation and after it, and isolation undoes it."""
    if is_psycopg2 and database.name != "postgresql":
        pytest.skip("a driver of PostgreSQL")
    db = Database(Base)
    url = with_driver(database, "psycopg2") if is_psycopg2 else database.url
    app = make_app(db, url=url, SQLALCHEMY_ENGINE_OPTIONS={"isolation_level": "AUTOCOMMIT"})
    with testing.isolated(db, app=app), app.app_context():
        with db.engine.connect() as connection:
            connection.execute(add("ada"))
            connection.rollback()
        with db.engine.execution_options(isolation_level="READ COMMITTED").connect() as connection:
            connection.execute(add("lost"))
            connection.rollback()
        assert names(db) == ["ada"]
        assert witness.names() == []
    assert witness.names() == []
    with app.app_context(), db.engine.connect() as connection:
        connection.execute(add("grace"))
        assert witness.names() == ["grace"]


@pytest.mark.slow
@servers
@pytest.mark.parametrize(
    "options",
    [
        {"poolclass": NullPool},
        {"pool_pre_ping": True},
        {"isolation_level": "SERIALIZABLE"},
        {"execution_options": {"isolation_level": "AUTOCOMMIT"}},
    ],
    ids=str,
)
def test_options_of_engines(
    make_app: MakeApp, witness: Witness, options: dict[str, object]
) -> None:
    """Isolation undoes what is committed with them."""
    db = Database(Base)
    app = make_app(db, SQLALCHEMY_ENGINE_OPTIONS=options)
    with testing.isolated(db, app=app), app.app_context():
        db.session.add(User(name="ada"))
        db.session.commit()
        with db.engine.begin() as connection:
            connection.execute(add("core"))
        assert names(db) == ["ada", "core"]
        assert witness.names() == []
    assert witness.names() == []


@servers
@pytest.mark.parametrize("is_psycopg2", [False, True])
def test_a_connection_that_a_listener_refuses(
    make_app: MakeApp, database: TestDatabase, is_psycopg2: bool
) -> None:
    """The checkout is tried again, with no new connection to the server."""
    if is_psycopg2 and database.name != "postgresql":
        pytest.skip("a driver of PostgreSQL")
    db = Database(Base)
    app = make_app(db, url=with_driver(database, "psycopg2") if is_psycopg2 else database.url)
    refused: list[object] = []

    def refuse_once(*_: object) -> None:
        if not refused:
            refused.append(1)
            raise DisconnectionError

    with testing.isolated(db, app=app), app.app_context():
        event.listen(db.engine, "checkout", refuse_once)
        with db.engine.begin() as connection:
            connection.execute(add("ada"))
        assert refused
        assert names(db) == ["ada"]


@servers
def test_a_changed_session_does_not_outlive_the_test(app: Flask, db: Database) -> None:
    """Advisory locks and variables survive a rollback. The connection does not (P13)."""
    with app.app_context():
        is_postgresql = db.engine.dialect.name == "postgresql"
        identity = text(f"SELECT {'pg_backend_pid' if is_postgresql else 'connection_id'}()")
        lock = text("SELECT pg_advisory_lock(42)" if is_postgresql else "SET @tenant = 42")

        def process() -> object:
            with testing.isolated(db):
                return db.session.scalar(identity)

        first = process()
        assert process() == first
        with testing.isolated(db):
            db.session.execute(lock)
            db.session.commit()
        assert process() != first
