"""The statement of an account, and the list of all transfers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, cast, func, select
from sqlalchemy.orm import aliased, joinedload, selectinload

from flask_uow import KeyPage

from .database import db
from .models import Account, Posting, Transfer

_TRANSFERS = select(Transfer).options(selectinload(Transfer.postings)).order_by(Transfer.id.desc())


@dataclass(frozen=True)
class Line:
    """One posting as the statement of its account shows it.

    :ivar other: the name of the account on the other side of the transfer.
    :ivar balance: the balance of the account after this posting.
    """

    transfer_id: int
    at: datetime
    memo: str
    other: str
    amount: int
    balance: int


@dataclass(frozen=True)
class Page:
    """One page of a statement.

    :ivar keys: the page by key; it has the links to the other pages.
    """

    lines: list[Line]
    keys: KeyPage[Posting]


def page(account_id: int) -> Page:
    """Return the page of a statement that the request asks for, newest postings first."""
    other = joinedload(Posting.transfer).selectinload(Transfer.postings).joinedload(Posting.account)
    postings = select(Posting).where(Posting.account_id == account_id).options(other)
    keys = db.paginate_by_key(postings.order_by(Posting.id.desc()))
    return Page(list(_with_balances(keys.items)), keys)


def lines(account_id: int) -> Iterator[Line]:
    """Yield all lines of the statement of an account, oldest first, read as they are needed.

    Closing this generator before its end closes the cursor on the server, too.
    """
    query = _lines(account_id).order_by(Posting.id).execution_options(yield_per=500)
    with db.session.execute(query) as rows:
        for row in rows:
            yield Line(*row)


def transfers() -> KeyPage[Transfer]:
    """Return the page of all transfers that the request asks for, newest first."""
    return db.paginate_by_key(_TRANSFERS)


def latest(size: int) -> list[Transfer]:
    """Return the latest transfers, newest first, with their postings."""
    return list(db.session.scalars(_TRANSFERS.limit(size)))


def _with_balances(postings: list[Posting]) -> Iterator[Line]:
    """Yield the lines for *postings* of one account, which are sorted from new to old."""
    balance = _balance_after(postings[0]) if postings else 0
    for posting in postings:
        transfer = posting.transfer
        (other,) = (one.account.name for one in transfer.postings if one is not posting)
        yield Line(transfer.id, transfer.at, transfer.memo, other, posting.amount, balance)
        balance -= posting.amount


def _balance_after(posting: Posting) -> int:
    """Return the balance of an account after *posting*: without the sum of the later ones."""
    later = select(func.coalesce(func.sum(Posting.amount), 0)).where(
        Posting.account_id == posting.account_id, Posting.id > posting.id
    )
    # One statement, so that a transfer that is stored meanwhile counts in both numbers or in none.
    # PostgreSQL and MariaDB return sums as decimals.
    balance = cast(Account.balance - later.scalar_subquery(), BigInteger)
    return db.session.scalars(select(balance).where(Account.id == posting.account_id)).one()


# A Select of six columns, which SQLAlchemy 2.0 and 2.1 type differently.
def _lines(account_id: int) -> Any:
    other = aliased(Posting)
    so_far = func.sum(Posting.amount).over(order_by=Posting.id)
    return (
        select(
            Transfer.id,
            Transfer.at,
            Transfer.memo,
            Account.name,
            Posting.amount,
            cast(so_far, BigInteger),  # PostgreSQL and MariaDB return sums as decimals
        )
        .select_from(Posting)
        .join(Posting.transfer)
        .join(other, (other.transfer_id == Transfer.id) & (other.id != Posting.id))
        .join(other.account)
        .where(Posting.account_id == account_id)
    )
