"""The fixtures and options for pytest; entry point ``pytest11``.

pytest imports this module in each run of an environment in which the package is installed. So it
imports neither Flask nor SQLAlchemy, nor any module that does, before a test uses them.

- ``assert_queries``, ``assert_max_queries``: fixtures that count statements.
- ``--uow-queries``: shows the tests that send the most statements.
- ``uow_leaks``: what a test leaves open is an error.
- ``uow_access``: tests have to ask for the database.
- ``uow_isolation``: what a test does to the database is undone; ``uow_isolated`` and
  ``uow_truncated`` are for one test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from .queries import Expectation

_CHOICES = {
    "uow_leaks": ("error", "off"),
    "uow_access": ("open", "guarded"),
    "uow_isolation": ("off", "isolated", "truncated"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("flask_uow")
    group.addoption(
        "--uow-queries",
        action="store_true",
        help="show the tests that send the most SQL statements",
    )
    parser.addini(
        "uow_leaks",
        "whether a test fails that leaves a context, a session or a connection open:"
        " 'error' (default) or 'off'",
        default="error",
    )
    parser.addini(
        "uow_access",
        "whether a test may use the database without asking for it:"
        " 'open' (default), or 'guarded', with the mark and the fixture 'uow_access'",
        default="open",
    )
    parser.addini(
        "uow_isolation",
        "what happens after each test that uses the fixture 'app': 'off' (default), 'isolated':"
        " what it has done to the database is undone, or 'truncated': the tables are emptied",
        default="off",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "uow_access: the test may use the database, where 'uow_access' is 'guarded'"
    )
    config.addinivalue_line(
        "markers", "uow_isolated: what the test does to the database of its app is undone"
    )
    config.addinivalue_line(
        "markers", "uow_truncated: the tables of the models are emptied after the test"
    )
    for name, choices in _CHOICES.items():
        if config.getini(name) not in choices:
            raise pytest.UsageError(
                f"{name} is {config.getini(name)!r} in the configuration of pytest. Write one of"
                f" {' or '.join(map(repr, choices))}."
            )
    if config.getoption("uow_queries"):
        from .queries import QueryReport

        config.pluginmanager.register(QueryReport(), "uow_queries")
    if config.getini("uow_leaks") == "error":
        from .leaks import LeakCheck

        config.pluginmanager.register(LeakCheck(), "uow_leaks")
    if config.getini("uow_access") == "guarded":
        from .access import AccessGuard

        config.pluginmanager.register(AccessGuard(), "uow_access")


@pytest.fixture
def assert_queries(request: pytest.FixtureRequest) -> Callable[[int], Expectation]:
    """Check the number of statements.

    ::

        with assert_queries(2):
            client.get("/posts")

    The app is that of the suite's fixture ``app``. The failure lists the statements, each with the
    line that sent it. What counts: see :func:`flask_uow.testing.count_queries`.
    """
    from . import queries

    return queries.exactly(request)


@pytest.fixture
def assert_max_queries(request: pytest.FixtureRequest) -> Callable[[int], Expectation]:
    """Check that no more statements than this are sent, as :func:`assert_queries`."""
    from . import queries

    return queries.at_most(request)


@pytest.fixture
def uow_access() -> None:
    """Let the test use the database, where ``uow_access`` is ``guarded``.

    For the fixtures of a suite: a test that requests one of them need not be marked.
    """


@pytest.fixture
def uow_isolated(request: pytest.FixtureRequest, uow_access: None) -> Iterator[None]:
    """Undo at the end what the test has done to the databases of its ``app``.

    See :func:`flask_uow.testing.isolated`. Each example of a Hypothesis test begins with what the
    fixtures have prepared.
    """
    from . import isolation

    yield from isolation.isolated(request)


@pytest.fixture
def uow_truncated(request: pytest.FixtureRequest, uow_access: None) -> Iterator[None]:
    """Empty the tables after the test; see :func:`flask_uow.testing.truncated`."""
    from . import isolation

    yield from isolation.truncated(request)


@pytest.fixture
def uow_commit_before_requests(request: pytest.FixtureRequest, uow_access: None) -> Iterator[None]:
    """Let requests find rows that the test has not committed.

    It hides a missing commit; see :func:`flask_uow.testing.commit_before_requests`.
    """
    from . import isolation

    yield from isolation.commits_before_requests(request)


@pytest.fixture(autouse=True)
def _uow_isolation(request: pytest.FixtureRequest) -> None:
    # A fixture, so that it comes before those of the suite that need the same app: their rows are
    # undone as well.
    from . import isolation

    way = isolation.way_of(request)
    if way != "off":
        request.getfixturevalue(f"uow_{way}")


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Isolate each example of a Hypothesis test."""
    if not hasattr(pyfuncitem.obj, "hypothesis"):
        return (yield)
    from . import isolation

    with isolation.each_example(pyfuncitem):
        return (yield)
