"""SQLite in memory: a temporary file for each engine, and what becomes of it."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Engine, event, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool, QueuePool, SingletonThreadPool, StaticPool

from flask_uow import Database
from flask_uow._config import reading
from flask_uow._engine import build
from flask_uow._sqlite import temporary
from flask_uow.errors import ConfigError, TransactionLost
from tests.support import engines
from tests.support.forks import in_child
from tests.support.models import Base, User
from tests.support.threads import in_thread, in_threads

ROOT = Path(__file__).parents[2]
SHARED = "sqlite:///file:uow_memory?mode=memory&cache=shared&uri=true"

MakeEngine = Callable[..., Engine]


@pytest.fixture
def make_engine() -> Iterator[MakeEngine]:
    """Makes engines as an app has them, with a table ``t`` of one row."""
    made = []

    def make(url: str = "sqlite://", **options: Any) -> Engine:
        config = {"SQLALCHEMY_DATABASE_URI": url, "SQLALCHEMY_ENGINE_OPTIONS": options}
        engine = build.build(reading.read({**config, "UOW_SQLITE_BUSY_TIMEOUT": 0.3}), "")
        made.append(engine["default"])
        with made[-1].begin() as connection:
            connection.exec_driver_sql("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER)")
            connection.exec_driver_sql("INSERT INTO t VALUES (1, 0)")
        return made[-1]

    yield make
    for engine in made:
        engine.dispose()


@pytest.fixture
def folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where this process creates its folders, as if it were a new one."""
    monkeypatch.setattr(temporary, "_SHARED_MEMORY", str(tmp_path))
    temporary._sweep.cache_clear()
    return tmp_path


def file_of(engine: Engine) -> Path:
    with engine.connect() as connection:
        return Path(connection.exec_driver_sql("PRAGMA database_list").one()[2])


def n(engine: Engine) -> int:
    with engine.connect() as connection:
        number: int = connection.exec_driver_sql("SELECT n FROM t").scalar_one()
        return number


def set_n(engine: Engine, number: int) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE t SET n = {number}")


# Which database -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file::memory:?uri=true",
        "sqlite+pysqlite:///:memory:?timeout=1",
    ],
)
def test_all_threads_share_the_database_of_an_engine(url: str, make_engine: MakeEngine) -> None:
    """With a connection for each of them."""
    engine = make_engine(url)
    assert isinstance(engine.pool, QueuePool)
    with engine.connect() as connection:
        assert in_thread(lambda: n(engine)) == 0
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_two_engines_are_two_databases(make_engine: MakeEngine) -> None:
    """As ever: also two apps of one test, and two bind keys of one app."""
    one, two = make_engine(), make_engine()
    set_n(one, 1)
    assert (n(one), n(two)) == (1, 0)


def test_pool_options_are_accepted(make_engine: MakeEngine) -> None:
    """Those of production stay in the config when a test names another URI."""
    options = {"pool_size": 2, "max_overflow": 0, "pool_timeout": 1, "pool_recycle": 60}
    engine = make_engine(**options, pool_pre_ping=True)
    assert isinstance(engine.pool, QueuePool)
    assert engine.pool.size() == 2
    assert in_threads(lambda: n(engine), times=4) == [0] * 4


@pytest.mark.parametrize("pool", [StaticPool, SingletonThreadPool])
def test_a_pool_of_the_user_keeps_memory(pool: Any, make_engine: MakeEngine) -> None:
    """It is as SQLAlchemy has it, without a file."""
    engine = make_engine(poolclass=pool, connect_args={"check_same_thread": False})
    assert isinstance(engine.pool, pool)
    assert file_of(engine) == Path()
    set_n(engine, 1)
    assert n(engine) == 1


def test_a_shared_cache_keeps_memory(make_engine: MakeEngine) -> None:
    """``mode=memory&cache=shared`` is as SQLAlchemy has it, and writers are in the queue."""
    engine = make_engine(SHARED, poolclass=SingletonThreadPool)
    assert file_of(engine) == Path()
    with engine.connect() as connection:
        connection.exec_driver_sql("UPDATE t SET n = 1")
        with pytest.raises(OperationalError, match="'sqlite://' was held by the thread 'Main"):
            in_thread(lambda: set_n(engine, 2))
        connection.commit()
    assert n(engine) == 1


