"""Which connections of a server are in a transaction."""

from __future__ import annotations

import re

from sqlalchemy import Connection, text

_POSTGRESQL = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
    " AND pid <> pg_backend_pid() AND xact_start IS NOT NULL"
)
_OF_THIS_DATABASE = "SELECT id FROM information_schema.processlist WHERE db = database()"
_THREAD = re.compile(r"^\w+ thread id (\d+),", re.MULTILINE)


def in_transaction(connection: Connection) -> list[int]:
    """The server's numbers of the connections to this database that are in a transaction."""
    if connection.dialect.name == "postgresql":
        return list(connection.scalars(text(_POSTGRESQL)))
    # Not information_schema.innodb_trx: InnoDB keeps what it has returned there, and returns it
    # again until 0.1 seconds have passed without a question of any client.
    status = connection.exec_driver_sql("SHOW ENGINE INNODB STATUS").one()[2]
    own = set(connection.scalars(text(_OF_THIS_DATABASE)))
    threads = (_active_thread(entry) for entry in status.split("---TRANSACTION ")[1:])
    return [thread for thread in threads if thread is not None and thread in own]


def _active_thread(entry: str) -> int | None:
    """The thread of a line such as ``87, ACTIVE 3 sec`` and those after it."""
    found = _THREAD.search(entry) if ", ACTIVE" in entry.partition("\n")[0] else None
    return int(found[1]) if found else None
