"""Models with primary keys of several kinds."""

from __future__ import annotations

import datetime
import enum
import uuid
from decimal import Decimal

from sqlalchemy import (
    CHAR,
    BigInteger,
    Dialect,
    Float,
    ForeignKey,
    Integer,
    Numeric,
    SmallInteger,
    String,
    TypeDecorator,
    Uuid,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    pass


class Color(enum.Enum):
    red = 1
    blue = 2


class Author(Base):
    __tablename__ = "authors"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    email: Mapped[str | None] = mapped_column(String(50))
    books: Mapped[list[Book]] = relationship(back_populates="author", order_by="Book.id")


class Book(Base):
    __tablename__ = "books"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(50))
    author_id: Mapped[int] = mapped_column(ForeignKey("authors.id"))
    author: Mapped[Author] = relationship(back_populates="books")


class Small(Base):
    __tablename__ = "smalls"
    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True)


class Big(Base):
    __tablename__ = "bigs"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)


class Token(Base):
    __tablename__ = "tokens"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)


class TextToken(Base):
    __tablename__ = "text_tokens"
    id: Mapped[str] = mapped_column(Uuid(as_uuid=False), primary_key=True)


class Country(Base):
    __tablename__ = "countries"
    code: Mapped[str] = mapped_column(String(10), primary_key=True)


class Paint(Base):
    __tablename__ = "paints"
    color: Mapped[Color] = mapped_column(primary_key=True)


class Membership(Base):
    __tablename__ = "memberships"
    user: Mapped[int] = mapped_column("user_id", primary_key=True, autoincrement=False)
    group: Mapped[str] = mapped_column("group_name", String(20), primary_key=True)


# Types that convert their values ----------------------------------------------------------------


class Number(TypeDecorator[int]):
    """A type of the app that changes nothing."""

    impl = Integer
    cache_ok = True


class Guid(TypeDecorator[uuid.UUID]):
    """The recipe of SQLAlchemy's documentation, as apps have it from the time before ``Uuid``."""

    impl = CHAR
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> postgresql.UUID[uuid.UUID] | CHAR:
        return postgresql.UUID() if dialect.name == "postgresql" else CHAR(32)

    def process_bind_param(self, value: object, dialect: Dialect) -> str | None:
        if value is None or dialect.name == "postgresql":
            return None if value is None else str(value)
        return (value if isinstance(value, uuid.UUID) else uuid.UUID(str(value))).hex

    def process_result_value(self, value: object, dialect: Dialect) -> uuid.UUID | None:
        return None if value is None else uuid.UUID(str(value))


class Ticket(Base):
    __tablename__ = "tickets"
    id: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=False)


class OldToken(Base):
    __tablename__ = "old_tokens"
    id: Mapped[uuid.UUID] = mapped_column(Guid, primary_key=True)


class Wide(Base):
    """A key that is larger in some databases."""

    __tablename__ = "wides"
    id: Mapped[int] = mapped_column(
        Integer().with_variant(BigInteger, "postgresql", "mysql", "mariadb"),
        primary_key=True,
        autoincrement=False,
    )


class Level(str, enum.Enum):
    LOW = "low"
    HIGH = "high"


class Alarm(Base):
    __tablename__ = "alarms"
    level: Mapped[Level] = mapped_column(primary_key=True)


class Day(Base):
    __tablename__ = "days"
    day: Mapped[datetime.date] = mapped_column(primary_key=True)


class Slot(Base):
    __tablename__ = "slots"
    start: Mapped[datetime.datetime] = mapped_column(primary_key=True)


class Price(Base):
    __tablename__ = "prices"
    amount: Mapped[Decimal] = mapped_column(Numeric(10, 2), primary_key=True)


class Weight(Base):
    __tablename__ = "weights"
    grams: Mapped[float] = mapped_column(Float(53), primary_key=True)
