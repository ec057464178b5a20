"""Check that transfers, postings and balances agree."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import func, select

from .database import db
from .models import Account, Posting, Transfer
from .money import show


def differences() -> list[str]:
    """Return one sentence for each inconsistency; an empty list means that the ledger is right."""
    return [*_wrong_transfers(), *_wrong_balances()]


def transfers() -> int:
    """Return the number of transfers, all of which are checked."""
    return db.session.scalars(select(func.count(Transfer.id))).one()


def _wrong_transfers() -> Iterator[str]:
    """Yield a sentence for each transfer that is not two postings that sum to zero."""
    total = func.coalesce(func.sum(Posting.amount), 0)
    count = func.count(Posting.id)
    statement = (
        select(Transfer.id, count, total)
        .join(Transfer.postings, isouter=True)
        .group_by(Transfer.id)
        .having((total != 0) | (count != 2))
        .order_by(Transfer.id)
    )
    for transfer_id, postings, amount in db.session.execute(statement):
        yield f"Transfer {transfer_id}: {postings} postings, which sum to {show(int(amount))}."


def _wrong_balances() -> Iterator[str]:
    """Yield a sentence for each balance that is not the sum of the postings of its account."""
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