# Transactions ---------------------------------------------------------------------------------


def test_readers_do_not_wait_for_a_writer(make_engine: MakeEngine) -> None:
    """S9: they see what is committed."""
    engine = make_engine()
    with engine.connect() as connection:
        connection.exec_driver_sql("UPDATE t SET n = 1")
        assert in_thread(lambda: n(engine)) == 0
        connection.commit()
    assert in_thread(lambda: n(engine)) == 1


def test_writers_wait_for_each_other(make_engine: MakeEngine) -> None:
    """S9: in the queue; messages name the URL, not the temporary file."""
    engine = make_engine()
    with engine.connect() as connection:
        connection.exec_driver_sql("UPDATE t SET n = 1")
        with pytest.raises(OperationalError, match="the write lock of 'sqlite://' was held by"):
            in_thread(lambda: set_n(engine, 2))
        connection.rollback()
    in_thread(lambda: set_n(engine, 2))
    assert n(engine) == 2


@pytest.mark.parametrize("begin", ["BEGIN", "BEGIN IMMEDIATE"])
def test_no_thread_ends_the_transaction_of_another(begin: str, make_engine: MakeEngine) -> None:
    """Each has a connection of its own."""
    engine = make_engine()

    def end() -> None:
        with engine.connect() as connection:
            connection.exec_driver_sql("COMMIT") if begin == "BEGIN" else connection.rollback()

    with engine.connect() as connection:
        connection.exec_driver_sql(begin)
        connection.exec_driver_sql("UPDATE t SET n = 1")
        with closing(engine.raw_connection()) as other:
            other.rollback()
        if begin == "BEGIN":
            with pytest.raises(OperationalError, match="no transaction is active"):
                in_thread(end)
        else:
            in_thread(end)
        connection.rollback()
    assert n(engine) == 0


def test_an_interruption_drops_a_connection_and_not_the_database(make_engine: MakeEngine) -> None:
    """SQLAlchemy itself drops the connection in the middle of a statement."""
    engine = make_engine()

    def interrupt(_cursor: object, statement: str, *_: object) -> None:
        if statement == "SELECT 'long'":
            raise KeyboardInterrupt

    event.listen(engine, "do_execute", interrupt)
    with engine.connect() as connection:
        connection.exec_driver_sql("UPDATE t SET n = 1")
        with pytest.raises(KeyboardInterrupt):
            connection.exec_driver_sql("SELECT 'long'")
        assert connection.invalidated
    assert n(engine) == 0


def test_no_update_is_lost_in_an_app(tmp_path: Path) -> None:
    """S1, S9: among the threads of a test, which send requests at once."""
    db, app = Database(Base), Flask("tests", instance_path=str(tmp_path))
    app.config.update(SQLALCHEMY_DATABASE_URI="sqlite://", UOW_SQLITE_BUSY_TIMEOUT=30)
    db.init_app(app)

    @app.post("/")
    def count() -> str:
        user = db.session.scalars(select(User)).one()
        user.name = str(int(user.name) + 1)
        return ""

    with app.app_context():
        db.create_all()
        db.session.add(User(name="0"))
        db.session.commit()
    codes = in_threads(lambda: [app.test_client().post("/").status_code for _ in range(10)])
    assert codes == [[200] * 10] * 8
    with app.app_context():
        assert db.session.scalars(select(User.name)).one() == "80"


# The end of the database ----------------------------------------------------------------------


def test_only_this_user_reads_the_file(folders: Path, make_engine: MakeEngine) -> None:
    """No other user may enter the folder."""
    file = file_of(make_engine())
    (folder,) = folders.iterdir()
    assert file.parent == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_dispose_removes_the_database(make_engine: MakeEngine) -> None:
    """The next connection begins with an empty one, whose writers are in one queue again."""
    engine = make_engine()
    file = file_of(engine)
    with engine.connect() as kept:
        kept.exec_driver_sql("SELECT n FROM t")
        engine.execution_options(isolation_level="SERIALIZABLE").dispose()
    assert not file.parent.exists()
    with engine.connect() as connection, pytest.raises(OperationalError, match="no such table"):
        connection.exec_driver_sql("SELECT n FROM t")
    assert file_of(engine) != file
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE other (id INTEGER)")
        assert Path(f"{file_of(engine)}-queue").exists()
        with pytest.raises(OperationalError, match="was held by the thread 'MainThread'"):
            in_thread(lambda: set_n(engine, 2))


