"""The page that a caller asks for: its number and its size, from arguments or the query string."""

from __future__ import annotations

import re
from typing import NamedTuple

from flask import abort, has_request_context, request

from ..errors import QueryError, shown

DEFAULT_SIZE = 20
"""The number of items on a page if neither the caller nor the client gives one."""
LARGEST_SIZE = 100
"""The largest ``per_page`` that a client can ask for, by default."""

MOST_ROWS = 2**62
"""The largest offset or limit that is sent. Databases accept it, and no table has more rows."""

# Stricter than 'int', which accepts signs, spaces and other digits: each page has one URL. The
# length is limited because 'int' takes more than linear time.
_NUMBER = re.compile(r"[0-9]{1,100}")


class PageRequest(NamedTuple):
    """The number of a page, starting from 1, and the largest number of items on it."""

    page: int
    per_page: int


def read(
    page: int | None, per_page: int | None, max_per_page: int | None, *, error_out: bool
) -> PageRequest:
    """Return the page that the arguments name, or else the query string of the request.

    :param max_per_page: see :meth:`~flask_uow.Database.paginate`.
    :raises QueryError: an argument is not an ``int``, or *max_per_page* is less than 1.
    """
    if max_per_page is not None and _checked("max_per_page", max_per_page) < 1:
        raise QueryError(
            f"'max_per_page' is {max_per_page}, so no page could have an item. Write a number of"
            " at least 1, or leave it out."
        )
    number = _sent("page", 1) if page is None else _checked("page", page)
    if per_page is None:
        size, largest = _sent("per_page", DEFAULT_SIZE), max_per_page or LARGEST_SIZE
    else:
        size, largest = _checked("per_page", per_page), max_per_page or MOST_ROWS
    if error_out and (number < 1 or size < 1):
        abort(404)
    return PageRequest(max(number, 1), min(size if size > 0 else DEFAULT_SIZE, largest))


def _sent(name: str, default: int) -> int:
    """Return a number from the query string: *default* if missing, 0 if it is not a number."""
    text = request.args.get(name) if has_request_context() else None
    if text is None:
        return default
    return number_in(text)


def number_in(text: str) -> int:
    """Return the number that a client sent as *text*, or 0 if it is not a number."""
    return int(text) if _NUMBER.fullmatch(text) else 0


def _checked(name: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise QueryError(
        f"'{name}' is {shown(value)}, which is not a number of type 'int'. Convert it first, for"
        f" example by 'request.args.get(\"{name}\", type=int)', or leave it out: then it is read"
        " from the query string."
    )
