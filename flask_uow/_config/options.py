"""Options of one unit of work: ``@db.unit(...)``, ``db.atomic(...)`` and ``UOW_COMMIT``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, cast

from sqlalchemy.dialects import registry
from sqlalchemy.exc import NoSuchModuleError

from .._drivers.known import DIALECTS
from ..errors import ConfigError, shown
from .checks import Check, did_you_mean

CommitRule = Union[Literal["on_success", "always", "explicit"], Callable[[Any], bool]]
"""When a request commits automatically:

- ``"on_success"``: if the status of its response is below 400; else it is rolled back.
- ``"always"``: with any status, unless an exception leaves the view.
- ``"explicit"``: never; the view calls ``db.session.commit()``.
- a function: it receives the response and returns whether to commit.
"""

_RULES = ("on_success", "always", "explicit")

IsolationLevel = Union[str, Mapping[str, str]]
"""A level for every database, or by dialect: ``{"postgresql": "SERIALIZABLE"}``."""

LevelOption = Union[str, frozenset[tuple[str, str]], None]
"""The same as a value that can be hashed; None for the default of each database."""


@dataclass(frozen=True)
class UnitOptions:
    """The options of a view for its unit; None means the setting of the app.

    :ivar commit: see :data:`CommitRule`.
    :ivar isolation_level: of its transactions, as :func:`level_option` returns it.
    :ivar read_only: statements that write are refused.
    :ivar retries: how often the view is run again after a conflict.
    """

    commit: CommitRule | None = None
    isolation_level: LevelOption = None
    read_only: bool = False
    retries: int = 0

    @property
    def of_transaction(self) -> bool:
        """Whether an option has to be set when the engine begins the transaction."""
        return self.isolation_level is not None or self.read_only

    def level_on(self, dialect: str) -> str | None:
        """The isolation level on databases of *dialect*; None for their default."""
        level = self.isolation_level
        return dict(level).get(dialect) if isinstance(level, frozenset) else level


NO_OPTIONS = UnitOptions()
"""The options of a view without ``@db.unit``."""


def commit_rule(value: object, where: str) -> CommitRule:
    """Check a commit rule.

    :param where: the place of the value in the code or in ``app.config``, for the message.
    :raises ConfigError: *value* is not a commit rule; the message suggests the nearest one.
    """
    if callable(value) or value in _RULES:
        return cast(CommitRule, value)
    raise ConfigError(
        f"{where} is {shown(value)}, which is not a commit rule."
        f"{did_you_mean(str(value).lower().replace('-', '_'), _RULES)}"
        f" It must be {', '.join(map(repr, _RULES))} or a function that receives the response"
        " and returns True to commit."
    )


def level_option(value: object, where: str) -> LevelOption:
    """Check an isolation level, and return it as a value that can be hashed.

    Whether a database has the level is checked when its engine is first used.

    :param where: the place of the value in the code, for the message.
    :raises ConfigError: *value* is neither a text nor a mapping of dialects to texts.
    """
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{where} is {shown(value)}, but it must be a level, such as 'SERIALIZABLE', or a dict"
            " of levels by dialect: {'postgresql': 'SERIALIZABLE'}."
        )
    for dialect, level in value.items():
        if not _is_dialect(dialect):
            raise ConfigError(
                f"{where} has a level for {shown(dialect)}, which is not a dialect of SQLAlchemy."
                f"{did_you_mean(str(dialect).partition('+')[0].lower(), DIALECTS)} Write the name"
                " as in 'db.engine.dialect.name'."
            )
        if not isinstance(level, str):
            raise ConfigError(
                f"{where} is {shown(level)} for {dialect!r}, but it must be a level, such as"
                " 'SERIALIZABLE'. For the default of a database, leave its dialect out."
            )
    return frozenset(value.items())


def _is_dialect(name: object) -> bool:
    """Tell whether an engine of SQLAlchemy, or of an installed package, can have this dialect."""
    if name in DIALECTS:
        return True
    try:  # the name in a URL may be another one: 'db2' is 'ibm_db_sa'
        return isinstance(name, str) and getattr(registry.load(name), "name", name) == name
    except NoSuchModuleError:
        return False


retries_option = Check(
    lambda value: type(value) is int and 0 <= value <= 100,  # not True, which is an int
    "a whole number from 0 to 100: how often the work is run again after its first attempt",
)
"""Checks a number of retries."""
