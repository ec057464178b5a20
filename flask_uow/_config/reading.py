"""Read ``app.config`` into frozen settings: every key, its check and the message about it."""

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
_POOL_KEYS = {
    f"UOW_{field.name.upper()}": field.name
    for field in fields(PoolSettings)
    if field.name != "stacks"  # set by DEBUG
}
_SQLITE_KEYS = {f"UOW_SQLITE_{field.name.upper()}": field.name for field in fields(SqliteProfile)}
_KNOWN = {
    *_POOL_KEYS,
    *_SQLITE_KEYS,
    _URI,
    "SQLALCHEMY_BINDS",
    "SQLALCHEMY_ENGINES",
    "SQLALCHEMY_ENGINE_OPTIONS",
    "SQLALCHEMY_ECHO",
    "UOW_COMMIT",
    "UOW_EXPLICIT_COMMIT",
    "UOW_RETRY_PAUSE",
    "UOW_CLI_GROUP",
    "UOW_MIGRATIONS",
    "UOW_CHECK_MIGRATIONS",
    # Keys of Flask-SQLAlchemy that are accepted, because flask_uow acts as their defaults say.
    "SQLALCHEMY_TRACK_MODIFICATIONS",
    "SQLALCHEMY_RECORD_QUERIES",
}
_POOL = "give it to the engine: SQLALCHEMY_ENGINE_OPTIONS = {{{0!r}: ...}}"
_SUCCESSORS = {
    "SQLALCHEMY_COMMIT_ON_TEARDOWN": (
        "drop it: a request that succeeds is committed before its response leaves (UOW_COMMIT)"
    ),
    "SQLALCHEMY_POOL_SIZE": _POOL.format("pool_size"),
    "SQLALCHEMY_POOL_TIMEOUT": _POOL.format("pool_timeout"),
    "SQLALCHEMY_POOL_RECYCLE": _POOL.format("pool_recycle"),
    "SQLALCHEMY_MAX_OVERFLOW": _POOL.format("max_overflow"),
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
        pool=_read_pool(config),
        sqlite=SqliteProfile(**_given(config, _SQLITE_KEYS)),
        explicit_commit=_read_explicit_commit(config),
        retry_pause=_read_retry_pause(config),
    )


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
    group = config.get("UOW_CLI_GROUP", "db") or ""
    if not isinstance(group, str):
        raise ConfigError(f"UOW_CLI_GROUP is {shown(group)}, and it must be a name, such as 'db'.")
    check = config.get("UOW_CHECK_MIGRATIONS", "warn")
    if check not in ("warn", "error", False, None):  # a tuple: the value may be unhashable
        raise ConfigError(
            f"UOW_CHECK_MIGRATIONS is {shown(check)}, and it must be 'warn', 'error' or False:"
            " what the first request does in debug mode if revisions are pending."
        )
    return group, str(check) if check else None


def read_migrations(config: Config) -> MigrationSettings:
    """Read ``UOW_MIGRATIONS``, whose options are checked where Alembic is imported.

    :raises ConfigError: the value is neither a folder nor a dict, or its ``directory`` or
        ``engines`` cannot be used.
    """
    given = config.get("UOW_MIGRATIONS") or {}
    if isinstance(given, (str, Path)):
        given = {"directory": given}
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"UOW_MIGRATIONS is {shown(given)}, and it must be the name of a folder, or a dict:"
            " {'directory': 'migrations', 'engines': ['default'], 'include_schemas': True}, where"
            " all other keys are options of Alembic's 'context.configure()'."
        )
    options = dict(given)
    directory = options.pop("directory", "migrations")
    if not isinstance(directory, (str, Path)) or not str(directory):
        raise ConfigError(
            f"UOW_MIGRATIONS['directory'] is {shown(directory)}, and it must be the name of a"
            " folder, such as 'migrations'."
        )
    return MigrationSettings(
        directory=str(directory),
        group=read_migration_names(config)[0] or "db",
        engines=_read_migrated(options.pop("engines", None)),
        options=options,
    )


def _read_migrated(given: object) -> tuple[str, ...] | None:
    if given is None:
        return None
    names = list(given) if isinstance(given, (list, tuple)) else [0]
    if not names or not all(name is None or isinstance(name, str) for name in names):
        raise ConfigError(
            f"UOW_MIGRATIONS['engines'] is {shown(given)}, and it must be a list of names of"
            " engines, such as ['default', 'audit']; all are migrated if it is left out."
        )
    found = tuple(str(name or DEFAULT) for name in names)
    if len(set(found)) < len(found):
        raise ConfigError(
            f"UOW_MIGRATIONS['engines'] is {shown(given)}, and it must name each engine only once."
        )
    return found


def refuse_unknown_options(options: Config, known: Iterable[str]) -> None:
    """Refuse options of ``UOW_MIGRATIONS`` that Alembic does not have.

    :param known: the options of Alembic's ``context.configure()``.
    :raises ConfigError: an option is not among *known*.
    """
    names = {"directory", "engines", *known}
    for key in options:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.6)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"UOW_MIGRATIONS has a key {key!r}, which is not an option of"
                " Alembic's 'context.configure()'; the others are 'directory' and 'engines'."
                f"{hint}"
            )


