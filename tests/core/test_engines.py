"""Settings to engines: drivers, files, memory, and the sentence for what is missing."""

from __future__ import annotations

import importlib.util
import threading
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Engine, make_url, text
from sqlalchemy.pool import NullPool

from flask_uow import ConfigError, Database, Flask, UnknownEngine
from flask_uow._config import reading
from flask_uow._config.settings import EngineSettings, Settings
from flask_uow._engine import build as _engines
from flask_uow._engine.build import Engines, build


def one(url: str, folder: Path, **options: Any) -> Engine:
    settings = EngineSettings("default", make_url(url), options, "SQLALCHEMY_DATABASE_URI")
    return build(Settings("on_success", (settings,)), str(folder))["default"]


def without(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Let the import system find none of *modules*."""
    real = importlib.util.find_spec
    monkeypatch.setattr(_engines, "find_spec", lambda n: None if n in modules else real(n))


def test_a_relative_sqlite_file_lies_in_the_instance_folder(tmp_path: Path) -> None:
    """The folder is created, sub-folders as well."""
    folder = tmp_path / "instance"
    engine = one("sqlite:///data/app.db", folder)
    with engine.connect() as connection:
        connection.execute(text("CREATE TABLE t (id INTEGER)"))
    engine.dispose()
    assert (folder / "data" / "app.db").exists()


def test_an_absolute_sqlite_file_stays_where_it_is(tmp_path: Path) -> None:
    """An absolute path is taken as it is, and no folder is created for it."""
    engine = one(f"sqlite:///{tmp_path}/app.db", tmp_path / "instance")
    assert engine.url.database == f"{tmp_path}/app.db"
    assert not (tmp_path / "instance").exists()


def test_a_sqlite_uri_keeps_its_form(tmp_path: Path) -> None:
    """``file:`` names are anchored behind the prefix."""
    engine = one("sqlite:///file:app.db?mode=rwc&uri=true", tmp_path)
    assert engine.url.database == f"file:{tmp_path}/app.db"
    with engine.connect():
        pass
    engine.dispose()
    assert (tmp_path / "app.db").exists()


def test_a_pool_class_of_the_user_stays(tmp_path: Path) -> None:
    """Also in memory, where each connection of a ``NullPool`` has a database of its own."""
    engine = one("sqlite://", tmp_path, poolclass=NullPool, connect_args={"timeout": 1})
    assert isinstance(engine.pool, NullPool)


@pytest.mark.filterwarnings("ignore:Selection of the SingletonThreadPool")
def test_a_shared_cache_keeps_the_pool_of_sqlalchemy(tmp_path: Path) -> None:
    """``mode=memory&cache=shared``: its connections share a database by themselves."""
    url = "sqlite:///file:shared?mode=memory&cache=shared&uri=true"
    assert type(one(url, tmp_path).pool) is type(sqlalchemy.create_engine(url).pool)


def test_an_instance_folder_that_cannot_be_made_gets_a_sentence(tmp_path: Path) -> None:
    """The message names the key, the reason and three ways out."""
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigError, match=r"instance folder.*cannot be created.*absolute path"):
        one("sqlite:///app.db", tmp_path / "file" / "instance")


def test_an_instance_folder_that_cannot_be_written_gets_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there, but the file cannot be made in it; a file that exists may be read-only."""
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(ConfigError, match=r"instance folder.*no file can be made"):
        one("sqlite:///app.db", tmp_path)
    (tmp_path / "app.db").touch()
    assert one("sqlite:///app.db", tmp_path).url.database == f"{tmp_path}/app.db"


@pytest.mark.parametrize(
    ("missing", "driver"),
    [(("psycopg",), "psycopg2"), (("psycopg2",), "psycopg"), ((), None)],
)
def test_a_bare_postgresql_url_takes_the_driver_that_is_there(
    missing: tuple[str, ...],
    driver: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever of psycopg and psycopg2 is installed; SQLAlchemy's own choice if both are."""
    without(monkeypatch, *missing)
    engine = one("postgresql://u@localhost/d", tmp_path)
    own_choice = make_url("postgresql://").get_dialect().driver
    assert engine.dialect.driver == (driver or own_choice)


def test_a_bare_url_without_any_driver_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both packages are named, in the words of the shell."""
    without(monkeypatch, "psycopg", "psycopg2")
    with pytest.raises(ConfigError, match=r"pip install 'psycopg\[binary\]' or .*psycopg2-binary"):
        one("postgresql://u@localhost/d", tmp_path)


def test_a_named_driver_that_is_missing_says_what_to_install(tmp_path: Path) -> None:
    """The package is named, which is not always the module."""
    with pytest.raises(ConfigError, match=r"needs the driver 'cx_oracle'.*pip install 'oracledb'"):
        one("oracle+cx_oracle://u@localhost/d", tmp_path)


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("postgresq://u@h/d", "Did you mean 'postgresql'"),
        ("nonesuch://u@h/d", "It comes with sqlite, postgresql"),
        ("postgresql+psycop://u@h/d", "Did you mean 'postgresql\\+psycopg"),
        ("sqlite+nonesuch:///x.db", "Leave the driver out"),
    ],
)
def test_an_unknown_dialect_or_driver_names_the_nearest(
    url: str, hint: str, tmp_path: Path
) -> None:
    """The message names the key, the wrong word and what is close to it."""
    with pytest.raises(ConfigError, match=hint) as caught:
        one(url, tmp_path)
    assert str(caught.value).startswith("SQLALCHEMY_DATABASE_URI names")


@pytest.mark.parametrize(
    ("url", "package"),
    [
        ("cockroachdb://u@h/d", "sqlalchemy-cockroachdb"),
        ("snowflake://u@h/d", "snowflake-sqlalchemy"),
        ("sqlite+libsql://h/d", "sqlalchemy-libsql"),
        ("redshift+psycopg2://u@h/d", "sqlalchemy-redshift"),
    ],
)
def test_a_dialect_of_another_package_names_the_package(
    url: str, package: str, tmp_path: Path
) -> None:
    """Those that the documentation of SQLAlchemy lists, and that are in use."""
    with pytest.raises(ConfigError, match=f"comes with a package: pip install '{package}'"):
        one(url, tmp_path)


@pytest.mark.parametrize(
    ("url", "module", "words"),
    [
        ("sqlite+pysqlcipher:///a.db", "pysqlcipher3", "install 'pysqlcipher3'"),
        ("mssql+pyodbc://u@h/d", "pyodbc", "install 'pyodbc'"),
        ("mysql+mysqldb://u@h/d", "MySQLdb", "install 'mysqlclient'"),
        ("mysql+mysqlconnector://u@h/d", "mysql", "install 'mysql-connector-python'"),
        ("mysql+mysqldb://u@h/d", "typing_thing.x", "needs the module 'typing_thing', which is"),
        ("mysql+mysqldb://u@h/d", "typing_thing.x", "install 'typing_thing'"),
    ],
)
def test_the_module_that_is_missing_is_named(
    url: str, module: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver has another name than its module, or its module needs another one."""
    importing(monkeypatch, url, ModuleNotFoundError(f"No module named {module!r}", name=module))
    with pytest.raises(ConfigError, match=words) as caught:
        one(url, tmp_path)
    assert f"(No module named {module!r})" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("mssql+pyodbc://u@h/d", "libodbc.so.2: cannot open shared object file"),
        ("mysql+mysqldb://u@h/d", "libmariadb.so.3: cannot open shared object file"),
        ("postgresql+psycopg://u@h/d", "no pq wrapper available"),
    ],
)
def test_a_missing_library_of_the_system_is_no_missing_package(
    url: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``pip install`` would change nothing."""
    importing(monkeypatch, url, ImportError(text))
    with pytest.raises(ConfigError, match="is installed but cannot be loaded") as caught:
        one(url, tmp_path)
    assert text in str(caught.value)
    assert "pip install" not in str(caught.value)


def importing(monkeypatch: pytest.MonkeyPatch, url: str, error: ImportError) -> None:
    """Let the import of the driver of *url* fail with *error*."""

    def import_dbapi() -> None:
        raise error

    monkeypatch.setattr(make_url(url).get_dialect(), "import_dbapi", import_dbapi)


@pytest.mark.parametrize("password", ["a b", "a+b", "p@ss:w/rd?#%", "ü"])
def test_the_advice_for_passwords_is_right(password: str) -> None:
    """A space, too, which ``quote_plus`` would turn into a plus sign of the password."""
    with pytest.raises(ConfigError) as caught:
        reading.read({"SQLALCHEMY_DATABASE_URI": "postgresql://u:p@ss:x@h:port/d"})
    advice = str(caught.value).partition("'urllib.parse.")[2].partition("'")[0]
    encoded = eval(advice, {"quote": urllib.parse.quote, "password": password})
    assert make_url(f"postgresql://u:{encoded}@h/d").password == password


@pytest.mark.parametrize(
    ("url", "instead"),
    [
        ("postgresql+asyncpg://u@h/d", "'postgresql\\+psycopg'"),
        ("mysql+aiomysql://u@h/d", "'mysql\\+pymysql'"),
        ("sqlite+aiosqlite:///a.db", "'sqlite'"),
    ],
)
def test_an_asyncio_driver_is_refused(url: str, instead: str, tmp_path: Path) -> None:
    """The message says what to write instead, installed or not."""
    with pytest.raises(ConfigError, match=f"asyncio driver.*Write {instead}"):
        one(url, tmp_path)


def test_an_unknown_engine_option_names_its_key(tmp_path: Path) -> None:
    """An option that ``create_engine`` refuses is reported with the config key."""
    with pytest.raises(ConfigError, match=r"engine of SQLALCHEMY_DATABASE_URI refuses.*Invalid"):
        one("sqlite:///a.db", tmp_path, pool_reset_on_return="nonesuch")
    with pytest.raises(ConfigError, match=r"engine of SQLALCHEMY_DATABASE_URI refuses.*nonesuch"):
        one("sqlite:///a.db", tmp_path, nonesuch=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pool_size": -5}, "'pool_size' of .* is -5, but it must be a whole number, 0 or more"),
        ({"pool_size": "5"}, "'pool_size' of .* is '5'"),
        ({"pool_size": True}, "'pool_size' of .* is True"),
        ({"max_overflow": -2}, "'max_overflow' of .* is -2, but it must be a whole number.* or -1"),
        ({"max_overflow": 1.5}, "'max_overflow' of .* is 1.5"),
        ({"pool_timeout": 1e400}, "'pool_timeout' of .* is inf, .* not more than 2000000 .* never"),
        ({"pool_timeout": -1}, "'pool_timeout' of .* is -1, but it must be a number of seconds"),
        ({"pool_recycle": "60"}, "'pool_recycle' of .* is '60', .* number of seconds, or -1 for"),
        ({"pool_recycle": None}, "'pool_recycle' of .* is None"),
        ({"connect_args": {"port": 99999999}}, "port of .* is 99999999, .* from 1 to 65535"),
    ],
)
def test_an_option_that_would_fail_later_is_refused(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    """SQLAlchemy accepts it, and a request would fail when it connects or has to wait."""
    with pytest.raises(ConfigError, match=words) as caught:
        one("postgresql+psycopg://u@h/d", tmp_path, **options)
    assert "of SQLALCHEMY_DATABASE_URI is" in str(caught.value)


@pytest.mark.parametrize("port", [0, 65_536, 99_999_999])
def test_a_port_that_does_not_exist_is_refused(port: int, tmp_path: Path) -> None:
    """PyMySQL would raise OverflowError when it connects."""
    with pytest.raises(ConfigError, match=f"port of .*_URI is {port}, .* from 1 to 65535"):
        one(f"mysql+pymysql://u:s3cret@h:{port}/d", tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "mysql+pymysql://u:s3cret@h/d?connect_timeout=abc",
        "sqlite:///a.db?timeout=abc",
        "sqlite:///a.db?uri=perhaps",
    ],
)
def test_an_option_in_a_url_of_the_wrong_kind_names_its_key(url: str, tmp_path: Path) -> None:
    """Whatever error the dialect raises."""
    with pytest.raises(ConfigError, match=r"engine of SQLALCHEMY_DATABASE_URI refuses.*'(abc|per)"):
        one(url, tmp_path)


def test_an_error_without_a_text_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The class of the error is better than no text."""

    def fail(*_: object, **__: object) -> None:
        raise LookupError

    monkeypatch.setattr(sqlalchemy, "create_engine", fail)
    with pytest.raises(ConfigError, match=r"SQLALCHEMY_DATABASE_URI refuses .*: LookupError\(\)"):
        one("sqlite:///a.db", tmp_path)


def test_options_at_their_limits_are_accepted(tmp_path: Path) -> None:
    """SQLAlchemy gives each of these values a meaning."""
    for options in (
        {"pool_size": 0, "max_overflow": -1, "pool_timeout": None, "pool_recycle": -1},
        {"pool_size": 1, "max_overflow": 0, "pool_timeout": 2_000_000, "pool_recycle": 0.5},
    ):
        engine = one("sqlite:///a.db", tmp_path, **options)
        for _ in range(2):
            with engine.connect() as connection:
                assert connection.execute(text("SELECT 1")).scalar() == 1
        engine.dispose()


def test_engines_answer_to_none_and_default() -> None:
    """Both names that other extensions use for the default engine work."""
    engine = sqlalchemy.create_engine("sqlite://")
    engines = Engines({"default": engine, "b": engine})
    assert engines[None] is engines["default"] is engine
    assert list(engines) == ["default", "b"]
    assert len(engines) == 2
    assert None in engines
    assert "c" not in engines


def test_an_engine_that_is_not_there_lists_those_that_are() -> None:
    """The message names the engine that was asked for and the known ones."""
    engine = sqlalchemy.create_engine("sqlite://")
    with pytest.raises(UnknownEngine, match=r"no engine 'c'.*'default', 'b'.*BINDS"):
        Engines({"default": engine, "b": engine})["c"]


def test_engines_are_made_once_whichever_thread_is_first() -> None:
    """Eight threads that arrive together get the same engine."""
    db = Database()
    app = Flask("tests")
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    db.init_app(app)
    together = threading.Barrier(8)
    made: list[Engine] = []

    def use() -> None:
        with app.app_context():
            together.wait()
            made.append(db.engine)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1


def test_an_engine_is_created_through_the_module_attribute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tracing tools that replace ``sqlalchemy.create_engine`` see our engines."""
    seen = []
    real = sqlalchemy.create_engine

    def tracing(*args: Any, **kwargs: Any) -> Engine:
        seen.append(args[0])
        return real(*args, **kwargs)

    monkeypatch.setattr(sqlalchemy, "create_engine", tracing)
    one("sqlite:///a.db", tmp_path)
    assert len(seen) == 1
