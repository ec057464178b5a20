"""The leak detector: after a test no context is pushed and no connection is checked out."""

from __future__ import annotations

from typing import Any

import flask.globals
from sqlalchemy import Connection, Engine, Pool, event

_checked_out: set[Any] = set()
_engines: set[Engine] = set()


@event.listens_for(Pool, "checkout")
def _note_checkout(_dbapi: Any, record: Any, _proxy: Any) -> None:
    _checked_out.add(record)


@event.listens_for(Pool, "detach")  # it belongs to no pool any more
@event.listens_for(Pool, "checkin")
def _note_checkin(_dbapi: Any, record: Any) -> None:
    _checked_out.discard(record)


@event.listens_for(Engine, "engine_connect")
def _note_engine(connection: Connection) -> None:
    _engines.add(connection.engine)


def checked_out() -> int:
    """How many connections, of any engine, are checked out of their pools."""
    return len(_checked_out)


def forget() -> None:
    """Start anew: what happened before belongs to somebody else."""
    _checked_out.clear()
    _engines.clear()


def check() -> None:
    """Fail if anything leaked since :func:`forget`, and clean up either way."""
    leaks = [f"still pushed: {context}" for context in _pop_contexts()]
    if _checked_out:
        leaks.append(f"{len(_checked_out)} connection(s) checked out")
    for engine in _engines:
        engine.dispose()
    forget()
    assert not leaks, f"the test leaked: {'; '.join(leaks)}"


def _pop_contexts() -> list[str]:
    found = []
    for name in ("_cv_request", "_cv_app"):
        variable = getattr(flask.globals, name, None)
        while variable is not None and (context := variable.get(None)) is not None:
            found.append(repr(context))
            context.pop(None)
    return found
