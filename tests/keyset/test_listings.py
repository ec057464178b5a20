"""Pages by key: what is remembered for all selects of one structure, and what never is."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, func, select
from sqlalchemy.engine import ExecutionContext
from sqlalchemy.orm import aliased, subqueryload

from flask_uow import Database
from tests.keyset.things import Part, Thing, walk
from tests.support.databases import on

pytestmark = on("sqlite-file")


@pytest.fixture
def stored(app: Flask, db: Database) -> None:
    """Twenty things of two ranks, each with one part."""
    with app.app_context(), db.atomic() as session:
        session.add_all(Thing(id=number, word="ab"[number % 2], rank=1) for number in range(1, 21))
        session.flush()
        session.add_all(Part(name=f"part {number}", thing_id=number) for number in range(1, 21))


@pytest.mark.parametrize("backward", [False, True])
def test_each_select_has_its_own_values(
    backward: bool, app: Flask, db: Database, stored: None
) -> None:
    """Selects of one structure take turns."""
    with app.app_context():
        for least in (3, 11, 3, 18):
            chosen = select(Thing).where(Thing.id > least).order_by(Thing.rank)
            ids = [thing.id for thing in walk(db, chosen, 2, backward=backward)]
            assert ids == list(range(least + 1, 21))


def test_each_order_has_its_own_values(app: Flask, db: Database, stored: None) -> None:
    """A value in an expression of the order is one of the select."""
    with app.app_context():
        for pivot in (5, 15, 5):
            chosen = select(Thing).order_by(func.abs(Thing.id - pivot), Thing.id)
            ids = [thing.id for thing in walk(db, chosen, 3)]
            assert ids == sorted(range(1, 21), key=lambda number: (abs(number - pivot), number))


def test_each_select_has_its_own_alias(app: Flask, db: Database, stored: None) -> None:
    """Aliases of one structure are different tables of the statement."""
    with app.app_context():
        for least in (5, 15, 5):
            part = select(Thing).where(Thing.id > least).subquery()
            for other, first in ((aliased(Thing), 1), (aliased(Thing, part), least + 1)):
                ids = [thing.id for thing in walk(db, select(other).order_by(other.rank), 3)]
                assert ids == list(range(first, 21))


def test_each_select_has_its_own_options(app: Flask, db: Database, stored: None) -> None:
    """Those without an effect on the text, which are not in the structure."""
    with app.app_context():
        plain = select(Thing).order_by(Thing.id)
        first = db.paginate_by_key(plain, per_page=2)
        thing = first.items[0]
        thing.word = "changed"
        with db.session.no_autoflush:
            db.paginate_by_key(select(Thing).order_by(Thing.id), per_page=2)
            assert thing.word == "changed"
            fresh = plain.execution_options(populate_existing=True)
            db.paginate_by_key(fresh, per_page=2)
            assert thing.word == "b"
            thing.word = "changed"
            db.paginate_by_key(select(Thing).order_by(Thing.id), per_page=2)
            assert thing.word == "changed"
        db.session.rollback()


def test_collections_of_a_later_page(app: Flask, db: Database, stored: None) -> None:
    """The statement for them repeats that of the page, with the values of the cursor."""
    with app.app_context():
        chosen = select(Thing).order_by(Thing.rank).options(subqueryload(Thing.parts))
        names = [part.name for thing in walk(db, chosen, 3) for part in thing.parts]
        assert names == [f"part {number}" for number in range(1, 21)]


@pytest.mark.parametrize("where", [[], [Thing.id > 2]], ids=["all", "filtered"])
def test_later_pages_are_compiled_once(
    where: list[Any], app: Flask, db: Database, stored: None
) -> None:
    """The values of a cursor are parameters with constant names."""
    with app.app_context():
        compiled: list[str] = []

        def note(*arguments: Any) -> None:
            context: ExecutionContext = arguments[4]
            if context.compiled and context.cache_hit.name != "CACHE_HIT":  # type: ignore[attr-defined]
                compiled.append(arguments[2])

        event.listen(db.engine, "before_cursor_execute", note)
        for _ in range(2):
            walk(db, select(Thing).where(*where).order_by(Thing.rank), 4)
        assert len(compiled) == 3  # the first page, a later one, and the end of the last one
        walk(db, select(Thing).where(*where).order_by(Thing.word), 4)
        assert len(compiled) > 3  # so that it can be seen
