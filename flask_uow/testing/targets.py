"""The engines that a test means: those of the app of the current context, or of a given app."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Protocol

from flask import Flask, has_app_context
from sqlalchemy import Engine

from .._engine.build import Engines
from .._engine.pool import ConnectionPool
from .._request.app_state import EXTENSION
from .._unit.unit import UnitOfWork
from ..errors import OutsideContext, SetupError, shown


class HasEngines(Protocol):
    """A ``Database``."""

    @property
    def engines(self) -> Engines:
        """The engines of the current app."""
        ...

    def current_unit(self) -> UnitOfWork | None:
        """The unit of work of the current context."""
        ...


def engines_of(db: HasEngines, app: Flask | None) -> dict[str, Engine]:
    """Return the engines of *app*, by name; without an app, those of the current one.

    :raises OutsideContext: there is no current app, and none was given.
    :raises SetupError: the app is not registered with *db*.
    """
    if isinstance(db, Flask) or not hasattr(type(db), "engines"):
        raise SetupError(
            f"The testing kit was given {shown(db)} where it needs a 'Database'. Pass 'db', the"
            " object that 'Database()' returned, and the app by its name: 'app=app'."
        )
    if app is None and not has_app_context():
        raise OutsideContext(
            "The testing kit was used outside of a Flask context, so it is not known whose engines"
            " are meant. Pass the app by its name: 'app=app'."
        )
    with app.app_context() if app is not None else nullcontext():
        return db.engines.copy()


def database_of(app: Flask) -> HasEngines:
    """Return the ``Database`` of *app*, for a fixture that has only the app.

    :raises SetupError: *app* is not a Flask app, or has no ``Database``.
    """
    if not isinstance(app, Flask):
        raise SetupError(
            f"The fixture 'app' returned {shown(app)}, which is not a Flask app. The fixtures of"
            " flask_uow need one named 'app' that returns or yields it."
        )
    if EXTENSION not in app.extensions:
        raise SetupError(
            f"The app {app.name!r} is not registered with a Database. Call 'db.init_app(app)' in"
            " the function that makes it."
        )
    database: HasEngines = app.extensions[EXTENSION].database
    return database


def end_unit_of(db: HasEngines) -> None:
    """Roll the unit of the current context back, if there is one: its rows are about to go."""
    unit = db.current_unit()
    if unit is not None:
        unit.rollback()


def take_connections_back(engine: Engine) -> None:
    """Let sessions return the connections that they only keep."""
    if isinstance(engine.pool, ConnectionPool):
        engine.pool.take_all_back()


def checkouts_of(engine: Engine, heading: str) -> str:
    """Return a list of the connections that are in use, under *heading*; empty if unknown."""
    tracker = engine.pool.tracker if isinstance(engine.pool, ConnectionPool) else None
    return "" if tracker is None else f" {heading}\n{tracker.report()}\n"
