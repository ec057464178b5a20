"""The session of a unit of work: a SQLAlchemy ``Session`` that knows its engines and its end.

What it adds: an engine is found by its bind key; several engines commit in their declared order; a
block or ``UOW_EXPLICIT_COMMIT`` may refuse a commit; a read-only unit refuses writes; a second
thread is refused, and so is any use after the end of the unit.

Nothing here knows Flask.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from time import monotonic
from types import MappingProxyType
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, RootTransaction, event, inspect
from sqlalchemy.orm import Mapper, Session, SessionTransaction, SessionTransactionOrigin
from sqlalchemy.orm.exc import FlushError
from sqlalchemy.orm.unitofwork import UOWTransaction

from .._config.settings import CommitModes
from .._engine import fork, lost_transactions
from .._engine.checkouts import caller_location, calling_module, forget_checkout
from .._engine.idle import note_keeper
from .._engine.plain_reads import is_deferring
from .._transaction import routing, sqlalchemy_private
from .._transaction.record import TransactionRecord, attach
from ..errors import (
    CommitRefused,
    ConfigError,
    PartialCommit,
    RollbackOnly,
    TransactionLost,
    UnitEnded,
    UnknownEngine,
)
from .exclusive import concurrent_use, exclusive
from .pending import refuse_flush
from .state import ENDED, EndedUnit, UnitState

logger = logging.getLogger(__name__)

S = TypeVar("S", bound=Session)
_LONG = 1.0  # seconds
_IN_BLOCK = (
    "{0}() is refused inside 'db.atomic()', which is all or nothing and ends by itself. {1} What is"
    " to be stored whatever happens belongs in 'with db.independent() as session:'."
)
_LET_IT_END = "Let the block end."
_OF_OTHERS = " Put third-party code that commits into 'with db.explicit_commit(\"flush\"):'."
_FORBIDDEN = (
    "{}() is refused at {}: explicit commits are forbidden here, by UOW_EXPLICIT_COMMIT or"
    " 'db.explicit_commit(...)'. Leave the call out, or set 'flush' or 'allow', if"
    " necessary only for one package or blueprint."
)
_NOT_OF_THE_APP = (
    "{} {} that is not one of 'db.engines', but this unit of work has an isolation level or"
    " 'read_only', which only the engines of the app can get. Nothing was sent. Use an engine of"
    " 'db.engines' here, or leave these options out."
)


# A connection that is closed while another thread waits for its server would end the process, or
# keep that thread waiting for ever.
_patiently = partial(exclusive, patience=5.0)

_ENDED_UNIT = EndedUnit()


def _of_caller(mode: str | CommitModes) -> str:
    """Return what an explicit commit does, which may depend on the code that calls it."""
    return mode.of(calling_module(2)) if isinstance(mode, CommitModes) else mode


class UnitSession(Session):
    """The ``Session`` that ``db.session`` stands for.

    :ivar unit: the unit of work that it belongs to, which says what it may do.
    :ivar engines: the engines of the app by name, in the order of their configuration; where the
        unit has an isolation level or is read-only, their variants with these options.
    :ivar app_engines: the same without these options.
    :ivar variants: engines that the app has made from its own and chosen, with these options.
    :ivar routes: a cache of the engine of each mapper, shared by sessions with the same engines.
    :ivar connections: the connections of the running transaction, by engine.
    :ivar begun: the transactions begun on them; the app may have ended them since.
    :ivar record: what the running transaction has done; a new one for each transaction.
    :ivar lock: locked while a thread is inside the database with this session.
    :ivar owner_thread: that thread.
    :ivar generation: the fork generation of its process; see ``_engine.fork``.
    :ivar may_commit_directly: connections may be committed directly; see
        :meth:`_can_commit_directly`.
    :ivar last_use: when the connections were last used, as ``time.monotonic()``.
    :ivar may_defer: its connections are its own, so that it may return them before its end.
    :ivar is_always_closed: ``close()`` is the app's own, and is called even if nothing is left.
    """

    # Defaults on the class: a session replaces these objects, never changes them.
    unit = UnitState()
    connections: Mapping[Engine, Connection] = MappingProxyType({})
    begun: Sequence[RootTransaction | None] = ()
    variants: Mapping[Engine | Connection, Engine] = MappingProxyType({})
    record = TransactionRecord()
    owner_thread: int | None = None
    may_commit_directly = True
    may_defer = True
    last_use = 0.0
    is_always_closed = False

    def __init__(
        self,
        *,
        engines: Mapping[str, Engine],
        routes: dict[Any, Engine] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.engines = self.app_engines = engines
        self.routes = {} if routes is None else routes
        self.generation = fork.generation
        self.lock = threading.Lock()

    def join(self, unit: UnitState) -> None:
        """Belong to *unit* from now on."""
        self.unit = unit

    def use(self, engines: Mapping[str, Engine], routes: dict[Any, Engine]) -> None:
        """Use these engines from the next transaction on."""
        self.engines, self.routes, self.variants = engines, routes, {}

    def refuse_flushes(self, refuse: bool) -> None:
        """Refuse pending changes, or no longer."""
        (event.listen if refuse else event.remove)(self, "before_flush", refuse_flush)

    # Connections without a transaction ----------------------------------------------------------

    # What a pool asks: the protocol ``Keeper``.

    @property
    def is_idle(self) -> bool:
        """Whether it keeps connections, and its transaction has not begun yet (P14)."""
        is_used = self.owner_thread is not None
        return self.record.deferred and bool(self.connections) and not is_used

    def give_way(self) -> bool:
        """Return connections that are not needed, and tell whether there were any.

        Any thread may call this. The rows of earlier results are in memory.
        """
        if not (self.is_idle and self.lock.acquire(False)):
            return False
        try:
            return self._return_connections()
        finally:
            self.lock.release()

    @exclusive  # which returns a connection that was idle for long, and may be dead, first
    def begin_deferred(self, *, to_write: bool) -> bool:
        """Let the transaction begin with the next statement; tell whether one had before.

        :param to_write: it is expected to write.
        """
        if not self.in_transaction():
            return False  # the next transaction is one of a block: nothing defers it
        had_begun = bool(self.connections) and not self.record.deferred
        self.record.begin(to_write=to_write)
        return had_begun

    def return_overdue(self) -> None:
        """Return connections that may be lost: the pool checks those that it lends.

        They were idle for long, or a statement has failed on them.
        """
        record = self.record
        if record.deferred:
            now = monotonic()
            if record.error or now > self.last_use + _LONG:
                self._return_connections()
            self.last_use = now

    def _has_begun(self) -> bool:
        """Tell whether the transaction has begun, perhaps by a cursor of the driver in a listener.

        No event tells of that.
        """
        record = self.record
        if record.deferred and any(map(lost_transactions.is_open, self.connections.values())):
            record.mark_unknown()
            record.begin()
        return not record.deferred

    def _return_connections(self) -> bool:
        if not (self.record.deferred and self.connections and self.in_transaction()):
            return False
        if self.is_inherited or self._has_begun():
            return False
        connections, self.connections, self.begun = self.connections, {}, ()
        self.record.forget_plain()
        sqlalchemy_private.forget_connections(self)
        for connection in connections.values():
            try:
                if not connection.invalidated:  # else it has no info
                    forget_checkout(connection.info)
                connection.close()
            except Exception:  # noqa: PERF203  # each by itself
                logger.exception("A connection could not be returned to its pool.")
        return True

    @property
    def is_inherited(self) -> bool:
        """Whether the session was created by a parent process."""
        return self.generation != fork.generation

    def refuse_other_thread(self) -> None:
        """
        :raises ConcurrentUse: another thread is inside the database with this session.
        """
        if self.owner_thread not in {None, threading.get_ident()}:
            raise concurrent_use()

    def get_bind(
        self, mapper: Any = None, clause: Any = None, bind: Any = None, **kwargs: Any
    ) -> Engine | Connection:
        """Find the engine by the bind key of the model or table.

        :raises UnknownEngine: the key is not configured.
        """
        if bind is not None or self.bind is not None:
            # Not by super(): see ByBindKey.
            return self._given(Session.get_bind(self, mapper, clause=clause, bind=bind, **kwargs))
        engine = self.routes.get(mapper)
        if engine is not None:
            return engine
        name: str | None = None
        user = "this statement"
        if mapper is not None:
            mapped = mapper if isinstance(mapper, Mapper) else inspect(mapper)
            name, user = routing.of_mapper(mapped), f"the model {mapped.class_.__name__!r}"
        elif clause is not None and len(self.engines) > 1:
            name = routing.of_clause(clause)
        try:
            engine = self.engines[name or routing.DEFAULT]
        except KeyError:
            sentence = routing.unknown(name or routing.DEFAULT, self.engines, user)
            raise UnknownEngine(sentence) from None
        if mapper is not None:
            self.routes[mapper] = engine
        return engine

    @property
    def has_options(self) -> bool:
        """Whether the engines have an isolation level or are read-only, for this unit."""
        return self.engines is not self.app_engines

    def _given(self, bind: Engine | Connection) -> Engine | Connection:
        if isinstance(bind, Connection):  # maybe in a transaction that is not ours to commit
            self.may_commit_directly = self.may_defer = False
            return bind
        return self.with_options(bind, "'bind' names")

    def with_options(self, bind: Engine | Connection, chosen_by: str) -> Engine | Connection:
        """Return *bind*, chosen by the app, with the options of this unit, if it has any.

        :param chosen_by: the beginning of the message.
        :raises ConfigError: *bind* does not belong to an engine of the app.
        """
        if not self.has_options:
            return bind
        variant = self.variants.get(bind)
        if variant is None:
            variant = routing.variant_of(bind, self.app_engines, self.engines)
            if variant is None:
                kind = "a connection" if isinstance(bind, Connection) else "an engine"
                raise ConfigError(_NOT_OF_THE_APP.format(chosen_by, kind))
            self.variants = {**self.variants, bind: variant}
        return variant

    @exclusive
    def connection(
        self,
        bind_arguments: Mapping[str, Any] | None = None,
        execution_options: Mapping[str, Any] | None = None,
    ) -> Connection:
        """Return a connection. Its driver cursors are not seen, so it counts as having written."""
        given = dict(bind_arguments or {})
        if given.get("bind") is not None:
            given["bind"] = self._given(given["bind"])
        if execution_options:  # such as an isolation level: of the transaction that begins here
            self._return_connections()
        connection = super().connection(given, execution_options)
        self.record.mark_unknown()
        self.record.begin()
        return connection

    def commit(self) -> None:
        """Commit; if several engines took part, one after the other in their declared order.

        :raises RollbackOnly: ``db.set_rollback_only()`` was called before.
        :raises CommitRefused: a block is open, or ``UOW_EXPLICIT_COMMIT`` forbids it.
        :raises PartialCommit: one engine failed to commit after another one had committed.
        """
        mode = self.unit.explicit_commit
        if mode != "allow" and (mode := _of_caller(mode)) == "flush":
            self.flush()
            return
        self.refuse_in_block("commit", _LET_IT_END + _OF_OTHERS)
        if mode == "forbid":
            raise CommitRefused(_FORBIDDEN.format("commit", caller_location(2)))
        self.settle_idle(committed=True)
        self.commit_unchecked()

    def begin(self, nested: bool = False) -> SessionTransaction:
        """Begin a transaction; in the mode ``"flush"``, only a savepoint.

        :raises CommitRefused: as :meth:`commit`.
        """
        mode = self.unit.explicit_commit
        if nested or (mode != "allow" and (mode := _of_caller(mode)) == "flush"):
            return super().begin(nested=True)
        self.refuse_in_block("begin", "It has begun already." + _OF_OTHERS)
        if mode == "forbid":
            raise CommitRefused(_FORBIDDEN.format("begin", caller_location(2)))
        return super().begin()

    def rollback(self) -> None:
        """Roll back, as SQLAlchemy's session does.

        :raises CommitRefused: inside a block.
        """
        self.refuse_in_block("rollback", "Raise 'Rollback' to undo the block.")
        self.settle_idle(committed=False)
        self.rollback_unchecked()

    def refuse_in_block(self, method: str, instead: str = _LET_IT_END) -> None:
        """
        :raises CommitRefused: a block is open.
        """
        if self.unit.blocks:
            raise CommitRefused(_IN_BLOCK.format(method, instead))

    def settle_idle(self, *, committed: bool) -> None:
        """Run the hooks if there is no transaction whose end would run them."""
        hooks = self.unit.hooks
        if hooks and not self.in_transaction():
            hooks.settle(committed=committed)

    def invalidate_unchecked(self) -> None:
        """Drop the connections, even inside a block."""
        super().invalidate()

    @exclusive
    def rollback_unchecked(self) -> None:
        """Roll back, even inside a block."""
        super().rollback()

    @_patiently
    def rollback_for_unit(self) -> None:
        """Roll back for the unit itself, whose view has left a thread inside, perhaps."""
        super().rollback()

    @exclusive
    def close(self) -> None:
        """
        :raises CommitRefused: inside a block.
        """
        self.refuse_in_block("close")
        super().close()

    @exclusive
    def reset(self) -> None:
        """
        :raises CommitRefused: inside a block.
        """
        self.refuse_in_block("reset")
        super().reset()

    def invalidate(self) -> None:
        """
        :raises CommitRefused: inside a block.
        """
        self.refuse_in_block("invalidate")
        self.invalidate_unchecked()

    @_patiently
    def end(self) -> None:
        """Close for good: the unit of work is over, and any further use is refused."""
        try:
            self._return_connections()
            # A session that has nothing left is not closed: that costs as much as a small query.
            if self.in_transaction() or self.identity_map or self.is_always_closed:
                super().close()
        finally:
            self.unit = _ENDED_UNIT

    def expire_unchanged(self) -> None:
        """Expire all objects, except those that the app has changed.

        By the names of their attributes: expiring a whole object would cascade along its
        relationships, and lose the changes of other objects.
        """
        changed = self.dirty | self.deleted
        names: dict[Mapper[Any], frozenset[str]] = {}
        for state in self.identity_map.all_states():
            mapper, values, instance = state.mapper, state.dict, state.obj()
            if mapper not in names:
                keys = [*mapper.column_attrs.keys(), *mapper.relationships.keys()]
                names[mapper] = frozenset(keys)
            # Around a loop of units there may be many objects, which have expired before.
            is_loaded = instance is not None and not names[mapper].isdisjoint(values)
            if is_loaded and instance not in changed:
                self.expire(instance, names[mapper] & values.keys())

    @exclusive
    def commit_unchecked(self) -> None:
        """Commit without asking blocks or ``UOW_EXPLICIT_COMMIT``: for the unit itself.

        :raises RollbackOnly: ``set_rollback_only()`` was called for the unit.
        """
        if self.unit.rollback_only:
            raise RollbackOnly(
                "commit() is refused: 'db.set_rollback_only()' was called for this unit of work,"
                " so nothing of it will be stored. Decide before the first commit, or leave the"
                " mark out and let the commit rule of the view ('@db.unit(commit=...)') decide."
            )
        if len(self.engines) > 1 and self.in_transaction() and self._can_commit_directly():
            # Before counting: often only the flush uses the second engine.
            self.flush()
            if len(self.connections) > 1:
                self._commit_in_order()
                return
        if len(self.connections) > 1 and self.in_transaction():
            self._check_each()
        super().commit()

    @exclusive
    def commit_keeping_objects(self) -> None:
        """Commit, and leave the objects as they are: the automatic commit.

        Nothing expires, so what the ORM does for a commit is not needed, and the connections are
        committed directly. An ordinary commit runs where the difference could be noticed: with
        a listener, an open savepoint, or where :meth:`_can_commit_directly` is false.
        """
        if self._can_commit_directly() and not sqlalchemy_private.is_commit_heard(self):
            self._flush_all()
            # Again: the flush may be what asks for the engine or a savepoint, or adds a hook.
            is_special = self.in_nested_transaction() or sqlalchemy_private.is_commit_heard(self)
            if self._can_commit_directly() and not is_special:
                self._commit_connections()
                self._close_transaction()
                return
        expire, self.expire_on_commit = self.expire_on_commit, False
        try:
            self.commit_unchecked()
        finally:
            self.expire_on_commit = expire

    @exclusive
    def end_keeping_objects(self) -> None:
        """Close a transaction that has nothing to store; its objects do not expire.

        Listeners are sent a commit, so that ``on_commit`` hooks run.
        """
        while (savepoint := self.get_nested_transaction()) is not None:
            savepoint.commit()
        if self.in_transaction():
            sqlalchemy_private.send_after_commit(self)
            self._close_transaction()

    def _can_commit_directly(self) -> bool:
        """Whether the connections may be committed directly, without the ORM's commit.

        Not if code of the app takes part in it, and not after a failed flush that the code
        swallowed, because the ORM would raise.
        """
        return self.may_commit_directly and not self.twophase and self.is_active

    def _commit_in_order(self) -> None:
        # Session.commit() visits its connections in the order of a set.
        sqlalchemy_private.send_before_commit(self)
        while (savepoint := self.get_nested_transaction()) is not None:
            savepoint.commit()
        self._flush_all()
        self._commit_connections()
        # In the order of SQLAlchemy's own commit: listeners of the end ask for the outcome.
        sqlalchemy_private.send_after_commit(self)
        if self.expire_on_commit:
            self.expire_all()
        self._close_transaction()

    def _flush_all(self) -> None:
        for _ in range(100):  # a listener may add objects meanwhile
            before = len(self.record.flushed)
            super().flush()  # unlocked: the caller has the lock
            if len(self.record.flushed) == before:
                break
        else:
            raise FlushError(
                "The session still has work after 100 flushes: does a listener of 'after_flush'"
                " add an object each time?"
            )

    def _commit_connections(self) -> None:
        if not self._has_begun():
            return
        for transaction in self.begun:
            # It would silently commit nothing, or only what came after a rollback.
            if not (transaction and transaction.is_active):
                raise TransactionLost(None)
        if len(self.connections) > 1:
            self._commit_each()
        else:
            for connection in self.connections.values():
                connection.commit()

    def _commit_each(self) -> None:
        self._check_each()
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
                self._close_transaction()
                self.expunge_all()
                raise PartialCommit(committed, name, [rest for rest, _ in waiting]) from error
            committed.append(name)

    def _check_each(self) -> None:
        for connection in self.connections.values():
            lost_transactions.check(connection)  # while none of them has committed

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

    def _close_transaction(self) -> None:
        self._return_connections()
        self.get_transaction().close()  # type: ignore[union-attr]  # there is one

    # Events -----------------------------------------------------------------------------------

    def _note_transaction(self, transaction: SessionTransaction) -> None:
        if transaction.nested:
            self.record.note_savepoint(transaction)
        if transaction.parent is not None:
            return
        unit = self.unit
        if unit.phase is ENDED:
            transaction.close()
            raise UnitEnded(
                "This session's unit of work has ended: it was committed or rolled back, and its"
                " connection is back in the pool. Did an object or a thread keep the session beyond"
                " its request or its block? Use 'db.session' again each time, inside a context of"
                " its own."
            )
        is_asked_for = transaction.origin is SessionTransactionOrigin.BEGIN or bool(unit.blocks)
        is_special = unit.read_only or self.has_options or self.twophase
        self.record = TransactionRecord(
            will_write=unit.will_write or (is_asked_for and not unit.read_only),
            read_only=unit.read_only,
            deferred=unit.defers and not (is_asked_for or is_special),
        )
        self.connections = {}
        self.begun = ()

    def _note_connection(self, transaction: SessionTransaction, connection: Connection) -> None:
        if not transaction.nested:
            self.connections = {**self.connections, connection.engine: connection}
            self.begun = [*self.begun, connection.get_transaction()]
            attach(connection, self.record)
            if self.record.deferred:
                self._defer(connection)
            if self.unit.commits is not None:
                lost_transactions.count_commits_on(connection, self.unit.commits)
            # An engine that the app has made itself.
            if lost_transactions.WATCHED not in vars(connection.dialect):
                lost_transactions.watch_transactions(connection.engine)

    def _defer(self, connection: Connection) -> None:
        if self.may_defer and is_deferring(connection.dialect):
            note_keeper(connection, self)
            self.last_use = monotonic()
        else:
            self.record.begin(keeps_snapshot=True)

    def _note_flush(self, context: UOWTransaction) -> None:
        # Cheaper than 'session.new', 'dirty' and 'deleted', which build a set each.
        written = [
            (state.class_.__name__, "deleted" if deleted else "changed" if state.key else "new")
            for state, (deleted, only_looked_at) in context.states.items()
            if not only_looked_at
        ]
        self.record.flushed.extend(written)

    def _note_rollback(self, transaction: SessionTransaction) -> None:
        if self.record.savepoints:
            self.record.undo_to(transaction)


event.listen(UnitSession, "after_transaction_create", UnitSession._note_transaction)
event.listen(UnitSession, "after_begin", UnitSession._note_connection)
event.listen(UnitSession, "after_flush", UnitSession._note_flush)
event.listen(UnitSession, "after_soft_rollback", UnitSession._note_rollback)


# The other methods that reach the database.
EXCLUSIVE = {
    name: exclusive(getattr(Session, name))
    for name in """
        execute scalar scalars flush begin_nested
        bulk_save_objects bulk_insert_mappings bulk_update_mappings
    """.split()
}
for _name, _method in EXCLUSIVE.items():
    setattr(UnitSession, _name, _method)
