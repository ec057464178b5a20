"""The pool of an engine: its class, its options, and what it says when it is empty.

Where the user leaves the choice open, an engine gets a :class:`ConnectionPool`: SQLAlchemy's
``QueuePool`` that names the checkouts of its connections when it has run dry, and that replaces
connections which were lost in the middle of a checkout.

Nothing here knows Flask or sessions.
"""

from __future__ import annotations

import gc
import logging
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import URL, Engine, event, exc
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection, QueuePool, StaticPool

from .._config.settings import PoolSettings
from .._drivers.known import driver_of
from .._transaction import sqlalchemy_private
from ..errors import PoolExhausted
from .checkouts import CheckoutContext, CheckoutTracker
from .idle import Checkout, Keeper, keeper_of

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection

logger = logging.getLogger(__name__)


def options_for(url: URL, given: Mapping[str, Any], settings: PoolSettings) -> dict[str, Any]:
    """Return the options for ``create_engine()``: *given*, and what it leaves open."""
    options = dict(given)
    if options.get("pool") is not None:
        return options  # it brings its own way to connect
    dialect: Any = url.get_dialect()
    if (options.get("poolclass") or dialect.get_pool_class(url)) is QueuePool:
        options["poolclass"] = ConnectionPool
    if settings.network_timeout is not None and options.get("creator") is None:
        own = options.get("connect_args") or {}
        driver = driver_of(dialect)
        added = driver.timeouts({**url.query, **own}, settings.network_timeout)
        if added:
            options["connect_args"] = {**added, **own}
    return options


def finish_connecting(engine: Engine, given: Mapping[str, Any], settings: PoolSettings) -> None:
    """Set the network timeout on each socket of *engine* whose driver has no argument for it.

    :param given: the options for ``create_engine()`` as the user gave them.
    """
    seconds = settings.network_timeout
    if given.get("creator") is not None or given.get("pool") is not None or seconds is None:
        return
    driver = driver_of(engine.dialect)
    own = {**engine.url.query, **(given.get("connect_args") or {})}

    def on_connect(connection: DBAPIConnection, _entry: object) -> None:
        driver.finish_connecting(connection, own, seconds)

    event.listen(engine, "connect", on_connect)


def track_checkouts(
    engine: Engine, settings: PoolSettings, context: CheckoutContext | None = None
) -> CheckoutTracker | None:
    """Note what has checked out the connections of *engine*.

    :param context: what they are checked out for.
    :returns: None if the engine has one connection for all threads.
    """
    if isinstance(engine.pool, StaticPool):
        return None
    tracker = CheckoutTracker(context, warn_after=settings.hold_warning, stacks=settings.stacks)
    tracker.track(engine)
    if isinstance(engine.pool, ConnectionPool):
        engine.pool.tracker = tracker
    return tracker


_CLOSED_AT_RETURN = "flask_uow.closed_at_return"
_COLLECTION_PERIOD = 10.0  # seconds
_LONGEST_REPAIR = 1.0  # seconds
_LOOK_AGAIN = 0.01  # seconds; a thread in the middle of a checkout has its connection by then


