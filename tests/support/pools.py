"""Engines with the pool of flask_uow, without an app."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, create_engine, make_url

from flask_uow import _pool
from flask_uow._pool import PoolSettings


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
    engine = create_engine(url, **_pool.options_for(make_url(url), options, settings))
    _pool.install(engine, options, settings, who=who, describe=describe)
    return engine
