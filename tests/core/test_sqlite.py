"""SQLite through SQLAlchemy alone: transactions, the queue in front of them, the file."""

from __future__ import annotations

import gc
import multiprocessing
import os
import re
import shutil
import sqlite3
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, NullPool, create_engine, event, inspect, text
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.pool import StaticPool

from flask_uow._config.reading import read
from flask_uow._config.settings import SqliteProfile
from flask_uow._sqlite import connection as _sqlite_connection
from flask_uow._sqlite import database as _sqlite_database
from flask_uow._sqlite import engine as _sqlite_engine
from flask_uow._sqlite.connection import SqliteConnection
from flask_uow._sqlite.profile import file_system_of, path_of, refuse_network
from flask_uow._sqlite.write_queue import waiting
from flask_uow._transaction.record import TransactionRecord, attach
from flask_uow._transaction.statements import SqliteKind, sqlite_kind_of
from flask_uow.errors import ConfigError, ConfigNotice, TransactionLost
from tests.support import engines
from tests.support.forks import in_child
from tests.support.threads import in_thread, in_threads
from tests.support.witness import Witness

MakeEngine = Callable[..., Engine]


def profile_of(**values: Any) -> SqliteProfile:
    """The profile of an app with these settings."""
    config = {f"UOW_SQLITE_{name.upper()}": value for name, value in values.items()}
    return read({"SQLALCHEMY_DATABASE_URI": "sqlite://", **config}).sqlite


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
def make_engine(file: Path) -> Iterator[MakeEngine]:
    """Makes engines with the profile of the keyword arguments, on ``file`` unless it is told."""
    made = []

    def make(url: str = f"sqlite:///{file}", options: Any = None, **profile: Any) -> Engine:
        engine = create_engine(url, **(options or {}))
        growth = profile.pop("on_wal_growth", None)
        _sqlite_engine.set_up_transactions(engine, profile_of(**profile), on_wal_growth=growth)
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.dispose()


@pytest.fixture
def witness(file: Path, make_engine: MakeEngine) -> Witness:
    """A table ``t`` with one row, and a second connection."""
    engine = make_engine()
    with engine.begin() as connection:
        run(connection, "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)")
        run(connection, "INSERT INTO t VALUES (1, 0)")
    engine.dispose()
    return Witness(f"sqlite:///{file}")


@pytest.fixture
def engine(make_engine: MakeEngine, witness: Witness) -> Engine:
    return make_engine()


def run(connection: Connection, statement: str) -> Any:
    return connection.exec_driver_sql(statement)


def n(connection: Connection) -> int:
    number: int = run(connection, "SELECT n FROM t WHERE id = 1").scalar_one()
    return number


def set_n(connection: Connection, number: int) -> None:
    run(connection, f"UPDATE t SET n = {number} WHERE id = 1")


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction of a unit that is expected to write."""
    with engine.connect() as connection:
        record = TransactionRecord()
        record.will_write = True
        attach(connection, record)
        yield connection


def driver(connection: Connection) -> SqliteConnection:
    found = connection.connection.driver_connection
    assert isinstance(found, SqliteConnection)
    return found


def is_locked(engine: Engine) -> bool:
    """Has anybody the write lock of SQLite?"""
    with closing(sqlite3.connect(str(engine.url.database), timeout=0)) as other:
        try:
            other.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        return False


# Statements -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("SELECT 1", SqliteKind.READ),
        ("  (SELECT random()) UNION SELECT 2", SqliteKind.READ),
        ("-- why\n/* and how */ select my_function(1)", SqliteKind.READ),
        ("WITH one AS (SELECT updated FROM t) SELECT * FROM one", SqliteKind.READ),
        ("VALUES (1)", SqliteKind.READ),
        ("EXPLAIN QUERY PLAN DELETE FROM t", SqliteKind.READ),
        ("INSERT INTO t DEFAULT VALUES", SqliteKind.WRITE),
        ("with one as (select 1) replace into t select * from one", SqliteKind.WRITE),
        ("CREATE TABLE t (id)", SqliteKind.WRITE),
        ("ANALYZE", SqliteKind.WRITE),
        ("", SqliteKind.WRITE),
        ("SAVEPOINT one", SqliteKind.SAVEPOINT),
        ("RELEASE one", SqliteKind.END),
        ("ROLLBACK TO one", SqliteKind.END),
        ("PRAGMA table_info(t)", SqliteKind.OUTSIDE),
        ("VACUUM", SqliteKind.OUTSIDE),
        ("BEGIN EXCLUSIVE", SqliteKind.OUTSIDE),
    ],
)
def test_the_kind_of_a_statement(statement: str, kind: SqliteKind) -> None:
    """The first word tells; a doubt is a write."""
    assert sqlite_kind_of(statement) is kind


# The profile ----------------------------------------------------------------------------------


def test_the_defaults(engine: Engine) -> None:
    """WAL, NORMAL, foreign keys, five seconds."""
    with engine.connect() as connection:
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        found = [run(connection, f"PRAGMA {name}").scalar() for name in names]
    assert found == ["wal", 1, 1, 5000]


def test_every_knob(make_engine: MakeEngine) -> None:
    """Each of them can be set otherwise; upper case is as good."""
    engine = make_engine(
        journal_mode="TRUNCATE", synchronous="Full", foreign_keys=False, busy_timeout=0.5
    )
    with engine.connect() as connection:
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        found = [run(connection, f"PRAGMA {name}").scalar() for name in names]
    assert found == ["truncate", 2, 0, 500]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"journal_mode": "off"}, r"UOW_SQLITE_JOURNAL_MODE is 'off', .* 'wal', .* cannot be und"),
        ({"journal_mode": None}, r"UOW_SQLITE_JOURNAL_MODE is None, but it must be 'wal'"),
        ({"synchronous": 1}, r"UOW_SQLITE_SYNCHRONOUS is 1, .* 'off', 'normal', 'full' or 'extra'"),
        ({"foreign_keys": 1}, r"UOW_SQLITE_FOREIGN_KEYS is 1, but it must be True or False"),
        ({"busy_timeout": -1}, r"UOW_SQLITE_BUSY_TIMEOUT is -1, .* number of seconds, 0 or more"),
        ({"busy_timeout": True}, r"UOW_SQLITE_BUSY_TIMEOUT is True"),
        ({"busy_timeout": "5"}, r"UOW_SQLITE_BUSY_TIMEOUT is '5'"),
        ({"busy_timeout": float("inf")}, r"UOW_SQLITE_BUSY_TIMEOUT is inf, .* not more than 20000"),
        ({"busy_timeout": float("nan")}, r"UOW_SQLITE_BUSY_TIMEOUT is nan"),
        ({"busy_timeout": 1e10}, r"UOW_SQLITE_BUSY_TIMEOUT is 10000000000.0"),
        ({"begin": "exclusive"}, r"UOW_SQLITE_BEGIN is 'exclusive', .*'deferred' or 'immediate'"),
        ({"queue": "yes"}, r"UOW_SQLITE_QUEUE is 'yes', but it must be True or False"),
    ],
)
def test_a_wrong_value_gets_a_sentence(value: dict[str, Any], sentence: str) -> None:
    """P11: named as it is written in ``app.config``."""
    with pytest.raises(ConfigError, match=sentence):
        profile_of(**value)


@pytest.mark.parametrize("query", ["?timeout=7", ""])
def test_a_timeout_for_the_driver_is_the_busy_timeout(
    query: str, file: Path, make_engine: MakeEngine
) -> None:
    """In the URL or in ``connect_args``; the nearer word counts."""
    arguments = {} if query else {"timeout": 7}
    engine = make_engine(f"sqlite:///{file}{query}", {"connect_args": arguments})
    with engine.connect() as connection:
        assert run(connection, "PRAGMA busy_timeout").scalar() == 7000
        assert driver(connection).timeout == 7


@pytest.mark.parametrize("timeout", ["5", None, float("inf"), -1])
def test_a_wrong_timeout_for_the_driver_gets_a_sentence(
    timeout: Any, make_engine: MakeEngine
) -> None:
    """P11: before the first unit waits for a lock."""
    engine = make_engine(options={"connect_args": {"timeout": timeout}})
    with pytest.raises(ConfigError, match=r"The 'timeout' in 'connect_args' .* number of seconds"):
        engine.connect()


def test_an_isolation_level_of_the_driver_gets_a_sentence(make_engine: MakeEngine) -> None:
    """P11: it is no isolation level, and the setting that does it has another name."""
    with pytest.raises(
        ConfigError, match=r"is 'IMMEDIATE', but SQLite knows only .*UOW_SQLITE_BEGIN"
    ):
        make_engine(options={"isolation_level": "IMMEDIATE"})


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"isolation_level": None}, "isolation_level"),
        ({"isolation_level": "IMMEDIATE"}, "isolation_level"),
        ({"autocommit": True}, "autocommit"),
        ({"autocommit": False}, "autocommit"),
    ],
)
def test_the_drivers_own_transactions_contradict(
    arguments: dict[str, Any], name: str, make_engine: MakeEngine
) -> None:
    """Two who begin transactions would be one too many."""
    engine = make_engine(options={"connect_args": arguments})
    with pytest.raises(ConfigError, match=rf"'{name}'.* Drop it.* UOW_SQLITE_BEGIN"):
        engine.connect()


def test_a_factory_of_ones_own(make_engine: MakeEngine, witness: Witness) -> None:
    """A subclass of the driver's connection is kept; anything else gets a sentence."""

    class Mine(sqlite3.Connection):
        closed = 0

        def close(self) -> None:
            Mine.closed += 1
            super().close()

    engine = make_engine(options={"connect_args": {"factory": Mine}})
    with engine.begin() as connection:
        assert isinstance(connection.connection.driver_connection, Mine)
        set_n(connection, 1)
    engine.dispose()
    assert (witness.ask("SELECT n FROM t"), Mine.closed) == ([1], 1)
    engine = make_engine(options={"connect_args": {"factory": lambda *_: None}})
    with pytest.raises(ConfigError, match=r"'factory' .* subclass of 'sqlite3.Connection'"):
        engine.connect()


