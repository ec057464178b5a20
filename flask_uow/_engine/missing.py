"""A hint for the error of a statement whose table or column the database does not have.

Most often the models are newer than the database then. The hint follows the text of the driver in
the error of SQLAlchemy; the error of the driver stays as it is. A statement that succeeds costs
nothing.

Nothing here knows Flask or sessions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext

from .._drivers.base import Missing
from .._drivers.known import driver_of_error

Migrated: TypeAlias = Callable[[str], "tuple[str, bool | None]"]
"""Returns the name of the command group, and whether the app has a folder of migrations; None if it
does not migrate the engine of this name."""

Reference: TypeAlias = "Callable[[], Migrated | None]"
"""Returns that function as long as there is an app."""

_UPGRADE = (
    "If a model has this {what}, the database is older than the models. Write 'flask {group}"
    " upgrade', and before it 'flask {group} migrate' if no revision adds the {what}."
)
_CREATE = {
    Missing.TABLE: (
        "If a model has this table, it has not been created yet. Call 'db.create_all()' in an app"
        " context, or {begin}."
    ),
    Missing.COLUMN: (
        "If a model has this column, the table is older than the model, and 'db.create_all()' does"
        " not alter a table. Drop the table with its rows and call 'db.create_all()' again, or"
        " {begin}."
    ),
}
_BEGIN = "begin with migrations ('flask {group} init')"
_ADD = "add the engine {name!r} to UOW_MIGRATIONS['engines']"


def explain_missing(engine: Engine, name: str, migrated: Reference) -> None:
    """Let the errors of *engine* say how to get a table or a column that does not exist.

    :param migrated: a weak reference. The listener belongs to the dialect, and each mapper keeps
        the dialects for which it has compiled statements, even after the app is gone.
    """
    event.listen(engine, "handle_error", partial(_on_error, name, migrated))


def _on_error(name: str, reference: Reference, context: ExceptionContext) -> None:
    error, wrapped = context.original_exception, context.sqlalchemy_exception
    what = driver_of_error(error).missing_in(error)
    migrated = reference()
    if what is None or wrapped is None or migrated is None:
        return
    group, has_folder = migrated(name)
    begin = (_ADD if has_folder is None else _BEGIN).format(group=group, name=name)
    hint = _UPGRADE if has_folder else _CREATE[what]
    hint = hint.format(group=group, what=what.value, begin=begin)
    # The same exception, in other words: other code may have noted it.
    wrapped.args = (f"{wrapped.args[0]}\n{hint}", *wrapped.args[1:])
