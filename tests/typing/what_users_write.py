"""The lines that a user writes, for mypy and pyright: checked, never run."""

from __future__ import annotations

import flask
from sqlalchemy import Engine, ScalarResult, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from typing_extensions import assert_type

from flask_uow import Database, Flask, SessionProxy


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


@db.unit(commit=lambda response: response.status_code != 409)
def with_a_function() -> str:
    return ""


assert_type(view(1), dict[str, int])
assert_type(with_a_function(), str)
