"""Money: whole cents in the ledger, ``1,250.00`` for people, ``1250.00`` for programs."""

from __future__ import annotations

import re

from .refusals import Refused

LARGEST_TRANSFER = 10**15
"""In cents."""

_MINUS = "\N{MINUS SIGN}"
_AMOUNT = re.compile(r"(-?)([0-9]+)(?:\.([0-9]{1,2}))?")


def read(value: object) -> int:
    """Return the cents of ``"12"``, ``"12.5"`` or ``"12.50"``, or of a JSON number.

    :raises Refused: *value* is missing, unreadable, not more than zero, or too large.
    """
    text = "" if value is None or isinstance(value, bool) else str(value).strip()
    if not text:
        raise Refused("The amount is missing.")
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise Refused(f'The amount "{text[:40]}" cannot be read. Write it like 1250.00.')
    sign, units, fraction = match.groups(default="")
    units = units.lstrip("0")
    if len(units) > 20 or (cents := int(f"{units}{fraction:0<2}")) > LARGEST_TRANSFER:
        raise Refused(f"The amount is too large: the limit is {show(LARGEST_TRANSFER)}.")
    if sign or cents == 0:
        raise Refused("The amount must be more than zero.")
    return cents


def plain(cents: int) -> str:
    """Format an amount for programs: ``-1250.00``."""
    units, rest = divmod(abs(cents), 100)
    return f"{'-' if cents < 0 else ''}{units}.{rest:02}"


def show(cents: int) -> str:
    """Format an amount for people: ``-1,250.00``, with a real minus sign."""
    units, rest = divmod(abs(cents), 100)
    return f"{_MINUS if cents < 0 else ''}{units:,}.{rest:02}"
