"""Pages by key: what a view and a client see of them."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from flask import Flask as PlainFlask
from flask import jsonify
from flask.testing import FlaskClient
from sqlalchemy import and_, case, func, insert, literal, select
from sqlalchemy.orm import aliased, joinedload, selectinload, with_loader_criteria

from flask_uow import Database, Flask, QueryError
from tests.keyset.things import (
    Base,
    Cents,
    Color,
    Owner,
    Pair,
    Part,
    Thing,
    Typed,
    pages,
    walk,
)
from tests.support.databases import TestDatabase, anywhere, on
from tests.support.witness import Witness

# One server and one file are enough where only Python decides.
real = on("sqlite-file", "postgresql", "mariadb")


@pytest.fixture
def stored(app: Flask, db: Database) -> None:
    """Thirty things of three owners, with ties and NULLs, and up to three parts each."""
    with app.app_context(), db.atomic() as session:
        session.add_all([Owner(id=number, name=f"owner {number % 2}") for number in (1, 2, 3)])
        session.flush()
        for number in range(1, 31):
            session.add(
                Thing(
                    id=number,
                    number=None if number % 3 == 0 else number % 4,
                    word="abBA"[number % 4],
                    rank=number % 2,
                    owner_id=number % 4 or None,
                )
            )
        session.flush()
        for number in range(1, 31):
            session.add_all([Part(name=f"p{n}", thing_id=number) for n in range(number % 4)])


@pytest.fixture
def client(app: Flask, db: Database, stored: None) -> FlaskClient:
    """A client of an app with two lists."""

    @app.get("/<kind>/things")
    def things(kind: str) -> Any:
        page = db.paginate_by_key(ORDERS[kind], max_per_page=50)
        ids = [thing.id for thing in page]
        body = jsonify(ids=ids, next=page.next_cursor, prev=page.prev_cursor)
        return page.add_links(body)

    return app.test_client()


OTHER = aliased(Thing)

ORDERS: dict[str, Any] = {
    "new": select(Thing).order_by(Thing.id.desc()),
    "old": select(Thing).order_by(Thing.id),
    "rank": select(Thing).order_by(Thing.rank),
    "parts": select(Part).order_by(Part.id),
    "owners": select(Thing, Owner).join(Thing.owner).order_by(Thing.id),
    "aliased": select(OTHER).order_by(OTHER.id),
    "pairs": select(Pair),
}


def links_of(response: Any) -> dict[str, str]:
    """The targets of a Link header by relation, as RFC 8288 writes them."""
    return {
        rel: url for url, rel in re.findall(r'<([^>]*)>; rel="(\w+)"', response.headers["Link"])
    }


# What a client sees ---------------------------------------------------------------------------


@anywhere
def test_links_lead_through_all_pages_and_back(client: FlaskClient) -> None:
    """From first to last by "next", from last to first by "prev"; other arguments are kept."""
    response = client.get("/new/things?per_page=7&tag=a%26b&tag=c&_anchor=x&_external=")
    forward: list[int] = []
    while True:
        links = links_of(response)
        forward += response.get_json()["ids"]
        assert all("tag=a%26b&tag=c&_anchor=x&_external=" in url for url in links.values())
        assert all(url.startswith("http://localhost/new/things?") for url in links.values())
        if "next" not in links:
            break
        response = client.get(links["next"])
    assert forward == [*range(30, 0, -1)]
    response = client.get(links["last"])
    backward: list[int] = []
    while True:
        backward = response.get_json()["ids"] + backward
        links = links_of(response)
        if "prev" not in links:
            break
        response = client.get(links["prev"])
    assert backward == forward
    assert client.get(links["first"]).get_json()["ids"] == forward[:7]


@anywhere
def test_first_and_last_page_have_no_way_out(client: FlaskClient) -> None:
    """There is no "prev" of the first page, and no "next" of the last one."""
    first = client.get("/old/things?per_page=20")
    assert set(links_of(first)) == {"first", "next", "last"}
    assert first.get_json()["prev"] is None
    last = client.get(links_of(first)["next"])
    assert set(links_of(last)) == {"first", "prev", "last"}
    assert last.get_json()["ids"] == [*range(21, 31)]
    from_the_end = client.get(links_of(first)["last"])
    assert set(links_of(from_the_end)) == {"first", "prev", "last"}
    assert from_the_end.get_json()["next"] is None


@anywhere
def test_empty_page_leads_back_to_the_rows(client: FlaskClient, app: Flask, db: Database) -> None:
    """The rows after a cursor are deleted: the page is empty, and "prev" is the new last page."""
    cursor = client.get("/old/things?per_page=29").get_json()["next"]
    with app.app_context(), db.atomic() as session:
        session.execute(Part.__table__.delete())  # type: ignore[attr-defined]
        session.execute(Thing.__table__.delete().where(Thing.id >= 28))  # type: ignore[attr-defined]
    empty = client.get(f"/old/things?per_page=4&after={cursor}")
    assert empty.get_json()["ids"] == []
    assert client.get(links_of(empty)["prev"]).get_json()["ids"] == [24, 25, 26, 27]


@anywhere
def test_empty_table_is_one_page(app: Flask, db: Database) -> None:
    """Without a way out."""
    with app.app_context():
        page = db.paginate_by_key(select(Thing))
        assert (page.items, page.has_next, page.has_prev) == ([], False, False)
        assert (page.next_cursor, page.prev_cursor) == (None, None)


def text_of(payload: str) -> str:
    return base64.urlsafe_b64encode(payload.encode()).decode().rstrip("=")


@anywhere
def test_what_no_app_has_made_is_a_400(client: FlaskClient) -> None:
    """Forged, cut off, changed, of another key, or no cursor at all; both names."""
    cursor = client.get("/old/things").get_json()["next"]
    other = PlainFlask("other")
    other.config.update(SECRET_KEY="other", SQLALCHEMY_DATABASE_URI="sqlite://")
    other_db = Database(Base)
    other_db.init_app(other)
    with other.app_context():
        other_db.create_all()
        foreign = other_db.paginate_by_key(select(Thing)).last_cursor
    payload, signature = cursor.rsplit(".", 1)
    forged = [
        cursor[:-1],
        cursor[1:],
        payload,
        f"{payload}.",
        f"{text_of('[5]')}.{signature}",
        f"{cursor}A",
        f"{payload[:-2]}.{signature}",
        foreign,
        "abc",
        "5",
        "\0",
        "é" * 50,
        "." * 5000,
    ]
    for name in ("after", "before"):
        for text in forged:
            response = client.get("/old/things", query_string={name: text})
            assert response.status_code == 400, text
            assert f"The value of &#39;{name}&#39; is not a cursor" in response.text
        assert client.get("/old/things", query_string={name: cursor}).status_code == 200


@anywhere
@pytest.mark.parametrize("kind", ["new", "rank", "parts", "owners", "aliased", "pairs"])
def test_cursor_of_another_list_is_a_400(client: FlaskClient, kind: str) -> None:
    """Another model, another direction, another order, other entities."""
    cursor = client.get("/old/things").get_json()["next"]
    response = client.get(f"/{kind}/things", query_string={"after": cursor})
    assert response.status_code == 400
    assert "belongs to another list" in response.text


@anywhere
def test_cursor_does_not_open_other_rows(app: Flask, db: Database, stored: None) -> None:
    """A cursor is a position. The conditions of the select hold for every client."""
    mine = select(Thing).where(Thing.rank == 0).order_by(Thing.id)
    with app.app_context():
        theirs = db.paginate_by_key(
            select(Thing).where(Thing.rank == 1).order_by(Thing.id), per_page=5
        )
        page = db.paginate_by_key(mine, after=theirs.next_cursor)
        assert {thing.rank for thing in page} == {0}


@anywhere
@pytest.mark.parametrize(
    "query",
    ["per_page=0", "per_page=-1", "per_page=abc", "per_page=1.5",
     "per_page=%C2%B2", "per_page=%D9%A3", f"per_page={'9' * 5000}", "per_page=+5", "per_page=1_0"],
)  # fmt: skip
def test_size_that_a_client_may_not_ask_for_is_a_400(client: FlaskClient, query: str) -> None:
    """No number, or a number below 1."""
    response = client.get(f"/old/things?{query}")
    assert response.status_code == 400
    assert "&#39;per_page&#39; must be a whole number of at least 1." in response.text
    assert len(client.get("/old/things?per_page=").get_json()["ids"]) == 20


@anywhere
def test_both_cursors_are_a_400(client: FlaskClient) -> None:
    """A page has one start; an empty argument is none."""
    cursor = client.get("/old/things").get_json()["next"]
    assert client.get(f"/old/things?after={cursor}&before={cursor}").status_code == 400
    assert client.get(f"/old/things?after={cursor}&before=").get_json()["ids"][0] == 21


@anywhere
def test_keys_are_changed_without_a_loss(client: FlaskClient, app: Flask) -> None:
    """A cursor of an old key is read while it is one of SECRET_KEY_FALLBACKS."""
    cursor = client.get("/old/things").get_json()["next"]
    app.config.update(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["older", "test"])
    assert client.get(f"/old/things?after={cursor}").status_code == 200
    newer = client.get("/old/things").get_json()["next"]
    app.config.update(SECRET_KEY_FALLBACKS=None)
    assert client.get(f"/old/things?after={cursor}").status_code == 400
    assert client.get(f"/old/things?after={newer}").status_code == 200


# What is sent ---------------------------------------------------------------------------------


@real
def test_page_is_one_statement(app: Flask, db: Database, traffic: list[str], stored: None) -> None:
    """A page on which another value of the first column begins takes one more."""
    with app.app_context():
        for chosen, most in (
            (select(Thing).order_by(Thing.id.desc()), [1] * 8),
            # Sixteen and fifteen rows: the ends of the groups are on pages 4 and 8.
            (select(Thing).order_by(Thing.rank.desc(), Thing.id), [1, 1, 1, 2, 1, 1, 1, 1]),
        ):
            for backward in (False, True):
                counts = []
                traffic.clear()
                for _ in pages(db, chosen, 4, backward=backward):
                    counts.append(traffic.count("SELECT"))
                    traffic.clear()
                if backward:
                    counts[0] -= 1  # for the cursor of the last page
                assert len(counts) == 8
                assert all(count <= 2 for count in counts)
                assert sum(counts) <= sum(most) + 1


OPEN = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND state LIKE 'idle in transaction%'
"""


