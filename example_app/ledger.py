"""The rules of the ledger: how accounts are opened and money is moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NoReturn, cast

from sqlalchemy import CursorResult, select, update

from . import fields, money
from .database import db
from .errors import Refused
from .models import Account, Posting, Transfer


@dataclass(frozen=True)
class Order:
    """A transfer to be made.

    :ivar source: the id of the account that gives.
    :ivar target: the id of the account that gets.
    :ivar amount: in cents, more than zero.
    :ivar at: when it happened, in UTC; now, if left out.
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
    """All accounts by name."""
    return list(db.session.scalars(select(Account).order_by(Account.name)))


def account(account_id: int) -> Account:
    """One account.

    :raises Refused: it does not exist.
    """
    found = db.session.get(Account, account_id) if fields.is_possible_id(account_id) else None
    return found or _unknown(account_id)


def open_account(name: object, *, may_overdraw: bool = False) -> Account:
    """Open an account. That its name is new is for the database to say, when it is stored.

    :raises Refused: the name is empty, too long or not text.
    """
    opened = Account(
        name=fields.text(name, "name", longest=80), may_overdraw=may_overdraw, balance=0
    )
    db.session.add(opened)
    return opened


def order(source: object, target: object, amount: object, memo: object) -> Order:
    """What a person or a program asks for, if it can be understood.

    :raises Refused: something is missing or is not what it should be.
    """
    return Order(
        fields.account_id(source, "account that gives"),
        fields.account_id(target, "account that gets"),
        money.read(amount),
        fields.text(memo, "memo", longest=200, required=False),
    )


def transfer(orders: Iterable[Order]) -> list[Transfer]:
    """Carry out *orders*.

    The accounts are changed first, in the order of their ids: whoever else moves the same money
    waits here, and two transfers never wait for each other. A balance is changed by the
    database, relative to what it is then, so no change is lost. A constraint refuses overdrafts.

    :raises Refused: an account does not exist.
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
    """All accounts, which nobody else can change until this unit of work ends.

    SQLite has no such lock; there, only the constraints guard the balances.
    """
    statement = select(Account).order_by(Account.id).with_for_update()
    return list(db.session.scalars(statement))


def _record(order: Order) -> Transfer:
    recorded = Transfer(memo=order.memo, at=order.at)
    recorded.postings = [
        Posting(account_id=order.source, amount=-order.amount),
        Posting(account_id=order.target, amount=order.amount),
    ]
    return recorded


def _change_balance(account_id: int, change: int) -> None:
    if not fields.is_possible_id(account_id):
        _unknown(account_id)
    statement = (
        update(Account).where(Account.id == account_id).values(balance=Account.balance + change)
    )
    if cast("CursorResult[Any]", db.session.execute(statement)).rowcount == 0:
        _unknown(account_id)


def _unknown(account_id: int) -> NoReturn:
    raise Refused(f"There is no account {account_id}.", 404)
