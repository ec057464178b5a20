"""P13: what a request sets on its connection does not reach the next request."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import (
    Connection,
    Executable,
    QueuePool,
    StaticPool,
    event,
    func,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import AssertionPool, NullPool, Pool, SingletonThreadPool

from flask_uow import Database
from tests.conftest import MakeApp
from tests.support.databases import on
from tests.support.witness import Witness

_ATTACHED = "SELECT count(*) FROM pragma_database_list WHERE name = 'scratch'"
_TEMPORARY_ON_SQLITE = "SELECT count(*) FROM sqlite_temp_master"
_SCRATCH = "SELECT * FROM scratch"
_LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
_TENANT = "SELECT nullif(current_setting('app.tenant', true), '')"
_PREPARED = "SELECT count(*) FROM pg_prepared_statements WHERE name = 'scratch'"

# By database: what a request sends, and what the next one asks for.
CHANGES: dict[str, list[tuple[str | Executable, str]]] = {
    "postgresql": [
        ("SET TIME ZONE 'Asia/Tokyo'", "SHOW TIME ZONE"),
        ("/* the tenant */ set search_path\n= pg_catalog", "SHOW search_path"),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "SHOW transaction_read_only"),
        ("SELECT 1; SET TIME ZONE 'Asia/Tokyo'", "SHOW TIME ZONE"),
        ("SELECT set_config('app.tenant', '7', false)", _TENANT),
        (select(func.set_config("app.tenant", "7", False)), _TENANT),
        (select(func.pg_catalog.set_config("app.tenant", "7", False)), _TENANT),
        ("CREATE TEMP TABLE scratch (id int)", _SCRATCH),
        ("CREATE TABLE pg_temp.scratch (id int)", _SCRATCH),
        ("CREATE OR REPLACE TEMPORARY VIEW scratch AS SELECT 1", _SCRATCH),
        ("SELECT 1 AS id INTO TEMP scratch", _SCRATCH),
        ("PREPARE scratch AS SELECT 1", _PREPARED),
        ("LISTEN scratch", "SELECT count(*) FROM pg_listening_channels()"),
        ("DECLARE scratch CURSOR WITH HOLD FOR SELECT 1", "SELECT count(*) FROM pg_cursors"),
        ("SELECT pg_advisory_lock(1)", _LOCKS),
        (select(func.pg_advisory_lock(1)), _LOCKS),
        (select(func.pg_try_advisory_lock_shared(1)), _LOCKS),
    ],
    "mariadb": [
        ("SET time_zone = '+09:00'", "SELECT @@session.time_zone"),
        ("SET SESSION sql_mode = ''", "SELECT @@session.sql_mode"),
        ("SET LOCAL sql_mode = ''", "SELECT @@session.sql_mode"),
        ("SET @a = 1", "SELECT @a"),
        ("SELECT @a := 1", "SELECT @a"),
        ("SELECT 1 INTO @a", "SELECT @a"),
        ("CREATE TEMPORARY TABLE scratch (id int)", _SCRATCH),
        ("PREPARE scratch FROM 'SELECT 1'", "EXECUTE scratch"),
        ("SELECT GET_LOCK('scratch', 0)", "SELECT IS_USED_LOCK('scratch') <=> CONNECTION_ID()"),
        (select(func.get_lock("a", 0)), "SELECT IS_USED_LOCK('a') <=> CONNECTION_ID()"),
        ("LOCK TABLES users READ", "SELECT count(*) FROM posts"),
        ("USE information_schema", "SELECT DATABASE()"),
    ],
    "sqlite": [
        ("ATTACH ':memory:' AS scratch", _ATTACHED),
        ("PRAGMA foreign_keys = OFF", "PRAGMA foreign_keys"),
        ("PRAGMA main.cache_size(77)", "PRAGMA cache_size"),
        ("CREATE TEMP TABLE scratch (id int)", _TEMPORARY_ON_SQLITE),
        ("CREATE TABLE temp.scratch (id int)", _TEMPORARY_ON_SQLITE),
        ("CREATE TEMPORARY VIEW scratch AS SELECT 1", _TEMPORARY_ON_SQLITE),
        (
            "CREATE TEMP TRIGGER scratch AFTER INSERT ON users BEGIN SELECT 1; END",
            _TEMPORARY_ON_SQLITE,
        ),
    ],
}

# What ends with the transaction, or is no change at all.
NO_CHANGES: dict[str, list[str | Executable]] = {
    "postgresql": [
        "SET LOCAL TIME ZONE 'Asia/Tokyo'",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET CONSTRAINTS ALL DEFERRED",
        "SELECT set_config('app.tenant', '7', true)",
        select(func.set_config("app.tenant", "7", True)),
        "CREATE TEMPORARY TABLE scratch (id int) ON COMMIT DROP",
        "SELECT pg_advisory_xact_lock(1)",
        "SELECT 'SET TIME ZONE', 1 AS \"set\" -- ; SET x = 1",
        "LOCK TABLE users IN SHARE MODE",
        "UPDATE users SET name = 'LISTEN; SET x'",
        "NOTIFY scratch",
    ],
    "mariadb": [
        "SET STATEMENT max_statement_time = 9 FOR SELECT 1",
        "SELECT @@version, 'a@b; SET @a := 1'",
        "UPDATE users SET name = 'GET_LOCK(1)'",
    ],
    "sqlite": [
        "PRAGMA foreign_keys",
        "PRAGMA main.table_info(users)",
        "PRAGMA user_version = 3",
        "SELECT 'ATTACH x', 1 AS temp",
    ],
}


def _cases(table: dict[str, list[Any]]) -> list[Any]:
    names = ("sqlite-file", "sqlite-memory", "postgresql", "mariadb")
    return [
        pytest.param(name, case, id=f"{name}-{number}")
        for name in names
        for number, case in enumerate(table[name.partition("-")[0]])
    ]


class Site:
    """An app with one connection.

    :ivar connections: grows with each connection that is opened.
    """

    def __init__(self, app: Flask, db: Database) -> None:
        self.app, self.db = app, db
        self.connections: list[object] = []
        with app.app_context():
            self.engine = db.engine
        event.listen(self.engine, "connect", lambda *_: self.connections.append(True))
        self._view: Callable[[], object] = str
        app.add_url_rule("/", "view", lambda: str(self._view()))

    def request(self, view: Callable[[], object]) -> str:
        """Send a request whose view is *view*."""
        self._view = view
        return self.app.test_client().get("/").text

    def send(self, statement: str | Executable) -> None:
        """Send *statement* in a request that succeeds."""
        statement = text(statement) if isinstance(statement, str) else statement
        result = self.request(lambda: self.db.session.execute(statement).closed)
        assert result in {"True", "False"}

    def ask(self, question: str) -> str:
        """Ask in a separate request; an error of the query does not fail the test."""

        def view() -> object:
            try:
                return self.db.session.execute(text(question)).all()
            except SQLAlchemyError as error:
                self.db.session.rollback()
                return type(error).__name__

        return self.request(view)


@pytest.fixture
def config() -> dict[str, Any]:
    """The config of the app; a test may override it."""
    return {}


@pytest.fixture
def site(make_app: MakeApp, db: Database, config: dict[str, Any]) -> Site:
    options = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 1}
    app = make_app(**{"SQLALCHEMY_ENGINE_OPTIONS": options, **config})
    # A request before those of the test: it opens the connection.
    site = Site(app, db)
    site.ask("SELECT 1")
    return site


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the package has logged."""
    return [one.getMessage() for one in caplog.records if one.name.startswith("flask_uow.")]


