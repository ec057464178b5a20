"""Migrations: Alembic for every engine of an app, under the names that everybody's fingers know.

The functions are methods of :class:`Migrations`; they return data and raise. ``cli.py`` alone
prints and chooses exit codes. A folder's ``env.py`` calls :func:`run`.

An app pays for the name of the group of commands; what they need, Alembic above all, is imported
when one of them runs.
"""

from typing import TYPE_CHECKING, Any

from ._group import install as install
from ._models import NAMING_CONVENTION as NAMING_CONVENTION
from ._models import part_names as part_names

if TYPE_CHECKING:
    from ._commands import Migrations as Migrations
    from ._environment import run as run


def __getattr__(name: str) -> Any:
    if name == "Migrations":
        from ._commands import Migrations

        return Migrations
    if name == "run":
        from ._environment import run

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