@on("postgresql")
def test_page_is_a_plain_read(app: Flask, db: Database, witness: Witness, stored: None) -> None:
    """No transaction begins (P14): none is open between two pages."""
    orders: list[list[Any]] = [
        [Thing.number.desc().nulls_last(), func.lower(Thing.word)],
        [Thing.rank, Thing.id.desc()],
    ]
    with app.app_context():
        for order in orders:
            for _ in pages(db, select(Thing).order_by(*order), 10):
                assert witness.ask(OPEN) == [0]
        with db.atomic():
            db.paginate_by_key(select(Thing))
            assert witness.ask(OPEN) == [1]  # so that the question can be wrong


# What is selected -----------------------------------------------------------------------------

LATER = aliased(Thing, select(Thing).where(Thing.id > 3).subquery())
LOW = func.lower(Thing.word).label("low")

SELECTS: dict[str, Callable[[], Any]] = {
    "no order": lambda: select(Thing),
    "join": lambda: select(Thing).join(Thing.owner).order_by(Owner.name, Thing.number),
    "outer join": lambda: select(Thing).outerjoin(Thing.owner).order_by(Owner.name.desc()),
    "select_from": lambda: (
        select(Thing).select_from(Owner).join(Thing, Thing.owner_id == Owner.id).order_by(Owner.id)
    ),
    "core join": lambda: (
        select(Thing).select_from(Thing.__table__.outerjoin(Owner.__table__)).order_by(Owner.name)
    ),
    "alias": lambda: select(OTHER).order_by(OTHER.number),
    "of a subquery": lambda: select(LATER).order_by(LATER.rank.desc()),
    "joined eager": lambda: (
        select(Thing)
        .options(joinedload(Thing.parts), joinedload(Thing.owner))
        .order_by(Thing.rank, Thing.word.desc())
    ),
    "select-in": lambda: select(Thing).options(selectinload(Thing.parts)).order_by(Thing.word),
    "criteria": lambda: (
        select(Thing).options(with_loader_criteria(Thing, Thing.id != 7)).order_by(Thing.number)
    ),
    "case": lambda: select(Thing).order_by(case((Thing.number == 1, "x"), else_=None), Thing.word),
    "condition": lambda: select(Thing).order_by((Thing.number == 1).desc()),
    "count": lambda: select(Thing).order_by(
        select(func.count(Part.id)).where(Part.thing_id == Thing.id).scalar_subquery().desc()
    ),
    "exists": lambda: select(Thing).order_by(~Thing.parts.any(), Thing.number),
    "and": lambda: select(Thing).order_by(and_(Thing.rank == 1, Thing.id > 3).desc()),
    "by the clock": lambda: select(Thing).order_by(
        case((func.now() > datetime(2020, 1, 1), Thing.rank), else_=0)
    ),
    "label": lambda: select(Thing, LOW).order_by(LOW.desc()),
    "whole key and more": lambda: select(Thing).order_by(Thing.id.desc(), Thing.word),
    "two entities": lambda: select(Thing, Owner).outerjoin(Thing.owner).order_by(Owner.name),
    "an entity twice": lambda: select(Thing, Thing).order_by(Thing.word),
    "entity and column": lambda: select(Thing.word, Thing, literal(1).label("one")),
    "several tables": lambda: select(Thing).where(Thing.owner_id == Owner.id).order_by(Owner.name),
}


