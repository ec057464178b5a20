"""What flask_uow knows about single drivers: timeouts, how they wait, the socket below.

By default no driver notices that its server has become unreachable: a request that waits for an
answer waits until the kernel gives up, for a quarter of an hour or for two. So that a partition
of the network is an error within seconds, four things are set where the user has set none:

- *connecting* ends after the network timeout, the server's greeting included;
- *sent and not acknowledged* for that long is an error (``tcp_user_timeout``);
- *waiting* for an answer, the kernel asks the other end for a sign of life (TCP keepalive);
- *a long statement* is none of this: its server acknowledges, and it may take its time. For the
  same reason nobody gets a ``read_timeout``: it would end a long report or an ``ALTER TABLE`` at
  this end only, and the server would go on with it.

What stays open: a peer that acknowledges and never answers, such as a proxy that hangs.

Under gevent and eventlet a driver has to wait in Python, where they can let another greenlet run.
One that waits in C stops all greenlets of the process, without an error: the user is warned.

Nothing here knows Flask or sessions.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from sqlalchemy import URL, Engine, event

from ..errors import ConfigNotice

logger = logging.getLogger("flask_uow")

_LIBPQ = {"psycopg", "psycopg2"}
_MYSQL = {"pymysql", "mysqldb"}
# A service file, or a connection string, may set what we would override.
_ELSEWHERE = {"service", "conninfo", "dsn"}


def timeouts(url: URL, given: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """The arguments that make the driver of *url* notice a partition; those not given only.

    :param given: ``connect_args``. What is set there, in the query of the URL, in
        ``PGCONNECT_TIMEOUT`` or by way of a PostgreSQL service stays as it is.
    :param seconds: the network timeout; rounded up, because the drivers count in whole seconds.
    :returns: for ``connect_args``; empty for a driver that is not known here.
    """
    driver = url.get_dialect().driver
    own = {**url.query, **given}
    whole = _whole(seconds)
    found: dict[str, Any] = {}
    if driver in _LIBPQ and not (_ELSEWHERE & own.keys() or "PGSERVICE" in os.environ):
        found = {
            "connect_timeout": whole,
            "keepalives": 1,
            "keepalives_idle": max(1, whole // 2),
            "keepalives_interval": max(1, whole // 4),
            "keepalives_count": 2,
            "tcp_user_timeout": whole * 1000,
        }
        if "PGCONNECT_TIMEOUT" in os.environ:
            del found["connect_timeout"]
    elif driver in _MYSQL:
        found = {"connect_timeout": whole}
        if driver == "pymysql":
            # Its connect_timeout ends before the greeting; this one is lifted after it.
            found["read_timeout"] = float(own.get("connect_timeout", whole))
    return {name: value for name, value in found.items() if name not in own}


def install(engine: Engine, given: Mapping[str, Any], seconds: float) -> None:
    """Set on each socket of *engine* what its driver has no argument for.

    :param given: as for :func:`timeouts`, without what that has added.
    """
    if engine.dialect.driver not in _MYSQL:
        return
    lift = "read_timeout" in timeouts(engine.url, given, seconds)

    def on_connect(connection: Any, _entry: object) -> None:
        with socket_of(connection) as found:
            if found.family in {socket.AF_INET, socket.AF_INET6}:
                _set_tcp_options(found, _whole(seconds))
        if lift:
            _lift_read_timeout(connection)

    event.listen(engine, "connect", on_connect)


def _whole(seconds: float) -> int:
    return max(1, math.ceil(seconds))  # to some drivers 0 means for ever, to others an error


def _set_tcp_options(sock: socket.socket, seconds: int) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", max(1, seconds // 2)),
        ("TCP_KEEPINTVL", max(1, seconds // 4)),
        ("TCP_KEEPCNT", 2),
        ("TCP_USER_TIMEOUT", seconds * 1000),
    ):
        option = getattr(socket, name, None)  # each system has its own
        if option is not None:  # pragma: no branch
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _lift_read_timeout(connection: Any) -> None:
    if hasattr(connection, "_read_timeout"):
        connection._read_timeout = None
    else:  # pragma: no cover  # no known version
        logger.warning(
            "This version of PyMySQL keeps its 'read_timeout' for good: no statement may take"
            " longer than 'connect_timeout'. Set 'read_timeout' in 'connect_args'."
        )


def warn_of_blocking(engine: Engine) -> None:
    """Warn once if the driver of *engine* stops all greenlets whenever it waits.

    Not before it connects: a server may import the app first, and patch in its workers.
    """
    told = False

    def on_connect(_connection: object, _entry: object) -> None:
        nonlocal told
        library = _greenlet_library()
        if library is None or told:
            return
        advice = _how_not_to_block(engine.dialect.driver, library)
        if advice is not None:
            told = True
            warnings.warn(
                f"{library} has patched this process, and the driver of"
                f" '{engine.url.drivername}://' waits for the server in C, where {library} cannot"
                " switch: while one request waits for the database, all other greenlets of the"
                f" process stand still. {advice}",
                ConfigNotice,
                stacklevel=2,
            )

    event.listen(engine, "connect", on_connect)


def _greenlet_library() -> str | None:
    """Whose sockets this process has, if they are not Python's; nothing is imported for that."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if gevent is not None and gevent.is_module_patched("socket"):
        return "gevent"
    if eventlet is not None and eventlet.is_monkey_patched("socket"):
        return "eventlet"
    return None


def _how_not_to_block(driver: str, library: str) -> str | None:
    """What to write instead, if *driver* waits in C; None if it does not, or is not known."""
    if driver == "psycopg":
        # It chooses when it is imported, and asks gevent only.
        waiting: Any = sys.modules["psycopg.waiting"]
        if waiting.wait is not getattr(waiting, "wait_c", None):
            return None
        earlier = f" Or let {library} patch before psycopg is imported." * (library == "gevent")
        return f"Set the environment variable PSYCOPG_WAIT_FUNC=wait_select.{earlier}"
    if driver == "psycopg2":
        if sys.modules["psycopg2.extensions"].get_wait_callback() is not None:
            return None
        return (
            "Use 'postgresql+psycopg://', or install psycogreen and call"
            f" 'psycogreen.{library}.patch_psycopg()' before the first request."
        )
    return "Use 'mysql+pymysql://'." if driver in {"mysqldb", "mariadbconnector"} else None


def descriptor_of(connection: Any) -> Callable[[], int] | None:
    """What returns the number of the socket under a driver's *connection*.

    The function raises, or returns a negative number, when the driver has closed the connection.
    None for a driver that does not show its socket.
    """
    found: Any = getattr(connection, "fileno", None)
    if found is None:
        found = getattr(getattr(connection, "_sock", None), "fileno", None)  # PyMySQL
    if not callable(found):
        return None
    try:
        found()
    except Exception:  # pg8000 has the method of a file that is none
        return None
    return cast("Callable[[], int]", found)


@contextlib.contextmanager
def socket_of(connection: Any) -> Iterator[socket.socket]:
    """The socket under the *connection* of a driver that shows it; it stays the driver's."""
    own = getattr(connection, "_sock", None)  # PyMySQL
    if own is not None:
        yield own
        return
    number = connection.fileno()
    # gevent's sockets, and those under a default timeout, switch the blocking off.
    blocking = os.get_blocking(number)
    borrowed = socket.socket(fileno=number)
    try:
        yield borrowed
    finally:
        borrowed.detach()
        os.set_blocking(number, blocking)
