"""SQL Server: pyodbc and pymssql, from their documentation only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .base import CONFLICT, DISCONNECTED, UNNAMED, Driver, Meaning, Missing

_SQL_SERVER: Mapping[object, Meaning] = {
    "40001": CONFLICT,  # deadlock, as ODBC reports it
    1205: CONFLICT,  # deadlock
    1222: CONFLICT,  # lock timeout
    3960: CONFLICT,  # snapshot isolation
    "08S01": DISCONNECTED,
    "08001": DISCONNECTED,
}
_MISSING: Mapping[object, Missing] = {
    "42S02": Missing.TABLE,
    208: Missing.TABLE,
    "42S22": Missing.COLUMN,
    207: Missing.COLUMN,
}

# The first name in the text: a value that a client has sent may follow.
_NAMED = re.compile(
    r"""(?:(?:KEY|CHECK|REFERENCE|TABLE) constraint|unique index) ['"](?P<name>[^'"]+)['"]"""
)
_NOT_NULL = re.compile(r"NULL into column '(?P<column>[^']+)', table '(?P<table>[^']+)'")


@dataclass(frozen=True)
class SQLServer(Driver):
    def judge(self, error: BaseException) -> tuple[str | None, Meaning]:
        code = error.args[0] if error.args else None
        if not isinstance(code, (int, str)):
            return None, UNNAMED
        return str(code), _SQL_SERVER.get(code, UNNAMED)

    def missing_in(self, error: BaseException) -> Missing | None:
        code = error.args[0] if error.args else None
        return _MISSING.get(code) if isinstance(code, (int, str)) else None

    def constraint_of(self, error: BaseException, statement: object) -> str | None:
        text = " ".join(map(_text_of, error.args))
        if match := _NAMED.search(text):
            return match["name"]
        if match := _NOT_NULL.search(text):
            return f"{match['table'].rpartition('.')[2]}.{match['column']}"
        return None


def _text_of(part: object) -> str:
    return part.decode(errors="replace") if isinstance(part, bytes) else str(part)  # pymssql


DRIVERS = (
    SQLServer("pyodbc", "pyodbc", "pyodbc"),
    SQLServer("pymssql", "pymssql", "pymssql"),
)
