"""Cursors: the position of a row in a list, as a text that a client keeps and sends back.

A cursor is a JSON list, signed with the app's ``SECRET_KEY``: the fingerprint of the query, then
the key of a row. Clients can read a cursor, but cannot make or change one. Nothing in it is
executed or unpickled.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from flask import current_app
from itsdangerous import BadData, URLSafeSerializer
from werkzeug.exceptions import BadRequest

from ..errors import ConfigError, QueryError

Values: TypeAlias = "tuple[Any, ...]"


class Key(NamedTuple):
    """The position of the first or the last row of a page.

    :ivar values: the values by which the row is ordered.
    :ivar shared: the number of leading values that are the same in all rows of the page. Rows
        outside the page may have these values as well, and their number is unknown.
    """

    values: Values
    shared: int


# A new format needs a new salt, so that old cursors are refused and not misread.
_SALT = "flask_uow.cursor.1"


class Cursors:
    """Writes and reads the cursors of one query.

    :param fingerprint: the same for two queries only if their rows have the same kind of key.
    :raises ConfigError: the app has no ``SECRET_KEY``.
    """

    def __init__(self, fingerprint: str) -> None:
        self._fingerprint = fingerprint
        self._serializer = _serializer(_secret_keys())

    def write(self, key: Key | None) -> str:
        """Return the cursor for *key*; None is the position before or after all rows."""
        values = [] if key is None else [key.shared, *map(_encode, key.values)]
        return self._serializer.dumps([self._fingerprint, *values])

    def read(self, cursor: str, name: str) -> Key | None:
        """Return the key that :meth:`write` was given.

        :param name: the argument in which the client sent the cursor, for the description.
        :raises BadRequest: the text is not a cursor, or is one of another query.
        """
        try:
            fingerprint, *values = self._serializer.loads(cursor)
        except BadData:
            raise BadRequest(
                f"The value of '{name}' is not a cursor of this site, or the cursor was changed or"
                f" cut off. Leave out '{name}' to get the first page."
            ) from None
        if fingerprint != self._fingerprint:
            raise BadRequest(
                f"The cursor in '{name}' belongs to another list, or to another order of this list."
                f" Leave out '{name}' to get the first page."
            )
        return Key(tuple(map(_decode, values[1:])), values[0]) if values else None


@lru_cache(maxsize=16)  # for several apps, and for replaced keys
def _serializer(secret_keys: tuple[Any, ...]) -> URLSafeSerializer:
    return URLSafeSerializer(
        secret_keys,
        salt=_SALT,
        signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
    )


def _secret_keys() -> tuple[Any, ...]:
    """Return the secret keys of the app: the last one signs, and all are accepted.

    :raises ConfigError: the app has no secret key.
    """
    if not current_app.secret_key:
        raise ConfigError(
            "SECRET_KEY is not set, and 'paginate_by_key' signs its cursors with it. Set it to a"
            " long random text:"
            " 'python -c \"import secrets; print(secrets.token_hex())\"' prints one."
        )
    fallbacks = current_app.config.get("SECRET_KEY_FALLBACKS") or []
    return (*fallbacks, current_app.secret_key)


def fingerprint_of(parts: Sequence[str]) -> str:
    """Return a short text that is different if one of *parts* is."""
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=9).hexdigest()


# Values ---------------------------------------------------------------------------------------

# Types that drivers return and JSON lacks. 'datetime' is first, because it is a subclass of 'date'.
_TYPES: dict[type, tuple[str, Callable[[Any], str], Callable[[str], Any]]] = {
    datetime: ("t", datetime.isoformat, datetime.fromisoformat),
    date: ("d", date.isoformat, date.fromisoformat),
    time: ("c", time.isoformat, time.fromisoformat),
    timedelta: (
        "i",
        lambda value: f"{value.days},{value.seconds},{value.microseconds}",
        lambda text: timedelta(*map(int, text.split(","))),
    ),
    Decimal: ("n", str, Decimal),
    UUID: ("u", lambda value: value.hex, UUID),
    bytes: ("b", lambda value: base64.b85encode(value).decode(), base64.b85decode),
}
_DECODERS = {code: decode for code, _, decode in _TYPES.values()}


_PLAIN = (bool, int, float, str, type(None))
_KEPT: tuple[type, ...] = (*_PLAIN, *_TYPES)


def kept(values: Sequence[Any]) -> Values:
    """Return *values* of a row with the types that a cursor can keep.

    :raises QueryError: a value has a type that a cursor cannot keep.
    """
    plain = tuple(bytes(v) if isinstance(v, (bytearray, memoryview)) else v for v in values)
    for value in plain:
        if not isinstance(value, _KEPT):
            raise QueryError(
                f"The rows are ordered by values of the type {type(value).__name__!r}, which a"
                " cursor cannot keep. Order by a number, a text, a date, a UUID or bytes."
            )
    return plain


def _encode(value: Any) -> object:
    """Return *value* for JSON: unchanged, or as a letter for its type and a text."""
    if isinstance(value, _PLAIN):
        return value
    code, encode = next(entry[:2] for kind, entry in _TYPES.items() if isinstance(value, kind))
    return [code, encode(value)]


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        code, text = value
        return _DECODERS[code](text)
    return value
