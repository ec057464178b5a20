"""``SessionProxy``: what an app knows as ``db.session``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session, SessionTransaction, scoped_session, sessionmaker

from .._unit.session import S, UnitSession
from .context import UnitRegistry
from .flask_private import current_app_context, current_context, current_request_context


class SessionProxy(scoped_session[S]):
    """``db.session``: stands for the session of the current unit of work.

    It is a ``scoped_session``, so other libraries take it for one, and an object that can be
    passed around before any app exists; only calls and attributes need a context.
    """

    def __init__(self, units: UnitRegistry[S], class_: type[UnitSession]) -> None:
        self.registry = self._units = units
        self._key = units.key
        self._class = class_

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
            """The session factory of the current app.

            Without a context, its ``class_`` is that of all apps: listeners for session events
            may be added when a module is imported.
            """
            if current_context() is None:
                return FactoryOfAnyApp(self._units, self._class)
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


def proxy_with_names_of(class_: type[Session]) -> type[SessionProxy[Any]]:
    """Return a proxy class that also has the public names of the app's own session class.

    Not by ``__getattr__``, which would slow down each use of the proxy.
    """
    names = {*dir(class_)} - {*dir(Session), *dir(SessionProxy)}
    own = {name: _forwarded(name) for name in names if not name.startswith("_")}
    return type(SessionProxy.__name__, (SessionProxy,), own) if own else SessionProxy


def _forwarded(name: str) -> property:
    def get(proxy: Any) -> object:
        return getattr(proxy._proxied, name)

    def set_(proxy: Any, value: object) -> None:
        apps_session = proxy._proxied
        setattr(apps_session, name, value)

    def delete(proxy: Any) -> None:
        apps_session = proxy._proxied
        delattr(apps_session, name)

    return property(get, set_, delete, f"``{name}`` of the current session.")


class FactoryOfAnyApp(sessionmaker[UnitSession]):
    """Stands for the session factory of the app that is current when it is called."""

    def __init__(self, units: UnitRegistry[S], class_: type[UnitSession]) -> None:
        self.class_ = class_  # what SQLAlchemy adds listeners to
        self.kw = {}
        self._units = units

    def __call__(self, **options: Any) -> UnitSession:
        """Create a session of the current app.

        :raises OutsideContext: as ``db.sessionmaker``; so are ``ConfigError`` and ``SetupError``.
        """
        return self._units.state().sessionmaker(**options)

    def configure(self, **options: Any) -> None:
        """Change the options of the current app's sessions. Raises as a call."""
        self._units.state().sessionmaker.configure(**options)
