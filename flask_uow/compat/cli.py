"""What ``flask shell`` knows."""

from __future__ import annotations

from typing import Any

from flask import current_app


def add_models_to_shell() -> dict[str, Any]:
    """Return ``db`` and the models of the current app, by name."""
    db = current_app.extensions["sqlalchemy"]
    return {**{mapper.class_.__name__: mapper.class_ for mapper in db.mappers}, "db": db}