class ConnectionPool(QueuePool):
    """A ``QueuePool`` that knows its checkouts.

    :ivar tracker: asked when the pool has run dry.
    """

    tracker: CheckoutTracker | None = None

    def __init__(
        self, creator: Any, pool_size: int = 5, max_overflow: int = 10, **options: Any
    ) -> None:
        super().__init__(creator, pool_size=pool_size, max_overflow=max_overflow, **options)
        limited = pool_size > 0 and max_overflow >= 0
        self._limit = pool_size + max_overflow if limited else float("inf")
        # Weak references: an interrupted function leaves nothing in it. Not a WeakSet, which has
        # no keyrefs(): they can be counted while other threads connect.
        self._known: weakref.WeakKeyDictionary[ConnectionPoolEntry | _Attempt, None] = (
            weakref.WeakKeyDictionary()
        )
        self._repair: Callable[[], _Attempt | None] = lambda: None
        self._repair_began = 0.0
        self._next_collection = 0.0
        self._survivors: set[tuple[object, ...]] = set()  # suspects that were not garbage

    def recreate(self) -> ConnectionPool:
        """Return a pool like this one, with which ``engine.dispose()`` replaces it."""
        pool = cast(ConnectionPool, super().recreate())
        pool.tracker = self.tracker
        return pool

    def connect(self) -> PoolProxiedConnection:
        """Check a connection out, as ``QueuePool`` does.

        :raises PoolExhausted: all were in use for too long; the message names their checkouts.
        """
        checkout = Checkout()  # first: a session that ends a statement now returns its connection
        try:
            if not self.checkedin() and not self._take_back() and not self._has_free():
                self._make_room()
            return self._connect()
        finally:
            del checkout  # the traceback of an error may live on

    def checkedout(self) -> int:
        """Return how many connections are in use.

        A connection that a session keeps, and returns as soon as another thread needs one, is not.
        """
        return super().checkedout() - sum(keeper.is_idle for keeper in self._keepers())

    def _keepers(self) -> Iterator[Keeper]:
        for entry in self.tracker.entries() if self.tracker is not None else ():
            keeper = keeper_of(entry)
            if keeper is not None:
                yield keeper

    def take_all_back(self) -> None:
        """Let each session return the connection that it does not need."""
        for keeper in list(self._keepers()):
            keeper.give_way()

    def _take_back(self) -> bool:
        """Let a session return a connection that it does not need; tell whether one did."""
        return any(keeper.give_way() for keeper in self._keepers())

    def _make_room(self) -> None:
        self._collect_garbage()
        self._replace_lost()
        if self.tracker is not None:
            self.tracker.warn_of_old()

    def _connect(self) -> PoolProxiedConnection:
        try:
            return super().connect()
        except exc.TimeoutError as error:
            timeout = error
        self._collect_garbage()
        # What this thread has taken back before, another one may have got.
        if self._take_back() or self._has_free() or self._replace_lost():
            try:  # once more, and no more: another thread may have been quicker
                return super().connect()
            except exc.TimeoutError as error:
                timeout = error
        raise PoolExhausted(self._explanation()) from timeout

    def close_at_return(self, info: dict[Any, Any]) -> None:
        """Close the connection with this *info* when it comes back, instead of keeping it.

        It is closed after all listeners for "checkin", which may still use it.
        """
        info[_CLOSED_AT_RETURN] = True
        # Until the first call, the return of a connection costs nothing extra.
        setattr(self, "__class__", _ClosingPool)  # noqa: B010

    def _has_free(self) -> bool:
        return bool(self.checkedin()) or self.size() + self.overflow() < self._limit

    def _collect_garbage(self) -> None:
        """Free the connections that only garbage holds.

        The traceback of an exception refers to the variables of its functions, and a function of
        Flask in it refers to the exception: a reference cycle. Python may take long to look for
        cycles, and never does if the app has switched that off.

        A collection stops all threads. So there is none while running contexts hold every
        connection, only one for a suspect that turns out not to be garbage, and at most one in each
        period for the doubtful suspects.
        """
        tracker, now = self.tracker, time.monotonic()
        if tracker is None:
            return
        doubtful = now >= self._next_collection
        suspects = tracker.suspects(doubtful=doubtful) - self._survivors
        repair = _Attempt()
        if not suspects or not self._is_alone(repair):
            return
        try:
            if not self._has_free() and suspects & tracker.suspects(doubtful=doubtful):
                self._next_collection = now + _COLLECTION_PERIOD
                gc.collect()
                self._survivors = tracker.suspects(doubtful=True)
        finally:
            del repair  # the traceback of an error may live on

    def _is_alone(self, repair: _Attempt) -> bool:
        """Wait for a moment, and tell whether no other thread repairs the pool.

        A repair is over when its object is gone, or after some seconds. An exception that strikes
        between two steps would leave a lock locked.
        """
        now = time.monotonic()
        if self._repair() is not None and now < self._repair_began + _LONGEST_REPAIR:
            return False
        mine = weakref.ref(repair)
        self._repair, self._repair_began = mine, now
        time.sleep(_LOOK_AGAIN)
        return self._repair is mine  # of several threads, the last one

    def _explanation(self) -> str:
        waited, size = self.timeout(), self.size()
        text = (
            f"All connections of the pool (pool_size={size}, max_overflow={self._limit - size})"
            f" were in use, and none became free for {waited:g} seconds (pool_timeout)."
        )
        if self.tracker is not None:
            text += f" They are checked out by, the oldest first:\n{self.tracker.report()}\n"
        return (
            f"{text} If one is much older than a request should be, look there: a connection"
            " belongs to a unit from the beginning of its transaction to its end, so commit before"
            " slow work, and close what 'db.engine.connect()' opened. If all are young, there are"
            " more threads than connections: raise 'pool_size' in SQLALCHEMY_ENGINE_OPTIONS."
        )

    # Lost connections -------------------------------------------------------------------------

    # The pool counts its checkouts. An exception that strikes in the middle of one (raised by a
    # signal handler, or by gevent) loses the entry of a connection, and the pool counts it as
    # checked out for ever. So it is counted a second time, by weak references: what the pool
    # counts and no reference reaches is lost.

    def _create_connection(self) -> ConnectionPoolEntry:
        attempt = _Attempt()
        self._known[attempt] = None
        try:
            entry = super()._create_connection()
            self._known[entry] = None
        finally:
            self._known.pop(attempt, None)  # the traceback of an error may live on
        return entry

    def _count_lost(self) -> int:
        before = self.size() + self.overflow()
        # An interruption may strike while Python removes the reference to a dead object.
        known = sum(reference() is not None for reference in self._known.keyrefs())
        # Other threads continue meanwhile: only what is missing at both times is lost.
        return max(0, min(before, self.size() + self.overflow()) - known)

    def _replace_lost(self) -> int:
        """Open a new connection for each that is lost; return how many."""
        repair = _Attempt()
        if not self._count_lost() or not self._is_alone(repair):
            return 0
        try:
            lost = self._count_lost()
            for _ in range(lost):
                sqlalchemy_private.return_to(self, self._create_connection())
        finally:
            del repair
        if lost:
            logger.warning(
                "%d of the %s connections of a pool had been lost: they were checked out, and"
                " nothing used them. An exception that a signal handler or a timeout raised into a"
                " checkout does that. They were replaced by new ones.",
                lost,
                self._limit,
            )
        return lost


class _ClosingPool(ConnectionPool):
    """A pool some of whose connections are closed when they come back."""

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        try:
            if _CLOSED_AT_RETURN in record.info:
                record.close()
        finally:
            super()._do_return_conn(record)


class _Attempt:
    """A connection is being opened, or the pool repaired: the object lives as long as that."""

    __slots__ = ("__weakref__",)
