"""P14: a transaction begins with the first statement that needs one; reads before it need none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import pytest
from flask import Flask, Response, stream_with_context
from sqlalchemy import (
    Connection,
    Engine,
    Integer,
    String,
    cast,
    event,
    func,
    literal,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, selectinload

from flask_uow import Database, PoolExhausted, TransactionLost
from flask_uow._unit import session as _session
from tests.conftest import MakeApp
from tests.support.databases import TestDatabase, on
from tests.support.models import Post, User
from tests.support.threads import in_thread, in_threads
from tests.support.witness import Witness

lazily = on("sqlite-file", "postgresql")

SMALL = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.05}
"""Options of an engine whose one connection is free, or not."""

KILL = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
"""Ends all other sessions of the database, and waits until they have ended."""

_OPEN = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND state LIKE 'idle in transaction%'
"""


@pytest.fixture
def small(make_app: MakeApp, witness: Witness) -> Flask:
    """An app with one connection, a user and a post."""
    app = make_app(SQLALCHEMY_ENGINE_OPTIONS=SMALL)
    witness.store(User(name="ada", posts=[Post(title="one")]))
    return app


@pytest.fixture
def psycopg2(request: pytest.FixtureRequest, database: TestDatabase) -> str:
    return make_url(database.url).set(drivername="postgresql+psycopg2").render_as_string(False)


def in_get(app: Flask, view: Callable[[], object]) -> int:
    """Run *view* in a GET, and return the status; an exception propagates."""

    @wraps(view)
    def get() -> str:
        view()
        return ""

    app.testing = True
    app.add_url_rule("/get", "get", get)
    return app.test_client().get("/get").status_code


def is_free(db: Database) -> bool:
    """Whether the one connection can be had."""
    if db.engine.pool.checkedout() > 0:  # type: ignore[attr-defined]
        return False  # at once: a refusal takes its time
    try:
        with db.engine.connect():
            return True
    except PoolExhausted:
        return False


# What needs no transaction ------------------------------------------------------------------------

PLAIN: dict[str, Callable[[Session], object]] = {
    "get": lambda session: session.get(User, 1),
    "select": lambda session: session.scalars(select(User).where(User.name == "ada")).one(),
    "core": lambda session: session.execute(select(User.__table__)).all(),
    "scalar": lambda session: session.scalar(select(func.count()).select_from(User)),
    "query": lambda session: session.query(User).filter_by(name="ada").one(),
    "lazy load": lambda session: session.get_one(User, 1).posts,
    "selectin": lambda session: session.scalars(
        select(User).options(selectinload(User.posts))
    ).all(),
    "refresh": lambda session: session.refresh(session.get_one(User, 1)),
    "function": lambda session: session.scalar(select(func.lower(func.coalesce(User.email, "A")))),
    "exists": lambda session: session.scalar(select(select(User).exists())),
    "with": lambda session: session.execute(select(select(User.id).cte("some"))).all(),
    "values": lambda session: session.execute(text("VALUES (1), (2)")).all(),
    "text": lambda session: session.execute(text("SELECT name FROM users -- to write it")).all(),
    "union": lambda session: session.execute(select(User.id).union(select(Post.id))).all(),
}


@lazily
@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_read_leaves_the_connection_free(name: str, small: Flask, db: Database) -> None:
    """Another thread can have it, and the next read works all the same."""

    def view() -> None:
        for _ in range(2):
            assert PLAIN[name](db.session()) is not None or name == "refresh"
            assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
            assert in_thread(lambda: is_free_in(small, db))
            db.session.expire_all()

    assert in_get(small, view) == 200


def is_free_in(app: Flask, db: Database) -> bool:
    with app.app_context():
        return is_free(db)


@on("postgresql")
@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_read_leaves_no_transaction(
    name: str, small: Flask, db: Database, witness: Witness
) -> None:
    """The server says so."""

    def view() -> None:
        PLAIN[name](db.session())
        assert witness.ask(_OPEN) == [0]

    assert in_get(small, view) == 200


