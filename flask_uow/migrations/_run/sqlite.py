"""SQLite does not enforce foreign keys during a migration, so they are looked at behind it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from ...errors import MigrationError

_MISMATCH = "foreign key mismatch"


class ForeignKeys:
    """What is wrong with them on one connection; what was so before the migration may stay."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._before = self._wrong()

    def check(self) -> None:
        """
        :raises MigrationError: there is more wrong than before.
        """
        now = self._wrong()
        more = now - self._before
        # Not each by itself: a table that is renamed takes its old orphans along.
        if sum(now.values()) > sum(self._before.values()):
            raise MigrationError(next(iter(more)))
        self._before = now

    def _wrong(self) -> Counter[str]:
        try:
            return Counter(self._orphans("PRAGMA foreign_key_check"))
        except OperationalError as error:
            if _MISMATCH not in str(error.orig):
                raise
        found: Counter[str] = Counter()
        for (table,) in self._rows("SELECT name FROM sqlite_master WHERE type = 'table'"):
            quoted = str(table).replace('"', '""')
            try:
                found.update(self._orphans(f'PRAGMA foreign_key_check("{quoted}")'))
            except OperationalError as error:
                if _MISMATCH not in str(error.orig):
                    raise
                found[f"A foreign key would refer to columns that are not unique: {error.orig}"] = 1
        return found

    def _orphans(self, pragma: str) -> Iterator[str]:
        for row in self._rows(pragma):
            yield f"Rows of {row[0]!r} would point to rows of {row[2]!r} that do not exist"

    def _rows(self, statement: str) -> list[Any]:
        return list(self._connection.exec_driver_sql(statement).all())
