"""A look at the first request, in debug mode: does the database lack revisions?"""

from __future__ import annotations

import logging
import threading

from flask import Flask, request_started

from ..errors import MigrationsPending
from .results import named

logger = logging.getLogger(__name__)


def watch_requests(app: Flask, mode: str) -> None:
    """Look at the first request of *app*.

    :param mode: ``"warn"``: log what is pending; ``"error"``: raise it, in each request until it
        is no longer true.
    """
    watcher = _Watcher(mode)
    app.extensions["uow_migrations_check"] = watcher  # the signal keeps a weak reference only
    request_started.connect(watcher.look, app)


class _Watcher:
    def __init__(self, mode: str) -> None:
        self._mode = mode
        self._once = threading.Lock()

    def look(self, app: Flask, **_: object) -> None:
        """Say what is pending.

        :raises MigrationsPending: in the mode "error".
        """
        if self._mode != "error" and not self._once.acquire(blocking=False):
            return  # several first requests at once
        text = _pending() if app.debug else None
        if text is None or self._mode != "error":
            request_started.disconnect(self.look, app)
        if text is None:
            return
        if self._mode == "error":
            raise MigrationsPending(text)
        logger.warning("%s", text)


def _pending() -> str | None:
    """What is pending, in one sentence; None if nothing is, or it is unknown."""
    from .api import Migrations

    try:
        migrations = Migrations()
        if not (migrations.folder / "env.py").is_file():
            return None
        behind = [status for status in migrations.status() if status.pending]
        command = migrations.upgrade_command if behind else ""
    except (Exception, SystemExit) as error:  # of an 'env.py', too; it must not end a request
        what = str(error) or type(error).__name__
        logger.warning("The migrations could not be looked at: %s", what)
        return None
    if not behind:
        return None
    engines = "; ".join(
        f"of the engine {status.name!r}: {', '.join(map(named, status.pending))}"
        for status in behind
    )
    return f"Revisions are pending on the database {engines}. Write '{command}'."
