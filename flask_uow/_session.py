"""The session of a unit of work: a SQLAlchemy ``Session`` that knows its engines and its end.

It adds four things: an engine is found by its bind key, several engines commit in the order in
which they were configured, two threads at once are refused, and so is any use after the end.

Nothing here knows Flask.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import wraps
from types import MappingProxyType
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, Engine, event, inspect
from sqlalchemy.orm import Mapper, Session, SessionTransaction
from sqlalchemy.orm.unitofwork import UOWTransaction

from . import _binds
from ._guard import Activity, Effect, observe
from .errors import (
    ConcurrentUse,
    PartialCommit,
    RollbackOnly,
    SetupError,
    UnitEnded,
    UnknownEngine,
    shown,
)

S = TypeVar("S", bound=Session)


M = TypeVar("M", bound=Callable[..., Any])


def _alone(method: M) -> M:
    """Let a method of the session refuse a second thread while a first is in one of them."""

    @wraps(method)
    def alone(self: UnitSession, *args: Any, **kwargs: Any) -> Any:
        # Asked through the module: gevent replaces the function when it patches.
        me = threading.get_ident()
        if self.thread == me:  # inside already: a flush inside a commit
            return method(self, *args, **kwargs)
        if not self._door.acquire(blocking=False):
            raise _concurrent_use()
        self.thread = me
        try:
            return method(self, *args, **kwargs)
        finally:
            self.thread = None
            self._door.release()

    return cast(M, alone)


def _concurrent_use() -> ConcurrentUse:
    return ConcurrentUse(
        "This unit of work is in use by another thread: a statement of it is running there. A"
        " session and its connection can do one thing at a time. Give the second thread a"
        " context of its own ('with app.app_context():' in it, or 'copy_current_request_context'),"
        " or wait for the first to finish."
    )


class UnitSession(Session):
    """The ``Session`` behind ``db.session``.

    :ivar engines: the engines of the app by name, in the order of their configuration.
    :ivar connections: the connections of the running transaction, by engine.
    :ivar activity: what the running transaction has done; a new one for each transaction.
    :ivar thread: the thread that is inside the database with this session just now.
    :ivar rollback_only: ``commit()`` is refused.
    :ivar plain_commit: nothing of the user's has a say in how connections commit.
    :ivar ended: the unit of work is over, and any further use is refused.
    """

    # Until the first transaction these two are shared, and not written to.
    connections: Mapping[Engine, Connection] = MappingProxyType({})
    activity = Activity()
    rollback_only = False
    ended = False
    plain_commit = True

    def __init__(self, *, engines: Mapping[str, Engine], **options: Any) -> None:
        super().__init__(**options)
        self.engines = engines
        self.thread: int | None = None
        self._door = threading.Lock()
        if isinstance(self.bind, Connection):
            self.plain_commit = False

    def refuse_other_thread(self) -> None:
        """
        :raises ConcurrentUse: another thread is inside the database with this session.
        """
        if self.thread not in {None, threading.get_ident()}:
            raise _concurrent_use()

    def get_bind(
        self, mapper: Any = None, *, clause: Any = None, bind: Any = None, **kwargs: Any
    ) -> Engine | Connection:
        """Find the engine by the bind key of the model or table.

        :raises UnknownEngine: the key is not configured.
        """
        if bind is not None or self.bind is not None:
            given = super().get_bind(mapper, clause=clause, bind=bind, **kwargs)
            # A connection may be in a transaction that is not ours to commit.
            self.plain_commit = self.plain_commit and not isinstance(given, Connection)
            return given
        name: str | None = None
        if mapper is not None:
            mapper = mapper if isinstance(mapper, Mapper) else inspect(mapper)
            name = _binds.of_mapper(mapper)
        elif clause is not None and len(self.engines) > 1:
            name = _binds.of_clause(clause)
        try:
            return self.engines[name or _binds.DEFAULT]
        except KeyError:
            user = "this statement" if mapper is None else f"the model {mapper.class_.__name__!r}"
            sentence = _binds.unknown(name or _binds.DEFAULT, self.engines, user)
            raise UnknownEngine(sentence) from None

    @_alone
    def connection(self, *args: Any, **kwargs: Any) -> Connection:
        """As it was. What is done with the driver's own cursors passes by unseen, so it counts."""
        connection = super().connection(*args, **kwargs)
        self.activity.effect = max(self.activity.effect, Effect.UNKNOWN)
        return connection

    @_alone
    def commit(self) -> None:
        """Commit; if several engines took part, one after the other in their declared order.

        :raises RollbackOnly: ``db.set_rollback_only()`` was called before.
        :raises PartialCommit: one engine failed to commit after another one had committed.
        """
        if self.rollback_only:
            raise RollbackOnly(
                "commit() is refused: 'db.set_rollback_only()' was called for this unit of work,"
                " so nothing of it will be stored. Decide before the first commit, or leave the"
                " mark out and let the commit rule of the view ('@db.unit(commit=...)') decide."
            )
        if len(self.engines) > 1 and self.in_transaction() and self._is_sound():
            # Before counting: the flush is what reaches the second engine, more often than not.
            self.flush()
            if len(self.connections) > 1:
                self._commit_in_order()
                return
        super().commit()

    @_alone
    def commit_keeping_objects(self) -> None:
        """Commit, and leave the objects as they are: the automatic commit.

        Nothing expires, so what the ORM does for a commit is not needed, and the connections are
        committed directly. An ordinary commit it is where that could be noticed: a listener, a
        savepoint left open, and whatever :meth:`_is_sound` asks for.
        """
        heard = self.dispatch.before_commit or self.dispatch.after_commit
        if not heard and not self.in_nested_transaction() and self._is_sound():
            self._flush_all()
            if self._is_sound():  # still: the flush may have been the first to ask for an engine
                self._commit_connections()
                return
        expire, self.expire_on_commit = self.expire_on_commit, False
        try:
            self.commit()
        finally:
            self.expire_on_commit = expire

    def _is_sound(self) -> bool:
        """May the connections be committed one by one?

        Not if the user's own code has a say in it, and not if one of them has lost its
        transaction: after a failed flush that somebody swallowed, after a ``rollback()`` of the
        connection itself. It would commit nothing then, and say nothing; the ORM's commit raises.
        """
        return (
            self.plain_commit
            and not self.twophase
            and self.is_active
            and all(connection.in_transaction() for connection in self.connections.values())
        )

    def _commit_in_order(self) -> None:
        # Session.commit() visits its connections in the order of a set.
        self.dispatch.before_commit(self)
        while (savepoint := self.get_nested_transaction()) is not None:
            savepoint.commit()
        self._flush_all()
        self._commit_connections()
        self.dispatch.after_commit(self)
        if self.expire_on_commit:
            self.expire_all()

    def _flush_all(self) -> None:
        flushed = self.activity.flushed
        for _ in range(100):  # pragma: no branch  # a listener may add objects meanwhile
            before = len(flushed)
            self.flush()
            if len(flushed) == before:
                break

    def _commit_connections(self) -> None:
        waiting = self._declared_order()
        committed: list[str] = []
        while waiting:
            name, connection = waiting.pop(0)
            try:
                connection.commit()
            except Exception as error:
                if not committed:
                    raise  # nothing has happened: a rollback() puts the objects right
                # Without this rollback the connection goes back with its transaction open.
                connection.rollback()
                self._conclude()
                self.expunge_all()
                raise PartialCommit(committed, name, [rest for rest, _ in waiting]) from error
            committed.append(name)
        self._conclude()

    def _declared_order(self) -> list[tuple[str, Connection]]:
        declared = [
            (name, self.connections[engine])
            for name, engine in self.engines.items()
            if engine in self.connections
        ]
        known = {connection.engine for _, connection in declared}
        strangers = [
            (engine.url.render_as_string(), connection)
            for engine, connection in self.connections.items()
            if engine not in known
        ]
        return declared + strangers

    def _conclude(self) -> None:
        cast(SessionTransaction, self.get_transaction()).close()