def test_a_creator_works_without_the_queue(
    make_engine: MakeEngine, file: Path, witness: Witness
) -> None:
    """Its connections are not ours. It is said once, and transactions are real all the same."""

    def create() -> sqlite3.Connection:
        return sqlite3.connect(file, check_same_thread=False)

    engine = make_engine(options={"creator": create, "poolclass": NullPool})
    with pytest.warns(ConfigNotice, match=r"'creator' of your own.* UOW_SQLITE_QUEUE"):
        engine.connect().close()
    with engine.connect() as connection:
        assert run(connection, "PRAGMA foreign_keys").scalar() == 1
        with connection.begin_nested():
            set_n(connection, 1)
        assert is_locked(engine)
        connection.rollback()
    assert witness.ask("SELECT n FROM t") == [0]


# Transactions ---------------------------------------------------------------------------------


def test_what_is_rolled_back_is_gone(engine: Engine, witness: Witness) -> None:
    """Rows, and tables too."""
    with engine.connect() as connection:
        run(connection, "CREATE TABLE other (id INTEGER)")
        set_n(connection, 1)
        connection.rollback()
        assert inspect(connection).get_table_names() == ["t"]
    assert witness.ask("SELECT n FROM t") == [0]


def test_a_savepoint_belongs_to_its_transaction(engine: Engine, witness: Witness) -> None:
    """Released or not, what is written in it goes with the ROLLBACK; even if it came first."""
    with engine.connect() as connection:
        with connection.begin_nested():
            set_n(connection, 1)
        assert witness.ask("SELECT n FROM t") == [0]
        connection.rollback()
    assert witness.ask("SELECT n FROM t") == [0]


def test_a_savepoint_undoes_its_own_part(engine: Engine, witness: Witness) -> None:
    """And nothing else."""
    with engine.begin() as connection:
        set_n(connection, 1)
        savepoint = connection.begin_nested()
        set_n(connection, 2)
        savepoint.rollback()
    assert witness.ask("SELECT n FROM t") == [1]


@pytest.mark.parametrize(
    ("first", "begin", "locks"),
    [
        ("SELECT n FROM t", "auto", False),
        ("SAVEPOINT one", "auto", False),
        ("UPDATE t SET n = 1", "auto", True),
        ("CREATE TABLE other (id)", "auto", True),
        ("SELECT n FROM t", "immediate", True),
        ("SELECT n FROM t", "deferred", False),
        ("UPDATE t SET n = 1", "deferred", True),  # by writing
    ],
)
def test_who_has_the_write_lock(
    first: str, begin: str, locks: bool, make_engine: MakeEngine, witness: Witness
) -> None:
    """A transaction takes it with its first statement, if that writes or if it is told to."""
    engine = make_engine(begin=begin)
    with engine.connect() as connection:
        run(connection, first)
        assert driver(connection).in_transaction
        assert is_locked(engine) is locks


def test_a_unit_that_will_write_has_the_lock_before_it_reads(engine: Engine) -> None:
    """So nobody can write between its reading and its writing."""
    with writing(engine) as connection:
        n(connection)
        assert is_locked(engine)
        connection.rollback()
        assert not is_locked(engine)


def test_a_parameterless_statement_and_many_rows_begin_too(
    engine: Engine, witness: Witness
) -> None:
    """All three ways in which SQLAlchemy hands statements to the driver."""
    insert = text("INSERT INTO t (n) VALUES (:n)")
    with engine.connect() as connection:
        connection.execute(insert, [{"n": 1}, {"n": 2}])
        connection.rollback()
    with engine.connect().execution_options(no_parameters=True) as connection:
        run(connection, "INSERT INTO t (n) VALUES (3)")
        connection.rollback()
    assert witness.ask("SELECT n FROM t") == [0]


@pytest.mark.parametrize("statement", ["PRAGMA foreign_keys = 0", "VACUUM"])
def test_what_works_outside_of_transactions_only(statement: str, engine: Engine) -> None:
    """It begins none if it comes first."""
    with engine.connect() as connection:
        run(connection, statement)
        assert not driver(connection).in_transaction
        if "foreign_keys" in statement:
            assert run(connection, "PRAGMA foreign_keys").scalar() == 0


