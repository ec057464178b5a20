"""Databases that answer, or do not, in words; no password is in them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from sqlalchemy import URL, Engine, select

from ..errors import DatabaseUnreachable

A = TypeVar("A")

_LEAST = 1.0  # seconds that a database has for an answer, however little time is left


def address(url: URL) -> str:
    """Where a database is; neither the password nor the query of the URL, which may hold one."""
    return url.set(query={}).render_as_string(hide_password=True)


def ping(engines: Mapping[str, Engine], within: float | None = None) -> dict[str, str | None]:
    """By name: why an engine gets no answer, None if it does.

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
    return {name: found.get(name, f"no answer within {within:.3g} s") for name in engines}


def _why_not(engine: Engine) -> str | None:
    try:
        with engine.connect() as connection:
            connection.scalar(select(1))  # the connection may have lain in its pool
    except Exception as error:  # a driver has errors of its own for what it cannot read in a URL
        return words(error)
    return None


def words(error: BaseException) -> str:
    """What a driver says, in one line."""
    original = getattr(error, "orig", None) or error
    text = " ".join(str(original).split()) or type(original).__name__
    return text.rstrip(".")


def require(engines: Mapping[str, Engine], group: str) -> None:
    """
    :raises DatabaseUnreachable: one of them gets no connection; the first is named.
    """
    for name, error in ping(engines).items():
        if error is not None:
            raise DatabaseUnreachable(
                f"The database of the engine {name!r} ({address(engines[name].url)}) cannot be"
                f" reached: {error}. Is it running, and is the URL right? 'flask {group} wait'"
                " waits for it."
            )


def repeat(
    ask: Callable[[float], A],
    is_enough: Callable[[A], bool],
    timeout: float,
    say: Callable[[A], object],
) -> A:
    """*ask* until the answer *is_enough*, or *timeout* seconds have passed; return the last one.

    :param ask: is given the seconds that it may take.
    :param say: is given each answer that is not enough, and that another one follows.
    """
    end, pause = time.monotonic() + timeout, 0.1
    while True:
        answer = ask(max(_LEAST, end - time.monotonic()))
        left = end - time.monotonic()
        if left <= 0 or is_enough(answer):
            return answer
        say(answer)
        time.sleep(min(pause, left))
        pause = min(2 * pause, 2.0)
