"""The session class of one ``Database``: :class:`UnitSession`, or a mix with the app's own class.

Nothing here knows Flask.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, cast

from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session

from ..errors import SetupError, shown
from .exclusive import exclusive
from .session import EXCLUSIVE, UnitSession


def check_options(class_: Any, options: Mapping[str, object]) -> None:
    """
    :raises SetupError: the session class has no such option, or the option is not used.
    """
    if "binds" in options and not _chooses(class_):
        raise SetupError(
            "'session_options' has 'binds', which is not used here: the engine of a model is the"
            " one of its bind key. Write '__bind_key__ = \"audit\"' in the model, or 'metadata ="
            ' MetaData(info={"bind_key": "audit"})\' in its base, with the name of the engine in'
            " SQLALCHEMY_BINDS."
        )
    try:
        inspect.signature(class_).bind_partial(**options)
    except TypeError as error:
        hint = ""
        if "scopefunc" in options:
            hint = " Leave 'scopefunc' out: the session is that of the request or app context."
        raise SetupError(
            f"'session_options' has an option that the session class {class_.__name__!r} does not"
            f" take: {error}.{hint}"
        ) from None


def _chooses(class_: Any) -> bool:
    """Whether the app's session class has a ``get_bind()`` of its own."""
    return getattr(class_, "get_bind", None) not in {Session.get_bind, UnitSession.get_bind}


class ChoosingSession(UnitSession):
    """A session with the app's own ``get_bind()``, often for replicas or tenants."""

    may_commit_directly = False

    def get_bind(self, *args: Any, **kwargs: Any) -> Engine | Connection:
        """Return the engine that the app chooses, with the options of this unit.

        :raises ConfigError: the engine cannot get them.
        """
        bind = super(UnitSession, self).get_bind(*args, **kwargs)  # the app's method
        if isinstance(bind, Connection):
            self.may_defer = False  # it is the app's to close
        return self.with_options(
            bind, f"'get_bind()' of the session class {type(self).__name__!r} returned"
        )


class ByBindKey(Session):
    """What ``super().get_bind()`` in the app's method finds: the routes of a unit's session."""

    get_bind = UnitSession.get_bind


def session_class(base: Any) -> type[UnitSession]:
    """Create a :class:`UnitSession` with the methods of the user's own session class.

    :raises SetupError: *base* is not a session class.
    """
    if not (isinstance(base, type) and issubclass(base, Session)):
        raise SetupError(
            f"session_options['class_'] is {shown(base)}, which is not a subclass of"
            " 'sqlalchemy.orm.Session'."
        )
    if base is Session:  # a class for each 'Database': events of one are not those of another
        return type(UnitSession.__name__, (UnitSession,), {})
    own: dict[str, Any] = {name: exclusive(getattr(base, name)) for name in EXCLUSIVE}
    if base.commit is not Session.commit:
        own["may_commit_directly"] = False
    if base.close is not Session.close:
        own["is_always_closed"] = True
    bases = (ChoosingSession, base, ByBindKey) if _chooses(base) else (UnitSession, base)
    return cast(type[UnitSession], type(base.__name__, bases, own))