def test_autocommit(engine: Engine, make_engine: MakeEngine, witness: Witness) -> None:
    """As an option of the engine, or of one connection, which is as before afterwards."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        set_n(connection, 1)
        assert witness.ask("SELECT n FROM t") == [1]
    with engine.connect() as connection:
        set_n(connection, 2)
        connection.rollback()
    assert witness.ask("SELECT n FROM t") == [1]
    with make_engine(options={"isolation_level": "AUTOCOMMIT"}).connect() as connection:
        set_n(connection, 3)
        connection.rollback()
    assert witness.ask("SELECT n FROM t") == [3]


def test_autocommit_notices_a_deleted_file(make_engine: MakeEngine, witness: Witness) -> None:
    """There is no COMMIT before which it could be noticed; so each statement that writes looks."""
    engine = make_engine(options={"isolation_level": "AUTOCOMMIT"})
    with engine.connect() as connection:
        set_n(connection, 1)
    os.unlink(str(engine.url.database))  # noqa: PTH108
    with engine.connect() as connection:
        with pytest.raises(OperationalError, match="was deleted or replaced while it was in use"):
            set_n(connection, 2)
    with pytest.raises(OperationalError, match="was deleted or moved away"):
        engine.connect()


def commit_with_the_driver(connection: SqliteConnection) -> None:
    connection.commit()


def commit_with_a_block(connection: SqliteConnection) -> None:
    with connection:
        pass


def commit_with_a_script(connection: SqliteConnection) -> None:
    connection.executescript("SELECT 1")


def commit_with_a_statement(connection: SqliteConnection) -> None:
    connection.cursor().execute("COMMIT")


COMMITS = [
    commit_with_the_driver,
    commit_with_a_block,
    commit_with_a_script,
    commit_with_a_statement,
]


@pytest.mark.parametrize("commit", COMMITS)
def test_a_commit_of_the_driver_is_no_loss(
    commit: Callable[[SqliteConnection], None], engine: Engine, witness: Witness
) -> None:
    """All is stored, and what comes after it is a transaction of its own."""
    with engine.connect() as connection:
        set_n(connection, 1)
        commit(driver(connection))
        assert not driver(connection).has_lost
        assert witness.ask("SELECT n FROM t") == [1]
        set_n(connection, 2)
        connection.rollback()
        set_n(connection, 3)
        commit(driver(connection))
        connection.commit()
        in_thread(lambda: insert_two(engine))
    assert witness.ask("SELECT n FROM t") == [3, 2]


def lose(connection: Connection) -> None:
    """A constraint that rolls everything back, on a cursor whose error is swallowed."""
    with pytest.raises(sqlite3.IntegrityError):
        driver(connection).cursor().execute("INSERT OR ROLLBACK INTO t VALUES (1, 1)")


def test_a_loss_that_only_a_cursor_of_the_driver_has_seen(engine: Engine, witness: Witness) -> None:
    """P3: whatever comes next is refused, so that nothing is stored in halves."""
    with engine.connect() as connection:
        set_n(connection, 1)
        lose(connection)
        with pytest.raises(TransactionLost):
            set_n(connection, 2)
        with pytest.raises(TransactionLost):
            connection.commit()
        connection.rollback()
        set_n(connection, 3)
        lose(connection)
        driver(connection).cursor().execute("UPDATE t SET n = 4")
        with pytest.raises(TransactionLost):
            n(connection)
        with pytest.raises(TransactionLost):
            connection.commit()
        connection.rollback()
        set_n(connection, 5)
        connection.commit()
    assert witness.ask("SELECT n FROM t") == [5]


def test_a_rollback_of_the_driver_is_a_loss(engine: Engine, witness: Witness) -> None:
    """P3: SQLAlchemy would commit what is not there, or what comes after it. Its own is none."""
    with engine.connect() as connection:
        set_n(connection, 1)
        driver(connection).rollback()
        with pytest.raises(TransactionLost):
            set_n(connection, 2)
        with pytest.raises(TransactionLost):
            connection.commit()
        connection.rollback()
        n(connection)
        driver(connection).rollback()
        set_n(connection, 3)
        connection.commit()
    with engine.connect() as connection:
        set_n(connection, 4)
        driver(connection).rollback()
    with engine.connect() as connection:
        set_n(connection, 5)
        connection.commit()
    assert witness.ask("SELECT n FROM t") == [5]


def test_the_cursors_of_the_driver_take_part(engine: Engine, witness: Witness) -> None:
    """What is written with them is rolled back with the rest."""
    with engine.connect() as connection:
        driver(connection).execute("UPDATE t SET n = 1")
        connection.rollback()
    with engine.connect() as connection:
        driver(connection).execute("UPDATE t SET n = 2")
        connection.begin()
        connection.commit()
    assert witness.ask("SELECT n FROM t") == [2]


def test_sqlalchemys_own_recipe_still_works(make_engine: MakeEngine, witness: Witness) -> None:
    """Its BEGIN is not preceded by another one, and waits in the queue if it locks."""
    engine = make_engine()
    event.listen(engine, "begin", lambda connection: run(connection, "BEGIN IMMEDIATE"))
    with engine.connect() as connection:
        n(connection)
        assert is_locked(engine)
        set_n(connection, 1)
        with engine.connect() as other:
            with pytest.raises(OperationalError, match="this thread has the write lock"):
                run(other, "SELECT 1")
        connection.commit()
    assert witness.ask("SELECT n FROM t") == [1]


# Reading first --------------------------------------------------------------------------------


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_a_reader_may_still_write(
    journal_mode: str, make_engine: MakeEngine, witness: Witness
) -> None:
    """If nobody else has written since."""
    engine = make_engine(journal_mode=journal_mode)
    with engine.begin() as connection:
        set_n(connection, n(connection) + 1)
    assert witness.ask("SELECT n FROM t") == [1]


@pytest.mark.parametrize("queue", [True, False])
def test_what_was_read_and_is_out_of_date_is_refused(
    queue: bool, make_engine: MakeEngine, witness: Witness
) -> None:
    """S2: in words, at once, and nothing is stored; after a rollback it works."""
    engine = make_engine(queue=queue)
    with engine.connect() as connection:
        found = n(connection)
        with engine.begin() as other:
            set_n(other, 10)
        started = time.monotonic()
        with pytest.raises(OperationalError, match="what it has read is out of date") as caught:
            set_n(connection, found + 1)
        assert time.monotonic() - started < 4  # the busy timeout is 5
        assert str(caught.value.orig).startswith("database is locked: ")
        connection.rollback()
        set_n(connection, n(connection) + 1)
        connection.commit()
    assert witness.ask("SELECT n FROM t") == [11]


def test_a_reader_that_wants_to_write_waits_for_the_writer(engine: Engine) -> None:
    """In WAL mode it keeps nobody from anything; the writer may end without having written."""
    with engine.connect() as reader:
        n(reader)
        with another_thread_writing(engine) as writer:
            threading.Timer(0.2, writer.set).start()
            set_n(reader, 1)
        reader.commit()


def test_with_a_rollback_journal_it_does_not_wait(make_engine: MakeEngine) -> None:
    """The writer would wait for it to stop reading: both would wait for nothing."""
    engine = make_engine(journal_mode="delete")
    with engine.begin() as connection:
        run(connection, "CREATE TABLE t (id INTEGER, n INTEGER)")
    with engine.connect() as reader:
        n_of_nothing = run(reader, "SELECT count(*) FROM t").scalar()
        with another_thread_writing(engine):
            started = time.monotonic()
            with pytest.raises(OperationalError, match="is writing now"):
                run(reader, "INSERT INTO t VALUES (1, 1)")
            assert time.monotonic() - started < 4  # the busy timeout is 5
            reader.rollback()
    assert n_of_nothing == 0


def test_a_savepoint_before_the_first_write_reads_nothing(engine: Engine, witness: Witness) -> None:
    """So what is written in it cannot be out of date."""
    with engine.connect() as connection:
        savepoint = connection.begin_nested()
        with engine.begin() as other:
            set_n(other, 10)
        run(connection, "UPDATE t SET n = n + 1")
        savepoint.commit()
        connection.commit()
    assert witness.ask("SELECT n FROM t") == [11]


# Writers and writers --------------------------------------------------------------------------


@contextmanager
def another_thread_writing(engine: Engine) -> Iterator[threading.Event]:
    """A thread that has the write lock until the event is set, and has written nothing."""
    begun, end = threading.Event(), threading.Event()

    def hold() -> None:
        with writing(engine) as connection:
            run(connection, "SELECT 1")
            begun.set()
            end.wait(20)

    thread = threading.Thread(target=hold, name="the other")
    thread.start()
    assert begun.wait(10)
    try:
        yield end
    finally:
        end.set()
        thread.join(20)


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
@pytest.mark.parametrize("queue", [True, False])
def test_no_update_is_lost_among_threads(
    journal_mode: str, queue: bool, make_engine: MakeEngine, witness: Witness
) -> None:
    """S1, S2: read, modify, write; sixteen threads."""
    engine = make_engine(
        journal_mode=journal_mode, queue=queue, busy_timeout=30, options={"pool_size": 16}
    )

    def count() -> None:
        for _ in range(5):
            with writing(engine) as connection:
                set_n(connection, n(connection) + 1)
                connection.commit()

    in_threads(count, times=16)
    assert witness.ask("SELECT n FROM t") == [80]


def test_the_queue_is_left_right_after_commit(engine: Engine) -> None:
    """Not when the connection is given back, which may be much later."""
    with writing(engine) as connection:
        set_n(connection, 1)
        connection.commit()
        in_thread(lambda: write_in_time(engine))


@pytest.mark.parametrize("end", ["rollback", "close", "invalidate", "detach", "lose", "fail"])
def test_the_queue_is_left_however_a_transaction_ends(
    end: str, engine: Engine, recwarn: pytest.WarningsRecorder
) -> None:
    """Also when a connection is dropped, or lost."""
    connection: Any = engine.connect()
    set_n(connection, 1)
    if end == "detach":
        connection.detach()
        connection.close()
    elif end == "lose":
        connection = None
        gc.collect()
    elif end == "fail":
        run(
            connection, "CREATE TABLE c (id INTEGER REFERENCES t(id) DEFERRABLE INITIALLY DEFERRED)"
        )
        run(connection, "INSERT INTO c VALUES (99)")
        with pytest.raises(IntegrityError):
            connection.commit()
        connection.close()
    else:
        getattr(connection, end)()
    in_thread(lambda: write_in_time(engine))
    if connection is not None:
        connection.close()
    recwarn.clear()


def write_in_time(engine: Engine) -> None:
    with engine.begin() as connection:
        set_n(connection, 5)


def test_a_commit_that_fails_is_a_rollback(
    make_engine: MakeEngine, witness: Witness, file: Path
) -> None:
    """SQLite would leave the transaction open, and SQLAlchemy return it to the pool like that."""
    engine = make_engine(journal_mode="delete", busy_timeout=0.2)
    with engine.connect() as connection, closing(sqlite3.connect(file)) as reader:
        set_n(connection, 1)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM t").fetchone()
        with pytest.raises(OperationalError, match="the COMMIT waited for the transactions"):
            connection.commit()
        assert not driver(connection).in_transaction
        reader.rollback()
        in_thread(lambda: write_in_time(engine))
    assert witness.ask("SELECT n FROM t") == [5]


def test_who_waits_too_long_is_told_for_whom(make_engine: MakeEngine, witness: Witness) -> None:
    """S4: after the timeout, with the name of the holder, and what to do about it."""
    engine = make_engine(busy_timeout=0.2)
    with another_thread_writing(engine), pytest.raises(OperationalError) as caught:
        write_in_time(engine)
    words = str(caught.value.orig)
    assert words.startswith("database is locked: the write lock of '")
    assert "was held by the thread 'the other' of this process for 0." in words
    assert "within 0.2 s (UOW_SQLITE_BUSY_TIMEOUT)" in words
    assert getattr(caught.value.orig, "sqlite_errorname", None) == "SQLITE_BUSY"


def test_a_connection_may_wait_for_less_time(engine: Engine) -> None:
    """A migration sets its lock timeout on the connection: it bounds the wait in the queue too."""
    with another_thread_writing(engine), engine.connect() as connection:
        driver(connection).timeout = 0.1
        with pytest.raises(OperationalError, match=r"did not become free within 0\.1 s"):
            set_n(connection, 1)


@pytest.mark.parametrize("queue", [True, False])
def test_a_program_that_is_not_in_the_queue(
    queue: bool, make_engine: MakeEngine, witness: Witness, file: Path
) -> None:
    """Its lock is waited for as always, and the error says what it may be."""
    engine = make_engine(busy_timeout=0.2, queue=queue)
    with closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN IMMEDIATE")
        who = "another program holds" if queue else "another transaction holds"
        with pytest.raises(OperationalError, match=rf"{who} the lock of .*0\.2 s"):
            write_in_time(engine)
        other.rollback()
    in_thread(lambda: write_in_time(engine))


def test_a_nested_unit_goes_first_if_the_outer_has_not_written(
    engine: Engine, witness: Witness
) -> None:
    """A view for POST that calls something with a unit of its own: an audit log, for instance."""
    with writing(engine) as outer:
        n(outer)
        with writing(engine) as inner:
            set_n(inner, 1)
            inner.commit()
        assert n(outer) == 1
        set_n(outer, 2)
        outer.commit()
    assert witness.ask("SELECT n FROM t") == [2]


def test_nobody_writes_between_a_nested_unit_and_the_outer_one(
    make_engine: MakeEngine, witness: Witness
) -> None:
    """The turn is lent, and comes back: what the outer one has read is not overtaken."""
    engine = make_engine(busy_timeout=0.1)
    with writing(engine) as outer:
        found = n(outer)
        for number in range(2):
            with engine.begin() as inner:
                run(inner, f"INSERT INTO t VALUES ({10 + number}, 0)")
            with pytest.raises(OperationalError, match="was held by the thread"):
                in_thread(lambda: write_in_time(engine))
        set_n(outer, found + 1)
        outer.commit()
        in_thread(lambda: write_in_time(engine))
    assert witness.ask("SELECT n FROM t WHERE id < 10") == [5]


@pytest.mark.parametrize("end", ["commit", "rollback", "close", "invalidate"])
def test_an_outer_unit_that_ends_without_another_statement_leaves_the_queue(
    end: str, engine: Engine
) -> None:
    """It has nothing to commit, and only its place to give back."""
    with writing(engine) as outer:
        n(outer)
        with engine.begin() as inner:
            set_n(inner, 1)
        getattr(outer, end)()
        in_thread(lambda: write_in_time(engine))


def test_the_outer_unit_may_go_on_before_a_nested_one_that_only_reads(
    engine: Engine, witness: Witness
) -> None:
    """Each lends to the other, as long as the other has no work."""
    with writing(engine) as outer, writing(engine) as inner:
        n(outer)
        n(inner)
        set_n(outer, 1)
        outer.commit()
        set_n(inner, n(inner) + 1)
        inner.commit()
        in_thread(lambda: insert_two(engine))
    assert witness.ask("SELECT n FROM t") == [2, 2]


def insert_two(engine: Engine) -> None:
    with engine.begin() as connection:
        run(connection, "INSERT INTO t VALUES (2, 2)")


def test_two_requests_that_share_a_thread_are_not_nested(
    make_engine: MakeEngine, witness: Witness
) -> None:
    """An executor with one thread, in which each does a part of its work."""
    engine = make_engine(busy_timeout=0.1)
    one, two = copy_context(), copy_context()
    with writing(engine) as first, writing(engine) as second:
        found = one.run(n, first)
        with pytest.raises(OperationalError, match="was held by this very thread, for another un"):
            two.run(n, second)
        second.rollback()
        in_thread(lambda: one.run(set_n, first, found + 1))
        first.commit()
        two.run(set_n, second, two.run(n, second) + 10)
        second.commit()
    assert witness.ask("SELECT n FROM t") == [11]


def test_a_nested_unit_in_a_thread_for_which_this_one_waits(
    engine: Engine, witness: Witness
) -> None:
    """As the thread of an async view, which has inherited the context variables."""
    me = threading.current_thread()

    def nested() -> None:
        with waiting(me), engine.begin() as inner:
            set_n(inner, n(inner) + 1)

    with writing(engine) as outer:
        n(outer)
        in_thread(partial(copy_context().run, nested))
        set_n(outer, n(outer) + 1)
        outer.commit()
    assert witness.ask("SELECT n FROM t") == [2]


def test_a_thread_that_has_inherited_the_context_is_another_writer(
    make_engine: MakeEngine, witness: Witness
) -> None:
    """As in ``asyncio.to_thread``: this thread is not known to wait for it."""
    engine = make_engine(busy_timeout=0.1)

    def nested() -> None:
        with writing(engine) as inner:
            set_n(inner, n(inner) + 1)
            inner.commit()

    with writing(engine) as outer:
        found = n(outer)
        with pytest.raises(OperationalError, match="by the unit of work around this one, which an"):
            in_thread(partial(copy_context().run, nested))
        set_n(outer, found + 1)
        outer.commit()
    in_thread(partial(copy_context().run, nested))
    assert witness.ask("SELECT n FROM t") == [2]


def test_a_turn_belongs_to_the_thread_that_has_used_it_last(
    make_engine: MakeEngine, witness: Witness
) -> None:
    """The thread that began the unit may do another job while a second thread uses the unit."""
    engine = make_engine(busy_timeout=0.1)
    with writing(engine) as outer:
        n(outer)
        in_thread(lambda: n(outer))
        with writing(engine) as inner:
            with pytest.raises(OperationalError, match="by the unit of work around this one"):
                n(inner)
        n(outer)
        with writing(engine) as inner:
            assert n(inner) == 0


# What is out of date --------------------------------------------------------------------------


@contextmanager
def lent(engine: Engine, *statements: str) -> Iterator[Connection]:
    """Yield a unit that has read everything before a unit inside it sent *statements*."""
    with writing(engine) as outer:
        outer.exec_driver_sql("SELECT * FROM t, others").all()
        with engine.begin() as inner:
            for statement in statements:
                run(inner, statement)
        yield outer


@pytest.fixture
def others(engine: Engine) -> None:
    with engine.begin() as connection:
        run(connection, "CREATE TABLE others (id INTEGER PRIMARY KEY, m INTEGER, k INTEGER)")
        run(connection, "INSERT INTO others VALUES (1, 0, 0), (2, 0, 0)")
        run(connection, "CREATE TABLE log (x)")
        run(
            connection,
            "CREATE TRIGGER noted AFTER INSERT ON log BEGIN UPDATE others SET m = m + 1; END",
        )


INSIDE = {
    "an update": "UPDATE Others SET M = 5 WHERE id = 1",
    "a trigger": "INSERT INTO log VALUES (1)",
    "an upsert": "INSERT INTO others VALUES (1, 5, 0) ON CONFLICT DO UPDATE SET m = 5",
    "a replacement": "REPLACE INTO others VALUES (1, 5, 0)",
}
OVERWRITING = {
    "an update": "UPDATE others SET m = 1 WHERE id = 1",
    "a deletion": "DELETE FROM others WHERE id = 1",
    "an upsert": "INSERT INTO others VALUES (1, 1, 0) ON CONFLICT (id) DO UPDATE SET m = 1",
    "a replacement": "INSERT OR REPLACE INTO others VALUES (1, 1, 0)",
}


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize("inside", INSIDE.values(), ids=INSIDE)
@pytest.mark.parametrize("statement", OVERWRITING.values(), ids=OVERWRITING)
def test_what_a_nested_unit_has_changed_is_not_overwritten(
    statement: str, inside: str, engine: Engine, witness: Witness
) -> None:
    """The outer unit has read it before the change, and does not know of the change."""
    with lent(engine, inside) as outer:
        before = witness.ask("SELECT m FROM others")
        with pytest.raises(OperationalError, match="would overwrite 'others"):
            run(outer, statement)
        outer.commit()
    assert witness.ask("SELECT m FROM others") == before != [0, 0]


HARMLESS = {
    "another column": "UPDATE others SET k = 1 WHERE id = 1",
    "another table": "UPDATE t SET n = 7",
    "a new row": "INSERT INTO others VALUES (3, 0, 0)",
    "computed from what is there": "UPDATE others SET m = m + 1",
    "compared with what is there": "UPDATE others SET m = 1 WHERE m = 0",
}


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize("statement", HARMLESS.values(), ids=HARMLESS)
def test_what_overwrites_nothing_is_not_refused(
    statement: str, engine: Engine, witness: Witness
) -> None:
    with lent(engine, INSIDE["an update"]) as outer:
        run(outer, statement)
        outer.commit()
    assert witness.ask("SELECT count(*) FROM others WHERE m >= 5") == [1]


@pytest.mark.usefixtures("others")
def test_what_is_read_again_may_be_overwritten(engine: Engine, witness: Witness) -> None:
    with lent(engine, INSIDE["an update"]) as outer:
        found = outer.exec_driver_sql("SELECT m FROM others WHERE id = 1").scalar_one()
        run(outer, f"UPDATE others SET m = {found + 1} WHERE id = 1")
        outer.commit()
    assert witness.ask("SELECT m FROM others") == [6, 0]


@pytest.mark.usefixtures("others")
def test_what_a_nested_unit_has_undone_may_be_overwritten(engine: Engine, witness: Witness) -> None:
    with lent(engine) as outer:
        with engine.connect() as inner:
            run(inner, INSIDE["an update"])
            inner.rollback()
        run(outer, OVERWRITING["an update"])
        outer.commit()
    assert witness.ask("SELECT m FROM others") == [1, 0]


@pytest.mark.usefixtures("others")
def test_a_change_is_known_to_every_unit_around_it(engine: Engine, witness: Witness) -> None:
    """The middle one borrows and lends; its rollback does not undo the innermost."""
    with lent(engine) as outer:
        with writing(engine) as middle:
            n(middle)
            with writing(engine) as inner:
                run(inner, INSIDE["an update"])
                inner.commit()
        with pytest.raises(OperationalError, match="would overwrite"):
            run(outer, OVERWRITING["an update"])


@pytest.mark.usefixtures("others")
def test_the_next_transaction_knows_of_no_change(engine: Engine, witness: Witness) -> None:
    with lent(engine, INSIDE["an update"]) as outer:
        outer.rollback()
        run(outer, OVERWRITING["an update"])
        outer.commit()
    assert witness.ask("SELECT m FROM others") == [1, 0]


@pytest.mark.usefixtures("others")
def test_an_authorizer_of_the_app_stays(engine: Engine) -> None:
    """SQLite has one for each connection."""
    asked = list[str]()

    def allow(action: int, name: str | None, *_: object) -> int:
        asked.append(name or "")
        return sqlite3.SQLITE_OK

    event.listen(engine, "checkout", lambda c, *_: c.set_authorizer(allow))
    with lent(engine, INSIDE["an update"]) as outer:
        run(outer, "UPDATE others SET k = 3")
        asked.clear()
        outer.exec_driver_sql("SELECT k AS never_compiled_before FROM others").all()
    assert "others" in asked


def test_a_nested_unit_is_refused_if_the_outer_has_written(engine: Engine) -> None:
    """At once: it would wait for itself."""
    with writing(engine) as outer:
        set_n(outer, 1)
        started = time.monotonic()
        with writing(engine) as inner:
            with pytest.raises(OperationalError, match="so it would wait for itself"):
                n(inner)
        assert time.monotonic() - started < 4  # the busy timeout is 5
        outer.commit()


def test_another_engine_of_the_process_is_in_the_same_queue(
    engine: Engine, make_engine: MakeEngine, witness: Witness
) -> None:
    """Two apps on one file, or two bind keys: it writes first, or fails at once."""
    other = make_engine(busy_timeout=60)
    with writing(engine) as outer:
        n(outer)
        with other.begin() as inner:
            set_n(inner, 1)
        set_n(outer, n(outer) + 1)
        with pytest.raises(OperationalError, match="it would wait for itself"):
            with writing(other) as inner:
                n(inner)
        outer.commit()
    assert witness.ask("SELECT n FROM t") == [2]


def test_a_savepoint_is_work_too(engine: Engine) -> None:
    """It could not be released any more."""
    with writing(engine) as outer, outer.begin_nested():
        with pytest.raises(OperationalError, match="it would wait for itself"):
            with engine.connect() as inner:
                set_n(inner, 1)


def test_a_connection_that_another_thread_closes(file: Path, engine: Engine) -> None:
    """A request drops it while a thread of its own runs a statement: the process would end."""

    def work() -> None:
        driver = sqlite3.connect(file, factory=SqliteConnection, check_same_thread=False)
        inside, go_on = threading.Event(), threading.Event()

        def wait() -> int:
            inside.set()
            return int(go_on.wait(10))

        def change() -> None:
            with pytest.raises(sqlite3.Error, match=r"closed database|interrupted"):
                driver.execute("UPDATE t SET n = wait()")

        driver.create_function("wait", 0, wait)
        with ThreadPoolExecutor(1) as pool:
            job = pool.submit(change)
            assert inside.wait(10)
            driver.close()
            go_on.set()
            job.result(10)
        with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
            driver.execute("SELECT 1")

    assert in_child(work) == 0


def test_a_connection_that_is_closed_while_it_waits_for_its_turn(engine: Engine) -> None:
    """It does not take the turn along."""
    with writing(engine) as first, engine.connect() as second:
        set_n(first, 1)
        driver: Any = second.connection.dbapi_connection
        with ThreadPoolExecutor(1) as pool:
            n(second)
            job = pool.submit(set_n, second, 2)
            while not driver.writing:
                time.sleep(0.001)
            second.invalidate()
            first.commit()
            with pytest.raises(ProgrammingError, match="closed database"):
                job.result(10)
        in_thread(lambda: write_in_time(engine))
        del driver


def test_a_dropped_connection_is_closed(
    make_engine: MakeEngine, witness: Witness, file: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """When its engine is dropped; from Python 3.13 on, the package itself has to close it."""

    def open_files() -> int:
        names = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
        return sum(str(name).startswith(str(file)) for name in names)

    gc.collect()  # what earlier tests have left warns here, and not below
    recwarn.clear()
    before = open_files()
    for one_thread_only in (False, True):
        arguments = {"check_same_thread": one_thread_only}
        engine = create_engine(f"sqlite:///{file}", connect_args=arguments)
        _sqlite_engine.set_up_transactions(engine)
        with engine.connect() as connection:
            n(connection)
        assert open_files() > before
        engines.forget()  # it holds each engine that has connected
        del engine, connection
        gc.collect()
        assert open_files() == before
    assert not recwarn.list


# The file -------------------------------------------------------------------------------------


def test_a_database_that_is_only_read(
    make_engine: MakeEngine, witness: Witness, file: Path
) -> None:
    """``mode=ro``: no switch to WAL, no queue, no lock; a write says why not."""
    engine = make_engine(f"sqlite:///file:{file}?mode=ro&uri=true")
    Path(f"{file}-queue").unlink()
    with writing(engine) as connection:
        assert n(connection) == 0
        with pytest.raises(OperationalError, match=r"is only read \('mode=ro'\)"):
            set_n(connection, 1)
    assert not Path(f"{file}-queue").exists()


def test_a_missing_folder(make_engine: MakeEngine, tmp_path: Path) -> None:
    """It is named, instead of 'unable to open database file'."""
    engine = make_engine(f"sqlite:///{tmp_path}/missing/app.db")
    with pytest.raises(OperationalError, match=r"the folder '.*missing' .* does not exist"):
        engine.connect()


def test_a_folder_in_place_of_the_file(make_engine: MakeEngine, file: Path) -> None:
    """It cannot be opened, and the words are more than 'unable to open database file'."""
    file.mkdir()
    with pytest.raises(OperationalError, match=r"app\.db' is a folder, and the database is a"):
        make_engine().connect()


def test_a_log_without_its_database(make_engine: MakeEngine, file: Path) -> None:
    """S6: SQLite would delete it, and the commits in it."""
    log = Path(f"{file}-wal")
    log.write_bytes(b"commits")
    with pytest.raises(OperationalError, match=r"is missing, but its log '.*-wal' still exists"):
        make_engine().connect()
    assert (log.read_bytes(), file.exists()) == (b"commits", False)
    log.write_bytes(b"")
    make_engine().connect().close()


def test_a_deleted_database(engine: Engine, file: Path) -> None:
    """S6: nothing is committed to a file without a name, and no empty one takes its place."""
    with engine.connect() as connection:
        set_n(connection, 1)
        file.unlink()
        with pytest.raises(OperationalError, match="was deleted or replaced while it was in use"):
            connection.commit()
    with pytest.raises(OperationalError, match=r"was deleted or moved away .* Put it back"):
        engine.connect()
    assert not file.exists()
    for leftover in file.parent.glob("app.db-*"):
        leftover.unlink()
    engine.dispose()
    engine.connect().close()
    assert file.exists()


def test_a_replaced_database(engine: Engine, file: Path, make_engine: MakeEngine) -> None:
    """S6: a backup is put in its place: one error, then the new one is used."""
    new = file.with_name("new.db")
    with make_engine(f"sqlite:///{new}").begin() as connection:
        run(connection, "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)")
        run(connection, "INSERT INTO t VALUES (1, 77)")
    with closing(sqlite3.connect(new)) as last:
        last.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with engine.connect() as connection:
        n(connection)
        new.rename(file)
        for ending in ("-wal", "-shm"):
            Path(f"{file}{ending}").unlink(missing_ok=True)
        connection.rollback()
        set_n(connection, 1)
        with pytest.raises(OperationalError, match="was deleted or replaced"):
            connection.commit()
    with engine.connect() as connection:
        assert n(connection) == 77


def test_readers_of_a_replaced_database_find_out(
    engine: Engine, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a second."""
    monkeypatch.setattr(_sqlite_connection, "_CHECK_PERIOD", 0)
    with engine.connect() as connection:
        n(connection)
    file.unlink()
    with engine.connect() as connection:
        with pytest.raises(OperationalError, match="was deleted or replaced"):
            n(connection)


