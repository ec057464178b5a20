"""``Query``: SQLAlchemy's, with what a view needs."""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar

from flask import abort
from sqlalchemy import exc, orm

from .pagination import Pagination, QueryPagination

T = TypeVar("T")


class Query(orm.Query[T]):
    """The class of ``Model.query``, of ``db.session.query()`` and of dynamic relationships.

    SQLAlchemy calls queries legacy, and keeps them. New code says ``db.select(User)``.
    """

    def get_or_404(self, ident: Any, description: str | None = None) -> T:
        """As ``get()``; a row that is missing is a 404.

        :param description: the text of the error page.
        """
        found = self.get(ident)
        return _not_found(description) if found is None else found

    def first_or_404(self, description: str | None = None) -> T:
        """As ``first()``; no row is a 404."""
        found = self.first()
        return _not_found(description) if found is None else found

    def one_or_404(self, description: str | None = None) -> T:
        """As ``one()``; no row, or more than one, is a 404."""
        try:
            return self.one()
        except (exc.NoResultFound, exc.MultipleResultsFound):
            return _not_found(description)

    def paginate(
        self,
        *,
        page: int | None = None,
        per_page: int | None = None,
        max_per_page: int | None = None,
        error_out: bool = True,
        count: bool = True,
    ) -> Pagination:
        """Return one page of the rows. The parameters are those of ``db.paginate()``."""
        return QueryPagination(
            query=self,
            page=page,
            per_page=per_page,
            max_per_page=max_per_page,
            error_out=error_out,
            count=count,
        )


def _not_found(description: str | None) -> NoReturn:
    abort(404, description=description)
