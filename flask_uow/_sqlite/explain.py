"""The sentences that extend SQLite's terse messages with the cause and the remedy.

Nothing here knows Flask or sessions.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

from sqlalchemy.engine import ExceptionContext

from .database import SqliteDatabase
from .write_queue import OwnTurn, QueueTimeout

# SQLite's own words; they are the same in every language.
LOCKED = "database is locked"
READ_ONLY = "attempt to write a readonly database"
MISSING = "unable to open database file"
FULL = "database or disk is full"

OUT_OF_DATE = (
    "this transaction began by reading, and what it has read is out of date: another transaction"
    " has written since, or is writing now. Nothing of it is stored. Call 'rollback()' and run"
    " the whole unit again, with the write lock from the start: a view for POST, PUT, PATCH or"
    " DELETE has it, and so does 'with db.atomic():'. Elsewhere write before you read, or set"
    " UOW_SQLITE_BEGIN = 'immediate' (readers then wait for writers)"
)


# What a connection opens: the database, its journal, log and shared memory, the queue.
_FILES = 5

CLOSE_FILES = (
    "Close each engine that is not used any more ('db.engine.dispose()'), or raise the limit of"
    " open files ('ulimit -n')"
)


def overwrites(column: str) -> str:
    """Say why a statement that changes *column* is refused."""
    return (
        f"the statement would overwrite {column!r} with an outdated value: a unit of work inside"
        " this one ('db.independent()', or one in an app context of its own) has changed the column"
        " since it was read, and has committed. Read it again ('db.session.refresh(...)'), or let"
        " the database compute it ('SET n = n + 1'), or do all the writing in one unit"
    )


class Replaced(sqlite3.OperationalError):
    """The connection is one to a file that has no name any more."""


def locked(text: str) -> sqlite3.OperationalError:
    """Return SQLite's own error for a lock that is not free, with more words."""
    error: Any = sqlite3.OperationalError(f"{LOCKED}: {text}")
    # Tables of errors look for these first. (Python 3.10 sets none.)
    error.sqlite_errorname, error.sqlite_errorcode = "SQLITE_BUSY", 5
    return cast(sqlite3.OperationalError, error)


def not_its_turn(
    error: QueueTimeout, database: SqliteDatabase, timeout: float
) -> sqlite3.OperationalError:
    """Return the error for a writer that has waited in the queue for too long."""
    if isinstance(error, OwnTurn) and error.lender is None:
        return locked(
            f"another task of this thread has the write lock of {database.name!r}, and a wait"
            " would stop the event loop, in which that task has to end first. Let the tasks that"
            " write run one after the other ('await' each), or in threads of their own"
            " ('asyncio.to_thread')"
        )
    if isinstance(error, OwnTurn):
        return locked(
            f"this thread has the write lock of {database.name!r} already, for another unit of work"
            " that has written and is still open, so it would wait for itself. Commit that one"
            " first, or do all the writing in it"
        )
    return locked(
        f"the write lock of {database.name!r} was held {error}, and did not become free within"
        f" {timeout:g} s (UOW_SQLITE_BUSY_TIMEOUT). A unit that writes keeps it until"
        " its commit: do slow work (mail, HTTP) before its first statement or after the commit"
    )


def extend(context: ExceptionContext, database: SqliteDatabase) -> None:
    """Extend the message of an error of SQLite, if there is more to say."""
    error, wrapped = context.original_exception, context.sqlalchemy_exception
    explain = _EXPLANATIONS.get(str(error))
    why = explain(context, database) if explain is not None else None
    if why is None:
        return
    text = f"{error}: {why}."
    # The same exceptions, in other words: other code may have noted them.
    if wrapped is not None and wrapped.args:
        wrapped.args = (str(wrapped.args[0]).replace(str(error), text), *wrapped.args[1:])
    error.args = (text,)


def _explain_lock(context: ExceptionContext, database: SqliteDatabase) -> str:
    connection, name = _driver_connection(context), database.name
    if getattr(connection, "writing", False) and getattr(connection, "has_read", False):
        return OUT_OF_DATE
    limit = f"within {database.timeout:g} s (UOW_SQLITE_BUSY_TIMEOUT)"
    if context.statement is None and connection is not None:
        return (
            f"the COMMIT waited for the transactions that read from {name!r}, and they did not end"
            f" {limit}. In WAL mode (UOW_SQLITE_JOURNAL_MODE = 'wal') it would not wait"
        )
    if database.queue is None:
        return (
            f"another transaction holds the lock of {name!r} and did not end {limit}. There is no"
            " queue (UOW_SQLITE_QUEUE), so it may be another request of this app. A unit that"
            " writes keeps the lock until its commit"
        )
    return (
        f"another program holds the lock of {name!r}, one that does not wait in the queue of this"
        f" app, and did not release it {limit}. A command line ('sqlite3'), a database browser or a"
        " backup may have a transaction open"
    )


