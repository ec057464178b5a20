"""All private names of SQLAlchemy that this package uses.

These names have no public counterpart in SQLAlchemy 2.0 and 2.1. A test asserts that each exists in
the oldest and the newest version. :data:`OVERRIDDEN` lists the names that subclasses in this
package define; the functions below read or call the other names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.engine import Dialect
    from sqlalchemy.orm import Session
    from sqlalchemy.pool import ConnectionPoolEntry, Pool, PoolProxiedConnection
    from sqlalchemy.types import TypeEngine

OVERRIDDEN = {
    # 'ConnectionPool' counts the connections that it opens. The event "connect" comes too late: a
    # timeout may strike while a connection is being opened. The event "checkin" comes too early to
    # close a connection: other listeners may use it.
    "Pool": ("_create_connection", "_do_return_conn"),
    # Each method of the proxy asks for the current session by this property, so the usual case, a
    # request with an open unit, avoids the call of 'registry()'.
    "scoped_session": ("_proxied",),
}
"""By class, the private names that a subclass in this package replaces."""


def send_before_commit(session: Session) -> None:
    """Call the listeners for "before_commit": for a commit that leaves out SQLAlchemy's own."""
    session.dispatch.before_commit(session)


def send_after_commit(session: Session) -> None:
    """Call the listeners for "after_commit"; see :func:`send_before_commit`."""
    session.dispatch.after_commit(session)


def is_commit_heard(session: Session) -> bool:
    """Tell whether there are listeners for "before_commit" or "after_commit" of *session*."""
    listeners = session.dispatch
    return bool(listeners.before_commit or listeners.after_commit)


def is_begun_by_with(session: Session) -> bool:
    """Tell whether a ``with session.begin():`` block is running, which must end its transaction.

    If the name disappears, only a message becomes less clear.
    """
    return getattr(session, "_trans_context_manager", None) is not None


def state_of(instance: object) -> object | None:
    """Return SQLAlchemy's state of a mapped object; None for any other object.

    ``inspect()`` raises for an object that is not mapped, and inspects engines and other types.
    """
    state: object | None = getattr(instance, "_sa_instance_state", None)
    return state


def isolation_level_of(dialect: Dialect) -> object | None:
    """Return the engine option ``isolation_level``, even before the first connection."""
    level: object | None = getattr(dialect, "_on_connect_isolation_level", None)
    return level


def variants_of(kind: TypeEngine[Any]) -> Mapping[str, TypeEngine[Any]]:
    """Return the types that ``with_variant()`` has set for other dialects."""
    return kind._variant_mapping


def proxy_of(entry: ConnectionPoolEntry) -> PoolProxiedConnection | None:
    """Return the proxy of the connection of *entry*; None if it is not checked out.

    A forked child removes the connections of its parent from these proxies.
    """
    reference = proxy_reference(entry)
    return None if reference is None else reference()


def proxy_reference(
    entry: ConnectionPoolEntry,
) -> Callable[[], PoolProxiedConnection | None] | None:
    """Return the weak reference to the proxy of *entry*, a new object for each checkout."""
    reference: Callable[[], PoolProxiedConnection | None] | None
    reference = getattr(entry, "fairy_ref", None)
    return reference


def return_to(pool: Pool, entry: ConnectionPoolEntry) -> None:
    """Return *entry* to *pool*, as at the end of a checkout."""
    pool._return_conn(entry)
