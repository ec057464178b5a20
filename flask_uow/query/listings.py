"""Listings: a cache of what is the same for all selects of one structure.

A view makes its select again for each request, with other values. The checks, the key and the
conditions of its pages depend only on the structure of the select, by which SQLAlchemy also caches
compiled statements.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._transaction import sqlalchemy_private as private
from .ordering import Ordering, entities_of

if TYPE_CHECKING:
    from collections.abc import Hashable

    from sqlalchemy import Select
    from sqlalchemy.orm import Mapper, Session

_MOST = 200  # apps have fewer lists; more structures come from conditions that vary


class Listing:
    """The rows of selects of one structure.

    :ivar names: the names of the columns and entities.
    :raises QueryError: the rows have no key.
    """

    def __init__(self, select: Select[Any]) -> None:
        self._entities = entities_of(select)
        self.names = [str(described["name"]) for described in select.column_descriptions]
        self._orderings: dict[str, Ordering] = {}

    @property
    def mapper(self) -> Mapper[Any]:
        """The mapper of the first entity."""
        return self._entities[0].mapper

    def ordering(self, select: Select[Any], dialect: str) -> Ordering:
        """Return the key of *select* on a database.

        :raises QueryError: the rows cannot be ordered by a key.
        """
        found = self._orderings.get(dialect)
        if found is None:
            found = self._orderings[dialect] = Ordering(select, self._entities, dialect)
        return found


class Listings:
    """The listings of a ``Database``, by structure."""

    def __init__(self) -> None:
        self._by_structure: dict[Hashable, Listing] = {}

    def of(self, session: Session, select: Select[Any]) -> tuple[Listing, Ordering]:
        """Return what is known of *select*, and its order on the database of *session*.

        :raises QueryError: *select* is not a select, or its rows cannot be ordered by a key.
        """
        structure = private.structure_of(select)
        listing = self._by_structure.get(structure)
        if listing is not None:
            dialect = session.get_bind(listing.mapper, clause=select).dialect.name
            return listing, listing.ordering(select, dialect)
        listing = Listing(select)
        dialect = session.get_bind(listing.mapper, clause=select).dialect.name
        ordering = listing.ordering(select, dialect)
        if structure is not None and ordering.is_of_tables:
            if len(self._by_structure) >= _MOST:
                self._by_structure.clear()
            self._by_structure[structure] = listing
        return listing, ordering
