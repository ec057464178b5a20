"""What each key of ``app.config`` may be: a test of its value, and the same in words."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
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
            raise ConfigError(f"{where} is {shown(value)}, and it must be {self.words}.")
        return value


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Return a question that suggests the name in *known* most like *word*; empty if none is."""
    near = difflib.get_close_matches(str(word), list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _is_seconds(value: Any, limit: float = float("inf")) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and 0 <= value <= limit  # false for nan as well


def _one_of(*choices: str, why: str = "") -> Check:
    words = f"{', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}{why}"
    return Check(lambda value: value in choices, words)


def _are_names(value: object) -> bool:
    if not isinstance(value, (list, tuple)):
        return value is None
    names = [name or DEFAULT for name in value if name is None or isinstance(name, str)]
    return len(set(names)) == len(value) > 0


_SWITCH = Check(lambda value: isinstance(value, bool), "True or False")
_SECONDS = Check(_is_seconds, "a number of seconds, 0 or more")
_SECONDS_OR_NEVER = Check(
    lambda value: value is None or _is_seconds(value), f"{_SECONDS.words}, or None for never"
)
_LONGEST_TIMEOUT = 2_000_000  # SQLite counts milliseconds, in 31 bits

CHECKS: Mapping[str, Check] = {
    "UOW_EXPLICIT_COMMIT": _one_of(
        "allow", "flush", "forbid", why=": what 'db.session.commit()' does during a request"
    ),
    "UOW_RETRY_PAUSE": _SECONDS,
    "UOW_LIVENESS": _SWITCH,
    "UOW_PING_IDLE": _SECONDS,
    "UOW_RECYCLE": _SECONDS_OR_NEVER,
    "UOW_NETWORK_TIMEOUT": _SECONDS_OR_NEVER,
    "UOW_HOLD_WARNING": _SECONDS_OR_NEVER,
    "UOW_SQLITE_JOURNAL_MODE": _one_of(
        *("wal", "delete", "truncate", "persist"),
        why=". Without a journal on disk, an interrupted transaction cannot be undone",
    ),
    "UOW_SQLITE_SYNCHRONOUS": _one_of("off", "normal", "full", "extra"),
    "UOW_SQLITE_FOREIGN_KEYS": _SWITCH,
    "UOW_SQLITE_BUSY_TIMEOUT": Check(
        lambda value: _is_seconds(value, _LONGEST_TIMEOUT),
        f"{_SECONDS.words}, and not more than {_LONGEST_TIMEOUT} (23 days)",
    ),
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
