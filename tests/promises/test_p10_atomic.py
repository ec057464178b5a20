"""``db.atomic()``: all or nothing, wherever it stands."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, Response, stream_with_context
from flask.testing import FlaskClient
from sqlalchemy import event, func, insert, select, text, update
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite as SQLiteDialect
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from flask_uow import (
    BlockRefused,
    CommitRefused,
    ConfigError,
    Database,
    DiscardedWork,
    ReadOnly,
    Rollback,
    RollbackOnly,
)
from tests.conftest import MakeApp
from tests.support.databases import TestDatabase, anywhere, concurrently, on
from tests.support.engines import checked_out
from tests.support.faults import Faults, backend_id
from tests.support.models import Post, User
from tests.support.threads import in_threads
from tests.support.witness import Witness


def write(db: Database, name: str = "ada") -> None:
    """Send a row to the database."""
    db.session.add(User(name=name))
    db.session.flush()


def sql(traffic: list[str]) -> list[str]:
    """What was sent, without the pool's part."""
    return [word for word in traffic if word not in {"checkout", "checkin"}]


# The whole unit, where none is running --------------------------------------------------------


def test_outermost_block_is_stored_at_its_end(app: Flask, db: Database, witness: Witness) -> None:
    """In a command: everything of it, and the connection is given back."""
    with app.app_context():
        with db.atomic() as session:
            session.add(User(name="ada"))
            session.add(Post(title="first"))
        assert checked_out() == 0
        assert (witness.names(), witness.titles()) == (["ada"], ["first"])


@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt])
def test_outermost_block_that_fails_leaves_nothing(
    error: type[BaseException], app: Flask, db: Database, witness: Witness
) -> None:
    """Whatever leaves it; the context can go on with the next block."""
    with app.app_context():
        with pytest.raises(error):  # noqa: PT012
            with db.atomic():
                write(db)
                raise error
        assert checked_out() == 0
        with db.atomic():
            write(db, "bob")
    assert witness.names() == ["bob"]


@anywhere
def test_outermost_block_that_is_left_by_a_successful_exit_says_what_is_lost(
    app: Flask, db: Database, witness: Witness
) -> None:
    """``sys.exit()`` ends a command without an error, so nobody would look for one."""
    with app.app_context():
        with pytest.warns(DiscardedWork, match=r"1 User \(new\)"), pytest.raises(SystemExit):  # noqa: PT012
            with db.atomic():
                write(db)
                sys.exit()
    assert witness.names() == []


def test_outermost_block_whose_commit_fails_leaves_nothing(
    app: Flask, db: Database, witness: Witness, faults: Faults
) -> None:
    """Its error is raised where the block ends, and the next block begins anew."""
    with app.app_context():
        faults.fail("commit")
        with pytest.raises(OperationalError, match="failed on demand"):
            with db.atomic():
                write(db)
        assert checked_out() == 0
        with db.atomic():
            write(db, "bob")
    assert witness.names() == ["bob"]


@anywhere
def test_error_of_the_block_is_not_hidden_by_a_failing_rollback(
    app: Flask, db: Database, faults: Faults, caplog: pytest.LogCaptureFixture
) -> None:
    """The rollback's own error is logged."""
    with app.app_context(), pytest.raises(LookupError):  # noqa: PT012
        with db.atomic():
            write(db)
            faults.fail("rollback", times=None)
            raise LookupError
    assert "The rollback of a unit of work failed" in caplog.text
    faults.stop()


@anywhere
def test_objects_stay_readable_behind_the_block(
    app: Flask, db: Database, traffic: list[str]
) -> None:
    """The commit of a block expires nothing, as that of a request (P8)."""
    with app.app_context():
        with db.atomic() as session:
            ada = User(name="ada")
            session.add(ada)
        traffic.clear()
        assert (ada.name, ada.id) == ("ada", 1)
        assert traffic == []


def test_blocks_one_after_the_other_are_transactions_of_their_own(
    app: Flask, db: Database, witness: Witness
) -> None:
    """The second one's failure does not touch what the first has stored."""
    with app.app_context():
        with db.atomic():
            write(db, "first")
        with pytest.raises(LookupError):  # noqa: PT012
            with db.atomic():
                write(db, "second")
                raise LookupError
    assert witness.names() == ["first"]


def test_block_in_a_request_context_that_is_never_dispatched(
    app: Flask, db: Database, witness: Witness
) -> None:
    """Of a test or a socket event: nobody else commits it, so the block does."""
    with app.test_request_context("/", method="POST"):
        with db.atomic():
            write(db)
        assert witness.names() == ["ada"]