@pytest.mark.fault(
    "K4",
    fault="A request changes the session of its connection: SET, a temporary table, a session lock",
    then="The connection is closed, and the log says what to write instead",
)
@pytest.mark.parametrize(("database", "change"), _cases(CHANGES), indirect=["database"])
def test_the_next_request_finds_the_default(
    site: Site, change: tuple[str | Executable, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Two requests, one after another, with one connection in the pool."""
    statement, question = change
    before = site.ask(question)
    site.connections.clear()
    caplog.clear()
    site.send(statement)
    assert site.ask(question) == before
    assert len(site.connections) == 1
    (message,) = warnings(caplog)
    assert (
        "A statement of the engine 'default' has changed the session of its connection (" in message
    )
    assert __file__ in message


@pytest.mark.parametrize(("database", "statement"), _cases(NO_CHANGES), indirect=["database"])
def test_what_ends_with_the_transaction_costs_no_connection(
    site: Site, statement: str | Executable, caplog: pytest.LogCaptureFixture
) -> None:
    """``SET LOCAL`` and the like are what the log advises."""
    site.connections.clear()
    site.send(statement)
    site.ask("SELECT 1")
    assert site.connections == []
    assert warnings(caplog) == []


@pytest.mark.parametrize(
    ("database", "statement", "instead"),
    [
        ("postgresql", "SET TIME ZONE 'UTC'", "'SET LOCAL' or 'SET TRANSACTION'"),
        ("postgresql", "SELECT set_config('a.b', 'c', false)", "'set_config(name, value, true)'"),
        ("postgresql", "SELECT pg_advisory_lock(1)", "'pg_advisory_xact_lock()'"),
        ("postgresql", "CREATE TEMP TABLE scratch (id int)", "'ON COMMIT DROP'"),
        ("mariadb", "SET @a = 1", "'SET STATEMENT ... FOR' (MariaDB)"),
        ("mariadb", "SELECT GET_LOCK('a', 0)", "'SELECT ... FOR UPDATE'"),
        ("sqlite-file", "ATTACH ':memory:' AS other", "SQLALCHEMY_BINDS"),
        ("sqlite-file", "PRAGMA cache_size = 7", "a listener for the event 'connect'"),
    ],
    indirect=["database"],
)
def test_the_log_says_once_what_to_write_instead(
    site: Site, statement: str, instead: str, caplog: pytest.LogCaptureFixture
) -> None:
    """For each kind of change and each engine; the connection is closed each time."""
    site.connections.clear()
    for _ in range(3):
        site.send(statement)
    site.ask("SELECT 1")
    assert len(site.connections) == 3
    (message,) = warnings(caplog)
    assert instead in message


@on("sqlite-file")
def test_each_engine_has_its_own_words(
    make_app: MakeApp, db: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A message about one engine does not silence that about another."""
    site = Site(make_app(SQLALCHEMY_BINDS={"audit": f"sqlite:///{tmp_path}/audit.db"}), db)

    def view() -> object:
        for name in ("default", "audit", "audit"):
            with site.db.independent() as session:
                session.execute(
                    text("CREATE TEMP TABLE scratch (id int)"),
                    bind_arguments={"bind": site.db.engines[name]},
                )
        return ""

    site.request(view)
    messages = warnings(caplog)
    assert [
        name for message in messages for name in ("'default'", "'audit'") if name in message
    ] == [
        "'default'",
        "'audit'",
    ]


@on("postgresql")
def test_another_kind_is_logged_as_well(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Another kind of change has another remedy."""
    site.send("SET TIME ZONE 'UTC'; CREATE TEMP TABLE scratch (id int)")
    assert len(warnings(caplog)) == 2


@pytest.mark.fault(
    "K4",
    fault="A request changes the session of its connection: SET, a temporary table, a session lock",
    then="The connection is closed, and the log says what to write instead",
)
@on("sqlite-file", "postgresql", "mariadb")
def test_a_change_that_was_rolled_back_counts(site: Site) -> None:
    """Databases differ in what a rollback restores; a new connection has none of it."""
    site.connections.clear()
    change, question = CHANGES[site.engine.dialect.name][0]
    before = site.ask(question)

    def view() -> object:
        nested = site.db.session.begin_nested()
        site.db.session.execute(text(str(change)))
        nested.rollback()
        return ""

    site.request(view)
    assert site.ask(question) == before
    assert len(site.connections) == 1


@on("postgresql")
def test_a_commit_in_mid_request_is_an_end_as_well(site: Site) -> None:
    """The connection goes back at the commit, and the rest of the request has a new one."""

    def view() -> object:
        site.db.session.execute(text("SET TIME ZONE 'Asia/Tokyo'"))
        site.db.session.commit()
        return site.db.session.scalar(text("SHOW TIME ZONE"))

    assert site.request(view) != "Asia/Tokyo"


@pytest.mark.fault(
    "K4",
    fault="A request changes the session of its connection: SET, a temporary table, a session lock",
    then="The connection is closed, and the log says what to write instead",
)
@on("sqlite-file", "postgresql", "mariadb")
def test_a_connection_of_its_own_is_closed_too(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is logged: several transactions may share the state of such a connection."""
    site.connections.clear()
    change, question = CHANGES[site.engine.dialect.name][0]
    before = site.ask(question)
    with site.engine.connect() as connection:
        connection.execute(text(str(change)))
        connection.commit()
        assert str(connection.execute(text(question)).all()) != before
    assert site.ask(question) == before
    assert len(site.connections) == 1
    assert warnings(caplog) == []


@on("sqlite-file", "postgresql", "mariadb")
def test_a_listener_of_the_app_may_still_use_the_connection(site: Site) -> None:
    """A listener for "checkin" that resets a setting is a common recipe."""
    change, question = CHANGES[site.engine.dialect.name][0]
    before = site.ask(question)
    site.connections.clear()
    used: list[object] = []

    @event.listens_for(site.engine, "checkin")
    def use(connection: Any, _entry: object) -> None:
        cursor = connection.cursor()
        cursor.execute("SELECT 1")
        used.extend(cursor.fetchall())
        cursor.close()

    site.send(str(change))
    assert used
    assert site.ask(question) == before
    assert len(site.connections) == 1


@on("postgresql")
def test_the_connection_is_closed_and_not_only_replaced_later(site: Site, witness: Witness) -> None:
    """Otherwise its locks would be held until the next request."""
    site.send("SELECT pg_advisory_lock(77)")
    with witness.engine.connect() as connection:
        connection.execute(text("SET LOCAL lock_timeout = '20s'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(77)"))


@on("sqlite-file", "postgresql", "mariadb")
@pytest.mark.parametrize("poolclass", [AssertionPool, NullPool, SingletonThreadPool])
def test_another_pool_replaces_it_before_the_next_use(
    make_app: MakeApp, db: Database, poolclass: type[Pool]
) -> None:
    """SQLAlchemy's own pools keep it open until then."""
    site = Site(make_app(SQLALCHEMY_ENGINE_OPTIONS={"poolclass": poolclass}), db)
    change, question = CHANGES[site.engine.dialect.name][0]
    before = site.ask(question)
    site.send(str(change))
    assert site.ask(question) == before
    site.engine.dispose()


@on("sqlite-file", "postgresql", "mariadb")
def test_what_a_connection_is_made_with_stays(
    make_app: MakeApp, db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """A listener for "connect" has the connection of the driver; its cursors are not watched."""
    app = make_app(SQLALCHEMY_ENGINE_OPTIONS={"pool_size": 1, "max_overflow": 0})
    site = Site(app, db)
    change, question = CHANGES[site.engine.dialect.name][0]

    @event.listens_for(site.engine, "connect")
    def prepare(connection: Any, _entry: object) -> None:
        cursor = connection.cursor()
        cursor.execute(str(change))
        cursor.close()
        connection.commit()

    site.engine.dispose()
    site.connections.clear()
    first, second = site.ask(question), site.ask(question)
    assert first == second
    assert len(site.connections) == 1
    assert warnings(caplog) == []


@on("postgresql", "mariadb")
def test_what_a_dialect_sets_up_stays(
    make_app: MakeApp, db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """A dialect initializes itself with a Connection that begins no transaction."""
    site = Site(make_app(SQLALCHEMY_ENGINE_OPTIONS={"pool_size": 1, "max_overflow": 0}), db)
    site.engine.dispose()
    change, question = CHANGES[site.engine.dialect.name][0]
    with Connection(
        site.engine,
        connection=site.engine.raw_connection(),
        _allow_autobegin=False,
    ) as connection:
        connection.exec_driver_sql(str(change))
        connection.connection.commit()
    site.connections.clear()
    assert site.ask(question) == site.ask(question)
    assert site.connections == []
    assert warnings(caplog) == []


@on("sqlite-file", "postgresql", "mariadb")
def test_an_isolation_level_and_an_inspection_keep_the_connection(site: Site) -> None:
    """SQLAlchemy sets the level back by itself, and its inspector only asks."""
    site.connections.clear()

    def view() -> object:
        with site.db.atomic(isolation_level="SERIALIZABLE"):
            site.db.session.execute(text("SELECT 1"))
        return ""

    with site.app.app_context():
        view()
    site.request(lambda: inspect(site.db.session.connection()).get_columns("users"))
    site.ask("SELECT 1")
    assert site.connections == []


@on("sqlite-memory")
@pytest.mark.parametrize(
    "config",
    [
        {"SQLALCHEMY_ENGINE_OPTIONS": {"poolclass": StaticPool}},
        {
            "SQLALCHEMY_DATABASE_URI": "sqlite:///file:kept?mode=memory&cache=shared&uri=true",
            "SQLALCHEMY_ENGINE_OPTIONS": {"poolclass": QueuePool, "pool_size": 1},
        },
    ],
    ids=["StaticPool", "shared cache"],
)
def test_a_database_that_would_end_with_its_connection_is_left_alone(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite in memory with a pool of the user's own: its tables are worth more."""
    site.connections.clear()
    site.send("CREATE TEMP TABLE scratch (id int)")
    assert site.ask("SELECT count(*) FROM users") == "[(0,)]"
    assert site.ask(_TEMPORARY_ON_SQLITE) == "[(1,)]"
    assert site.connections == []
    assert warnings(caplog) == []


@on("postgresql")
def test_what_a_driver_cursor_or_a_function_sets_is_not_seen(site: Site) -> None:
    """A limit that the page on faults names."""
    site.connections.clear()
    site.send("DO $$ BEGIN EXECUTE 'SET TIME ZONE ''Asia/Tokyo'''; END $$")
    assert site.ask("SHOW TIME ZONE") == "[('Asia/Tokyo',)]"
    assert site.connections == []


@pytest.mark.parametrize(
    ("database", "statement"),
    [
        ("sqlite-file", "ATTACH 'file:s3cr3t?mode=memory' AS other"),
        ("postgresql", "SELECT set_config('app.tenant', 's3cr3t', false)"),
        ("mariadb", "SET @tenant = 's3cr3t'"),
    ],
    indirect=["database"],
)
def test_the_log_has_no_part_of_the_statement(
    site: Site, statement: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A statement may contain the name of a tenant, or a token."""
    with caplog.at_level(logging.DEBUG):
        site.send(statement)
        site.ask("SELECT 1")
    messages = warnings(caplog)
    assert messages
    assert not any("s3cr3t" in message for message in messages)
