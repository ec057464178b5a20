"""The fixtures of the test bench; see ``tests/support/`` for what they are made of."""

from __future__ import annotations

import gc
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, settings
from sqlalchemy import create_engine, make_url

from flask_uow import Database, Flask
from tests.support import databases, engines
from tests.support.databases import TestDatabase
from tests.support.faults import Faults
from tests.support.models import Base
from tests.support.recording import record
from tests.support.witness import Witness

MakeApp = Callable[..., Flask]

# No test is about time: the machine may be busy.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


# Fixtures and parameters that make a test slow: MariaDB by its names, and the folders of
# Flask-Migrate, which the default tier does not install.
_SLOW_FIXTURES = {"mariadb", "mariadb_url"}
_SLOW_PARAMETERS = {"mariadb", "pymysql", "mysqldb", "Flask-Migrate's"}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out ``tests/ecosystem`` unless it is named: ``nox -s ecosystem`` has its packages."""
    is_named = any("ecosystem" in argument for argument in config.args)
    return True if collection_path.name == "ecosystem" and not is_named else None


@pytest.hookimpl(tryfirst=True)  # before the marks choose
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what runs on MariaDB, on a real server, or with Flask-Migrate's folders.

    The default tier runs on SQLite and PostgreSQL. The slow tier tests the same rules on MariaDB.
    Whole runs of pytest inside a test take long, so they are slow as well.
    """
    for item in items:
        is_run = "run_tests" in getattr(item, "fixturenames", ())
        if item.get_closest_marker("servers") or is_run or _is_slow_by_its_parameters(item):
            item.add_marker(pytest.mark.slow)


def _is_slow_by_its_parameters(item: pytest.Item) -> bool:
    if not isinstance(item, pytest.Function):
        return False
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    names = set(_names_in(list(parameters)))
    return bool(_SLOW_FIXTURES & set(item.fixturenames) or _SLOW_PARAMETERS & names)


def _names_in(parameter: object) -> Iterator[str]:
    """A parameter that is a name, or the names in a tuple such as ``("mariadb", "pymysql")``."""
    if isinstance(parameter, str):
        yield parameter
    elif isinstance(parameter, (tuple, list)):
        for part in parameter:
            yield from _names_in(part)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Do not look for garbage among the modules and the tests: there are many, and they stay.

    It would take an eighth of the time of the default tier.
    """
    gc.disable()
    try:
        yield
        gc.collect()
        gc.freeze()
    finally:
        gc.enable()


# These are no fixtures: they run before all of them and after all of them. Around them is the leak
# check of the package's own plugin.


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    engines.forget()
    yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """After every test no connection is checked out, and each pool is empty."""
    yield
    engines.dispose()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """A test that traces puts back what traced before: coverage would end with it."""
    before = sys.gettrace()
    yield
    assert sys.gettrace() is before, "sys.settrace() was called, and not undone"


@pytest.fixture(autouse=True)
def _push_request_context() -> None:
    """Turns off the fixture of this name in pytest-flask.

    It pushes a request context round every test that uses ``app``, which is not how an app is
    served. ``tests/promises/test_pytest_flask.py`` turns it on again and tests what it does.
    """


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """A database of our own on a PostgreSQL server."""
    with databases.postgresql() as url:
        yield url


@pytest.fixture(scope="session")
def mariadb_url() -> Iterator[str]:
    """A database of our own on a MariaDB server."""
    with databases.mariadb() as url:
        yield url


@pytest.fixture(params=databases.EACH)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TestDatabase]:
    """Every database in turn, empty."""
    if request.param == "sqlite-file":
        yield databases.sqlite_file(tmp_path)
    elif request.param == "sqlite-memory":
        yield databases.sqlite_memory()
    else:
        url = request.getfixturevalue(f"{request.param}_url")
        has_tables = databases.wipe(url, Base.metadata)
        yield TestDatabase(request.param, url, has_tables)


@pytest.fixture
def witness(database: TestDatabase) -> Witness:
    """A second, independent connection: asks the database itself what is stored."""
    return Witness(database.url)


@pytest.fixture
def db() -> Database:
    """A ``Database`` with the models of ``tests.support.models``."""
    return Database(Base)


@pytest.fixture(scope="session")
def empty_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of SQLite with the tables of ``tests.support.models``."""
    file = tmp_path_factory.mktemp("empty") / "empty.db"
    engine = create_engine(f"sqlite:///{file}")
    Base.metadata.create_all(engine)
    engine.dispose()
    return file


@pytest.fixture
def make_app(database: TestDatabase, db: Database, tmp_path: Path, empty_tables: Path) -> MakeApp:
    """Makes apps on ``db`` and the test's database, with their tables.

    Keyword arguments are config values; *made* is another ``Database`` object.
    """

    def make(made: Database = db, *, url: str = database.url, **config: Any) -> Flask:
        app = Flask("tests", instance_path=str(tmp_path))
        app.config.update(SECRET_KEY="test", SQLALCHEMY_DATABASE_URI=url)
        app.config.update(config)
        app.register_extension(made)
        is_usual = url == database.url and "SQLALCHEMY_BINDS" not in config
        knows_tables = is_usual and made.metadata is Base.metadata
        with app.app_context():
            if knows_tables and (database.has_tables or copy_tables()):
                made.engine.connect().close()  # to look for them takes longer than most tests
            else:
                made.create_all()
        return app

    def copy_tables() -> bool:
        """Copy the tables into a file of SQLite; false if there is none, or if it is not new."""
        if database.name != "sqlite-file":
            return False
        file = Path(str(make_url(database.url).database))
        if file.exists():
            return False
        shutil.copyfile(empty_tables, file)
        return True

    return make


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    """An app with the default settings."""
    return make_app()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A client that lets the context of a request end with it (pytest-flask's keeps the last)."""
    return app.test_client()


@pytest.fixture
def faults(app: Flask, db: Database) -> Faults:
    """Makes the default engine of ``app`` fail on demand."""
    with app.app_context():
        return Faults(db.engine)


@pytest.fixture
def traffic(app: Flask, db: Database) -> list[str]:
    """What the default engine of ``app`` does from now on, in words; see ``record()``."""
    log: list[str] = []
    with app.app_context():
        record(db.engine, log.append)
    return log
