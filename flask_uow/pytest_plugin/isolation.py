"""Tests whose work is undone: ``uow_isolation``, and a mark or fixture for one test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pytest

from .queries import app_of

_WAYS = ("isolated", "truncated")
_KEY = pytest.StashKey[tuple[Any, Any]]()  # the Database and the app of a test that is isolated


def way_of(request: pytest.FixtureRequest) -> str:
    """Return how the test of *request* is kept apart: by its mark, or by the option."""
    marked = [way for way in _WAYS if request.node.get_closest_marker(f"uow_{way}")]
    if len(marked) > 1:
        raise pytest.UsageError(
            f"{request.node.nodeid} has the marks 'uow_isolated' and 'uow_truncated'. Keep one."
        )
    if marked:
        return marked[0]
    way: str = request.config.getini("uow_isolation")
    return way if "app" in request.fixturenames else "off"


def isolated(request: pytest.FixtureRequest) -> Iterator[None]:
    """Isolate the test of *request* until its end."""
    from .. import testing

    db, app = _database_and_app(request)
    with testing.isolated(db, app=app):
        request.node.stash[_KEY] = db, app
        yield
        del request.node.stash[_KEY]


def truncated(request: pytest.FixtureRequest) -> Iterator[None]:
    """Empty the tables after the test of *request*."""
    from .. import testing

    db, app = _database_and_app(request)
    with testing.truncated(db, app=app):
        yield


def commits_before_requests(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let the requests of a test find what it has not committed."""
    from .. import testing

    db, app = _database_and_app(request)
    with testing.commit_before_requests(db, app=app):
        yield


def _database_and_app(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    from ..testing.targets import database_of

    app = app_of(request)
    return database_of(app), app


@contextmanager
def each_example(item: pytest.Function) -> Iterator[None]:
    """Let each example of a Hypothesis test begin with what the fixtures have prepared."""
    if _KEY not in item.stash:
        yield
        return
    from ..testing.isolation import undone

    db, app = item.stash[_KEY]
    handle = item.obj.hypothesis  # what Hypothesis offers to plugins
    original = handle.inner_test

    @wraps(original)
    def example(*args: Any, **kwargs: Any) -> Any:
        with undone(db, app=app):
            return original(*args, **kwargs)

    handle.inner_test = example
    try:
        yield
    finally:
        handle.inner_test = original
