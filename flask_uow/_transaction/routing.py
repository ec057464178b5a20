"""Find the engine of a table: the only reader of bind keys.

A model names its engine by ``__bind_key__``, a table by ``Table(info={"bind_key": ...})``, and a
``MetaData`` by ``MetaData(info={"bind_key": ...})`` for all of its tables. The first of these wins;
without any, the engine is ``"default"``.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping

from sqlalchemy import Connection, Engine, MetaData, Table, event
from sqlalchemy.orm import Mapper
from sqlalchemy.sql import visitors
from sqlalchemy.sql.expression import ClauseElement, FromClause

from ..errors import SetupError, UnknownEngine

DEFAULT = "default"

_not_a_string = (
    "The '__bind_key__' of the model {0!r} is of type {1!r}, but it must be a plain string, the"
    " name of an engine. The engine of a model is looked up once, so a key that changes, such as"
    " the tenant of a request, would keep its first value. Write '__bind_key__ = \"audit\"'."
    " To choose an engine each time, give a session class with its own 'get_bind()' to"
    " 'Database(session_options={{\"class_\": ...}})'."
)


def of_mapper(mapper: Mapper[object]) -> str | None:
    """Return the engine name of a mapped class or of its table; None if neither has one."""
    key: str | None = getattr(mapper.class_, "__bind_key__", None)
    return key or of_from(mapper.local_table)


def of_from(selectable: FromClause) -> str | None:
    """Return the engine name of a table, or of the first table of a join that has one."""
    if isinstance(selectable, Table):
        of_table, of_metadata = selectable.info, selectable.metadata.info
        key: str | None = of_table.get("bind_key") or of_metadata.get("bind_key")
        return key
    return of_clause(selectable)


def of_clause(clause: ClauseElement) -> str | None:
    """Return the engine name of the first table in *clause* that has one; None without any."""
    for element in visitors.iterate(clause):
        if isinstance(element, Table) and (key := of_from(element)):
            return key
    return None


def variant_of(
    bind: Engine | Connection, plain: Mapping[str, Engine], variants: Mapping[str, Engine]
) -> Engine | None:
    """Return *bind* with the options of *variants*; None if *bind* is not from one of these
    engines.

    :param plain: the engines without these options, under the same names.
    """
    if isinstance(bind, Connection):
        return None
    for name, variant in variants.items():
        if bind is plain[name] or bind is variant:
            return variant
    for name, variant in variants.items():
        if bind.pool is variant.pool:  # made by 'execution_options()', for a tenant perhaps
            before = plain[name].get_execution_options()
            options = variant.get_execution_options().items()
            added = {key: value for key, value in options if before.get(key) != value}
            # Not made from *bind*: SQLAlchemy 2.0 cannot give such an engine an isolation level.
            merged = {**bind.get_execution_options(), **added}
            return plain[name].execution_options(**merged) if added else bind
    return None


def group(metadata: MetaData, engines: Collection[str | None]) -> dict[str, list[Table]]:
    """Return the tables of *metadata* by the name of their engine.

    :raises UnknownEngine: a table names an engine that is not among *engines*.
    """
    groups: dict[str, list[Table]] = {}
    for table in metadata.sorted_tables:
        name = of_from(table) or DEFAULT
        if name not in engines:
            raise UnknownEngine(unknown(name, engines, f"the table {table.fullname!r}"))
        groups.setdefault(name, []).append(table)
    return groups


def note_bind_keys(mappers: Iterable[Mapper[object]]) -> None:
    """Write the ``__bind_key__`` of mapped classes on their tables.

    Core statements and ``create_all()`` see only the table.

    :raises SetupError: a ``__bind_key__`` is not a plain string.
    """
    for mapper in mappers:
        _note_bind_key(mapper, mapper.class_)


@event.listens_for(Mapper, "instrument_class")
def _note_bind_key(mapper: Mapper[object], class_: type[object]) -> None:
    key = inspect.getattr_static(class_, "__bind_key__", None)
    if key is not None and type(key) is not str:
        raise SetupError(_not_a_string.format(class_.__name__, type(key).__name__))
    if key and isinstance(mapper.local_table, Table):
        mapper.local_table.info.setdefault("bind_key", key)


def unknown(name: str, known: Iterable[str | None], user: str) -> str:
    """Return the message for an engine that is not configured.

    :param user: the model, table or code that names the engine.
    """
    names = ", ".join(repr(engine) for engine in known) or "none"
    where = "SQLALCHEMY_DATABASE_URI" if name == DEFAULT else f"SQLALCHEMY_BINDS[{name!r}]"
    return (
        f"There is no engine {name!r}, which {user} asks for. Configured engines: {names}."
        f" Set {where}, or correct the name ('__bind_key__' of the model, 'bind_key' in the info"
        " of its table or metadata)."
    )
