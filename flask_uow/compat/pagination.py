"""``Pagination``: that of ``flask_uow``, with Flask-SQLAlchemy's arguments and subclasses."""

from __future__ import annotations

from typing import Any

from flask import abort, has_request_context, request
from sqlalchemy import func, orm, select

from ..query import pagination as pages
from ..query.page_request import PageRequest
from ..query.pagination import Fetched

_SIZE = 20


class Pagination(pages.Pagination[Any]):
    """One page. ``db.paginate()`` and ``Query.paginate()`` return a subclass of it.

    A subclass reads the items and counts all of them, by ``_query_items()`` and
    ``_query_count()``, with the arguments that it was given in ``self._query_args``.
    """

    def __init__(
        self,
        page: int | None = None,
        per_page: int | None = None,
        max_per_page: int | None = 100,
        error_out: bool = True,
        count: bool = True,
        **kwargs: Any,
    ) -> None:
        """
        :param page: by default ``?page=`` of the request, or 1.
        :param per_page: by default ``?per_page=`` of the request, or 20.
        :param error_out: a page without items, or a number that is not 1 or more, is a 404.
            Otherwise the defaults take the place of wrong numbers.
        :param kwargs: for the methods of the subclass.
        """
        self._query_args = kwargs
        request = self._prepare_page_args(
            page=page, per_page=per_page, max_per_page=max_per_page, error_out=error_out
        )
        super().__init__(
            _Hooks(self),
            PageRequest(*request),
            max_per_page=max_per_page,
            error_out=error_out,
            count=count,
        )

    @staticmethod
    def _prepare_page_args(
        *,
        page: int | None = None,
        per_page: int | None = None,
        max_per_page: int | None = None,
        error_out: bool = True,
    ) -> tuple[int, int]:
        if page is None:
            page = _from_request("page", 1, error_out=error_out)
        if per_page is None:
            per_page = _from_request("per_page", _SIZE, error_out=error_out)
        if max_per_page is not None:
            per_page = min(per_page, max_per_page)
        if error_out and min(page, per_page) < 1:
            abort(404)
        return max(page, 1), per_page if per_page > 0 else _SIZE

    @property
    def _query_offset(self) -> int:
        return (self.page - 1) * self.per_page

    def _query_items(self) -> list[Any]:
        raise NotImplementedError

    def _query_count(self) -> int:
        raise NotImplementedError

    def _other(self, number: int, *, error_out: bool) -> Pagination:
        other = type(self)(
            page=number,
            per_page=self.per_page,
            max_per_page=self.max_per_page,
            error_out=error_out,
            count=False,
            **self._query_args,
        )
        other.total = self.total
        return other


class _Hooks:
    """Reads and counts by the methods of a :class:`Pagination`, as its base asks for it."""

    def __init__(self, page: Pagination) -> None:
        self._page = page

    def fetch(self, limit: int, offset: int) -> Fetched[Any]:
        """Read the page, and no row more: rows may repeat an item, so that tells nothing."""
        return Fetched(self._page._query_items()[: self._page.per_page], tells_end=False)

    def count(self) -> int:
        return self._page._query_count()

    def estimate(self) -> None:
        return None


def _from_request(name: str, default: int, *, error_out: bool) -> int:
    """Read a number from the query string of the request, if there is one."""
    try:
        return int(request.args.get(name, default)) if has_request_context() else default
    except ValueError:
        return abort(404) if error_out else default


class SelectPagination(Pagination):
    """A page of a ``select()`` of one model: arguments *select* and *session*."""

    def _query_items(self) -> list[Any]:
        page = self._query_args["select"].limit(self.per_page).offset(self._query_offset)
        return list(self._query_args["session"].execute(page).unique().scalars())

    def _query_count(self) -> int:
        # Without what is loaded beside the model, and without an order.
        rows = self._query_args["select"].options(orm.lazyload("*")).order_by(None).subquery()
        statement = select(func.count()).select_from(rows)
        return int(self._query_args["session"].execute(statement).scalar_one())


class QueryPagination(Pagination):
    """A page of a ``Query``: argument *query*."""

    def _query_items(self) -> list[Any]:
        query = self._query_args["query"]
        return list(query.limit(self.per_page).offset(self._query_offset).all())

    def _query_count(self) -> int:
        return int(self._query_args["query"].order_by(None).count())
