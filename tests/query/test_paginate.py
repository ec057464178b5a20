"""``db.paginate()``: the rows of a page, its total, and the statements that it takes."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
from flask import render_template_string
from sqlalchemy import (
    NullPool,
    create_engine,
    event,
    func,
    literal_column,
    make_url,
    select,
    text,
    union,
)
from sqlalchemy.orm import (
    ORMExecuteState,
    contains_eager,
    joinedload,
    selectinload,
    subqueryload,
    with_loader_criteria,
)
from werkzeug.exceptions import NotFound

from flask_uow import Database, Flask
from flask_uow._transaction.sqlalchemy_private import needs_unique
from flask_uow.errors import QueryError
from flask_uow.query.pagination import Count
from flask_uow.query.selects import SelectRows
from tests.support.databases import TestDatabase, anywhere, on

from .models import Author, Book

BY_ID = select(Author).order_by(Author.id)


@pytest.fixture
def names(app: Flask, db: Database) -> list[str]:
    """Twenty-five authors, a01 to a25, each with two books; of the last one, none."""
    names = [f"a{number:02}" for number in range(1, 26)]
    for number, name in enumerate(names, 1):
        books = [Book(title=f"{name}-{part}") for part in "xy"] if number < 25 else []
        db.session.add(Author(id=number, name=name, books=books))
    db.session.commit()
    db.session.remove()
    return names


@pytest.fixture
def sent(app: Flask, db: Database) -> list[str]:
    """The statements that are sent from now on."""
    sent: list[str] = []
    event.listen(db.engine, "before_cursor_execute", lambda *args: sent.append(args[2]))
    return sent


def test_pages_are_the_rows_in_order(db: Database, names: list[str]) -> None:
    """Each row on one page."""
    for size in (1, 4, 5, 24, 25, 26, 100):
        seen: list[str] = []
        page = db.paginate(BY_ID, per_page=size)
        while True:
            assert page.total == 25
            assert page.pages == -(-25 // size)
            assert (page.first, page.last) == (len(seen) + 1, len(seen) + len(page.items))
            seen += [author.name for author in page]
            assert page.has_next == (len(seen) < 25)
            assert page.next_num == (page.page + 1 if page.has_next else None)
            assert page.prev_num == (page.page - 1 or None)
            if not page.has_next:
                break
            page = db.paginate(BY_ID, page=page.next_num, per_page=size)
        assert seen == names


def test_next_and_prev(db: Database, names: list[str], sent: list[str]) -> None:
    """They walk through all pages, by one statement each."""
    counts: list[Count] = [True, False, "estimated"]
    for count in counts:
        pages = [db.paginate(BY_ID, per_page=10, count=count)]
        while pages[-1].has_next:
            sent.clear()
            pages.append(pages[-1].next())
            assert len(sent) == 1
        assert [author.name for page in pages for author in page] == names
        assert pages[-1].total == (None if count is False else 25)
        assert not pages[-1].is_estimate
        back = pages[-1].prev()
        assert (back.items, back.total) == (pages[1].items, pages[-1].total)


@anywhere
@pytest.mark.usefixtures("names")
def test_before_the_first_and_after_the_last_page(db: Database) -> None:
    """No error, unless it is asked for."""
    first, last = db.paginate(BY_ID, per_page=10), db.paginate(BY_ID, per_page=10, page=3)
    beyond = last.next()
    assert (beyond.items, beyond.page, beyond.first, beyond.last) == ([], 4, 0, 0)
    assert not beyond.has_next
    assert beyond.has_prev
    with pytest.raises(NotFound):
        last.next(error_out=True)
    before = first.prev()
    assert (before.page, before.items) == (1, first.items)
    with pytest.raises(NotFound):
        first.prev(error_out=True)


@pytest.mark.usefixtures("names")
def test_number_of_statements(db: Database, sent: list[str]) -> None:
    """Two at most; one where the page tells the total, or none is wanted."""

    def statements(select: Any = BY_ID, **options: Any) -> int:
        sent.clear()
        db.paginate(select, error_out=False, **options)
        return len(sent)

    assert statements(per_page=24) == 2
    assert statements(per_page=25) == 1
    assert statements(per_page=26) == 1
    assert statements(per_page=10, page=2) == 2
    assert statements(per_page=10, page=3) == 1
    assert statements(per_page=5, page=5) == 1
    assert statements(per_page=5, page=6) == 2
    assert statements(per_page=10, page=10**30) == 1
    assert statements(per_page=10, page=10**30, count=False) == 0
    assert statements(per_page=10, count=False) == 1
    assert statements(per_page=10, count="estimated") == 2
    assert statements(per_page=25, count="estimated") == 1
    assert statements(select(Author).where(Author.id == 0)) == 1
    joined = BY_ID.options(joinedload(Author.books))
    assert statements(joined, per_page=10) == 2


@on("sqlite-file", "postgresql")
@pytest.mark.usefixtures("names")
@pytest.mark.parametrize(
    "read",
    [
        lambda db: db.paginate(BY_ID, per_page=3),
        lambda db: db.paginate(BY_ID, per_page=3, count="estimated"),
        lambda db: db.get_or_404(Author, 7),
        lambda db: db.first_or_404(BY_ID),
        lambda db: db.one_or_404(BY_ID.limit(1)),
    ],
)
def test_reads_need_no_transaction(db: Database, read: Any) -> None:
    """All of its statements are plain reads (P14): another unit may have the connection."""
    assert read(db)
    session: Any = db.session()
    assert session.is_idle


@pytest.mark.usefixtures("names")
def test_numbers_that_no_driver_can_send(db: Database) -> None:
    """A size that is too large is all rows; a page that is too far away has none."""
    page = db.paginate(BY_ID, per_page=10**30)
    assert (len(page.items), page.total, page.pages, page.has_next) == (25, 25, 1, False)
    for number, size in [(2, 10**30), (10**30, 10), (2**62, 1), (2**61, 2), (10**30, 10**30)]:
        with pytest.raises(NotFound):
            db.paginate(BY_ID, page=number, per_page=size)
        page = db.paginate(BY_ID, page=number, per_page=size, error_out=False)
        assert (page.items, page.total, page.page, page.has_next) == ([], 25, number, False)


@anywhere
@pytest.mark.usefixtures("names")
def test_without_a_count(db: Database) -> None:
    """The total is not known, and whether there is a next page is."""
    page = db.paginate(BY_ID, per_page=10, page=2, count=False)
    assert (page.total, page.pages, list(page.iter_pages())) == (None, 0, [])
    assert (page.has_next, page.next_num, page.prev_num) == (True, 3, 1)
    assert repr(page) == "<Pagination: page 2, 10 items>"
    assert not db.paginate(BY_ID, per_page=5, page=5, count=False).has_next
    page.total = 25  # from a cache of the app
    assert (page.pages, page.has_next, list(page.iter_pages())) == (3, True, [1, 2, 3])


# Selects of all kinds ---------------------------------------------------------------------------


def shown(items: list[Any]) -> list[Any]:
    return [item.name if isinstance(item, Author) else item for item in items]


@pytest.mark.usefixtures("names")
def test_rows_of_several_entities(db: Database) -> None:
    """They stay rows."""
    page = db.paginate(
        select(Author, Book.title).join(Author.books).order_by(Book.id), per_page=3, page=2
    )
    assert page.total == 48
    assert [(row.Author.name, row.title) for row in page] == [
        ("a02", "a02-y"),
        ("a03", "a03-x"),
        ("a03", "a03-y"),
    ]


@pytest.mark.usefixtures("names")
def test_joined_eager_collections(db: Database, sent: list[str]) -> None:
    """They are whole; objects are counted, not joined rows."""
    for option in (joinedload, selectinload, subqueryload):
        db.session.expunge_all()
        statement = select(Author).options(option(Author.books)).order_by(Author.id)
        page = db.paginate(statement, per_page=10, page=2)
        assert shown(page.items) == [f"a{number}" for number in range(11, 21)]
        assert (page.total, page.pages, page.has_next) == (25, 3, True)
        sent.clear()
        assert [len(author.books) for author in page] == [2] * 10
        assert sent == []
        last = page.next()
        assert [len(author.books) for author in last] == [2, 2, 2, 2, 0]
        assert (last.total, last.has_next) == (25, False)
        uncounted = db.paginate(statement, per_page=10, page=2, count=False)
        assert uncounted.has_next
        assert not uncounted.next().has_next


@pytest.mark.usefixtures("names")
def test_joined_eager_collection_beside_a_join_that_repeats(db: Database) -> None:
    """The objects that the select repeats are shown once, and the total stays that of its rows."""
    statement = (
        select(Author).join(Author.books).options(joinedload(Author.books)).order_by(Book.id)
    )
    page = db.paginate(statement, per_page=10)
    assert shown(page.items) == ["a01", "a02", "a03", "a04", "a05", "a06"][: len(page.items)]
    assert page.total == 48
    assert page.has_next


@pytest.mark.usefixtures("names")
def test_rows_that_a_join_repeats_stay(db: Database) -> None:
    """As the select has them; ``distinct()`` is the app's."""
    joined = select(Author).join(Author.books).order_by(Author.id)
    page = db.paginate(joined, per_page=3)
    assert (shown(page.items), page.total) == (["a01", "a01", "a02"], 48)
    page = db.paginate(joined.distinct(), per_page=3)
    assert (shown(page.items), page.total) == (["a01", "a02", "a03"], 24)
    names = select(func.substr(Author.name, 1, 2)).order_by(Author.id)
    assert db.paginate(names, per_page=3).items == ["a0"] * 3