def test_a_connection_that_survives_dispose_stores_nothing(make_engine: MakeEngine) -> None:
    """Its database is gone, and the commit says so."""
    engine = make_engine()
    with engine.connect() as kept:
        kept.exec_driver_sql("UPDATE t SET n = 1")
        engine.dispose()
        with pytest.raises((OperationalError, TransactionLost), match="'sqlite://' was deleted"):
            kept.commit()


def test_dispose_takes_the_database_away_before_it_removes_it(
    monkeypatch: pytest.MonkeyPatch, make_engine: MakeEngine
) -> None:
    """A thread that connects meanwhile gets a new one."""
    engine = make_engine()
    file, found = file_of(engine), []
    real = shutil.rmtree

    def meanwhile(*args: Any, **options: Any) -> None:
        found.append(in_thread(lambda: file_of(engine)))
        real(*args, **options)

    monkeypatch.setattr(shutil, "rmtree", meanwhile)
    engine.dispose()
    monkeypatch.undo()
    (new,) = found
    assert new != file
    assert file_of(engine) == new
    assert not file.parent.exists()


def test_a_descriptor_that_is_another_file_now_is_not_closed(
    tmp_path: Path, make_engine: MakeEngine
) -> None:
    """A daemon closes all files that it has inherited, and opens its own."""
    engine = make_engine()
    file = file_of(engine)
    number = temporary._folders[engine]._lock
    assert number is not None
    with (tmp_path / "log").open("w") as log:
        os.dup2(log.fileno(), number)
        engine.dispose()
        os.write(number, b"a line")
        os.close(number)
    assert (tmp_path / "log").read_text() == "a line"
    assert not file.parent.exists()


def test_an_engine_that_is_dropped_takes_its_file_along(make_engine: MakeEngine) -> None:
    """A suite that creates an app for each test does not fill the memory."""
    engine = build.build(reading.read({"SQLALCHEMY_DATABASE_URI": "sqlite://"}), "")["default"]
    file = file_of(engine)
    assert file.exists()
    engines.forget()  # it keeps each engine that has connected
    del engine
    gc.collect()
    assert not file.parent.exists()


PROGRAM = """
import atexit, os, signal, sys
from sqlalchemy import text
from flask_uow._config import reading
from flask_uow._engine import build

engine = build.build(reading.read({"SQLALCHEMY_DATABASE_URI": "sqlite://"}), "")["default"]
@atexit.register
def look():
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO t VALUES (1)"))
        count = connection.execute(text("SELECT count(*) FROM t")).scalar()
    print(count, flush=True)

with engine.begin() as connection:
    print(connection.exec_driver_sql("PRAGMA database_list").one()[2], flush=True)
    connection.execute(text("CREATE TABLE t (id INTEGER)"))

if sys.argv[1] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
"""


def run_program(how: str, program: str = PROGRAM) -> tuple[Path, list[str], int]:
    command = [sys.executable, "-c", program, how]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    path, *lines = done.stdout.splitlines()
    return Path(path), lines, done.returncode


@pytest.mark.slow
def test_the_folder_is_removed_at_exit() -> None:
    """After the functions of the app, also those that were registered before the folder."""
    file, lines, code = run_program("exit")
    assert (lines, code) == (["1"], 0)
    assert not file.parent.exists()


@pytest.mark.slow
def test_the_folder_of_a_killed_process_is_swept(make_engine: MakeEngine) -> None:
    """By the next process that has a database in memory; that of a living one stays."""
    file, _, code = run_program("kill")
    assert code == -signal.SIGKILL
    assert file.exists()
    other, _, _ = run_program("kill")
    assert not file.parent.exists()
    living = file_of(make_engine())
    temporary._sweep.cache_clear()
    make_engine()
    assert not other.parent.exists()
    assert living.exists()


def test_a_folder_whose_creator_was_killed_at_once_is_swept(
    folders: Path, make_engine: MakeEngine
) -> None:
    """The process was killed before it locked the folder, and before SQLite created the file."""
    (folders / "flask_uow-new").mkdir()
    folder = file_of(make_engine()).parent
    assert list(folders.iterdir()) == [folder]


