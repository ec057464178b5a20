"""The tables: accounts, transfers, the two postings of each transfer, and recorded attempts."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Annotated

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column, relationship

from .database import Base

Cents = Annotated[int, mapped_column(BigInteger)]

LARGEST_BALANCE = 10**18
"""In cents."""

_PATIENCE = timedelta(minutes=2)


def now() -> datetime:
    """Return the time in UTC and in whole seconds, which every database stores unchanged."""
    return datetime.now(timezone.utc).replace(microsecond=0, tzinfo=None)


class Account(Base):
    """An account and its balance, which is always the sum of its postings.

    :ivar may_overdraw: the balance may go below zero. Accounts through which money enters the
        ledger, such as opening balances or sales, need this.
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
    """A movement of money from one account to another: two postings that sum to zero."""

    __tablename__ = "transfers"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(default=now)
    memo: Mapped[str]
    postings: Mapped[list[Posting]] = relationship(
        back_populates="transfer", order_by="Posting.amount"
    )


class Posting(Base):
    """One side of a transfer: an amount that an account received, or paid if it is negative."""

    __tablename__ = "postings"
    __table_args__ = (Index(None, "account_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    transfer_id: Mapped[int] = mapped_column(ForeignKey("transfers.id"), index=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    amount: Mapped[Cents]
    transfer: Mapped[Transfer] = relationship(back_populates="postings")
    account: Mapped[Account] = relationship()


class Attempt(Base):
    """A refused transfer or a started import, kept whatever its outcome; see ``journal.py``.

    :ivar result: None until an import has ended.
    :ivar progress: how far an import has come; None after it has ended.
    :ivar progress_at: the time of this progress, in UTC.
    """

    __tablename__ = "attempts"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(default=now)
    what: Mapped[str]
    result: Mapped[str | None]
    progress: Mapped[str | None]
    progress_at: Mapped[datetime | None] = mapped_column(default=now)

    @property
    def is_running(self) -> bool:
        """Whether an import has not ended, and reported its progress a short time ago."""
        return self.result is None and now() - (self.progress_at or self.at) < _PATIENCE

    @property
    def summary(self) -> str:
        """The outcome, or the progress, in words.

        A worker that is killed cannot record a result, so an import without news is interrupted.
        """
        since = f"{self.progress_at or self.at:%d %b %Y %H:%M} UTC"
        unfinished = "Running." if self.is_running else f"Interrupted: no news since {since}."
        return f"{self.result or unfinished} {self.progress or ''}".rstrip()
