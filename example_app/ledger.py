"""The rules of the ledger: how accounts are opened, and how money is moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from sqlalchemy import CursorResult, insert, select, update
from sqlalchemy.orm import Session

from . import fields, money
from .database import Base, db
from .models import Account, Posting, Transfer, now
from .refusals import Refused, UnknownAccount, about

_AT_ONCE = 1000

# The tables, because an INSERT of a model prepares each row once more: it takes half as long again.
_TRANSFERS = Base.metadata.tables[Transfer.__tablename__]
_POSTINGS = Base.metadata.tables[Posting.__tablename__]


@dataclass(frozen=True)
class PaymentOrder:
    """A transfer to be carried out.

    :ivar source: the id of the account that pays.
    :ivar target: the id of the account that receives.
    :ivar amount: in cents, more than zero.
    :ivar at: the time of the transfer, in UTC.
    """

    source: int
    target: int
    amount: int
    memo: str = ""
    at: datetime = field(default_factory=now, kw_only=True)

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
    with about("from"):
        source_id = fields.account_id(source, "source account")
    with about("to"):
        target_id = fields.account_id(target, "target account")
    with about("amount"):
        cents = money.read(amount)
    with about("memo"):
        line = fields.text(memo, "memo", longest=200, required=False)
    with about("to"):  # both accounts are the same
        return PaymentOrder(source_id, target_id, cents, line)


def describe_opening(name: str) -> str:
    """Return a phrase for people."""
    return f'Opening of the account "{name}"'


def describe(order: PaymentOrder) -> str:
    """Return *order* as a phrase for people, with the names of its accounts."""
    numbers = order.source, order.target
    accounts = db.session.scalars(select(Account).where(Account.id.in_(numbers)))
    names = {account.id: f'"{account.name}"' for account in accounts}
    source, target = (names.get(number, f"account {number}") for number in numbers)
    return f"Transfer of {money.show(order.amount)} from {source} to {target}"


def transfer(order: PaymentOrder) -> Transfer:
    """Carry out one *order*.

    The balances are changed first, in the order of the account ids: a concurrent transfer
    between the same accounts waits here, and two transfers cannot deadlock. The database adds each
    change to the current balance, so no change is lost. A constraint refuses overdrafts.

    :raises UnknownAccount: an account does not exist.
    :raises IntegrityError: an account would be overdrawn (on MariaDB an ``OperationalError``).
    """
    _change_balances(db.session(), [order])
    transfer = Transfer(memo=order.memo, at=order.at)
    transfer.postings = [
        Posting(account_id=order.source, amount=-order.amount),
        Posting(account_id=order.target, amount=order.amount),
    ]
    db.session.add(transfer)
    db.session.flush()
    return transfer


def transfer_all(session: Session, orders: Sequence[PaymentOrder]) -> None:
    """Carry out many *orders* as :func:`transfer` does, in bulk: a few statements for a thousand.

    The constraints see the balances after the last order, not those in between.
    """
    _change_balances(session, orders)
    for start in range(0, len(orders), _AT_ONCE):
        _insert(session, orders[start : start + _AT_ONCE])


def _insert(session: Session, orders: Sequence[PaymentOrder]) -> None:
    ids = session.scalars(
        insert(_TRANSFERS).returning(_TRANSFERS.c.id, sort_by_parameter_order=True),
        [{"memo": order.memo, "at": order.at} for order in orders],
    )
    session.execute(
        insert(_POSTINGS),
        [
            {"transfer_id": transfer_id, "account_id": account_id, "amount": amount}
            for transfer_id, order in zip(ids, orders, strict=True)
            for account_id, amount in (
                (order.source, -order.amount),
                (order.target, order.amount),
            )
        ],
    )


def _change_balances(session: Session, orders: Iterable[PaymentOrder]) -> None:
    changes: Counter[int] = Counter()
    for order in orders:
        changes[order.source] -= order.amount
        changes[order.target] += order.amount
    for account_id, change in sorted(changes.items()):
        _change_balance(session, account_id, change)


def _change_balance(session: Session, account_id: int, change: int) -> None:
    if not fields.is_possible_id(account_id):
        raise UnknownAccount(account_id)
    statement = (
        update(Account).where(Account.id == account_id).values(balance=Account.balance + change)
    )
    if cast("CursorResult[Any]", session.execute(statement)).rowcount == 0:
        raise UnknownAccount(account_id)