def test_block_in_a_streamed_body(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The request has been answered, so the block commits by itself (P9)."""

    @app.post("/")
    def create() -> Response:
        write(db, "view")

        def body() -> Iterator[str]:
            yield "one, "
            with db.atomic():
                write(db, "body")
            yield "two"

        return Response(stream_with_context(body()))

    assert client.post("/").text == "one, two"
    assert witness.names() == ["body", "view"]


@anywhere
def test_block_in_a_teardown_function(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The answer is there, nothing commits any more, and so the block does."""

    @app.teardown_request
    def note(_error: BaseException | None) -> None:
        with db.atomic():
            write(db, "teardown")

    @app.post("/")
    def create() -> tuple[str, int]:
        write(db)
        return "", 400

    client.post("/")
    assert witness.names() == ["teardown"]


def test_block_in_a_command(app: Flask, db: Database, witness: Witness) -> None:
    """A command of Flask has an app context and nothing that commits."""

    @app.cli.command("load")
    @db.atomic
    def load() -> None:
        """Load the users."""
        write(db)

    @app.cli.command("fail")
    @db.atomic
    def fail() -> None:
        write(db, "bob")
        raise LookupError

    runner = app.test_cli_runner()
    assert runner.invoke(args=["load"]).exit_code == 0
    assert isinstance(runner.invoke(args=["fail"]).exception, LookupError)
    assert witness.names() == ["ada"]
    assert load.help == "Load the users."


# A part of what is running --------------------------------------------------------------------


def test_block_in_a_request_is_stored_with_it(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """Not before, and not if the request fails."""

    @app.post("/<int:status>")
    def create(status: int) -> tuple[str, int]:
        with db.atomic():
            write(db, str(status))
        return "", status

    client.post("/200")
    client.post("/400")
    assert witness.names() == ["200"]


def test_block_in_a_request_is_undone_by_itself(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """Before it and behind it the request goes on."""

    @app.post("/")
    def create() -> str:
        write(db, "before")
        with pytest.raises(LookupError):  # noqa: PT012
            with db.atomic():
                write(db, "inside")
                raise LookupError
        write(db, "behind")
        return ""

    assert client.post("/").status_code == 200
    assert witness.names() == ["before", "behind"]


@pytest.mark.parametrize("how", ["flush in it", "flush at its end", "statement"])
def test_database_error_in_a_block_leaves_the_unit_usable(
    how: str, app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """No aborted transaction, no ``PendingRollbackError``: that is what savepoints are for."""
    witness.store(User(name="ada"))

    @app.post("/")
    def create() -> str:
        write(db, "before")
        with pytest.raises(IntegrityError):  # noqa: PT012
            with db.atomic():
                if how == "statement":
                    db.session.execute(insert(User), {"name": "ada"})
                db.session.add(User(name="ada"))
                if how == "flush in it":
                    db.session.flush()
        write(db, "behind")
        return ",".join(db.session.scalars(select(User.name).order_by(User.id)))

    assert client.post("/").text == "ada,before,behind"
    assert witness.names() == ["ada", "before", "behind"]


@pytest.mark.parametrize("flushed", [True, False])
def test_database_error_in_a_block_that_is_the_first_work(
    flushed: bool, app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """There is no savepoint to go back to; the whole transaction is, and nothing is missing."""
    witness.store(User(name="ada"))

    @app.post("/")
    def create() -> str:
        user = db.session.scalars(select(User)).one()
        with pytest.raises(IntegrityError):  # noqa: PT012
            with db.atomic():
                db.session.add(User(name="ada"))
                if flushed:
                    db.session.flush()
        user.email = "new"
        return user.name

    assert client.post("/").text == "ada"
    assert witness.ask(select(User.email)) == ["new"]


def test_blocks_in_blocks_undo_their_own(app: Flask, db: Database, witness: Witness) -> None:
    """A block that is kept goes with the one around it."""
    with app.app_context():
        with db.atomic():
            write(db, "1")
            with pytest.raises(LookupError):  # noqa: PT012
                with db.atomic():
                    write(db, "2")
                    with db.atomic():
                        write(db, "3")
                    raise LookupError
            with db.atomic():
                with db.atomic():
                    write(db, "4")
    assert witness.names() == ["1", "4"]


def test_objects_of_a_block_that_was_undone_are_as_before(
    app: Flask, db: Database, witness: Witness
) -> None:
    """What was changed in it is loaded anew, what was added is not there any more."""
    with app.app_context(), db.atomic() as session:
        ada = User(name="ada", email="old")
        session.add(ada)
        with db.atomic():
            ada.email = "new"
            session.add(User(name="bob"))
            session.flush()
            raise Rollback
        assert ada.email == "old"
        assert session.scalars(select(User.name)).all() == ["ada"]
    assert witness.ask(select(User.email)) == ["old"]


# Round trips ----------------------------------------------------------------------------------


@anywhere
def test_outermost_block_sends_begin_and_commit(
    app: Flask, db: Database, traffic: list[str]
) -> None:
    """Nothing else: no savepoint."""
    with app.app_context(), db.atomic():
        write(db)
    assert sql(traffic) == ["BEGIN", "INSERT", "COMMIT"]


@anywhere
def test_block_that_is_the_first_work_sends_no_savepoint(
    app: Flask, db: Database, client: FlaskClient, traffic: list[str]
) -> None:
    """Nor one that is the first work of another block."""

    @app.post("/")
    def create() -> str:
        with db.atomic():
            with db.atomic():
                write(db)
        return ""

    client.post("/")
    assert sql(traffic) == ["BEGIN", "INSERT", "COMMIT"]


@anywhere
def test_failed_block_keeps_the_transaction_of_what_was_read_before_it(
    app: Flask, db: Database, client: FlaskClient, traffic: list[str]
) -> None:
    """Its locks and its snapshot protect what was read, and what is written because of it."""

    @app.post("/")
    def create() -> str:
        db.session.scalars(select(User)).all()
        with db.atomic():
            write(db, "undone")
            raise Rollback
        return ""

    client.post("/")
    assert [one.split()[0] for one in sql(traffic)] == [
        "BEGIN", "SELECT", "SAVEPOINT", "INSERT", "ROLLBACK", "COMMIT"
    ]  # fmt: skip


@anywhere
def test_block_behind_other_work_sends_one_savepoint(
    app: Flask, db: Database, client: FlaskClient, traffic: list[str]
) -> None:
    """As ``begin_nested()`` written by hand; one without statements sends nothing at all."""

    @app.post("/<int:by_hand>")
    def create(by_hand: int) -> str:
        write(db, f"before {by_hand}")
        with db.session.begin_nested() if by_hand else db.atomic():
            write(db, f"inside {by_hand}")
        with db.session.begin_nested() if by_hand else db.atomic():
            pass
        return ""

    client.post("/0")
    sent = sql(traffic)
    assert sent == ["BEGIN", "INSERT", "SAVEPOINT", "INSERT", "RELEASE", "COMMIT"]
    traffic.clear()
    client.post("/1")
    assert sql(traffic) == sent


@anywhere
def test_block_that_does_nothing_sends_nothing(
    app: Flask, db: Database, traffic: list[str]
) -> None:
    """Not even a connection is asked for (P1)."""
    with app.app_context(), db.atomic(), db.atomic():
        pass
    assert traffic == []


# What only a whole transaction can have -------------------------------------------------------


def test_durable_block_is_stored_at_its_end(app: Flask, db: Database, witness: Witness) -> None:
    """It is the outermost, so its end is a COMMIT."""
    with app.app_context():
        with db.atomic(durable=True):
            write(db)
        assert witness.names() == ["ada"]


OUTERMOST_ONLY: dict[str, Any] = {
    "durable": True,
    "isolation_level": "SERIALIZABLE",
    "read_only": True,
    "retries": 3,
}


@anywhere
@pytest.mark.parametrize("option", list(OUTERMOST_ONLY))
def test_option_of_a_whole_transaction_is_refused_in_a_block(
    option: str, app: Flask, db: Database, witness: Witness
) -> None:
    """Before any work is done; the block around it can go on."""

    @db.atomic(**{option: OUTERMOST_ONLY[option]})
    def inner() -> None:
        write(db, "never")

    with app.app_context(), db.atomic():
        write(db)
        with pytest.raises(BlockRefused) as caught:
            inner()
    message = str(caught.value)
    assert f"was given '{option}', which only a whole transaction can have" in message
    assert "inside another 'db.atomic()' block. Nothing was done" in message
    assert witness.names() == ["ada"]


@anywhere
@pytest.mark.parametrize("option", list(OUTERMOST_ONLY))
def test_option_of_a_whole_transaction_is_refused_in_a_request(
    option: str, app: Flask, db: Database, client: FlaskClient
) -> None:
    """The request is the whole; a view says it with ``@db.unit``, as far as that has the option."""

    @app.post("/")
    def create() -> str:
        @db.atomic(**{option: OUTERMOST_ONLY[option]})
        def inner() -> None: ...

        with pytest.raises(BlockRefused, match=f"'{option}'.* inside a request") as caught:
            inner()
        return str(caught.value)

    instead = f", or write '@db.unit(...)' with '{option}' above the view."
    text = client.post("/").text
    assert text.endswith("the option out here." if option == "durable" else instead)


def test_block_in_a_block_of_a_request_is_not_sent_to_the_outer_block(
    db: Database, client: FlaskClient, app: Flask
) -> None:
    """A request refuses the option there, too: all its blocks are savepoints."""

    @app.post("/")
    def create() -> str:
        with db.atomic(), pytest.raises(BlockRefused) as caught:
            db.atomic(read_only=True).__enter__()
        return str(caught.value)

    text = client.post("/").text
    assert "inside another 'db.atomic()' block. Nothing was done. Leave the option out" in text
    assert text.endswith("or write '@db.unit(...)' with 'read_only' above the view.")


@anywhere
def test_several_options_are_named_in_one_sentence(app: Flask, db: Database) -> None:
    """All that were given, in the order of the signature."""
    with app.app_context(), db.atomic():
        with pytest.raises(BlockRefused, match="'durable' and 'read_only', which only"):
            with db.atomic(read_only=True, durable=True):
                pass


_LEVEL = {
    "postgresql": "SHOW transaction_isolation",
    "mariadb": "SELECT @@tx_isolation",
}


def level(db: Database) -> str:
    """At which isolation level the server runs the current transaction."""
    session = db.session
    found: str = session.execute(text(_LEVEL[session.get_bind().dialect.name])).scalar_one()
    return found.upper().replace("-", " ")


@on("postgresql", "mariadb")
def test_isolation_level_is_in_force_and_only_there(app: Flask, db: Database) -> None:
    """The server says so; the next transaction on the same connection has its own again."""
    with app.app_context():
        with db.atomic():
            usual, number = level(db), backend_id(db.session.connection())
        with db.atomic(isolation_level="SERIALIZABLE"):
            assert level(db) == "SERIALIZABLE" != usual
            with db.atomic():
                assert level(db) == "SERIALIZABLE"
        with db.atomic():
            assert (level(db), backend_id(db.session.connection())) == (usual, number)
        with pytest.raises(LookupError):  # noqa: PT012
            with db.atomic(isolation_level="SERIALIZABLE"):
                level(db)
                raise LookupError
        assert level(db) == usual


@concurrently
def test_isolation_level_by_dialect_is_that_of_the_engine(app: Flask, db: Database) -> None:
    """A dialect that is not named keeps its default, and its engine."""
    levels = {"postgresql": "SERIALIZABLE", "mariadb": "READ COMMITTED"}
    with app.app_context():
        name, usual = db.engine.dialect.name, db.engine
        for dialect in ("postgresql", "mariadb"):
            with db.atomic(isolation_level={dialect: levels[dialect]}):
                if dialect == name:
                    assert level(db) == levels[dialect]
                else:
                    assert db.session.get_bind() is usual
        with db.atomic(isolation_level=levels) as session:
            connection = session.connection()
            wanted = levels.get(name, "SERIALIZABLE")  # SQLite has no other
            assert connection.get_isolation_level() == wanted


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (8, "is 8, but it must be a level, such as 'SERIALIZABLE', or a dict of levels"),
        (["SERIALIZABLE"], "must be a level"),
        ({"postgres": "SERIALIZABLE"}, "a level for 'postgres', which is not a dialect"),
        ({"PostgreSQL": "SERIALIZABLE"}, "Did you mean 'postgresql'? Write the name as in"),
        ({"mysql+pymysql": "SERIALIZABLE"}, "Did you mean 'mysql'?"),
        ({"mysql.pymysql": "SERIALIZABLE"}, "for 'mysql.pymysql', which is not a dialect"),
        ({None: "SERIALIZABLE"}, "a level for None, which is not a dialect"),
        ({"mysql": None}, "is None for 'mysql', but it must be a level"),
    ],
)
def test_isolation_level_of_another_kind_is_refused_where_it_is_written(
    db: Database, value: Any, sentence: str
) -> None:
    """No app and no engine is needed, and both places name themselves."""
    for place in ("atomic", "unit"):
        with pytest.raises(ConfigError) as refusal:
            getattr(db, place)(isolation_level=value)
        assert str(refusal.value).startswith("'isolation_level' of '")
        assert f"db.{place}(...)'" in str(refusal.value)
        assert sentence in str(refusal.value)


def test_isolation_level_for_a_dialect_of_another_package(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is the one that its engines have: a URL and a driver may have others."""
    for name in ("shopdb", "shop", "postgresql.psycopg"):
        with pytest.raises(ConfigError, match=f"a level for '{name}', which is not a dialect"):
            db.atomic(isolation_level={name: "SERIALIZABLE"})
    dialect = type("ShopDialect", (SQLiteDialect,), {"name": "shopdb"})
    for name in ("shopdb", "shop"):
        monkeypatch.setitem(registry.impls, name, lambda: dialect)
    db.atomic(isolation_level={"shopdb": "SERIALIZABLE"})
    with pytest.raises(ConfigError, match="a level for 'shop', which is not a dialect"):
        db.atomic(isolation_level={"shop": "SERIALIZABLE"})


@anywhere
def test_unknown_level_in_a_mapping_is_refused_on_its_dialect_only(
    app: Flask, db: Database
) -> None:
    """The server of another dialect is not there to ask."""
    with app.app_context():
        with db.atomic(isolation_level={"postgresql": "CHAOS"}):
            pass
        with pytest.raises(ConfigError, match=r"'CHAOS' is not known to the engine 'default'"):
            with db.atomic(isolation_level={"sqlite": "CHAOS"}):
                pass


@on("postgresql", "mariadb")
def test_isolation_level_may_be_written_in_any_way(app: Flask, db: Database) -> None:
    """As SQLAlchemy, as the server, or as Python writes names."""
    for name in ("repeatable read", "REPEATABLE_READ", "Repeatable Read"):
        with app.app_context(), db.atomic(isolation_level=name):
            assert level(db) == "REPEATABLE READ"


@on("postgresql", "mariadb")
def test_isolation_level_where_something_was_read_before(
    app: Flask, db: Database, witness: Witness
) -> None:
    """A read begins no work, so the block begins its own transaction, at its level."""
    witness.store(User(name="ada"))
    with app.app_context():
        ada = db.session.scalars(select(User)).one()
        with db.atomic(isolation_level="SERIALIZABLE"):
            assert level(db) == "SERIALIZABLE"
            ada.email = "new"
    assert witness.ask(select(User.email)) == ["new"]


@on("postgresql")
def test_isolation_level_behind_a_statement_that_may_have_written(app: Flask, db: Database) -> None:
    """Nobody knows what a function does, so its transaction is not thrown away."""
    with app.app_context():
        db.session.execute(text("SELECT pg_advisory_xact_lock(1)"))
        with pytest.raises(
            BlockRefused, match=r"has begun already.*Nothing was done. Commit first"
        ):
            with db.atomic(isolation_level="SERIALIZABLE"):
                pass


def test_unknown_isolation_level_is_refused_with_those_that_are_known(
    app: Flask, db: Database, database: TestDatabase
) -> None:
    """Before any work is done, in words of this engine."""
    with app.app_context():
        with pytest.raises(ConfigError) as caught:
            with db.atomic(isolation_level="SNAPSHOT READ"):
                write(db)
        with db.atomic():
            pass  # nothing is left open
    message = str(caught.value)
    assert "The isolation level 'SNAPSHOT READ' is not known to the engine 'default'" in message
    assert "'SERIALIZABLE'" in message
    assert "AUTOCOMMIT" not in message


@anywhere
def test_autocommit_is_no_isolation_level_of_a_block(app: Flask, db: Database) -> None:
    """Nothing could be rolled back; the sentence says what to use instead."""
    with app.app_context(), pytest.raises(ConfigError, match=r"db\.engine\.connect\(\)"):
        with db.atomic(isolation_level="AUTOCOMMIT"):
            pass


def test_read_only_block_reads(app: Flask, db: Database, witness: Witness) -> None:
    """And the block behind it writes again."""
    witness.store(User(name="ada"))
    with app.app_context():
        with db.atomic(read_only=True) as session:
            assert session.scalars(select(User.name)).all() == ["ada"]
        with db.atomic():
            write(db, "bob")
    assert witness.names() == ["ada", "bob"]


def test_read_only_block_refuses_a_flush_and_names_what_changed(
    app: Flask, db: Database, witness: Witness
) -> None:
    """The class and the attribute, or what else was to become of it."""
    witness.store(User(name="ada"))
    with app.app_context():
        with pytest.raises(ReadOnly, match=r"would write: User \(email\)\. Nothing was sent"):
            with db.atomic(read_only=True) as session:
                session.scalars(select(User)).one().email = "new"
        with pytest.raises(ReadOnly, match=r"would write: Post \(new\)"):
            with db.atomic(read_only=True) as session:
                session.add(Post(title="new"))
        with pytest.raises(ReadOnly, match=r"would write: User \(deleted\)"):  # noqa: PT012
            with db.atomic(read_only=True) as session:
                session.delete(session.scalars(select(User)).one())
                session.flush()
    assert witness.ask(select(User.name, User.email)) == [("ada", None)]


@pytest.mark.parametrize(
    "statement",
    [
        insert(User).values(name="bob"),
        update(User).values(email="new"),
        text("DELETE FROM users"),
    ],
)
def test_read_only_block_refuses_statements_that_write(
    statement: Any, app: Flask, db: Database, witness: Witness
) -> None:
    """Whoever sends them; the statement is quoted."""
    witness.store(User(name="ada"))
    with app.app_context(), pytest.raises(ReadOnly, match=r"'(INSERT|UPDATE|DELETE)"):
        with db.atomic(read_only=True) as session:
            session.execute(statement)
    assert witness.ask(select(User.name, User.email)) == [("ada", None)]


@on("postgresql")
def test_server_refuses_a_function_that_writes_in_a_read_only_block(
    app: Flask, db: Database
) -> None:
    """Its words are those of a query; only PostgreSQL knows what it does, and is told."""
    with app.app_context():
        with pytest.raises(DBAPIError, match="read-only transaction"):
            with db.atomic(read_only=True) as session:
                session.execute(text("SELECT nextval('users_id_seq')"))
        with db.atomic() as session:  # the same connection, writing again
            session.execute(text("SELECT nextval('users_id_seq')"))


# Leaving a block undone -----------------------------------------------------------------------


def test_rollback_leaves_the_innermost_block_undone(
    app: Flask, db: Database, witness: Witness
) -> None:
    """Without an error; the lines behind the block run."""
    with app.app_context(), db.atomic():
        write(db, "around")
        with db.atomic():
            write(db, "inside")
            raise Rollback
        write(db, "behind")
    assert witness.names() == ["around", "behind"]


def test_rollback_may_name_a_block_further_out(app: Flask, db: Database, witness: Witness) -> None:
    """It passes the blocks in between, which are undone as well."""
    with app.app_context(), db.atomic():
        write(db, "1")
        target = db.atomic()
        with target:
            write(db, "2")
            with db.atomic():
                write(db, "3")
                raise Rollback(target)
        write(db, "4")
    assert witness.names() == ["1", "4"]


def test_rollback_of_the_outermost_block(app: Flask, db: Database, witness: Witness) -> None:
    """The whole unit is undone, and the command goes on."""
    with app.app_context():
        with db.atomic():
            write(db)
            raise Rollback
        assert checked_out() == 0
    assert witness.names() == []


@anywhere
def test_rollback_in_a_decorated_function_returns_none(
    app: Flask, db: Database, witness: Witness
) -> None:
    """The function has no result, as if it had ended there."""

    @db.atomic
    def create() -> str:
        write(db)
        raise Rollback

    with app.app_context():
        assert create() is None
    assert witness.names() == []


@anywhere
def test_rollback_outside_of_any_block_is_an_error_that_explains_itself(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """It is an exception like any other then, and the view fails."""
    app.register_error_handler(Rollback, lambda error: (str(error), 500))

    @app.post("/")
    def create() -> str:
        write(db)
        raise Rollback

    text = client.post("/").text
    assert "was raised outside of the block that it was meant to undo" in text
    assert "'db.session.rollback()'" in text
    assert witness.names() == []


@anywhere
def test_rollback_to_a_block_that_is_not_open_undoes_everything(
    app: Flask, db: Database, witness: Witness
) -> None:
    """Nobody catches it, so it leaves all blocks as an error."""
    with app.app_context(), pytest.raises(Rollback):  # noqa: PT012
        with db.atomic():
            write(db)
            raise Rollback(db.atomic())
    assert witness.names() == []


def test_set_rollback_only_dooms_the_block_it_is_called_in(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The rest of the block still runs; what is around it is stored."""

    @app.post("/")
    def create() -> str:
        write(db, "around")
        with db.atomic():
            with db.atomic():
                write(db, "kept")
            with db.atomic():
                db.set_rollback_only()
                write(db, "inside")
        return ""

    assert client.post("/").status_code == 200
    assert witness.names() == ["around", "kept"]


def test_set_rollback_only_in_the_outermost_block(
    app: Flask, db: Database, witness: Witness
) -> None:
    """Nothing is stored, nothing is raised, and the next block is none the worse."""
    with app.app_context():
        with db.atomic():
            db.set_rollback_only()
            write(db)
        with db.atomic():
            write(db, "next")
    assert witness.names() == ["next"]


@anywhere
def test_set_rollback_only_before_a_block_in_a_request(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """It dooms the request; a block inside changes nothing about that."""

    @app.post("/")
    def create() -> str:
        db.set_rollback_only()
        with db.atomic():
            write(db)
        return ""

    assert client.post("/").status_code == 200
    assert witness.names() == []


@anywhere
def test_set_rollback_only_before_the_outermost_block(
    app: Flask, db: Database, witness: Witness
) -> None:
    """Nothing of this unit will be stored, and the block says so before any work is done."""
    with app.app_context():
        db.set_rollback_only()
        with pytest.raises(RollbackOnly, match="Nothing was done"):
            with db.atomic():
                write(db)
    assert witness.names() == []


# What is refused inside -----------------------------------------------------------------------


@anywhere
@pytest.mark.parametrize("call", ["commit", "rollback", "close", "remove"])
@pytest.mark.parametrize("depth", [1, 2])
def test_what_would_end_the_block_from_inside_is_refused(
    call: str, depth: int, app: Flask, db: Database, witness: Witness
) -> None:
    """All or nothing would be neither; the sentence says what to write instead."""

    def attempt() -> None:
        write(db, "inside")
        with pytest.raises(CommitRefused) as caught:
            getattr(db.session, call)()
        name = "close" if call == "remove" else call
        assert f"{name}() is refused inside 'db.atomic()'" in str(caught.value)
        assert "db.independent()" in str(caught.value)

    with app.app_context(), db.atomic():
        write(db, "first")
        if depth == 1:
            attempt()
        else:
            with db.atomic():
                attempt()
    assert witness.names() == ["first", "inside"]


@anywhere
@pytest.mark.parametrize("around", ["command", "request"])
def test_begin_is_refused_inside(
    around: str, app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The end of ``with db.session.begin():`` would be a commit."""

    @app.post("/")
    def attempt() -> str:
        with db.atomic():
            with pytest.raises(CommitRefused, match=r"begin\(\) is refused inside 'db\.atomic"):
                with db.session.begin():
                    write(db, "never")
            write(db)
        return ""

    if around == "request":
        assert client.post("/").status_code == 200
    else:
        with app.app_context():
            attempt()
    assert witness.names() == ["ada"]


@anywhere
def test_begin_nested_by_hand_is_fine_inside(app: Flask, db: Database, witness: Witness) -> None:
    """SQLAlchemy's own savepoints end where they say, and so do our blocks in them."""
    with app.app_context(), db.atomic() as session:
        write(db, "1")
        with session.begin_nested() as savepoint:
            write(db, "2")
            with db.atomic():
                write(db, "3")
            savepoint.rollback()
        with session.begin_nested():
            write(db, "4")
    assert witness.names() == ["1", "4"]


def test_savepoint_that_was_left_open_goes_with_the_block(
    app: Flask, db: Database, witness: Witness
) -> None:
    """Released with a block that is kept, undone with one that is not."""
    with app.app_context(), db.atomic() as session:
        write(db, "1")
        with db.atomic():
            session.begin_nested()
            write(db, "2")
        with db.atomic():
            session.begin_nested()
            write(db, "3")
            raise Rollback
        session.begin_nested()
        write(db, "4")
    assert witness.names() == ["1", "2", "4"]


def test_earlier_work_is_not_committed_by_a_block(
    app: Flask, db: Database, witness: Witness
) -> None:
    """It is refused with the names of what would go with it; nothing was done."""
    with app.app_context():
        db.session.add(User(name="earlier"))
        write(db, "flushed")
        with pytest.raises(BlockRefused, match=r"more than its own work: User \(new\), User \(new"):
            with db.atomic():
                write(db, "inside")
        db.session.rollback()
        db.session.execute(insert(User), {"name": "core"})
        with pytest.raises(BlockRefused, match="SQL statements came before it"):
            with db.atomic():
                write(db, "inside")
        db.session.rollback()
    assert witness.names() == []


@anywhere
@pytest.mark.parametrize("begin", ["begin", "begin_nested"])
def test_outermost_block_inside_a_transaction_begun_by_hand_is_refused(
    begin: str, app: Flask, db: Database, witness: Witness
) -> None:
    """One of the two ends first, and the other would not know; the outer one can go on."""
    with app.app_context():
        with getattr(db.session, begin)():
            with pytest.raises(BlockRefused, match=r"whose transaction it would end\."):
                with db.atomic():
                    write(db, "never")
            write(db)
        db.session.commit()
    assert witness.names() == ["ada"]


@anywhere
@pytest.mark.parametrize("begin", ["begin", "begin_nested"])
def test_block_of_a_request_inside_a_transaction_begun_by_hand(
    begin: str, app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """It is undone by itself, also as the first work, and leaves the other one open."""

    @app.post("/")
    def create() -> str:
        with getattr(db.session, begin)():
            with db.atomic():
                write(db, "undone")
                raise Rollback
            write(db)
        return ""

    assert client.post("/").status_code == 200
    assert witness.names() == ["ada"]


@anywhere
def test_earlier_work_that_was_committed_is_none(
    app: Flask, db: Database, witness: Witness
) -> None:
    """As the refusal says: commit first."""
    with app.app_context():
        write(db, "earlier")
        db.session.commit()
        with db.atomic():
            write(db, "inside")
    assert witness.names() == ["earlier", "inside"]


@concurrently
def test_what_was_read_before_the_outermost_block_is_read_anew(
    app: Flask, db: Database, witness: Witness
) -> None:
    """Else the block would decide by what was true some time ago."""
    witness.store(User(name="ada", email="old"))
    with app.app_context():
        ada = db.session.scalars(select(User)).one()
        with witness.engine.begin() as connection:
            connection.execute(update(User).values(email="new"))
        with db.atomic():
            assert ada.email == "new"


@anywhere
def test_block_is_entered_once(app: Flask, db: Database, witness: Witness) -> None:
    """The object is one block; a second ``with`` on it, inside, is refused, behind it is not."""
    block = db.atomic()
    with app.app_context():
        with block:
            write(db, "1")
            with pytest.raises(BlockRefused, match="is open already"):
                block.__enter__()
        with block:
            write(db, "2")
        with pytest.raises(BlockRefused, match="was left before it was entered"):
            block.__exit__(None, None, None)
    assert witness.names() == ["1", "2"]


# Functions ------------------------------------------------------------------------------------


@anywhere
@pytest.mark.parametrize("with_options", [False, True])
def test_decorated_function_keeps_its_name_and_signature(
    with_options: bool, app: Flask, db: Database, witness: Witness
) -> None:
    """Tools that look at a function see the one that was written."""

    def create(name: str, *, email: str = "none") -> int:
        """Create a user."""
        user = User(name=name, email=email)
        db.session.add(user)
        db.session.flush()
        return user.id

    create = db.atomic(durable=True)(create) if with_options else db.atomic(create)
    assert (create.__name__, create.__doc__) == ("create", "Create a user.")
    assert list(inspect.signature(create).parameters) == ["name", "email"]
    with app.app_context():
        assert create("ada", email="a@b") == 1
        assert create("bob") == 2
    assert witness.names() == ["ada", "bob"]


def test_decorated_functions_may_call_each_other(
    app: Flask, db: Database, witness: Witness
) -> None:
    """Also themselves: each call is a block of its own."""

    @db.atomic
    def count_down(number: int) -> None:
        write(db, str(number))
        if number:
            count_down(number - 1)
        else:
            raise Rollback

    with app.app_context():
        count_down(2)
    assert witness.names() == ["1", "2"]


def test_decorated_function_is_used_by_several_threads(
    app: Flask, db: Database, witness: Witness
) -> None:
    """Each in a context of its own; none sees the block of another."""

    @db.atomic
    def create(number: int) -> None:
        write(db, str(number))
        if number % 2:
            raise LookupError

    numbers = iter(range(8))

    def work() -> None:
        number = next(numbers)
        with app.app_context():
            try:
                create(number)
            except LookupError:
                assert number % 2

    in_threads(work)
    assert witness.names() == ["0", "2", "4", "6"]


@pytest.mark.parametrize("function", ["generator", "async_generator"])
def test_generator_function_is_refused(function: str, db: Database) -> None:
    """Its lines run when its caller asks for them, perhaps never."""

    def generator() -> Iterator[int]:
        yield 1

    async def async_generator() -> Any:
        yield 1

    with pytest.raises(ConfigError, match=f"generator function '.*{function}'.*or return a list"):
        db.atomic({"generator": generator, "async_generator": async_generator}[function])


def test_what_is_no_function_is_refused(db: Database) -> None:
    """For example an option that was meant to have a name."""
    mistake: Any = "SERIALIZABLE"
    with pytest.raises(ConfigError, match="put on 'SERIALIZABLE', which is not a function"):
        db.atomic(mistake)
    with pytest.raises(ConfigError, match="which is not a function"):
        db.atomic()(mistake)


@anywhere
def test_retries_of_a_with_block_are_refused(app: Flask, db: Database) -> None:
    """Python runs its lines once; a function can be run again."""
    with app.app_context(), pytest.raises(BlockRefused, match="Put the work into a function"):
        with db.atomic(retries=3):
            pass


# async def ------------------------------------------------------------------------------------


@pytest.fixture
def _asgiref() -> None:
    pytest.importorskip("asgiref", reason="async views need 'pip install flask[async]'")


@pytest.mark.usefixtures("_asgiref")
def test_blocks_in_async_views(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """Each with the session of its request, also across an ``await``."""

    @db.atomic
    async def helper(name: str, fails: bool = False) -> str:
        write(db, name)
        await asyncio.sleep(0)
        if fails:
            raise LookupError
        return name

    @app.post("/")
    async def create() -> str:
        with db.atomic():
            write(db, "block")
            await asyncio.sleep(0)
        with pytest.raises(LookupError):
            await helper("undone", fails=True)
        return await helper("kept")

    assert client.post("/").text == "kept"
    assert witness.names() == ["block", "kept"]
    assert inspect.iscoroutinefunction(helper)


@anywhere
@pytest.mark.usefixtures("_asgiref")
def test_async_view_that_fails_leaves_nothing_of_its_blocks(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """A block that was kept is a part of the request."""

    @app.post("/")
    async def create() -> str:
        with db.atomic():
            write(db)
        raise LookupError

    assert client.post("/").status_code == 500
    assert witness.names() == []


@anywhere
@pytest.mark.usefixtures("_asgiref")
def test_blocks_of_two_coroutines_at_once_are_refused_in_words(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """One unit is one connection; what one of the two has begun would end with the other."""
    app.register_error_handler(BlockRefused, lambda error: (str(error), 500))

    @db.atomic
    async def helper(name: str, turns: int) -> None:
        write(db, name)
        for _ in range(turns):
            await asyncio.sleep(0)

    @app.post("/")
    async def create() -> str:
        write(db, "view")
        await asyncio.gather(helper("ada", 1), helper("bob", 5))
        return ""

    assert "blocks overlap" in client.post("/").text
    assert witness.names() == []


def test_async_function_outside_of_a_request(app: Flask, db: Database, witness: Witness) -> None:
    """The outermost block commits when the coroutine is done, not when it is made."""

    @db.atomic
    async def create(name: str) -> None:
        write(db, name)
        await asyncio.sleep(0)
        if name == "rolled back":
            raise Rollback

    with app.app_context():
        asyncio.run(create("ada"))
        asyncio.run(create("rolled back"))
    assert witness.names() == ["ada"]


# Listeners and sessions of the user's own ------------------------------------------------------


@anywhere
def test_user_s_own_listeners_hear_the_commit_of_a_block(
    app: Flask, db: Database, witness: Witness
) -> None:
    """SQLAlchemy's session events are what they were."""
    heard: list[str] = []
    with app.app_context(), db.atomic() as session:
        for name in ("before_commit", "after_commit"):
            event.listen(session, name, lambda _, name=name: heard.append(name))
        write(db)
        with db.atomic():
            write(db, "bob")
    assert heard == ["before_commit", "after_commit"] * 2
    assert witness.count() == 2


@anywhere
def test_block_of_a_session_class_of_the_users_own(make_app: MakeApp, witness: Witness) -> None:
    """Its ``commit()`` is asked at the end of the outermost block, and not before."""
    from sqlalchemy.orm import Session

    from tests.support.models import Base

    class Own(Session):
        commits = 0

        def commit(self) -> None:
            Own.commits += 1
            super().commit()

    db = Database(Base, session_options={"class_": Own})
    with make_app(db).app_context():
        with db.atomic():
            write(db)
            with db.atomic():
                write(db, "bob")
            assert Own.commits == 0
        assert db.session.scalar(select(func.count()).select_from(User)) == 2
    assert Own.commits == 1


@pytest.mark.parametrize("method", ["reset", "invalidate"])
def test_session_is_not_taken_away_from_a_block(
    method: str, app: Flask, db: Database, witness: Witness
) -> None:
    """As ``close()`` is not: the block would end as if all were stored."""

    @db.atomic
    def create() -> None:
        write(db)
        getattr(db.session(), method)()

    with app.app_context():
        with pytest.raises(CommitRefused, match=method):
            create()
        with pytest.raises(CommitRefused), db.atomic():
            db.session.invalidate()
    assert witness.names() == []


def test_decorated_function_that_returns_what_is_still_to_run_is_refused(
    app: Flask, db: Database
) -> None:
    """A decorator between hides the coroutine; the block would end before its first line."""

    async def create() -> None:
        write(db)

    @db.atomic
    def hidden() -> Any:
        return create()

    with app.app_context(), pytest.raises(ConfigError, match="returned a coroutine"):
        hidden()
    decorators: list[Any] = [staticmethod, classmethod]
    for decorator in decorators:
        with pytest.raises(ConfigError, match="above '@staticmethod' or '@classmethod'"):
            db.atomic(decorator(write))


def test_request_does_not_commit_with_a_block_still_open(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """Nobody knows whether the rest of it would have failed."""

    def half() -> Iterator[None]:
        with db.atomic():
            write(db)
            yield

    @app.post("/")
    def create() -> str:
        app.config["kept"] = half()
        next(app.config["kept"])
        return ""

    assert client.post("/").status_code == 500
    assert witness.names() == []
