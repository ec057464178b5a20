"""P14: what has broken the reads without a transaction, each with the least that shows it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock, PropertyMock, call

import pytest
from flask import Flask
from sqlalchemy import (
    Connection,
    Engine,
    event,
    func,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import PoolProxiedConnection

from flask_uow import Database
from flask_uow._drivers import postgresql
from flask_uow._drivers.base import Driver
from flask_uow._unit import session as _session
from tests.conftest import MakeApp
from tests.promises.test_p14_transactions import (
    KILL,
    SMALL,
    in_get,
    is_free,
    is_free_in,
    lazily,
    psycopg2,
    small,
)
from tests.support.databases import on
from tests.support.models import Base, User
from tests.support.threads import in_thread
from tests.support.witness import Witness

__all__ = ["psycopg2", "small"]  # fixtures


@lazily
def test_a_connection_that_get_bind_returns_is_the_apps(
    make_app: MakeApp, witness: Witness
) -> None:
    """Another thread cannot have it."""
    given: list[Connection] = []

    class Isolated(Session):
        def get_bind(self, *_: Any, **__: Any) -> Engine | Connection:
            return given[0]

    db = Database(Base, session_options={"class_": Isolated})
    app = make_app(db, SQLALCHEMY_ENGINE_OPTIONS=SMALL)
    witness.store(User(name="ada"))
    with app.app_context(), db.engine.connect() as connection:
        given.append(connection)
        assert db.session.scalars(select(User.name)).all() == ["ada"]
        assert not in_thread(lambda: is_free_in(app, db))
        assert not connection.closed


@pytest.mark.parametrize(
    ("database", "driver"),
    [("sqlite-file", ""), ("postgresql", "psycopg"), ("postgresql", "psycopg2")],
    indirect=["database"],
)
def test_a_default_that_is_asked_for_before_an_insert(
    driver: str, make_app: MakeApp, witness: Witness, psycopg2: str
) -> None:
    """SQLAlchemy asks on the cursor of the INSERT, and fetches the value from there."""

    class Own(DeclarativeBase):
        pass

    class Numbered(Own):
        __tablename__ = "numbered"
        __table_args__ = ({"implicit_returning": False},)
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, default=func.abs(7))

    db = Database(Own)
    app = make_app(db, **({"url": psycopg2} if driver == "psycopg2" else {}))

    def view() -> None:
        db.session.add(Numbered())

    try:
        assert in_get(app, view) == 200
        assert witness.ask("SELECT id FROM numbered") == [7]
    finally:
        with app.app_context():
            db.drop_all()
            db.engine.dispose()


# Connections that are lost ------------------------------------------------------------------------


@on("postgresql")
def test_a_block_begins_on_a_living_connection(
    small: Flask, db: Database, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that the unit has kept since its last read died meanwhile."""
    monkeypatch.setattr(_session, "_LONG", 0.0)

    def view() -> None:
        db.session.get_one(User, 1)
        witness.ask(KILL)
        with db.atomic():
            db.session.add(User(name="bob"))

    assert in_get(small, view) == 200
    assert witness.names() == ["ada", "bob"]


@on("postgresql")
def test_a_dead_connection_in_autocommit_leaves_the_pool_whole(
    small: Flask, db: Database, witness: Witness
) -> None:
    """SQLAlchemy ends the isolation level while it returns the connection."""
    with small.app_context():
        db.session.get_one(User, 1)
        db.session.rollback()
        with db.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            witness.ask(KILL)
        assert is_free(db)
        assert db.session.get_one(User, 1).name == "ada"


@on("postgresql")
@pytest.mark.parametrize("needed", [True, False])
def test_a_lost_connection_does_not_end_the_unit(
    needed: bool,
    small: Flask,
    db: Database,
    witness: Witness,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No transaction was lost with it. Another thread may need a connection meanwhile."""

    def view() -> None:
        db.session.get_one(User, 1)
        witness.ask(KILL)
        caplog.clear()
        with pytest.raises(DBAPIError):
            db.session.scalars(select(User)).all()
        assert not needed or in_thread(lambda: is_free_in(small, db))
        assert db.session.scalars(select(User.name)).all() == ["ada"]
        db.session.add(User(name="bob"))

    assert in_get(small, view) == 200
    assert witness.names() == ["ada", "bob"]
    assert not caplog.records


@pytest.mark.slow
@lazily
def test_what_another_thread_snatches_away_is_taken_back_elsewhere(
    make_app: MakeApp, db: Database, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two sessions keep a connection; one is taken back, and a third thread was quicker."""
    options = {"pool_size": 2, "max_overflow": 0, "pool_timeout": 0.2}
    app = make_app(SQLALCHEMY_ENGINE_OPTIONS=options)
    witness.store(User(name="ada"))
    thinking, end = threading.Barrier(3, timeout=15), threading.Event()

    def think() -> None:
        with app.app_context():
            db.session.get_one(User, 1)
            thinking.wait()
            assert end.wait(15)

    threads = [threading.Thread(target=think) for _ in range(2)]
    with app.app_context():
        pool: Any = db.engine.pool
        with db.engine.connect(), db.engine.connect():
            pass  # both are open, and in the pool
        for thread in threads:
            thread.start()
        thinking.wait()
        take_back = pool._take_back
        snatched: list[PoolProxiedConnection] = []

        def slowly() -> bool:
            has_taken: bool = take_back()
            if not snatched:
                snatched.append(in_thread(pool.connect))
            return has_taken

        monkeypatch.setattr(pool, "_take_back", slowly)
        try:
            pool.connect().close()
        finally:
            end.set()
            snatched[0].close()
            for thread in threads:
                thread.join()


# The guard of a connection ------------------------------------------------------------------------


@pytest.fixture
def writing(small: Flask, witness: Witness) -> Iterator[None]:
    """A view of the database that writes."""
    with witness.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION store() RETURNS text LANGUAGE sql AS"
            " $$ INSERT INTO users (name) VALUES ('hidden') RETURNING name $$;"
            " CREATE VIEW writing AS SELECT store() AS name"
        )
    yield
    with witness.engine.begin() as connection:
        connection.exec_driver_sql("DROP FUNCTION store CASCADE")


