"""The order of the rows of a select, as a key of each row. Keys are unique and can be compared.

The key is the values that the select orders by, then the primary keys of its entities. The values
are the driver's, before a column type converts them: the driver can send them back unchanged, even
if the app defined the column type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from sqlalchemy import (
    BinaryExpression,
    Column,
    ColumnClause,
    ColumnElement,
    CompoundSelect,
    Double,
    Enum,
    Float,
    Label,
    ScalarSelect,
    Select,
    Subquery,
    Table,
    and_,
    bindparam,
    cast,
    false,
    inspect,
    literal_column,
    or_,
    type_coerce,
)
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.util import AliasedInsp
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import Grouping
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import ARRAY, JSON, NullType, PickleType, TupleType, TypeDecorator

from .._transaction import sqlalchemy_private as private
from ..errors import QueryError
from .cursors import Key, fingerprint_of
from .selects import description_of

_RAW = NullType()  # binds and returns the driver's values unchanged

# Whether NULLs come first in ascending order. For other databases, ORDER BY says it.
_NULLS_FIRST = {"postgresql": False, "oracle": False, "sqlite": True, "mysql": True, "mssql": True}
_NULLS_FIRST["mariadb"] = True
_WITHOUT_NULLS_FIRST = frozenset(["mysql", "mariadb", "mssql"])
# They order an ENUM by its number, but compare it with a text as a text.
_WITH_NUMBERED_ENUMS = frozenset(["mysql", "mariadb"])

_VOLATILE = frozenset(
    """
    clock_timestamp gen_random_uuid newid nextval rand random random_bytes randomblob
    statement_timestamp sysdate timeofday uuid uuid_generate_v1 uuid_generate_v4 uuidv4 uuidv7
    """.split()
)
_MOST_SHARED = 100  # sizes of pages, which clients choose, times some starts

# The time of the statement: a row keeps its place only where this time decides between yes and no.
_CLOCKS = frozenset(
    """
    curdate current_date current_time current_timestamp curtime getdate localtime
    localtimestamp now transaction_timestamp utc_date utc_time utc_timestamp
    """.split()
)
_WRAPPERS = frozenset(["label_reference", "label", "grouping"])
_UNORDERABLE = (ARRAY, JSON, PickleType, TupleType)


@dataclass(frozen=True)
class KeyColumn:
    """An expression of the key.

    :ivar nulls_first: whether NULLs come before the other values.
    :ivar says_nulls: whether ORDER BY must contain NULLS FIRST or NULLS LAST.
    :ivar is_numbered: whether the values are ordered by numbers, as an ENUM of MariaDB is.
    """

    expression: ColumnElement[Any]
    descending: bool
    nullable: bool
    nulls_first: bool
    says_nulls: bool
    is_numbered: bool

    def reversed(self) -> KeyColumn:
        """Return the column for the opposite order."""
        return replace(self, descending=not self.descending, nulls_first=not self.nulls_first)

    @cached_property
    def clause(self) -> ColumnElement[Any]:
        """The item of ORDER BY."""
        clause = self.expression.desc() if self.descending else self.expression.asc()
        if not self.says_nulls:
            return clause
        return clause.nulls_first() if self.nulls_first else clause.nulls_last()

    def selected(self, name: str) -> Label[Any]:
        """Return a column for the select that contains the driver's value."""
        expression = self.expression
        if isinstance(_implementation(expression.type), Float):
            # A four-byte float is returned with too few digits, and would not be found again.
            expression = cast(expression, Double)
        if self.is_numbered:
            expression = self.raw + literal_column("0")
        return type_coerce(expression, _RAW).label(name)

    @cached_property
    def raw(self) -> ColumnElement[Any]:
        """The expression for comparisons with the driver's values."""
        whole = self.expression
        if not isinstance(whole, ColumnClause):
            whole = Grouping(whole)  # by itself, SQLAlchemy writes NOT without parentheses
        return type_coerce(whole, _RAW)


@dataclass(frozen=True)
class Position:
    """A column of the key, with the parameter for its value in the row after which to start."""

    column: KeyColumn
    is_null: bool
    parameter: ColumnElement[Any]

    @property
    def equal(self) -> ColumnElement[bool]:
        """Rows with the same value."""
        raw = self.column.raw
        return raw.is_(None) if self.is_null else raw == self.parameter

    @property
    def later(self) -> ColumnElement[bool] | None:
        """Rows with a later value; later NULLs are in :attr:`later_nulls`."""
        column, raw = self.column, self.column.raw
        if self.is_null:
            return raw.is_not(None) if column.nulls_first else None
        return raw < self.parameter if column.descending else raw > self.parameter

    @property
    def not_before(self) -> ColumnElement[bool]:
        """Rows with the same value or a later one, without later NULLs."""
        raw = self.column.raw
        return raw <= self.parameter if self.column.descending else raw >= self.parameter

    @property
    def later_nulls(self) -> ColumnElement[bool] | None:
        """Rows with NULL, if NULL is later than the value."""
        is_later = self.column.nullable and not self.column.nulls_first and not self.is_null
        return self.column.raw.is_(None) if is_later else None

    @property
    def is_bounded(self) -> bool:
        """Whether :attr:`not_before` can be used: NULL cannot be compared."""
        return not self.is_null


