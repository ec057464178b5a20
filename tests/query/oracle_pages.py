"""The same lookups and pages through Flask-SQLAlchemy and through flask_uow, as JSON.

Run as a program: ``python oracle_pages.py flask_sqlalchemy`` or ``... flask_uow``. The result has a
line for each case: its name, and what a view with these calls responds.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from flask import Flask
from sqlalchemy import ForeignKey, event, select
from sqlalchemy.orm import DeclarativeBase, Mapped, joinedload, mapped_column, relationship


class Base(DeclarativeBase):
    pass


def new_database(package: str) -> Any:
    """The ``db`` of a package, whose models have the base ``db.Model``."""
    if package == "flask_sqlalchemy":
        from flask_sqlalchemy import SQLAlchemy

        return SQLAlchemy(model_class=Base)
    from flask_uow import Database

    return Database(Base)


db = new_database(sys.argv[1] if __name__ == "__main__" else "flask_uow")
if TYPE_CHECKING:
    Model = Base
else:
    Model = db.Model


class Author(Model):
    __tablename__ = "authors"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    books: Mapped[list[Book]] = relationship(order_by="Book.id")


class Book(Model):
    __tablename__ = "books"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author_id: Mapped[int] = mapped_column(ForeignKey("authors.id"))


class Membership(Model):
    __tablename__ = "memberships"
    user: Mapped[int] = mapped_column(primary_key=True)
    group: Mapped[str] = mapped_column(primary_key=True)


BY_ID = select(Author).order_by(Author.id)


def shown(page: Any) -> dict[str, Any]:
    """All that a page tells, with its neighbors."""
    names = "page per_page pages total first last next_num has_next prev_num has_prev"
    told = {name: getattr(page, name) for name in names.split()}
    told["items"] = [getattr(item, "name", item) for item in page.items]
    told["iterated"] = len(list(page))
    if page.page > page.pages:
        return told  # there, Flask-SQLAlchemy leaves out the links to the last pages
    return told | {
        "iter_pages": list(page.iter_pages()),
        "few_pages": list(
            page.iter_pages(left_edge=1, left_current=1, right_current=1, right_edge=1)
        ),
    }


def neighbors_of(**options: Any) -> dict[str, Any]:
    page = db.paginate(BY_ID, **options)
    return {"next": shown(page.next()), "prev": shown(page.prev()), "page": shown(page)}


Case = tuple[str, str, Callable[[], Any]]
"""Its name, the query string, and what the view does."""

NUMBERS = ["1", "2", "7", "8", "100", "0", "-1", "abc", "", "1.5", "03"]


def page_of(**options: Any) -> dict[str, Any]:
    return shown(db.paginate(BY_ID, **options))


def cases() -> Iterator[Case]:
    sizes = ["", "&per_page=4", "&per_page=25", "&per_page=0", "&per_page=x"]
    for number, size, error_out in itertools.product(NUMBERS, sizes, [True, False]):
        query = f"page={number}{size}"
        yield (
            f"?{query} error_out={error_out}",
            query,
            partial(page_of, max_per_page=50, error_out=error_out),
        )
    for page, per_page in itertools.product([1, 2, 7, 0, -1, 9], [4, 25, 30, 0]):
        yield (
            f"page={page}, per_page={per_page}",
            "page=3&per_page=3",
            partial(neighbors_of, page=page, per_page=per_page),
        )
    for limit, argument in itertools.product([None, 5, 30], [None, 3, 200]):
        yield (
            f"max_per_page={limit}, per_page={argument}",
            "per_page=7",
            partial(page_of, max_per_page=limit, per_page=argument),
        )
    none = select(Author).where(Author.id < 0)
    joined = BY_ID.options(joinedload(Author.books))
    lookups: dict[str, Callable[[], Any]] = {
        "no rows": lambda: shown(db.paginate(none)),
        "no rows, page 2": lambda: shown(db.paginate(none, page=2)),
        "no rows, page 2, no error": lambda: shown(db.paginate(none, page=2, error_out=False)),
        "values": lambda: shown(db.paginate(select(Author.name).order_by(Author.id), page=2)),
        "joined": lambda: shown(db.paginate(joined, page=2, per_page=4)),
        "joined, whole": lambda: [len(a.books) for a in db.paginate(joined, page=2, per_page=4)],
        "distinct": lambda: shown(
            db.paginate(BY_ID.join(Author.books).distinct(), page=2, per_page=4)
        ),
        "get": lambda: db.get_or_404(Author, 1).name,
        "get text": lambda: db.get_or_404(Author, "1").name,
        "get none": lambda: db.get_or_404(Author, 99).name,
        "get abc": lambda: db.get_or_404(Author, "abc").name,
        "get described": lambda: db.get_or_404(Author, 99, description="Not here."),
        "get two": lambda: db.get_or_404(Membership, (1, "a")).group,
        "get two, by name": lambda: db.get_or_404(Membership, {"user": 1, "group": "a"}).group,
        "get two, none": lambda: db.get_or_404(Membership, (1, "b")),
        "get fresh": lambda: db.get_or_404(Author, 1, populate_existing=True).name,
        "first": lambda: db.first_or_404(BY_ID).name,
        "first value": lambda: db.first_or_404(select(Author.name).order_by(Author.id)),
        "first none": lambda: db.first_or_404(none, description="Not here."),
        "one": lambda: db.one_or_404(BY_ID.where(Author.id == 3)).name,
        "one value": lambda: db.one_or_404(select(Author.name).where(Author.id == 3)),
        "one none": lambda: db.one_or_404(none, description="Not here."),
        "one of several": lambda: db.one_or_404(BY_ID, description="Not here."),
    }
    for name, call in lookups.items():
        yield name, "", call
    for name, call in different().items():
        yield f"different: {name}", "", call


def different() -> dict[str, Callable[[], Any]]:
    """Cases in which flask_uow does not follow; the test says how."""
    rows = select(Author.id, Author.name).order_by(Author.id)
    return {
        "rows": lambda: list(map(str, db.paginate(rows, per_page=2).items)),
        "first row": lambda: str(db.first_or_404(rows)),
        "count=False": lambda: db.paginate(BY_ID, per_page=4, count=False).has_next,
        "own limit": lambda: [
            db.paginate(BY_ID.limit(6), per_page=4, page=page, error_out=False).items[-1].name
            for page in (1, 2)
        ],
        "repeated": lambda: [
            author.name for author in db.paginate(BY_ID.join(Author.books), per_page=2)
        ],
        "statements of a last page": lambda: statements(
            lambda: db.paginate(BY_ID, page=7, per_page=4)
        ),
        "per_page=1000": lambda: db.paginate(BY_ID).per_page,
    }


def statements(call: Callable[[], object]) -> int:
    count = 0

    def note(*_: object) -> None:
        nonlocal count
        count += 1

    event.listen(db.engine, "before_cursor_execute", note)
    call()
    return count


def main() -> None:
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    db.init_app(app)
    calls: dict[str, Callable[[], Any]] = {}
    app.add_url_rule("/", view_func=lambda: app.json.response(calls["now"]()))
    with app.app_context():
        db.create_all()
        for number in range(1, 26):
            books = [Book(title="a"), Book(title="b")]
            db.session.add(Author(id=number, name=f"author {number}", books=books))
        db.session.add(Membership(user=1, group="a"))
        db.session.commit()
    client = app.test_client()
    for name, query, call in cases():
        calls["now"] = call
        if name == "different: per_page=1000":
            query = "per_page=1000"
        response = client.get(f"/?{query}")
        body = response.json if response.is_json else response.text
        print(json.dumps([name, response.status_code, body]))


if __name__ == "__main__":
    main()
