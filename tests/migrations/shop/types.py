"""Types that an app may have."""

from __future__ import annotations

import decimal
from typing import Any

from sqlalchemy import DateTime, Enum, Integer, Numeric, String, TypeDecorator
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import TypeEngine, UserDefinedType


class Csv(TypeDecorator[str]):
    impl = String(200)
    cache_ok = True


class Text(TypeDecorator[str]):
    """Has the name of a type of SQLAlchemy."""

    impl = String
    cache_ok = True


class Money(TypeDecorator[decimal.Decimal]):
    """Its constructor has no argument, its ``repr()`` those of ``Numeric``."""

    impl = Numeric
    cache_ok = True

    def __init__(self) -> None:
        super().__init__(10, 2)


class Code(UserDefinedType[str]):
    cache_ok = True

    def __init__(self, length: int, pattern: str = ".*") -> None:
        self.length = length
        self.pattern = pattern

    def get_col_spec(self, **_: object) -> str:
        return f"CHAR({self.length})"


class Wrapped(TypeDecorator[Any]):
    """A type with a type and with values."""

    impl = String(100)
    cache_ok = True

    def __init__(self, inner: TypeEngine[Any], ratio: decimal.Decimal) -> None:
        super().__init__()
        self.inner = inner
        self.ratio = ratio

    def __repr__(self) -> str:
        return f"Wrapped({self.inner!r}, ratio={self.ratio!r})"


class Level(Enum):
    """A subclass of ``Enum``."""


class Types:
    class Inner(TypeDecorator[int]):
        impl = Integer
        cache_ok = True


class Choice(TypeDecorator[str]):
    """Nothing tells what it was made with."""

    impl = String(9)
    cache_ok = True

    def __init__(self, *choices: str) -> None:
        super().__init__()
        self._choices = dict.fromkeys(choices)

    def __repr__(self) -> str:
        return f"<Choice of {len(self._choices)}>"


class utcnow(FunctionElement[Any]):
    type = DateTime()
    inherit_cache = True


@compiles(utcnow)
def _utcnow(*_: object, **__: object) -> str:
    return "CURRENT_TIMESTAMP"