SELECTS: list[tuple[Any, int, list[Any]]] = [
    (select(Author.name).order_by(Author.id.desc()), 25, ["a21", "a20"]),
    (select(Author.__table__.c.name).order_by(Author.id), 25, ["a05", "a06"]),
    (
        select(func.count(Book.id)).join(Author.books).group_by(Author.id).order_by(Author.id),
        24,
        [2, 2],
    ),
    (
        select(Author.name)
        .join(Author.books)
        .group_by(Author.name)
        .having(func.count(Book.id) > 1)
        .order_by(Author.name),
        24,
        ["a05", "a06"],
    ),
    (select(func.max(Author.id)), 1, []),
    (select(Author.name).distinct().order_by(Author.name), 25, ["a05", "a06"]),
    (
        union(select(Author.name.label("name")).where(Author.id < 4), select(Book.title)).order_by(
            "name"
        ),
        51,
        ["a02-x", "a02-y"],
    ),
    (select(Author.name).order_by(Author.id).limit(5), 5, ["a05"]),
    (select(Author.name).order_by(Author.id).limit(6), 6, ["a05", "a06"]),
    (select(Author.name).order_by(Author.id).limit(7), 7, ["a05", "a06"]),
    (select(Author.name).order_by(Author.id).limit(4), 4, []),
    (select(Author.name).order_by(Author.id).limit(0), 0, []),
    (select(Author.name).order_by(Author.id).limit(5).offset(10), 5, ["a15"]),
    (BY_ID.limit(5).offset(22), 3, []),
    (BY_ID.options(joinedload(Author.books)).limit(5), 5, ["a05"]),
    (select(literal_column("1")), 1, []),
]
"""A select, the number of its rows, and its third page of two."""


