"""The pool of an engine: which class it is, what it says when it is empty, what it checks.

Where the user leaves the choice open, an engine gets a :class:`ConnectionPool`: SQLAlchemy's
``QueuePool`` that names the holders of its connections when it has run dry, and that replaces
connections which nobody holds and nobody gave back.

Nothing here knows Flask or sessions.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any, cast

from sqlalchemy import URL, Engine, exc
from sqlalchemy.pool import (
    ConnectionPoolEntry,
    NullPool,
    PoolProxiedConnection,
    QueuePool,
    StaticPool,
)

from .._config.settings import PoolSettings
from .._drivers import base
from .._transaction import sqlalchemy_private
from ..errors import PoolExhausted
from . import liveness as _liveness
from .checkouts import CheckoutTracker

logger = logging.getLogger("flask_uow")


def options_for(url: URL, given: Mapping[str, Any], settings: PoolSettings) -> dict[str, Any]:
    """The options for ``create_engine()``: *given*, and what it leaves open."""
    options = dict(given)
    if options.get("pool") is not None:
        return options  # it brings its own way to connect
    dialect: Any = url.get_dialect()
    if (options.get("poolclass") or dialect.get_pool_class(url)) is QueuePool:
        options["poolclass"] = ConnectionPool
    if settings.network_timeout is not None and options.get("creator") is None:
        own = options.get("connect_args") or {}
        added = base.timeouts(url, own, settings.network_timeout)
        if added:
            options["connect_args"] = {**added, **own}
    return options


def watch_pool(
    engine: Engine,
    given: Mapping[str, Any],
    settings: PoolSettings,
    *,
    who: Callable[[], object] = lambda: None,
    describe: Callable[[Any], str] = repr,
    has_place: Callable[[Any], bool] = lambda _: False,
) -> CheckoutTracker | None:
    """Add the listeners to *engine*, which was made with :func:`options_for`.

    :param given: the options as the user gave them.
    :param who, describe, has_place: see :class:`CheckoutTracker`.
    :returns: the holders of the engine's connections; None if it has one for everybody.
    """
    pool = engine.pool
    if isinstance(pool, StaticPool):
        return None
    own_connections = given.get("creator") is None and given.get("pool") is None
    if own_connections and settings.network_timeout is not None:
        base.install(engine, given.get("connect_args") or {}, settings.network_timeout)
    if engine.dialect.name != "sqlite":
        _watch(engine, given, settings)
    holders = CheckoutTracker(
        who, describe, has_place, warn_after=settings.hold_warning, stacks=settings.stacks
    )
    # After the check: a connection that it refuses is held by nobody.
    holders.track(engine)
    if isinstance(pool, ConnectionPool):
        pool.holders = holders
    return holders


def _watch(engine: Engine, given: Mapping[str, Any], settings: PoolSettings) -> None:
    if not settings.liveness or given.get("pool_pre_ping"):
        return
    if isinstance(engine.pool, QueuePool):
        _liveness.replace_dead_connections(
            engine,
            ping_idle=settings.ping_idle,
            lifetime=_lifetime(given, settings),
        )
    elif not isinstance(engine.pool, NullPool):  # there nothing is ever idle
        logger.info(
            "The pool of %r is a %s, whose connections are not checked for liveness: it may lend"
            " one of them to several at a time. 'pool_pre_ping': True is SQLAlchemy's own check.",
            engine.url.set(query={}),  # there may be a password in it, too
            type(engine.pool).__name__,
        )


def _lifetime(given: Mapping[str, Any], settings: PoolSettings) -> float | None:
    lifetime = given.get("pool_recycle", settings.recycle)
    return None if lifetime is None or lifetime < 0 else lifetime


_COLLECTION_PERIOD = 10.0  # seconds


class ConnectionPool(QueuePool):
    """A ``QueuePool`` that knows who has its connections.

    :ivar holders: asked when the pool has run dry.
    """

    holders: CheckoutTracker | None = None

    def __init__(
        self, creator: Any, pool_size: int = 5, max_overflow: int = 10, **options: Any
    ) -> None:
        super().__init__(creator, pool_size=pool_size, max_overflow=max_overflow, **options)
        limited = pool_size > 0 and max_overflow >= 0
        self._limit = pool_size + max_overflow if limited else float("inf")
        # Weak, all three: what was interrupted leaves nothing behind here.
        self._entries: weakref.WeakSet[ConnectionPoolEntry] = weakref.WeakSet()
        self._attempts: weakref.WeakSet[_Attempt] = weakref.WeakSet()
        self._replacing = threading.Lock()
        self._collecting = threading.Lock()
        self._next_collection = 0.0

    def recreate(self) -> ConnectionPool:
        """As it was; ``engine.dispose()`` replaces its pool by what this returns."""
        pool = cast(ConnectionPool, super().recreate())
        pool.holders = self.holders
        return pool

    def connect(self) -> PoolProxiedConnection:
        """As it was.

        :raises PoolExhausted: with the names of those who have the connections.
        """
        if self.size() + self.overflow() >= self._limit and not self.checkedin():
            self._run_dry()
        try:
            return super().connect()
        except exc.TimeoutError as error:
            timeout = error
        if self._collect_garbage() or self._replace_lost():
            try:  # once more, and no more: somebody else may have been quicker
                return super().connect()
            except exc.TimeoutError as error:
                timeout = error
        raise PoolExhausted(self._explanation()) from timeout

    def _collect_garbage(self) -> bool:
        """Let the connections go that only garbage holds; is one to be had now?

        The traceback of an exception holds what its functions worked with, and Flask holds the
        exception in a function of that traceback: a circle. It may take long until Python looks
        for circles by itself, or for ever if the app has switched that off.
        """
        # It stops all threads, so among many that wait one looks, and not again soon.
        if time.monotonic() >= self._next_collection and self._collecting.acquire(blocking=False):
            try:
                gc.collect()
                self._next_collection = time.monotonic() + _COLLECTION_PERIOD
            finally:
                self._collecting.release()
        return bool(self.checkedin()) or self.size() + self.overflow() < self._limit

    def _run_dry(self) -> None:
        self._replace_lost()
        if self.holders is not None:
            self.holders.warn_of_old()

    def _explanation(self) -> str:
        waited, size = self.timeout(), self.size()
        text = (
            f"All {self._limit} connections of the pool (pool_size={size},"
            f" max_overflow={self._limit - size}) were in use, and none became free for {waited:g}"
            " seconds (pool_timeout)."
        )
        if self.holders is not None:
            text += f" They are held by, the oldest first:\n{self.holders.report()}\n"
        return (
            f"{text} If one is much older than a request should be, look there: a connection"
            " belongs to a unit from its first statement to its end, so commit before slow work,"
            " and close what 'db.engine.connect()' opened. If all are young, there are more"
            " threads than connections: raise 'pool_size' in SQLALCHEMY_ENGINE_OPTIONS."
        )

    # Connections that nobody holds ------------------------------------------------------------

    # The pool counts what it lends out. An exception that strikes in the middle of that (raised by
    # a signal handler, or by gevent) takes the entry of a connection away from everybody, and the
    # pool counts it as lent for ever. So it is counted a second time, by weak references: what
    # the pool counts and nobody has is lost.

    def _create_connection(self) -> ConnectionPoolEntry:
        attempt = _Attempt()
        self._attempts.add(attempt)
        try:
            entry = super()._create_connection()
            self._entries.add(entry)
        finally:
            self._attempts.discard(attempt)  # the traceback of an error may live on
        return entry

    def _count_lost(self) -> int:
        before = self.size() + self.overflow()
        seen = len(self._entries) + len(self._attempts)
        # Others go on meanwhile: only what is missing at both times is.
        return max(0, min(before, self.size() + self.overflow()) - seen)

    def _replace_lost(self) -> int:
        """Put a new connection into the place of each that nobody holds; how many."""
        if not self._count_lost() or not self._replacing.acquire(blocking=False):
            return 0
        try:
            time.sleep(0.01)  # a thread between two steps of a checkout has taken them by then
            lost = self._count_lost()
            for _ in range(lost):
                sqlalchemy_private.return_to(self, self._create_connection())
        finally:
            self._replacing.release()
        if lost:
            logger.warning(
                "%d of the %s connections of a pool had been lost: they were checked out, and"
                " nobody had them. An exception that a signal handler or a timeout raised into a"
                " checkout does that. They were replaced by new ones.",
                lost,
                self._limit,
            )
        return lost


class _Attempt:
    """A connection is being opened; as long as the function that does it runs."""

    __slots__ = ("__weakref__",)
