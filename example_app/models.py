"""What is stored: accounts, transfers, the two postings of each transfer, and what was tried."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column, relationship

from .database import Base

Cents = Annotated[int, mapped_column(BigInteger)]

LARGEST_BALANCE = 10**18
"""In cents."""


def _now() -> datetime:
    """In UTC, and in whole seconds: that is what every database keeps."""
    return datetime.now(timezone.utc).replace(microsecond=0, tzinfo=None)


class Account(Base):
    """An account and its balance, which always is the sum of its postings.

    :ivar may_overdraw: money enters the ledger from somewhere: the accounts for opening balances
        or for sales go below zero.
    """

    __tablename__ = "accounts"
    __table_args__ = (
        CheckConstraint("may_overdraw OR balance >= 0", name="no_overdraft"),
        CheckConstraint(
            f"balance BETWEEN -{LARGEST_BALANCE} AND {LARGEST_BALANCE}", name="within_bounds"
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    may_overdraw: Mapped[bool] = mapped_column(default=False)
    balance: Mapped[Cents] = mapped_column(default=0)


class Transfer(Base):
    """Money that went from one account to another: two postings, which sum to zero."""

    __tablename__ = "transfers"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(default=_now)
    memo: Mapped[str]
    postings: Mapped[list[Posting]] = relationship(
        back_populates="transfer", order_by="Posting.amount"
    )


class Posting(Base):
    """One side of a transfer: an amount that an account has got (or given, if negative)."""

    __tablename__ = "postings"
    __table_args__ = (Index(None, "account_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    transfer_id: Mapped[int] = mapped_column(ForeignKey("transfers.id"), index=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    amount: Mapped[Cents]
    transfer: Mapped[Transfer] = relationship(back_populates="postings")
    account: Mapped[Account] = relationship()


class Attempt(Base):
    """What somebody tried, kept whatever became of it; see ``journal.py``.

    :ivar result: none if it did not come to its end, and so stored nothing.
    """

    __tablename__ = "attempts"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(default=_now)
    what: Mapped[str]
    result: Mapped[str | None]
