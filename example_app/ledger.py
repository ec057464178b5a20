"""The rules of the ledger: how accounts are opened, and how money is moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from sqlalchemy import CursorResult, select, update

from . import fields, money
from .database import db
from .models import Account, Posting, Transfer
from .refusals import Refused, UnknownAccount


@dataclass(frozen=True)
class PaymentOrder:
    """A transfer to be carried out.

    :ivar source: the id of the account that pays.
    :ivar target: the id of the account that receives.
    :ivar amount: in cents, more than zero.
    :ivar at: the time of the transfer, in UTC; None means now.
    """

    source: int
    target: int
    amount: int
    memo: str = ""
    at: datetime | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.source == self.target:
            raise Refused("The two accounts of a transfer must be different.")


def accounts() -> list[Account]:
    """Return all accounts, sorted by name."""
    return list(db.session.scalars(select(Account).order_by(Account.name)))


def account(account_id: int) -> Account:
    """Return one account.

    :raises UnknownAccount: the account does not exist.
    """
    account = db.session.get(Account, account_id) if fields.is_possible_id(account_id) else None
    if account is None:
        raise UnknownAccount(account_id)
    return account


def open_account(name: object, *, may_overdraw: bool = False) -> Account:
    """Open an account. The database refuses a name that exists, when the account is flushed.

    :raises Refused: the name is missing, too long or not one line of text.
    """
    account = Account(
        name=fields.text(name, "name", longest=80), may_overdraw=may_overdraw, balance=0
    )
    db.session.add(account)
    return account


def order(source: object, target: object, amount: object, memo: object) -> PaymentOrder:
    """Check the fields of a form or of a JSON body, and return the transfer that they ask for.

    :raises Refused: a field is missing or wrong, or both accounts are the same.
    """
    return PaymentOrder(
        fields.account_id(source, "source account"),
        fields.account_id(target, "target account"),
        money.read(amount),
        fields.text(memo, "memo", longest=200, required=False),
    )


def transfer(orders: Iterable[PaymentOrder]) -> list[Transfer]:
    """Carry out *orders*.

    The balances are changed first, in the order of the account ids: a concurrent transfer
    between the same accounts waits here, and two transfers cannot deadlock. The database adds each
    change to the current balance, so no change is lost. A constraint refuses overdrafts.

    :raises UnknownAccount: an account does not exist.
    :raises IntegrityError: an account would be overdrawn (on MariaDB an ``OperationalError``).
    """
    changes: Counter[int] = Counter()
    transfers = []
    for order in orders:
        changes[order.source] -= order.amount
        changes[order.target] += order.amount
        transfers.append(_record(order))
    for account_id, change in sorted(changes.items()):
        _change_balance(account_id, change)
    db.session.add_all(transfers)
    db.session.flush()
    return transfers


def lock_accounts() -> list[Account]:
    """Return all accounts, locked against changes by other transactions until this unit ends.

    SQLite has no row locks. There, the unit has the only write lock of the database instead.
    """
    statement = select(Account).order_by(Account.id).with_for_update()
    return list(db.session.scalars(statement))


def _record(order: PaymentOrder) -> Transfer:
    transfer = Transfer(memo=order.memo, at=order.at)
    transfer.postings = [
        Posting(account_id=order.source, amount=-order.amount),
        Posting(account_id=order.target, amount=order.amount),
    ]
    return transfer


def _change_balance(account_id: int, change: int) -> None:
    if not fields.is_possible_id(account_id):
        raise UnknownAccount(account_id)
    statement = (
        update(Account).where(Account.id == account_id).values(balance=Account.balance + change)
    )
    if cast("CursorResult[Any]", db.session.execute(statement)).rowcount == 0:
        raise UnknownAccount(account_id)
