"""``Session``: the class of ``db.session``, for an app that has a subclass of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._unit.session_class import ByBindKey

if TYPE_CHECKING:
    from .extension import SQLAlchemy


class Session(ByBindKey):
    """A session that finds the engine of a model or a table by its bind key.

    A subclass is given as ``SQLAlchemy(session_options={"class_": RoutingSession})``. Its
    ``get_bind()`` may call ``super().get_bind(mapper, clause)``.

    :param db: the extension, which Flask-SQLAlchemy passes, too.
    """

    def __init__(self, db: SQLAlchemy, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._db = db
