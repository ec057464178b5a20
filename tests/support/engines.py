"""All engines of a test: how many of their connections are checked out, and their end.

What a test leaves open is found by the package's own pytest plugin (``uow_leaks``).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine, Pool, event

_checked_out: set[Any] = set()
_engines: set[Engine] = set()
_kept: set[Engine] = set()


@event.listens_for(Pool, "checkout")
def _note_checkout(_dbapi: Any, record: Any, _proxy: Any) -> None:
    _checked_out.add(record)


@event.listens_for(Pool, "detach")  # it belongs to no pool any more
@event.listens_for(Pool, "checkin")
def _note_checkin(_dbapi: Any, record: Any) -> None:
    _checked_out.discard(record)


@event.listens_for(Engine, "engine_connect")
def _note_engine(connection: Connection) -> None:
    if connection.engine not in _kept:
        _engines.add(connection.engine)


def keep(engine: Engine) -> None:
    """Let *engine*, which belongs to no test, have connections for the next test."""
    _kept.add(engine)


def checked_out() -> int:
    """How many connections, of any engine, are checked out of their pools."""
    return len(_checked_out)


def forget() -> None:
    """Start anew: what happened before belongs to somebody else."""
    _checked_out.clear()
    _engines.clear()


def dispose() -> None:
    """Close the pools of all engines since :func:`forget`, those of plain SQLAlchemy included.

    The plugin does not know those, so a connection of theirs that is left open is found here.
    """
    left_open = len(_checked_out)
    for engine in _engines:
        engine.dispose()
    forget()
    assert not left_open, f"{left_open} connection(s) checked out"