@on("postgresql")
def test_so_on_psycopg2(psycopg2: str, make_app: MakeApp, db: Database, witness: Witness) -> None:
    app = make_app(url=psycopg2, SQLALCHEMY_ENGINE_OPTIONS=SMALL)
    witness.store(User(name="ada"))

    def view() -> None:
        result = db.session.execute(select(User.name))
        assert witness.ask(_OPEN) == [0]
        db.engine.pool.dispose()
        assert is_free(db)
        assert result.scalars().all() == ["ada"]  # from memory
        db.session.add(User(name="bob"))
        db.session.flush()
        assert witness.ask(_OPEN) == [1]

    assert in_get(app, view) == 200
    assert witness.names() == ["ada", "bob"]


@lazily
def test_a_post_reads_without_one_too(
    small: Flask, db: Database, witness: Witness, database: TestDatabase
) -> None:
    """On SQLite it has taken the write lock, so that no other writer comes between."""
    free: list[bool] = []

    @small.post("/")
    def change() -> str:
        user = db.session.get_one(User, 1)
        free.append(is_free(db))
        user.email = "changed"
        return ""

    assert small.test_client().post("/").status_code == 200
    assert free == [not database.is_sqlite]
    assert witness.ask(select(User.email)) == ["changed"]


@on("sqlite-file", "postgresql", "mariadb")
def test_first_begins_with_the_first_statement(
    make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """``UOW_BEGIN = "first"`` is SQLAlchemy's own way; MariaDB has no other."""
    app = make_app(SQLALCHEMY_ENGINE_OPTIONS=SMALL, UOW_BEGIN="first")
    witness.store(User(name="ada"))

    def view() -> None:
        db.session.get_one(User, 1)
        assert not is_free(db)
        assert db.engine.pool.checkedout() == 1  # type: ignore[attr-defined]

    assert in_get(app, view) == 200


@lazily
def test_a_session_of_ones_own_is_plain_sqlalchemy(small: Flask, db: Database) -> None:
    """One that ``db.sessionmaker`` made belongs to no unit (P8)."""

    def view() -> None:
        with db.sessionmaker() as session:
            session.get_one(User, 1)
            assert not is_free(db)

    assert in_get(small, view) == 200


# What needs one -----------------------------------------------------------------------------------


def savepoint(session: Session) -> object:
    session.begin_nested()
    return session.get(User, 1)


def autoflush(session: Session) -> object:
    session.add(User(name="bob"))
    return session.scalars(select(User)).all()


def add(session: Session) -> None:
    session.add(User(name="bob"))
    session.flush()


NEEDS: dict[str, Callable[[Session], object]] = {
    "insert": add,
    "autoflush": autoflush,
    "update": lambda session: session.execute(update(User).values(email="a")),
    "text": lambda session: session.execute(text("UPDATE users SET email = 'a'")),
    "for update": lambda session: session.get(User, 1, with_for_update=True),
    "select for update": lambda session: session.scalars(select(User).with_for_update()).all(),
    "savepoint": savepoint,
    "connection": lambda session: session.connection().scalar(select(literal(1))),
    "yield_per": lambda session: session.scalars(select(User).execution_options(yield_per=1)).all(),
    "stream": lambda session: session.execute(
        select(User.id), execution_options={"stream_results": True}
    ).all(),
}
NEEDS_ON_POSTGRESQL: dict[str, str] = {
    "for share": "SELECT * FROM users FOR SHARE",
    "for key share": "SELECT * FROM users FOR KEY SHARE",
    "advisory lock": "SELECT pg_advisory_xact_lock(42)",
    "set local": "SET LOCAL app.tenant = '7'",
    "set_config": "SELECT set_config('app.tenant', '7', true)",
    "notify": "SELECT pg_notify('channel', 'message')",
    "sequence": "SELECT nextval('users_id_seq')",
    "unknown function": "SELECT version(), pg_sleep(0)",
    "quoted function": 'SELECT "pg_sleep"(0)',
    "two statements": "SELECT 1; SELECT 2",
    "temporary table": "CREATE TEMPORARY TABLE scratch (id int) ON COMMIT DROP",
    "large object": "SELECT lo_create(0)",
    "explain": "EXPLAIN ANALYZE SELECT 1",
}


@lazily
@pytest.mark.parametrize("name", NEEDS)
def test_what_needs_a_transaction(name: str, small: Flask, db: Database) -> None:
    """It begins there, and the unit keeps its connection until its end."""

    def view() -> None:
        db.session.get_one(User, 1)
        assert is_free(db)
        NEEDS[name](db.session())
        assert not is_free(db)
        db.session.scalars(select(User)).all()
        assert not is_free(db)

    assert in_get(small, view) == 200


@on("postgresql")
@pytest.mark.parametrize("name", NEEDS_ON_POSTGRESQL)
def test_what_needs_a_transaction_on_postgresql(
    name: str, small: Flask, db: Database, witness: Witness
) -> None:
    def view() -> None:
        db.session.execute(text(NEEDS_ON_POSTGRESQL[name]))
        assert witness.ask(_OPEN) == [1]

    assert in_get(small, view) == 200


@on("postgresql")
def test_a_read_that_runs_several_times_needs_a_transaction(
    small: Flask, db: Database, witness: Witness
) -> None:
    """The driver runs it by a way of its own (``executemany``)."""

    def view() -> None:
        db.session.execute(text("SELECT :number"), [{"number": 1}, {"number": 2}])
        assert witness.ask(_OPEN) == [1]
        assert db.engine.pool.checkedout() == 1  # type: ignore[attr-defined]

    assert in_get(small, view) == 200


@lazily
def test_blocks_begin_with_their_first_statement(small: Flask, db: Database) -> None:
    """``db.atomic()`` and ``session.begin()`` ask for a transaction."""
    for block in (db.atomic, lambda: db.session.begin()):
        with small.app_context(), block():
            db.session.get_one(User, 1)
            assert not is_free(db)

    def view() -> None:
        db.session.get_one(User, 1)
        with db.atomic():
            db.session.scalars(select(User)).all()
            assert not is_free(db)

    assert in_get(small, view) == 200


@lazily
@pytest.mark.parametrize("options", [{"read_only": True}, {"isolation_level": "SERIALIZABLE"}])
def test_views_with_options_begin_with_their_first_statement(
    options: dict[str, Any], small: Flask, db: Database
) -> None:
    @db.unit(**options)
    def view() -> None:
        db.session.get_one(User, 1)
        assert not is_free(db)

    assert in_get(small, view) == 200


@lazily
def test_an_engine_with_an_isolation_level_begins_with_the_first_statement(
    make_app: MakeApp, db: Database, witness: Witness
) -> None:
    app = make_app(SQLALCHEMY_ENGINE_OPTIONS={**SMALL, "isolation_level": "SERIALIZABLE"})
    witness.store(User(name="ada"))

    def view() -> None:
        db.session.get_one(User, 1)
        assert not is_free(db)

    assert in_get(app, view) == 200


@on("postgresql")
def test_a_level_that_the_database_sets_counts(
    small: Flask, db: Database, witness: Witness, database: TestDatabase
) -> None:
    """The server is asked: the app does not know of it, and relies on its snapshot."""
    name = make_url(database.url).database
    alter = f"ALTER DATABASE {name} {{}} default_transaction_isolation"
    run(witness.engine, alter.format("SET") + " = 'repeatable read'")
    try:
        with small.app_context():
            db.engine.dispose()

        def view() -> None:
            assert db.session.scalars(select(User.name)).all() == ["ada"]
            witness.store(User(name="bob"))
            assert db.session.scalars(select(User.name)).all() == ["ada"]

        assert in_get(small, view) == 200
    finally:
        run(witness.engine, alter.format("RESET"))


def run(engine: Engine, statement: str) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(statement)


# What differs -------------------------------------------------------------------------------------


@on("postgresql")
@pytest.mark.parametrize("begin", ["auto", "first"])
def test_a_lock_of_the_transaction_lasts(
    begin: str, make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """``FOR SHARE`` after reads; another connection cannot change the row."""
    app = make_app(UOW_BEGIN=begin)
    witness.store(User(name="ada"))

    def view() -> None:
        db.session.get_one(User, 1)
        db.session.execute(text("SELECT * FROM users FOR SHARE"))
        db.session.scalars(select(User)).all()
        with witness.engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL lock_timeout = 50")
            with pytest.raises(DBAPIError, match="lock timeout"):
                connection.execute(update(User).values(email="a"))

    assert in_get(app, view) == 200


@on("postgresql")
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
@pytest.mark.parametrize("begin", ["auto", "first"])
def test_a_read_only_block_leaves_the_default_of_the_server(
    begin: str, driver: str, database: TestDatabase, db: Database
) -> None:
    """A standby would refuse the ``BEGIN READ WRITE`` that SQLAlchemy's own reset leads to."""
    url = make_url(database.url).set(drivername=f"postgresql+{driver}")
    url = url.update_query_dict({"options": "-c default_transaction_read_only=on"})
    app = Flask("standby")
    app.config.update(SQLALCHEMY_DATABASE_URI=url, UOW_BEGIN=begin)
    db.init_app(app)
    with app.app_context():
        for read_only in (False, True, False):
            with db.atomic(read_only=read_only) as session:
                assert session.scalar(text("SHOW transaction_read_only")) == "on"


@on("postgresql")
@pytest.mark.parametrize("begin", ["auto", "first"])
def test_a_setting_of_the_transaction_lasts(begin: str, make_app: MakeApp, db: Database) -> None:
    """A tenant for row level security, set in a listener for ``after_begin`` or by hand."""
    app = make_app(UOW_BEGIN=begin)

    def view() -> None:
        tenant = select(func.current_setting("app.tenant", True))
        assert not db.session.scalar(tenant)
        db.session.execute(select(func.set_config("app.tenant", "7", True)))
        assert db.session.scalar(tenant) == "7"

    assert in_get(app, view) == 200


@on("postgresql")
def test_a_tenant_that_a_listener_sets_is_there(small: Flask, db: Database) -> None:
    def set_tenant(_session: Session, _transaction: object, connection: Connection) -> None:
        connection.execute(select(func.set_config("app.tenant", "7", True)))

    def view() -> None:
        event.listen(db.session(), "after_begin", set_tenant)
        db.session.get_one(User, 1)
        assert db.session.scalar(text("SELECT current_setting('app.tenant', true)")) == "7"

    assert in_get(small, view) == 200


@on("postgresql")
@pytest.mark.fault(
    "D8",
    fault="A plain read before the first write fails, on PostgreSQL",
    then="No TransactionLost: the read had no transaction, and the rest is stored",
)
@pytest.mark.parametrize(("begin", "works"), [("auto", True), ("first", False)])
def test_a_read_that_fails_and_is_swallowed(
    begin: str, works: bool, make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """Without a transaction none is aborted."""
    app = make_app(UOW_BEGIN=begin)

    def view() -> None:
        with pytest.raises(DBAPIError):
            db.session.execute(text("SELECT nothing FROM users"))
        db.session.add(User(name="bob"))
        db.session.flush()

    if works:
        assert in_get(app, view) == 200
    else:
        with pytest.raises(TransactionLost):
            in_get(app, view)
    assert witness.names() == (["bob"] if works else [])


@on("postgresql")
@pytest.mark.parametrize(("begin", "waits"), [("auto", False), ("first", True)])
def test_a_table_can_be_altered_while_a_page_renders(
    begin: str, waits: bool, make_app: MakeApp, db: Database, witness: Witness
) -> None:
    app = make_app(UOW_BEGIN=begin)

    def view() -> None:
        db.session.scalars(select(User)).all()
        with witness.engine.begin() as connection:
            connection.exec_driver_sql("SET LOCAL lock_timeout = 50")
            connection.exec_driver_sql("ALTER TABLE users ADD COLUMN more integer")

    if waits:
        with pytest.raises(DBAPIError, match="lock timeout"):
            in_get(app, view)
    else:
        assert in_get(app, view) == 200


@on("postgresql")
@pytest.mark.parametrize("begin", ["auto", "first"])
def test_each_read_sees_what_is_committed(
    begin: str, make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """As at READ COMMITTED inside of a transaction."""
    app = make_app(UOW_BEGIN=begin)
    witness.store(User(name="ada"))

    names = select(User.name).order_by(User.name)

    def view() -> None:
        assert db.session.scalars(names).all() == ["ada"]
        witness.store(User(name="bob"))
        assert db.session.scalars(names).all() == ["ada", "bob"]

    assert in_get(app, view) == 200


@on("postgresql")
@pytest.mark.parametrize(("begin", "same"), [("auto", False), ("first", True)])
def test_now_moves(begin: str, same: bool, make_app: MakeApp, db: Database) -> None:
    """It is the time at which the transaction began."""
    app = make_app(UOW_BEGIN=begin)

    def view() -> None:
        first = db.session.scalar(select(func.now()))
        assert (db.session.scalar(select(func.now())) == first) is same

    assert in_get(app, view) == 200


# Reads that write ---------------------------------------------------------------------------------

HIDDEN = """
    CREATE FUNCTION store() RETURNS text LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO users (name) VALUES ('hidden'); RETURN 'x'; END $$;
    CREATE FUNCTION note(posts) RETURNS text LANGUAGE sql AS 'SELECT store()';
    CREATE FUNCTION total(text) RETURNS text LANGUAGE sql AS 'SELECT store()';
    CREATE VIEW writing AS SELECT store() AS w
"""
READS = ["SELECT w FROM writing", "SELECT posts.note FROM posts", "SELECT total('ada')"]


@pytest.fixture
def hidden(small: Flask, witness: Witness) -> Iterator[None]:
    """Functions that write, and a view that calls one."""
    with witness.engine.begin() as connection:
        connection.exec_driver_sql(HIDDEN)
    yield
    with witness.engine.begin() as connection:
        connection.exec_driver_sql("DROP FUNCTION store, note, total CASCADE")


@on("postgresql")
@pytest.mark.usefixtures("hidden")
@pytest.mark.parametrize("statement", READS)
@pytest.mark.parametrize("status", [200, 400])
def test_a_read_that_writes_is_part_of_the_unit(
    statement: str, status: int, small: Flask, db: Database, witness: Witness
) -> None:
    """Words do not show it. The server refuses it, and it runs in a transaction then."""

    @small.get("/")
    def view() -> tuple[str, int]:
        assert db.session.scalars(text(statement)).all() == ["x"]
        return "", status

    assert small.test_client().get("/").status_code == status
    assert witness.names() == (["ada", "hidden"] if status == 200 else ["ada"])


@on("postgresql")
def test_a_pooler_between_is_noticed(
    small: Flask, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tells its clients process ids of its own. Their sessions of the server are not guarded."""
    monkeypatch.setattr("psycopg.ConnectionInfo.backend_pid", 1)

    def view() -> None:
        db.session.get_one(User, 1)
        assert is_free(db)
        assert db.session.scalar(text("SHOW default_transaction_read_only")) == "off"

    assert in_get(small, view) == 200


@on("postgresql")
def test_a_connection_in_autocommit_can_write(small: Flask, db: Database, witness: Witness) -> None:
    """Though it comes from the same pool; and afterwards it is guarded as before."""
    with small.app_context():
        for name in ("bob", "cyd"):
            db.session.get_one(User, 1)
            db.session.rollback()
            run(db.engine, f"INSERT INTO users (name) VALUES ('{name}')")
        db.session.get_one(User, 1)
        assert db.session.scalar(text("SHOW default_transaction_read_only")) == "on"
    assert witness.names() == ["ada", "bob", "cyd"]


@on("postgresql")
def test_a_transaction_of_ones_own_can_write(small: Flask, db: Database, witness: Witness) -> None:
    with small.app_context():
        db.session.get_one(User, 1)
        db.session.rollback()
        with db.engine.begin() as connection:
            connection.execute(update(User).values(email="a"))
    assert witness.ask(select(User.email)) == ["a"]


@on("postgresql")
def test_a_guarded_connection_can_write_after_a_read_only_block(
    small: Flask, db: Database, witness: Witness
) -> None:
    """The session of the guard is read-only by default, so the reset must be to ``READ WRITE``."""
    with small.app_context():
        db.session.get_one(User, 1)
        with db.atomic(read_only=True) as session:
            assert session.scalar(text("SHOW transaction_read_only")) == "on"
        with db.atomic() as session:
            session.execute(update(User).values(email="a"))
    assert witness.ask(select(User.email)) == ["a"]


@on("postgresql")
@pytest.mark.parametrize("option", ["default_transaction_read_only=on", "application_name=x"])
def test_a_default_that_is_read_only_already_is_respected(
    option: str, make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """An administrator has set it; the other option is the control."""
    make_app()
    url = make_url(witness.engine.url).update_query_dict({"options": f"-c {option}"})
    app = Flask("other")
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    db.init_app(app)

    @app.get("/")
    def view() -> str:
        db.session.scalars(select(User)).all()
        db.session.add(User(name="bob"))
        return ""

    is_refused = "read_only" in option
    assert app.test_client().get("/").status_code == (500 if is_refused else 200)
    assert witness.names() == ([] if is_refused else ["bob"])
    with app.app_context():
        db.engine.dispose()


# The pool -----------------------------------------------------------------------------------------


@lazily
@pytest.mark.fault(
    "K1",
    fault="More requests than connections read, and then render or wait for another service",
    then="No request waits: a connection without a transaction goes where it is needed",
)
def test_more_requests_than_connections(make_app: MakeApp, db: Database, witness: Witness) -> None:
    """All read, think at the same time, and read again: none has to wait for another."""
    options = {"pool_size": 2, "max_overflow": 0, "pool_timeout": 20}
    app = make_app(SQLALCHEMY_ENGINE_OPTIONS=options)
    witness.store(User(name="ada"))
    thinking = threading.Barrier(12, timeout=15)

    @app.get("/")
    def view() -> str:
        user = db.session.get_one(User, 1)
        thinking.wait()
        db.session.refresh(user)
        return user.name

    answers = in_threads(lambda: app.test_client().get("/").text, times=12)
    assert answers == ["ada"] * 12


@lazily
def test_a_waiting_thread_gets_the_connection_of_a_read_that_ends(
    make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """It looked for idle connections while that read was still running."""
    app = make_app(SQLALCHEMY_ENGINE_OPTIONS={**SMALL, "pool_timeout": 20})
    witness.store(User(name="ada"))
    reading, end = threading.Event(), threading.Event()

    def slow(_state: object) -> None:
        reading.set()
        assert end.wait(15)

    @app.get("/read")
    def read() -> str:
        session = db.session()
        session.get_one(User, 1)
        event.listen(session, "do_orm_execute", slow)
        session.scalars(select(User)).all()
        assert is_taken.wait(15)  # and this unit has not ended
        return ""

    is_taken = threading.Event()

    def other() -> None:
        reading.wait(15)
        with app.app_context():
            threading.Timer(0.1, end.set).start()
            with db.engine.connect():
                is_taken.set()

    thread = threading.Thread(target=other)
    thread.start()
    assert app.test_client().get("/read").status_code == 200
    thread.join()
    assert is_taken.is_set()


@lazily
def test_rows_that_were_not_fetched_are_in_memory(small: Flask, db: Database) -> None:
    """The connection may be another's, or closed, when they are."""

    def view() -> None:
        result = db.session.execute(select(User.name))
        objects = db.session.scalars(select(User))
        with db.engine.connect() as connection:
            connection.scalars(select(User.id)).all()
            connection.invalidate()
        db.engine.dispose()
        assert result.scalars().all() == ["ada"]
        assert [user.posts[0].title for user in objects] == ["one"]

    assert in_get(small, view) == 200


@on("postgresql")
@pytest.mark.fault(
    "N9",
    fault="A connection dies while a unit that has only read renders for longer than a second",
    then="It is replaced; the request does not fail",
)
def test_a_connection_that_died_while_its_unit_was_thinking_is_replaced(
    small: Flask, db: Database, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that died in the pool (P13)."""
    monkeypatch.setattr(_session, "_LONG", 0.0)

    def view() -> None:
        db.session.get_one(User, 1)
        witness.ask(KILL)
        db.session.expire_all()
        assert db.session.get_one(User, 1).name == "ada"

    assert in_get(small, view) == 200


@lazily
def test_a_streamed_body_that_reads_holds_no_connection(small: Flask, db: Database) -> None:
    """Between its statements; and no write lock, so that another request can write (P9)."""

    @small.post("/")
    def stream() -> Response:
        def body() -> Iterator[str]:
            for _ in range(2):
                yield db.session.scalars(select(User.name).where(User.id == 1)).one()
                assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
                assert in_thread(lambda: small.test_client().get("/write").status_code) == 200

        return Response(stream_with_context(body()))

    @small.get("/write")
    def write() -> str:
        db.session.execute(update(User).values(email="a"))
        return ""

    small.testing = True
    assert small.test_client().post("/").text == "adaada"


@lazily
def test_an_idle_connection_is_not_reported_as_held(
    make_app: MakeApp, db: Database, witness: Witness, caplog: pytest.LogCaptureFixture
) -> None:
    """It was free for others all the time."""
    app = make_app(UOW_HOLD_WARNING=0.01)
    witness.store(User(name="ada"))
    caplog.clear()

    def view() -> None:
        db.session.get_one(User, 1)
        time.sleep(0.05)

    assert in_get(app, view) == 200
    assert not caplog.records


# SQLite -------------------------------------------------------------------------------------------


@on("sqlite-file")
def test_last_seen_of_the_most_copied_tutorial(
    make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """``before_request`` reads the user and writes the time, in each GET."""
    app = make_app(UOW_SQLITE_BUSY_TIMEOUT=30)
    witness.store(User(name="ada"))

    @app.before_request
    def note() -> None:
        db.session.get_one(User, 1).email = str(time.monotonic())

    @app.get("/")
    def view() -> str:
        return db.session.get_one(User, 1).name

    answers = in_threads(
        lambda: [app.test_client().get("/").status_code for _ in range(25)], times=4
    )
    assert answers == [[200] * 25] * 4


@on("sqlite-file", "postgresql")
def test_a_counter_in_a_get_loses_nothing(
    make_app: MakeApp, db: Database, witness: Witness
) -> None:
    """The database computes it."""
    app = make_app(UOW_SQLITE_BUSY_TIMEOUT=30)
    witness.store(User(name="ada", email="0"))
    more = cast(cast(User.email, Integer) + 1, String)

    @app.get("/")
    def view() -> str:
        user = db.session.get_one(User, 1)
        db.session.execute(update(User).values(email=more))
        return user.name

    answers = in_threads(
        lambda: [app.test_client().get("/").status_code for _ in range(25)], times=8
    )
    assert answers == [[200] * 25] * 8
    assert witness.ask(select(User.email)) == ["200"]


@on("sqlite-file", "postgresql", "mariadb")
def test_a_pushed_context_sees_what_a_request_has_stored(
    app: Flask, db: Database, witness: Witness
) -> None:
    """A test reads, makes a request, reads again, writes and commits."""

    @app.post("/")
    def change() -> str:
        db.session.get_one(User, 1).email = "changed"
        return ""

    witness.store(User(name="ada"))
    with app.app_context():
        user = db.session.get_one(User, 1)
        assert user.email is None
        assert app.test_client().post("/").status_code == 200
        assert user.email == "changed"
        user.email = "changed twice"
        db.session.commit()
    assert witness.ask(select(User.email)) == ["changed twice"]
