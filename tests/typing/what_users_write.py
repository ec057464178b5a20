"""The lines that a user writes, for mypy and pyright: checked, never run."""

from __future__ import annotations

from typing import Any

import flask
from sqlalchemy import Engine, Row, ScalarResult, func, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from typing_extensions import assert_type

from flask_uow import (
    Database,
    Flask,
    KeyPage,
    Pagination,
    RecordedQuery,
    SessionProxy,
    errors,
    testing,
)


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


db = Database(Base)
app = Flask(__name__)
app.register_extension(db)
other = flask.Flask(__name__)
db.init_app(other)

assert_type(db.session, SessionProxy[Session])
assert_type(db.session(), Session)
assert_type(db.session.get(User, 1), User | None)
assert_type(db.session.get_one(User, 1), User)
assert_type(db.session.scalars(select(User)), ScalarResult[User])
assert_type(db.session.in_transaction(), bool)
assert_type(db.engine, Engine)
assert_type(db.engines["audit"], Engine)
assert_type(db.sessionmaker, sessionmaker[Session])


@app.post("/users/<int:number>")
@db.unit(commit="always")
def view(number: int) -> dict[str, int]:
    db.session.add(User(name="ada"))
    db.set_rollback_only()
    return {"number": number}


@db.unit(isolation_level={"postgresql": "SERIALIZABLE"}, retries=2)
def with_a_level_by_dialect() -> str:
    with db.atomic(isolation_level={"postgresql": "SERIALIZABLE", "mysql": "READ COMMITTED"}):
        return ""


@db.unit(commit=lambda response: response.status_code != 409)
def with_a_function() -> str:
    return ""


assert_type(view(1), dict[str, int])
assert_type(with_a_function(), str)


@app.errorhandler(Exception)
def what_went_wrong(error: Exception) -> tuple[str, int]:
    assert_type(errors.is_transient(error), bool)
    assert_type(errors.constraint_of(error), str | None)
    return errors.constraint_of(error) or "", 503 if errors.is_transient(error) else 409


with testing.fail_commit(db, constraint="uq_users_name", endpoint="view") as failure:
    assert_type(failure, testing.Failure)
    assert_type(failure.hits, int)
assert_type(testing.lose_connection(db, at="commit", stored=True), testing.Failure)
assert_type(testing.lose_connection(db, at=3, app=app), testing.Failure)
assert_type(testing.deadlock_once(db, engine="audit"), testing.Failure)
assert_type(testing.slow(db, 0.1, at="commit", required=False), testing.Failure)
with testing.capture_on_commit(db, run=True) as hooks:
    assert_type(hooks, list[testing.Hook])
    assert_type(hooks[0].args, tuple[Any, ...])


def fails_itself() -> int:
    """A block that raises an error of its own is not one that may swallow errors."""
    with testing.fail_commit(db), testing.capture_on_commit(db):
        return 1


# Queries ----------------------------------------------------------------------------------------

assert_type(db.get_or_404(User, 1), User)
assert_type(db.get_or_404(User, "1", description="No such user.", code=410), User)
assert_type(db.first_or_404(select(User)), User)
assert_type(db.first_or_404(select(User.name)), str)
assert_type(db.first_or_404(select(User, User.name)), Row[User, str])
assert_type(db.first_or_404(select(User, User.id, User.name)), Row[User, int, str])
assert_type(db.one_or_404(select(User).where(User.name == "ada")), User)
assert_type(db.one_or_404(select(func.count(User.id))), int)
assert_type(db.one_or_404(select(User.id, User.name)), Row[int, str])
assert_type(db.one_or_404(update(User).values(name="x").returning(User)), User)
assert_type(db.paginate(select(User)), Pagination[User])
assert_type(db.paginate(select(User).where(User.id > 1), page=2).items, list[User])
assert_type(db.paginate(select(User.id, User.name)), Pagination[Row[int, str]])
assert_type(db.paginate(select(User), count="estimated").total, int | None)
assert_type(db.paginate(select(User)).next(), Pagination[User])
assert_type([user.name for user in db.paginate(select(User))], list[str])
assert_type(list(db.paginate(select(User)).iter_pages()), list[int | None])
db.paginate(select(User), count="estimate")  # type: ignore[call-overload]  # pyright: ignore
db.get_or_404(User(), 1)  # type: ignore[arg-type]  # pyright: ignore

# Pages by key -----------------------------------------------------------------------------------

users = db.paginate_by_key(select(User).order_by(User.name), per_page=10)
assert_type(users, KeyPage[User])
assert_type([user.name for user in users], list[str])
assert_type(users.items, list[User])
assert_type(users.next_cursor, str | None)
assert_type(users.links, dict[str, str])
assert_type(users.add_links(flask.Response()), flask.Response)
pairs = db.paginate_by_key(select(User, User.name))
assert_type(pairs, KeyPage[Row[User, str]])

with testing.count_queries(db, app=app) as queries:
    assert_type(queries, testing.CountedQueries)
    assert_type(len(queries), int)
    assert_type(queries[0], RecordedQuery)
    assert_type(queries.repeated(), list[testing.Repetition])