@pytest.mark.usefixtures("names")
def test_selects_of_all_kinds(db: Database) -> None:
    """The pages are those of the rows that the select has, whatever it is made of."""
    for statement, total, third_page in SELECTS:
        page = db.paginate(statement, per_page=2, page=3, error_out=False)
        assert (shown(page.items), page.total) == (third_page, total), str(statement)
        page = db.paginate(statement, per_page=2)
        seen = page.items
        while page.has_next:
            page = page.next()
            seen += page.items
        result = db.session.execute(statement)
        rows = (result.unique() if needs_unique(result) else result).scalars().all()
        assert seen == list(rows), str(statement)
        assert len(rows) == total, str(statement)


@pytest.mark.parametrize(
    ("statement", "has_order"),
    [(BY_ID, False), (BY_ID.limit(5).offset(5), True), (BY_ID.offset(5), True)],
)
def test_order_of_a_count(statement: Any, has_order: bool) -> None:
    """It is left out where it costs, and kept where SQL Server needs it: beside an offset."""
    session, sql_server = Mock(), make_url("mssql://").get_dialect()()
    SelectRows(session, statement).count()
    sql = str(session.scalar.call_args[0][0].compile(dialect=sql_server))
    assert ("ORDER BY" in sql) == has_order


@pytest.mark.usefixtures("names")
def test_a_legacy_query(db: Database) -> None:
    """Its statement is taken."""
    page = db.paginate(db.session.query(Author).order_by(Author.id), per_page=2)  # type: ignore[call-overload]
    assert (shown(page.items), page.total) == (["a01", "a02"], 25)


@pytest.mark.usefixtures("names")
def test_criteria_that_the_app_adds_to_every_select(db: Database) -> None:
    """A soft deletion by ``do_orm_execute`` concerns the page and the total."""
    session = db.session()

    def hide(state: Any) -> None:
        state.statement = state.statement.options(with_loader_criteria(Author, Author.name > "a20"))

    event.listen(session, "do_orm_execute", hide)
    page = db.paginate(BY_ID, per_page=2)
    assert (shown(page.items), page.total) == (["a21", "a22"], 5)


