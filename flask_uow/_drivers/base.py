"""The protocol of all drivers, which also describes an unknown driver.

Each family of drivers has a file in this folder, with a subclass of :class:`Driver` for each
driver: its timeouts, socket, transaction state and errors. :mod:`.known` lists the drivers.

By default, no driver notices that its server has become unreachable: a request waits for a reply
until the kernel closes the connection, after 15 minutes or two hours. The settings here make it an
error within the network timeout, where the user has not set others:

- Connecting, including the server's greeting, ends after the network timeout.
- Data that is not acknowledged for that long is an error (``tcp_user_timeout``).
- While a driver waits for a reply, the kernel tests the other end (TCP keepalive).

A long statement is not affected, because its server acknowledges. No driver gets a
``read_timeout``: it would end a long report or an ``ALTER TABLE`` for the client only, and the
server would continue. A peer that acknowledges and never replies, such as a hanging proxy, is not
noticed.

Nothing here knows Flask, sessions or engines, and nothing imports a driver.
"""

from __future__ import annotations

import enum
import math
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

if TYPE_CHECKING:
    from sqlalchemy import Engine, UpdateBase
    from sqlalchemy.engine import Dialect
    from sqlalchemy.engine.interfaces import DBAPIConnection

# Outcomes -------------------------------------------------------------------------------------


class Outcome(enum.Enum):
    """Whether the work of a unit that ended in an error is stored."""

    NOT_APPLIED = "not applied"
    """Nothing is stored, and the whole unit may be run again."""
    UNKNOWN = "unknown"
    """It may be stored or not; only a query on a new connection can tell."""
    FAILED = "failed"
    """Nothing is stored, as far as is known, and the unit would fail again."""


class Moment(enum.Enum):
    """When the error came."""

    BEFORE_COMMIT = "before COMMIT"
    """While connecting, in a statement, or in the flush of a ``commit()``."""
    AT_COMMIT = "at COMMIT"
    """After COMMIT was handed to the driver, in this attempt or an earlier one."""


class Missing(enum.Enum):
    """What a statement names and the database does not have."""

    TABLE = "table"
    COLUMN = "column"


@dataclass(frozen=True)
class Meaning:
    """The meaning of an error for its transaction.

    :ivar before: the outcome of an error before COMMIT.
    :ivar at_commit: the outcome of an error at COMMIT.
    :ivar transient: the error is a conflict with another transaction.
    :ivar disconnected: the connection must not be used again.
    :ivar aborts: the server has rolled back the transaction, unnoticed by the driver.
    :ivar may_abort: it may have, depending on a setting of the server, unknown to the client.
    """

    before: Outcome
    at_commit: Outcome
    transient: bool = False
    disconnected: bool = False
    aborts: bool = False
    may_abort: bool = False


CONFLICT = Meaning(Outcome.NOT_APPLIED, Outcome.NOT_APPLIED, transient=True)
"""A conflict with another transaction: the server has certainly rolled this one back."""
REFUSED = Meaning(Outcome.NOT_APPLIED, Outcome.NOT_APPLIED)
"""The server refuses the transaction for now, and nothing is stored."""
STOPPED = Meaning(Outcome.NOT_APPLIED, Outcome.UNKNOWN)
"""As :data:`REFUSED`, but no documentation promises it for a COMMIT."""
DISCONNECTED = Meaning(Outcome.NOT_APPLIED, Outcome.UNKNOWN, disconnected=True)
"""The connection was closed, and the server may have carried out a COMMIT."""
DISCONNECTED_EARLIER = Meaning(Outcome.NOT_APPLIED, Outcome.NOT_APPLIED, disconnected=True)
"""The connection was closed before the server could read a COMMIT."""
IN_DOUBT = Meaning(Outcome.UNKNOWN, Outcome.UNKNOWN, disconnected=True)
"""The server itself does not know, and the error may concern an implicit COMMIT."""
WRONG = Meaning(Outcome.FAILED, Outcome.FAILED)
"""The unit itself is wrong, and nothing of it is stored."""
UNNAMED = Meaning(Outcome.FAILED, Outcome.UNKNOWN)
"""The error has no row in the table of its driver."""

