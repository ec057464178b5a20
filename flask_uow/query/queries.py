"""``Queries``: the methods of ``Database`` that look up objects and read pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from flask import abort
from sqlalchemy import Row
from sqlalchemy.orm import Mapper

from .._request.proxy import SessionProxy
from ..errors import QueryError, shown
from . import lookups, page_request
from .keyset import PagesByKey
from .lookups import NOT_FOUND
from .pagination import Count, Pagination
from .selects import SelectRows, limitable

if TYPE_CHECKING:
    from sqlalchemy.sql.selectable import ExecutableReturnsRows, TypedReturnsRows
    from typing_extensions import TypedDict, TypeVarTuple, Unpack

    Ts = TypeVarTuple("Ts")

    class AbortOptions(TypedDict, total=False):
        description: str | None
        code: int

    class PageOptions(TypedDict, total=False):
        page: int | None
        per_page: int | None
        max_per_page: int | None
        error_out: bool
        count: Count


T = TypeVar("T")
T2 = TypeVar("T2")


# The first two overloads of each helper: SQLAlchemy 2.0 types a select of one entity as
# 'TypedReturnsRows[tuple[T]]', and 2.1 as 'TypedReturnsRows[T]'.
class Queries(PagesByKey):
    """The query helpers of :class:`~flask_uow.Database`. All of them use ``db.session``."""

    session: SessionProxy[Any]

    def get_or_404(
        self,
        entity: type[T] | Mapper[T],
        ident: object,
        *,
        description: str | None = None,
        code: int = NOT_FOUND,
        **options: Any,
    ) -> T:
        """Return the object with this primary key, as ``session.get()`` does, or abort.

        A key that no row can have (``"abc"`` or ``10**30`` for an integer, ``"x"`` for a UUID) is
        not sent, because some databases would raise an error. ``"7"`` is the integer 7.

        :param ident: the value of the primary key; for several columns, a tuple or a dict by
            attribute.
        :param description: the text of the error page.
        :param code: the status of the error.
        :param options: further arguments of ``session.get()``, such as ``with_for_update=True``.
        :raises QueryError: *entity* is not a model, *ident* does not fit its primary key, or *code*
            is not the status of an error.
        """
        lookups.check_code(code)
        found = lookups.get(self.session, entity, ident, options)
        if found is None:
            abort(code, description=description)
        return found

    @overload
    def first_or_404(
        self, statement: TypedReturnsRows[tuple[T]], **options: Unpack[AbortOptions]
    ) -> T: ...

    @overload
    def first_or_404(
        self, statement: TypedReturnsRows[T], **options: Unpack[AbortOptions]
    ) -> T: ...

    @overload
    def first_or_404(
        self, statement: TypedReturnsRows[T, T2, Unpack[Ts]], **options: Unpack[AbortOptions]
    ) -> Row[T, T2, Unpack[Ts]]: ...

    @overload
    def first_or_404(
        self, statement: ExecutableReturnsRows, **options: Unpack[AbortOptions]
    ) -> Any: ...

    def first_or_404(
        self,
        statement: ExecutableReturnsRows,
        *,
        description: str | None = None,
        code: int = NOT_FOUND,
    ) -> Any:
        """Return the first object or value of *statement*, or abort.

        Several columns or entities are returned as a row. A value that is NULL is returned as None,
        and does not abort. A select without a limit gets ``LIMIT 1``.

        :param statement: a select, usually with ``order_by()``.
        :param description: the text of the error page.
        :param code: the status of the error.
        :raises QueryError: *statement* is not a statement with columns, or *code* is not the status
            of an error.
        """
        lookups.check_code(code)
        found = lookups.first(self.session, statement)
        if found is None:
            abort(code, description=description)
        return found[0]

    @overload
    def one_or_404(
        self, statement: TypedReturnsRows[tuple[T]], **options: Unpack[AbortOptions]
    ) -> T: ...

    @overload
    def one_or_404(self, statement: TypedReturnsRows[T], **options: Unpack[AbortOptions]) -> T: ...

    @overload
    def one_or_404(
        self, statement: TypedReturnsRows[T, T2, Unpack[Ts]], **options: Unpack[AbortOptions]
    ) -> Row[T, T2, Unpack[Ts]]: ...

    @overload
    def one_or_404(
        self, statement: ExecutableReturnsRows, **options: Unpack[AbortOptions]
    ) -> Any: ...

    def one_or_404(
        self,
        statement: ExecutableReturnsRows,
        *,
        description: str | None = None,
        code: int = NOT_FOUND,
    ) -> Any:
        """Return the only object or value of *statement*; abort if there is no row, or several.

        Several rows also log a warning, because usually a unique constraint is missing. NULL, and
        several columns or entities, are returned as by :meth:`first_or_404`.

        :param description: the text of the error page.
        :param code: the status of the error.
        :raises QueryError: *statement* is not a statement with columns, or *code* is not the status
            of an error.
        """
        lookups.check_code(code)
        found = lookups.one(self.session, statement)
        if found is None:
            abort(code, description=description)
        return found[0]

    @overload
    def paginate(
        self, select: TypedReturnsRows[tuple[T]], **options: Unpack[PageOptions]
    ) -> Pagination[T]: ...

    @overload
    def paginate(
        self, select: TypedReturnsRows[T], **options: Unpack[PageOptions]
    ) -> Pagination[T]: ...

    @overload
    def paginate(
        self, select: TypedReturnsRows[T, T2, Unpack[Ts]], **options: Unpack[PageOptions]
    ) -> Pagination[Row[T, T2, Unpack[Ts]]]: ...

    @overload
    def paginate(
        self, select: ExecutableReturnsRows, **options: Unpack[PageOptions]
    ) -> Pagination[Any]: ...

    def paginate(
        self,
        select: ExecutableReturnsRows,
        *,
        page: int | None = None,
        per_page: int | None = None,
        max_per_page: int | None = None,
        error_out: bool = True,
        count: Count = True,
    ) -> Pagination[Any]:
        """Return one page of *select*, by at most two statements.

        Without arguments, the page and its size come from the query string, for example
        ``?page=2&per_page=50``; the defaults are 1 and 20. One row more than the page has is read,
        so the last page needs no count. Order *select* by a unique combination of columns:
        otherwise a database may return a row on two pages.

        :param select: a select. With one entity or column, the items are objects or values; with
            several, they are rows. Its own limit applies to all pages together.
        :param page: the number of the page, starting from 1.
        :param per_page: the number of items on a page.
        :param max_per_page: the limit of *per_page*. With None, 100 is the limit for the query
            string, and the argument has no limit.
        :param error_out: if true, abort with a 404 if *page* or *per_page* is less than 1 or not a
            number, or if the page is after the last one. If false, the defaults replace such
            numbers, and a page after the last one has no items.
        :param count: True counts all rows. False does not count: ``total`` is None, and
            ``has_next`` is still right. ``"estimated"`` asks the planner of PostgreSQL; on other
            databases the rows are counted.
        :raises QueryError: *select* is not a select, or an argument has a wrong type or value.
        """
        if count not in (True, False, "estimated"):  # it may be unhashable
            raise QueryError(
                f"'count' is {shown(count)}, which is not a way to get a total. Write True, False"
                " or 'estimated'."
            )
        request = page_request.read(page, per_page, max_per_page, error_out=error_out)
        return Pagination(
            SelectRows(self.session, limitable("paginate", select)),
            request,
            max_per_page=max_per_page,
            error_out=error_out,
            count=count,
        )
