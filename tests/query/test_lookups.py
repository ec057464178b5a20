"""``get_or_404``, ``first_or_404``, ``one_or_404``: what they find, and what is a 404."""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, func, inspect, select, text, union, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import aliased, joinedload
from werkzeug.exceptions import Gone, NotFound

from flask_uow import Database, Flask
from flask_uow.errors import OutsideContext, QueryError
from tests.support.databases import anywhere, on

from .models import (
    Alarm,
    Author,
    Base,
    Big,
    Book,
    Color,
    Country,
    Day,
    Level,
    Membership,
    OldToken,
    Paint,
    Price,
    Slot,
    Small,
    TextToken,
    Ticket,
    Token,
    Weight,
    Wide,
)

TOKEN = uuid.UUID("0e7f5c3e-5a4e-4c41-9ff0-1c6f6b8a2b11")


@pytest.fixture
def rows(app: Flask, db: Database) -> None:
    db.session.add_all(
        [
            Author(id=1, name="ada", books=[Book(title="a1"), Book(title="a2")]),
            Author(id=2, name="bob", email="b@example.org"),
            Small(id=1),
            Big(id=2**40),
            Token(id=TOKEN),
            TextToken(id=str(TOKEN)),
            Country(code="ål"),
            Paint(color=Color.red),
            Membership(user=1, group="x"),
            Country(code="7"),
            Ticket(id=1),
            OldToken(id=TOKEN),
            Wide(id=2**40),
            Alarm(level=Level.LOW),
            Day(day=date(2020, 2, 29)),
            Slot(start=datetime(2020, 2, 29, 12)),
            Price(amount=Decimal("1.50")),
            Weight(grams=1.5),
        ]
    )
    db.session.commit()
    db.session.remove()


FOUND: list[tuple[type[Any], object]] = [
    (Author, 1),
    (Author, "1"),
    (Author, 1.0),
    (Author, (1,)),
    (Author, {"id": "1"}),
    (Big, 2**40),
    (Big, str(2**40)),
    (Token, TOKEN),
    (Token, str(TOKEN)),
    (TextToken, str(TOKEN)),
    (Country, "ål"),
    (Paint, Color.red),
    (Paint, "red"),
    (Membership, (1, "x")),
    (Membership, ["1", "x"]),
    (Membership, {"group": "x", "user": 1}),
    (Country, 7),
    (Ticket, 1),
    (Ticket, "1"),
    (OldToken, TOKEN),
    (OldToken, str(TOKEN)),
    (Wide, 2**40),
    (Wide, str(2**40)),
    (Alarm, Level.LOW),
    (Alarm, "LOW"),
    (Day, date(2020, 2, 29)),
    (Day, "2020-02-29"),
    (Slot, "2020-02-29 12:00:00"),
    (Price, "1.5"),
    (Price, Decimal("1.50")),
    (Weight, "1.5"),
    (Weight, 1.5),
]

NOT_FOUND: list[tuple[type[Any], object]] = [
    (Author, 3),
    (Author, -1),
    (Author, "abc"),
    (Author, "1abc"),
    (Author, ""),
    (Author, " 1"),
    (Author, "+1"),
    (Author, "1_0"),
    (Author, "\N{ARABIC-INDIC DIGIT ONE}"),
    (Author, "1\0"),
    (Author, "1" * 5000),
    (Author, 1.5),
    (Author, float("inf")),
    (Author, float("nan")),
    (Author, None),
    (Author, 2**31),
    (Author, 2**63),
    (Author, 10**30),
    (Author, -(10**30)),
    (Author, str(10**30)),
    (Small, 2**15),
    (Small, 2**70),
    (Big, 2**63),
    (Big, -(2**63)),
    (Token, "abc"),
    (Token, "\0"),
    (TextToken, "abc"),
    (Country, "nowhere"),
    (Country, "\0"),
    (Country, "a\0"),
    (Country, "\ud800"),
    (Paint, "green"),
    (Paint, "blue"),
    (Membership, (1, "y")),
    (Membership, ("abc", "x")),
    (Membership, (1, "\0")),
    (Membership, (None, None)),
    (Author, 10**5000),
    (Author, True),
    (Big, False),
    (Token, 5),
    (Token, True),
    (Country, 0),  # for MariaDB it would be equal to the text of another row
    (Country, False),
    (Country, 0.0),
    (Country, 10**5000),
    (TextToken, 0),
    (Paint, 1),
    (Ticket, "abc"),
    (Ticket, 2**31),
    (OldToken, "abc"),
    (OldToken, 5),
    (Wide, 2**63),
    (Alarm, Level.HIGH),
    (Alarm, "low"),
    (Day, "2020-02-30"),
    (Day, "abc"),
    (Day, 5),
    (Slot, "12:00"),
    (Slot, 1.5),
    (Price, "abc"),
    (Price, "1e5"),
    (Price, "nan"),
    (Price, float("nan")),
    (Price, float("inf")),
    (Price, True),
    (Price, 10**5000),
    (Weight, ""),
    (Weight, float("-inf")),
]


