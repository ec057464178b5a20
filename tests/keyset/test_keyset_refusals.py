"""Pages by key: what a programmer wrote and cannot work gets a sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Response
from sqlalchemy import (
    JSON,
    Column,
    Integer,
    MetaData,
    String,
    Table,
    desc,
    func,
    literal_column,
    select,
    text,
    union_all,
)
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Mapped, mapped_column, registry

from flask_uow import ConfigError, Database, Flask, OutsideContext, QueryError
from flask_uow.query.cursors import kept
from tests.keyset.things import Base, Thing
from tests.support.databases import anywhere

pytestmark = anywhere


class Note(Base):
    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[dict[str, Any]] = mapped_column(JSON)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "columns only": (lambda: select(Thing.id, Thing.word), "has only columns, and no model"),
    "a table": (lambda: select(Thing.__table__), "has only columns, and no model"),
    "a function": (lambda: select(func.count()), "has only columns, and no model"),
    "a class": (lambda: Thing, "given the class 'Thing', which is not a select"),
    "a text": (lambda: text("SELECT 1"), "given a 'text()', which is not a select"),
    "a union": (
        lambda: union_all(select(Thing), select(Thing)),
        "given a UNION, which is not a select",
    ),
    "limit": (lambda: select(Thing).limit(5), "has LIMIT or OFFSET"),
    "offset": (lambda: select(Thing).offset(5), "has LIMIT or OFFSET"),
    "fetch": (lambda: select(Thing).fetch(5), "has LIMIT or OFFSET"),
    "distinct": (lambda: select(Thing).distinct(), "has DISTINCT"),
    "group by": (
        lambda: select(Thing, func.count()).join(Thing.parts).group_by(Thing.id),
        "has GROUP BY, so no condition can find the rows after a given row. Group in a subquery",
    ),
    "having": (lambda: select(Thing).having(func.count() > 1), "has GROUP BY"),
    "random": (lambda: select(Thing).order_by(func.random()), "changes with each query"),
    "random inside": (
        lambda: select(Thing).order_by((Thing.id * func.random()).desc()),
        "changes with each query",
    ),
    "the clock": (
        lambda: select(Thing).order_by(Thing.rank / (func.now() - Thing.number)),
        "changes with each query",
    ),
    "window": (
        lambda: select(Thing).order_by(func.row_number().over(order_by=Thing.word)),
        "changes with each query",
    ),
    "a name": (lambda: select(Thing).order_by("word"), "orders by the text 'word'"),
    "a falling name": (lambda: select(Thing).order_by(desc("word")), "orders by the text 'word'"),
    "sql": (lambda: select(Thing).order_by(text("word DESC")), "orders by the text 'word DESC'"),
    "a number": (lambda: select(Thing).order_by(literal_column("1")), "orders by the text '1'"),
    "json": (lambda: select(Note).order_by(Note.body), "of the type 'JSON'"),
    "a relationship": (lambda: select(Thing).order_by(Thing.owner), "orders by a relationship"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_select_without_a_key_is_refused(name: str, app: Flask, db: Database) -> None:
    """In words that say what to write instead; nothing is sent."""
    make, words = REFUSED[name]
    with app.app_context(), pytest.raises(QueryError, match=re.escape(words)) as caught:
        db.paginate_by_key(make())
    assert re.search(r"(Select|Give|Leave|Write|Order|Group|Join) ", str(caught.value))


def test_model_without_a_primary_key_cannot_be_mapped(app: Flask) -> None:
    """SQLAlchemy refuses it itself, or one that is not mapped: no select can have one."""
    name = Column("name", String(20))
    keyless = Table("keyless", MetaData(), name)
    unmapped = Table("unmapped", MetaData(), Column("id", Integer, primary_key=True))
    for table in (keyless, unmapped):
        with pytest.raises(ArgumentError, match="could not assemble any primary key"):
            registry().map_imperatively(type("Keyless", (), {}), table, exclude_properties=["id"])


@pytest.mark.parametrize("size", [0, -1, True, "20", 1.5])
def test_size_in_code_is_a_number(size: Any, app: Flask, db: Database) -> None:
    """From 1 on; any number, since the client did not choose it."""
    with app.app_context():
        for name in ("per_page", "max_per_page"):
            with pytest.raises(QueryError, match=f"'{name}' of 'paginate_by_key' is"):
                db.paginate_by_key(select(Thing), **{name: size})
        assert db.paginate_by_key(select(Thing), per_page=1_000_000).per_page == 1_000_000


def test_client_sizes_can_be_without_limit(app: Flask, db: Database) -> None:
    """'max_per_page=None'; a small limit is also the default."""
    with app.test_request_context("/?per_page=5000"):
        assert db.paginate_by_key(select(Thing), max_per_page=None).per_page == 5000
    with app.test_request_context("/"):
        assert db.paginate_by_key(select(Thing), max_per_page=5).per_page == 5
    with app.test_request_context("/?per_page=1000000"):
        assert db.paginate_by_key(select(Thing), max_per_page=5).per_page == 5


def test_both_cursors_in_code_are_refused(app: Flask, db: Database) -> None:
    """A page has one start."""
    with app.app_context():
        cursor = db.paginate_by_key(select(Thing)).last_cursor
        with pytest.raises(QueryError, match="both 'after' and 'before'"):
            db.paginate_by_key(select(Thing), after=cursor, before=cursor)


@pytest.mark.parametrize("value", [5, b"cursor", ["cursor"], 0])
def test_cursor_in_code_is_a_text(value: Any, app: Flask, db: Database) -> None:
    """Another type gets a sentence, with the name of the argument."""
    with app.app_context():
        for name in ("after", "before"):
            with pytest.raises(
                QueryError, match=f"'{name}' of 'paginate_by_key' is .*not a cursor"
            ):
                db.paginate_by_key(select(Thing), **{name: value})


def test_cursor_in_code_is_instead_of_the_query_string(app: Flask, db: Database) -> None:
    """Also the empty one, which means the first page."""
    with app.test_request_context("/?after=nonsense&before=nonsense"):
        page = db.paginate_by_key(select(Thing), after="")
        assert not page.has_prev
        assert db.paginate_by_key(select(Thing), before=page.last_cursor).items == []


def test_secret_key_is_needed(app: Flask, db: Database) -> None:
    """A cursor that anyone could make would be none."""
    app.config["SECRET_KEY"] = None
    with app.app_context(), pytest.raises(ConfigError, match="SECRET_KEY is not set"):
        db.paginate_by_key(select(Thing))


def test_links_need_a_request(app: Flask, db: Database) -> None:
    """A command has no URL; cursors are there."""
    with app.app_context():
        page = db.paginate_by_key(select(Thing))
        for use in (
            lambda: page.links,
            lambda: page.link_header,
            lambda: page.add_links(Response()),
        ):
            with pytest.raises(OutsideContext, match="no request is active here"):
                use()


def test_outside_of_a_context_is_refused(app: Flask, db: Database) -> None:
    """As every use of the session."""
    with pytest.raises(OutsideContext):
        db.paginate_by_key(select(Thing))


@pytest.mark.parametrize("value", [[1], {"a": 1}, 1j, object()])
def test_value_that_no_cursor_can_keep_is_refused(value: object, app: Flask) -> None:
    """Of an expression without a type, it is known only from the row."""
    name = type(value).__name__
    with pytest.raises(QueryError, match=f"values of the type '{name}', which a cursor cannot"):
        kept([1, value])
