"""Engines with the pool of flask_uow, without an app."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, create_engine, make_url

from flask_uow._config.settings import PoolSettings
from flask_uow._engine import pool


def make_engine(
    url: str,
    settings: PoolSettings | None = None,
    *,
    who: Callable[[], object] = lambda: None,
    describe: Callable[[Any], str] = repr,
    **options: Any,
) -> Engine:
    """As an app makes one.

    :param options: for ``create_engine()``.
    """
    settings = settings or PoolSettings()
    engine = create_engine(url, **pool.options_for(make_url(url), options, settings))
    pool.watch_pool(engine, options, settings, who=who, describe=describe)
    return engine
