"""Where the session of a context is kept: on the app context, as Flask-SQLAlchemy keeps it.

In an app that commits by itself (``UOW_COMMIT = "explicit"``), a view has no unit of work: its
session is that of the app context, which a request shares with a test that has pushed one. No
exception and no response rolls it back or commits it, and its end undoes in silence what was not
committed. A view with ``@db.unit(...)``, and each view of an app with another ``UOW_COMMIT``, has a
unit of work of its own, with all that ``flask_uow.Database`` promises.
"""

from __future__ import annotations

from collections.abc import Sequence

from flask import Flask, Request
from sqlalchemy.orm import Session

from .._config.options import NO_OPTIONS
from .._request.app_state import EXTENSION, AppState
from .._request.context import UnitRegistry, is_dispatching
from .._request.flask_private import (
    SEPARATE_REQUEST_CONTEXT,
    Context,
    current_app_context,
    current_context,
    request_of,
)
from .._request.view_options import options_of
from .._unit.session import UnitSession
from ..errors import ConfigError


class AppContextUnits(UnitRegistry[Session]):
    """Keeps the units of one ``SQLAlchemy``."""

    def __init__(self) -> None:
        super().__init__()
        self._decided = f"{self.key}_decided"  # an attribute of a request's context

    def current_context(self) -> Context:
        """The innermost context if it is a request with a unit of its own, else the app context."""
        context = current_context()
        if context is None or not SEPARATE_REQUEST_CONTEXT or self.has_unit(context):
            return context
        return current_app_context(None)

    def has_unit(self, context: Context) -> bool:
        """Tell whether *context* is a request whose view is a unit of work."""
        known: bool | None = getattr(context, self._decided, None)
        if known is not None:
            return known
        request, app = request_of(context), context.app
        state: AppState | None = app.extensions.get(EXTENSION)
        if request is None or state is None or state.owner is not self:
            return False
        has_unit = state.settings.commit != "explicit" or _has_options(app, request)
        if request.endpoint is not None or request.routing_exception is not None:
            # Before that, while the cookie session is opened, the view is not known.
            setattr(context, self._decided, has_unit)
        return has_unit

    def finishes(self, context: Context) -> bool:
        return is_dispatching(context) and self.has_unit(context)

    def end(self, context: Context, error: BaseException | None, *, warn: bool = True) -> None:
        """End the unit of *context*; an app that commits by itself is not told what is lost."""
        unit = self.unit_of(context)
        is_explicit = unit is not None and unit.rule == "explicit"
        super().end(context, error, warn=warn and not is_explicit)

    def fail(self, context: Context, error: BaseException) -> None:
        """Roll back what the view has done, if it has a unit of its own."""
        if self.has_unit(context):
            super().fail(context, error)

    def _expire_at_commit(
        self, session: UnitSession, around: Sequence[Context], *, is_request: bool
    ) -> None:
        """Let units of the contexts around see what *session* commits, if it is a unit itself."""
        if not is_request and self.state().settings.commit == "explicit":
            return
        # The request that has pushed the app context of *session* keeps no unit.
        keepers = [one for one in around if request_of(one) is None or self.has_unit(one)]
        if keepers:
            super()._expire_at_commit(session, keepers, is_request=is_request)


def _has_options(app: Flask, request: Request) -> bool:
    try:
        return options_of(app, request) is not NO_OPTIONS
    except ConfigError:  # the view has lost them: the opening of its unit says so
        return True
