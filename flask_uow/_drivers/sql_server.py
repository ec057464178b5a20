"""SQL Server: pyodbc and pymssql, from their documentation only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .base import CONFLICT, DISCONNECTED, UNNAMED, Driver, Meaning

_SQL_SERVER: Mapping[object, Meaning] = {
    "40001": CONFLICT,  # deadlock, as ODBC reports it
    1205: CONFLICT,  # deadlock
    1222: CONFLICT,  # lock timeout
    3960: CONFLICT,  # snapshot isolation
    "08S01": DISCONNECTED,
    "08001": DISCONNECTED,
}


@dataclass(frozen=True)
class SQLServer(Driver):
    def judge(self, error: BaseException) -> tuple[str | None, Meaning]:
        code = error.args[0] if error.args else None
        if not isinstance(code, (int, str)):
            return None, UNNAMED
        return str(code), _SQL_SERVER.get(code, UNNAMED)


DRIVERS = (
    SQLServer("pyodbc", "pyodbc", "pyodbc"),
    SQLServer("pymssql", "pymssql", "pymssql"),
)
