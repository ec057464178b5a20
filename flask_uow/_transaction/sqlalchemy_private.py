"""All private names of SQLAlchemy that this package uses.

These names have no public counterpart in SQLAlchemy 2.0 and 2.1. A test asserts that each exists in
the oldest and the newest version. :data:`OVERRIDDEN` lists the names that subclasses in this
package define; the functions below read or call the other names.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sqlalchemy import Join
from sqlalchemy.engine.cursor import FullyBufferedCursorFetchStrategy
from sqlalchemy.pool.base import _ConnectionRecord
from sqlalchemy.sql import visitors

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

    from sqlalchemy import ColumnElement, CompoundSelect, Executable, Result, Select
    from sqlalchemy.engine import Dialect, ExecutionContext
    from sqlalchemy.orm import Mapper, Session, registry
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


def registry_of(base: object) -> object | None:
    """Return the registry of a declarative base; None for any other object.

    It is ``base.registry``, but a base of SQLModel has only the private name.
    """
    found: object | None = getattr(base, "_sa_registry", None) or getattr(base, "registry", None)
    return found


def mappers_of(registry: registry) -> list[Mapper[Any]]:
    """Return the mappers of *registry*.

    ``registry.mappers`` raises after the mapping of a class has failed, until that class is
    garbage-collected: in a shell, for instance.
    """
    return [manager.mapper for manager in list(registry._managers) if manager.is_mapped]


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


def forget_connections(session: Session) -> None:
    """Let the transaction of *session* get other connections. Close those that it has."""
    transaction = session.get_transaction()
    if transaction is not None:
        transaction._connections.clear()


def is_locking(context: ExecutionContext) -> bool:
    """Tell whether a statement was written with ``with_for_update()``: SQLite's text lacks it."""
    statement = getattr(getattr(context, "compiled", None), "statement", None)
    return getattr(statement, "_for_update_arg", None) is not None


def read_all_rows(context: ExecutionContext, cursor: Any) -> None:
    """Read the rows of *cursor* now, and let the result that is to come return them."""
    setattr(context, "cursor_fetch_strategy", FullyBufferedCursorFetchStrategy(cursor))  # noqa: B010


class _UnconnectedEntry(_ConnectionRecord):
    def __init__(self, pool: Pool, lend: Callable[[], Any]) -> None:
        super().__init__(pool, connect=False)
        self._lend = lend
        self.get_connection()

    def get_connection(self) -> Any:
        if self.dbapi_connection is None:  # it was invalidated
            self.dbapi_connection = self._lend()
            self.starttime = time.time()
        return self.dbapi_connection


def unconnected_entry(pool: Pool, lend: Callable[[], Any]) -> ConnectionPoolEntry:
    """Return an entry of *pool* that opens no connection, but gets it by calling *lend*.

    Listeners for "connect" are not called.
    """
    return _UnconnectedEntry(pool, lend)


def return_to(pool: Pool, entry: ConnectionPoolEntry) -> None:
    """Return *entry* to *pool*, as at the end of a checkout."""
    pool._return_conn(entry)


# Queries --------------------------------------------------------------------------------------


def is_empty_select(statement: Executable) -> bool:
    """Tell whether *statement* is a ``select()`` without columns."""
    return getattr(statement, "_raw_columns", True) == []


def row_limits_of(
    statement: Select[Any] | CompoundSelect[Any],
) -> tuple[object, object, object]:
    """Return what ``limit()``, ``offset()`` and ``fetch()`` have set, None for each that is not."""
    return statement._limit_clause, statement._offset_clause, statement._fetch_clause


def without_locks(
    statement: Select[Any] | CompoundSelect[Any],
) -> Select[Any] | CompoundSelect[Any]:
    """Return *statement* without what ``with_for_update()`` has set."""
    if statement._for_update_arg is None:
        return statement
    copy = statement._generate()
    setattr(copy, "_for_update_arg", None)  # noqa: B010
    return copy


def filled_collections_of(statement: Executable) -> list[str]:
    """Return the names of the collections that *statement* fills by ``contains_eager()``."""
    return [
        str(relationship)
        for option in getattr(statement, "_with_options", ())
        for element in getattr(option, "context", ())
        if "eager_from_alias" in getattr(element, "local_opts", ())
        for relationship in element.path.path[-2:-1]
        if relationship.uselist
    ]


def needs_unique(result: Result[Any]) -> bool:
    """Tell whether *result* refuses to be read without ``unique()``.

    It has joined eager collections, which repeat their parent in each row.
    """
    return getattr(result, "_unique_filter_state", None) is not None


def structure_of(statement: object) -> Hashable:
    """Return what is equal for two statements exactly if one compiled text serves both.

    Bound values are not in it, and neither are options without an effect on the text. None if
    SQLAlchemy cannot tell, as it compiles the statement each time, or if it is no statement.
    """
    generate = getattr(statement, "_generate_cache_key", lambda: None)
    key = generate()
    return None if key is None else key.key


def has_more_than_structure(statement: Select[Any]) -> bool:
    """Tell whether a statement of the same structure can have other values or other options."""
    key = statement._generate_cache_key()
    if key is None or key.bindparams:
        return True
    return bool(statement._with_options or statement.get_execution_options())


def order_by_of(select: Select[Any]) -> Sequence[ColumnElement[Any]]:
    """Return the items of ORDER BY."""
    return select._order_by_clauses


def is_relationship(expression: ColumnElement[Any]) -> bool:
    """Tell whether *expression* was written as a relationship: its text is the join condition."""
    notes = getattr(expression, "_annotations", {})
    owner = notes.get("proxy_owner")
    return owner is not None and notes.get("proxy_key") in owner.mapper.relationships


def has_outer_join(select: Select[Any]) -> bool:
    """Tell whether a joined table of *select* may be missing in a row.

    ``get_final_froms()`` is public, and compiles the select: more work than the page itself.
    """
    if any(flags["isouter"] or flags["full"] for *_, flags in select._setup_joins):
        return True
    joins = (one for source in select._from_obj for one in visitors.iterate(source))
    return any(isinstance(join, Join) and (join.isouter or join.full) for join in joins)


def row_clauses_of(select: Select[Any]) -> Iterator[tuple[str, str]]:
    """Yield the clauses by which a row is no row of a table, each with what to write instead."""
    if select._group_by_clauses or select._having_criteria:
        yield "GROUP BY", "Group in a subquery, and join it to the model."
    if select._distinct or select._distinct_on:
        yield "DISTINCT", "Select the rows by a condition: 'where(Post.tags.any(...))'."
    if any(
        clause is not None
        for clause in (select._limit_clause, select._offset_clause, select._fetch_clause)
    ):
        yield "LIMIT or OFFSET", "Leave it out, and give 'per_page'."
