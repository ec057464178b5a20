"""What happened on an account, and what happened last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Select, cast, func, select
from sqlalchemy.orm import aliased, selectinload

from .database import db
from .models import Account, Posting, Transfer

PAGE_SIZE = 20


@dataclass(frozen=True)
class Page:
    """Some of the rows of a longer list.

    :ivar number: of this page, from 1.
    :ivar last: the number of the last page.
    """

    rows: list[Any]
    number: int
    last: int


@dataclass(frozen=True)
class Line:
    """One posting as its account sees it.

    :ivar other: the name of the account on the other side.
    :ivar balance: of the account after this posting.
    """

    transfer_id: int
    at: datetime
    memo: str
    other: str
    amount: int
    balance: int


def page(account_id: int, number: int) -> Page:
    """A page of the statement of one account, the newest postings first."""
    count = select(func.count()).where(Posting.account_id == account_id)
    lines = _lines(account_id).order_by(Posting.id.desc())
    return _page(count, lines, number, Line)


def lines(account_id: int) -> Iterator[Line]:
    """All lines of the statement of one account, the oldest first, read as they are needed.

    Whoever stops before the end closes the cursor on the server, too.
    """
    statement = _lines(account_id).order_by(Posting.id).execution_options(yield_per=500)
    with db.session.execute(statement) as rows:
        for row in rows:
            yield Line(*row)


def latest(number: int = 1, size: int = PAGE_SIZE) -> Page:
    """A page of the transfers, the newest first, with their postings."""
    transfers = select(Transfer).options(selectinload(Transfer.postings))
    transfers = transfers.order_by(Transfer.id.desc())
    return _page(select(func.count(Transfer.id)), transfers, number, _first, size)


def _lines(account_id: int) -> Any:  # a Select of six columns, typed unlike in SQLAlchemy 2.0
    other = aliased(Posting)
    so_far = func.sum(Posting.amount).over(order_by=Posting.id)
    return (
        select(
            Transfer.id,
            Transfer.at,
            Transfer.memo,
            Account.name,
            Posting.amount,
            cast(so_far, BigInteger),  # the servers sum integers to decimals
        )
        .select_from(Posting)
        .join(Posting.transfer)
        .join(other, (other.transfer_id == Transfer.id) & (other.id != Posting.id))
        .join(other.account)
        .where(Posting.account_id == account_id)
    )


def _first(value: Any) -> Any:
    return value


def _page(
    count: Select[Any], rows: Select[Any], number: int, make: Any, size: int = PAGE_SIZE
) -> Page:
    last = max(1, -(-db.session.execute(count).scalar_one() // size))
    number = min(number, last)
    found = db.session.execute(rows.limit(size).offset((number - 1) * size))
    return Page([make(*row) for row in found], number, last)
