"""What a test has left open: Flask contexts, sessions, and connections that are checked out."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from flask import Flask, appcontext_pushed
from sqlalchemy import Connection, event
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from .._engine.checkouts import (
    caller_location,
    source_location,
    trackers,
)
from .._request.app_state import EXTENSION, AppState
from .._request.context import UnitRegistry
from .._request.flask_private import (
    Context,
    app_context_of,
    current_context,
    push_of,
    pushed_contexts,
    request_of,
)
from .._transaction import sqlalchemy_private
from .._unit.session import UnitSession
from .._unit.unit import UnitOfWork
from ..errors import escaped

logger = logging.getLogger(__name__)

_PATIENCE = 1.0  # seconds: a server in a thread sends its response before it closes the session
_PAUSE = 0.01  # seconds

Checkouts = dict[float, tuple[str, ConnectionPoolEntry]]
"""By the time of the checkout: its description, and the pool's entry of its connection."""


class LeakDetector:
    """Finds the contexts, sessions and connections that are open, and knows their places.

    A session is open if it is in a transaction, be it only SQLAlchemy's: it was neither committed
    nor closed. Sessions and connections are those of a ``Database``; others are not watched.

    The detector watches from its creation on; of what was opened before, the place is not known.
    """

    def __init__(self) -> None:
        self._pushed: weakref.WeakKeyDictionary[Context, str] = weakref.WeakKeyDictionary()
        self._begun: weakref.WeakKeyDictionary[SessionTransaction, str] = (
            weakref.WeakKeyDictionary()
        )
        # The proxies of connections that sessions have checked out: they are returned with these.
        self._proxies: weakref.WeakKeyDictionary[object, weakref.ref[Session]] = (
            weakref.WeakKeyDictionary()
        )
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()  # contexts and sessions
        self._known_checkouts: set[float] = set()
        appcontext_pushed.connect(self._note_push)
        for name, listener in self._listeners():
            event.listen(UnitSession, name, listener)

    def stop(self) -> None:
        """Watch no longer."""
        appcontext_pushed.disconnect(self._note_push)
        for name, listener in self._listeners():
            event.remove(UnitSession, name, listener)

    def _listeners(self) -> list[tuple[str, Callable[..., None]]]:
        return [
            ("after_transaction_create", self._note_begin),
            ("after_begin", self._note_connection),
            ("after_transaction_end", self._note_end),
        ]

    def accept(self) -> None:
        """Regard what is open now as no leak."""
        self._known.update([*self._contexts(), *_sessions_of(self._transactions())])
        self._known_checkouts |= set(self._checkouts())

    @contextmanager
    def accepting(self) -> Iterator[None]:
        """Regard what is opened in the block as no leak: it lives longer than a test."""
        contexts, transactions = self._contexts(), self._transactions()
        checkouts = self._checkouts()
        yield
        self._known.update(set(self._contexts()) - set(contexts))
        self._known.update(_sessions_of(set(self._transactions()) - set(transactions)))
        self._known_checkouts |= set(self._checkouts()) - set(checkouts)

    def close(self) -> list[str]:
        """Close what is open, and say for each what it is and where it was opened.

        A connection that a test has forgotten may hold locks, for which the next test would wait:
        it is closed as well. So are those that come back with a context or a session, because their
        engine may have been disposed of before, and then nothing would close them.
        """
        in_use = [entry for entry in _entries() if sqlalchemy_private.proxy_of(entry) is not None]
        leaks = list(self._pop_contexts())
        transactions, checkouts = self._lasting()
        for transaction in transactions:
            place = self._begun.get(transaction, "another thread")
            leaks.append(f"a session, which began a transaction in {place}")
            _close(transaction.session)
        for description, entry in checkouts.values():
            leaks.append(f"a connection, checked out by {description}")
            proxy = sqlalchemy_private.proxy_of(entry)
            if proxy is not None:  # else it has come back meanwhile
                _close(proxy)
        if leaks:
            gc.collect()  # what only garbage holds goes back to its pool now
            for entry in in_use:
                if sqlalchemy_private.proxy_of(entry) is None:
                    entry.close()
        self.accept()
        return leaks

    # Contexts ---------------------------------------------------------------------------------

    def _contexts(self) -> list[Context]:
        return [context for context in pushed_contexts() if context not in self._known]

    def _pop_contexts(self) -> Iterator[str]:
        while self._contexts() and (context := current_context()) not in self._known:
            push = push_of(context)
            yield self._described(context) + _pop(context)
            if current_context() is context and push_of(context) is push:
                return  # it was pushed in another copy of the context variables

    def _described(self, context: Context) -> str:
        request = request_of(context)
        if request is None:
            text = f"an app context of {context.app.name!r}"
        else:
            text = f"a request context ({escaped(request.method)} {escaped(request.path)!r})"
        place = self._pushed.get(context) or self._pushed.get(app_context_of(context))
        unit = _unit_of(context)
        if place is None and unit is not None:
            return f"{text}, which opened its unit of work in {source_location(*unit.place)}"
        return text if place is None else f"{text}, pushed in {place}"

    # Sessions and connections -----------------------------------------------------------------

    def _lasting(self) -> tuple[list[SessionTransaction], Checkouts]:
        """Return the open transactions and connections, when other threads have had a moment."""
        deadline = time.monotonic() + _PATIENCE
        transactions, checkouts = self._transactions(), self._checkouts()
        while transactions or checkouts:
            if threading.active_count() == 1 or time.monotonic() >= deadline:
                break
            time.sleep(_PAUSE)
            still = set(self._transactions())
            transactions = [transaction for transaction in transactions if transaction in still]
            out = self._checkouts()
            checkouts = {since: found for since, found in checkouts.items() if since in out}
        return transactions, checkouts

    def _transactions(self) -> list[SessionTransaction]:
        """Return those that are open, without those of contexts that are not a leak."""
        found = [reference() for reference in self._begun.keyrefs()]
        units = {id(unit.session) for unit in map(_unit_of, pushed_contexts()) if unit is not None}
        return [
            transaction
            for transaction in found
            if transaction is not None
            and transaction.session not in self._known
            and id(transaction.session) not in units
        ]

    def _checkouts(self) -> Checkouts:
        return {
            checkout.since: (tracker.describe(checkout), entry)
            for tracker in trackers()
            for entry, checkout in tracker.by_entry().items()
            if checkout.since not in self._known_checkouts and not self._is_of_session(entry)
        }

    def _is_of_session(self, entry: ConnectionPoolEntry) -> bool:
        """Tell whether an open session holds the connection: then the session is the leak."""
        proxy = sqlalchemy_private.proxy_of(entry)
        reference = None if proxy is None else self._proxies.get(proxy)
        session = None if reference is None else reference()
        return session is not None and session.in_transaction()

    # Events -----------------------------------------------------------------------------------

    def _note_push(self, _app: Flask, **_: object) -> None:
        context = current_context()
        if context is not None:
            self._pushed[context] = caller_location(2)

    def _note_begin(self, _session: Session, transaction: SessionTransaction) -> None:
        if transaction.parent is None:
            self._begun[transaction] = caller_location(1)

    def _note_connection(
        self, session: Session, _transaction: SessionTransaction, connection: Connection
    ) -> None:
        self._proxies[connection.connection] = weakref.ref(session)

    def _note_end(self, _session: Session, transaction: SessionTransaction) -> None:
        self._begun.pop(transaction, None)