@pytest.mark.usefixtures("names")
def test_pending_objects_are_flushed_first(db: Database) -> None:
    """As before each query."""
    db.session.add(Author(id=26, name="a26"))
    page = db.paginate(BY_ID, per_page=10)
    assert page.total == 26
    db.session.rollback()


@anywhere
@pytest.mark.usefixtures("names")
@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (BY_ID.fetch(3), r"own limit is a 'fetch\(\)'"),
        (BY_ID.limit(select(func.count(Book.id)).scalar_subquery()), "an SQL expression"),
        (
            select(Author).from_statement(text("SELECT * FROM authors")),
            "type 'FromStatement', which cannot get a LIMIT",
        ),
        (text("SELECT id FROM authors").columns(Author.id), "type 'TextualSelect'"),
        (
            BY_ID.join(Author.books).options(contains_eager(Author.books)),
            r"by 'selectinload\(Author.books\)'",
        ),
        (
            select(Book).options(contains_eager(Book.author).contains_eager(Author.books)),
            "fills 'Author.books' by 'contains_eager",
        ),
    ],
)
def test_selects_without_pages(db: Database, statement: Any, message: str) -> None:
    """They get a sentence."""
    with pytest.raises(QueryError, match=message):
        db.paginate(statement)


@pytest.mark.usefixtures("names")
def test_text_as_a_subquery(db: Database) -> None:
    """What the message for it says."""
    found = text("SELECT id FROM authors WHERE id > 20").columns(Author.id).subquery()
    page = db.paginate(BY_ID.join(found, found.c.id == Author.id), per_page=2)
    assert (shown(page.items), page.total) == (["a21", "a22"], 5)


@anywhere
@pytest.mark.usefixtures("names")
def test_wrong_count(db: Database) -> None:
    """It gets a sentence."""
    wrong: list[Any] = ["estimate", None, 2, []]
    for count in wrong:
        with pytest.raises(QueryError, match=r"'count' is .*, which is not a way to get a total"):
            db.paginate(BY_ID, count=count)


@anywhere
@pytest.mark.usefixtures("names")
def test_contains_eager_of_one_object(db: Database, sent: list[str]) -> None:
    """It repeats no row."""
    statement = select(Book).join(Book.author).options(contains_eager(Book.author))
    page = db.paginate(statement.order_by(Book.id), per_page=2)
    sent.clear()
    assert [book.author.name for book in page] == ["a01", "a01"]
    assert sent == []
    some = BY_ID.options(selectinload(Author.books.and_(Book.title.like("%x"))))
    assert [len(author.books) for author in db.paginate(some, per_page=2)] == [1, 1]


# Locks and execution options --------------------------------------------------------------------


@on("postgresql", "mariadb")
def test_only_the_rows_of_the_page_are_locked(
    app: Flask, db: Database, names: list[str], database: TestDatabase
) -> None:
    """The count locks none: another transaction can lock the other rows."""
    counts: list[Count] = [True, "estimated"]
    others = select(Author.name).order_by(Author.id).with_for_update(skip_locked=True)
    for count in counts:
        page = db.paginate(BY_ID.with_for_update(), per_page=5, count=count)
        assert [author.name for author in page] == names[:5]
        engine = create_engine(database.url, poolclass=NullPool)
        with engine.connect() as other:
            free = other.scalars(others).all()
        assert free == names[6:]  # one more row than the page has is read
        db.session.rollback()


@on("postgresql")
def test_the_count_is_that_of_the_same_schema(db: Database, names: list[str]) -> None:
    """``schema_translate_map`` is an option of the select; so is that of a tenant."""
    db.session.execute(text("CREATE SCHEMA tenant"))
    db.session.execute(text("CREATE TABLE tenant.authors AS TABLE authors"))
    db.session.execute(text("DELETE FROM tenant.authors WHERE id > 10"))
    db.session.flush()
    tenant = BY_ID.execution_options(schema_translate_map={None: "tenant"})
    assert db.paginate(tenant, per_page=3).total == 10
    db.session.execute(text("ANALYZE tenant.authors"))
    assert db.paginate(tenant, per_page=3, count="estimated").total == 10
    assert db.paginate(BY_ID, per_page=3).total == len(names)
    db.session.rollback()


