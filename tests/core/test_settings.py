"""``app.config`` to settings: what is understood, and the sentence for what is not."""

from __future__ import annotations

import signal
import socket
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import URL

from flask_uow import ConfigError, ConfigNotice
from flask_uow._config.reading import read
from flask_uow._drivers.base import set_tcp_options

URI = {"SQLALCHEMY_DATABASE_URI": "sqlite:///app.db"}


def names(config: dict[str, Any]) -> list[str]:
    return [engine.name for engine in read(config).engines]


def test_the_default_engine_comes_first_then_the_given_order() -> None:
    """The declared order is the order in which engines commit."""
    config = {
        "SQLALCHEMY_BINDS": {"z": "sqlite:///z.db", "a": {"url": "sqlite:///a.db"}},
        **URI,
    }
    assert names(config) == ["default", "z", "a"]


@pytest.mark.parametrize("name", ["default", None])
def test_the_default_engine_can_stand_in_the_dict(name: str | None) -> None:
    """``SQLALCHEMY_ENGINES["default"]`` is the default engine, and so is ``None``."""
    assert names({"SQLALCHEMY_ENGINES": {name: "sqlite://"}}) == ["default"]


def test_a_url_may_be_a_string_an_object_or_parts() -> None:
    """Strings, ``URL`` objects and dicts of URL parts are understood, with options beside."""
    parts = {"drivername": "sqlite", "database": "c.db"}
    config = {
        "SQLALCHEMY_ENGINES": {
            "default": "sqlite:///a.db",
            "b": URL.create("sqlite", database="b.db"),
            "c": {"url": parts, "echo": True},
        }
    }
    engines = read(config).engines
    assert [engine.url.database for engine in engines] == ["a.db", "b.db", "c.db"]
    assert engines[2].options == {"echo": True}


def test_common_options_are_the_ground_for_those_of_an_engine() -> None:
    """``SQLALCHEMY_ENGINE_OPTIONS`` holds for all engines; an engine's own option wins."""
    config = {
        **URI,
        "SQLALCHEMY_BINDS": {"b": {"url": "sqlite:///b.db", "pool_size": 2}},
        "SQLALCHEMY_ENGINE_OPTIONS": {"pool_size": 9, "pool_recycle": 60},
        "SQLALCHEMY_ECHO": True,
    }
    default, b = read(config).engines
    assert default.options == {"pool_size": 9, "pool_recycle": 60, "echo": True}
    assert b.options == {"pool_size": 2, "pool_recycle": 60, "echo": True}


def test_the_config_is_not_written_to() -> None:
    """Reading twice gives the same: the dicts of the config are copied."""
    bind = {"url": "sqlite:///b.db", "echo": True}
    config = {**URI, "SQLALCHEMY_BINDS": {"b": bind}}
    assert read(config) == read(config)
    assert bind == {"url": "sqlite:///b.db", "echo": True}


def test_postgres_is_another_word_for_postgresql() -> None:
    """The scheme that several hosters hand out works."""
    (engine,) = read({"SQLALCHEMY_DATABASE_URI": "postgres://u:p@h/d"}).engines
    assert engine.url.drivername == "postgresql"


def test_no_database_says_which_key_to_set() -> None:
    """Without any engine, the message names the key."""
    with pytest.raises(ConfigError, match="set SQLALCHEMY_DATABASE_URI"):
        read({})


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql:/ada:s3cret@host/app",
        "s3cret",
        "postgresql://ada:s3cret@host:port/app",
        "://ada:s3cret@host",
        "ada:s3cret@host/app",
        " postgresql//:s3cret",
    ],
)
def test_an_unreadable_url_is_refused_without_its_password(uri: str) -> None:
    """The message names the key and the form, never what could be a password."""
    with pytest.raises(ConfigError, match="SQLALCHEMY_DATABASE_URI cannot be read") as caught:
        read({"SQLALCHEMY_DATABASE_URI": uri})
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None  # the cause would print it
    assert "dialect+driver://" in str(caught.value)


def test_a_url_of_another_type_is_refused() -> None:
    """A number is no URL, and the message says which type it found."""
    with pytest.raises(ConfigError, match="a value of type 'int'"):
        read({"SQLALCHEMY_BINDS": {"b": 3}, **URI})


def test_an_engine_that_is_configured_twice_is_refused() -> None:
    """Both keys are named, so that one of them can be dropped."""
    config = {**URI, "SQLALCHEMY_ENGINES": {"default": "sqlite://"}}
    with pytest.raises(ConfigError, match=r"twice.*DATABASE_URI.*ENGINES\['default'\]"):
        read(config)


def test_an_engine_without_url_is_refused() -> None:
    """A dict of options needs the URL beside them."""
    with pytest.raises(ConfigError, match=r"SQLALCHEMY_BINDS\['b'\] has no 'url'"):
        read({**URI, "SQLALCHEMY_BINDS": {"b": {"echo": True}}})


