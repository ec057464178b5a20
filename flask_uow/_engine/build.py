"""Settings to engines: the right driver, the right file, and a sentence if one is missing."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any, cast

import sqlalchemy
from sqlalchemy import URL, Engine
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from .._config.settings import EngineSettings, PoolSettings, Settings
from .._drivers import base, notices
from .._sqlite import engine as _sqlite_engine
from .._sqlite import profile
from .._transaction.routing import DEFAULT, unknown
from ..errors import ConfigError, UnknownEngine
from . import fork, lost_transactions
from . import pool as _pool
from .checkouts import CheckoutTracker

logger = logging.getLogger("flask_uow")

# Which drivers can serve a URL that names none, the preferred one first.
_DRIVERS = {
    "postgresql": ("psycopg", "psycopg2"),
    "mysql": ("mysqldb", "pymysql"),
    "mariadb": ("mysqldb", "pymysql"),
}
# The module that a driver imports, and the package to install for it.
_MODULES = {
    "psycopg": ("psycopg", "psycopg[binary]"),
    "psycopg2": ("psycopg2", "psycopg2-binary"),
    "mysqldb": ("MySQLdb", "mysqlclient"),
    "pymysql": ("pymysql", "PyMySQL"),
    "mariadbconnector": ("mariadb", "mariadb"),
    "mysqlconnector": ("mysql.connector", "mysql-connector-python"),
    "pg8000": ("pg8000", "pg8000"),
    "oracledb": ("oracledb", "oracledb"),
    "cx_oracle": ("cx_Oracle", "oracledb"),
    "pyodbc": ("pyodbc", "pyodbc"),
    "pymssql": ("pymssql", "pymssql"),
}
_DIALECTS = ("sqlite", "postgresql", "mysql", "mariadb", "oracle", "mssql")


class Engines(Mapping["str | None", Engine]):
    """The engines of one app by name, in declared order; ``None`` is another name of the default.

    :raises UnknownEngine: from ``engines[name]``, with the names that exist.
    """

    def __init__(self, named: dict[str, Engine]) -> None:
        self.named = named

    def __getitem__(self, name: str | None) -> Engine:
        try:
            return self.named[name or DEFAULT]
        except KeyError:
            raise UnknownEngine(
                unknown(name or DEFAULT, self.named, "the code ('db.engines[...]')")
            ) from None

    def __contains__(self, name: object) -> bool:
        return (name or DEFAULT) in self.named

    def __iter__(self) -> Iterator[str]:
        return iter(self.named)

    def __len__(self) -> int:
        return len(self.named)

    def copy(self) -> dict[str, Engine]:
        """A dict of them, as Flask-Alembic wants one."""
        return dict(self.named)


def build(
    settings: Settings,
    folder: str,
    **watch: Any,
) -> dict[str, Engine]:
    """Create the engines; nothing connects yet.

    :param folder: where relative SQLite files lie.
    :param watch: who, describe, has_place: see :class:`~._holders.CheckoutTracker`.
    :raises ConfigError: a dialect is unknown, a driver is missing, an option is wrong.
    """
    engines = {}
    for one in settings.engines:
        engine = _create(one, settings.pool, folder)
        holders = _pool.watch_pool(engine, one.options, settings.pool, **watch)
        if engine.dialect.name == "sqlite":
            # Before the guard, which asks what has become of a transaction.
            on_growth = partial(_warn_of_log, one.name, holders)
            _sqlite_engine.install(engine, settings.sqlite, on_wal_growth=on_growth)
        lost_transactions.watch_transactions(engine)
        fork.protect_from_fork(engine)
        notices.install(engine, one.name)
        base.warn_of_blocking(engine)
        engines[one.name] = engine
    return engines


def with_options(
    engines: Mapping[str, Engine], isolation_level: str | None, *, read_only: bool
) -> dict[str, Engine]:
    """The same engines, with the same pools, for transactions of another kind.

    :param read_only: PostgreSQL is told, and refuses what writes; the others cannot be told
        without a round trip.
    :raises ConfigError: a database does not know the isolation level.
    """
    found = {}
    for name, engine in engines.items():
        options: dict[str, Any] = {}
        if isolation_level is not None:
            options["isolation_level"] = _known_level(name, engine, isolation_level)
        if read_only and engine.dialect.name == "postgresql":
            options["postgresql_readonly"] = True
        found[name] = engine.execution_options(**options) if options else engine
    return found


def _known_level(name: str, engine: Engine, isolation_level: str) -> str:
    wanted = str(isolation_level).replace("_", " ").upper()
    # Of the dialects that need a connection to answer none is better known than its driver.
    known = engine.dialect.get_isolation_level_values(cast(Any, None))
    if wanted == "AUTOCOMMIT":
        raise ConfigError(
            "The isolation level 'AUTOCOMMIT' was asked for, and without a transaction nothing can"
            " be rolled back. Use a connection of your own: 'with db.engine.connect()"
            '.execution_options(isolation_level="AUTOCOMMIT") as connection:\'.'
        )
    if wanted not in known:
        levels = ", ".join(repr(level) for level in known if level != "AUTOCOMMIT")
        raise ConfigError(
            f"The isolation level {isolation_level!r} is not known to the engine {name!r}"
            f" ({engine.dialect.name}). It knows {levels}."
        )
    return wanted


def _warn_of_log(name: str, holders: CheckoutTracker | None, size: int) -> None:
    logger.warning(
        "The write-ahead log of the SQLite engine %r has grown to %d MB, because somebody keeps"
        " reading what was there before: it cannot be emptied until they end. The connections in"
        " use, the oldest first:\n%s",
        name,
        size // 2**20,
        holders.report() if holders is not None else "  one for everybody",
    )


def _create(settings: EngineSettings, pool: PoolSettings, folder: str) -> Engine:
    url, where = _with_driver(settings.url, settings.where), settings.where
    options: dict[str, Any] = {}
    if url.get_backend_name() == "sqlite":
        if profile.is_memory(url):
            options = profile.memory_options()
        else:
            url = profile.in_folder(url, folder, where)
    for key, value in settings.options.items():
        # A copy: the dict of the config must not become one that two engines write to.
        options[key] = {**options.get(key, {}), **value} if isinstance(value, Mapping) else value
    try:
        if url.get_dialect().is_async:
            raise ConfigError(
                f"{where} names the asyncio driver {url.drivername!r}, and 'db.session' is a"
                f" synchronous session. Write {_synchronous(url)!r} instead."
            )
        # By attribute: tracing tools replace 'sqlalchemy.create_engine'.
        return sqlalchemy.create_engine(url, **_pool.options_for(url, options, pool))
    except NoSuchModuleError as error:
        raise ConfigError(_unknown_dialect(url, where)) from error
    except ImportError as error:
        raise ConfigError(_missing_driver(url, where, error)) from error
    except (ArgumentError, AttributeError, KeyError, TypeError) as error:
        raise ConfigError(f"The engine of {where} refuses an option: {error}") from error


def _with_driver(url: URL, where: str) -> URL:
    """Choose the driver if the URL leaves it open and SQLAlchemy's own choice is not installed.

    SQLAlchemy 2.0 means psycopg2 by 'postgresql://', SQLAlchemy 2.1 means psycopg.
    """
    candidates = _DRIVERS.get(url.drivername, ())
    installed = [name for name in candidates if find_spec(_MODULES[name][0])]
    if not candidates or url.get_dialect().driver in installed:
        return url
    if not installed:
        raise ConfigError(
            f"{where} needs a driver for {url.drivername!r} and none is installed."
            f" Install one: {' or '.join(map(_install, candidates))}."
        )
    return url.set(drivername=f"{url.drivername}+{installed[0]}")


def _missing_driver(url: URL, where: str, error: ImportError) -> str:
    driver = url.drivername.partition("+")[2] or error.name or url.drivername
    return (
        f"{where} needs the driver {driver!r}, which is not installed ({error})."
        f" Install it: {_install(driver)}."
    )


def _install(driver: str) -> str:
    return f"pip install '{_MODULES.get(driver, (driver, driver))[1]}'"


def _unknown_dialect(url: URL, where: str) -> str:
    dialect, _, driver = url.drivername.partition("+")
    if dialect in _DIALECTS:
        known = [name for name in _MODULES if name != driver]
        near = difflib.get_close_matches(driver, known, n=1)
        hint = f"Did you mean '{dialect}+{near[0]}'?" if near else "Leave the driver out?"
        return f"{where} names the driver {driver!r}, which SQLAlchemy does not know. {hint}"
    near = difflib.get_close_matches(dialect, _DIALECTS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return (
        f"{where} names the database dialect {dialect!r}, which SQLAlchemy does not know.{hint}"
        f" It comes with {', '.join(_DIALECTS)}; others are packages to install."
    )


def _synchronous(url: URL) -> str:
    backend = url.get_backend_name()
    return {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}.get(backend, backend)
