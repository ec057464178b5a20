"""Databases that respond, or do not, in words; no password is in them."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from sqlalchemy import URL, Engine, select

from ..errors import DatabaseUnreachable, escaped


def redacted_url(url: URL) -> str:
    """Where a database is; neither the password nor the query of the URL, which may hold one."""
    return url.set(query={}).render_as_string(hide_password=True)


def driver_message(error: BaseException) -> str:
    """The message of a driver, in one line."""
    original = getattr(error, "orig", None) or error
    return (escaped(original) or type(original).__name__).rstrip(".")


def reach(engines: Mapping[str, Engine], within: float | None = None) -> dict[str, str | None]:
    """By name: why an engine gets no response, None if it does.

    :param within: seconds; None for as long as the drivers wait.
    """
    if within is None:
        return {name: _why_not(engine) for name, engine in engines.items()}
    found: dict[str, str | None] = {}

    def ask(name: str, engine: Engine) -> None:
        found[name] = _why_not(engine)

    threads = []
    for name, engine in engines.items():
        if engine.dialect.name == "sqlite":
            ask(name, engine)  # no server is silent here, and memory may belong to this thread
        else:
            # A driver that waits for a silent server can be left alone, and not interrupted.
            threads.append(threading.Thread(target=ask, args=(name, engine), daemon=True))
            threads[-1].start()
    end = time.monotonic() + within
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return {name: found.get(name, f"no response within {within:.3g} s") for name in engines}


def _why_not(engine: Engine) -> str | None:
    try:
        with engine.connect() as connection:
            connection.scalar(select(1))  # the connection may have lain in its pool
    except Exception as error:  # a driver has errors of its own for what it cannot read in a URL
        return driver_message(error)
    return None


def require(engines: Mapping[str, Engine], group: str) -> None:
    """Name the first database that cannot be reached.

    :raises DatabaseUnreachable: one of them gets no connection.
    """
    for name, error in reach(engines).items():
        if error is not None:
            raise DatabaseUnreachable(
                f"The database of the engine {name!r} ({redacted_url(engines[name].url)}) cannot be"
                f" reached: {error}. Is it running, and is the URL right? 'flask {group} wait'"
                " waits for it."
            )