def put_in_its_place(file: Path, way: str) -> None:
    """Replace *file* by a backup, in which n is 77."""
    backup = file.with_name("backup.db")
    with closing(sqlite3.connect(backup)) as new:
        new.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)")
        new.execute("INSERT INTO t VALUES (1, 77)")
        new.commit()
        new.execute("PRAGMA journal_mode = wal")
    if way == "mv":
        backup.rename(file)
    else:
        file.unlink()
        shutil.copy(backup, file)


@pytest.mark.parametrize("way", ["mv", "rm and cp"])
@pytest.mark.parametrize("used", ["by an idle connection", "by two", "by one in a transaction"])
def test_a_replaced_database_is_not_destroyed(
    used: str, way: str, engine: Engine, file: Path
) -> None:
    """S6: the log of the old file lies beside the new one, and SQLite would apply it."""
    with ExitStack() as stack:
        connections = [stack.enter_context(engine.connect()) for _ in range(3)]
        set_n(connections[0], 1)
        connections[0].commit()
        if used != "by one in a transaction":
            for connection in connections[used == "by two" :]:
                connection.close()
        else:
            set_n(connections[0], 2)
        put_in_its_place(file, way)
        failures = list[str]()
        for _ in range(20):
            try:
                with engine.connect() as connection, engine.connect() as another:
                    n(another)
                    set_n(connection, n(connection) + 1)
                    connection.commit()
            except OperationalError as error:
                failures.append(str(error))
        assert len(failures) == 20, "a unit was acknowledged"
        assert "-wal' and '" in failures[-1]
        assert "Stop all processes" in failures[-1]
        if used == "by one in a transaction":
            with pytest.raises(OperationalError, match="was deleted or replaced"):
                connections[0].commit()
    for ending in ("-wal", "-shm"):
        Path(f"{file}{ending}").unlink()
    with engine.connect() as connection, engine.connect() as another:
        set_n(connection, n(connection) + 1)
        connection.commit()
        assert run(another, "PRAGMA integrity_check").scalar_one() == "ok"
        assert n(another) == 78


