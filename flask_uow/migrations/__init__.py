"""Migrations: Alembic for every engine of an app, under the names that everybody's fingers know.

The functions are methods of :class:`Migrations`; they return data and raise. ``cli.py`` alone
prints and chooses exit codes. A folder's ``env.py`` calls :func:`run`.

An app pays for the name of the group of commands; what they need, Alembic above all, is imported
when one of them runs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._group import install as install
from ._models import NAMING_CONVENTION as NAMING_CONVENTION
from ._models import docstring as docstring
from ._models import part_names as part_names

if TYPE_CHECKING:
    from ._commands import Migrations as Migrations
    from ._environment import run as run
    from ._results import Checked as Checked
    from ._results import Created as Created
    from ._results import EngineStatus as EngineStatus
    from ._results import Generated as Generated
    from ._steps import Step as Step

_LATER = {
    "Checked": "_results",
    "Created": "_results",
    "EngineStatus": "_results",
    "Generated": "_results",
    "Migrations": "_commands",
    "Step": "_steps",
    "run": "_environment",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f".{_LATER[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
