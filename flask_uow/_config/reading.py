"""Read ``app.config`` into frozen settings."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeAlias, cast

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from .._transaction.routing import DEFAULT
from ..errors import ConfigError, ConfigNotice, shown
from .checks import CHECKS, did_you_mean
from .options import CommitRule, commit_rule
from .settings import (
    RETRY_PAUSE,
    EngineSettings,
    MigrationSettings,
    PoolSettings,
    Settings,
    SqliteProfile,
)

Config: TypeAlias = Mapping[str, object]
"""``app.config``, or a dict in it: every value may be of a wrong type."""

_URI = "SQLALCHEMY_DATABASE_URI"
_TRACK = "SQLALCHEMY_TRACK_MODIFICATIONS"
_KNOWN = {
    *(key for key in CHECKS if key.isidentifier()),
    _URI,
    "SQLALCHEMY_BINDS",
    "SQLALCHEMY_ENGINES",
    "SQLALCHEMY_ENGINE_OPTIONS",
    "SQLALCHEMY_ECHO",
    "UOW_COMMIT",
}
_POOL = "give it to the engine: SQLALCHEMY_ENGINE_OPTIONS = {{{0!r}: ...}}"
_SUCCESSORS = {
    "SQLALCHEMY_COMMIT_ON_TEARDOWN": (
        "drop it: a request that succeeds is committed before its response is sent (UOW_COMMIT)"
    ),
    "SQLALCHEMY_POOL_SIZE": _POOL.format("pool_size"),
    "SQLALCHEMY_POOL_TIMEOUT": _POOL.format("pool_timeout"),
    "SQLALCHEMY_POOL_RECYCLE": _POOL.format("pool_recycle"),
    "SQLALCHEMY_MAX_OVERFLOW": _POOL.format("max_overflow"),
    _TRACK: (
        "listen to SQLAlchemy's events, 'event.listen(db.session, \"before_commit\", function)',"
        " or use 'flask_uow.compat', which has 'models_committed'"
    ),
    "SQLALCHEMY_NATIVE_UNICODE": "drop it: Python 3 strings are Unicode",
    "SQLALCHEMY_ASYNC_ENGINES": "async engines are not supported yet",
}


def read(config: Config) -> Settings:
    """Read and check the settings of one app.

    :raises ConfigError: the message names the key as it is written in ``app.config``.
    """
    _notice_unknown_keys(config)
    return Settings(
        commit=read_commit_rule(config),
        engines=tuple(_read_engines(config)),
        pool=PoolSettings(stacks=bool(config.get("DEBUG")), **_given(config, "UOW_", PoolSettings)),
        sqlite=SqliteProfile(**_given(config, "UOW_SQLITE_", SqliteProfile)),
        explicit_commit=_read_explicit_commit(config),
        retry_pause=_read(config, "UOW_RETRY_PAUSE", RETRY_PAUSE),
        begin=_read(config, "UOW_BEGIN", "auto"),
        record_queries=_read(config, "SQLALCHEMY_RECORD_QUERIES", False),
    )


def _read(config: Config, key: str, default: object) -> Any:
    return CHECKS[key](config.get(key, default), key)


def _given(config: Config, prefix: str, class_: type[Any]) -> dict[str, Any]:
    """Return the values in *config*, checked, by the names of the fields of *class_*."""
    found = {}
    for field in fields(class_):
        key = prefix + field.name.upper()
        if key in CHECKS and key in config:
            value = config[key]
            if isinstance(value, str):  # words for SQLite may be in upper case
                value = value.lower()
            found[field.name] = CHECKS[key](value, key)
    return found


def read_commit_rule(config: Config) -> CommitRule:
    """Read ``UOW_COMMIT``.

    :raises ConfigError: its value is not a commit rule.
    """
    return commit_rule(config.get("UOW_COMMIT", "on_success"), "UOW_COMMIT")


def read_migration_names(config: Config) -> tuple[str, str | None]:
    """Read the name of the command group, ``""`` for none, and the effect of pending revisions.

    :raises ConfigError: ``UOW_CLI_GROUP`` is not a name, or ``UOW_CHECK_MIGRATIONS`` none of its
        values.
    """
    group = _read(config, "UOW_CLI_GROUP", "db")
    check = _read(config, "UOW_CHECK_MIGRATIONS", "warn")
    return group or "", check or None


def read_migrations(config: Config) -> MigrationSettings:
    """Read ``UOW_MIGRATIONS``, whose options are checked where Alembic is imported.

    :raises ConfigError: the value is neither a folder nor a dict, or its ``directory`` or
        ``engines`` cannot be used.
    """
    given = config.get("UOW_MIGRATIONS") or {}
    if isinstance(given, (str, Path)):
        given = {"directory": given}
    options = dict(CHECKS["UOW_MIGRATIONS"](given, "UOW_MIGRATIONS"))
    directory = options.pop("directory", "migrations")
    engines = options.pop("engines", None)
    CHECKS["UOW_MIGRATIONS['directory']"](directory, "UOW_MIGRATIONS['directory']")
    CHECKS["UOW_MIGRATIONS['engines']"](engines, "UOW_MIGRATIONS['engines']")
    return MigrationSettings(
        directory=str(directory),
        group=read_migration_names(config)[0] or "db",
        engines=None if engines is None else tuple(name or DEFAULT for name in engines),
        options=options,
    )


def refuse_unknown_options(options: Config, known: Iterable[str]) -> None:
    """Refuse options of ``UOW_MIGRATIONS`` that Alembic does not have.

    :param known: the options of Alembic's ``context.configure()``.
    :raises ConfigError: an option is not among *known*.
    """
    names = {"directory", "engines", *known}
    for key in options:
        if key not in names:
            raise ConfigError(
                f"UOW_MIGRATIONS has a key {key!r}, which is neither an option of"
                " Alembic's 'context.configure()' nor 'directory' or 'engines'."
                f"{did_you_mean(key, names)}"
            )


explicit_commit = CHECKS["UOW_EXPLICIT_COMMIT"]
"""Checks an effect of ``commit()``."""


def _read_explicit_commit(config: Config) -> dict[str, str]:
    given = config.get("UOW_EXPLICIT_COMMIT", {})
    modes = given if isinstance(given, Mapping) else {"": given}
    for name in modes:
        if not isinstance(name, str):
            raise ConfigError(
                f"UOW_EXPLICIT_COMMIT has the key {shown(name)}, but a key must be the name of a"
                " package or of a blueprint, such as 'flask_admin', or '' for all other code."
            )
    return {
        name: explicit_commit(mode, "UOW_EXPLICIT_COMMIT" + (f"[{name!r}]" if name else ""))
        for name, mode in modes.items()
    }


def _read_engines(config: Config) -> list[EngineSettings]:
    common = dict(mapping_of(config, "SQLALCHEMY_ENGINE_OPTIONS"))
    if config.get("SQLALCHEMY_ECHO"):
        common.setdefault("echo", config["SQLALCHEMY_ECHO"])
    found: dict[str, EngineSettings] = {}
    for name, value, where in _declared(config):
        if name in found:
            raise ConfigError(
                f"The engine {name!r} is configured twice, by {found[name].where} and by"
                f" {where}. Keep one of them."
            )
        found[name] = _engine(name, value, common, where)
    if not found:
        raise ConfigError(
            f"No database is configured for this app: set {_URI}, for example to"
            " 'sqlite:///app.db', in 'app.config' before the first use of the database"
            " (or FLASK_SQLALCHEMY_DATABASE_URI in the environment, if the app calls"
            " 'app.config.from_prefixed_env()')."
        )
    return list(found.values())


def _declared(config: Config) -> list[tuple[str, object, str]]:
    """Return (name, value, config key) for each engine: the default first, then in given order."""
    declared = []
    if config.get(_URI) is not None:
        declared.append((DEFAULT, config[_URI], _URI))
    for key in ("SQLALCHEMY_ENGINES", "SQLALCHEMY_BINDS"):
        for name, value in mapping_of(config, key).items():
            declared.append((name or DEFAULT, value, f"{key}[{name!r}]"))
    return declared


def _engine(name: str, value: object, common: Config, where: str) -> EngineSettings:
    options = dict(common)
    if isinstance(value, Mapping):
        own = dict(value)
        value = own.pop("url", None)
        if value is None:
            raise ConfigError(
                f"{where} has no 'url'. Write it beside the options:"
                " {'url': 'postgresql://...', 'pool_size': 10}."
            )
        options.update(own)
    return EngineSettings(name=name, url=_url(value, where), options=options, where=where)


def _url(value: object, where: str) -> URL:
    if isinstance(value, str) and value.startswith("postgres://"):
        # As several hosting services write it.
        value = value.replace("postgres://", "postgresql://", 1)
    try:
        return URL.create(**value) if isinstance(value, Mapping) else make_url(cast("URL", value))
    except (ArgumentError, TypeError, ValueError) as error:
        # Not chained: the text of the cause may contain the password.
        raise ConfigError(
            f"{where} cannot be read as a database URL: {_masked(value)}. It has the form"
            " 'dialect+driver://user:password@host:port/database', with special characters of"
            " the password percent-encoded ('urllib.parse.quote(password, safe=\"\")'), or it is"
            f" a 'sqlalchemy.URL'. ({type(error).__name__})"
        ) from None


def _masked(value: object) -> str:
    """Return the part of an invalid URL that certainly contains no password."""
    if not isinstance(value, str):
        return f"a value of type {type(value).__name__!r}"
    scheme, separator, _ = value.partition(":/")
    if separator and re.fullmatch(r"[\w+.-]*", scheme):
        return repr(f"{scheme}:/***")
    return "a text that does not start with 'dialect://'"


def mapping_of(config: Config, key: str) -> Mapping[Any, Any]:
    """Return the dict in *config*, an empty one for None.

    :raises ConfigError: the value is no dict.
    """
    value = config.get(key) or {}
    if not isinstance(value, Mapping):
        example = (
            "of options for 'create_engine': {'pool_size': 10}"
            if key == "SQLALCHEMY_ENGINE_OPTIONS"
            else "of engines: {'audit': 'sqlite:///audit.db'}"
        )
        found = type(value).__name__
        raise ConfigError(f"{key} must be a dict {example}, but it is of type {found!r}.")
    return value


def _notice_unknown_keys(config: Config) -> None:
    for key, value in config.items():
        if key in _KNOWN or not str(key).startswith(("SQLALCHEMY_", "UOW_")):
            continue
        if key == _TRACK and not value:  # as many apps set it
            continue
        if key in _SUCCESSORS:
            text = f"{key} has no effect; {_SUCCESSORS[key]}."
        else:
            near = difflib.get_close_matches(key, _KNOWN, n=1, cutoff=0.8)
            hint = f" Did you mean {near[0]}?" if near else ""
            text = f"{key} is not a setting of flask_uow and has no effect.{hint}"
        warnings.warn(text, ConfigNotice, stacklevel=2)
