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

from flask import g

from . import ledger, money, receipts
from .database import db
from .models import Transfer

RETRIES = 8
"""For the views that call :func:`pay`. Three are enough where conflicts are rare; the test moves
money between three accounts in eight threads."""


def pay(form: Mapping[str, Any]) -> Transfer:
    """Carry out the transfer that *form* asks for, and promise a receipt.

    What cannot be undone waits for the commit, because a view that is run again calls this again.

    :raises Refused: a field is missing or wrong, or an account does not exist.
    :raises IntegrityError: see :func:`ledger.transfer`.
    """
    _make_serializable()
    order = ledger.order(form.get("from"), form.get("to"), form.get("amount"), form.get("memo"))
    g.description = (
        f"Transfer of {money.show(order.amount)} from account {order.source} to {order.target}"
    )
    (transfer,) = ledger.transfer([order])
    receipts.send_later(transfer)
    return transfer


def _make_serializable() -> None:
    """Begin the transaction at the level that its database needs, before the first statement.

    ``@db.unit(isolation_level=...)`` above the view is shorter if one level suits every database.
    """
    if db.engine.dialect.name == "postgresql":
        db.session.connection(execution_options={"isolation_level": "SERIALIZABLE"})
