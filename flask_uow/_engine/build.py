"""Settings to engines: the right driver, the right file, and all that protects an engine."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any, cast

import sqlalchemy
from sqlalchemy import URL, Engine
from sqlalchemy.exc import NoSuchModuleError

from .._config.checks import ENGINE_OPTIONS, check_port
from .._config.options import UnitOptions
from .._config.settings import EngineSettings, PoolSettings, Settings
from .._drivers.known import DIALECTS, DRIVERS, PACKAGES, driver_of, drivers_for, synchronous
from .._sqlite import engine as sqlite
from .._sqlite import profile
from .._transaction import sqlalchemy_private
from .._transaction.routing import DEFAULT, unknown
from ..errors import ConfigError, UnknownEngine, escaped
from . import (
    fork,
    greenlets,
    liveness,
    lost_transactions,
    missing,
    plain_reads,
    pool,
    recording,
    session_state,
)
from .checkouts import CheckoutContext, CheckoutTracker

logger = logging.getLogger(__name__)


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
        """Return a dict of the engines, as Flask-Alembic expects it."""
        return dict(self.named)


def build(
    settings: Settings,
    folder: str,
    context: CheckoutContext | None = None,
    migrated: missing.Reference = lambda: None,
) -> dict[str, Engine]:
    """Create the engines; nothing connects yet.

    :param folder: where relative SQLite files lie.
    :param context: what connections are checked out for.
    :param migrated: returns a function that tells, after an error, whether the app has migrations
        of the engine; None if the app is gone.
    :raises ConfigError: a dialect is unknown, a driver is missing, an option is wrong.
    """
    engines = {}
    for own in settings.engines:
        engines[own.name] = _create(own, settings.pool, folder)
        _protect(engines[own.name], own, settings, context)
        missing.explain_missing(engines[own.name], own.name, migrated)
        if settings.record_queries and context is not None:
            recording.record_queries(engines[own.name], own.name, context)
    return engines


# Protections ----------------------------------------------------------------------------------


def _protect(
    engine: Engine, own: EngineSettings, settings: Settings, context: CheckoutContext | None
) -> None:
    """Add what protects an engine, in this order: listeners run in the order of their addition."""
    # First on a new connection: what follows may send statements.
    pool.finish_connecting(engine, own.options, settings.pool)
    # First at a checkout: a dead connection is replaced before use. SQLite has no server.
    if engine.dialect.name != "sqlite":
        liveness.replace_dead_connections(engine, own.options, settings.pool)
    # After that: a connection that was refused is not checked out.
    tracker = pool.track_checkouts(engine, settings.pool, context)
    # It decides whether a statement needs a transaction.
    if settings.begin == "auto" and _can_defer(engine, settings):
        plain_reads.defer_transactions(engine)
    # It begins the transaction before a statement ...
    if engine.dialect.name == "sqlite":
        on_growth = partial(_warn_of_log, own.name, tracker)
        sqlite.set_up_transactions(engine, settings.sqlite, on_wal_growth=on_growth)
    # ... whose effect on the transaction this asks for.
    lost_transactions.watch_transactions(engine)
    # The same listener also sees what is left in the session of a connection.
    session_state.close_changed_connections(engine, own.name)
    # After SQLite's, which may refuse to open the file at all.
    fork.protect_from_fork(engine)
    # Anywhere: they only log and warn.
    driver_of(engine.dialect).watch_notices(engine, own.name)
    greenlets.warn_of_blocking(engine)


def _can_defer(engine: Engine, settings: Settings) -> bool:
    """Tell whether the settings of *engine* let units read without a transaction."""
    if engine.dialect.name != "sqlite":
        return True
    option = engine.get_execution_options().get("isolation_level")
    level = option or sqlalchemy_private.isolation_level_of(engine.dialect)
    return level is None and settings.sqlite.begin == "auto"


def _warn_of_log(name: str, tracker: CheckoutTracker | None, size: int) -> None:
    logger.warning(
        "The write-ahead log of the SQLite engine %r has grown to %d MB, because a reader has an"
        " old snapshot: the log cannot be emptied until that reader ends. The connections in use,"
        " the oldest first:\n%s",
        name,
        size // 2**20,
        tracker.report() if tracker is not None else "  one for all threads",
    )


# Variants -------------------------------------------------------------------------------------


def with_options(engines: Mapping[str, Engine], options: UnitOptions) -> dict[str, Engine]:
    """Return the same engines, with the same pools, for transactions with *options*.

    If they are read-only, PostgreSQL refuses what writes; other servers cannot be told without a
    round trip.

    :raises ConfigError: a database does not know the isolation level.
    """
    variants = {}
    for name, engine in engines.items():
        changes: dict[str, Any] = {}
        level = options.level_on(engine.dialect.name)
        if level is not None:
            changes["isolation_level"] = _known_level(name, engine, level)
        if options.read_only and engine.dialect.name == "postgresql":
            changes["postgresql_readonly"] = True
        variants[name] = engine.execution_options(**changes) if changes else engine
    return variants


def _known_level(name: str, engine: Engine, isolation_level: str) -> str:
    wanted = isolation_level.replace("_", " ").upper()
    # No dialect of SQLAlchemy's own looks at the connection.
    known = engine.dialect.get_isolation_level_values(cast(Any, None))
    if wanted == "AUTOCOMMIT":
        raise ConfigError(
            "The isolation level 'AUTOCOMMIT' was requested, but without a transaction nothing can"
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


# Creation -------------------------------------------------------------------------------------


# From the first URL in a text to what may be the end of its password.
_SECRET = re.compile(r"://[\s\S]*[@?].*")


def _create(settings: EngineSettings, pool_settings: PoolSettings, folder: str) -> Engine:
    url, where = _with_driver(settings.url, settings.where), settings.where
    options: dict[str, Any] = {}
    if url.get_backend_name() == "sqlite":
        if profile.is_memory(url):
            options = profile.memory_options(url, settings.options)
        else:
            url = profile.in_folder(url, folder, where)
    for key, value in settings.options.items():
        # A copy: the dict of the config must not become one that two engines write to.
        options[key] = {**options.get(key, {}), **value} if isinstance(value, Mapping) else value
    try:
        _check_options(url, options, where)
        if url.get_dialect().is_async:
            raise ConfigError(
                f"{where} names the asyncio driver {url.drivername!r}, and 'db.session' is a"
                f" synchronous session. Write {synchronous(url.get_backend_name())!r} instead."
            )
        # By attribute: tracing tools replace 'sqlalchemy.create_engine'.
        return sqlalchemy.create_engine(url, **pool.options_for(url, options, pool_settings))
    except NoSuchModuleError as error:
        raise ConfigError(_unknown_dialect(url, where)) from error
    except ImportError as error:
        raise ConfigError(_missing_driver(url, where, error)) from error
    except ConfigError:
        raise
    except Exception as error:  # nothing connects yet, so it is about an option
        text = str(error) or repr(error)
        masked = _SECRET.sub("://***", text)
        cause = error if masked == text else None  # a traceback would show the password
        raise ConfigError(f"The engine of {where} refuses an option: {masked}") from cause


def _check_options(url: URL, options: Mapping[str, Any], where: str) -> None:
    for name, check in ENGINE_OPTIONS.items():
        if name in options:
            check(options[name], f"The engine option {name!r} of {where}")
    for port in (url.port, (options.get("connect_args") or {}).get("port")):
        if isinstance(port, int):  # a string may be a list of ports
            check_port(port, f"The port of {where}")


def _with_driver(url: URL, where: str) -> URL:
    """Choose the driver if the URL leaves it open and SQLAlchemy's own choice is not installed.

    For 'postgresql://', SQLAlchemy 2.0 chooses psycopg2, and SQLAlchemy 2.1 chooses psycopg.

    :raises ConfigError: no driver for this dialect is installed.
    """
    candidates = drivers_for(url.drivername)
    installed = [driver.name for driver in candidates if find_spec(driver.module)]
    if not candidates or url.get_dialect().driver in installed:
        return url
    if not installed:
        raise ConfigError(
            f"{where} needs a driver for {url.drivername!r} and none is installed."
            f" Install one: {' or '.join(_pip_command(driver.name) for driver in candidates)}."
        )
    return url.set(drivername=f"{url.drivername}+{installed[0]}")


def _missing_driver(url: URL, where: str, error: ImportError) -> str:
    """Name the module that is missing: another one than the driver, perhaps."""
    driver = url.drivername.partition("+")[2] or error.name or url.drivername
    known = DRIVERS.get(driver)
    needs = f"{where} needs the driver {driver!r}, "
    if not isinstance(error, ModuleNotFoundError):
        package = (known and known.package) or driver
        return (
            f"{needs}which is installed but cannot be loaded: {escaped(error)}. This error names"
            " what is missing, often a library of the operating system, which 'pip' does not"
            f" install. See how to install {package!r} in its documentation."
        )
    module = (error.name or driver).partition(".")[0]
    if known is None or module == known.module.partition(".")[0]:
        missing, command = "is not installed", _pip_command(driver, module)
    else:
        missing, command = f"needs the module {module!r}, ", _pip_command(module, module)
        missing += "which is not installed"
    return f"{needs}which {missing} ({escaped(error)}). Install it: {command}."


def _pip_command(driver: str, module: str = "") -> str:
    package = DRIVERS[driver].package if driver in DRIVERS else ""
    return f"pip install '{package or module or driver}'"


def _unknown_dialect(url: URL, where: str) -> str:
    dialect, _, driver = url.drivername.partition("+")
    if package := PACKAGES.get(driver) or PACKAGES.get(dialect):
        return (
            f"{where} names {url.drivername!r}, which SQLAlchemy does not know. It comes with a"
            f" package: pip install '{package}'."
        )
    if dialect in DIALECTS:
        known = [name for name in DRIVERS if DRIVERS[name].package and name != driver]
        near = difflib.get_close_matches(driver, known, n=1)
        hint = f"Did you mean '{dialect}+{near[0]}'?" if near else "Leave the driver out?"
        return f"{where} names the driver {driver!r}, which SQLAlchemy does not know. {hint}"
    near = difflib.get_close_matches(dialect, DIALECTS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return (
        f"{where} names the database dialect {dialect!r}, which SQLAlchemy does not know.{hint}"
        f" It comes with {', '.join(DIALECTS)}; others are packages to install."
    )
