"""Check and convert a primary key that a client sent, before the database compares it.

For ``"abc"`` as an integer key, PostgreSQL raises an error and aborts the transaction, SQLite finds
no row, and MariaDB finds the row with the key 0. So such a key is recognized before it is sent.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Date,
    DateTime,
    Enum,
    Float,
    Integer,
    Interval,
    LargeBinary,
    Numeric,
    SmallInteger,
    String,
    Time,
    TypeDecorator,
    Uuid,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import Mapper, scoped_session
from sqlalchemy.types import TypeEngine

from .._drivers.base import Driver, is_integer_of
from .._drivers.known import driver_of
from .._transaction.sqlalchemy_private import state_of, variants_of
from ..errors import QueryError, shown

T = TypeVar("T")

_INTEGER = re.compile(r"-?[0-9]{1,100}")


class NoSuchKey(Exception):
    """No row of the database can have the key."""


def comparable(key: object, mapper: Mapper[Any], session: scoped_session[Any]) -> object:
    """Return *key* with values of the types of its columns, in the order of the primary key.

    :param key: one value, or a tuple, list or dict of several.
    :param session: to find the engine, which is needed for unusual values only.
    :raises NoSuchKey: no row can have this key.
    :raises QueryError: *key* does not fit the primary key.
    """
    columns = mapper.primary_key
    if len(columns) == 1 and isinstance(key, (int, str)):  # the usual case
        return _comparable(key, columns[0].type, mapper, session)
    values = _values(key, mapper)
    if all(value is None for value in values):
        raise NoSuchKey
    return tuple(
        _comparable(value, column.type, mapper, session)
        for value, column in zip(values, columns, strict=True)
    )


def _values(key: object, mapper: Mapper[Any]) -> list[object]:
    """
    :raises QueryError: *key* does not fit the primary key.
    """
    names = [mapper.get_property_by_column(column).key for column in mapper.primary_key]
    values: list[object]
    if isinstance(key, Mapping):
        values = [key[name] for name in names] if key.keys() == set(names) else []
    else:
        values = list(key) if isinstance(key, (tuple, list)) else [key]
    has_parts = any(isinstance(value, (Mapping, tuple, list, set)) for value in values)
    if len(values) != len(names) or has_parts or any(map(state_of, values)):
        raise QueryError(_WRONG_SHAPE.format(mapper.class_.__name__, _named(names), _given(key)))
    return values


_WRONG_SHAPE = (
    "'get_or_404' was given {2} as the key, which does not fit the primary key of {0!r}, {1[0]}."
    " Write 'db.get_or_404({0}, {1[1]})'."
)


def _named(names: list[str]) -> tuple[str, str]:
    if len(names) == 1:
        return repr(names[0]), names[0]
    return " and ".join(map(repr, names)), f"({', '.join(names)})"


def _given(key: object) -> str:
    if state_of(key) is not None:
        return f"an object of the class {type(key).__name__!r}"
    return shown(key)


def _comparable(
    value: object, kind: TypeEngine[Any], mapper: Mapper[Any], session: scoped_session[Any]
) -> object:
    """
    :raises NoSuchKey: a column of this type cannot have this value.
    """
    if isinstance(kind, TypeDecorator) or variants_of(kind):
        dialect = session.get_bind(mapper).dialect
        kind = variants_of(kind).get(dialect.name, kind)
        if isinstance(kind, TypeDecorator) and not isinstance(kind, Interval):
            return _decorated(value, kind, dialect, mapper, session)
    if isinstance(kind, Integer):
        value = _integer(value)
        bits = 64 if isinstance(kind, BigInteger) else 16 if isinstance(kind, SmallInteger) else 32
        if not isinstance(value, int) or is_integer_of(value, bits):
            return value
        # Most databases store more in some columns than their type says.
        driver = _driver(mapper, session)
        return _found(value, is_integer_of(value, _LONGEST) and driver.can_compare(value, bits))
    if isinstance(value, enum.Enum):  # maybe a str or an int as well
        return value
    if isinstance(value, (int, float)):
        return _number(value, kind)
    if isinstance(value, str):
        return _text(value, kind, mapper, session)
    return value


def _text(
    value: str, kind: TypeEngine[Any], mapper: Mapper[Any], session: scoped_session[Any]
) -> object:
    """
    :raises NoSuchKey: a column of this type cannot have this value.
    """
    if isinstance(kind, Uuid):
        return _uuid(value, kind)
    if isinstance(kind, Enum):
        return _found(value, value in kind.enums)
    if isinstance(kind, String):
        is_possible = _is_unicode(value) and (
            "\0" not in value or _driver(mapper, session).can_compare(value, 0)
        )
        return _found(value, is_possible)
    return _found(_read(value, kind), not isinstance(kind, Interval))


def _decorated(
    value: object,
    kind: TypeDecorator[Any],
    dialect: Dialect,
    mapper: Mapper[Any],
    session: scoped_session[Any],
) -> object:
    """Return *value* for a type of the app, which converts it before it is sent.

    :raises NoSuchKey: it cannot be converted, or the column cannot have what it is converted to.
    """
    inner = kind.load_dialect_impl(dialect)
    if type(kind).process_bind_param is TypeDecorator.process_bind_param:
        return _comparable(value, inner, mapper, session)
    if isinstance(value, (str, int, float)):  # what a client can send
        try:
            converted = kind.process_bind_param(value, dialect)
        except ValueError:
            raise NoSuchKey from None
        _comparable(converted, inner, mapper, session)
    return value


def _driver(mapper: Mapper[Any], session: scoped_session[Any]) -> Driver:
    return driver_of(session.get_bind(mapper).dialect)


def _integer(value: object) -> object:
    """
    :raises NoSuchKey: *value* is a bool, or a text or a float and not that of an integer.
    """
    if isinstance(value, bool):  # it is an int in Python, and not in PostgreSQL
        raise NoSuchKey
    if isinstance(value, str):
        return int(_found(value, _INTEGER.fullmatch(value) is not None))
    if isinstance(value, float):  # from JSON; PostgreSQL would round it
        return int(_found(value, value.is_integer()))
    return value


def _number(value: float, kind: TypeEngine[Any]) -> object:
    """
    :raises NoSuchKey: a column of this type has no numbers, or not this one.
    """
    is_number = is_integer_of(value, _LONGEST) if type(value) is int else math.isfinite(value)
    if isinstance(kind, (Enum, *_UNNUMBERED)):
        raise NoSuchKey
    if isinstance(kind, String):  # for MySQL, the number 0 is equal to any text without digits
        return str(_found(value, is_number and type(value) is int))
    if isinstance(kind, (Numeric, Float)):
        return _found(value, is_number and not isinstance(value, bool))
    return value


_UNNUMBERED = (Date, DateTime, Interval, LargeBinary, Time, Uuid)
_LONGEST = 1000  # bits; Python refuses to print an integer of very many digits


def _read(value: str, kind: TypeEngine[Any]) -> object:
    """Return the number or the time that *value* says.

    :raises NoSuchKey: it says none.
    """
    for class_, read in _READERS:
        if isinstance(kind, class_):
            try:
                return read(value)
            except ValueError:
                raise NoSuchKey from None
    return value


def _decimal(value: str) -> Decimal:
    """
    :raises ValueError: *value* is no number.
    """
    if not _DECIMAL.fullmatch(value):
        raise ValueError
    return Decimal(value)


_DECIMAL = re.compile(r"-?[0-9]{1,100}(\.[0-9]{1,100})?")
_READERS: list[tuple[type[TypeEngine[Any]], Callable[[str], object]]] = [
    (DateTime, datetime.fromisoformat),
    (Date, date.fromisoformat),
    (Time, time.fromisoformat),
    (Float, lambda value: float(_decimal(value))),  # before 'Numeric', its parent in 2.0
    (Numeric, _decimal),
]


def _uuid(value: str, kind: Uuid[Any]) -> object:
    """
    :raises NoSuchKey: *value* is not a UUID.
    """
    try:
        found = UUID(value)
    except ValueError:
        raise NoSuchKey from None
    return found if kind.as_uuid else value


def _is_unicode(value: str) -> bool:
    """Tell whether *value* is valid Unicode; JSON can escape half of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _found(value: T, is_possible: bool) -> T:
    """
    :raises NoSuchKey: *is_possible* is false.
    """
    if not is_possible:
        raise NoSuchKey
    return value
