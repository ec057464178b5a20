"""Oracle: python-oracledb, from its documentation only."""

from __future__ import annotations

from dataclasses import dataclass

from .base import CONFLICT, DISCONNECTED, UNNAMED, Driver, Meaning

_ORACLE = {
    60: CONFLICT,  # deadlock
    8177: CONFLICT,  # serialization failure
    28: DISCONNECTED,  # the session was killed
    1012: DISCONNECTED,  # not logged on
    3113: DISCONNECTED,  # end of file on communication channel
    3114: DISCONNECTED,  # not connected
    3135: DISCONNECTED,  # lost contact
}


@dataclass(frozen=True)
class Oracle(Driver):
    def judge(self, error: BaseException) -> tuple[str | None, Meaning]:
        details = error.args[0] if error.args else None
        number = getattr(details, "code", None)
        code: str | None = getattr(details, "full_code", None)
        return code, _ORACLE.get(number, UNNAMED) if isinstance(number, int) else UNNAMED


DRIVERS = (
    Oracle("oracledb", "oracledb", "oracledb"),
    Driver("cx_oracle", "cx_Oracle", "oracledb"),
)