@dataclass(frozen=True, eq=False)  # compared by identity
class Range:
    """Rows that are next to each other in an index on the key.

    :ivar condition: None for all rows.
    :ivar order: the columns whose values differ between these rows.
    """

    condition: ColumnElement[bool] | None
    order: list[KeyColumn]

    def select(self, select: Select[Any], selected: list[Label[Any]]) -> Select[Any]:
        """Return *select* for these rows, in their order, with the columns *selected*."""
        found = select.add_columns(*selected).order_by(None)
        if self.condition is not None:
            found = found.where(self.condition)
        return found.order_by(*[column.clause for column in self.order])


class Start(NamedTuple):
    """What the conditions of a page depend on, besides the values of the key.

    :ivar nulls: for each value, whether it is NULL.
    :ivar shared: as in :class:`.cursors.Key`.
    """

    nulls: tuple[bool, ...]
    shared: int


class Ordering:
    """The key of the rows of a select.

    One object serves all selects of the same structure on the same kind of database, and keeps what
    it has built.

    :param select: if it has no ORDER BY, the primary key is the whole key.
    :param entities: the result of :func:`entities_of`.
    :param dialect: the name of the database.
    :raises QueryError: the rows cannot be ordered by a key.
    """

    def __init__(self, select: Select[Any], entities: list[Entity], dialect: str) -> None:
        self._dialect = dialect
        self._entities = entities
        self._may_be_null = private.has_outer_join(select) or any(map(_adds_tables, self._entities))
        self.columns = [self._column(item) for item in private.order_by_of(select)]
        last = self.columns[-1].descending if self.columns else False
        # The direction of the last column, so that an index without DESC can be used.
        for expression in self._identity():
            if not any(column.expression.compare(expression) for column in self.columns):
                self.columns.append(self._key_column(expression, descending=last, nulls_first=None))
        self._ranges: dict[tuple[Start | None, bool], list[Range]] = {}
        self._shared: dict[tuple[Range, int], Select[Any]] = {}

    @cached_property
    def fingerprint(self) -> str:
        """Of what a cursor depends on: the database, the entities, each column of the key."""
        entities = [str(entity.mapper.class_.__qualname__) for entity in self._entities]
        columns = [
            f"{column.clause} {column.nulls_first} {type(column.expression.type).__name__}"
            for column in self.columns
        ]
        return fingerprint_of([self._dialect, *entities, *columns])

    @cached_property
    def is_of_tables(self) -> bool:
        """Whether the key refers only to tables, which all selects of one structure share.

        An alias or a bound value is a new object in each select.
        """
        return all(isinstance(entity, Mapper) for entity in self._entities) and all(
            isinstance(column.expression, Column) and isinstance(column.expression.table, Table)
            for column in self.columns
        )

    def selects(
        self, select: Select[Any], key: Key | None, *, backward: bool, limit: Callable[[], int]
    ) -> Iterator[Select[Any]]:
        """Yield selects that together return the rows after *key*, in order.

        Each reads one range of an index on the key. The last columns of a row are its key. The
        values of *key* are parameters: see :func:`parameters_of`.

        :param select: a select of this structure.
        :param key: the key of the row after which to start; None starts before all rows.
        :param backward: read in the opposite order.
        :param limit: returns the limit of the next select.
        """
        start = key and Start(tuple(value is None for value in key.values), key.shared)
        ranges = self._ranges.get((start, backward))
        if ranges is None:
            columns = [column.reversed() if backward else column for column in self.columns]
            ranges = _ranges(columns, start) if start else [Range(None, columns)]
            self._ranges[start, backward] = ranges
        is_shared = not private.has_more_than_structure(select)
        for range_ in ranges:
            yield self._limited(select, range_, limit(), is_shared=is_shared)

    def _limited(
        self, select: Select[Any], range_: Range, limit: int, *, is_shared: bool
    ) -> Select[Any]:
        """Return the select of a range; if possible, one object for the whole structure.

        SQLAlchemy stores the key of its compiled text in that object.
        """
        found = self._shared.get((range_, limit)) if is_shared else None
        if found is None:
            found = range_.select(select, self._selected).limit(limit)
            if is_shared:
                if len(self._shared) >= _MOST_SHARED:
                    self._shared.clear()
                self._shared[range_, limit] = found
        return found

    @cached_property
    def _selected(self) -> list[Label[Any]]:
        return [column.selected(f"uow_key_{n}") for n, column in enumerate(self.columns)]

    # Columns ----------------------------------------------------------------------------------

    def _identity(self) -> list[ColumnElement[Any]]:
        """Return the primary keys of the entities."""
        return [column for entity in self._entities for column in _primary_key_of(entity)]

    def _column(self, item: ColumnElement[Any]) -> KeyColumn:
        """Return the column for an item of ORDER BY."""
        element: Any = item
        descending = False
        nulls_first: bool | None = None
        while True:
            modifier = getattr(element, "modifier", None)
            if modifier in {operators.nulls_first_op, operators.nulls_last_op}:
                nulls_first = modifier is operators.nulls_first_op
            elif modifier in {operators.asc_op, operators.desc_op}:
                descending = modifier is operators.desc_op
            elif isinstance(element, ScalarSelect) or element.__visit_name__ not in _WRAPPERS:
                break
            element = element.element
        _refuse_unorderable(element)
        return self._key_column(element, descending=descending, nulls_first=nulls_first)

    def _key_column(
        self, expression: ColumnElement[Any], *, descending: bool, nulls_first: bool | None
    ) -> KeyColumn:
        nullable = self._may_be_null or not _is_never_null(expression)
        low = _NULLS_FIRST.get(self._dialect)
        default = (low is not False) != descending
        if nulls_first is None:
            nulls_first = default
        says_nulls = nullable and (low is None or nulls_first != default)
        if says_nulls and self._dialect in _WITHOUT_NULLS_FIRST:
            raise QueryError(
                f"The select orders by '{expression}' with NULLS"
                f" {'FIRST' if nulls_first else 'LAST'}, which {self._dialect!r} does not have."
                f" Write 'order_by(column.{'is_not' if nulls_first else 'is_'}(None), column)'."
            )
        kind = _implementation(expression.type)
        is_enum = isinstance(kind, Enum) and kind.native_enum
        is_numbered = is_enum and self._dialect in _WITH_NUMBERED_ENUMS
        return KeyColumn(expression, descending, nullable, nulls_first, says_nulls, is_numbered)


