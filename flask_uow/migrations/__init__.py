"""Migrations: Alembic for every engine of an app, under the command names of Flask-Migrate.

The functions are methods of :class:`Migrations`; they return data and raise. ``cli.py`` alone
prints and chooses exit codes. A folder's ``env.py`` calls :func:`run`.

An app pays for the name of the group of commands; what they need, Alembic above all, is imported
when a command runs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..models import NAMING_CONVENTION as NAMING_CONVENTION
from ._env.metadata import MigratedDatabase as MigratedDatabase
from ._env.metadata import docstring as docstring
from ._env.metadata import part_names as part_names
from .group import register as register

if TYPE_CHECKING:
    from ._env.run import run as run
    from .api import Migrations as Migrations
    from .results import Checked as Checked
    from .results import Created as Created
    from .results import EngineStatus as EngineStatus
    from .results import Generated as Generated
    from .results import Step as Step

_LATER = {
    "Checked": "results",
    "Created": "results",
    "EngineStatus": "results",
    "Generated": "results",
    "Migrations": "api",
    "Step": "results",
    "run": "_env.run",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f".{_LATER[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