def _explain_read_only(_context: ExceptionContext, database: SqliteDatabase) -> str:
    name, folder = database.name, str(Path(database.path).parent)
    if database.read_only:
        return f"the URL says that {name!r} is only read ('mode=ro')"
    if not os.path.exists(database.path):  # noqa: PTH110
        return f"the file {name!r} was deleted or moved away"
    if not os.access(database.path, os.W_OK):
        return f"this process may not write to {name!r}"
    if not os.access(folder, os.W_OK):
        return f"this process may not create files in {folder!r}, where SQLite keeps its journal"
    return f"the file {name!r} was replaced, or its journal cannot be written"


def _explain_missing(_context: ExceptionContext, database: SqliteDatabase) -> str:
    path = Path(database.path or database.asked_for)
    if path.is_dir():
        return f"{str(path)!r} is a folder, and the database is a file"
    if has_too_many_files():
        return f"this process has too many open files. {CLOSE_FILES}"
    return (
        f"{database.name!r}, or one of the files that SQLite keeps beside it ('-wal', '-shm',"
        " '-journal'), cannot be opened by this process, which must be allowed to create files"
        f" in {str(path.parent)!r}"
    )


def has_too_many_files() -> bool:
    """Tell whether this process cannot open the files of a connection; SQLite does not say so."""
    with ExitStack() as stack:
        try:
            for _ in range(_FILES):
                stack.enter_context(open(os.devnull))  # noqa: PTH123
        except OSError as error:
            return error.errno in {errno.EMFILE, errno.ENFILE}
    return False


def _explain_full(context: ExceptionContext, database: SqliteDatabase) -> str:
    folder = str(Path(database.path).parent)
    try:
        free = f"{shutil.disk_usage(folder).free} bytes are free in {folder!r}"
    except OSError:
        free = f"it is not known how much is free in {folder!r}"
    if getattr(_driver_connection(context), "in_transaction", False):
        then = "The statement is undone, and the transaction is still open"
    else:
        then = "SQLite has rolled the whole transaction back"
    return (
        f"there is no room for {database.name!r} to grow: {free} ('PRAGMA max_page_count' may set a"
        f" limit as well). {then}"
    )


_EXPLANATIONS: dict[str, Callable[[ExceptionContext, SqliteDatabase], str]] = {
    LOCKED: _explain_lock,
    READ_ONLY: _explain_read_only,
    MISSING: _explain_missing,
    FULL: _explain_full,
}


def _driver_connection(context: ExceptionContext) -> Any:
    if context.connection is None or context.connection.invalidated:
        return None
    return context.connection.connection.dbapi_connection


def is_on_replaced_file(context: ExceptionContext) -> bool:
    """Tell whether another file is in the place of that of the connection."""
    connection = _driver_connection(context)
    return connection is not None and getattr(connection, "is_replaced", bool)()


def refuse_missing(path: str, *, name: str, was_in_use: bool) -> None:
    """
    :param was_in_use: this engine has used the file before.
    :raises sqlite3.OperationalError: there is no file, and SQLite must not create one.
    """
    folder, log = Path(path).parent, Path(f"{path}-wal")
    if was_in_use:
        why = (
            f"the database {name!r} was deleted or moved away while it was in use. Put it"
            " back, or start with an empty one: restart the app, or 'db.engine.dispose()'"
        )
    elif not folder.is_dir():
        why = f"the folder {str(folder)!r} of the database does not exist. Create it"
    elif log.exists() and log.stat().st_size:
        why = (
            f"the database {path!r} is missing, but its log {str(log)!r} still exists."
            " SQLite would delete it, with the commits that only it contains. Put the database back"
            " where it was. To start with an empty one, delete the log, too"
        )
    else:
        return
    raise sqlite3.OperationalError(f"{MISSING}: {why}.")


def refuse_leftovers(database: SqliteDatabase) -> None:
    """
    :raises sqlite3.OperationalError: the file was replaced, and its log is still there.
    """
    leftovers = database.left_by_the_old()
    if leftovers:
        names = " and ".join(map(repr, leftovers))
        raise sqlite3.OperationalError(
            f"{MISSING}: the file {database.name!r} was replaced while it was in use, and {names}"
            " belong to the old one. SQLite would apply them to the new one, and destroy it. Stop"
            " all processes that use the database, delete these files, and start again. To restore"
            " a backup while the app runs, let SQLite copy it: 'sqlite3 app.db \".restore"
            " backup.db\"'."
        )