@on("postgresql")
@pytest.mark.usefixtures("writing")
def test_a_session_of_the_server_that_was_reset_is_guarded_again(
    small: Flask, db: Database, witness: Witness
) -> None:
    """``DISCARD ALL`` for each returned connection: a recipe of SQLAlchemy's documentation."""

    def reset(connection: Any, *_: object) -> None:
        connection.rollback()
        connection.autocommit = True
        connection.execute("DISCARD ALL")
        connection.autocommit = False

    with small.app_context():
        event.listen(db.engine, "reset", reset)

    @small.get("/")
    def view() -> tuple[str, int]:
        assert db.session.scalars(text("SELECT name FROM writing")).all() == ["hidden"]
        return "", 400

    for _ in range(2):
        assert small.test_client().get("/").status_code == 400
        assert witness.names() == ["ada"]


@on("postgresql")
def test_an_interrupted_guard_does_not_make_a_connection_read_only(
    small: Flask, db: Database, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A timeout strikes when the server has set the default, and the driver does not know yet."""

    def strike(_cursor: object) -> None:
        raise TimeoutError

    @small.get("/read")
    def read() -> str:
        return db.session.get_one(User, 1).name

    @small.get("/write")
    def write() -> str:
        db.session.add(User(name="bob"))
        return ""

    with small.app_context():
        db.engine.dispose()
    with monkeypatch.context() as patch:
        patch.setattr("psycopg.Cursor.fetchone", strike)
        small.test_client().get("/read")
    assert small.test_client().get("/write").status_code == 200
    assert witness.names() == ["ada", "bob"]


@pytest.mark.parametrize("error", [TimeoutError, KeyboardInterrupt])
@pytest.mark.parametrize("driver", postgresql.DRIVERS[:2], ids=lambda driver: driver.name)
def test_a_connection_that_stays_in_autocommit_is_closed(
    driver: Driver, error: type[BaseException]
) -> None:
    """A signal handler strikes while it leaves it; later writes would be stored at once."""
    cursor = Mock()
    connection = cursor.connection
    connection.pgconn.transaction_status = connection.info.transaction_status = 0  # idle
    setting = PropertyMock(side_effect=[None, error])
    type(connection).autocommit = setting
    with contextlib.suppress(KeyboardInterrupt):
        driver.read_plainly(Mock(), cursor)
    assert setting.call_args_list == [call(True), call(False)]
    connection.close.assert_called_once_with()


@lazily
def test_the_options_of_a_connection_are_those_of_its_transaction(
    small: Flask, db: Database
) -> None:
    """Whether another thread has taken the connection of the reads back, or not."""
    options = {"isolation_level": "SERIALIZABLE"}

    def view() -> None:
        db.session.get_one(User, 1)
        connection = db.session.connection(execution_options=options)
        assert connection.get_isolation_level() == "SERIALIZABLE"

    assert in_get(small, view) == 200


# Cursors of the driver ----------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("database", ["sqlite-file", "postgresql"], indirect=True)
def test_what_a_listener_writes_by_a_cursor_of_the_driver_is_part_of_the_unit(
    status: int, small: Flask, db: Database, witness: Witness
) -> None:
    """No event tells of it, and it begins a transaction on the connection of the plain read."""

    @small.get("/")
    def view() -> tuple[str, int]:
        event.listen(db.engine, "after_cursor_execute", audit)
        try:
            db.session.scalars(select(User)).all()
            assert not in_thread(lambda: is_free_in(small, db))
            db.session.scalars(select(User)).all()
        finally:
            event.remove(db.engine, "after_cursor_execute", audit)
        return "", status

    def audit(connection: Connection, *_: object) -> None:
        cursor = connection.connection.cursor()
        cursor.execute("INSERT INTO posts (title) VALUES ('audit')")
        cursor.close()

    assert small.test_client().get("/").status_code == status
    assert witness.titles() == (["audit", "audit", "one"] if status == 200 else ["one"])


@on("postgresql")
def test_what_a_listener_sets_by_a_cursor_of_the_driver_is_there(
    small: Flask, db: Database
) -> None:
    """It was lost if the statement ran in autocommit."""

    def set_tenant(_connection: object, cursor: Any, *_: object) -> None:
        with cursor.connection.cursor() as own:
            own.execute("SET LOCAL app.tenant = '7'")

    def view() -> None:
        db.session.get_one(User, 1)
        event.listen(db.engine, "before_cursor_execute", set_tenant)
        try:
            assert db.session.scalar(text("SELECT current_setting('app.tenant')")) == "7"
        finally:
            event.remove(db.engine, "before_cursor_execute", set_tenant)

    assert in_get(small, view) == 200
