"""Which name the table of a model gets, whether it has a table, and in which ``MetaData`` it is.

These are the rules of Flask-SQLAlchemy, because the tables exist already. The two kinds of
declarative bases, with a metaclass and without, share them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Column, PrimaryKeyConstraint, Table
from sqlalchemy.orm import DeclarativeBase, DeclarativeBaseNoMeta, DeclarativeMeta, declared_attr
from sqlalchemy.orm.decl_api import DeclarativeAttributeIntercept

_ROOTS = (DeclarativeBase, DeclarativeBaseNoMeta)

# Before a capital letter that follows a small letter or a digit, or precedes a small letter.
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?!^)(?=[A-Z][a-z])")


def camel_to_snake_case(name: str) -> str:
    """``"HTTPRequest"`` becomes ``"http_request"``."""
    return _WORD.sub("_", name).lower().lstrip("_")


def has_generated_name(cls: type[Any]) -> bool:
    """Tell whether the table of *cls* is named after the class.

    Not if the class is abstract or a base, has a name of its own, or gets one from a mixin, an
    abstract class or a ``declared_attr``. The name of a parent's table is no name for the child's.
    """
    if vars(cls).get("__abstract__", False) or not _is_model(cls):
        return False
    namer = next((base for base in cls.__mro__ if "__tablename__" in vars(base)), None)
    if namer is None:
        return True
    if namer is cls or isinstance(vars(namer)["__tablename__"], declared_attr):
        return False
    return _is_declarative(namer) and not vars(namer).get("__abstract__", False)


def _is_model(cls: type[Any]) -> bool:
    if any(base in _ROOTS for base in cls.__bases__):
        return False  # the app's own base
    is_below_a_base = any(isinstance(base, DeclarativeMeta) for base in cls.__mro__[1:])
    return is_below_a_base or issubclass(cls, _ROOTS)


def _is_declarative(cls: type[Any]) -> bool:
    has_metaclass = isinstance(cls, (DeclarativeMeta, DeclarativeAttributeIntercept))
    return has_metaclass or issubclass(cls, DeclarativeBaseNoMeta)


def set_name(cls: type[Any]) -> None:
    """Name the table of *cls* after the class, where it has to be; before the class is mapped."""
    if has_generated_name(cls):
        cls.__tablename__ = camel_to_snake_case(cls.__name__)


def make_table(cls: type[Any], args: Iterable[Any], options: dict[str, Any]) -> Table | None:
    """Make the table of *cls*; SQLAlchemy asks for it while it maps the class.

    A model without a primary key below one with a table is stored in that table: single-table
    inheritance. But a table that was reflected before is the model's, whatever it contains.
    """
    args = list(args)
    schema = options.get("schema")
    key = args[0] if schema is None else f"{schema}.{args[0]}"
    is_reflected = key in cls.metadata.tables
    has_parent = any("__table__" in vars(base) for base in cls.__mro__[1:-1])
    # Without a parent, SQLAlchemy says what is missing.
    if is_reflected or _has_primary_key(args) or not has_parent:
        return Table(*args, **without_bind_key(options))
    if "__tablename__" in vars(cls):
        del cls.__tablename__
    return None


def without_bind_key(options: dict[str, Any]) -> dict[str, Any]:
    """Return options of a table without ``info={"bind_key": ...}``, which has no effect there.

    Its ``MetaData`` has the bind key. Sessions would look at the table first.
    """
    given = options.get("info")
    if not given:
        return options
    return {**options, "info": {key: given[key] for key in given if key != "bind_key"}}


def _has_primary_key(args: Iterable[Any]) -> bool:
    return any(
        isinstance(arg, PrimaryKeyConstraint) or (isinstance(arg, Column) and arg.primary_key)
        for arg in args
    )


def inherit_table(cls: type[Any]) -> None:
    """Let *cls* find the table of its parent, if it has none; after the class was mapped."""
    own = vars(cls)
    if "__tablename__" not in own and own.get("__table__", cls) is None:
        del cls.__table__


def choose_metadata(cls: type[Any], *, inherits: bool) -> None:
    """Put the table of *cls* into the ``MetaData`` of its bind key; before the class is mapped.

    :param inherits: without a bind key, the ``MetaData`` is that of the parent, not the default.
    """
    own, bind_key = vars(cls), getattr(cls, "__bind_key__", None)
    if "metadata" in own or "__table__" in own:
        # The class says itself where its table is. Its engine is the one of that MetaData.
        if bind_key is not None and not own.get("__abstract__", False):
            cls.__bind_key__ = None
    elif bind_key is not None or not inherits:
        metadata = cls.__fsa__._make_metadata(bind_key)
        if metadata is not getattr(cls, "metadata", None):
            cls.metadata = metadata
