"""``app.config`` to frozen settings: every key, every check, every message about them."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

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

_URI = "SQLALCHEMY_DATABASE_URI"
_POOL_KEYS = {
    f"UOW_{field.name.upper()}": field.name
    for field in fields(PoolSettings)
    if field.name != "stacks"  # whether the app is in debug mode
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
    # Switches of Flask-SQLAlchemy whose default is what happens here anyway.
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


def read(config: Mapping[str, Any]) -> Settings:
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


def read_commit_rule(config: Mapping[str, Any]) -> CommitRule:
    """
    :raises ConfigError: ``UOW_COMMIT`` is no rule.
    """
    return commit_rule(config.get("UOW_COMMIT", "on_success"), "UOW_COMMIT")


def read_migration_names(config: Mapping[str, Any]) -> tuple[str, str | None]:
    """The name of the group of commands, empty for none; and what pending revisions lead to.

    :raises ConfigError: one of them is neither.
    """
    group = config.get("UOW_CLI_GROUP", "db") or ""
    if not isinstance(group, str):
        raise ConfigError(f"UOW_CLI_GROUP is {shown(group)}, and it must be a name, such as 'db'.")
    check = config.get("UOW_CHECK_MIGRATIONS", "warn")
    if check not in {"warn", "error", False, None}:
        raise ConfigError(
            f"UOW_CHECK_MIGRATIONS is {shown(check)}, and it must be 'warn', 'error' or False:"
            " what the first request does in debug mode if the database is behind."
        )
    return group, check or None


def read_migrations(config: Mapping[str, Any]) -> MigrationSettings:
    """
    :raises ConfigError: ``UOW_MIGRATIONS`` is neither a folder nor a dict.
    """
    given: Any = config.get("UOW_MIGRATIONS") or {}
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


def _read_migrated(given: Any) -> tuple[str, ...] | None:
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
            f"UOW_MIGRATIONS['engines'] is {shown(given)}, and it names an engine twice."
        )
    return found


def refuse_unknown_options(options: Mapping[str, Any], known: Iterable[str]) -> None:
    """
    :param options: of ``UOW_MIGRATIONS``.
    :param known: the options of Alembic's ``context.configure()``.
    :raises ConfigError: one of *options* is none of them.
    """
    names = {"directory", "engines", *known}
    for key in options:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.6)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"UOW_MIGRATIONS has a key {key!r}, which is no option of Alembic's"
                f" 'context.configure()'; our own are 'directory' and 'engines'.{hint}"
            )


def _read_explicit_commit(config: Mapping[str, Any]) -> dict[str, str]:
    given = config.get("UOW_EXPLICIT_COMMIT", "allow")
    modes = dict(given) if isinstance(given, Mapping) else {"": given}
    for name, mode in modes.items():
        where = f"UOW_EXPLICIT_COMMIT[{name!r}]" if name else "UOW_EXPLICIT_COMMIT"
        modes[name] = explicit_commit(mode, where)
    return modes if set(modes.values()) - {"allow"} else {}


def explicit_commit(mode: object, where: str) -> str:
    """
    :raises ConfigError: *mode* is none.
    """
    if mode not in _MODES:
        raise ConfigError(
            f"{where} is {shown(mode)}, and it must be {', '.join(map(repr, _MODES[:-1]))} or"
            f" {_MODES[-1]!r}: what 'db.session.commit()' does in the middle of a request."
        )
    return str(mode)


_MODES = ("allow", "flush", "forbid")


def _read_retry_pause(config: Mapping[str, Any]) -> float:
    value = config.get("UOW_RETRY_PAUSE", RETRY_PAUSE)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise ConfigError(
            f"UOW_RETRY_PAUSE is {shown(value)}, and it must be a number of seconds, 0 or more."
        )
    return float(value)


def _read_pool(config: Mapping[str, Any]) -> PoolSettings:
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


def _given(config: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    """What *config* says of *keys*, by the names of the fields that they stand for."""
    return {name: config[key] for key, name in keys.items() if key in config}


def _key(name: str) -> str:
    return f"UOW_{name.upper()}"


def _read_engines(config: Mapping[str, Any]) -> list[EngineSettings]:
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


def _declared(config: Mapping[str, Any]) -> list[tuple[str, Any, str]]:
    """Every configured engine as (name, value, config key): the default, then in given order."""
    declared = []
    if config.get(_URI) is not None:
        declared.append((DEFAULT, config[_URI], _URI))
    for key in ("SQLALCHEMY_ENGINES", "SQLALCHEMY_BINDS"):
        for name, value in _mapping(config, key).items():
            declared.append((name or DEFAULT, value, f"{key}[{name!r}]"))
    return declared


def _engine(name: str, value: Any, common: Mapping[str, Any], where: str) -> EngineSettings:
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


def _url(value: Any, where: str) -> URL:
    if isinstance(value, str) and value.startswith("postgres://"):
        value = value.replace("postgres://", "postgresql://", 1)  # the form of several hosters
    try:
        return URL.create(**value) if isinstance(value, Mapping) else make_url(value)
    except (ArgumentError, TypeError, ValueError) as error:
        # Not chained: the text of the cause may hold the password.
        raise ConfigError(
            f"{where} cannot be read as a database URL: {_masked(value)}. It has the form"
            " 'dialect+driver://user:password@host:port/database', with special characters of"
            " the password percent-encoded ('urllib.parse.quote_plus'), or it is a"
            f" 'sqlalchemy.URL'. ({type(error).__name__})"
        ) from None


def _masked(value: Any) -> str:
    """A URL that could not be parsed, as far as it is certain to hold no password."""
    if not isinstance(value, str):
        return f"a value of type {type(value).__name__!r}"
    scheme, separator, _ = value.partition(":/")
    if separator and re.fullmatch(r"[\w+.-]*", scheme):
        return repr(f"{scheme}:/***")
    return "a text that does not start with 'dialect://'"


def _mapping(config: Mapping[str, Any], key: str) -> Mapping[Any, Any]:
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


def _notice_unknown_keys(config: Mapping[str, Any]) -> None:
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