def test_a_replaced_database_without_a_log(make_engine: MakeEngine, file: Path) -> None:
    """SQLite itself refuses to write; that connection is not used again."""
    engine = make_engine(journal_mode="delete")
    with engine.begin() as connection:
        run(connection, "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)")
        run(connection, "INSERT INTO t VALUES (1, 0)")
    put_in_its_place(file, "mv")
    with pytest.raises(OperationalError, match=r"readonly .* was replaced"):
        with engine.begin() as connection:
            set_n(connection, 1)
    with engine.begin() as connection:
        assert n(connection) == 77


def test_a_replaced_database_behind_a_link(
    make_engine: MakeEngine, file: Path, tmp_path: Path
) -> None:
    """SQLite knows the file by its own path, and the app by that of the link."""
    link = tmp_path / "current"
    link.symlink_to(file.parent)
    engine = make_engine(f"sqlite:///{link / file.name}")
    with engine.begin() as connection:
        run(connection, "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)")
    put_in_its_place(file, "mv")
    with pytest.raises(OperationalError, match="was deleted or replaced"):
        with engine.begin() as connection:
            set_n(connection, 1)
    with pytest.raises(OperationalError, match="-wal' and '"):
        engine.connect()


def test_a_link_that_leads_to_another_database(make_engine: MakeEngine, tmp_path: Path) -> None:
    """The old one stays where it is, with its log, and nothing is stored there any more."""
    link = tmp_path / "current.db"
    for n_there, name in enumerate(["first", "second"]):
        with make_engine(f"sqlite:///{tmp_path / name}").begin() as connection:
            run(connection, "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)")
            run(connection, f"INSERT INTO t VALUES (1, {n_there})")
    link.symlink_to(tmp_path / "first")
    engine = make_engine(f"sqlite:///{link}")
    with engine.connect() as connection:
        assert n(connection) == 0
    link.unlink()
    link.symlink_to(tmp_path / "second")
    with pytest.raises(OperationalError, match="was deleted or replaced"):
        with engine.begin() as connection:
            set_n(connection, 5)
    with engine.connect() as connection:
        assert n(connection) == 1


