"""A connection that died in the pool is replaced before it is used (P13).

A server that restarts, an administrator and an idle timeout all close the connection, or send a
last message: either makes the idle socket readable, and a look at it costs a microsecond and no
round trip. A connection at rest has nothing to read, so whatever there is, it is replaced.

A real ping is sent where the look is not enough: the driver does not show its socket, the
connection has been idle for long (a router may have forgotten it without a sign), or another
one was found dead since it was last used.

Each connection also has a lifetime, up to a tenth shorter than asked for, at random, so that
those which were opened together do not end together.

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
_random = random.SystemRandom()  # two workers forked from one process do not get the same numbers


class _Life:
    """What is known of one connection; kept in its ``info``, which ends with it.

    :ivar used: when it last left the pool; None as long as it has not.
    :ivar expires: when its lifetime is over.
    :ivar descriptor: returns the number of its socket; None if the driver does not show it.
    :ivar number: what it returned at first.
    :ivar look: called with 0, for no time to wait, returns whether that socket is readable.
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

    :param ping_idle: seconds since the last use after which the server is asked, instead of
        looking at the socket.
    :param lifetime: seconds after which a connection is replaced, up to a tenth earlier; None, or
        a negative number as in ``pool_recycle``, for never.
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
        """Look whether *connection* can be used.

        :raises DisconnectionError: the connection is dead or has lived its time. The pool
            replaces it by a new one, which is not checked again.
        """
        life: _Life | None = entry.info.get(_KEY)
        if life is None:  # 'connection.info' is the app's, too, and was cleared
            return
        now = monotonic()
        # Not the time of the last return: noting that would cost half as much again.
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
        except Exception:  # whatever is wrong with it: another one will do
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
    elif not isinstance(engine.pool, (NullPool, StaticPool)):  # there no connection is ever idle
        logger.info(
            "The pool of %r is a %s, whose connections are not checked for liveness: it may lend"
            " one of them to several at a time. 'pool_pre_ping': True is SQLAlchemy's own check.",
            engine.url.set(query={}),  # there may be a password in it, too
            type(engine.pool).__name__,
        )


# The look -------------------------------------------------------------------------------------


def _own_copy_of_select() -> ModuleType:
    """Return ``select`` as Python made it, without what gevent and eventlet replace in it."""
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
