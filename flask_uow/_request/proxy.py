"""``SessionProxy``: what an app knows as ``db.session``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.orm import SessionTransaction, scoped_session, sessionmaker

from .._unit.session import S, UnitSession
from .context import UnitRegistry
from .flask_private import current_app_context, current_request_context


class SessionProxy(scoped_session[S]):
    """``db.session``: stands for the session of the current unit of work.

    It is a ``scoped_session``, so other libraries take it for one, and an object that can be
    passed around before any app exists; only calls and attributes need a context.
    """

    def __init__(self, units: UnitRegistry[S]) -> None:
        self.registry = self._units = units
        self._key = units.key

    if not TYPE_CHECKING:  # pragma: no branch  # true whenever it runs

        def add(self, instance: object, *, _warn: bool = True) -> None:
            """Add, as the session does. Written out: by far the most frequently called method."""
            unit = getattr(current_request_context(None), self._key, None)
            if (
                unit is not None
                and unit.home is current_app_context(None)
                and unit.session.owner_thread is None
            ):
                unit.session.add(instance, _warn=_warn)
            else:
                self.registry().add(instance, _warn=_warn)

        @property
        def _proxied(self) -> S:
            """The session, for each method of ``scoped_session``.

            Fast path: a request whose unit is open; else ``registry()``.
            """
            unit = getattr(current_request_context(None), self._key, None)
            if unit is not None and unit.home is current_app_context(None):
                session = unit.session
                if session.owner_thread is None:
                    return session
            return self.registry()

        @property
        def session_factory(self) -> sessionmaker[UnitSession]:
            """The session factory of the current app."""
            return self._units.state().sessionmaker

    # scoped_session lacks these members of Session.

    def in_transaction(self) -> bool:
        """Has the current session begun a transaction?"""
        return self._proxied.in_transaction()

    def in_nested_transaction(self) -> bool:
        """Is the current session inside a savepoint?"""
        return self._proxied.in_nested_transaction()

    def get_transaction(self) -> SessionTransaction | None:
        """The transaction of the current session, if it has begun one."""
        return self._proxied.get_transaction()

    def get_nested_transaction(self) -> SessionTransaction | None:
        """The innermost savepoint of the current session, if there is one."""
        return self._proxied.get_nested_transaction()

    def remove(self) -> None:
        """Undo what is not committed and close the session; the next use opens a new unit."""
        self._units.clear()

    def invalidate(self) -> None:
        """As :meth:`remove`, but drop the connection instead of giving it back to the pool.

        For a connection that may be in the middle of a reply: after a timeout that was raised
        into a running statement, for instance.
        """
        unit = self._units.peek()
        if unit is not None:
            unit.session.refuse_in_block("invalidate")
            unit.invalidate()
            self._units.clear()

    def __repr__(self) -> str:
        unit = self._units.peek()
        what = "without a unit" if unit is None else f"of {unit.session!r}"
        return f"<{type(self).__name__} {what}>"