# Ranges ---------------------------------------------------------------------------------------


def _ranges(columns: list[KeyColumn], start: Start) -> list[Range]:
    """Return the later rows in their order, as ranges of an index on the key.

    For an order by ``a, b`` after (1, 2) there is usually one range: ``a >= 1 AND (a > 1 OR
    b > 2)``. The database reads it from ``a = 1``, and skips the rows with ``b <= 2``. If all rows
    of the previous page had ``a = 1``, these rows may be many. Then there are two ranges:
    ``a = 1 AND b > 2``, then ``a > 1``. A condition with OR alone would be slow: databases do not
    read two ranges in the order of an index, but read, and may sort, all rows on one side.
    """
    positions = [
        Position(column, is_null, bindparam(_parameter(number), type_=_RAW))
        for number, (column, is_null) in enumerate(zip(columns, start.nulls, strict=True))
    ]
    found: list[Range] = []
    equal: list[ColumnElement[bool]] = []
    for number, position in enumerate(positions):
        rest = columns[number:]
        is_last = number >= start.shared and position.is_bounded
        later = _after(positions[number:]) if is_last else position.later
        ranges = [] if later is None else [Range(and_(*equal, later), rest)]
        if position.later_nulls is not None:
            ranges.append(Range(and_(*equal, position.later_nulls), rest[1:]))
        found = ranges + found  # rows that are equal in more columns come first
        if is_last:
            break
        equal.append(position.equal)
    return found


def _parameter(number: int) -> str:
    return f"uow_value_{number}"


def parameters_of(key: Key | None) -> dict[str, Any]:
    """Return the parameters with which to execute a select of :meth:`Ordering.selects`.

    The names are the same for every key, so SQLAlchemy compiles the select once.
    """
    values = () if key is None else key.values
    return {_parameter(number): value for number, value in enumerate(values) if value is not None}


def _after(positions: list[Position]) -> ColumnElement[bool]:
    """Return the condition for rows after *positions*, without later NULLs in the first column.

    Its first comparison tells the database where to start in the index.
    """
    first, *others = positions
    later = [] if first.later is None else [first.later]
    if not others:
        return or_(false(), *later)
    return and_(first.not_before, or_(*later, and_(first.equal, _later(others))))


def _later(positions: list[Position]) -> ColumnElement[bool]:
    """Return the condition for rows after *positions*, column by column."""
    first, *others = positions
    conditions = [rows for rows in (first.later, first.later_nulls) if rows is not None]
    if others:
        conditions.append(and_(first.equal, _later(others)))
    return or_(false(), *conditions)


