"""Patterns that need SQLAlchemy only, each as ``docs/how-to/integrations.md`` shows it.

Every test sends requests, and a second connection tells what is stored.
"""

from __future__ import annotations

from tests.support.recipes import app, database, db, models, recipe

__all__ = ["app", "database", "db", "models", "recipe"]
