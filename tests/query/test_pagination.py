"""``Pagination`` by itself, over a range of numbers: its place among the pages, and the links."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_uow.query.page_request import PageRequest
from flask_uow.query.pagination import Fetched, Pagination


class Numbers:
    """The source of pages over ``range(total)``."""

    def __init__(self, total: int, *, tells_end: bool = True, counted: int | None = None) -> None:
        self.numbers = range(total)
        self.tells_end = tells_end
        self.counted = total if counted is None else counted

    def fetch(self, limit: int, offset: int) -> Fetched[int]:
        return Fetched(list(self.numbers[offset : offset + limit]), self.tells_end)

    def count(self) -> int:
        return self.counted

    def estimate(self) -> int | None:
        return 2 * len(self.numbers)


def page_of(total: int, page: int = 1, per_page: int = 10) -> Pagination[int]:
    return Pagination(Numbers(total), PageRequest(page, per_page), error_out=False)


def in_words(page: Pagination[int], **edges: int) -> str:
    return " ".join("-" if number is None else str(number) for number in page.iter_pages(**edges))


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (1, "1 2 3 4 5 - 14 15"),
        (4, "1 2 3 4 5 6 7 8 - 14 15"),
        (5, "1 2 3 4 5 6 7 8 9 - 14 15"),
        (6, "1 2 - 4 5 6 7 8 9 10 - 14 15"),
        (9, "1 2 - 7 8 9 10 11 12 13 14 15"),
        (15, "1 2 - 13 14 15"),
        (16, "1 2 - 14 15"),
        (99, "1 2 - 14 15"),
    ],
)
def test_links(page: int, expected: str) -> None:
    """The first pages, those around the current one, the last pages, and gaps between them."""
    assert in_words(page_of(150, page)) == expected


def test_links_with_other_edges() -> None:
    """No edge is a gap, too."""
    none = {"left_edge": 0, "left_current": 0, "right_current": 0, "right_edge": 0}
    assert in_words(page_of(150, 7), **none) == "- 7 -"
    assert in_words(page_of(150, 1), **none) == "1 -"
    assert in_words(page_of(150, 15), **none) == "- 15"
    assert in_words(page_of(30, 2)) == "1 2 3"
    assert in_words(page_of(0)) == ""


@given(
    total=st.integers(0, 300),
    page=st.integers(1, 40),
    edges=st.lists(st.integers(0, 6), min_size=4, max_size=4),
)
def test_links_ascend_and_gaps_are_gaps(total: int, page: int, edges: list[int]) -> None:
    """Each number once; None stands where at least one number is missing."""
    names = ("left_edge", "left_current", "right_current", "right_edge")
    shown = page_of(total, page)
    links = [0, *shown.iter_pages(**dict(zip(names, edges, strict=True))), shown.pages + 1]
    for before, link, after in zip(links, links[1:], links[2:], strict=False):
        if link is None:
            assert before is not None
            assert after is not None
            assert after > before + 1
    numbers = [link for link in links if link is not None]
    for one, other in itertools.pairwise(numbers):
        has_gap = None in links[links.index(one) : links.index(other)]
        assert other == one + 1 or (has_gap and other > one + 1)
    if page <= shown.pages:
        assert page in numbers


def test_links_of_very_many_pages() -> None:
    """They cost nothing: the range of all pages is not walked through."""
    page = page_of(10)
    page.total = 10**15
    assert in_words(page) == f"1 2 3 4 5 - {10**14 - 1} {10**14}"


@pytest.mark.parametrize("tells_end", [True, False])
def test_the_same_place_with_and_without_a_count(tells_end: bool) -> None:
    """However the total was found."""
    for total, number, size in itertools.product(range(8), range(1, 5), range(1, 4)):
        source, request = Numbers(total, tells_end=tells_end), PageRequest(number, size)
        counted = Pagination(source, request, error_out=False)
        uncounted = Pagination(source, request, error_out=False, count=False)
        estimated = Pagination(source, request, error_out=False, count="estimated")
        assert counted.total == total
        assert counted.has_next == uncounted.has_next == estimated.has_next
        assert counted.items == list(range(total))[(number - 1) * size :][:size]
        if tells_end and counted.items and not counted.has_next:
            assert (estimated.total, estimated.is_estimate) == (total, False)


@pytest.mark.parametrize(
    ("page", "tells_end", "counted", "total"),
    [
        (2, True, 0, 21),
        (2, True, 21, 21),
        (2, True, 99, 99),
        (3, True, 99, 25),
        (3, False, 3, 25),
        (3, False, 99, 99),
        (5, True, 25, 25),
        (5, True, 99, 40),
    ],
)
def test_total_agrees_with_the_page(page: int, tells_end: bool, counted: int, total: int) -> None:
    """A page with another one after it is not the last one, whatever was stored meanwhile."""
    source = Numbers(25, tells_end=tells_end, counted=counted)
    assert Pagination(source, PageRequest(page, 10), error_out=False).total == total


def test_neighbors_keep_what_was_asked_for() -> None:
    """The size, its limit, and the total, which may be an estimate."""
    page = Pagination(Numbers(25), PageRequest(1, 10), max_per_page=50, count="estimated")
    assert (page.total, page.is_estimate) == (50, True)
    page = page.next()
    assert (page.total, page.is_estimate, page.per_page, page.max_per_page) == (50, True, 10, 50)
    page = page.next()
    assert (page.total, page.is_estimate, page.has_next) == (25, False, False)
    assert page.prev().prev().items == list(range(10))


def test_estimate_of_rows_that_are_merged_stays_an_estimate() -> None:
    """The last page tells how many items there are, but not how many rows."""
    source = Numbers(25, tells_end=False)
    page = Pagination(source, PageRequest(3, 10), count="estimated")
    assert (page.total, page.is_estimate, page.has_next) == (25, True, False)
    page = Pagination(source, PageRequest(2, 10), count="estimated").next()
    assert (page.total, page.is_estimate, page.has_next) == (25, True, False)
