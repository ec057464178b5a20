"""Packages that people pair with their database, each as ``docs/how-to/integrations.md`` says.

``nox -s ecosystem`` installs them. A package that could not be installed is a skip, with a reason.
Every test sends requests, and a second connection tells what is stored.
"""

from __future__ import annotations

from tests.support.recipes import app, database, db, models, recipe

__all__ = ["app", "database", "db", "models", "recipe"]
