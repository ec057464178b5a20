"""Does the ledger agree with itself?"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import func, select

from .database import db
from .models import Account, Posting, Transfer
from .money import show


def differences() -> list[str]:
    """What is wrong, a sentence each; an empty list is a ledger to trust."""
    return [*_wrong_transfers(), *_wrong_balances()]


def transfers() -> int:
    """How many transfers were looked at."""
    return db.session.scalars(select(func.count(Transfer.id))).one()


def _wrong_transfers() -> Iterator[str]:
    """Each transfer has two postings, and they sum to zero."""
    total = func.coalesce(func.sum(Posting.amount), 0)
    number = func.count(Posting.id)
    statement = (
        select(Transfer.id, number, total)
        .join(Transfer.postings, isouter=True)
        .group_by(Transfer.id)
        .having((total != 0) | (number != 2))
        .order_by(Transfer.id)
    )
    for transfer_id, found, amount in db.session.execute(statement):
        yield f"Transfer {transfer_id}: {found} postings, which sum to {show(int(amount))}."


def _wrong_balances() -> Iterator[str]:
    """Each balance is the sum of the postings of its account."""
    total = func.coalesce(func.sum(Posting.amount), 0)
    statement = (
        select(Account.id, Account.name, Account.balance, total)
        .join(Posting, isouter=True)
        .group_by(Account.id, Account.name, Account.balance)
        .having(Account.balance != total)
        .order_by(Account.id)
    )
    for account_id, name, balance, amount in db.session.execute(statement):
        yield (
            f'Account {account_id} "{name}": the balance is {show(balance)},'
            f" the postings sum to {show(int(amount))}."
        )