def _implementation(kind: Any) -> Any:
    """Return SQLAlchemy's type inside a ``TypeDecorator`` of the app."""
    while isinstance(kind, TypeDecorator):
        kind = kind.impl_instance
    return kind


def _is_never_null(expression: ColumnElement[Any]) -> bool:
    """Tell whether *expression* is a NOT NULL column of a table or an alias of one."""
    if getattr(expression, "nullable", True):
        return False
    source = getattr(expression, "table", None)
    while not isinstance(source, (Table, Subquery, type(None))):
        source = getattr(source, "element", None)
    return isinstance(source, Table)


# Entities -------------------------------------------------------------------------------------

Entity = Mapper[Any] | AliasedInsp[Any]


def entities_of(select: Select[Any]) -> list[Entity]:
    """Return the models and aliases that *select* returns as objects.

    :raises QueryError: there is no model, or the select has a clause such as GROUP BY or LIMIT.
    """
    _refuse_what_has_no_key(select)
    entities = [
        inspect(described["expr"])
        for described in select.column_descriptions
        if described["expr"] is described.get("entity")
    ]
    entities = [entity for entity in entities if isinstance(entity, (Mapper, AliasedInsp))]
    if not entities:
        raise QueryError(
            "The select has only columns, and no model whose primary key could tell its rows apart."
            " Select the model, 'select(User)', and load fewer of its columns by"
            " 'options(load_only(...))'; or use 'db.paginate'."
        )
    return list(dict.fromkeys(entities))


def _primary_key_of(entity: Entity) -> list[ColumnElement[Any]]:
    mapper = entity.mapper
    names = [mapper.get_property_by_column(column).key for column in mapper.primary_key]
    return [getattr(entity.entity, name).expression for name in names]


def _adds_tables(entity: Entity) -> bool:
    """Tell whether the entity has subclasses with other tables, whose columns may be NULL."""
    own = set(entity.mapper.tables)
    return any(set(mapper.tables) - own for mapper in entity.with_polymorphic_mappers)


# Refusals -------------------------------------------------------------------------------------


def _described(given: object) -> str:
    if isinstance(given, CompoundSelect):
        return "a UNION"
    return description_of(given)


def _refuse_what_has_no_key(select: object) -> None:
    """
    :raises QueryError: *select* is not a select, or its rows have no key.
    """
    if not isinstance(select, Select):
        raise QueryError(
            f"'paginate_by_key' was given {_described(select)}, which is not a select. Write for"
            " example 'db.paginate_by_key(select(User))'. For a UNION, write"
            " 'db.paginate_by_key(select(aliased(User, union.subquery())))'."
        )
    for clause, how in private.row_clauses_of(select):
        raise QueryError(
            f"The select has {clause}, so no condition can find the rows after a given row. {how}"
        )


def _refuse_unorderable(expression: Any) -> None:
    """
    :raises QueryError: the values of *expression* cannot be compared, or change.
    """
    written = _text_of(expression)
    if written is not None:
        raise QueryError(
            f"The select orders by the text '{written}', which cannot be compared in a condition."
            " Write the column: 'order_by(User.name)'."
        )
    if private.is_relationship(expression):
        raise QueryError(
            f"The select orders by a relationship ('{expression}'), which has no value. Join it,"
            " and order by a column: 'select(Post).join(Post.author).order_by(User.name)'."
        )
    if isinstance(expression.type, _UNORDERABLE):
        raise QueryError(
            f"The select orders by '{expression}' of the type {type(expression.type).__name__!r},"
            " whose values have no order that a cursor can keep. Order by a number, a text or a"
            " date."
        )
    compared = {
        id(part)
        for element in visitors.iterate(expression)
        if isinstance(element, BinaryExpression) and operators.is_comparison(element.operator)
        for part in visitors.iterate(element)
    }
    for element in visitors.iterate(expression):
        name = str(getattr(element, "name", "")).lower()
        is_moving = name in _VOLATILE or (name in _CLOCKS and id(element) not in compared)
        if element.__visit_name__ == "over" or (isinstance(element, FunctionElement) and is_moving):
            raise QueryError(
                f"The select orders by '{expression}', whose value for a row changes with each"
                " query. Order by columns."
            )


def _text_of(expression: Any) -> str | None:
    """Return the text of an item of ORDER BY that is a name, a number or SQL; else None."""
    if expression.__visit_name__ == "textclause":
        return str(expression.text)
    if expression.__visit_name__ == "textual_label_reference":
        return str(expression.element)
    if getattr(expression, "is_literal", False) and str(expression.name).strip().isdigit():
        return str(expression.name)
    return None