@contextmanager
def no_leaks() -> Iterator[None]:
    """Fail if the block leaves a context pushed, a session open or a connection checked out.

    ::

        class TestShop(unittest.TestCase):
            def setUp(self):
                self.enterContext(testing.no_leaks())

    With pytest it is not needed: the plugin checks each test. Other threads have a second to close
    what they use.

    :raises AssertionError: something was left open; the message names each, with its place.
    """
    detector = LeakDetector()
    detector.accept()
    try:
        yield
        leaks = detector.close()
    finally:
        detector.stop()
    if leaks:
        raise AssertionError(report(leaks))


def report(leaks: list[str]) -> str:
    """Put what a test left open into one message."""
    return "\n".join(["The test has left open:", *(f"  {leak}" for leak in leaks)])


def _entries() -> list[ConnectionPoolEntry]:
    return [entry for tracker in trackers() for entry in tracker.entries()]


def _sessions_of(transactions: Iterable[SessionTransaction]) -> list[Session]:
    return [transaction.session for transaction in transactions]


def _unit_of(context: Context) -> UnitOfWork | None:
    state: AppState | None = context.app.extensions.get(EXTENSION)
    return None if state is None else cast(UnitRegistry[Session], state.owner).unit_of(context)


def _pop(context: Context) -> str:
    """Pop *context*; put an error of its end into words."""
    try:
        context.pop(None)
    except Exception as error:  # of a teardown function, or a warning that is an error
        return f"; its end raised {type(error).__name__}: {error}"
    return ""


def _close(left_open: Session | PoolProxiedConnection) -> None:
    try:
        # Not only closed: the end of isolation may have closed its connection already.
        left_open.invalidate()
    except Exception:  # a thread is using it
        logger.warning("%r cannot be closed after a test", left_open, exc_info=True)
