"""Logging stays what the app has made of it, whatever an ``env.py`` does.

``logging.config.fileConfig()``, which the files of Alembic and Flask-Migrate call, replaces the
handlers of the root logger and switches off every logger that it does not name.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Put back what the block changes."""
    manager = logging.Logger.manager
    loggers = [manager.root, *manager.loggerDict.values()]
    before = [
        (one, one.level, one.disabled, one.propagate, one.handlers[:])
        for one in loggers
        if isinstance(one, logging.Logger)
    ]
    try:
        yield
    finally:
        for logger, level, disabled, propagate, handlers in before:
            logger.disabled, logger.propagate = disabled, propagate
            if logger.level != level:
                logger.setLevel(level)
            logger.handlers[:] = handlers
