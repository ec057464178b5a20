"""``Pagination``: one page of the rows of a query, and the numbers of the other pages.

Nothing here knows SQL: a :class:`PageSource` reads and counts the rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeAlias, TypeVar

from flask import abort

from .page_request import MOST_ROWS, PageRequest

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Count: TypeAlias = bool | Literal["estimated"]
"""How a page gets its total: by a count, not at all, or by an estimate of the database."""


@dataclass
class Fetched(Generic[T]):
    """Items that were read, starting at an offset.

    :ivar tells_end: whether fewer items than the limit mean that there are no more rows. False if
        one item can come from several rows.
    """

    items: list[T]
    tells_end: bool = True


class PageSource(Protocol[T]):
    """What a page reads and counts."""

    def fetch(self, limit: int, offset: int) -> Fetched[T]:
        """Skip *offset* items, and read at most *limit* items."""
        ...

    def count(self) -> int:
        """Count all rows."""
        ...

    def estimate(self) -> int | None:
        """Return an estimate of the count; None if the database gives none."""
        ...


class Pagination(Generic[T]):
    """One page of a query. ``db.paginate()`` returns it; iterating yields its items.

    ::

        {% for user in page %}<li>{{ user.name }}</li>{% endfor %}
        {% for number in page.iter_pages() %}
          {% if number %}<a href="{{ url_for('users', page=number) }}">{{ number }}</a>
          {% else %}...{% endif %}
        {% endfor %}

    :ivar items: the items of this page.
    :ivar page: the number of this page, starting from 1.
    :ivar per_page: the largest number of items on a page.
    :ivar max_per_page: the argument of ``db.paginate()``.
    :ivar total: the number of items on all pages; None with ``count=False``. An app that knows the
        total may set it.
    :ivar is_estimate: whether *total* is an estimate of the database.
    """

    def __init__(
        self,
        source: PageSource[T],
        request: PageRequest,
        *,
        max_per_page: int | None = None,
        error_out: bool = True,
        count: Count = True,
        total: int | None = None,
        is_estimate: bool = False,
    ) -> None:
        """
        :param total: the total, if another page of the same query has it already.
        """
        self._source = source
        self.page, self.per_page = request
        self.max_per_page = max_per_page
        # One row more than the page has shows whether there is a next page.
        fetched = self._fetch()
        self._has_more = len(fetched.items) > self.per_page
        self.items: list[T] = fetched.items[: self.per_page]
        if error_out and not self.items and self.page != 1:
            abort(404)
        self.total: int | None = total
        self.is_estimate: bool = is_estimate
        self._find_total(count, tells_end=fetched.tells_end)

    def _fetch(self) -> Fetched[T]:
        if self._offset + self.per_page >= MOST_ROWS:
            if self._offset:  # beyond the end of every table
                return Fetched([])
            return self._source.fetch(MOST_ROWS, 0)
        return self._source.fetch(self.per_page + 1, self._offset)

    def _find_total(self, count: Count, *, tells_end: bool) -> None:
        """Set the total, by one statement; on the last page, by none."""
        if not count and self.total is None:
            return
        seen = self._offset + len(self.items)
        is_last = not self._has_more and bool(self.items or self.page == 1)
        if is_last and (tells_end or self.is_estimate or count == "estimated"):
            self.total, self.is_estimate = seen, not tells_end
            return
        if count == "estimated":
            self.total = self._source.estimate()
            self.is_estimate = self.total is not None
        if self.total is None:
            self.total = self._source.count()
        # Rows may have been inserted or deleted since the items were read, or an estimate is wrong.
        if self._has_more:
            self.total = max(self.total, seen + 1)
        elif self.items:
            self.total = max(self.total, seen)
        else:
            self.total = min(self.total, self._offset)

    @property
    def _offset(self) -> int:
        return (self.page - 1) * self.per_page

    @property
    def first(self) -> int:
        """The number of the first item on this page, starting from 1; 0 on an empty page."""
        return self._offset + 1 if self.items else 0

    @property
    def last(self) -> int:
        """The number of the last item on this page; 0 on an empty page."""
        return self._offset + len(self.items) if self.items else 0

    @property
    def pages(self) -> int:
        """The number of pages; 0 if the total is unknown."""
        return math.ceil((self.total or 0) / self.per_page)

    @property
    def has_prev(self) -> bool:
        """Whether this is not the first page."""
        return self.page > 1

    @property
    def prev_num(self) -> int | None:
        """The number of the previous page; None on the first page."""
        return self.page - 1 if self.has_prev else None

    @property
    def has_next(self) -> bool:
        """Whether there is a next page; right with ``count=False``, too."""
        return self._has_more if self.total is None else self.page < self.pages

    @property
    def next_num(self) -> int | None:
        """The number of the next page; None on the last page."""
        return self.page + 1 if self.has_next else None

    def prev(self, *, error_out: bool = False) -> Pagination[T]:
        """Read the previous page, by one statement. On the first page, read that page again.

        :param error_out: abort with a 404 if there is no previous page.
        """
        if error_out and not self.has_prev:
            abort(404)
        return self._other(max(self.page - 1, 1), error_out=error_out)

    def next(self, *, error_out: bool = False) -> Pagination[T]:
        """Read the next page, by one statement. After the last page, it has no items.

        :param error_out: abort with a 404 if there is no next page.
        """
        return self._other(self.page + 1, error_out=error_out)

    def _other(self, number: int, *, error_out: bool) -> Pagination[T]:
        return type(self)(
            self._source,
            PageRequest(number, self.per_page),
            max_per_page=self.max_per_page,
            error_out=error_out,
            count=False,
            total=self.total,
            is_estimate=self.is_estimate,
        )

    def iter_pages(
        self,
        *,
        left_edge: int = 2,
        left_current: int = 2,
        right_current: int = 4,
        right_edge: int = 2,
    ) -> Iterator[int | None]:
        """Yield the numbers of the pages to link to, and None for each gap.

        For page 7 of 20: 1, 2, None, 5, 6, 7, 8, 9, 10, 11, None, 19, 20. If the total is unknown,
        there are no numbers.

        :param left_edge: how many pages at the beginning.
        :param left_current: how many pages before this one.
        :param right_current: how many pages after this one.
        :param right_edge: how many pages at the end.
        """
        last = self.pages
        shown = [
            (1, left_edge),
            (self.page - left_current, self.page + right_current),
            (last - right_edge + 1, last),
        ]
        previous = 0
        for start, end in shown:
            for number in range(max(start, previous + 1), min(end, last) + 1):
                if number > previous + 1:
                    yield None
                yield number
                previous = number
        if previous < last:
            yield None

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __repr__(self) -> str:
        about = "about " if self.is_estimate else ""
        of = "" if self.total is None else f" of {about}{self.pages}"
        return f"<{type(self).__name__}: page {self.page}{of}, {len(self.items)} items>"
