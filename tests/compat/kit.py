"""What a story is told with: one of the two extensions, and apps on it.

The stories are Flask-SQLAlchemy's interface in use. ``flask_sqlalchemy`` is the oracle, and
``flask_uow.compat`` has to say the same.
"""

from __future__ import annotations

import importlib
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flask import Flask


@dataclass
class Kit:
    """One extension, and a folder for the databases of its apps.

    :ivar package: ``"flask_sqlalchemy"`` or ``"flask_uow.compat"``.
    """

    package: str
    folder: Path
    apps: list[Flask] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        """A module of the extension, such as ``query``."""
        return importlib.import_module(f"{self.package}.{name}")

    @property
    def SQLAlchemy(self) -> Any:
        return importlib.import_module(self.package).SQLAlchemy

    @property
    def path(self) -> Path:
        """The default database of :meth:`app`."""
        return self.folder / "main.db"

    def app(self, **config: Any) -> Flask:
        """An app on a SQLite file."""
        app = Flask("tests", instance_path=str(self.folder))
        app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{self.path}"
        app.config.update(config)
        self.apps.append(app)
        return app

    def db(self, app: Flask | None = None, **options: Any) -> Any:
        """The extension, for *app* if there is one."""
        return self.SQLAlchemy(app, **options)

    def rows(self, sql: str, path: Path | None = None) -> list[Any]:
        """What another connection sees."""
        connection = sqlite3.connect(path or self.path)
        try:
            return [row[0] if len(row) == 1 else list(row) for row in connection.execute(sql)]
        finally:
            connection.close()

    def close(self) -> None:
        """Close the connections of the apps."""
        for app in self.apps:
            if "sqlalchemy" in app.extensions:
                with app.app_context():
                    for engine in app.extensions["sqlalchemy"].engines.values():
                        engine.dispose()


Story = Callable[[Kit], Any]

STORIES: dict[str, Story] = {}
"""By name."""


def story(function: Story) -> Story:
    """Let *function* be one of the stories: it returns what JSON can hold."""
    STORIES[function.__name__] = function
    return function


def kind_of(action: Callable[[], object]) -> str:
    """The built-in error that *action* raises, or ``"nothing"``."""
    try:
        action()
    except Exception as error:
        kinds = (AttributeError, KeyError, ValueError, TypeError, RuntimeError)
        known = [kind.__name__ for kind in kinds if isinstance(error, kind)]
        return known[0] if known else type(error).__name__
    return "nothing"
