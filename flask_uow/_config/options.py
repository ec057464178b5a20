"""How one unit runs: the values of ``@db.unit(...)``, ``db.atomic(...)`` and ``UOW_COMMIT``."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Union, cast

from ..errors import ConfigError, shown

CommitRule = Union[Literal["on_success", "always", "explicit"], Callable[[Any], bool]]
"""When a request commits by itself:

- ``"on_success"``: when its response is below 400, else it is rolled back.
- ``"always"``: whatever the status, unless an exception left the view.
- ``"explicit"``: never; the view calls ``db.session.commit()``.
- a callable: it gets the response and returns whether to commit.
"""

_RULES = ("on_success", "always", "explicit")


@dataclass(frozen=True)
class UnitOptions:
    """What a view asks for its own unit; None leaves the app's setting.

    :ivar commit: see :data:`CommitRule`.
    :ivar isolation_level: of its transactions, as SQLAlchemy writes it: ``"SERIALIZABLE"``.
    :ivar read_only: what writes is refused.
    :ivar retries: how often it is run again after a conflict.
    """

    commit: CommitRule | None = None
    isolation_level: str | None = None
    read_only: bool = False
    retries: int = 0

    @property
    def of_transaction(self) -> bool:
        """Is anything wanted of the transaction itself, so of the engine that begins it?"""
        return self.isolation_level is not None or self.read_only


NO_OPTIONS = UnitOptions()
"""What a view without ``@db.unit`` wants."""


def commit_rule(value: object, where: str) -> CommitRule:
    """Check a commit rule.

    :param where: how the user wrote it, for the message.
    :raises ConfigError: it is no rule; the message names the nearest one.
    """
    if callable(value) or value in _RULES:
        return cast(CommitRule, value)
    near = difflib.get_close_matches(str(value).lower().replace("-", "_"), _RULES, n=1)
    raise ConfigError(
        f"{where} is {shown(value)}, which is no rule for when to commit."
        f"{f' Did you mean {near[0]!r}?' if near else ''}"
        f" It can be {', '.join(map(repr, _RULES))} or a function that gets the response and"
        " returns True to commit."
    )


def retries_option(retries: object, where: str) -> int:
    """
    :raises ConfigError: *retries* is no sensible number of repetitions.
    """
    if isinstance(retries, bool) or not isinstance(retries, int) or not 0 <= retries <= 100:
        raise ConfigError(
            f"{where} is {shown(retries)}, and it must be a whole number from 0 to 100: how often"
            " the work is run again after its first attempt."
        )
    return retries
