"""Rows of a test that a request finds though they were not committed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from flask import Flask
from sqlalchemy.orm import Session, scoped_session

from .targets import HasEngines


class HasSession(HasEngines, Protocol):
    """A ``Database``."""

    @property
    def session(self) -> scoped_session[Session]:
        """The session of the current unit."""
        ...


@contextmanager
def commit_before_requests(db: HasSession, *, app: Flask) -> Iterator[None]:
    """Let each request find the rows that the test has added and not committed.

    Before a request of *app* begins, the session of the context around it is committed. For a suite
    that relies on one session for test and request. It hides that the test forgot a commit, and
    that code under test would have found nothing in production.
    """
    original = app.wsgi_app

    def committing(environ: Any, start_response: Any) -> Any:
        unit = db.current_unit()
        if unit is not None and unit.has_work:
            db.session.commit()
        return original(environ, start_response)

    app.wsgi_app = committing  # type: ignore[method-assign]
    try:
        yield
    finally:
        app.wsgi_app = original  # type: ignore[method-assign]