@anywhere
def test_listeners_find_the_options_of_the_select(db: Database, names: list[str]) -> None:
    """SQLAlchemy's recipe for rows that are marked as deleted: the count agrees with the page."""

    @event.listens_for(db.session, "do_orm_execute")
    def hide(state: ORMExecuteState) -> None:
        if not state.execution_options.get("include_deleted", False):
            shown = with_loader_criteria(Author, Author.id <= 10)
            state.statement = state.statement.options(shown)

    assert db.paginate(BY_ID, per_page=3).total == 10
    everything = BY_ID.execution_options(include_deleted=True)
    assert db.paginate(everything, per_page=3).total == len(names)


@anywhere
@pytest.mark.usefixtures("names")
def test_a_page_of_a_select_that_streams(db: Database) -> None:
    """PostgreSQL has no cursor for an ``EXPLAIN``."""
    counts: list[Count] = [True, "estimated"]
    for count in counts:
        for options in ({"yield_per": 2}, {"stream_results": True, "max_row_buffer": 2}):
            page = db.paginate(BY_ID.execution_options(**options), per_page=3, count=count)
            assert len(page.items) == 3
            assert page.total


# Rows that change meanwhile, and estimates ------------------------------------------------------


@on("postgresql")
@pytest.mark.usefixtures("names")
def test_estimate_is_that_of_the_planner(db: Database, sent: list[str]) -> None:
    """Filters and parameters of the select are part of it, and nothing is counted."""
    db.session.execute(text("ANALYZE authors"))
    db.session.commit()
    sent.clear()
    page = db.paginate(BY_ID, per_page=10, count="estimated")
    assert (page.total, page.is_estimate, page.pages) == (25, True, 3)
    assert sent[1].startswith("EXPLAIN (FORMAT JSON) SELECT")
    assert repr(page) == "<Pagination: page 1 of about 3, 10 items>"
    page = db.paginate(BY_ID.where(Author.id <= 12), per_page=10, count="estimated")
    assert page.total in range(11, 15)  # by the histogram
    assert page.is_estimate
    assert page.next().total == 12
    assert not page.next().is_estimate


@on("sqlite-file", "mariadb")
@pytest.mark.usefixtures("names")
def test_where_there_is_no_estimate_rows_are_counted(db: Database, sent: list[str]) -> None:
    """The total is exact then, and says so."""
    page = db.paginate(BY_ID, per_page=10, count="estimated")
    assert (page.total, page.is_estimate) == (25, False)
    assert "count(*)" in sent[1]


@anywhere
@pytest.mark.usefixtures("names")
def test_total_of_a_page_after_the_end(db: Database) -> None:
    """It is counted, and is not larger than what is before the page."""
    page = db.paginate(BY_ID, per_page=10, page=4, error_out=False)
    assert (page.items, page.total, page.pages) == ([], 25, 3)
    assert (page.has_next, page.has_prev, page.prev_num) == (False, True, 3)
    assert list(page.iter_pages()) == [1, 2, 3]


# The page in a template -------------------------------------------------------------------------

TEMPLATE = """
{% for author in page %}<li>{{ author.name }}</li>{% endfor %}
{{ page.first }}-{{ page.last }} of {{ page.total }}
{% if page.has_prev %}<a rel="prev" href="{{ url_for('authors', page=page.prev_num) }}">{% endif %}
{% for number in page.iter_pages(left_edge=1, left_current=1, right_current=1, right_edge=1) %}
{% if number == page.page %}<b>{{ number }}</b>
{% elif number %}<a href="{{ url_for('authors', page=number) }}">{{ number }}</a>
{% else %}...{% endif %}
{% endfor %}
{% if page.has_next %}<a rel="next" href="{{ url_for('authors', page=page.next_num) }}">{% endif %}
"""


@anywhere
@pytest.mark.usefixtures("names")
def test_template(app: Flask, db: Database) -> None:
    """The page of a request, with its links."""

    @app.get("/")
    def authors() -> str:
        return render_template_string(TEMPLATE, page=db.paginate(BY_ID))

    client = app.test_client()
    text = " ".join(client.get("/?page=4&per_page=3").text.split())
    assert text == (
        "<li>a10</li><li>a11</li><li>a12</li> 10-12 of 25"
        ' <a rel="prev" href="/?page=3"> <a href="/?page=1">1</a> ...'
        ' <a href="/?page=3">3</a> <b>4</b> <a href="/?page=5">5</a> ...'
        ' <a href="/?page=9">9</a> <a rel="next" href="/?page=5">'
    )
    assert client.get("/?page=10&per_page=3").status_code == 404