@pytest.mark.parametrize("parts", [{}, {"nonesuch": 1}, {"drivername": 3}])
def test_url_parts_that_make_no_url_are_refused(parts: dict[str, Any]) -> None:
    """They get the sentence of any URL that cannot be read."""
    with pytest.raises(ConfigError, match=r"SQLALCHEMY_BINDS\['b'\] cannot be read"):
        read({**URI, "SQLALCHEMY_BINDS": {"b": {"url": parts}}})


@pytest.mark.parametrize("key", ["SQLALCHEMY_BINDS", "SQLALCHEMY_ENGINE_OPTIONS"])
def test_a_dict_is_asked_for_by_name(key: str) -> None:
    """Where a dict belongs, something else gets a sentence with an example."""
    with pytest.raises(ConfigError, match=f"{key} must be a dict.*'str'"):
        read({**URI, key: "sqlite://"})


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("on_sucess", "Did you mean 'on_success'"),
        ("ALWAYS", "'always'"),
        (True, "is not a commit rule"),
    ],
)
def test_a_misspelt_commit_rule_is_refused(value: object, hint: str) -> None:
    """The message names the key, the value and the nearest rule."""
    with pytest.raises(ConfigError, match=hint) as caught:
        read({**URI, "UOW_COMMIT": value})
    assert "UOW_COMMIT is" in str(caught.value)
    assert "'on_success', 'always', 'explicit'" in str(caught.value)


def test_a_key_of_old_gets_its_successor() -> None:
    """Keys of earlier extensions say what to write instead."""
    with pytest.warns(ConfigNotice, match="SQLALCHEMY_POOL_SIZE has no effect.*'pool_size'"):
        read({**URI, "SQLALCHEMY_POOL_SIZE": 5})
    with pytest.warns(ConfigNotice, match="COMMIT_ON_TEARDOWN has no effect"):
        read({**URI, "SQLALCHEMY_COMMIT_ON_TEARDOWN": True})
    with pytest.warns(ConfigNotice, match="TRACK_MODIFICATIONS has no effect.*flask_uow.compat"):
        read({**URI, "SQLALCHEMY_TRACK_MODIFICATIONS": True})


def test_an_unknown_key_names_the_nearest_real_one() -> None:
    """A typing error in a key does not pass in silence."""
    with pytest.warns(ConfigNotice, match="UOW_COMIT .*Did you mean UOW_COMMIT"):
        read({**URI, "UOW_COMIT": "always"})
    with pytest.warns(ConfigNotice, match="SQLALCHEMY_XYZZY is not a setting.*no effect.$"):
        read({**URI, "SQLALCHEMY_XYZZY": 1})


def test_keys_that_every_tutorial_sets_are_accepted_in_silence() -> None:
    """TRACK_MODIFICATIONS = False is what happens, and RECORD_QUERIES what it says; no notice."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read({**URI, "SQLALCHEMY_TRACK_MODIFICATIONS": False, "SQLALCHEMY_RECORD_QUERIES": True})


# Durations ------------------------------------------------------------------------------------


class Interrupted(Exception):
    """A wait was cut short."""


def interrupt(*_: object) -> None:
    raise Interrupted


def set_keepalive(seconds: int) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
    ):
        set_tcp_options(client.fileno(), seconds)


def open_sqlite(seconds: int) -> None:
    with sqlite3.connect(":memory:", timeout=seconds) as connection:
        assert connection.execute("PRAGMA busy_timeout").fetchone() == (seconds * 1000,)
    connection.close()


def wait_on_condition(seconds: int) -> None:
    with (condition := threading.Condition()):
        condition.wait(seconds)


def cut_short(wait: Callable[[int], object]) -> Callable[[int], None]:
    def begin(seconds: int) -> None:
        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            with pytest.raises(Interrupted):
                wait(seconds)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    return begin


@pytest.mark.parametrize(
    ("key", "longest", "use"),
    [
        ("UOW_NETWORK_TIMEOUT", 32_767, set_keepalive),
        ("UOW_SQLITE_BUSY_TIMEOUT", 2_000_000, open_sqlite),
        ("UOW_SQLITE_BUSY_TIMEOUT", 2_000_000, cut_short(wait_on_condition)),
        ("UOW_RETRY_PAUSE", 2_000_000, cut_short(time.sleep)),
    ],
)
def test_the_longest_duration_works_and_a_longer_one_is_refused(
    key: str, longest: int, use: Callable[[int], None]
) -> None:
    """The function that waits has a limit, and would raise its own error in a request."""
    read({**URI, key: longest})
    use(longest)
    for longer in (longest + 1, longest + 0.5, float("inf"), 10**400):
        with pytest.raises(ConfigError, match=f"{key} is .* not more than {longest} "):
            read({**URI, key: longer})


@pytest.mark.parametrize("key", ["UOW_PING_IDLE", "UOW_RECYCLE", "UOW_HOLD_WARNING"])
def test_a_duration_that_is_only_compared_has_no_limit(key: str) -> None:
    """Infinity is a way to say never."""
    read({**URI, key: float("inf")})
    with pytest.raises(ConfigError, match=f"{key} is nan, but it must be a number of seconds"):
        read({**URI, key: float("nan")})
