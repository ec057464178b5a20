"""Walks over random tables: no row twice, and none missed that was always there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import ColumnElement, Select, delete, func, select

from flask_uow import Database, Flask
from tests.keyset.things import Owner, Part, Thing
from tests.support.databases import TestDatabase

words = st.sampled_from([None, "", "a", "A", "a ", "b", "é", "\U0001f600", "it's"])
things = st.fixed_dictionaries(
    {
        "number": st.sampled_from([None, -1, 0, 1]),
        "word": words,
        "rank": st.integers(0, 1),
        "owner_id": st.sampled_from([None, 1, 2]),
    }
)
Change = tuple[str, Any]
changes = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), st.tuples(st.integers(-99, 99), things)),
        st.tuples(st.just("delete"), st.integers(0, 20)),
    ),
    max_size=3,
)
# For each expression of the order: which one, descending, where NULLs come.
orders = st.lists(
    st.tuples(
        st.sampled_from(["number", "word", "rank", "id", "is_null", "lower", "owner"]),
        st.booleans(),
        st.sampled_from([None, None, "first", "last"]),
    ),
    max_size=3,
    unique_by=lambda item: item[0],
)

EXPRESSIONS: dict[str, Callable[[], ColumnElement[Any]]] = {
    "number": lambda: Thing.number.expression,
    "word": lambda: Thing.word.expression,
    "rank": lambda: Thing.rank.expression,
    "id": lambda: Thing.id.expression,
    "is_null": lambda: Thing.number.is_(None),
    "lower": lambda: func.lower(Thing.word),
    "owner": lambda: Owner.name.expression,
}


def select_of(order: list[tuple[str, bool, str | None]], database: TestDatabase) -> Select[Any]:
    """Things in *order*, joined to their owners if it asks for them."""
    chosen = select(Thing)
    if any(name == "owner" for name, *_ in order):
        chosen = chosen.outerjoin(Thing.owner)
    for name, is_descending, nulls in order:
        expression = EXPRESSIONS[name]()
        clause = expression.desc() if is_descending else expression.asc()
        if nulls is not None and database.name != "mariadb":
            clause = clause.nulls_first() if nulls == "first" else clause.nulls_last()
        chosen = chosen.order_by(clause)
    return chosen


def in_order(db: Database, chosen: Select[Any], order: list[tuple[str, bool, str | None]]) -> Any:
    """The ids in the order that the database itself gives, the last column as the page adds it."""
    last_descends = bool(order) and order[-1][1]
    tie = Thing.id.desc() if last_descends else Thing.id.asc()
    return db.session.scalars(chosen.with_only_columns(Thing.id).order_by(tie)).all()


def change(db: Database, todo: list[Change], present: set[int], used: set[int]) -> None:
    """Insert and delete rows, committed; *present* keeps the ids that were always there.

    The id of a deleted row is not given to another one, as SQLite would do.
    """
    with db.independent() as session:
        for what, value in todo:
            if what == "insert":
                number, values = value
                if number not in used:
                    used.add(number)
                    session.add(Thing(id=number, **values))
                    session.flush()
            else:
                ids = sorted(session.scalars(select(Thing.id)))
                if ids:
                    gone = ids[value % len(ids)]
                    session.execute(delete(Thing).where(Thing.id == gone))
                    present.discard(gone)


def check_a_walk(
    app: Flask,
    db: Database,
    database: TestDatabase,
    rows: list[dict[str, Any]],
    order: list[tuple[str, bool, str | None]],
    size: int,
    backward: bool,
    changed: list[list[Change]],
) -> None:
    with app.app_context(), db.atomic():
        db.session.execute(delete(Part))
        db.session.execute(delete(Thing))
        db.session.execute(delete(Owner))
        db.session.add_all([Owner(id=1, name="x"), Owner(id=2, name="y")])
        db.session.flush()
        db.session.add_all([Thing(id=number, **row) for number, row in enumerate(rows, 1)])
    chosen = select_of(order, database)
    with app.app_context():
        present = set(db.session.scalars(select(Thing.id)))
        used = set(present)
        db.session.rollback()
        seen: list[int] = []
        page = db.paginate_by_key(chosen, per_page=size)
        if backward:
            page = db.paginate_by_key(chosen, per_page=size, before=page.last_cursor)
        steps = iter(changed)
        for _ in range(100):
            ids = [thing.id for thing in page]
            assert len(ids) <= size
            seen = [*ids, *seen] if backward else [*seen, *ids]
            cursor = page.prev_cursor if backward else page.next_cursor
            if cursor is None:
                break
            db.session.rollback()
            change(db, next(steps, []), present, used)
            if backward:
                page = db.paginate_by_key(chosen, per_page=size, before=cursor)
            else:
                page = db.paginate_by_key(chosen, per_page=size, after=cursor)
        else:
            raise AssertionError("the walk does not end")
        assert len(set(seen)) == len(seen)
        assert present <= set(seen)
        kept = set(in_order(db, chosen, order)) & set(seen)
        assert [one for one in seen if one in kept] == [
            one for one in in_order(db, chosen, order) if one in kept
        ]


walks = given(
    rows=st.lists(things, max_size=12),
    order=orders,
    size=st.integers(1, 4),
    backward=st.booleans(),
    changed=st.lists(changes, max_size=6),
)
one_app_for_all = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@settings(one_app_for_all, max_examples=40)
@walks
def test_no_row_twice_and_none_missed(
    app: Flask, db: Database, database: TestDatabase, **example: Any
) -> None:
    """Ties, NULLs, descending and mixed keys; inserts and deletes between the pages."""
    check_a_walk(app, db, database, **example)


@pytest.mark.slow
@settings(one_app_for_all, max_examples=200)
@walks
def test_no_row_twice_and_none_missed_at_length(
    app: Flask, db: Database, database: TestDatabase, **example: Any
) -> None:
    """The same, with more examples."""
    check_a_walk(app, db, database, **example)