def test_a_replaced_database_that_another_process_uses_already(engine: Engine, file: Path) -> None:
    """The log beside the new file is its own, and not a leftover of the old file."""
    with engine.connect() as connection:
        n(connection)
    for name in file.parent.glob("app.db*"):
        name.unlink()
    put_in_its_place(file, "mv")
    with closing(sqlite3.connect(file)) as other:
        other.execute("UPDATE t SET n = 78")
        other.commit()
        assert Path(f"{file}-wal").exists()
        with suppress(OperationalError), engine.connect() as connection:
            set_n(connection, 79)
            connection.commit()
        with engine.connect() as connection:
            assert n(connection) == 78


def test_a_replaced_database_with_a_journal(make_engine: MakeEngine, file: Path) -> None:
    """SQLite would roll back an interrupted transaction of the old file in the new one."""
    engine = make_engine(journal_mode="delete")
    with engine.begin() as connection:
        run(connection, "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)")
    with engine.connect():
        put_in_its_place(file, "mv")
        Path(f"{file}-journal").write_bytes(b"the journal of a killed process")
        with pytest.raises(OperationalError, match="-journal' belong to the old one"):
            engine.connect()


def test_a_full_disk(make_engine: MakeEngine, witness: Witness) -> None:
    """S6: the sentence says so, and nothing of the transaction is stored."""
    engine = make_engine()
    with engine.connect() as connection:
        run(connection, "PRAGMA max_page_count = 10")
        set_n(connection, 1)
        with pytest.raises(OperationalError, match=r"is full: there is no room for .*app\.db'"):
            run(connection, "INSERT INTO t (n) VALUES (zeroblob(1000000))")
        connection.rollback()
        run(connection, "PRAGMA max_page_count = 1000000")
    assert witness.ask("SELECT n FROM t") == [0]
    in_thread(lambda: write_in_time(engine))


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems, or becomes another")


