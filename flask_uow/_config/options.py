"""Options of one unit of work: ``@db.unit(...)``, ``db.atomic(...)`` and ``UOW_COMMIT``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Union, cast

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


@dataclass(frozen=True)
class UnitOptions:
    """The options of a view for its unit; None means the setting of the app.

    :ivar commit: see :data:`CommitRule`.
    :ivar isolation_level: of its transactions, as SQLAlchemy spells it: ``"SERIALIZABLE"``.
    :ivar read_only: statements that write are refused.
    :ivar retries: how often the view is run again after a conflict.
    """

    commit: CommitRule | None = None
    isolation_level: str | None = None
    read_only: bool = False
    retries: int = 0

    @property
    def of_transaction(self) -> bool:
        """Whether an option has to be set when the engine begins the transaction."""
        return self.isolation_level is not None or self.read_only


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


retries_option = Check(
    lambda value: type(value) is int and 0 <= value <= 100,  # not True, which is an int
    "a whole number from 0 to 100: how often the work is run again after its first attempt",
)
"""Checks a number of retries."""
