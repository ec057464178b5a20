"""``Model``: a mixin for any declarative base, which names tables and constraints.

Nothing here knows Flask.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from itertools import takewhile
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import (
    CheckConstraint,
    Column,
    Constraint,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    event,
    inspect,
)
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import (
    DeclarativeBase,
    DeclarativeBaseNoMeta,
    InstanceState,
    MappedColumn,
    Mapper,
    registry,
)

from . import elsewhere
from .errors import SetupError

# Naming of constraints ------------------------------------------------------------------------


def _check_name(constraint: Constraint, _table: Table) -> str:
    """Return the ``%(constraint_name)s`` of a ``CHECK``.

    SQLAlchemy itself refuses to name a ``CHECK`` without a name. The ``CHECK`` of a ``Boolean`` or
    ``Enum`` is named after its column, because several columns may have the same type.
    """
    columns = list(getattr(constraint, "columns", ()))
    names = [column.name for column in columns]
    given: object = constraint.name
    if isinstance(given, str) and given not in [getattr(c.type, "name", None) for c in columns]:
        return given
    if given is not None:  # the name of the type, or SQLAlchemy's mark for a type without a name
        return "_".join(names)
    text = ""
    if isinstance(constraint, CheckConstraint):
        text = str(constraint.sqltext.compile(compile_kwargs={"literal_binds": True}))
    return "_".join([*names, hashlib.sha256(text.encode()).hexdigest()[:8]])


NAMING_CONVENTION: dict[str, Any] = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
    "constraint_name": _check_name,  # used by "ck"
}
"""For ``MetaData(naming_convention=...)``: a migration cannot drop a constraint without a name."""


# Models ---------------------------------------------------------------------------------------


class Model:
    """An optional mixin for a declarative base: names of tables and constraints, and ``repr()``.

    ::

        class Base(Model, DeclarativeBase):
            pass

        db = Database(Base)

        class BlogPost(Base):           # the table "blog_post"
            id: Mapped[int] = mapped_column(primary_key=True)

    A ``Database()`` that is given no base makes such a base itself, ``db.Model``. For
    ``class BlogPost(db.Model)``, mypy needs the plugin ``flask_uow.mypy``; for a base as above it
    does not.

    Without a ``__tablename__``, the table has the name of the class in snake case. A subclass of a
    model gets its own table, joined to the table of its parent, if it declares a primary key;
    otherwise it shares the table of its parent. Mixins and abstract bases get no table.

    Constraints are named by ``flask_uow.migrations.NAMING_CONVENTION``, unless the base has its own
    ``metadata`` or ``registry``.

    ``repr()`` shows the class and the primary key. It sends no SQL, and works for every object,
    even if its session is closed.

    ``__bind_key__`` is the name of the engine, and must be a plain string.
    """

    if TYPE_CHECKING:
        __tablename__: Any
        __bind_key__: ClassVar[str | None]
    else:
        query = elsewhere.NotHere("write 'db.session.scalars(sqlalchemy.select({owner}))'")

    def __init_subclass__(cls, **options: Any) -> None:
        """
        :raises SetupError: the model has no primary key, another model has a table of this name, or
            ``Model`` comes after the declarative base.
        """
        if _BASES & set(cls.__bases__):
            _prepare_base(cls)
        elif _needs_table_name(cls):
            cls.__tablename__ = table_name(cls.__name__)
        try:
            super().__init_subclass__(**options)
        except ArgumentError as error:
            table = vars(cls).get("__table__")
            if isinstance(table, Table) and not table.primary_key.columns:
                table.metadata.remove(
                    table
                )  # so that a corrected class can be written, in a shell for example
                raise SetupError(
                    f"The model {cls.__name__!r} has no primary key, and SQLAlchemy needs one to"
                    " tell its objects apart. Write for example"
                    " 'id: Mapped[int] = mapped_column(primary_key=True)'."
                ) from error
            raise

    @classmethod
    def __table_cls__(cls, name: str, metadata: MetaData, *parts: Any, **options: Any) -> Any:
        """Create the table when SQLAlchemy asks for it; None if the class shares its parent's.

        :raises SetupError: another model has a table of this name.
        """
        inherits = any("__table__" in vars(base) for base in cls.__mro__[1:])
        has_key = "autoload_with" in options or any(map(_is_primary_key, parts))
        if inherits and not has_key:
            return None
        key = f"{schema}.{name}" if (schema := options.get("schema") or metadata.schema) else name
        if parts and key in metadata.tables and not options.keys() & _EXTENDING:
            raise SetupError(_table_is_taken(cls, metadata.tables[key]))
        return Table(name, metadata, *parts, **options)

    def __repr__(self) -> str:
        state: InstanceState[Any] | None = inspect(self, raiseerr=False)
        if state is None or state.transient:
            key = "(transient)"
        elif state.identity is None:
            key = "(pending)"
        else:
            key = ", ".join(map(repr, state.identity))
        return f"<{type(self).__name__} {key}>"


_BASES: set[type] = {DeclarativeBase, DeclarativeBaseNoMeta}
_EXTENDING = {"extend_existing", "keep_existing"}


def table_name(name: str) -> str:
    """Return the name of a class in snake case: ``blog_post``, and ``http_log`` for ``HTTPLog``."""
    words = re.sub(r"(?<=[a-z0-9])[A-Z]|(?!^)[A-Z](?=[a-z])", r"_\g<0>", name)
    return words.lower().lstrip("_")


def _prepare_base(base: Any) -> None:
    """
    :raises SetupError: ``Model`` comes after SQLAlchemy's base, which would not let it name tables.
    """
    order = base.__mro__
    first = next(class_ for class_ in order if class_ is Model or class_ in _BASES)
    if first is not Model:
        raise SetupError(
            f"'Model' comes after {first.__name__!r} in the base {base.__name__!r}, so it cannot"
            f" name the tables. Write 'class {base.__name__}(Model, {first.__name__}):'."
        )
    if not {"metadata", "registry"} & vars(base).keys():
        base.metadata = MetaData(naming_convention=NAMING_CONVENTION)


def _needs_table_name(cls: type) -> bool:
    if not isinstance(getattr(cls, "registry", None), registry):  # a mixin
        return False
    if vars(cls).get("__abstract__"):
        return False
    if any(vars(base).get("__no_table__") for base in (cls, *cls.__bases__)):
        return False
    if _defines(cls, "__table__") or _defines(cls, "__tablename__"):
        return False
    # For a class with a name and no table, SQLAlchemy refuses options that are not its own.
    return not _inherits_options(cls) or _has_key_beside(cls)


def _defines(cls: type, name: str) -> bool:
    """Tell whether *cls*, one of its mixins or one of its abstract bases defines *name*.

    What a parent model defines does not count, unless it is a ``declared_attr``.
    """
    owner = next((base for base in cls.__mro__ if name in vars(base)), None)
    if owner is None:
        return False
    value: object = vars(owner)[name]
    return "__mapper__" not in vars(owner) or not isinstance(value, _PLAIN)


_PLAIN = (str, dict, tuple, Table, type(None))


def _inherits_options(cls: type) -> bool:
    """Tell whether a subclass of a model has the ``__table_args__`` of a mixin or of the base."""
    is_subclass = any("__mapper__" in vars(base) for base in cls.__mro__)
    return is_subclass and "__table_args__" not in vars(cls) and _defines(cls, "__table_args__")


def _has_key_beside(cls: type) -> bool:
    """Tell whether a subclass of a model has a primary key beside that of its parent.

    A column of the same name as a key of the parent is one, too: its type may make it a key.
    """
    own = list(takewhile(lambda base: "__mapper__" not in vars(base), cls.__mro__))
    parent: Mapper[Any] = inspect(cls.__mro__[len(own)])
    key_columns = parent.local_table.primary_key
    keys = {parent.get_property_by_column(column).key for column in key_columns}
    found = {name: value for base in own for name, value in vars(base).items()}
    columns = [one.column if isinstance(one, MappedColumn) else one for one in found.values()]
    return bool(keys & found.keys()) or any(map(_is_primary_key, columns))


def _is_primary_key(part: object) -> bool:
    return isinstance(part, PrimaryKeyConstraint) or (isinstance(part, Column) and part.primary_key)


def _table_is_taken(cls: type, table: Table) -> str:
    owners = [model for model in _subclasses(Model) if vars(model).get("__table__") is table]
    owner = f"the model {_full_name(owners[0])!r}" if owners else "another 'Table'"
    return (
        f"The model {_full_name(cls)!r} cannot have the table {table.fullname!r}, because"
        f" {owner} already has it. Write another '__tablename__' in one of them. Tables of the same"
        " name on two engines need two bases: 'Database(Base, AuditBase)'."
    )


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _subclasses(cls: type) -> Iterator[type]:
    subclasses: list[type] = cls.__subclasses__()
    for subclass in subclasses:
        yield subclass
        yield from _subclasses(subclass)


@event.listens_for(Model, "instrument_class", propagate=True)
def _share_table(mapper: Mapper[Any], cls: Any) -> None:
    """Let a class that shares the table of its parent inherit ``__table__``."""
    if mapper.inherits is not None and mapper.single:
        for name in ("__table__", "__tablename__"):
            if isinstance(vars(cls).get(name), (str, type(None))) and name in vars(cls):
                delattr(cls, name)