@as_root
@pytest.mark.parametrize(
    ("protected", "reading", "writing"),
    [
        ("file", "0", "this process may not write to '.*app.db'"),
        (
            "folder",
            "0",
            "this process may not create files in '.*', where SQLite keeps its journal",
        ),
    ],
)
def test_a_database_that_may_not_be_written(
    protected: str, reading: str, writing: str, make_engine: MakeEngine
) -> None:
    """S6: the file, or the folder in which SQLite keeps its journal. It can still be read."""
    folder = Path(tempfile.mkdtemp())
    url = f"sqlite:///{folder}/app.db"
    try:
        engine = make_engine(url, journal_mode="delete")
        with engine.begin() as connection:
            run(connection, "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)")
        engine.dispose()
        folder.chmod(0o777 if protected == "file" else 0o755)
        (folder / "app.db").chmod(0o644 if protected == "file" else 0o666)

        def attempt(statement: str) -> str:
            engine = create_engine(url)
            _sqlite_engine.set_up_transactions(engine, SqliteProfile(journal_mode="delete"))
            try:
                with engine.begin() as connection:
                    return str(run(connection, statement).scalar())
            except OperationalError as error:
                return str(error)

        answers = as_nobody(lambda: [attempt("SELECT count(*) FROM t"), attempt("DELETE FROM t")])
        assert re.fullmatch(reading, answers[0])
        assert re.search(writing, answers[1])
    finally:
        shutil.rmtree(folder)


