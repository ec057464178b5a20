"""The models as migrations see them: which tables belong to which engine, and where they are from.

Nothing here knows Alembic.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import Engine, MetaData
from sqlalchemy.orm import Mapper

from ..._transaction import routing
from ..._transaction.metadatas import Metadatas
from ..._transaction.routing import DEFAULT
from ...errors import MigrationError

if TYPE_CHECKING:
    from alembic.config import Config

    from ..._engine.build import Engines
    from ..._unit.unit import UnitOfWork

EXTENSION = "uow_migrations"  # the key in ``app.extensions``, a ``Database``


class MigratedDatabase(Protocol):
    """What migrations ask of a :class:`flask_uow.Database`, which is above them."""

    Model: Any

    @property
    def engine(self) -> Engine: ...
    @property
    def engines(self) -> Engines: ...
    @property
    def metadata(self) -> MetaData: ...
    @property
    def metadatas(self) -> list[MetaData]: ...
    @property
    def mappers(self) -> Iterable[Mapper[Any]]: ...
    def current_unit(self) -> UnitOfWork | None: ...


def of_engine(db: MigratedDatabase, name: str, engines: Collection[str | None]) -> list[MetaData]:
    """The metadata of the tables that belong to the engine *name*.

    A ``MetaData`` whose tables all belong to this engine is returned as it is; otherwise a copy
    with only its tables.

    :param engines: the names of all engines of the app.
    :raises UnknownEngine: a table belongs to an engine that is not configured.
    """
    for metadata in db.metadatas:
        names = {routing.of_from(table) or DEFAULT for table in metadata.tables.values()}
        if not names <= set(engines):
            routing.group(metadata, engines)  # raises, and names the table
    return Metadatas(db.metadatas).parts(name) or [MetaData()]


def modules_of(db: MigratedDatabase) -> list[str]:
    """The modules that define the mapped classes."""
    return sorted({mapper.class_.__module__ for mapper in db.mappers})


def has_convention(db: MigratedDatabase) -> bool:
    """Tell whether constraints of the models get names by themselves."""
    return any("fk" in metadata.naming_convention for metadata in db.metadatas)


def has_base(db: MigratedDatabase) -> bool:
    """Tell whether the app gave *db* a base of its own."""
    return getattr(db.Model, "__module__", "").partition(".")[0] != "flask_uow"


def docstring(text: str) -> str:
    """*text* for a docstring in a file, whatever is in it."""
    return text.replace("\\", "\\\\").replace('"""', r"\"\"\"")


def part_name(engine: str) -> str:
    """The name of an engine as a part of the name of a function: ``upgrade_<part>``.

    Python normalizes the names that it reads (NFKC), so the result is normalized, too.
    """
    letters = unicodedata.normalize("NFKC", engine)
    return "".join(letter if f"_{letter}".isidentifier() else "_" for letter in letters)


def part_names(config: Config) -> list[str]:
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
