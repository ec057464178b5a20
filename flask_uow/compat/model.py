"""``Model``, and what makes a declarative base of it."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import MetaData, Table, inspect
from sqlalchemy.orm import (
    DeclarativeBase,
    DeclarativeBaseNoMeta,
    DeclarativeMeta,
    declarative_base,
)

from ..errors import ConfigError, shown
from . import naming
from .naming import camel_to_snake_case
from .naming import has_generated_name as should_set_tablename
from .query import Query

if TYPE_CHECKING:
    from .extension import SQLAlchemy

__all__ = [
    "BindMetaMixin",
    "BindMixin",
    "DefaultMeta",
    "DefaultMetaNoName",
    "Model",
    "NameMetaMixin",
    "NameMixin",
    "camel_to_snake_case",
    "should_set_tablename",
]


class _QueryOfModel:
    """``Model.query``: a new query for each access, with the current session."""

    def __get__(self, instance: object, cls: type[Model]) -> Query[Any]:
        return cls.query_class(cls, session=cls.__fsa__.session())


class Model:
    """What ``db.Model`` inherits from; a subclass may be given as ``SQLAlchemy(model_class=)``.

    :cvar query_class: what ``query`` is made of; by default ``db.Query``.
    :cvar query: ``db.session.query(Model)``, in a class.
    """

    __fsa__: ClassVar[SQLAlchemy]
    query_class: ClassVar[type[Query[Any]]] = Query
    query: ClassVar[Query[Any]] = _QueryOfModel()  # type: ignore[assignment]

    def __repr__(self) -> str:
        state: Any = inspect(self)
        if state.transient:
            key = f"(transient {id(self)})"
        elif state.pending:
            key = f"(pending {id(self)})"
        else:
            key = ", ".join(map(str, state.identity))
        return f"<{type(self).__name__} {key}>"


if TYPE_CHECKING:

    class NewModel(Model):
        """For type checkers: what ``db.Model`` is if no ``model_class=`` was given."""

        metadata: ClassVar[MetaData]
        __table__: ClassVar[Table]
        __tablename__: Any
        __bind_key__: ClassVar[str | None]

        def __init__(self, **values: Any) -> None: ...


# A base with a metaclass, as 'declarative_base()' makes it ------------------------------------


class BindMetaMixin(type):
    """For a metaclass: ``__bind_key__`` chooses the ``MetaData`` of a model."""

    __fsa__: SQLAlchemy
    metadata: MetaData

    def __init__(
        cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **kwargs: Any
    ) -> None:
        naming.choose_metadata(cls, inherits=False)
        super().__init__(name, bases, namespace, **kwargs)


class NameMetaMixin(type):
    """For a metaclass: a table is named after its model."""

    metadata: MetaData
    __tablename__: str
    __table__: Table

    def __init__(
        cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **kwargs: Any
    ) -> None:
        naming.set_name(cls)
        super().__init__(name, bases, namespace, **kwargs)
        naming.inherit_table(cls)

    def __table_cls__(cls, *args: Any, **kwargs: Any) -> Table | None:
        return naming.make_table(cls, args, kwargs)


class DefaultMeta(BindMetaMixin, NameMetaMixin, DeclarativeMeta):
    """The metaclass of ``db.Model``."""


class DefaultMetaNoName(BindMetaMixin, DeclarativeMeta):
    """The metaclass of ``db.Model`` with ``disable_autonaming=True``."""


# A subclass of 'DeclarativeBase' or 'DeclarativeBaseNoMeta' -----------------------------------


class BindMixin:
    """For a base: ``__bind_key__`` chooses the ``MetaData`` of a model."""

    __fsa__: ClassVar[SQLAlchemy]
    metadata: ClassVar[MetaData]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        naming.choose_metadata(cls, inherits=True)
        super().__init_subclass__(**kwargs)


class NameMixin:
    """For a base: a table is named after its model."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        naming.set_name(cls)
        super().__init_subclass__(**kwargs)
        naming.inherit_table(cls)

    @classmethod
    def __table_cls__(cls, *args: Any, **kwargs: Any) -> Table | None:
        return naming.make_table(cls, args, kwargs)


# What 'db.Model' is made of -------------------------------------------------------------------


def plain_base_of(model_class: type[Any]) -> type[Any] | None:
    """Return the direct base of *model_class* that makes it a base without a metaclass of ours.

    :raises ConfigError: there are two.
    """
    roots = (DeclarativeBase, DeclarativeBaseNoMeta)
    found = [base for base in model_class.__bases__ if issubclass(base, roots)]
    if len(found) > 1:
        names = " and ".join(repr(base.__name__) for base in found)
        raise ConfigError(
            f"'SQLAlchemy(model_class={model_class.__name__})' inherits from {names}, and a model"
            " can have only one declarative base. Leave one of them out."
        )
    return found[0] if found else None


def make_base(model_class: Any, db: SQLAlchemy, *, autonaming: bool) -> type[Any]:
    """Make ``db.Model`` out of *model_class*.

    :param autonaming: name tables after their models.
    :raises ConfigError: *model_class* is not a class, or has two declarative bases.
    """
    if not isinstance(model_class, type) or model_class in {DeclarativeBase, DeclarativeBaseNoMeta}:
        raise ConfigError(
            f"'SQLAlchemy(model_class=...)' was given {shown(model_class)}, which is not a"
            " class of the app. Write 'class Base(DeclarativeBase): pass' and pass 'Base', or a"
            " subclass of 'flask_uow.compat.model.Model'."
        )
    if plain_base_of(model_class) is not None:
        mixins = (BindMixin, NameMixin, Model) if autonaming else (BindMixin, Model)
        content = {"__abstract__": True, "__fsa__": db, "__module__": model_class.__module__}
        return types.new_class(
            "Model", (*mixins, model_class), exec_body=lambda namespace: namespace.update(content)
        )
    if isinstance(model_class, DeclarativeMeta):
        return model_class
    return declarative_base(  # type: ignore[no-any-return]
        metadata=db._make_metadata(None),
        cls=model_class,
        name="Model",
        metaclass=DefaultMeta if autonaming else DefaultMetaNoName,
    )


def set_up_base(base: Any, db: SQLAlchemy) -> None:
    """Let the models below *base* find *db* and its query class."""
    base.query_class = db.Query
    base.query = _QueryOfModel()
    base.__fsa__ = db
