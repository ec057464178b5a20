"""A single transfer, as a person or a program asks for it: the order, the refusal, the receipt.

How the views that use it run depends on the database:

- PostgreSQL: SERIALIZABLE. What a transfer has read is still so when it commits, so a rule that
  first looks and then writes (a limit for each day, say) holds although others do the same at this
  moment. Nobody waits for a mere read; instead, of two transfers in each other's way one fails at
  a statement or at its COMMIT, is rolled back and is run again. Three retries are enough where
  that is rare; eight threads on three accounts (the test) need some more. What cannot be taken
  back must wait for the commit: the receipt.
- MariaDB: its own default. It knows SERIALIZABLE, but makes every SELECT lock what it reads until
  the end of the transaction, also that of a receipt or of the page for a refusal. Two that have
  read a row and then both want to change it are a deadlock. Here the constraints and the order of
  the ids are enough; the retries are for deadlocks with other programs.
- SQLite: has no other level, and one writer at a time. Nothing is ever run again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Flask, g
from sqlalchemy import make_url

from . import ledger, money, receipts
from .database import db
from .models import Transfer


def init_app(app: Flask) -> None:
    """Say how the views run. Here, and not above each 'def', because here the database is known."""
    backend = make_url(app.config["SQLALCHEMY_DATABASE_URI"]).get_backend_name()
    level = "SERIALIZABLE" if backend == "postgresql" else None
    as_payment = db.unit(isolation_level=level, retries=8)
    for endpoint in ("pages.transfer", "api.transfer"):
        app.view_functions[endpoint] = as_payment(app.view_functions[endpoint])


def pay(form: Mapping[str, Any]) -> Transfer:
    """Carry out what *form* asks for, and promise a receipt.

    :raises Refused: it cannot be understood, or an account does not exist.
    :raises IntegrityError: as :func:`ledger.transfer`.
    """
    order = ledger.order(form.get("from"), form.get("to"), form.get("amount"), form.get("memo"))
    g.attempt = (
        f"Transfer of {money.show(order.amount)} from account {order.source} to {order.target}"
    )
    (made,) = ledger.transfer([order])
    receipts.promise(made)
    return made
