"""Databases that answer, or do not, in words; no password is in them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from sqlalchemy import URL, Engine
from sqlalchemy.exc import DBAPIError

from ..errors import DatabaseUnreachable, UowError

A = TypeVar("A")


def address(url: URL) -> str:
    """Where a database is; neither the password nor the query of the URL, which may hold one."""
    return url.set(query={}).render_as_string(hide_password=True)


def ping(engines: Mapping[str, Engine]) -> dict[str, str | None]:
    """By name: why an engine gets no connection, None if it does."""
    return {name: _why_not(engine) for name, engine in engines.items()}


def _why_not(engine: Engine) -> str | None:
    try:
        with engine.connect():
            return None
    except (DBAPIError, UowError, OSError) as error:
        return words(error)


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


def repeat(ask: Callable[[], A], is_enough: Callable[[A], bool], timeout: float) -> A:
    """*ask* until the answer *is_enough*, or *timeout* seconds have passed; return the last one."""
    end, pause = time.monotonic() + timeout, 0.1
    while True:
        answer = ask()
        left = end - time.monotonic()
        if left <= 0 or is_enough(answer):
            return answer
        time.sleep(min(pause, left))
        pause = min(2 * pause, 2.0)