SINGLE_KEYS = sorted({model for model, _ in FOUND} - {Membership}, key=lambda model: model.__name__)


@pytest.mark.usefixtures("rows")
def test_get_finds_the_row(db: Database) -> None:
    """By a key of the column's type, or what a client can send of it."""
    for model, key in FOUND:
        assert isinstance(db.get_or_404(model, key), model), key


@pytest.mark.usefixtures("rows")
def test_get_aborts_for_a_key_without_a_row(db: Database) -> None:
    """Also where no row can have the key, which some databases refuse to compare."""
    for model, key in NOT_FOUND:
        with pytest.raises(NotFound):
            db.get_or_404(model, key)


@pytest.mark.usefixtures("rows")
def test_key_that_cannot_be_compared_leaves_the_transaction_alone(db: Database) -> None:
    """PostgreSQL would refuse each later statement of it."""
    db.session.add(Author(id=9, name="eve"))
    db.session.flush()
    for model, key in NOT_FOUND:
        with pytest.raises(NotFound):
            db.get_or_404(model, key)
    assert db.get_or_404(Author, 9).name == "eve"
    db.session.commit()
    assert db.session.scalar(select(func.count(Author.id))) == 3


@pytest.mark.usefixtures("rows")
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    model=st.sampled_from(SINGLE_KEYS),
    key=st.none()
    | st.text(st.characters())
    | st.from_regex(r"-?[0-9]{1,22}", fullmatch=True)
    | st.integers()
    | st.floats()
    | st.booleans()
    | st.dates().map(str)
    | st.datetimes().map(str),
)
def test_no_key_of_a_client_is_an_error(db: Database, model: type[Any], key: Any) -> None:
    """Of all that a URL or JSON can have in place of a key, in one transaction."""
    with contextlib.suppress(NotFound):
        db.get_or_404(model, key)
    db.session.execute(update(Author).values(email="x").where(Author.id == 2))  # it goes on


@on("postgresql")
@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize(
    ("model", "key"), [(Author, "abc"), (Author, 2**31), (Small, 2**15), (Country, "\0")]
)
def test_such_keys_are_errors_for_the_session(db: Database, model: type[Any], key: object) -> None:
    """What the tests above would meet if the keys were sent."""
    with pytest.raises(DBAPIError):
        db.session.get(model, key)
    db.session.rollback()


@pytest.mark.usefixtures("rows")
def test_key_without_a_row_is_not_sent(db: Database, traffic: list[str]) -> None:
    """No statement can fail."""
    for key in ["abc", "1" * 5000, None]:
        with pytest.raises(NotFound):
            db.get_or_404(Author, key)
    assert traffic == []


@pytest.mark.usefixtures("rows")
def test_real_errors_stay_errors(db: Database) -> None:
    """An error of the flush, or of the database, is not a 404."""
    db.session.add(Author(id=1, name="twice"))
    with pytest.raises(IntegrityError):
        db.first_or_404(select(Author))
    db.session.rollback()
    with pytest.raises(DBAPIError):
        db.one_or_404(select(func.no_such_function(Author.id)))
    db.session.rollback()


