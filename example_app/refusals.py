"""What the ledger refuses to do, and why.

Nothing here knows HTTP: ``errors.py`` turns these errors into responses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flask_uow.errors import constraint_of


class Refused(Exception):
    """The ledger does not do what was asked.

    :param message: one sentence for the person or the program that asked.
    :param line: the line of the imported file that is to blame, if there is one.
    :param field: the name of the field that is to blame; :func:`about` adds it.
    """

    def __init__(self, message: str, *, line: int | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.field = field


class UnknownAccount(Refused):
    """The account that was asked for does not exist."""

    def __init__(self, account_id: int) -> None:
        super().__init__(f"There is no account {account_id}.")


# The sentence for each constraint, and the field that is to blame.
_CONSTRAINTS = {
    "ck_accounts_no_overdraft": ("There is not enough money in the account.", "amount"),
    "ck_accounts_within_bounds": ("The account cannot hold that much.", "amount"),
    "uq_accounts_name": ("There is an account with this name already.", "name"),
}


def by_constraint(error: Exception) -> Refused | None:
    """Return the refusal that a violated constraint stands for, or None for any other error."""
    found = _CONSTRAINTS.get(constraint_of(error) or "")
    return None if found is None else Refused(found[0], field=found[1])


@contextmanager
def about(field: str) -> Iterator[None]:
    """Add the name of the field to a refusal."""
    try:
        yield
    except Refused as refused:
        refused.field = field
        raise
