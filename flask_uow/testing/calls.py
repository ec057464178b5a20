"""Calls into the driver, which a test can let fail: statements and COMMITs.

The methods of a dialect are replaced while a test wants it, and put back at the end. They are the
outermost ones: listeners have decided on the transaction before, and what is raised here is for
SQLAlchemy and the rest of the code an error of the driver.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

from sqlalchemy.engine import Dialect, ExecutionContext
from sqlalchemy.pool import PoolProxiedConnection

from .._engine.lost_transactions import refuse_commit_if_lost

_EXECUTE = ("do_execute", "do_executemany", "do_execute_no_params")


class Call(NamedTuple):
    """One call into the driver.

    :ivar proceed: makes the call.
    :ivar statement: the SQL; None for a COMMIT.
    :ivar context: the context of the statement; None for a COMMIT.
    """

    dialect: Dialect
    proxy: PoolProxiedConnection
    proceed: Callable[[], None]
    statement: str | None = None
    context: ExecutionContext | None = None

    @property
    def connection(self) -> Any:
        """The driver's connection, or what stands in for it inside isolation."""
        return self.proxy.dbapi_connection

    @property
    def is_commit(self) -> bool:
        """Whether a COMMIT is sent; in a driver's autocommit mode there is none."""
        return self.statement is None and not _is_autocommit(self.dialect, self.connection)


class Listener(Protocol):
    """What is asked before each call."""

    def meet(self, call: Call) -> None:
        """Raise an error in place of *call*, or let it come."""
        ...


@contextmanager
def listening(dialect: Dialect, listener: Listener) -> Iterator[None]:
    """Ask *listener* before each call of *dialect*, after those that were added earlier."""
    with _lock:
        switch = _switches.get(dialect) or _switches.setdefault(dialect, _Switch(dialect))
        switch.listeners = (*switch.listeners, listener)
    try:
        yield
    finally:
        with _lock:
            switch.listeners = tuple(one for one in switch.listeners if one is not listener)
            if not switch.listeners:
                del _switches[dialect]
                switch.restore(dialect)


class _Switch:
    """The replaced methods of one dialect.

    :ivar listeners: never changed, only replaced: other threads may be going through them.
    """

    def __init__(self, dialect: Dialect) -> None:
        self.listeners: tuple[Listener, ...] = ()
        self._before = {name: vars(dialect).get(name) for name in (*_EXECUTE, "do_commit")}
        for name in _EXECUTE:
            setattr(dialect, name, partial(self._execute, getattr(dialect, name)))
        setattr(dialect, "do_commit", partial(self._commit, dialect, dialect.do_commit))  # noqa: B010

    def restore(self, dialect: Dialect) -> None:
        for name, method in self._before.items():
            if method is None:  # it is the one of the class
                delattr(dialect, name)
            else:
                setattr(dialect, name, method)

    def _execute(self, execute: Callable[..., None], *arguments: Any) -> None:
        # The methods of a dialect can be called without a context: the last argument is another
        # one. Outside of a transaction, SQLAlchemy itself asks a new connection what it is.
        context, root = arguments[-1], getattr(arguments[-1], "root_connection", None)
        proceed = partial(execute, *arguments)
        if root is not None and root.get_transaction() is not None:
            proxy = root.connection
            self._ask(Call(root.dialect, proxy, proceed, arguments[1], context))
        proceed()

    def _commit(
        self,
        dialect: Dialect,
        commit: Callable[[PoolProxiedConnection], None],
        proxy: PoolProxiedConnection,
    ) -> None:
        refuse_commit_if_lost(dialect, proxy)  # no COMMIT would be sent
        proceed = partial(commit, proxy)
        self._ask(Call(dialect, proxy, proceed))
        proceed()

    def _ask(self, call: Call) -> None:
        for listener in self.listeners:
            listener.meet(call)


def _is_autocommit(dialect: Dialect, connection: Any) -> bool:
    if dialect.name == "sqlite":
        return connection.isolation_level is None
    if hasattr(connection, "get_autocommit"):  # the drivers for MySQL
        return bool(connection.get_autocommit())
    return getattr(connection, "autocommit", False) is True


_lock = threading.Lock()
_switches: WeakKeyDictionary[Dialect, _Switch] = WeakKeyDictionary()