# Drivers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Driver:
    """One driver.

    :ivar name: SQLAlchemy's name for it, ``dialect.driver``.
    :ivar module: the module that it imports and that defines its errors.
    :ivar package: the package to install; empty for a driver that comes with Python.
    :ivar serves: the dialects that use this driver if their URL names none.
    :ivar advice: what to write instead under gevent and eventlet, if the driver waits in C.
    :cvar defers: plain reads may run without a transaction; see :meth:`may_read_plainly`.
    :cvar is_lazy: a cursor fetches its rows from its connection, and needs it until the last row.
    """

    name: str = ""
    module: str = ""
    package: str = ""
    serves: tuple[str, ...] = ()
    advice: str | None = None
    defers: ClassVar[bool] = False
    is_lazy: ClassVar[bool] = False

    # Connecting

    def timeouts(self, own: Mapping[str, object], seconds: float) -> dict[str, object]:
        """Return arguments for connecting that make the driver notice a partition.

        :param own: arguments of the user, from ``connect_args`` or the query of the URL. They win.
        :param seconds: the network timeout, rounded up: drivers count in whole seconds.
        """
        arguments = self._timeouts(own, whole_seconds(seconds))
        return {name: value for name, value in arguments.items() if name not in own}

    def _timeouts(self, own: Mapping[str, object], seconds: int) -> dict[str, object]:
        return {}

    def finish_connecting(
        self, connection: DBAPIConnection, own: Mapping[str, object], seconds: float
    ) -> None:
        """Set timeouts of a new connection that are not arguments; see :meth:`timeouts`."""

    def descriptor_of(self, connection: object) -> Callable[[], int] | None:
        """Return a function that returns the descriptor of the socket of *connection*.

        After the driver has closed the connection, the function raises or returns a negative
        number. None for a driver that does not expose its socket.
        """
        descriptor: object = getattr(connection, "fileno", None)
        if not callable(descriptor):
            return None
        try:
            descriptor()
        except Exception:  # pg8000: the method belongs to a file without a descriptor
            return None
        return cast("Callable[[], int]", descriptor)

    def how_not_to_block(self, library: str) -> str | None:
        """Return advice for the log if the driver waits in C, where other greenlets cannot run.

        :param library: ``"gevent"`` or ``"eventlet"``, which has patched this process.
        """
        return self.advice

    # Transactions

    def is_aborted(self, connection: object, error: BaseException | None) -> bool:
        """Tell whether the transaction is known to be rolled back, or to refuse a commit.

        :param error: the last error in this transaction.
        """
        return False

    def is_open(self, connection: object) -> bool:
        """Tell whether a transaction is open; False if the driver does not know."""
        return False

    def roll_back(self, connection: DBAPIConnection) -> None:
        """Roll back a connection that returns to the pool; the app did not call ``rollback()``."""
        connection.rollback()

    def unseen_error_of(self, connection: object) -> BaseException | None:
        """Return an error of one of the driver's own cursors, which SQLAlchemy has not seen."""
        return None

    def watch_transactions(self, engine: Engine) -> None:
        """Add the listeners to *engine* that the methods above depend on."""

    # Plain reads

    def may_read_plainly(self, connection: Any, info: dict[Any, Any]) -> bool:
        """Tell whether plain reads on *connection* may run without a transaction.

        :param info: a dict that lasts as long as *connection*.
        """
        return False

    def read_plainly(self, execute: Callable[..., None], cursor: Any, *others: Any) -> bool:
        """Run a plain read without a transaction.

        :param execute: the method of the dialect.
        :param others: its arguments after *cursor*.
        :returns: False if the statement needs a transaction after all; nothing is stored then.
        """
        execute(cursor, *others)
        return True

    def finish_deferring(self, dialect: Dialect) -> None:
        """Adapt *dialect* to what :meth:`may_read_plainly` sets on its connections."""

    def watch_notices(self, engine: Engine, name: str) -> None:
        """Log important notices of the server, if the driver delivers notices.

        :param name: the name of the engine, for the log.
        """

    # Parameters

    def can_compare(self, value: int | str, bits: int) -> bool:
        """Tell whether *value* can be compared with a column without an error.

        :param bits: the size of the column's integers; 0 for a text.
        """
        return True

    # Errors

    def judge(self, error: BaseException) -> tuple[str | None, Meaning]:
        """Return the code of *error*, if the driver tells it, and its meaning."""
        return None, UNNAMED

    def missing_in(self, error: BaseException) -> Missing | None:
        """Return what is missing in the database, if *error* says that."""
        return None

    def constraint_of(self, error: BaseException, statement: UpdateBase | None) -> str | None:
        """Return the name of the violated constraint, as in the metadata.

        :param statement: the refused statement; None if it was a text.
        """
        return None


def is_integer_of(value: int, bits: int) -> bool:
    """Tell whether a signed integer of that many *bits* can be *value*."""
    return -(1 << bits - 1) <= value < 1 << bits - 1


def whole_seconds(seconds: float) -> int:
    """Round up, to at least 1: for some drivers 0 means no timeout, for others it is an error."""
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
    # A socket object of gevent, or under a default timeout, makes the descriptor non-blocking.
    blocking = os.get_blocking(descriptor)
    with socket.socket(fileno=os.dup(descriptor)) as duplicate:  # the driver's stays open
        if duplicate.family in {socket.AF_INET, socket.AF_INET6}:
            duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in options.items():
                if hasattr(socket, name):  # pragma: no branch  # each system has its own
                    duplicate.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    os.set_blocking(descriptor, blocking)
