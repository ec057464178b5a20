"""Read, count and estimate the rows of a select.

A select of one column or entity returns values, a select of several returns rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

from sqlalchemy import (
    BindParameter,
    CompoundSelect,
    Executable,
    Result,
    Row,
    Select,
    Subquery,
    TextClause,
    func,
    literal,
    select,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Query, QueryableAttribute, scoped_session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ClauseElement

from .._transaction import sqlalchemy_private
from .._transaction.statements import EXPLAIN
from ..errors import QueryError, shown
from .pagination import Fetched


def executable(helper: str, given: object) -> Executable:
    """Return *given* if it is a statement that returns rows.

    :param helper: the name of the method, for messages.
    :raises QueryError: *given* is not a statement, or has no columns.
    """
    if isinstance(given, Query):
        given = given.statement
    if not isinstance(given, Executable) or isinstance(given, TextClause):
        raise QueryError(_NO_STATEMENT.format(helper, description_of(given)))
    if sqlalchemy_private.is_empty_select(given):
        raise QueryError(
            f"'{helper}' was given a 'select()' without columns, so there is nothing to return."
            f" Write for example 'db.{helper}(select(User))'."
        )
    return given


def limitable(helper: str, given: object) -> Select[Any] | CompoundSelect[Any]:
    """Return *given* if it is a select of which a limit and an offset can make a page.

    :param helper: the name of the method, for messages.
    :raises QueryError: it is not such a select.
    """
    statement = executable(helper, given)
    for collection in sqlalchemy_private.filled_collections_of(statement):
        raise QueryError(
            f"'{helper}' was given a select that fills {collection!r} by 'contains_eager()': it"
            " returns a row for each member, so a page would end inside a collection. Load the"
            f" members by 'selectinload({collection})', or only some of them by"
            f" 'selectinload({collection}.and_(...))'."
        )
    if isinstance(statement, (Select, CompoundSelect)):
        return statement
    raise QueryError(
        f"'{helper}' was given a statement of type {type(statement).__name__!r}, which cannot get a"
        " LIMIT and an OFFSET. Make its text a subquery,"
        " 'found = text(...).columns(User.id).subquery()', and join it:"
        " 'select(User).join(found, found.c.id == User.id)'."
    )


_NO_STATEMENT = (
    "'{0}' was given {1}, which is not a statement with columns. Write for example"
    " 'db.{0}(select(User).where(User.name == name))'."
)


def description_of(given: object) -> str:
    """Describe an argument of a wrong type, for a message."""
    if isinstance(given, TextClause):
        return "a 'text()'"
    if isinstance(given, type):
        return f"the class {given.__name__!r}"
    if isinstance(given, QueryableAttribute):
        return f"the attribute '{given}'"
    return shown(given)


# Rows -----------------------------------------------------------------------------------------


def without_repetitions(result: Result[Any]) -> Result[Any]:
    """Return *result* without the repeated objects of a joined eager collection."""
    return result.unique() if sqlalchemy_private.needs_unique(result) else result


def value_of(row: Row[Any]) -> Any:
    """Return the only value of *row*, or *row* itself if it has several."""
    return row[0] if len(row) == 1 else row


def with_limit(statement: Executable, limit: int) -> Executable:
    """Return *statement* with *limit*, unless it has its own limit or cannot have one."""
    if isinstance(statement, (Select, CompoundSelect)):
        own_limit, _, own_fetch = sqlalchemy_private.row_limits_of(statement)
        if own_limit is None and own_fetch is None:
            return statement.limit(limit)
    return statement


class SelectRows:
    """The rows of a select, as the source of a :class:`~.pagination.Pagination`.

    The select's own limit and offset apply to all pages together.

    :raises QueryError: the limit of the select is not a number.
    """

    def __init__(
        self, session: scoped_session[Any], statement: Select[Any] | CompoundSelect[Any]
    ) -> None:
        self._session = session
        self._statement = statement
        self._own_limit, self._own_offset = _limits_of(statement)

    def fetch(self, limit: int, offset: int) -> Fetched[Any]:
        if self._own_limit is not None:
            limit = min(limit, self._own_limit - offset)
            if limit <= 0:
                return Fetched([])
        statement = self._statement.limit(limit).offset(self._own_offset + offset)
        result = self._session.execute(statement)
        is_merged = sqlalchemy_private.needs_unique(result)
        if is_merged:
            result = result.unique()
        rows = result.all() if len(result.keys()) > 1 else result.scalars().all()
        return Fetched(list(rows), tells_end=not is_merged)

    def count(self) -> int:
        counting = select(func.count()).select_from(self._subquery())
        return cast(int, self._session.scalar(counting, execution_options=self._options))

    def estimate(self) -> int | None:
        """Ask the planner of PostgreSQL, which uses the statistics of the last ``ANALYZE``."""
        subquery = self._subquery()
        if self._session.get_bind(clause=subquery).dialect.name != "postgresql":
            return None
        explain = _Explain(select(literal(1)).select_from(subquery))
        plan = self._session.scalar(explain, execution_options=self._options)
        if isinstance(plan, str):
            plan = json.loads(plan)
        return int(plan[0]["Plan"]["Plan Rows"])

    def _subquery(self) -> Subquery:
        # In a subquery, SQLAlchemy does not join eager collections.
        statement = sqlalchemy_private.without_locks(self._statement)
        has_limit = self._own_limit is not None or self._own_offset
        return (statement if has_limit else statement.order_by(None)).subquery()

    @property
    def _options(self) -> dict[str, Any]:
        """The execution options of the select: its schema, and what the listeners of the app ask.

        Not those by which rows arrive a few at a time: there is one row.
        """
        options = self._statement.get_execution_options()
        return {name: value for name, value in options.items() if name not in _STREAMING}


_STREAMING = {"max_row_buffer", "stream_results", "yield_per"}


def _limits_of(statement: Select[Any] | CompoundSelect[Any]) -> tuple[int | None, int]:
    """Return the own limit and offset of *statement*.

    :raises QueryError: they are not numbers.
    """
    limit, offset, fetch = sqlalchemy_private.row_limits_of(statement)
    if limit is None and offset is None and fetch is None:  # the usual case
        return None, 0
    limit_number, offset_number = _number(limit), _number(offset)
    is_known = (limit is None) == (limit_number is None) and (offset is None) == (
        offset_number is None
    )
    if is_known and fetch is None:
        return limit_number, offset_number or 0
    raise QueryError(
        "'paginate' was given a select whose own limit is a 'fetch()' or an SQL expression, so it"
        " cannot be divided into pages. Use a number ('.limit(50)'), or leave the limit out."
    )


def _number(clause: object) -> int | None:
    value = clause.value if isinstance(clause, BindParameter) else None
    return value if isinstance(value, int) else None


class _Explain(Executable, ClauseElement):
    """Asks PostgreSQL for the plan of a select, without running it."""

    inherit_cache = False

    def __init__(self, statement: Select[Any]) -> None:
        self.statement = statement

    def get_children(self, **_: Any) -> Iterator[ClauseElement]:
        """Yield the select, because its tables decide the engine."""
        yield self.statement


@compiles(_Explain)
def _compile_explain(element: _Explain, compiler: SQLCompiler, **options: Any) -> str:
    return EXPLAIN + compiler.process(element.statement, **options)
