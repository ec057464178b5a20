"""The engines of an app as Flask-SQLAlchemy reads them from ``app.config``.

``SQLALCHEMY_ENGINE_OPTIONS`` is for the default engine only, ``SQLAlchemy(engine_options=)`` for
all. What is wrong in a value is said by ``_config.reading``, which reads the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flask import Config
from sqlalchemy import URL, StaticPool, make_url
from sqlalchemy.exc import ArgumentError

from .._config.reading import mapping_of
from ..errors import SetupError

_DEFAULTS: Mapping[str, Callable[[], Any]] = {
    "SQLALCHEMY_DATABASE_URI": lambda: None,
    "SQLALCHEMY_ENGINE_OPTIONS": dict,
    "SQLALCHEMY_ECHO": lambda: False,
    "SQLALCHEMY_BINDS": dict,
    "SQLALCHEMY_RECORD_QUERIES": lambda: False,
    "SQLALCHEMY_TRACK_MODIFICATIONS": lambda: False,
    # Ours, where the default would change what the app does.
    "UOW_COMMIT": lambda: "explicit",
    "UOW_SQLITE_FOREIGN_KEYS": lambda: False,
}


def set_defaults(config: Config) -> None:
    """Write the defaults into *config*, where code of the app may look for them."""
    for key, default in _DEFAULTS.items():
        config.setdefault(key, default())


def with_engines(config: Config, engine_options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of *config* in which each engine has all of its options.

    :param engine_options: for all engines.
    :raises SetupError: no engine is configured.
    :raises ConfigError: a value that must be a dict is none.
    """
    binds = {
        key: {**engine_options, **(value if isinstance(value, Mapping) else {"url": value})}
        for key, value in mapping_of(config, "SQLALCHEMY_BINDS").items()
    }
    default = {**engine_options, **mapping_of(config, "SQLALCHEMY_ENGINE_OPTIONS")}
    if config["SQLALCHEMY_DATABASE_URI"] is not None:
        default["url"] = config["SQLALCHEMY_DATABASE_URI"]
    default = {**binds.pop(None, {}), **(default if "url" in default else {})}
    if not (default or binds):
        raise SetupError(
            "No database is configured for this app. Set SQLALCHEMY_DATABASE_URI or"
            " SQLALCHEMY_BINDS in 'app.config' before 'db.init_app(app)': the engines are created"
            " there, as in Flask-SQLAlchemy."
        )
    if config["SQLALCHEMY_ECHO"]:
        for options in (default, *binds.values()):
            options.setdefault("echo", config["SQLALCHEMY_ECHO"])
            options.setdefault("echo_pool", config["SQLALCHEMY_ECHO"])
    return {
        **config,
        "SQLALCHEMY_DATABASE_URI": _as_there(default) if default else None,
        "SQLALCHEMY_BINDS": {key: _as_there(options) for key, options in binds.items()},
        "SQLALCHEMY_ENGINES": {},  # not a key of Flask-SQLAlchemy
        "SQLALCHEMY_ENGINE_OPTIONS": {},
        "SQLALCHEMY_ECHO": False,
        "SQLALCHEMY_RECORD_QUERIES": bool(config["SQLALCHEMY_RECORD_QUERIES"]),
        "SQLALCHEMY_TRACK_MODIFICATIONS": False,  # it is read before
    }


_NUMBERS = ("pool_size", "max_overflow", "pool_recycle", "pool_timeout")


def _as_there(options: dict[str, Any]) -> dict[str, Any]:
    """Return *options* with what Flask-SQLAlchemy adds and converts."""
    converted = dict(options)
    for name in _NUMBERS:  # which may come from the environment
        value = converted.get(name)
        if isinstance(value, str) and value.lstrip("-").isdecimal():
            converted[name] = int(value)
    url = _url(converted.get("url"))
    if url is None:
        return converted
    if url.drivername in {"sqlite", "sqlite+pysqlite"} and url.database in {None, "", ":memory:"}:
        # One connection for all: a test may write in its context and drop its tables beside that.
        connect_args = {"check_same_thread": False, **(converted.get("connect_args") or {})}
        converted = {"poolclass": StaticPool, **converted, "connect_args": connect_args}
    elif url.drivername.startswith("mysql") and "charset" not in url.query:
        converted["url"] = url.update_query_dict({"charset": "utf8mb4"})
    return converted


def _url(value: object) -> URL | None:
    try:
        return make_url(value) if isinstance(value, (str, URL)) else None
    except ArgumentError:
        return None  # the reader of the settings says what is wrong
