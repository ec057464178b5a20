"""Connections that a session keeps between its plain reads, and that a pool takes back if needed.

Until its transaction has begun (P14), a session needs no connection of its own: the next statement
may run on any. Returning the connection after each read and checking one out before the next would
cost a third of a small query. So the session keeps it, and a thread that finds its pool empty takes
it back. To make this possible, the proxy of a connection refers to its *keeper*.

A thread that waits for a connection is in :data:`waiters`. A session in the middle
of a statement cannot return its connection; it looks at the waiters when the statement has ended.

Nothing here knows Flask or sessions.
"""

from __future__ import annotations

import weakref
from typing import Protocol, cast

from sqlalchemy import Connection
from sqlalchemy.pool import ConnectionPoolEntry

from .._transaction import sqlalchemy_private

_KEEPER = "_flask_uow_keeper"

waiters: set[weakref.ref[object]] = set()
"""A reference for each checkout of a connection that has not ended, from any pool.

It is weak, so that an interrupted checkout leaves nothing here.
"""


class Checkout:
    """A thread is checking out a connection: the object lives as long as that."""

    __slots__ = ("__weakref__",)

    def __init__(self) -> None:
        waiters.add(weakref.ref(self, waiters.discard))


class Keeper(Protocol):
    """A session, which may keep connections that it does not need."""

    @property
    def is_idle(self) -> bool:
        """Whether it keeps connections that it does not need at this moment."""
        ...

    def give_way(self) -> bool:
        """Return such connections to their pools; tell whether there were any."""
        ...


def note_keeper(connection: Connection, keeper: Keeper) -> None:
    """Let the pool of *connection* ask *keeper* for it."""
    vars(connection.connection)[_KEEPER] = weakref.ref(keeper)


def keeper_of(entry: ConnectionPoolEntry) -> Keeper | None:
    """Return the session that keeps the connection of *entry*."""
    proxy = sqlalchemy_private.proxy_of(entry)
    reference = None if proxy is None else vars(proxy).get(_KEEPER)
    return None if reference is None else cast("Keeper | None", reference())
