"""The statements of a test: ``assert_queries``, ``assert_max_queries`` and ``--uow-queries``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ..testing import CountedQueries

_SHOWN = 10  # tests
_COUNT, _REPEATED = "uow_queries", "uow_repeated_query"  # properties of a test


class Expectation:
    """A block that may send only so many statements.

    :param count: begins to count.
    :param fits: whether the number of statements is right.
    :param expected: the right number, in words.
    """

    def __init__(
        self,
        count: Callable[[], AbstractContextManager[CountedQueries]],
        fits: Callable[[int], bool],
        expected: str,
    ) -> None:
        self._count, self._fits, self._expected = count, fits, expected

    def __enter__(self) -> CountedQueries:
        self._counting = self._count()
        self._queries = self._counting.__enter__()
        return self._queries

    def __exit__(self, *error: object) -> None:
        __tracebackhide__ = True  # the traceback ends in the test
        self._counting.__exit__(None, None, None)
        if error[0] is None and not self._fits(len(self._queries)):
            pytest.fail(f"Expected {self._expected}, but the block sent {self._queries}")


def exactly(request: pytest.FixtureRequest) -> Callable[[int], Expectation]:
    """Return what the fixture ``assert_queries`` is."""
    count = _counter(request)

    def assert_queries(number: int) -> Expectation:
        expected = _statements(number)
        return Expectation(count, lambda sent: sent == number, expected)

    return assert_queries


def at_most(request: pytest.FixtureRequest) -> Callable[[int], Expectation]:
    """Return what the fixture ``assert_max_queries`` is."""
    count = _counter(request)

    def assert_max_queries(number: int) -> Expectation:
        expected = f"at most {_statements(number)}"
        return Expectation(count, lambda sent: sent <= number, expected)

    return assert_max_queries


def _counter(
    request: pytest.FixtureRequest,
) -> Callable[[], AbstractContextManager[CountedQueries]]:
    from ..testing import count_queries
    from ..testing.targets import database_of

    app = app_of(request)
    db = database_of(app)
    return lambda: count_queries(db, app=app)


def app_of(request: pytest.FixtureRequest) -> Any:
    """Return what the fixture ``app`` of the suite returns."""
    try:
        return request.getfixturevalue("app")
    except pytest.FixtureLookupError as error:
        if error.argname != "app":
            raise
    pytest.fail(
        f"The fixture {request.fixturename!r} needs a fixture named 'app' that returns or yields"
        " the Flask app, as pytest-flask does. Write one in 'conftest.py'.",
        pytrace=False,
    )


class QueryReport:
    """Counts what each test sends, from any SQLAlchemy engine, and shows the most at the end.

    Under pytest-xdist the numbers come from the workers as properties of their tests. What fixtures
    send is not counted.
    """

    def __init__(self) -> None:
        self._found: list[tuple[int, str, str]] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        from ..testing.queries import count_everywhere, shortened

        with count_everywhere() as queries:
            try:
                yield
            finally:
                item.user_properties.append((_COUNT, len(queries)))
                for repeated in queries.repeated()[:1]:
                    text = f"{repeated.count} times {shortened(repeated.statement)}"
                    text = f"{text}\n{repeated.locations[0]}"
                    item.user_properties.append((_REPEATED, text))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties = dict(report.user_properties)
        if report.when == "call" and properties.get(_COUNT):
            count, repeated = properties[_COUNT], properties.get(_REPEATED, "")
            self._found.append((int(str(count)), report.nodeid, str(repeated)))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("tests that send the most SQL statements")
        heaviest = sorted(self._found, key=lambda found: -found[0])[:_SHOWN]
        for count, test, repeated in heaviest:
            terminalreporter.write_line(f"{count:6} {test}")
            for line in repeated.splitlines():
                terminalreporter.write_line(f"         {line}")
        if not heaviest:
            terminalreporter.write_line("No test has sent a statement.")


def _statements(number: int) -> str:
    if not isinstance(number, int):
        raise TypeError(
            f"A number of statements was expected, not {type(number).__name__!r}. Write for example"
            " 'with assert_queries(2):'."
        )
    return f"{number} statement{'' if number == 1 else 's'}"
