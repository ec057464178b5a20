"""The session class of one ``Database``: :class:`UnitSession`, or a mix with the app's own class.

Nothing here knows Flask.
"""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session

from ..errors import SetupError, shown
from .exclusive import exclusive
from .session import EXCLUSIVE, UnitSession


class ChoosingSession(UnitSession):
    """A session with the app's own ``get_bind()``, often for replicas or tenants."""

    may_commit_directly = False

    def get_bind(self, *args: Any, **kwargs: Any) -> Engine | Connection:
        """Return the engine that the app chooses, with the options of this unit.

        :raises ConfigError: the engine cannot get them.
        """
        bind = super(UnitSession, self).get_bind(*args, **kwargs)  # the app's method
        return self.with_options(
            bind, f"'get_bind()' of the session class {type(self).__name__!r} returned"
        )


class ByBindKey(Session):
    """What ``super().get_bind()`` in the app's method finds: the routes of a unit's session."""

    get_bind = UnitSession.get_bind


def session_class(base: Any) -> type[UnitSession]:
    """A :class:`UnitSession` with the methods of the user's own session class.

    :raises SetupError: *base* is not a session class.
    """
    if not (isinstance(base, type) and issubclass(base, Session)):
        raise SetupError(
            f"session_options['class_'] is {shown(base)}, which is not a subclass of"
            " 'sqlalchemy.orm.Session'."
        )
    if base is Session:
        return UnitSession
    own: dict[str, Any] = {name: exclusive(getattr(base, name)) for name in EXCLUSIVE}
    if base.commit is not Session.commit:
        own["may_commit_directly"] = False
    if base.close is not Session.close:
        own["is_always_closed"] = True
    chooses = base.get_bind is not Session.get_bind
    bases = (ChoosingSession, base, ByBindKey) if chooses else (UnitSession, base)
    return cast(type[UnitSession], type(base.__name__, bases, own))
