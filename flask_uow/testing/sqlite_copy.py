"""A copy of a SQLite file, in place of the file, for the time of a test.

The code has real transactions, locks and threads, as in production, and the file itself is not
touched. A copy takes about a millisecond per megabyte.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Engine, event

from ..errors import IsolationError

_MEMORY = Path("/dev/shm")  # noqa: S108  # the folder in it gets a random name and mode 0700

_copies: WeakKeyDictionary[Engine, list[str]] = WeakKeyDictionary()
"""The paths of the copies that are in use, the innermost last."""


@contextmanager
def isolate(engine: Engine, name: str) -> Iterator[None]:
    """Let *engine* use a copy of its file.

    :raises IsolationError: the engine opens its connections by a function of the app's own.
    """
    pool = engine.pool
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        copy = f"{folder}/{Path(engine.url.database or 'memory').name}"
        _copy(engine, copy)
        opened: list[sqlite3.Connection] = []
        copies = _copies.setdefault(engine, [])
        is_outermost = not copies

        def connect(dialect: Any, _entry: Any, args: list[Any], options: dict[str, Any]) -> Any:
            # The last listener: what it returns is the connection.
            others = {name: value for name, value in options.items() if name != "uri"}
            return dialect.connect(copies[-1], *args[1:], **others)

        def note(connection: Any, _entry: Any) -> None:
            opened.append(connection)

        copies.append(copy)
        if is_outermost:
            event.listen(engine, "do_connect", connect)
        engine.pool = pool.recreate()
        event.listen(engine, "connect", note)
        try:
            with engine.connect() as connection:
                is_copy = connection.exec_driver_sql("PRAGMA database_list").one()[2] == copy
            if not is_copy:
                raise IsolationError(
                    f"The engine {name!r} opens its connections by a 'creator' of the app's own, so"
                    " they cannot be redirected to a copy of the file. Leave 'creator' out in"
                    " tests."
                )
            yield
        finally:
            copies.pop()
            if is_outermost:
                event.remove(engine, "do_connect", connect)
            engine.pool = pool
            # Also those that are still in use: what they commit would be lost silently.
            for one in opened:
                with suppress(sqlite3.ProgrammingError):  # it belongs to another thread alone
                    one.close()


def _copy(engine: Engine, path: str) -> None:
    # By SQLite's own function: the file alone may lack what is in the write-ahead log.
    with closing(engine.raw_connection()) as source, closing(sqlite3.connect(path)) as target:
        source.driver_connection.backup(target)  # type: ignore[union-attr]
