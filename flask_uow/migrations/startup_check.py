"""A look at the first request, in debug mode: is the database behind the folder?"""

from __future__ import annotations

import logging
import threading
from typing import Any

from flask import Flask, request_started

from ..errors import MigrationsPending
from .results import named

logger = logging.getLogger("flask_uow")


def watch_requests(app: Flask, mode: str) -> None:
    """Look at the first request of *app*.

    :param mode: ``"warn"``: log what is pending; ``"error"``: raise it, in each request until it
        is no longer true.
    """
    watcher = _Watcher(app, mode)
    app.extensions["uow_migrations_check"] = watcher  # the signal itself holds nobody
    request_started.connect(watcher.look, app)


class _Watcher:
    def __init__(self, app: Flask, mode: str) -> None:
        self._mode = mode
        self._once = threading.Lock()

    def look(self, app: Flask, **_: Any) -> None:
        """
        :raises MigrationsPending: in the mode "error".
        """
        if self._mode != "error" and not self._once.acquire(blocking=False):
            return  # several first requests at once
        text = _pending(app) if app.debug else None
        if text is None or self._mode != "error":
            request_started.disconnect(self.look, app)
        if text is None:
            return
        if self._mode == "error":
            raise MigrationsPending(text)
        logger.warning("%s", text)


def _pending(app: Flask) -> str | None:
    """What is behind, in one sentence; None if nothing is, or nobody can tell."""
    from .api import Migrations

    try:
        migrations = Migrations()
        if not (migrations.folder / "env.py").is_file():
            return None
        behind = [one for one in migrations.status() if one.pending]
    except (Exception, SystemExit) as error:  # of an 'env.py', too; the request has no part in it
        what = str(error) or type(error).__name__
        logger.warning("The migrations could not be looked at: %s", what)
        return None
    if not behind:
        return None
    engines = "; ".join(
        f"of the engine {one.name!r}: {', '.join(named(script) for script in one.pending)}"
        for one in behind
    )
    return f"Revisions are pending on the database {engines}. Write '{migrations._next_upgrade()}'."
