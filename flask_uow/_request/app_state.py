"""What one app has: settings, engines and session factory, made at their first use."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable
from typing import Any

from flask import Flask
from sqlalchemy import Engine
from sqlalchemy.orm import sessionmaker

from .._config import migrations_folder, reading
from .._config.options import LevelOption, UnitOptions
from .._config.settings import Settings
from .._engine import build, fork
from .._engine.checkouts import CheckoutContext
from .._unit.session import UnitSession
from .._unit.unit import Terms, UnitOfWork

EXTENSION = "uow"

Variant = tuple["dict[str, Engine]", "dict[Any, Engine]"]


class AppState:
    """``app.extensions["uow"]``.

    :param config: what the settings are read from, at their first use: ``app.config``.
    :ivar owner: the ``UnitRegistry`` of the ``Database`` that initialized the app.
    :ivar database: that ``Database``, for code that has only the app, such as a fixture.
    :ivar on_open: called whenever a unit of this app is opened.
    """

    def __init__(
        self,
        app: Flask,
        owner: CheckoutContext,
        session_options: dict[str, Any],
        config: reading.Config,
        database: object = None,
    ) -> None:
        self.owner = owner
        self.database = database
        self.on_open: Callable[[], None] = lambda: None
        self._app = app
        self._session_options = session_options
        self._config = config
        self._lock = threading.Lock()
        self._settings: Settings | None = None
        self._engines: dict[str, Engine] | None = None
        self._sessionmaker: sessionmaker[UnitSession] | None = None
        self._variants: dict[tuple[LevelOption, bool], Variant] = {}

    def call_on_open(self, function: Callable[[], None]) -> None:
        """Call *function* now, and whenever a unit of this app is opened."""
        self.on_open = function
        function()

    @property
    def settings(self) -> Settings:
        """
        :raises ConfigError: a value of ``app.config`` cannot be used.
        """
        if self._settings is None:
            self._settings = reading.read(self._config)
        return self._settings

    @property
    def engines(self) -> dict[str, Engine]:
        """The engines by name, in declared order. Built once, whichever thread is first.

        :raises ConfigError: a dialect is unknown, a driver is missing, an option is wrong.
        """
        fork.notice()
        if self._engines is None:
            with self._lock:
                if self._engines is None:  # pragma: no branch  # false for the second of two
                    # The engines do not keep the app in memory.
                    migrated = weakref.WeakMethod(self._migrated)
                    self._engines = build.build(
                        self.settings, self._app.instance_path, self.owner, migrated
                    )
        return self._engines

    def _migrated(self, engine: str) -> tuple[str, bool | None]:
        """See :data:`.missing.Migrated`."""
        settings = reading.read_migrations(self._config)
        if settings.engines is not None and engine not in settings.engines:
            return settings.group, None
        with contextlib.suppress(OSError):  # the current folder was deleted
            folder = migrations_folder.find(settings.directory, self._app.root_path)
            return settings.group, (folder / "env.py").is_file()
        return settings.group, False

    @property
    def sessionmaker(self) -> sessionmaker[UnitSession]:
        """The factory of the sessions of this app.

        :raises ConfigError: as :attr:`engines`.
        """
        if self._sessionmaker is None:
            # Two threads may each make one; they are alike, and one is kept.
            options = self._session_options
            self._sessionmaker = sessionmaker(engines=self.engines, routes={}, **options)
        return self._sessionmaker

    def new_session(self) -> UnitSession:
        """Create a session, as ``sessionmaker()`` does, in a third of the time.

        :raises ConfigError: as :attr:`engines`.
        """
        fork.notice()
        factory = self._sessionmaker or self.sessionmaker
        return factory.class_(**factory.kw)

    def apply(self, unit: UnitOfWork, options: UnitOptions) -> None:
        """Apply *options* to the transactions of *unit*.

        :raises ConfigError: the isolation level is not known.
        """
        if options.of_transaction:
            writes = unit.will_write and not options.read_only
            unit.set_terms(Terms(*self.variant(options), options.read_only, writes))
        if options.retries:
            unit.count_commits()

    def variant(self, options: UnitOptions) -> Variant:
        """The engines for transactions with *options*, and the routes of their sessions.

        :raises ConfigError: the isolation level is not known.
        """
        key = options.isolation_level, options.read_only
        if key not in self._variants:
            self._variants[key] = build.with_options(self.engines, options), {}
        return self._variants[key]
