"""What each key of ``app.config`` may be: a test of its value, and the same in words."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from .._transaction.routing import DEFAULT
from ..errors import ConfigError, shown


class Check(NamedTuple):
    """Refuses the values that a setting cannot have.

    :ivar accepts: tells whether a value is possible.
    :ivar words: what the value must be, for the message.
    """

    accepts: Callable[[Any], bool]
    words: str

    def __call__(self, value: Any, where: str) -> Any:
        """Return *value*.

        :param where: the place of the value in the code or in ``app.config``, for the message.
        :raises ConfigError: *value* is not possible.
        """
        if not self.accepts(value):
            raise ConfigError(f"{where} is {shown(value)}, but it must be {self.words}.")
        return value


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Return a question that suggests the name in *known* most like *word*; empty if none is."""
    near = difflib.get_close_matches(str(word), list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _is_number(value: Any, least: float, most: float) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and least <= value <= most  # false for nan as well


def _whole(least: int, most: float = inf, *, words: str) -> Check:
    return Check(lambda value: isinstance(value, int) and _is_number(value, least, most), words)


def _seconds(most: float = inf, *, or_never: bool = False) -> Check:
    words = "a number of seconds, 0 or more"
    if most < inf:
        words += f", and not more than {most} ({timedelta(seconds=most)})"
    return Check(
        lambda value: _is_number(value, 0, most) or (or_never and value is None),
        f"{words}, or None for never" if or_never else words,
    )


def _one_of(*choices: str, why: str = "") -> Check:
    words = f"{', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}{why}"
    return Check(lambda value: value in choices, words)


def _are_names(value: object) -> bool:
    if not isinstance(value, (list, tuple)):
        return value is None
    names = [name or DEFAULT for name in value if name is None or isinstance(name, str)]
    return len(set(names)) == len(value) > 0


_SWITCH = Check(lambda value: isinstance(value, bool), "True or False")
# Seconds. SQLite and some systems count milliseconds in 31 bits; Python's own functions raise
# OverflowError for somewhat longer times.
_LONGEST_WAIT = 2_000_000
_LONGEST_KEEPALIVE = 32_767  # Linux counts the seconds of TCP_KEEPIDLE in 15 bits

CHECKS: Mapping[str, Check] = {
    "UOW_EXPLICIT_COMMIT": _one_of(
        "allow", "flush", "forbid", why=": what 'db.session.commit()' does during a request"
    ),
    "UOW_BEGIN": _one_of(
        "auto",
        "first",
        why=": the transaction of a unit begins with the first statement that needs one, or with"
        " the first statement",
    ),
    "UOW_RETRY_PAUSE": _seconds(_LONGEST_WAIT),
    "SQLALCHEMY_RECORD_QUERIES": _SWITCH,
    "UOW_LIVENESS": _SWITCH,
    "UOW_PING_IDLE": _seconds(),
    "UOW_RECYCLE": _seconds(or_never=True),
    "UOW_NETWORK_TIMEOUT": _seconds(_LONGEST_KEEPALIVE, or_never=True),
    "UOW_HOLD_WARNING": _seconds(or_never=True),
    "UOW_SQLITE_JOURNAL_MODE": _one_of(
        *("wal", "delete", "truncate", "persist"),
        why=". Without a journal on disk, an interrupted transaction cannot be undone",
    ),
    "UOW_SQLITE_SYNCHRONOUS": _one_of("off", "normal", "full", "extra"),
    "UOW_SQLITE_FOREIGN_KEYS": _SWITCH,
    "UOW_SQLITE_BUSY_TIMEOUT": _seconds(_LONGEST_WAIT),
    "UOW_SQLITE_BEGIN": _one_of("auto", "deferred", "immediate"),
    "UOW_SQLITE_QUEUE": _SWITCH,
    "UOW_CLI_GROUP": Check(lambda name: not name or isinstance(name, str), "a name, such as 'db'"),
    "UOW_CHECK_MIGRATIONS": Check(
        lambda value: value in ("warn", "error", False, None),  # a tuple: it may be unhashable
        "'warn', 'error' or False: what the first request does in debug mode if revisions are"
        " pending",
    ),
    "UOW_MIGRATIONS": Check(
        lambda value: isinstance(value, Mapping),
        "the name of a folder, or a dict: {'directory': 'migrations', 'engines': ['default'],"
        " 'include_schemas': True}, where all other keys are options of Alembic's"
        " 'context.configure()'",
    ),
    "UOW_MIGRATIONS['directory']": Check(
        lambda value: isinstance(value, (str, Path)) and value != "",
        "the name of a folder, such as 'migrations'",
    ),
    "UOW_MIGRATIONS['engines']": Check(
        _are_names,
        "a list of names of engines, each only once, such as ['default', 'audit']; all are"
        " migrated if it is left out",
    ),
}
"""By key. The keys of engines and ``UOW_COMMIT`` have checks of their own."""

ENGINE_OPTIONS: Mapping[str, Check] = {
    "pool_size": _whole(0, words="a whole number, 0 or more, where 0 means no limit"),
    "max_overflow": _whole(-1, words="a whole number, 0 or more, or -1, which means no limit"),
    "pool_timeout": _seconds(_LONGEST_WAIT, or_never=True),
    "pool_recycle": Check(
        lambda value: _is_number(value, -inf, inf), "a number of seconds, or -1 for never"
    ),
}
"""Checks by argument of ``create_engine()``, which accepts some values that fail only later."""

check_port = _whole(1, 65_535, words="a number from 1 to 65535")
"""Checks the port of a server."""
