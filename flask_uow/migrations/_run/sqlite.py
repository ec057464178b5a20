"""SQLite does not enforce foreign keys during a migration, so they are checked after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from ...errors import MigrationError

_MISMATCH = "foreign key mismatch"


class ForeignKeys:
    """The broken foreign keys of one database; those from before the migration may stay."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._before = self._broken()

    def check(self) -> None:
        """Compare with the state before the revision.

        :raises MigrationError: more of them are broken now.
        """
        now = self._broken()
        more = now - self._before
        # Not each by itself: a table that is renamed takes its old orphans along.
        if sum(now.values()) > sum(self._before.values()):
            raise MigrationError(next(iter(more)))
        self._before = now

    def _broken(self) -> Counter[str]:
        try:
            return Counter(self._orphans("PRAGMA foreign_key_check"))
        except OperationalError as error:
            if _MISMATCH not in str(error.orig):
                raise
        broken: Counter[str] = Counter()
        for (table,) in self._rows("SELECT name FROM sqlite_master WHERE type = 'table'"):
            quoted = str(table).replace('"', '""')
            try:
                broken.update(self._orphans(f'PRAGMA foreign_key_check("{quoted}")'))
            except OperationalError as error:
                if _MISMATCH not in str(error.orig):
                    raise
                sentence = f"A foreign key would refer to columns that are not unique: {error.orig}"
                broken[sentence] = 1
        return broken

    def _orphans(self, pragma: str) -> Iterator[str]:
        for row in self._rows(pragma):
            yield f"Rows of {row[0]!r} would point to rows of {row[2]!r} that do not exist"

    def _rows(self, statement: str) -> Sequence[Any]:
        return self._connection.exec_driver_sql(statement).all()