def as_nobody(work: Callable[[], list[str]]) -> list[str]:
    """Do *work* in a process of a user who may not do everything."""
    ours, theirs = multiprocessing.Pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            theirs.send(work())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert ours.poll(0)
    found: list[str] = ours.recv()
    return found


@as_root
def test_a_disk_that_is_really_full(make_engine: MakeEngine) -> None:
    """S6: on a file system of one megabyte; it goes on when there is room again."""
    with small_disk() as small:
        engine = make_engine(f"sqlite:///{small}/app.db")
        with engine.begin() as connection:
            run(connection, "CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)")
        with engine.connect() as connection:
            with pytest.raises(OperationalError, match=r"is full: there is no room|disk I/O error"):
                fill(connection)
        with engine.connect() as connection:
            assert run(connection, "SELECT count(*) FROM t").scalar() == 0
            assert run(connection, "PRAGMA integrity_check").scalar() == "ok"
        in_thread(lambda: insert_one(engine))
        engine.dispose()


@contextmanager
def small_disk() -> Iterator[Path]:
    # Not in the folder of the test: what is left there after a failure is in pytest's way.
    folder = Path(tempfile.mkdtemp())
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("this user may not mount")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
    finally:
        folder.rmdir()


def fill(connection: Connection) -> None:
    for _ in range(100):
        run(connection, "INSERT INTO t (n) VALUES (zeroblob(100000))")
    connection.commit()


def insert_one(engine: Engine) -> None:
    with engine.begin() as connection:
        run(connection, "INSERT INTO t VALUES (1, 1)")


@pytest.mark.slow
def test_several_processes_begin_with_an_empty_file(tmp_path: Path) -> None:
    """The switch to WAL needs the database for itself, for a moment."""
    url = f"sqlite:///{tmp_path / 'new.db'}"

    def begin(number: int) -> None:
        engine = create_engine(url)
        _sqlite_engine.set_up_transactions(engine)
        with engine.begin() as connection:
            run(connection, "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, n INTEGER)")
            run(connection, f"INSERT INTO t (n) VALUES ({number})")

    children = []
    for number in range(6):
        child = os.fork()
        if child == 0:
            code = 1
            with suppress(BaseException):
                begin(number)
                code = 0
            os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 6
    assert sorted(Witness(url).ask("SELECT n FROM t")) == list(range(6))


def test_back_to_a_rollback_journal(make_engine: MakeEngine, witness: Witness, file: Path) -> None:
    """With the setting; while others have the file open, it is refused in words."""
    engine = make_engine(journal_mode="delete", busy_timeout=0.1)
    with closing(sqlite3.connect(file)) as other:
        other.execute("SELECT * FROM t").fetchall()
        with pytest.raises(OperationalError, match="is 'wal', and it can become 'delete'"):
            engine.connect()
    with engine.connect() as connection:
        assert run(connection, "PRAGMA journal_mode").scalar() == "delete"
    witness.engine.dispose()


# A log that grows -----------------------------------------------------------------------------


def test_a_reader_that_keeps_the_log_growing_is_noticed(
    make_engine: MakeEngine, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S7: only then; a log that is long and can be written back is nobody's fault."""
    monkeypatch.setattr(_sqlite_database, "WAL_LIMIT", 200_000)
    monkeypatch.setattr(_sqlite_database, "_WAL_PERIOD", 0)
    noticed: list[int] = []
    engine = make_engine(on_wal_growth=noticed.append)

    def write(times: int) -> None:
        for _ in range(times):
            with engine.begin() as connection:
                run(connection, "UPDATE t SET n = randomblob(20000)")

    write(20)
    assert noticed == []
    with engine.connect() as reader:
        run(reader, "SELECT count(*) FROM t")
        write(20)
    assert noticed
    assert min(noticed) >= 200_000


# Network file systems -------------------------------------------------------------------------

MOUNTS = """\
22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /mnt/my\\040share rw,relatime shared:5 - nfs4 server:/export rw
31 30 8:2 / /mnt/my\\040share/local rw - xfs /dev/sdb1 rw
"""


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.read_text

    def read_text(self: Path, **options: Any) -> str:
        return MOUNTS if str(self) == "/proc/self/mountinfo" else real(self, **options)

    monkeypatch.setattr(Path, "read_text", read_text)


@pytest.mark.usefixtures("mounts")
def test_the_file_system_of_a_path() -> None:
    """The innermost mount counts, blanks and all."""
    assert file_system_of("/srv/app.db") == "ext4"
    assert file_system_of("/mnt/my share/app.db") == "nfs4"
    assert file_system_of("/mnt/my share/local/app.db") == "xfs"
    assert file_system_of("/mnt/my shares/app.db") == "ext4"


@pytest.mark.usefixtures("mounts")
def test_a_network_file_system_is_refused(make_engine: MakeEngine) -> None:
    """Unless both the WAL and the queue are given up."""
    url = "sqlite:////mnt/my share/app.db"
    for profile in ({}, {"queue": False}, {"journal_mode": "delete"}):
        with pytest.raises(ConfigError, match=r"network file system \(nfs4\).* = 'delete' and UOW"):
            make_engine(url, **profile)
    make_engine(url, journal_mode="delete", queue=False)


def test_where_the_mounts_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not Linux: nothing is known, nothing is refused."""

    def refuse(*_: Any, **__: Any) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert file_system_of("/mnt/app.db") == ""
    refuse_network("/mnt/app.db", SqliteProfile())


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/a/b.db", "/a/b.db"),
        (":memory:", ""),
        ("", ""),
        ("file:/a/b%20c.db?mode=ro", "/a/b c.db"),
        ("file:///a/b.db", "/a/b.db"),
        ("file://localhost/a/b.db", "/a/b.db"),
        ("file:name?mode=memory&cache=shared", ""),
        ("file::memory:?cache=shared", ""),
    ],
)
def test_the_path_of_a_uri(location: str, path: str) -> None:
    """As SQLite reads it."""
    assert path_of(location, is_uri=True)[0] == path


# Other pools, and warnings ---------------------------------------------------------------------


def test_one_connection_to_a_file(make_engine: MakeEngine, witness: Witness) -> None:
    """``StaticPool`` is for files too: the writers of other engines wait for it."""
    arguments = {"check_same_thread": False}
    engine = make_engine(options={"poolclass": StaticPool, "connect_args": arguments})
    with engine.connect() as connection:
        set_n(connection, 1)
        another = make_engine(busy_timeout=0.1)
        with pytest.raises(OperationalError, match="by the thread 'MainThread' of this pro"):
            in_thread(lambda: write_in_time(another))
        connection.commit()
    assert witness.ask("SELECT n FROM t") == [1]


def test_no_warning_at_any_time(make_engine: MakeEngine, witness: Witness) -> None:
    """Nothing here may disturb a suite that treats warnings as errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine = make_engine()
        with engine.begin() as connection:
            set_n(connection, 1)
        engine.dispose()