@pytest.mark.parametrize("when", ["before it is open", "before it is locked"])
def test_a_folder_that_is_swept_before_it_is_locked_is_created_again(
    when: str, folders: Path, monkeypatch: pytest.MonkeyPatch, make_engine: MakeEngine
) -> None:
    """Another process, while it starts, has taken it for a leftover of a killed one."""
    module, name = (tempfile, "mkdtemp") if when == "before it is open" else (temporary, "_open")
    real = getattr(module, name)

    def swept(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(module, name, real)
        result = real(*args, **options)
        (folder,) = folders.iterdir()
        temporary._remove_unused(str(folder))
        assert not folder.exists()
        return result

    monkeypatch.setattr(module, name, swept)
    assert file_of(make_engine()).exists()


def test_a_folder_of_another_kind_is_not_swept(folders: Path, make_engine: MakeEngine) -> None:
    """A folder of that name that has other files or another owner; a link; a file."""
    (folders / "flask_uow-clone").mkdir()
    (folders / "flask_uow-clone" / "README.md").touch()
    (folders / "flask_uow-clone" / "memory.db").touch()
    (folders / "flask_uow-file").touch()
    (folders / "elsewhere").mkdir()
    (folders / "elsewhere" / "memory.db").touch()
    (folders / "flask_uow-link").symlink_to(folders / "elsewhere")
    if os.geteuid() == 0:
        (folders / "flask_uow-others").mkdir()
        os.chown(folders / "flask_uow-others", 12345, 12345)
    before = set(folders.rglob("*"))
    make_engine()
    assert before < set(folders.rglob("*"))


# Forks ----------------------------------------------------------------------------------------


def test_a_child_uses_the_database_of_its_parent(make_engine: MakeEngine) -> None:
    """It does not remove it, by ``dispose()`` or when it ends."""
    engine = make_engine()

    def child() -> None:
        set_n(engine, 1)
        engine.dispose()
        assert n(engine) == 1
        atexit._run_exitfuncs()

    assert in_child(child) == 0
    assert n(engine) == 1


def test_a_child_removes_what_it_has_created(make_engine: MakeEngine) -> None:
    """At exit, and not the database of its parent."""
    parents = file_of(make_engine())

    def child() -> None:
        file = file_of(make_engine())
        atexit._run_exitfuncs()
        assert not file.parent.exists()

    assert in_child(child) == 0
    assert parents.exists()


DAEMON = """
import os, sys
from flask_uow._config import reading
from flask_uow._engine import build

engine = build.build(reading.read({"SQLALCHEMY_DATABASE_URI": "sqlite://"}), "")["default"]
with engine.begin() as connection:
    print(connection.exec_driver_sql("PRAGMA database_list").one()[2], flush=True)
    connection.exec_driver_sql("CREATE TABLE t (id INTEGER)")
reading, writing = os.pipe()
if os.fork() == 0:
    os.close(writing)
    os.read(reading, 1)  # until the parent has ended
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO t VALUES (1)")
        print(connection.exec_driver_sql("SELECT count(*) FROM t").scalar(), flush=True)
    if sys.argv[1] == "dropped":
        os._exit(0)
elif sys.argv[1] == "dropped":
    del engine
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["exit", "dropped"])
def test_a_daemon_keeps_the_database_of_its_parent(how: str, make_engine: MakeEngine) -> None:
    """The last process that uses it removes it at exit, else the next process."""
    file, lines, code = run_program(how, DAEMON)
    assert (lines, code) == (["1"], 0)
    assert file.parent.exists() == (how == "dropped")
    temporary._sweep.cache_clear()
    make_engine()
    assert not file.parent.exists()


def test_dispose_removes_the_database_of_a_child(make_engine: MakeEngine) -> None:
    """In the process that created it. The child gets an error."""
    engine = make_engine()
    file = file_of(engine)
    (waiting, done), (told, telling) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql("UPDATE t SET n = 1")
                os.write(telling, b"x")
                os.read(waiting, 1)
                with pytest.raises((OperationalError, TransactionLost), match="was deleted"):
                    connection.commit()
            with pytest.raises(OperationalError, match="'sqlite://' was deleted"):
                engine.connect()
            os._exit(0)
        finally:
            os._exit(1)
    os.close(telling)
    os.read(told, 1)
    engine.dispose()
    assert not file.parent.exists()
    os.write(done, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for number in (waiting, done, told):
        os.close(number)


# Where there is no room -----------------------------------------------------------------------


@pytest.mark.parametrize("why", ["missing", "small"])
def test_without_shared_memory_the_temporary_folder_is_used(
    why: str, folders: Path, monkeypatch: pytest.MonkeyPatch, make_engine: MakeEngine
) -> None:
    """As on macOS, and in a container with 64 MB of it."""
    if why == "missing":
        monkeypatch.setattr(temporary, "_SHARED_MEMORY", "/nowhere")
    else:
        found = shutil.disk_usage(folders)._replace(free=64 * 2**20)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: found)
    file = file_of(make_engine())
    assert file.is_relative_to(tempfile.gettempdir())
    assert list(folders.iterdir()) == []


def test_no_folder_at_all_gets_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the reason and two ways out."""
    monkeypatch.setattr(temporary, "_SHARED_MEMORY", "/nowhere")
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    engine = build.build(reading.read({"SQLALCHEMY_DATABASE_URI": "sqlite://"}), "")["default"]
    with pytest.raises(ConfigError, match=r"'sqlite://'.*No such file.*Set TMPDIR.*app\.db"):
        engine.connect()


@pytest.mark.parametrize("lock", ["no flock", "refused"])
def test_without_locks_nothing_is_swept(
    lock: str, folders: Path, monkeypatch: pytest.MonkeyPatch, make_engine: MakeEngine
) -> None:
    """A folder on a system without ``flock``, or on a file system without locks."""
    (folders / "flask_uow-old").mkdir()

    class Refusing:
        LOCK_EX = LOCK_NB = LOCK_UN = 0

        @staticmethod
        def flock(*_: object) -> None:
            raise OSError

    monkeypatch.setattr(temporary, "fcntl", None if lock == "no flock" else Refusing)
    engine = make_engine()
    folder = file_of(engine).parent
    assert n(engine) == 0
    assert (folders / "flask_uow-old").exists()
    engine.dispose()
    assert not folder.exists()


@pytest.mark.slow
def test_threads_that_connect_at_once_get_one_database(folders: Path) -> None:
    """The first of them; the folders of the others are removed."""
    config = {"SQLALCHEMY_DATABASE_URI": "sqlite://"}
    engine = build.build(reading.read(config), "")["default"]
    barrier = threading.Barrier(8)

    def connect(engine: Engine = engine) -> Path:
        barrier.wait(10)
        return file_of(engine)

    assert len(set(in_threads(connect, times=8))) == 1
    engine.dispose()
    engines.forget()
    del engine, connect
    gc.collect()
    assert list(folders.iterdir()) == []


def test_null_pool_has_one_database_for_each_connection(make_engine: MakeEngine) -> None:
    """As SQLAlchemy has it."""
    with pytest.raises(OperationalError, match="no such table"):
        n(make_engine(poolclass=NullPool))


# Too many open files --------------------------------------------------------------------------

CROWDED = """
import gc, os, resource, sys
from flask_uow._config import reading
from flask_uow._engine import build

limits = resource.getrlimit(resource.RLIMIT_NOFILE)
for left in range(9):
    engine = connection = None
    gc.collect()  # the files of the last round
    used = os.open(os.devnull, os.O_RDONLY)
    config = {"SQLALCHEMY_DATABASE_URI": sys.argv[1].format(left)}
    engine = build.build(reading.read(config), "")["default"]
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1 + left, limits[1]))
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE t (id INTEGER)")
        print("stored")
    except Exception as error:
        print(str(error).replace(chr(10), " "))
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    engine.dispose()
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "memory"])
def test_too_many_open_files_are_named(kind: str, tmp_path: Path) -> None:
    """Whichever file it is that SQLite, the queue or the folder cannot open."""
    url = f"sqlite:///{tmp_path}/{{}}.db" if kind == "file" else "sqlite://"
    command = [sys.executable, "-c", CROWDED, url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert (len(said), said[-1]) == (9, "stored")
    errors = [line for line in said if line != "stored"]
    assert len(errors) >= 3
    for line in errors:
        assert "oo many open files" in line
        assert "'db.engine.dispose()'), or raise the limit of open files ('ulimit -n')." in line
        assert "be allowed to create" not in line
        assert "TMPDIR" not in line
