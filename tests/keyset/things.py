"""The models of the tests of pages, and the walk from page to page."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TypeVar
from uuid import UUID

from sqlalchemy import (
    REAL,
    BigInteger,
    DateTime,
    Dialect,
    Double,
    Enum,
    ForeignKey,
    LargeBinary,
    Numeric,
    Select,
    String,
    TypeDecorator,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from flask_uow import Database, KeyPage

T = TypeVar("T")


class Base(DeclarativeBase):
    pass


class Owner(Base):
    __tablename__ = "owners"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))


class Thing(Base):
    """Columns with few values: ties, with and without NULLs."""

    __tablename__ = "things"

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int | None]
    word: Mapped[str | None] = mapped_column(String(20))
    rank: Mapped[int] = mapped_column(default=0)
    owner_id: Mapped[int | None] = mapped_column(ForeignKey("owners.id"))
    owner: Mapped[Owner | None] = relationship()
    parts: Mapped[list[Part]] = relationship(order_by="Part.id")


class Part(Base):
    __tablename__ = "parts"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    thing_id: Mapped[int] = mapped_column(ForeignKey("things.id"))


class Pair(Base):
    """A primary key of two columns."""

    __tablename__ = "pairs"

    left: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    right: Mapped[str] = mapped_column(String(20), primary_key=True)
    rank: Mapped[int]


# Types ----------------------------------------------------------------------------------------


class Color(enum.Enum):
    RED = "r"
    BLUE = "b"


@dataclass(frozen=True)
class Cents:
    """A type of the app, which Python cannot order."""

    amount: int


class Money(TypeDecorator[Cents]):
    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: Cents | None, dialect: Dialect) -> int | None:
        return None if value is None else value.amount

    def process_result_value(self, value: int | None, dialect: Dialect) -> Cents | None:
        return None if value is None else Cents(value)


_exact = DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


class Typed(Base):
    """A column of each type, and values of it."""

    __tablename__ = "typed"

    id: Mapped[int] = mapped_column(primary_key=True)
    integer: Mapped[int | None] = mapped_column(BigInteger)
    text: Mapped[str | None] = mapped_column(String(50))
    flag: Mapped[bool | None]
    single: Mapped[float | None] = mapped_column(REAL)
    double: Mapped[float | None] = mapped_column(Double)
    plain_float: Mapped[float | None]
    numeric: Mapped[Decimal | None] = mapped_column(Numeric(20, 8))
    as_float: Mapped[float | None] = mapped_column(Numeric(30, 18, asdecimal=False))
    moment: Mapped[datetime | None] = mapped_column(_exact)
    aware: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    day: Mapped[date | None]
    clock: Mapped[time | None]
    span: Mapped[timedelta | None]
    uuid: Mapped[UUID | None]
    data: Mapped[bytes | None] = mapped_column(LargeBinary)
    color: Mapped[Color | None] = mapped_column(Enum(Color))
    money: Mapped[Cents | None] = mapped_column(Money)


# Walks ----------------------------------------------------------------------------------------


def pages(
    db: Database, select: Select[T], size: int, *, backward: bool = False
) -> Iterator[KeyPage[T]]:
    """Every page from one end to the other, by cursors, in a context of the caller."""
    page = db.paginate_by_key(select, per_page=size, after="")
    if backward:
        page = db.paginate_by_key(select, per_page=size, before=page.last_cursor)
    for _ in range(200):
        yield page
        if backward:
            if page.prev_cursor is None:
                return
            page = db.paginate_by_key(select, per_page=size, before=page.prev_cursor)
        else:
            if page.next_cursor is None:
                return
            page = db.paginate_by_key(select, per_page=size, after=page.next_cursor)
    raise AssertionError("the walk does not end")


def walk(db: Database, select: Select[T], size: int, *, backward: bool = False) -> list[T]:
    """The items of all pages, in the order of the select."""
    found = [page.items for page in pages(db, select, size, backward=backward)]
    return [item for items in (found[::-1] if backward else found) for item in items]
