"""Logging stays what the app has made of it, whatever an ``env.py`` does.

``logging.config.fileConfig()``, which the files of Alembic and Flask-Migrate call, replaces the
handlers of the root logger and switches off every logger that it does not name. All of that is put
back when ``env.py`` has ended. What is not: a record that another thread logs in between may be
lost, and a handler that cannot work again once it was closed (a ``FileHandler`` of mode "w", a
``MemoryHandler``). An ``env.py`` that only calls ``run()`` configures nothing.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

_alone = threading.RLock()  # loggers belong to the process: the state before is put back


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Put back what the block changes, and keep Alembic's lines out of what the commands print."""
    with _alone:
        quiet = _quiet_loggers()
        loggers = [logging.root, *logging.Logger.manager.loggerDict.values()]
        before = [
            (logger, logger.level, logger.disabled, logger.propagate, logger.handlers[:])
            for logger in loggers
            if isinstance(logger, logging.Logger)
        ]
        for logger in quiet:
            logger.addFilter(_is_warning)
        try:
            yield
        finally:
            for logger in quiet:
                logger.removeFilter(_is_warning)
            for logger, level, disabled, propagate, handlers in before:
                logger.disabled, logger.propagate = disabled, propagate
                if logger.level != level:
                    logger.setLevel(level)
                logger.handlers[:] = handlers


def _quiet_loggers() -> list[logging.Logger]:
    """The loggers of Alembic, and of the files that it runs; none if the app has set their level.

    They get a filter and not a level, which ``fileConfig()`` would set again.
    """
    if logging.getLogger("alembic").level != logging.NOTSET:
        return []
    logging.getLogger("alembic.env")
    loggers = logging.Logger.manager.loggerDict.items()
    return [
        logger
        for name, logger in loggers
        if name.startswith("alembic.") and isinstance(logger, logging.Logger)
    ]


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING
