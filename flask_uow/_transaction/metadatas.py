"""``db.metadatas``: the metadata of all models, as a list and by engine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import SupportsIndex, overload

from sqlalchemy import MetaData, Table

from ..errors import UnknownEngine
from . import routing
from .routing import DEFAULT


class Metadatas(list[MetaData]):
    """A list of ``MetaData``; ``[None]`` and ``["audit"]`` return a ``MetaData`` of one engine.

    :raises UnknownEngine: from ``db.metadatas["audit"]``, if no table belongs to this engine.
    """

    @overload
    def __getitem__(self, key: SupportsIndex, /) -> MetaData: ...
    @overload
    def __getitem__(self, key: slice, /) -> list[MetaData]: ...
    @overload
    def __getitem__(self, key: str | None, /) -> MetaData: ...

    def __getitem__(self, key: SupportsIndex | slice | str | None) -> MetaData | list[MetaData]:
        if key is None or isinstance(key, str):
            return self._of_engine(key or DEFAULT)
        return super().__getitem__(key)

    def parts(self, name: str) -> list[MetaData]:
        """Return the metadata of the tables that belong to the engine *name*.

        A ``MetaData`` whose tables all belong to this engine is returned as it is; otherwise a copy
        with only its tables.
        """
        found = []
        for metadata in self:
            tables = list(metadata.tables.values())
            own = [table for table in tables if (routing.of_from(table) or DEFAULT) == name]
            if own:
                found.append(metadata if len(own) == len(tables) else copied(metadata, own))
        return found

    def _of_engine(self, name: str) -> MetaData:
        parts = self.parts(name) or [
            metadata
            for metadata in self
            if not metadata.tables and (metadata.info.get("bind_key") or DEFAULT) == name
        ]
        if not parts and name != DEFAULT:
            raise UnknownEngine(
                f"There is no metadata for {name!r} in 'db.metadatas', because no model or table"
                " belongs to this engine. Import the module with its models first, or"
                " correct the name ('__bind_key__' of a model, 'bind_key' in the info of a table or"
                " metadata)."
            )
        return parts[0] if len(parts) == 1 else _merged(parts)


def copied(metadata: MetaData, tables: Iterable[Table]) -> MetaData:
    """Return a copy of *metadata* with only *tables*."""
    part = MetaData(schema=metadata.schema, naming_convention=metadata.naming_convention)
    part.info.update(metadata.info)
    for table in tables:
        table.to_metadata(part)
    return part


def _merged(parts: list[MetaData]) -> MetaData:
    whole = MetaData(naming_convention=parts[0].naming_convention if parts else None)
    for part in parts:
        for table in part.tables.values():
            table.to_metadata(whole)
    return whole
