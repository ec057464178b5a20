"""The private names of SQLAlchemy that this package uses: all of them are here.

None of them has a public counterpart in SQLAlchemy 2.0 and 2.1. A test asserts that each exists in
the oldest and the newest version. :data:`OVERRIDDEN` lists the names that a subclass of ours
defines; the functions below read or call the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Dialect
    from sqlalchemy.orm import Session
    from sqlalchemy.pool import ConnectionPoolEntry, Pool, PoolProxiedConnection

OVERRIDDEN = {
    # 'ConnectionPool' counts the connections that it opens. The event "connect" comes too late: a
    # timeout may strike while a connection is being opened.
    "Pool": ("_create_connection",),
    # Each method of the proxy asks for the current session by this property, so the usual case, a
    # request with an open unit, avoids the call of 'registry()'.
    "scoped_session": ("_proxied",),
}
"""The class and the names of it that a subclass in this package replaces."""


class _Listeners(Protocol):
    def __call__(self, session: Session) -> object: ...

    def __bool__(self) -> bool: ...


def before_commit(session: Session) -> _Listeners:
    """Return the listeners for "before_commit" of *session*: to be called, or asked whether any.

    A commit that leaves out SQLAlchemy's own has to send the event itself.
    """
    listeners: _Listeners = session.dispatch.before_commit
    return listeners


def after_commit(session: Session) -> _Listeners:
    """Return the listeners for "after_commit" of *session*; see :func:`before_commit`."""
    listeners: _Listeners = session.dispatch.after_commit
    return listeners


def is_begun_by_with(session: Session) -> bool:
    """Tell whether ``with session.begin():`` runs, which must end its transaction itself.

    Without the name a message becomes less clear, and nothing else changes.
    """
    return getattr(session, "_trans_context_manager", None) is not None


def state_of(instance: object) -> object | None:
    """Return what SQLAlchemy keeps of a mapped object; None for any other object.

    ``inspect()`` raises for objects that are not mapped, and runs functions for other types.
    """
    state: object | None = getattr(instance, "_sa_instance_state", None)
    return state


def isolation_level_of(dialect: Dialect) -> object | None:
    """Return the engine option ``isolation_level``, before a connection has tried it."""
    level: object | None = getattr(dialect, "_on_connect_isolation_level", None)
    return level


def proxy_of(entry: ConnectionPoolEntry) -> PoolProxiedConnection | None:
    """Return the proxy through which the connection of *entry* is checked out, if it is.

    A forked child takes the parent's connection out of proxies that it cannot reach otherwise.
    """
    reference: Callable[[], PoolProxiedConnection | None] | None
    reference = getattr(entry, "fairy_ref", None)
    return None if reference is None else reference()


def return_to(pool: Pool, entry: ConnectionPoolEntry) -> None:
    """Put *entry* into *pool* as if it came back from a checkout."""
    pool._return_conn(entry)
