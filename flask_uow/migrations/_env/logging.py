"""Logging stays what the app has made of it, whatever an ``env.py`` does.

``logging.config.fileConfig()``, which the files of Alembic and Flask-Migrate call, closes every
handler that there is, replaces those of the root logger and switches off every logger that it does
not name: for requests in other threads, too. So while an ``env.py`` runs, it does nothing.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import logging.config
import threading
from collections.abc import Callable, Iterator
from typing import Any

_CONFIGURING = ("fileConfig", "dictConfig")
_alone = threading.RLock()  # what is put back is what was there before, and belongs to the process


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Put back what the block changes, and let it not configure anything.

    The lines of Alembic about each revision are kept out of what the commands print, unless the app
    has set the level of its loggers.
    """
    with _alone, _not_configuring():
        alembic = logging.getLogger("alembic")
        manager = logging.Logger.manager
        loggers = [manager.root, *manager.loggerDict.values()]
        before = [
            (one, one.level, one.disabled, one.propagate, one.handlers[:])
            for one in loggers
            if isinstance(one, logging.Logger)
        ]
        if alembic.level == logging.NOTSET:
            alembic.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level, disabled, propagate, handlers in before:
                logger.disabled, logger.propagate = disabled, propagate
                if logger.level != level:
                    logger.setLevel(level)
                logger.handlers[:] = handlers


@contextlib.contextmanager
def _not_configuring() -> Iterator[None]:
    """Let the functions that configure logging do nothing, where this thread calls them."""
    thread = threading.get_ident()

    def unless_here(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            if threading.get_ident() != thread:
                return function(*args, **options)
            return None

        return call

    before = {name: getattr(logging.config, name) for name in _CONFIGURING}
    for name, function in before.items():
        setattr(logging.config, name, unless_here(function))
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(logging.config, name, function)
