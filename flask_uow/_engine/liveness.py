"""A connection that died in the pool is replaced before it is used (P13).

When a server restarts, an administrator ends a session or an idle timeout expires, the server
closes the connection, perhaps after a last message. Either makes the socket readable. An idle
connection has nothing to read, so it is replaced if its socket is readable, whatever has arrived. A
look at the socket takes a microsecond and no round trip.

A real ping is sent where the look is not enough:

- the driver does not expose its socket;
- the connection has been idle for long, and a router may have dropped it silently;
- another connection was found dead after this one was last used.

Each connection also has a lifetime. It is shortened at random, by up to a tenth, so that
connections that were opened together do not end together.

Nothing here knows Flask or sessions.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from importlib.util import find_spec, module_from_spec
from time import monotonic
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Engine, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry, NullPool, QueuePool, StaticPool

from .._config.settings import PoolSettings
from .._drivers.known import driver_of

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection

logger = logging.getLogger(__name__)

_KEY = "flask_uow.life"
_random = random.SystemRandom()  # workers forked from one process must not get the same numbers


class _Life:
    """What is known about one connection, kept in its ``info``.

    :ivar used: when the connection was last checked out; None before the first time.
    :ivar expires: when the lifetime of the connection is over.
    :ivar descriptor: returns the descriptor of its socket; None if the driver does not expose it.
    :ivar number: the descriptor when the connection was new.
    :ivar look: ``look(0)`` tells, without waiting, whether the socket is readable.
    """

    __slots__ = ("descriptor", "expires", "look", "number", "used")

    def __init__(self, expires: float, descriptor: Callable[[], int] | None) -> None:
        self.used: float | None = None
        self.expires = expires
        self.descriptor = descriptor
        if descriptor is not None:
            self.number = descriptor()
            self.look = _look_at(self.number)


class Liveness:
    """Looks after the idle connections of one engine.

    :param ping_idle: a connection that was last used more than this many seconds ago is pinged.
    :param lifetime: a connection is replaced after this many seconds, or up to a tenth earlier.
        None and negative numbers, which ``pool_recycle`` may be, mean never.
    """

    def __init__(self, engine: Engine, ping_idle: float, lifetime: float | None) -> None:
        self._dialect = engine.dialect
        self._driver = driver_of(engine.dialect)
        self._ping_idle = ping_idle
        self._lifetime = float("inf") if lifetime is None or lifetime < 0 else lifetime
        self._last_loss = 0.0
        self._told = False

    def note_connection(self, connection: object, entry: ConnectionPoolEntry) -> None:
        lifetime = self._lifetime * (1 - 0.1 * _random.random())
        descriptor = self._driver.descriptor_of(connection)
        entry.info[_KEY] = _Life(monotonic() + lifetime, descriptor)
        if descriptor is None and not self._told:
            self._told = True
            logger.info(
                "The driver %r does not show its socket, so a connection from the pool is pinged"
                " before each use. That costs a round trip; UOW_LIVENESS = False switches it off.",
                self._dialect.driver,
            )

    def check(
        self, connection: DBAPIConnection, entry: ConnectionPoolEntry, _proxy: object
    ) -> None:
        """Check whether *connection* can be used.

        :raises DisconnectionError: the connection is dead, or its lifetime is over. The pool
            replaces it by a new one, which needs no check.
        """
        life: _Life | None = entry.info.get(_KEY)
        if life is None:  # the app has cleared 'connection.info', which it may use as well
            return
        now = monotonic()
        # The time of the checkout stands for that of the return: noting both would make this half
        # as expensive again.
        used, life.used = life.used, now
        if used is None:
            return
        if now >= life.expires:
            raise DisconnectionError("the lifetime of the connection is over")
        try:
            alive = life.descriptor is None or (
                life.descriptor() == life.number and not life.look(0)
            )
        except Exception:  # the driver has closed it
            alive = False
        if life.descriptor is None or now - used > self._ping_idle or used <= self._last_loss:
            alive = alive and self._ping(connection)
        if not alive:
            self._last_loss = now
            raise DisconnectionError("the connection died while it was idle")

    def _ping(self, connection: DBAPIConnection) -> bool:
        try:
            return self._dialect.do_ping(connection)
        except Exception:  # whatever the reason, the connection is replaced
            return False


def replace_dead_connections(
    engine: Engine, given: Mapping[str, Any], settings: PoolSettings
) -> None:
    """Check the connections of *engine* when they leave its pool.

    :param given: the options for ``create_engine()`` as the user gave them.
    """
    if not settings.liveness or given.get("pool_pre_ping"):
        return
    if isinstance(engine.pool, QueuePool):
        liveness = Liveness(engine, settings.ping_idle, given.get("pool_recycle", settings.recycle))
        event.listen(engine, "connect", liveness.note_connection)
        event.listen(engine, "checkout", liveness.check)
    elif not isinstance(engine.pool, (NullPool, StaticPool)):  # their connections are never idle
        logger.info(
            "The pool of %r is a %s, whose connections are not checked for liveness: several"
            " threads may use one at once. 'pool_pre_ping': True is SQLAlchemy's own check.",
            engine.url.set(query={}),  # the query may contain a password, too
            type(engine.pool).__name__,
        )


# The look -------------------------------------------------------------------------------------


def _own_copy_of_select() -> ModuleType:
    """Return a copy of the module ``select`` in which gevent and eventlet replace nothing."""
    spec: Any = find_spec("select")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_select = _own_copy_of_select()

if hasattr(_select, "poll"):  # pragma: no branch

    def _look_at(number: int) -> Callable[[int], object]:
        poll = _select.poll()
        poll.register(number, _select.POLLIN)
        return cast("Callable[[int], object]", poll.poll)

else:  # pragma: no cover  # Windows

    def _look_at(number: int) -> Callable[[int], object]:
        return lambda seconds: _select.select([number], [], [], seconds)[0]
