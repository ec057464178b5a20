"""What the connections of a migration get, and lose when they go back to their pool.

By events of the pool, because an ``env.py`` that somebody else has written takes them from there;
for this thread alone, because requests may be running in others.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from sqlalchemy import Engine, event


@contextlib.contextmanager
def prepared(
    engines: Mapping[str, Engine], *, lock_timeout: float | None, statement_timeout: float | None
) -> Iterator[None]:
    """For the connections that this thread takes inside the block.

    On SQLite foreign keys are not enforced: 'batch' migrations drop a table and rename its copy,
    and the drop would delete, or cascade to, every row that points to it.

    :param lock_timeout: seconds that a statement waits for a lock; None for what is set.
    :param statement_timeout: seconds that a statement may take.
    """
    with contextlib.ExitStack() as stack:
        for engine in {id(engine.pool): engine for engine in engines.values()}.values():
            name = engine.dialect.name
            if getattr(engine.dialect, "is_mariadb", False):
                name = "mariadb"  # also behind a URL that says 'mysql'
            if name == "sqlite":
                stack.enter_context(_while_taken(engine, _without_foreign_keys))
                continue
            settings = _settings_of(name, lock_timeout, statement_timeout)
            if settings:
                stack.enter_context(_while_taken(engine, partial(_with, settings)))
        yield


@contextlib.contextmanager
def _while_taken(engine: Engine, take: Callable[[Any], Callable[[Any], None]]) -> Iterator[None]:
    """Call *take* with each connection, and what that has returned when it goes back."""
    thread = threading.get_ident()
    taken: dict[int, Callable[[Any], None]] = {}

    def on_checkout(connection: Any, record: Any, _proxy: object) -> None:
        if threading.get_ident() == thread and id(record) not in taken:
            taken[id(record)] = take(connection)

    def on_checkin(connection: Any, record: Any) -> None:
        give = taken.pop(id(record), None)
        if give is not None and connection is not None:
            give(connection)

    event.listen(engine.pool, "checkout", on_checkout)
    event.listen(engine.pool, "checkin", on_checkin)
    try:
        yield
    finally:
        event.remove(engine.pool, "checkout", on_checkout)
        event.remove(engine.pool, "checkin", on_checkin)


def _without_foreign_keys(connection: Any) -> Callable[[Any], None]:
    (before,) = connection.execute("PRAGMA foreign_keys").fetchone()
    connection.execute("PRAGMA foreign_keys = 0")

    def restore(connection: Any) -> None:
        connection.execute(f"PRAGMA foreign_keys = {before}")

    return restore


def _settings_of(
    dialect: str, lock_timeout: float | None, statement_timeout: float | None
) -> dict[str, str]:
    """Names of the server's settings and their values."""
    found: dict[str, float | None] = {}
    if dialect == "postgresql":
        found = {"lock_timeout": lock_timeout, "statement_timeout": statement_timeout}
        found = {name: value and value * 1000 for name, value in found.items()}
    elif dialect == "mariadb":
        found = {"lock_wait_timeout": lock_timeout, "max_statement_time": statement_timeout}
    elif dialect == "mysql":
        found = {"lock_wait_timeout": lock_timeout}
    return {name: f"{max(1, round(value))}" for name, value in found.items() if value is not None}


def _with(settings: Mapping[str, str], connection: Any) -> Callable[[Any], None]:
    _run(connection, [f"SET SESSION {name} = {value}" for name, value in settings.items()])
    return lambda connection: _run(
        connection, [f"SET SESSION {name} = DEFAULT" for name in settings]
    )


def _run(connection: Any, statements: list[str]) -> None:
    with contextlib.closing(connection.cursor()) as cursor:
        for statement in statements:
            cursor.execute(statement)
    connection.commit()
