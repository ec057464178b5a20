"""``get_recorded_queries()``: what the current context has sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flask import current_app

from .._engine.recording import RecordedQuery


@dataclass
class _QueryInfo:
    """A statement that has succeeded.

    :ivar parameters: a list of tuples or dicts, with one item if the statement was sent once.
    :ivar start_time: as ``time.perf_counter()``, in seconds; so is ``end_time``.
    :ivar location: the file, the line and the function of the app that sent it.
    """

    statement: str | None
    parameters: Any
    start_time: float
    end_time: float
    location: str

    @property
    def duration(self) -> float:
        """Seconds, without those in which the rows were fetched."""
        return self.end_time - self.start_time


def get_recorded_queries() -> list[_QueryInfo]:
    """Return the statements of the current context, the oldest first.

    Empty unless ``SQLALCHEMY_RECORD_QUERIES`` is true. ``db.recorded_queries()`` has those that
    failed, too.
    """
    db = current_app.extensions["sqlalchemy"]
    return [_info(query) for query in db.recorded_queries() if query.error is None]


def _info(query: RecordedQuery) -> _QueryInfo:
    parameters = query.parameters if isinstance(query.parameters, list) else [query.parameters]
    place, _, function = query.location.rpartition(" in ")
    location = f"{place} ({function.rpartition('.')[2]})" if place else query.location
    return _QueryInfo(query.statement, parameters, query.start_time, query.end_time, location)
