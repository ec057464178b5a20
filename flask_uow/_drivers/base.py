"""What every driver can be asked, and what holds for one that is not known here.

A family of drivers has a file of its own beside this one, with a subclass of :class:`Driver` for
each driver: its timeouts, its socket, the state of its transaction, its errors. The methods of
:class:`Driver` itself say what holds for an unknown driver. :mod:`.known` lists the drivers.

By default no driver notices that its server has become unreachable: a request that waits for a
reply waits until the kernel gives up, for a quarter of an hour or for two hours. So that a
partition of the network is an error within seconds, four things are set where the user has set
none:

- *connecting* ends after the network timeout, the server's greeting included;
- *sent and not acknowledged* for that long is an error (``tcp_user_timeout``);
- *waiting* for a reply, the kernel asks the other end for a sign of life (TCP keepalive);
- *a long statement* is none of this: its server acknowledges, and may take its time. For the same
  reason no driver gets a ``read_timeout``: it would end a long report or an ``ALTER TABLE`` at this
  end only, and the server would continue with it.

What stays open: a peer that acknowledges and never replies, such as a proxy that hangs.

Nothing here knows Flask, sessions or engines, and nothing imports a driver.
"""

from __future__ import annotations

import contextlib
import enum
import math
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection

# Outcomes -------------------------------------------------------------------------------------


class Outcome(enum.Enum):
    """What is known of a unit that ended in an error."""

    NOT_APPLIED = "not applied"
    """Nothing is stored, and the whole unit may be run again."""
    UNKNOWN = "unknown"
    """It is stored or it is not: only the database can tell, in a new connection."""
    FAILED = "failed"
    """It would fail again, or nothing better is known."""


class Phase(enum.Enum):
    """How far the unit was."""

    BEFORE_COMMIT = "before COMMIT"
    """In a statement, while connecting, in the flush of a ``commit()``."""
    AT_COMMIT = "at COMMIT"
    """COMMIT had been handed to the driver, in this attempt or an earlier one."""


@dataclass(frozen=True)
class Meaning:
    """What an error says about its transaction.

    :ivar before: the outcome, if the error came before COMMIT.
    :ivar at_commit: the outcome, if it came at COMMIT.
    :ivar transient: another transaction was in the way.
    :ivar disconnected: the connection must not be used again.
    """

    before: Outcome
    at_commit: Outcome
    transient: bool = False
    disconnected: bool = False


@dataclass(frozen=True)
class Verdict:
    """The code of an error, and what it means."""

    code: str | None
    meaning: Meaning


CONFLICT = Meaning(Outcome.NOT_APPLIED, Outcome.NOT_APPLIED, transient=True)
"""Another transaction was in the way, and the server has certainly rolled this one back."""
REFUSED = Meaning(Outcome.NOT_APPLIED, Outcome.NOT_APPLIED)
"""The server refuses, and says so; later it may not."""
STOPPED = Meaning(Outcome.NOT_APPLIED, Outcome.UNKNOWN)
"""As :data:`REFUSED`, but no documentation promises that of a COMMIT."""
DISCONNECTED = Meaning(Outcome.NOT_APPLIED, Outcome.UNKNOWN, disconnected=True)
"""The connection is lost."""
DISCONNECTED_EARLIER = Meaning(Outcome.NOT_APPLIED, Outcome.NOT_APPLIED, disconnected=True)
"""The connection was lost before the server could read a COMMIT."""
IN_DOUBT = Meaning(Outcome.UNKNOWN, Outcome.UNKNOWN, disconnected=True)
"""The server does not know itself, and the error may be about an implicit COMMIT."""
WRONG = Meaning(Outcome.FAILED, Outcome.FAILED)
"""The unit is to blame, and nothing of it is stored."""
UNNAMED = Meaning(Outcome.FAILED, Outcome.UNKNOWN)
"""The error is in no table."""

