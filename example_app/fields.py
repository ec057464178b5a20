"""Check single values of forms and JSON bodies: text, account numbers, flags."""

from __future__ import annotations

from .refusals import Refused

_LARGEST_ID = 2**31 - 1


def text(value: object, what: str, *, longest: int, required: bool = True) -> str:
    """Return one line of text, without the spaces around it.

    :param what: the name of the value, for the message.
    :raises Refused: *value* is missing but required, too long, or not one line of text.
    """
    line = "" if value is None else value
    if not isinstance(line, str):
        raise Refused(f"The {what} must be text.")
    line = line.strip()
    if required and not line:
        raise Refused(f"The {what} is missing.")
    if len(line) > longest:
        raise Refused(f"The {what} has {len(line)} characters; at most {longest} are allowed.")
    if not line.isprintable():
        raise Refused(f"The {what} must be one line of printable characters.")
    return line


def account_id(value: object, what: str) -> int:
    """Return *value* as an account number; whether that account exists is not checked.

    :raises Refused: *value* is missing or is not an account number.
    """
    if value is None or value == "":
        raise Refused(f"The {what} is missing.")
    digits = value if isinstance(value, str) else repr(value)
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 10):
        raise Refused(f"The {what} must be an account number.")
    return int(digits)


def flag(value: object, what: str) -> bool:
    """Return *value* if it is a boolean.

    :raises Refused: *value* is neither true nor false.
    """
    if not isinstance(value, bool):
        raise Refused(f"The {what} must be true or false.")
    return value


def is_possible_id(number: int) -> bool:
    """Return whether a row can have this id; databases fail on larger numbers, each differently."""
    return 0 < number <= _LARGEST_ID
