"""SQLite: Python's own driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from . import constraints
from .base import (
    CONFLICT,
    DISCONNECTED,
    STOPPED,
    UNNAMED,
    WRONG,
    Driver,
    Meaning,
    Missing,
    is_integer_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import UpdateBase
    from sqlalchemy.engine.interfaces import DBAPIConnection

# By the name of the primary code: SQLITE_BUSY_SNAPSHOT is a SQLITE_BUSY. An error without a row is
# WRONG: SQLite has no server that could continue after the error.
_SQLITE = {
    "SQLITE_BUSY": CONFLICT,  # also at COMMIT, because of a reader (rollback journal)
    "SQLITE_LOCKED": CONFLICT,  # the same, between connections with a shared cache
    "SQLITE_PROTOCOL": CONFLICT,  # documentation: a race for the locks of the WAL
    "SQLITE_INTERRUPT": STOPPED,
    "SQLITE_IOERR": UNNAMED,  # documentation: a COMMIT may be in the file, and fsync have failed
}
# Python 3.10 does not expose the code. SQLite does not translate its messages.
_SQLITE_TEXTS = {
    "database is locked": "SQLITE_BUSY",
    "database table is locked": "SQLITE_LOCKED",
    "database schema is locked": "SQLITE_LOCKED",
    "locking protocol": "SQLITE_PROTOCOL",
    "interrupted": "SQLITE_INTERRUPT",
    "disk I/O error": "SQLITE_IOERR",
    "database or disk is full": "SQLITE_FULL",
    "attempt to write a readonly database": "SQLITE_READONLY",
    "unable to open database file": "SQLITE_CANTOPEN",
    "database disk image is malformed": "SQLITE_CORRUPT",
    "file is not a database": "SQLITE_NOTADB",
}
_MISSING = {
    "no such table: ": Missing.TABLE,
    "no such column: ": Missing.COLUMN,
    " has no column named ": Missing.COLUMN,  # in an INSERT
}


@dataclass(frozen=True)
class SQLite(Driver):
    """SQLite itself rolls back a transaction after a full disk or for ``ON CONFLICT ROLLBACK``.

    Connections of flask_uow's class notice it; the option ``creator`` may return other ones.
    """

    def is_aborted(self, connection: object, error: BaseException | None) -> bool:
        return getattr(connection, "has_lost", False)

    def is_open(self, connection: object) -> bool:
        return getattr(connection, "in_transaction", False)

    def roll_back(self, connection: DBAPIConnection) -> None:
        undo: Callable[[], None] = getattr(connection, "undo", connection.rollback)
        undo()

    defers: ClassVar[bool] = True
    # An open cursor keeps its snapshot, and would keep the unit from writing later.
    is_lazy: ClassVar[bool] = True

    def may_read_plainly(self, connection: Any, info: dict[Any, Any]) -> bool:
        return not connection.in_transaction and connection.isolation_level is not None

    def can_compare(self, value: int | str, bits: int) -> bool:
        return isinstance(value, str) or is_integer_of(value, 64)

    def code_of(self, error: BaseException) -> str | None:
        name: str | None = getattr(error, "sqlite_errorname", None)
        if name is not None:
            return name
        text = str(error)
        names = (name for start, name in _SQLITE_TEXTS.items() if text.startswith(start))
        return next(names, "SQLITE_CONSTRAINT" if "constraint failed" in text else None)

    def judge(self, error: BaseException) -> tuple[str | None, Meaning]:
        name = self.code_of(error)
        if name is None:  # a misuse of the module
            return None, DISCONNECTED if "closed database" in str(error) else UNNAMED
        primary = "_".join(name.split("_")[:2])
        return name, _SQLITE.get(primary, WRONG)

    def missing_in(self, error: BaseException) -> Missing | None:
        text = str(error)
        return next((what for words, what in _MISSING.items() if words in text), None)

    def constraint_of(self, error: BaseException, statement: UpdateBase | None) -> str | None:
        kind, found, detail = str(error).partition(" constraint failed")
        if not found:
            return None
        detail = detail.removeprefix(": ")
        if kind == "FOREIGN KEY":
            return constraints.name_of_foreign_key(statement)
        if kind == "UNIQUE":
            return _unique_name(detail, statement)
        return detail if kind in {"CHECK", "NOT NULL"} and detail else None


def _unique_name(detail: str, statement: UpdateBase | None) -> str:
    """Return the name of the constraint whose columns SQLite names, as ``a.b, a.c``."""
    if detail.startswith("index '"):  # on an expression
        return detail.removeprefix("index '").removesuffix("'")
    table, _, _ = detail.partition(".")
    columns = [column.removeprefix(f"{table}.") for column in detail.split(", ")]
    found = constraints.table_of(statement, table)
    return constraints.name_of_unique(found, columns) or detail


DRIVERS = (SQLite("pysqlite", "sqlite3"),)
