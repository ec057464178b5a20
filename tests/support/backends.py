"""The other connections to a database, by the numbers under which the server knows them."""

from __future__ import annotations

import re

from sqlalchemy import Connection, text

_OTHERS = {
    "postgresql": "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
    " AND pid <> pg_backend_pid()",
    "mariadb": "SELECT id FROM information_schema.processlist WHERE db = database()"
    " AND id <> connection_id()",
}
_THREAD = re.compile(r"^\w+ thread id (\d+),", re.MULTILINE)


def backends(connection: Connection) -> list[int]:
    """All of them, but not *connection* itself."""
    return list(connection.scalars(text(_OTHERS[connection.dialect.name])))


def in_transaction(connection: Connection) -> list[int]:
    """Those that are in a transaction."""
    if connection.dialect.name == "postgresql":
        return list(connection.scalars(text(f"{_OTHERS['postgresql']} AND xact_start IS NOT NULL")))
    # Not information_schema.innodb_trx: InnoDB keeps what it has returned there, and returns it
    # again until 0.1 seconds have passed without a question of any client.
    status = connection.exec_driver_sql("SHOW ENGINE INNODB STATUS").one()[2]
    active = set(map(_active_thread, status.split("---TRANSACTION ")[1:]))
    return [number for number in backends(connection) if number in active]


def _active_thread(entry: str) -> int | None:
    """The thread of a line such as ``87, ACTIVE 3 sec`` and those after it."""
    found = _THREAD.search(entry) if ", ACTIVE" in entry.partition("\n")[0] else None
    return int(found[1]) if found else None