@on("sqlite-file", slow=["postgresql", "mariadb"])
@pytest.mark.parametrize("name", SELECTS)
def test_pages_are_the_rows_of_the_select(
    name: str, app: Flask, db: Database, stored: None
) -> None:
    """Of whatever shape, forward and backward, each row once and in order."""
    chosen = SELECTS[name]()
    with app.app_context():
        # The order of ties, as the page completes it: see the documentation.
        whole = db.paginate_by_key(chosen, per_page=1000).items
        stored_rows = db.session.execute(chosen).unique().all()
        rows = [row[0] if len(row) == 1 else tuple(row) for row in stored_rows]
        assert sorted(map(repr, whole)) == sorted(map(repr, rows))
        for size in (1, 4, 7):
            assert walk(db, chosen, size) == whole
            assert walk(db, chosen, size, backward=True) == whole


@anywhere
def test_rows_have_the_names_of_the_select(app: Flask, db: Database, stored: None) -> None:
    """Rows of several entities are rows, without the columns of the key."""
    chosen = select(Thing, Owner.name.label("owner")).join(Thing.owner).order_by(Thing.id)
    with app.app_context():
        [row] = db.paginate_by_key(chosen, per_page=1)
        assert (row.Thing.id, row.owner, len(row)) == (1, "owner 1", 2)
        assert row._fields == ("Thing", "owner")


