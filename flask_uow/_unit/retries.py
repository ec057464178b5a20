"""Which work is worth running again, after how long a pause (P4's retries).

Nothing here knows Flask or sessions.
"""

from __future__ import annotations

import random
from typing import Any

from .._config.settings import RETRY_PAUSE
from .._drivers import outcomes
from .._drivers.outcomes import Moment, Outcome
from ..errors import TransactionLost

LONGEST_PAUSE = 2.0
"""Seconds: the limit for one pause. After that a request should get an error response."""

_random = random.SystemRandom()  # two workers forked from one process do not get the same numbers


def is_conflict(error: BaseException) -> bool:
    """Whether *error* is a conflict, after which certainly nothing is stored.

    A conflict is a serialization failure, a deadlock or a lock timeout. It may be raised by a
    statement or by COMMIT. After any other error, running again is useless or unsafe.
    """
    if isinstance(error, TransactionLost) and error.__cause__ is not None:
        error = error.__cause__  # the code swallowed the conflict, and met its consequence
    not_applied = outcomes.outcome_of(error, Moment.AT_COMMIT) is Outcome.NOT_APPLIED
    return not_applied and outcomes.is_transient(error)


def pause_before(attempt: int, first: float = RETRY_PAUSE) -> float:
    """Seconds to wait before *attempt*, so that two transactions do not keep conflicting.

    A random time, from half of the limit up to it; the limit doubles with each attempt.

    :param attempt: its number; the first retry is 2.
    :param first: the longest pause before the second attempt.
    """
    longest = min(first * 2.0 ** (attempt - 2), max(first, LONGEST_PAUSE))
    return longest * (0.5 + 0.5 * _random.random())


def note(error: BaseException, attempts: int) -> None:
    """Add the number of attempts to the traceback of *error*."""
    add_note: Any = getattr(error, "add_note", None)  # since Python 3.11
    if add_note is not None:
        add_note(f"flask_uow: this was attempt {attempts}; the ones before met conflicts too")
