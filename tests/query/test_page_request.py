"""The page that is asked for: by the query string, by arguments, and by neither."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask as PlainFlask
from werkzeug.exceptions import NotFound

from flask_uow.errors import QueryError
from flask_uow.query import page_request

app = PlainFlask(__name__)


def read(
    query: str = "",
    *,
    page: Any = None,
    per_page: Any = None,
    max_per_page: Any = None,
    error_out: bool = True,
) -> tuple[int, int]:
    """The page that a request with this query string asks for."""
    with app.test_request_context(f"/?{query}"):
        return page_request.read(page, per_page, max_per_page, error_out=error_out)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", (1, 20)),
        ("page=3", (3, 20)),
        ("page=03", (3, 20)),
        ("per_page=5", (1, 5)),
        ("page=2&per_page=100", (2, 100)),
        ("per_page=101", (1, 100)),
        ("per_page=1000000", (1, 100)),
        (f"per_page={10**30}", (1, 100)),
        (f"page={10**30}", (10**30, 20)),
        ("page=2&page=abc", (2, 20)),  # the first one, as everywhere in Flask
        ("page=2&other=abc", (2, 20)),
    ],
)
def test_query_string(query: str, expected: tuple[int, int]) -> None:
    """The page is 1 by default, its size 20 and at most 100."""
    assert read(query) == expected
    assert read(query, error_out=False) == expected


@pytest.mark.parametrize("name", ["page", "per_page"])
@pytest.mark.parametrize(
    "value",
    [
        *[
            "0",
            "-1",
            "abc",
            "",
            "%20",
            "+1",
            "1+",
            "%2B1",
            "1.0",
            "1e3",
            "0x1",
            "1_0",
            "1,2",
            "1%00",
        ],
        *["%D9%A1", "%EF%BC%91", "%C2%B2", "null", "NaN", "1" * 101, "9" * 5000, "1%0A"],
    ],
)
def test_what_is_no_number_is_a_404(name: str, value: str) -> None:
    """Or the default."""
    with pytest.raises(NotFound):
        read(f"{name}={value}")
    assert read(f"{name}={value}", error_out=False) == (1, 20)


def test_first_of_repeated_numbers_counts() -> None:
    """Also where it is wrong."""
    with pytest.raises(NotFound):
        read("page=abc&page=2")


def test_arguments_come_before_the_query_string() -> None:
    """Each by itself."""
    assert read("page=7&per_page=7", page=2, per_page=3) == (2, 3)
    assert read("page=7&per_page=7", page=2) == (2, 7)
    assert read("page=7&per_page=7", per_page=3) == (7, 3)
    assert read("page=abc&per_page=abc", page=2, per_page=3) == (2, 3)


def test_largest_size() -> None:
    """By default, only what a client sends is limited."""
    assert read(per_page=1000) == (1, 1000)
    assert read(per_page=1000, max_per_page=50) == (1, 50)
    assert read("per_page=1000", max_per_page=50) == (1, 50)
    assert read("per_page=1000", max_per_page=500) == (1, 500)
    assert read(max_per_page=10) == (1, 10)
    assert read("per_page=0", max_per_page=10, error_out=False) == (1, 10)
    assert read(per_page=10**30) == (1, page_request.MOST_ROWS)


@pytest.mark.parametrize("number", [0, -1, -(10**30)])
def test_argument_below_one_is_a_404(number: int) -> None:
    """It may come from the client: ``page=request.args.get("page", 1, type=int)``."""
    each: list[dict[str, Any]] = [{"page": number}, {"per_page": number}]
    for arguments in each:
        with pytest.raises(NotFound):
            read(**arguments)
        assert read(error_out=False, **arguments) == (1, 20)


def test_without_a_request() -> None:
    """In a command, the defaults."""
    assert page_request.read(None, None, None, error_out=True) == (1, 20)
    assert page_request.read(2, None, 5, error_out=True) == (2, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"page": "2"},
            r"'page' is '2', which is not a number of type 'int'.*request.args.get\(\"page\"",
        ),
        ({"page": 2.0}, "'page' is 2.0, which is not a number"),
        ({"page": True}, "'page' is True, which is not a number"),
        ({"per_page": "2"}, "'per_page' is '2', which is not a number"),
        ({"max_per_page": "2"}, "'max_per_page' is '2', which is not a number"),
        ({"max_per_page": 0}, "'max_per_page' is 0, so"),
        ({"max_per_page": -5}, "'max_per_page' is -5, so"),
    ],
)
def test_mistakes_of_the_app_get_a_sentence(arguments: dict[str, Any], message: str) -> None:
    """Whatever ``error_out`` says."""
    for error_out in (True, False):
        with pytest.raises(QueryError, match=message):
            read(error_out=error_out, **arguments)
