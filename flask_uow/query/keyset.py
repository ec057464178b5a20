"""Pages by key: each page starts after the last row of the previous page.

No rows are counted or skipped. So a late page costs as much as the first one, and rows that other
requests insert or delete do not move a row to another page.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload
from urllib.parse import urlencode

from flask import has_request_context, request, url_for
from sqlalchemy import Join
from sqlalchemy.engine import IteratorResult, Result
from sqlalchemy.engine.result import SimpleResultMetaData
from werkzeug.exceptions import BadRequest

from .._transaction import sqlalchemy_private as private
from ..errors import OutsideContext, QueryError, shown
from . import page_request
from .cursors import Cursors, Key, Values, kept
from .listings import Listings
from .ordering import parameters_of

if TYPE_CHECKING:
    from flask import Response
    from sqlalchemy import Select
    from sqlalchemy.engine import Row
    from typing_extensions import TypeVarTuple, Unpack

    from .._request.proxy import SessionProxy

    T2 = TypeVar("T2")
    Ts = TypeVarTuple("Ts")

T = TypeVar("T")
ResponseT = TypeVar("ResponseT", bound="Response")


class KeyPage(Generic[T]):
    """A page of ``db.paginate_by_key()``. Iterating over it yields its items.

    :ivar items: objects of the model, or rows if the select has several entities or columns.
    :ivar per_page: the largest number of items on the page.
    :ivar has_next: whether there are later rows. After a step back it is always true, because the
        client came from a later page; the rows of that page may have been deleted since.
    :ivar has_prev: whether there are earlier rows. After a step forward it is always true.
    """

    def __init__(
        self,
        items: list[T],
        per_page: int,
        *,
        has_next: bool,
        has_prev: bool,
        keys: tuple[Key | None, Key | None],
        write: Callable[[Key | None], str],
    ) -> None:
        self.items = items
        self.per_page = per_page
        self.has_next = has_next
        self.has_prev = has_prev
        self._first, self._last = keys
        self._write = write

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    @cached_property
    def next_cursor(self) -> str | None:
        """The argument ``after`` for the next page; None on the last page."""
        return self._write(self._last) if self.has_next else None

    @cached_property
    def prev_cursor(self) -> str | None:
        """The argument ``before`` for the previous page; None on the first page."""
        return self._write(self._first) if self.has_prev else None

    @cached_property
    def last_cursor(self) -> str:
        """The argument ``before`` for the last page, which is then read from the end."""
        return self._write(None)

    @cached_property
    def links(self) -> dict[str, str]:
        """The absolute URLs of other pages: ``"first"``, ``"prev"``, ``"next"``, ``"last"``.

        ``"prev"`` and ``"next"`` are missing if there is no such page. Other arguments of the query
        string, such as a filter, are kept.

        :raises OutsideContext: no request is active, so the URL of the view is unknown.
        """
        cursors: dict[str, dict[str, str | None]] = {
            "first": {},
            "prev": {"before": self.prev_cursor},
            "next": {"after": self.next_cursor},
            "last": {"before": self.last_cursor},
        }
        return {
            relation: _url_with(cursor)
            for relation, cursor in cursors.items()
            if None not in cursor.values()
        }

    @property
    def link_header(self) -> str:
        """The value of a ``Link`` header (RFC 8288) with :attr:`links`.

        :raises OutsideContext: as :attr:`links`.
        """
        return ", ".join(f'<{url}>; rel="{relation}"' for relation, url in self.links.items())

    def add_links(self, response: ResponseT) -> ResponseT:
        """Add the ``Link`` header to *response*, and return it.

        :raises OutsideContext: as :attr:`links`.
        """
        response.headers.add("Link", self.link_header)
        return response


def _url_with(cursor: dict[str, str | None]) -> str:
    """Return the URL of this request with *cursor* in place of its own.

    :raises OutsideContext: no request is active.
    """
    if not has_request_context() or request.endpoint is None:
        raise OutsideContext(
            "The links of a page are URLs of the current view, and no request is active here. Use"
            " 'next_cursor' and 'prev_cursor', and build the URLs from them."
        )
    # Not given to url_for(), because a client could send '_external' or '_anchor'.
    arguments = [
        pair for pair in request.args.items(multi=True) if pair[0] not in {"after", "before"}
    ]
    query = urlencode([*arguments, *cursor.items()])
    url = url_for(request.endpoint, _external=True, **(request.view_args or {}))
    return f"{url}{'&' if '?' in url else '?'}{query}" if query else url


class PagesByKey:
    """The method of ``Database`` that reads pages by key."""

    session: SessionProxy[Any]

    @cached_property
    def _listings(self) -> Listings:
        return Listings()

    @overload  # SQLAlchemy 2.0, where a select of one entity is a Select[tuple[User]]
    def paginate_by_key(
        self,
        select: Select[tuple[T]],
        *,
        per_page: int | None = None,
        max_per_page: int | None = 100,
        after: str | None = None,
        before: str | None = None,
    ) -> KeyPage[T]: ...

    @overload  # SQLAlchemy 2.1
    def paginate_by_key(
        self,
        select: Select[T],
        *,
        per_page: int | None = None,
        max_per_page: int | None = 100,
        after: str | None = None,
        before: str | None = None,
    ) -> KeyPage[T]: ...

    @overload
    def paginate_by_key(
        self,
        select: Select[T, T2, Unpack[Ts]],
        *,
        per_page: int | None = None,
        max_per_page: int | None = 100,
        after: str | None = None,
        before: str | None = None,
    ) -> KeyPage[Row[T, T2, Unpack[Ts]]]: ...

    def paginate_by_key(
        self,
        select: Select[Unpack[tuple[Any, ...]]],
        *,
        per_page: int | None = None,
        max_per_page: int | None = 100,
        after: str | None = None,
        before: str | None = None,
    ) -> KeyPage[Any]:
        """Return the page at the cursor that a client sends as ``?after=`` or ``?before=``.

        ::

            page = db.paginate_by_key(select(Post).order_by(Post.created_at.desc()))
            return page.add_links(jsonify([post.title for post in page]))

        Every page costs the same if an index has the columns of the order and then the primary
        key: one statement reads ``per_page + 1`` rows. Where the next value or the NULLs of the
        first column begin, a second statement is needed. A row that exists all the time comes
        exactly once, whatever is inserted and deleted between two pages. A row whose columns of the
        order are updated moves.

        The primary key is added to the order, so that no two rows are equal. A cursor is signed
        with ``SECRET_KEY``, but not encrypted: a client can read the values by which a row is
        ordered. It is only a position: the conditions of *select* always apply.

        :param select: a select of at least one model, whose order has fixed values for each row.
        :param per_page: the number of rows on a page; by default ``?per_page=``, or else 20.
        :param max_per_page: the largest ``?per_page=`` of a client; None is no limit.
        :param after: a cursor, instead of the query string's; ``""`` is the first page.
        :param before: a cursor, for the rows before it.
        :raises QueryError: the select has no model, an order without fixed values, or a clause such
            as GROUP BY or LIMIT; or an argument has a wrong type or value.
        :raises ConfigError: the app has no ``SECRET_KEY``.
        :raises OutsideContext: no Flask context is active.

        Raises ``BadRequest`` (400) if the client sent a cursor that is not from this app, a cursor
        of another list or order, or an invalid ``per_page``.
        """
        session = self.session()
        listing, ordering = self._listings.of(session, select)
        cursors = Cursors(ordering.fingerprint)
        size = _size(per_page, max_per_page)
        key, backward, is_reached = _start(cursors, after, before)
        rows = _Rows(select, listing.names, len(ordering.columns), size)
        parameters = parameters_of(key)
        for statement in ordering.selects(
            select, key, backward=backward, limit=lambda: rows.missing
        ):
            rows.read(session.execute(statement, parameters))
            if not rows.missing:
                break
        items, keys, more = rows.items(), rows.ends, rows.are_more
        if backward:
            items.reverse()
            keys.reverse()
        return KeyPage(
            items,
            size,
            has_next=is_reached if backward else more,
            has_prev=more if backward else is_reached,
            keys=_ends(keys),
            write=cursors.write,
        )


class _Rows:
    """The rows of a page, and one more that shows whether there is a next page.

    A joined eager collection, or a join to many, repeats an object in several rows: each key is
    kept once.

    :ivar missing: the number of rows that are still to be read.
    """

    def __init__(self, select: Select[Any], names: list[str], width: int, size: int) -> None:
        self._select = select
        self._names = names
        self._width = width
        self._size = size
        self._rows: list[Sequence[Any]] = []
        self._received = 0
        self._is_cut = False
        self.missing = size + 1

    def read(self, result: Result[Any]) -> None:
        """Add the rows of *result*, whose limit is :attr:`missing`."""
        self._received = 0
        if private.needs_unique(result):
            rows = result.unique(self._count).all()
        else:
            rows = result.all()
            self._received = len(rows)
            rows = self._distinct(rows)
        self._rows += rows
        self.missing -= len(rows)
        if self.missing and self._received > len(rows) and _is_joined(self._select):
            # Repeated rows may have used up the limit. Only the next page, which may be empty,
            # shows whether there are more.
            self._is_cut = True
            self.missing = 0

    def _count(self, row: Any) -> Values:
        self._received += 1
        return kept(row[-self._width :])

    def _distinct(self, rows: Sequence[Any]) -> Sequence[Any]:
        """Return *rows* without repetitions, which are neighbors: the key orders the rows."""
        keys = [row[-self._width :] for row in rows]
        if not any(map(operator.eq, keys, keys[1:])):
            return rows
        return [
            row for row, key, last in zip(rows, keys, [None, *keys], strict=False) if key != last
        ]

    @property
    def are_more(self) -> bool:
        """Whether there are rows after those of the page."""
        return self._is_cut or len(self._rows) > self._size

    @property
    def ends(self) -> list[Values]:
        """The keys of the first and the last item; empty on an empty page."""
        rows = self._rows[: self._size]
        return [kept(row[-self._width :]) for row in (rows[0], rows[-1])] if rows else []

    def items(self) -> list[Any]:
        """Return the objects, or the rows without the columns of the key."""
        rows = self._rows[: self._size]
        if len(self._names) == 1:
            return [row[0] for row in rows]
        found = (row[: -self._width] for row in rows)
        return list(IteratorResult(SimpleResultMetaData(self._names), found).all())


def _ends(keys: list[Values]) -> tuple[Key | None, Key | None]:
    """Return the keys of the first and the last row of a page; None for an empty page."""
    if not keys:
        return None, None
    first, last = keys
    pairs = enumerate(zip(first, last, strict=True))
    shared = next((number for number, (one, other) in pairs if one != other), len(first))
    return Key(first, shared), Key(last, shared)


def _is_joined(select: Select[Any]) -> bool:
    """Tell whether the select has a join, so that it may return an object twice."""
    sources = select.get_final_froms()
    return len(sources) > 1 or isinstance(sources[0], Join)


def _start(
    cursors: Cursors, after: str | None, before: str | None
) -> tuple[Key | None, bool, bool]:
    """Return the key to start from, whether to read backward, and whether there is a key.

    :raises QueryError: the arguments are both given, or one is not a text.
    """
    if after and before:
        raise QueryError(
            "'paginate_by_key' was given both 'after' and 'before', but a page has one start. Give"
            " one of them."
        )
    for name, value in (("after", after), ("before", before)):
        if not isinstance(value, (str, type(None))):
            raise QueryError(
                f"'{name}' of 'paginate_by_key' is {shown(value)}, which is not a cursor. Give a"
                " cursor of another page, such as 'page.next_cursor', or leave it out."
            )
    if after is None and before is None and has_request_context():
        after, before = request.args.get("after"), request.args.get("before")
        if after and before:
            raise BadRequest("Give 'after' or 'before', not both: a page has one start.")
    cursor, name = (before, "before") if before else (after, "after")
    key = cursors.read(cursor, name) if cursor else None
    return key, name == "before", key is not None


def _size(per_page: int | None, max_per_page: int | None) -> int:
    """Return the number of rows of the page.

    :raises QueryError: an argument is not a number of at least 1.
    """
    for name, value in (("per_page", per_page), ("max_per_page", max_per_page)):
        is_number = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and (not is_number or value < 1):
            raise QueryError(
                f"'{name}' of 'paginate_by_key' is {shown(value)}, but a page has at least one row."
                " Give a whole number of at least 1, or leave it out."
            )
    if per_page is not None:
        return per_page
    asked = request.args.get("per_page") if has_request_context() else None
    size = page_request.number_in(asked) if asked else page_request.DEFAULT_SIZE
    if size < 1:
        raise BadRequest("'per_page' must be a whole number of at least 1.")
    return min(size, max_per_page or page_request.MOST_ROWS)
