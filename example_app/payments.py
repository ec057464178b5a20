"""A single transfer, requested by a form or the API: the order, the refusal, the receipt.

The isolation level depends on the database:

- PostgreSQL: SERIALIZABLE. What a transfer has read is still true when it commits, so a rule that
  reads before it writes (a daily limit, say) also holds when other transfers run at the same time.
  Reading blocks no other transaction. Instead, one of two conflicting transfers fails, at a
  statement or at its COMMIT, and is rolled back; its view runs again (``RETRIES``).
- MariaDB: its default, REPEATABLE READ. Its SERIALIZABLE locks every row that a SELECT reads until
  the transaction ends, so two transfers that both read a row before they change it would deadlock.
  Here the constraints and the order of the ids are enough; retries are for deadlocks with other
  programs.
- SQLite: always SERIALIZABLE, with one writer at a time, so nothing has to be retried.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import journal, ledger, receipts
from .models import Transfer

LEVEL = {"postgresql": "SERIALIZABLE"}
"""For the views that call :func:`pay`: ``@db.unit(isolation_level=payments.LEVEL, ...)``."""

RETRIES = 8
"""For the same views. Three are enough where conflicts are rare; the test moves money between three
accounts in eight threads."""


def pay(form: Mapping[str, Any]) -> Transfer:
    """Carry out the transfer that *form* asks for, and promise a receipt.

    What cannot be undone waits for the commit, because a view that is run again calls this again.

    :raises Refused: a field is missing or wrong, or an account does not exist.
    :raises IntegrityError: see :func:`ledger.transfer`.
    """
    order = ledger.order(form.get("from"), form.get("to"), form.get("amount"), form.get("memo"))
    journal.announce(ledger.describe, order)
    transfer = ledger.transfer(order)
    receipts.send_later(transfer)
    return transfer