@real
def test_join_to_many_loses_and_repeats_nothing(app: Flask, db: Database, stored: None) -> None:
    """An object that a join returns several times comes once, also with joined eager loading."""
    for options in ([], [joinedload(Thing.parts)]):
        chosen = select(Thing).join(Thing.parts).order_by(Thing.rank).options(*options)
        with app.app_context():
            for size in (1, 2, 5):
                found = walk(db, chosen, size)
                assert len(found) == len(set(found)) == len([n for n in range(1, 31) if n % 4])
                assert walk(db, chosen, size, backward=True) == found


@real
def test_key_of_two_columns(app: Flask, db: Database) -> None:
    """A composite primary key completes the order."""
    with app.app_context(), db.atomic() as session:
        session.add_all([Pair(left=n % 3, right="abcdef"[n // 3], rank=n % 2) for n in range(18)])
    with app.app_context():
        for chosen in (select(Pair), select(Pair).order_by(Pair.rank.desc(), Pair.right)):
            found = walk(db, chosen, 4)
            assert len(set(found)) == 18
            assert walk(db, chosen, 5, backward=True) == found


MOMENT = datetime(2024, 2, 29, 23, 59, 59)
EAST = timezone(timedelta(hours=5, minutes=45))
VALUES: dict[str, list[Any]] = {
    "integer": [0, -(2**63), 2**63 - 1],
    "text": ["it's", 'a"\n\\', "\U0001f600é"],
    "flag": [True, False],
    "single": [0.1, 1 / 3, -3.4e38],
    "double": [0.1, 1 / 3, 1e300, -5e-324],
    "plain_float": [0.1, 1 / 3, 16777217.0],
    "numeric": [Decimal("0.10000001"), Decimal("-99999999.99999999"), Decimal(7)],
    "as_float": [1 / 3, 0.1, 2.0],
    "moment": [MOMENT, MOMENT.replace(microsecond=1), MOMENT.replace(microsecond=999999)],
    "aware": [MOMENT.replace(tzinfo=EAST), MOMENT.replace(tzinfo=timezone.utc, hour=1)],
    "day": [date(2024, 2, 29), date(1970, 1, 1)],
    "clock": [time(23, 59, 59), time(0)],
    "span": [timedelta(days=3), timedelta(0), timedelta(hours=1)],
    "uuid": [UUID(int=1), UUID(int=2**127)],
    "data": [b"", b"\x00\xff", b"abc"],
    "color": [Color.RED, Color.BLUE],
    "money": [Cents(5), Cents(-1)],
}


@pytest.mark.slow
@real
@pytest.mark.filterwarnings("ignore:Dialect sqlite.* does .not. support Decimal")
def test_values_of_every_type_are_found_again(
    app: Flask, db: Database, database: TestDatabase
) -> None:
    """As the driver returned them, without rounding, also those of a type of the app."""
    assert VALUES.keys() == set(Typed.__table__.c.keys()) - {"id"}
    with app.app_context(), db.atomic() as session:
        rows = [
            {name: [None, *values][n % (len(values) + 1)] for name, values in VALUES.items()}
            for n in range(12)
        ]
        session.execute(insert(Typed), rows)
    with app.app_context():
        ids = set(db.session.scalars(select(Typed.id)))
        for name in VALUES:
            for clause in (getattr(Typed, name), getattr(Typed, name).desc()):
                found = [one.id for one in walk(db, select(Typed).order_by(clause), 1)]
                assert set(found) == ids, name
                assert len(found) == len(ids), name
                back = walk(db, select(Typed).order_by(clause), 5, backward=True)
                assert [one.id for one in back] == found, name


@real
def test_a_negation_is_an_order(app: Flask, db: Database) -> None:
    """``NOT flag < x`` would be read as ``NOT (flag < x)``."""
    with app.app_context():
        db.session.add_all([Typed(flag=flag) for flag in (True, False, None) * 3])
        db.session.commit()
        for chosen in (select(Typed).order_by(~Typed.flag), select(Typed).order_by(Typed.flag)):
            whole = db.paginate_by_key(chosen, per_page=100).items
            assert len(whole) == 9
            for size in (1, 2):
                assert walk(db, chosen, size) == whole
                assert walk(db, chosen, size, backward=True) == whole


@on("postgresql")
def test_not_a_number_is_a_number_here(app: Flask, db: Database) -> None:
    """PostgreSQL sorts NaN and infinity."""
    with app.app_context(), db.atomic() as session:
        values = [float("nan"), float("inf"), float("-inf"), 1.0] * 2
        session.add_all([Typed(double=value, single=value) for value in values])
        session.add_all([Typed(numeric=Decimal("NaN"))])
    with app.app_context():
        for column in (Typed.double, Typed.single, Typed.numeric):
            found = [one.id for one in walk(db, select(Typed).order_by(column), 1)]
            assert len(set(found)) == len(found) == 9


@on("mariadb")
def test_texts_that_are_equal_for_the_database_are_ties(app: Flask, db: Database) -> None:
    """A collation that ignores case: 'a' and 'A' are one value, ordered by the primary key."""
    with app.app_context(), db.atomic() as session:
        session.add_all([Thing(id=n, word="aA"[n % 2] + " " * (n % 3)) for n in range(1, 9)])
    with app.app_context():
        assert [one.id for one in walk(db, select(Thing).order_by(Thing.word), 3)] == [*range(1, 9)]


@on("mariadb")
def test_nulls_last_is_refused_where_it_does_not_exist(app: Flask, db: Database) -> None:
    """With what to write instead."""
    with app.app_context():
        with pytest.raises(QueryError, match=r"'order_by\(column.is_\(None\), column\)'"):
            db.paginate_by_key(select(Thing).order_by(Thing.number.nulls_last()))
        db.paginate_by_key(select(Thing).order_by(Thing.number.desc().nulls_last()))  # as it is
