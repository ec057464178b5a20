"""Single values that people and programs send: text, the number of an account, of a page."""

from __future__ import annotations

from .errors import Refused

_LARGEST_ID = 2**31 - 1


def text(value: object, what: str, *, longest: int, required: bool = True) -> str:
    """One line of text, without the spaces around it.

    :raises Refused: it is empty and required, too long, or not one line of text.
    """
    found = "" if value is None else value
    if not isinstance(found, str):
        raise Refused(f"The {what} must be text.")
    found = found.strip()
    if required and not found:
        raise Refused(f"The {what} is missing.")
    if len(found) > longest:
        raise Refused(f"The {what} has {len(found)} characters; at most {longest} are possible.")
    if not found.isprintable():
        raise Refused(f"The {what} must be one line of readable characters.")
    return found


def account_id(value: object, what: str) -> int:
    """The number of an account, which may still not exist.

    :raises Refused: it is missing, or cannot be the number of an account.
    """
    if value is None or value == "":
        raise Refused(f"The {what} is missing.")
    digits = value if isinstance(value, str) else repr(value)
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 10):
        raise Refused(f"The {what} must be the number of an account.")
    return int(digits)


def flag(value: object, what: str) -> bool:
    """
    :raises Refused: it is neither true nor false.
    """
    if not isinstance(value, bool):
        raise Refused(f"The {what} must be true or false.")
    return value


def is_possible_id(number: int) -> bool:
    """Can a row have this id? The databases refuse larger numbers, each in its own way."""
    return 0 < number <= _LARGEST_ID


def page(value: str | None) -> int:
    """The number of a page; the first one if *value* is none."""
    digits = value or ""
    return max(1, int(digits)) if digits.isascii() and digits.isdigit() and len(digits) < 8 else 1