@anywhere
@pytest.mark.usefixtures("rows")
def test_an_equal_key_finds_the_same_object(db: Database, traffic: list[str]) -> None:
    """``"1"`` is read as 1, so the object is not loaded twice."""
    ada = db.get_or_404(Author, 1)
    traffic.clear()
    assert db.get_or_404(Author, "1") is ada
    assert traffic == []


@anywhere
@pytest.mark.usefixtures("rows")
def test_get_passes_options_on(db: Database, traffic: list[str]) -> None:
    """Those of ``Session.get()``."""
    ada = db.get_or_404(Author, 1, options=[joinedload(Author.books)])
    traffic.clear()
    assert [book.title for book in ada.books] == ["a1", "a2"]
    assert traffic == []
    assert db.get_or_404(inspect(Author), 1, populate_existing=True) is ada
    assert "SELECT" in traffic


@anywhere
@pytest.mark.usefixtures("rows")
def test_description_and_code(db: Database) -> None:
    """Of the error that is raised."""
    none = select(Author).where(Author.id == 3)
    calls: list[Callable[..., object]] = [
        lambda **options: db.get_or_404(Author, 3, **options),
        lambda **options: db.get_or_404(Author, "abc", **options),
        lambda **options: db.first_or_404(none, **options),
        lambda **options: db.one_or_404(none, **options),
    ]
    for call in calls:
        with pytest.raises(NotFound) as missing:
            call()
        assert missing.value.description == NotFound.description
        with pytest.raises(Gone) as gone:
            call(description="It was here.", code=410)
        assert gone.value.description == "It was here."
        for code in (200, 302, 999, None, "404"):
            with pytest.raises(QueryError, match="not the status of an HTTP error"):
                call(code=code)


@anywhere
def test_in_a_view_it_is_the_response(app: Flask, db: Database) -> None:
    """And the work of the view is undone, as for any error."""

    @app.post("/<key>")
    def view(key: str) -> str:
        db.session.add(Author(name="new"))
        return db.get_or_404(Author, key, description="No such author.").name

    response = app.test_client().post("/abc")
    assert response.status_code == 404
    assert "No such author." in response.text
    assert db.session.scalar(select(func.count(Author.id))) == 0


# first_or_404, one_or_404 -----------------------------------------------------------------------


@pytest.mark.usefixtures("rows")
def test_first_and_one_return_what_the_select_has(db: Database) -> None:
    """An object, a value, or a row."""
    for helper in (db.first_or_404, db.one_or_404):
        call: Any = helper
        bob = call(select(Author).where(Author.name == "bob"))
        assert isinstance(bob, Author)
        assert call(select(Author.email).where(Author.id == 2)) == "b@example.org"
        assert call(select(func.count()).select_from(Author)) == 2
        row = call(select(Author, Book.title).join(Author.books).where(Book.title == "a2"))
        assert (row.Author.name, row.title) == ("ada", "a2")
        other = aliased(Author)
        assert call(select(other).where(other.id == 2)) is bob
        assert call(select(Author.__table__.c.id).where(Author.id == 2)) == 2
        assert call(union(select(Author.name).where(Author.id == 2))) == "bob"
        statement = text("SELECT * FROM authors WHERE id = 2").columns(Author.id, Author.name)
        assert call(select(Author).from_statement(statement)) is bob
        assert call(db.session.query(Author).filter_by(id=2)) is bob


@pytest.mark.usefixtures("rows")
def test_null_is_a_value(db: Database) -> None:
    """There is a row, so nothing is missing."""
    null = select(Author.email).where(Author.name == "ada")
    assert db.first_or_404(null) is None
    assert db.one_or_404(null) is None


@pytest.mark.usefixtures("rows")
def test_joined_eager_collections_are_whole(db: Database) -> None:
    """Also that of the first object of many."""
    with_books = select(Author).options(joinedload(Author.books)).order_by(Author.id)
    for statement in [with_books, with_books.where(Author.id == 1)]:
        db.session.expunge_all()
        assert [book.title for book in db.first_or_404(statement).books] == ["a1", "a2"]
    db.session.expunge_all()
    ada = db.one_or_404(with_books.where(Author.id == 1))
    assert [book.title for book in ada.books] == ["a1", "a2"]