def _read_explicit_commit(config: Config) -> dict[str, str]:
    given = config.get("UOW_EXPLICIT_COMMIT", "allow")
    modes = {
        name: explicit_commit(
            mode, f"UOW_EXPLICIT_COMMIT[{name!r}]" if name else "UOW_EXPLICIT_COMMIT"
        )
        for name, mode in (given if isinstance(given, Mapping) else {"": given}).items()
    }
    return modes if set(modes.values()) - {"allow"} else {}


def explicit_commit(mode: object, where: str) -> str:
    """Check a value of ``UOW_EXPLICIT_COMMIT``.

    :param where: the place of the value in the code or in ``app.config``, for the message.
    :raises ConfigError: *mode* is not one of ``"allow"``, ``"flush"`` and ``"forbid"``.
    """
    if mode not in _MODES:
        raise ConfigError(
            f"{where} is {shown(mode)}, and it must be {', '.join(map(repr, _MODES[:-1]))} or"
            f" {_MODES[-1]!r}: what 'db.session.commit()' does during a request."
        )
    return str(mode)


_MODES = ("allow", "flush", "forbid")


def _read_retry_pause(config: Config) -> float:
    value = config.get("UOW_RETRY_PAUSE", RETRY_PAUSE)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise ConfigError(
            f"UOW_RETRY_PAUSE is {shown(value)}, and it must be a number of seconds, 0 or more."
        )
    return float(value)


def _read_pool(config: Config) -> PoolSettings:
    given = _given(config, _POOL_KEYS)
    for name, value in given.items():
        key = _key(name)
        if name == "liveness":
            if not isinstance(value, bool):
                raise ConfigError(f"{key} is {shown(value)}, and it must be True or False.")
            continue
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (is_number and value >= 0) and not (value is None and name != "ping_idle"):
            never = "" if name == "ping_idle" else ", or None for never"
            raise ConfigError(
                f"{key} is {shown(value)}, and it must be a number of seconds, 0 or more{never}."
            )
    return PoolSettings(stacks=bool(config.get("DEBUG")), **given)


def _given(config: Config, keys: Mapping[str, str]) -> dict[str, Any]:
    """Return the values in *config*, by the names of the fields for *keys*."""
    return {name: config[key] for key, name in keys.items() if key in config}


def _key(name: str) -> str:
    return f"UOW_{name.upper()}"


def _read_engines(config: Config) -> list[EngineSettings]:
    common = dict(_mapping(config, "SQLALCHEMY_ENGINE_OPTIONS"))
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
        for name, value in _mapping(config, key).items():
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
        value = value.replace(
            "postgres://", "postgresql://", 1
        )  # as several hosting services write it
    try:
        return URL.create(**value) if isinstance(value, Mapping) else make_url(cast("URL", value))
    except (ArgumentError, TypeError, ValueError) as error:
        # Not chained: the text of the cause may contain the password.
        raise ConfigError(
            f"{where} cannot be read as a database URL: {_masked(value)}. It has the form"
            " 'dialect+driver://user:password@host:port/database', with special characters of"
            " the password percent-encoded ('urllib.parse.quote_plus'), or it is a"
            f" 'sqlalchemy.URL'. ({type(error).__name__})"
        ) from None


def _masked(value: object) -> str:
    """Return the part of an invalid URL that certainly contains no password."""
    if not isinstance(value, str):
        return f"a value of type {type(value).__name__!r}"
    scheme, separator, _ = value.partition(":/")
    if separator and re.fullmatch(r"[\w+.-]*", scheme):
        return repr(f"{scheme}:/***")
    return "a text that does not start with 'dialect://'"


def _mapping(config: Config, key: str) -> Mapping[Any, Any]:
    value = config.get(key) or {}
    if not isinstance(value, Mapping):
        example = (
            "of options for 'create_engine': {'pool_size': 10}"
            if key == "SQLALCHEMY_ENGINE_OPTIONS"
            else "of engines: {'audit': 'sqlite:///audit.db'}"
        )
        found = type(value).__name__
        raise ConfigError(f"{key} must be a dict {example}, and it is of type {found!r}.")
    return value


def _notice_unknown_keys(config: Config) -> None:
    for key in config:
        if key in _KNOWN or not str(key).startswith(("SQLALCHEMY_", "UOW_")):
            continue
        if key in _SUCCESSORS:
            text = f"{key} has no effect; {_SUCCESSORS[key]}."
        else:
            near = difflib.get_close_matches(key, _KNOWN, n=1, cutoff=0.8)
            hint = f" Did you mean {near[0]}?" if near else ""
            text = f"{key} is not a setting of flask_uow and has no effect.{hint}"
        warnings.warn(text, ConfigNotice, stacklevel=2)
