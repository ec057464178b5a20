"""The models as migrations see them: which tables belong to which engine, and where they are from.

Nothing here knows Alembic.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from sqlalchemy import MetaData, Table

from ..._transaction import routing
from ..._transaction.routing import DEFAULT
from ...errors import MigrationError

if TYPE_CHECKING:
    from ...database import Database

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
"""For ``MetaData(naming_convention=...)``: a constraint without a name cannot be dropped later."""


def of_engine(db: Database, name: str, engines: Collection[str | None]) -> list[MetaData]:
    """The metadata of the tables that belong to the engine *name*.

    Metadata that lies on one engine is itself; of that which is divided there is a copy of the
    part.

    :raises UnknownEngine: a table belongs to an engine that is not configured.
    """
    found = []
    for metadata in db.metadatas:
        names = {table: routing.of_from(table) or DEFAULT for table in metadata.tables.values()}
        if not set(names.values()) <= set(engines):
            routing.group(metadata, engines)  # which says what is wrong
        if name in names.values():
            mine = [table for table, owner in names.items() if owner == name]
            found.append(metadata if len(mine) == len(names) else _part(metadata, mine))
    return found or [MetaData()]


def _part(metadata: MetaData, tables: Iterable[Table]) -> MetaData:
    part = MetaData(schema=metadata.schema, naming_convention=metadata.naming_convention)
    part.info.update(metadata.info)
    for table in tables:
        table.to_metadata(part)
    return part


def modules_of(db: Database) -> list[str]:
    """The modules that define the mapped classes."""
    mappers = [mapper for registry in db._registries for mapper in registry.mappers]
    return sorted({mapper.class_.__module__ for mapper in mappers})


def has_convention(db: Database) -> bool:
    """Do constraints get names by themselves?"""
    return any("fk" in metadata.naming_convention for metadata in db.metadatas)


def has_base(db: Database) -> bool:
    """Was it given a base, and has not made its own?"""
    return getattr(db.Model, "__module__", "").partition(".")[0] != "flask_uow"


def docstring(text: str) -> str:
    """*text* for a docstring in a file, whatever is in it."""
    return text.replace("\\", "\\\\").replace('"""', r"\"\"\"")


def part_name(engine: str) -> str:
    """The name of an engine as a part of the name of a function: ``upgrade_<part>``.

    Python normalizes the names that it reads (NFKC), so this is how it will know it.
    """
    letters = unicodedata.normalize("NFKC", engine)
    return "".join(one if f"_{one}".isidentifier() else "_" for one in letters)


def part_names(config: Any) -> list[str]:
    """The names of the parts of a new revision; none if it is for the main engine alone.

    :param config: the ``Config`` of Alembic, as ``script.py.mako`` has it.
    :raises MigrationError: two engines have the same part.
    """
    names: list[str] = config.attributes.get("engine_names", [])
    parts = [part_name(name) for name in names]
    if len(set(parts)) < len(parts):
        raise MigrationError(
            f"The engines {', '.join(map(repr, names))} would share functions in a revision, where"
            " a name has letters, digits and underscores only. Rename one of them."
        )
    return parts