# What else reaches the database.
_ALONE = {
    name: _alone(getattr(Session, name))
    for name in """
        execute scalar scalars flush rollback close begin_nested
        bulk_save_objects bulk_insert_mappings bulk_update_mappings
    """.split()
}
for _name, _method in _ALONE.items():
    setattr(UnitSession, _name, _method)


def unit_session_class(base: Any) -> type[UnitSession]:
    """A :class:`UnitSession` with the methods of the user's own session class.

    :raises SetupError: *base* is no session class.
    """
    if not (isinstance(base, type) and issubclass(base, Session)):
        raise SetupError(
            f"session_options['class_'] is {shown(base)}, which is not a subclass of"
            " 'sqlalchemy.orm.Session'."
        )
    if base is Session:
        return UnitSession
    own = {name: _alone(getattr(base, name)) for name in _ALONE}
    if base.get_bind is not Session.get_bind:
        own["get_bind"] = base.get_bind  # it chooses the engine itself
    if base.get_bind is not Session.get_bind or base.commit is not Session.commit:
        own["plain_commit"] = False
    return cast(type[UnitSession], type(base.__name__, (UnitSession, base), own))


@event.listens_for(UnitSession, "after_transaction_create")
def _note_transaction(session: UnitSession, transaction: SessionTransaction) -> None:
    if transaction.nested:
        session.activity.set_savepoint(transaction)
    if transaction.parent is not None:
        return
    if session.ended:
        transaction.close()
        raise UnitEnded(
            "This session's unit of work has ended together with its Flask context: it was"
            " committed or rolled back, and its connection belongs to others now. Did an object"
            " or a thread keep 'db.session()' beyond the request? Use 'db.session' anew each"
            " time, inside a context of its own."
        )
    session.activity = Activity()
    session.connections = {}


@event.listens_for(UnitSession, "after_begin")
def _note_connection(
    session: UnitSession, transaction: SessionTransaction, connection: Connection
) -> None:
    if not transaction.nested:
        session.connections = {**session.connections, connection.engine: connection}
        observe(connection, session.activity)


@event.listens_for(UnitSession, "after_flush")
def _note_flush(session: UnitSession, context: UOWTransaction) -> None:
    # Cheaper than session.new and its sisters, which build a set each.
    session.activity.flushed += [
        (state.class_.__name__, "deleted" if deleted else "changed" if state.key else "new")
        for state, (deleted, only_looked_at) in context.states.items()
        if not only_looked_at
    ]


@event.listens_for(UnitSession, "after_soft_rollback")
def _note_rollback(session: UnitSession, transaction: SessionTransaction) -> None:
    session.activity.undo_to(transaction)


def pending(session: Session) -> list[tuple[str, str]]:
    """What the next flush would write: pairs of a class name and new, changed or deleted."""
    return [
        (type(instance).__name__, kind)
        for kind, instances in (
            ("new", session.new),
            ("changed", session.dirty),
            ("deleted", session.deleted),
        )
        for instance in instances
    ]
