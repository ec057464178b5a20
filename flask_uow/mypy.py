"""A plugin for mypy, which lets it accept ``class User(db.Model)`` after ``db = Database()``.

::

    [tool.mypy]
    plugins = ["flask_uow.mypy"]

mypy looks up ``db.Model`` before it knows the types of objects, and then finds names only in
modules and classes. So the plugin makes ``db`` a class whose metaclass is ``Database``. This class
has the attributes and methods of a ``Database``, and the name ``Model``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mypy.nodes import GDEF, MDEF, SymbolTableNode, TypeInfo
from mypy.plugin import DynamicClassDefContext, Plugin
from mypy.types import Instance

# By class of 'db', the class of 'db.Model'.
_MODELS = {
    "flask_uow.database.Database": "flask_uow.database._NewBase",
    "flask_uow.compat.extension.SQLAlchemy": "flask_uow.compat.model.NewModel",
}
_SESSION = "sqlalchemy.orm.session.Session"


class _FlaskUow(Plugin):
    def get_dynamic_class_hook(
        self, fullname: str
    ) -> Callable[[DynamicClassDefContext], None] | None:
        return partial(_define, fullname) if fullname in _MODELS else None


def _define(name: str, context: DynamicClassDefContext) -> None:
    """Define the name ``db`` of ``db = Database()``.

    :param name: the name of the class.
    """
    arguments = context.call.arg_names
    is_positional = bool(arguments) and arguments[0] is None  # for 'SQLAlchemy', it is the app
    if "model_class" in arguments or (is_positional and name.endswith(".Database")):
        return  # the first argument may be a base
    names = (name, _MODELS[name], _SESSION)
    found = [context.api.lookup_fully_qualified_or_none(n) for n in names]
    database, model, session = (symbol and symbol.node for symbol in found)
    if not (isinstance(database, TypeInfo) and model and isinstance(session, TypeInfo)):
        if not context.api.final_iteration:
            context.api.defer()
        return
    object_type = context.api.named_type("builtins.object")
    info = context.api.basic_new_typeinfo(context.name, object_type, context.call.line)
    info.metaclass_type = info.declared_metaclass = Instance(
        database, [Instance(session, [])] * len(database.type_vars)
    )
    info.names["Model"] = SymbolTableNode(MDEF, model)
    context.api.add_symbol_table_node(context.name, SymbolTableNode(GDEF, info))


def plugin(_version: str) -> type[Plugin]:
    """Return the plugin; mypy calls this function."""
    return _FlaskUow
