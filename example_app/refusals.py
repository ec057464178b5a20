"""What the ledger refuses to do, and why.

Nothing here knows HTTP: ``errors.py`` turns these errors into responses.
"""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError


class Refused(Exception):
    """The ledger does not do what was asked.

    :param message: one sentence for the person or the program that asked.
    :param line: the line of the imported file that is to blame, if there is one.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


class UnknownAccount(Refused):
    """The account that was asked for does not exist."""

    def __init__(self, account_id: int) -> None:
        super().__init__(f"There is no account {account_id}.")


# The name of a constraint (SQLite reports a column instead), and the sentence for it.
_CONSTRAINTS = {
    "ck_accounts_no_overdraft": "There is not enough money in the account.",
    "ck_accounts_within_bounds": "The account cannot hold that much.",
    "uq_accounts_name": "There is an account with this name already.",
    "accounts.name": "There is an account with this name already.",
}


def reason(error: DBAPIError) -> str | None:
    """Return the sentence for a violated constraint, or None for any other error.

    MariaDB reports a violated CHECK as an ``OperationalError``, not as an ``IntegrityError``.
    """
    text = str(error.orig)
    return next((sentence for name, sentence in _CONSTRAINTS.items() if name in text), None)
