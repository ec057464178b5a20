"""Engines with the pool of flask_uow, without an app."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, create_engine, make_url

from flask_uow._config.settings import PoolSettings
from flask_uow._engine import liveness, pool
from flask_uow._engine.checkouts import CheckoutContext


class Contexts:
    """What connections are checked out for: the objects that *current* returns, by their name."""

    def __init__(self, current: Callable[[], object]) -> None:
        self._current = current

    def current_context(self) -> object:
        return self._current()

    def is_running(self, context: Any) -> bool:
        return getattr(context, "is_running", True)

    def describe(self, context: Any) -> str:
        return str(context.name)

    def has_location(self, context: Any) -> bool:
        return False


def make_engine(
    url: str,
    settings: PoolSettings | None = None,
    *,
    context: CheckoutContext | None = None,
    **options: Any,
) -> Engine:
    """As an app makes one.

    :param options: for ``create_engine()``.
    """
    settings = settings or PoolSettings()
    engine = create_engine(url, **pool.options_for(make_url(url), options, settings))
    pool.finish_connecting(engine, options, settings)
    if engine.dialect.name != "sqlite":
        liveness.replace_dead_connections(engine, options, settings)
    pool.track_checkouts(engine, settings, context)
    return engine
