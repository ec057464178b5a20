"""Writes down, in order, what an engine does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, event


def record(engine: Engine, note: Callable[[str], object]) -> None:
    """Call *note* with a word for everything that happens on *engine* from now on.

    The words are BEGIN, COMMIT, ROLLBACK, the first word of each other statement, and checkout,
    checkin, discard for what becomes of connections.
    """

    def note_statement(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        note(statement.split(maxsplit=1)[0])

    listeners: dict[str, Callable[..., object]] = {
        "begin": lambda _: note("BEGIN"),
        "commit": lambda _: note("COMMIT"),
        "rollback": lambda _: note("ROLLBACK"),
        "before_cursor_execute": note_statement,
        "checkout": lambda *_: note("checkout"),
        "checkin": lambda *_: note("checkin"),
        "invalidate": lambda *_: note("discard"),
    }
    for name, listener in listeners.items():
        event.listen(engine, name, listener)
