"""The statement of an account, and the list of the latest transfers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import BigInteger, Select, cast, func, select
from sqlalchemy.orm import aliased, selectinload

from .database import db
from .models import Account, Posting, Transfer

PAGE_SIZE = 20

Row = TypeVar("Row")


@dataclass(frozen=True)
class Page(Generic[Row]):
    """One page of a longer list.

    :ivar number: the number of this page, from 1.
    :ivar last: the number of the last page.
    """

    rows: list[Row]
    number: int
    last: int


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


def page(account_id: int, number: int) -> Page[Line]:
    """Return one page of the statement of an account, newest postings first."""
    count = select(func.count()).where(Posting.account_id == account_id)
    lines = _lines(account_id).order_by(Posting.id.desc())
    return _page(count, lines, number, Line)


def lines(account_id: int) -> Iterator[Line]:
    """Yield all lines of the statement of an account, oldest first, read as they are needed.

    Closing this generator before its end closes the cursor on the server, too.
    """
    query = _lines(account_id).order_by(Posting.id).execution_options(yield_per=500)
    with db.session.execute(query) as rows:
        for row in rows:
            yield Line(*row)


def latest(number: int = 1, size: int = PAGE_SIZE) -> Page[Transfer]:
    """Return one page of all transfers, newest first, with their postings."""
    transfers = select(Transfer).options(selectinload(Transfer.postings))
    transfers = transfers.order_by(Transfer.id.desc())
    return _page(select(func.count(Transfer.id)), transfers, number, _transfer, size)


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


def _transfer(transfer: Transfer) -> Transfer:
    return transfer


def _page(
    count: Select[Any],
    query: Select[Any],
    number: int,
    make: Callable[..., Row],
    size: int = PAGE_SIZE,
) -> Page[Row]:
    last = max(1, -(-db.session.execute(count).scalar_one() // size))
    number = min(number, last)
    rows = db.session.execute(query.limit(size).offset((number - 1) * size))
    return Page([make(*row) for row in rows], number, last)
