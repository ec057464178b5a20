"""Errors as the databases raise them.

On a server the server itself raises them: ``RAISE`` and ``SIGNAL`` give an error any code. So its
class, its code and its fields are those of the driver that is in use, and PostgreSQL's transaction
is aborted as it would be. SQLite has no such statement, and its errors are plain objects.

Nothing here knows Flask or sessions.
"""

from __future__ import annotations

import contextlib
import socket
import sqlite3
from typing import Any, cast

from sqlalchemy import String
from sqlalchemy.engine import Dialect

from .._drivers.known import driver_of
from .._sqlite import explain
from ..errors import ConfigError

_POSTGRESQL = """
    DO LANGUAGE plpgsql $on_demand$ BEGIN
    RAISE EXCEPTION USING ERRCODE = {code}, MESSAGE = {text}, CONSTRAINT = {name}; END $on_demand$
"""
_MYSQL = "SIGNAL SQLSTATE {state} SET MYSQL_ERRNO = {code}, MESSAGE_TEXT = {text}"
_RAISE = {"postgresql": _POSTGRESQL, "mysql": _MYSQL, "mariadb": _MYSQL}
# In these words the drivers report it where the socket itself has nothing to say.
_LOST: dict[str, tuple[object, ...]] = {
    "postgresql": ("server closed the connection unexpectedly",),
    "mysql": (2013, "Lost connection to MySQL server during query"),
    "mariadb": (2013, "Lost connection to MySQL server during query"),
}


def refuse_unknown(dialect: Dialect) -> None:
    """
    :raises ConfigError: the kit does not know the errors of this database.
    """
    if dialect.name not in {*_RAISE, "sqlite"}:
        raise ConfigError(
            f"This failure cannot be made on {dialect.name!r}: the testing kit knows the errors of"
            " SQLite, PostgreSQL, MariaDB and MySQL. Give 'testing.fail_commit(db, error)' an error"
            " of your own."
        )


def is_shared(connection: Any) -> bool:
    """Tell whether *connection* stands in for one that the code of a test shares.

    A stand-in says so by its attribute ``is_shared``. What it does in a transaction it can undo,
    and the connection that it stands for has to stay as it is.
    """
    return getattr(connection, "is_shared", False) is True


def violate(dialect: Dialect, connection: Any, constraint: str) -> None:
    """Raise the error of a unique constraint.

    :raises Exception: that error.
    """
    if dialect.name == "sqlite":
        # Not "UNIQUE constraint failed": SQLite names the columns of such a constraint.
        text = f"CHECK constraint failed: {constraint}"
        raise _sqlite(sqlite3.IntegrityError, text, "CONSTRAINT_CHECK", 275)
    if dialect.name == "postgresql":
        code, text = "23505", f'duplicate key value violates unique constraint "{constraint}"'
    else:
        code, text = "1062", f"Duplicate entry 'on demand' for key '{constraint}'"
    cursor = connection.cursor()
    # Inside a savepoint: the failed COMMIT itself does not abort what isolation has around it.
    cursor.execute("SAVEPOINT on_demand")
    try:
        cursor.execute(_raising(dialect, code, text, state="23000", name=constraint))
    finally:
        cursor.execute("ROLLBACK TO SAVEPOINT on_demand")
        cursor.close()


def deadlock(dialect: Dialect, connection: Any) -> None:
    """Raise the error for the victim of a deadlock, whose transaction the server has ended.

    :raises Exception: that error.
    """
    if dialect.name == "sqlite":
        raise explain.locked("'testing.deadlock_once' has asked for this conflict.")
    if dialect.name == "postgresql":
        code, text = "40P01", "deadlock detected"
    else:
        code, text = "1213", "Deadlock found when trying to get lock; try restarting transaction"
        if is_shared(connection):
            # Nothing is sent: PyMySQL's connection is made to note a deadlock, and would keep it.
            raise _error(dialect, 1213, text)
        connection.rollback()
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute(_raising(dialect, code, text, state="40001"))


def lose(dialect: Dialect, connection: Any) -> None:
    """Cut *connection*, so that its next use fails as after a restart of the server.

    :raises Exception: on SQLite an I/O error; inside isolation the error of a lost connection.
        There the tests share one connection, which has to stay.
    """
    if dialect.name == "sqlite":
        raise _sqlite(sqlite3.OperationalError, "disk I/O error", "IOERR", 10)
    if is_shared(connection):
        raise _error(dialect, *_LOST[dialect.name])
    descriptor = driver_of(dialect).descriptor_of(connection)
    if descriptor is None:
        connection.close()
        return
    end = socket.socket(fileno=descriptor())
    try:
        end.shutdown(socket.SHUT_RDWR)
    finally:
        end.detach()  # the driver closes it


def use(connection: Any) -> None:
    """Ask the server something.

    :raises Exception: the connection is lost.
    """
    connection.cursor().execute("SELECT 1")


def _raising(dialect: Dialect, code: str, text: str, *, state: str, name: str = "") -> str:
    quote = cast(Any, String()).literal_processor(dialect)
    literals = {"text": quote(text), "state": quote(state), "name": quote(name)}
    is_number = dialect.name != "postgresql"
    return _RAISE[dialect.name].format(code=code if is_number else quote(code), **literals)


def _error(dialect: Dialect, *arguments: object) -> Exception:
    error: Exception = cast(Any, dialect.loaded_dbapi).OperationalError(*arguments)
    return error


def _sqlite(kind: type[sqlite3.Error], text: str, name: str, code: int) -> sqlite3.Error:
    error: Any = kind(text)
    error.sqlite_errorname, error.sqlite_errorcode = f"SQLITE_{name}", code
    return cast(sqlite3.Error, error)