@anywhere
@pytest.mark.usefixtures("rows")
def test_first_reads_one_row(app: Flask, db: Database) -> None:
    """A select without a limit gets one; a limit that is there stays."""
    sent: list[str] = []
    event.listen(db.engine, "before_cursor_execute", lambda *arguments: sent.append(arguments[2]))
    assert db.first_or_404(select(Author).order_by(Author.id)).name == "ada"
    assert "LIMIT" in sent.pop()
    assert db.first_or_404(select(Author).order_by(Author.id).offset(1)).name == "bob"
    assert db.first_or_404(select(Author).order_by(Author.id).limit(7)).name == "ada"
    with pytest.raises(NotFound):
        db.first_or_404(select(Author).limit(0))


@pytest.mark.usefixtures("rows")
def test_several_rows_are_a_404_and_a_warning_in_the_log(
    db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """As in Flask-SQLAlchemy; but the mistake can be found."""
    with caplog.at_level(logging.WARNING), pytest.raises(NotFound):
        db.one_or_404(select(Author))
    assert f"{__file__}:" in caplog.text
    assert "found several rows" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING), pytest.raises(NotFound):
        db.one_or_404(select(Author).where(Author.id == 3))
    assert caplog.text == ""


# What a programmer wrote ------------------------------------------------------------------------


@anywhere
@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize(
    ("entity", "key", "message"),
    [
        (Author(name="x"), 1, "an object of the class 'Author' in place of the class"),
        ("Author", 1, "given 'Author', which is not a model"),
        (int, 1, "given the class 'int', which is not a model"),
        (Author.__table__, 1, "which is not a model"),
        (None, 1, "given None, which is not a model"),
        (select(Author), 1, "which is not a model"),
        (
            Author,
            (1, 2),
            r"\(1, 2\) as the key, which does not fit the primary key of 'Author', 'id'",
        ),
        (Author, (), "primary key of 'Author', 'id'"),
        (Author, {}, "primary key of 'Author', 'id'"),
        (Author, {"name": "ada"}, "primary key of 'Author', 'id'"),
        (Author, {"id": {"a": 1}}, "primary key of 'Author', 'id'"),
        (Author, ([1],), "primary key of 'Author', 'id'"),
        (Author, Author(name="x"), "an object of the class 'Author' as the key"),
        (
            Membership,
            1,
            "1 as the key, which does not fit the primary key of 'Membership', 'user' and 'group'",
        ),
        (Membership, (1,), r"Write 'db.get_or_404\(Membership, \(user, group\)\)'"),
        (Membership, {"user": 1}, "'user' and 'group'"),
    ],
)
def test_wrong_arguments_of_get(db: Database, entity: Any, key: Any, message: str) -> None:
    """They get a sentence."""
    with pytest.raises(QueryError, match=message):
        db.get_or_404(entity, key)


@anywhere
@pytest.mark.usefixtures("app")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (text("SELECT 1"), r"a 'text\(\)', which is not a statement with columns"),
        ("SELECT 1", "'SELECT 1', which is not"),
        (Author, "the class 'Author', which is not"),
        (Author.id == 1, "<.*>, which is not a statement"),
        (Author.id, "the attribute 'Author.id', which is not a statement"),
        (None, "None, which is not"),
        (select(), r"a 'select\(\)' without columns"),
    ],
)
def test_wrong_statements(db: Database, given: Any, message: str) -> None:
    """They get a sentence, which names the helper."""
    for name in ("first_or_404", "one_or_404", "paginate"):
        with pytest.raises(QueryError, match=f"'{name}' was given {message}"):
            getattr(db, name)(given)


def test_outside_of_a_context() -> None:
    """As ``db.session`` itself."""
    other = Database(Base)
    calls: list[Callable[[], object]] = [
        lambda: other.get_or_404(Author, 1),
        lambda: other.first_or_404(select(Author)),
        lambda: other.one_or_404(select(Author)),
        lambda: other.paginate(select(Author)),
    ]
    for call in calls:
        with pytest.raises(OutsideContext):
            call()
