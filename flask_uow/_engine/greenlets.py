"""A warning for a driver that stops all greenlets of the process.

Under gevent and eventlet a driver has to wait in Python, where they can let another greenlet run.
One that waits in C stops all greenlets of the process, without an error.
"""

from __future__ import annotations

import sys
import warnings

from sqlalchemy import Engine, event

from .._drivers.known import driver_of
from ..errors import ConfigNotice


def warn_of_blocking(engine: Engine) -> None:
    """Warn once if the driver of *engine* stops all greenlets whenever it waits.

    Not before it connects: a server may import the app first, and patch in its workers.
    """
    is_told = False

    def on_connect(_connection: object, _entry: object) -> None:
        nonlocal is_told
        library = _greenlet_library()
        if library is None or is_told:
            return
        advice = driver_of(engine.dialect).how_not_to_block(library)
        if advice is not None:
            is_told = True
            warnings.warn(
                f"{library} has patched this process, and the driver of"
                f" '{engine.url.drivername}://' waits for the server in C, where {library} cannot"
                " switch: while one request waits for the database, all other greenlets of the"
                f" process stand still. {advice}",
                ConfigNotice,
                stacklevel=2,
            )

    event.listen(engine, "connect", on_connect)


def _greenlet_library() -> str | None:
    """Return whose sockets this process has, if not Python's; nothing is imported for that."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if gevent is not None and gevent.is_module_patched("socket"):
        return "gevent"
    if eventlet is not None and eventlet.is_monkey_patched("socket"):
        return "eventlet"
    return None