# Drivers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Driver:
    """One driver.

    :ivar name: as SQLAlchemy calls it, ``dialect.driver``.
    :ivar module: which module it imports; its errors come from there.
    :ivar package: which package installs it; empty if ours cannot use it.
    :ivar serves: the dialects whose URL may leave the driver out and mean this one.
    :ivar advice: what to write instead under gevent and eventlet, if it waits in C.
    """

    name: str = ""
    module: str = ""
    package: str = ""
    serves: tuple[str, ...] = ()
    advice: str | None = None

    # Connecting

    def timeouts(self, own: Mapping[str, object], seconds: float) -> dict[str, object]:
        """Return arguments for connecting that make the driver notice a partition.

        :param own: what the user has set, in ``connect_args`` or in the query of the URL; it stays.
        :param seconds: the network timeout; rounded up, because drivers count in whole seconds.
        """
        arguments = self._timeouts(own, whole_seconds(seconds))
        return {name: value for name, value in arguments.items() if name not in own}

    def _timeouts(self, own: Mapping[str, object], seconds: int) -> dict[str, object]:
        return {}

    def finish_connecting(
        self, connection: DBAPIConnection, own: Mapping[str, object], seconds: float
    ) -> None:
        """Set on a new connection what has no argument; the parameters of :meth:`timeouts`."""

    def descriptor_of(self, connection: object) -> Callable[[], int] | None:
        """Return the function that returns the number of the socket of *connection*.

        That function raises, or returns a negative number, when the driver has closed the
        connection. None for a driver that does not show its socket.
        """
        descriptor: object = getattr(connection, "fileno", None)
        if not callable(descriptor):
            return None
        try:
            descriptor()
        except Exception:  # pg8000 has the method of a file that is none
            return None
        return cast("Callable[[], int]", descriptor)

    def how_not_to_block(self, library: str) -> str | None:
        """Return what to write instead if the driver waits in C, where no greenlet can run.

        :param library: ``"gevent"`` or ``"eventlet"``, which has patched this process.
        """
        return self.advice

    # Transactions

    def is_aborted(self, connection: object, error: BaseException | None) -> bool:
        """Tell whether the transaction is gone, or cannot be committed, as far as is known.

        :param error: the last one in this transaction.
        """
        return False

    def is_open(self, connection: object) -> bool:
        """Tell whether a transaction is open; False where the driver does not know."""
        return False

    def roll_back(self, connection: DBAPIConnection) -> None:
        """Roll back for the pool; the app has not asked for it."""
        connection.rollback()

    def unseen_error_of(self, connection: object) -> BaseException | None:
        """Return the error that a cursor of the driver has raised past SQLAlchemy, if known."""
        return None

    def watch_transactions(self, engine: Engine) -> None:
        """Add to *engine* what makes the methods above true for its connections."""

    def watch_notices(self, engine: Engine, name: str) -> None:
        """Listen to what the server reports beside the results, if the driver hands it over.

        :param name: of the engine, for the log.
        """

    # Errors

    def judge(self, error: BaseException) -> Verdict:
        """Look *error* up in the table of the family."""
        return Verdict(None, UNNAMED)

    def aborts_transaction(self, verdict: Verdict) -> bool:
        """Tell whether the server has thrown the transaction away, unnoticed by the driver."""
        return False

    def may_abort_transaction(self, verdict: Verdict) -> bool:
        """Tell whether that depends on a setting of the server, which a client cannot see."""
        return False


def whole_seconds(seconds: float) -> int:
    """Round up, to at least one: to some drivers 0 means for ever, to others an error."""
    return max(1, math.ceil(seconds))


# Sockets --------------------------------------------------------------------------------------


def set_tcp_options(descriptor: int, seconds: int) -> None:
    """Let the kernel close a TCP connection whose other end has been silent for *seconds*."""
    options = {
        "TCP_KEEPIDLE": max(1, seconds // 2),
        "TCP_KEEPINTVL": max(1, seconds // 4),
        "TCP_KEEPCNT": 2,
        "TCP_USER_TIMEOUT": seconds * 1000,
    }
    with borrowed_socket(descriptor) as sock:
        if sock.family not in {socket.AF_INET, socket.AF_INET6}:
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in options.items():
            if hasattr(socket, name):  # pragma: no branch  # each system has its own
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


@contextlib.contextmanager
def borrowed_socket(number: int) -> Iterator[socket.socket]:
    """Yield the socket of a descriptor, which stays the driver's."""
    # gevent's sockets, and those under a default timeout, switch the blocking off.
    blocking = os.get_blocking(number)
    borrowed = socket.socket(fileno=number)
    try:
        yield borrowed
    finally:
        borrowed.detach()
        os.set_blocking(number, blocking)
