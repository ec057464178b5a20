"""Oracle: python-oracledb, from its documentation only."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .base import CONFLICT, DISCONNECTED, UNNAMED, Driver, Meaning, Missing

_ORACLE = {
    60: CONFLICT,  # deadlock
    8177: CONFLICT,  # serialization failure
    54: CONFLICT,  # NOWAIT, or a lock timeout of DDL
    30006: CONFLICT,  # lock timeout of FOR UPDATE WAIT
    28: DISCONNECTED,  # the session was killed
    1012: DISCONNECTED,  # not logged on
    3113: DISCONNECTED,  # end of file on communication channel
    3114: DISCONNECTED,  # not connected
    3135: DISCONNECTED,  # lost contact
}
_MISSING = {942: Missing.TABLE, 904: Missing.COLUMN}

# The words between depend on the language of the client.
_NAMED = re.compile(r"ORA-(?:00001|02290|02291|02292):[^(]*\([^.()]+\.(?P<name>[^()]+)\)")
_NOT_NULL = re.compile(r'ORA-(?:01400|01407):[^"]*"[^"]+"\."(?P<table>[^"]+)"\."(?P<column>[^"]+)"')


@dataclass(frozen=True)
class Oracle(Driver):
    def judge(self, error: BaseException) -> tuple[str | None, Meaning]:
        code: str | None = getattr(_details_of(error), "full_code", None)
        return code, _ORACLE.get(_number_of(error), UNNAMED)

    def missing_in(self, error: BaseException) -> Missing | None:
        return _MISSING.get(_number_of(error))

    def constraint_of(self, error: BaseException, statement: object) -> str | None:
        # A deferred constraint: ORA-02091 at COMMIT, with the error itself on the next line.
        text = str(error)
        if match := _NAMED.search(text):
            return _usual(match["name"])
        if match := _NOT_NULL.search(text):
            return f"{_usual(match['table'])}.{_usual(match['column'])}"
        return None


def _details_of(error: BaseException) -> object:
    return error.args[0] if error.args else None


def _number_of(error: BaseException) -> int:
    number = getattr(_details_of(error), "code", None)
    return number if isinstance(number, int) else 0


def _usual(name: str) -> str:
    """Return *name* as in the metadata: Oracle writes a name without quotes in capitals."""
    return name.lower() if name.isupper() else name


DRIVERS = (
    Oracle("oracledb", "oracledb", "oracledb"),
    Driver("cx_oracle", "cx_Oracle", "oracledb"),
)
