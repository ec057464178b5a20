"""Statements that are carried out once more, after a savepoint around them was rolled back.

``db.independent()`` commits while the unit around it continues; if that unit is rolled back, the
rows stay. Where both share one connection, the rollback to the savepoint of the unit undoes them.
So the statements of the inner transaction are noted, and sent again after the rollback. They get
the same generated keys as the first time, because the code may have used them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any, NamedTuple

_SEQUENCES = (
    "SELECT quote_ident(schemaname) || '.' || quote_ident(sequencename),"
    " coalesce(last_value, start_value), last_value IS NOT NULL FROM pg_sequences"
)


class _Statement(NamedTuple):
    """
    :ivar method: of the cursor: ``"execute"`` or ``"executemany"``.
    :ivar key: the first key that MariaDB or MySQL has generated; 0 for none.
    """

    method: str
    text: object
    parameters: tuple[Any, ...]
    key: int


class Log:
    """What one transaction has sent.

    :param cursor: opens a cursor of the driver.
    :param is_postgresql: keys come from sequences, which no rollback sets back.
    """

    def __init__(self, cursor: Callable[[], Any], *, is_postgresql: bool) -> None:
        self._cursor = cursor
        self._sequences = self._read_sequences() if is_postgresql else {}
        self._statements: list[_Statement] = []

    def note(self, cursor: Any, method: str, text: object, parameters: tuple[Any, ...]) -> None:
        """Note a statement that *cursor* has sent."""
        key = 0 if self._sequences else getattr(cursor, "lastrowid", None) or 0
        self._statements.append(_Statement(method, text, parameters, key))

    def run_again(self) -> None:
        """Send the statements again."""
        after = self._read_sequences() if self._sequences else {}
        changed = {name: at for name, at in self._sequences.items() if after.get(name) != at}
        self._set(changed)
        with closing(self._cursor()) as cursor:
            for statement in self._statements:
                if statement.key:
                    cursor.execute(f"SET insert_id = {statement.key:d}")
                getattr(cursor, statement.method)(statement.text, *statement.parameters)
        self._set({name: after[name] for name in changed if name in after})

    def _read_sequences(self) -> dict[str, tuple[int, bool]]:
        with closing(self._cursor()) as cursor:
            cursor.execute(_SEQUENCES)
            return {name: (value, is_called) for name, value, is_called in cursor.fetchall()}

    def _set(self, values: dict[str, tuple[int, bool]]) -> None:
        with closing(self._cursor()) as cursor:
            for name, (value, is_called) in values.items():
                cursor.execute("SELECT setval(%s, %s, %s)", (name, value, is_called))
