# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""Models, sessions, hooks and Flask-SQLAlchemy's names, for mypy and pyright: checked, never run.

An ignored error is one that the checker must report: an ignore that is not needed is an error.
"""

from __future__ import annotations

from sqlalchemy import MetaData, ScalarResult, select
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    Session,
    mapped_column,
    sessionmaker,
)
from typing_extensions import assert_type

from flask_uow import Database, Model, SessionProxy

# Models ---------------------------------------------------------------------------------------


class Base(Model, DeclarativeBase):
    pass


class User(Base):
    __bind_key__ = "audit"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Wrong(Base):
    __bind_key__ = 1  # type: ignore[assignment]


class DataBase(MappedAsDataclass, Model, DeclarativeBase, repr=False):
    pass


class Post(DataBase, kw_only=True):
    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    title: Mapped[str]


db = Database(Base, DataBase)

assert_type(User().name, str)
assert_type(User.metadata, MetaData)
assert_type(Post(title="a").title, str)
assert_type(repr(User()), str)
assert_type(db.session.scalars(select(User)), ScalarResult[User])
assert_type(db.metadata, MetaData)
assert_type(db.metadatas[0], MetaData)
assert_type(db.metadatas[None], MetaData)
assert_type(db.metadatas["audit"], MetaData)
assert_type(db.metadatas[1:], list[MetaData])

# A session class of the app's own -------------------------------------------------------------


class Searchable(Session):
    def search(self, words: str) -> list[User]:
        return []


own = Database[Searchable](Base, session_options={"class_": Searchable})

assert_type(own.session, SessionProxy[Searchable])
assert_type(own.session().search("a"), list[User])
assert_type(own.sessionmaker, sessionmaker[Searchable])
assert_type(db.session, SessionProxy[Session])


def takes_any_database(database: Database) -> SessionProxy[Session]:
    return database.session


# Hooks ----------------------------------------------------------------------------------------


def send(user: int, subject: str = "") -> bool:
    return True


db.on_commit(send, 1, "hello")
db.on_commit(send, 1, subject="hello")
db.on_commit(lambda: None)
db.on_rollback(send, user=1)
db.on_commit(send, "x")  # type: ignore[arg-type]
db.on_commit(send)  # type: ignore[call-arg]
db.on_commit(send, 1, nonesuch=1)  # type: ignore[call-arg]
db.on_rollback(send, "x")  # type: ignore[arg-type]
db.on_rollback(send, 1, 2)  # type: ignore[arg-type]


@db.on_commit
def after() -> int:
    return 1


assert_type(after(), int)

# Names that are not there ---------------------------------------------------------------------

db.Column  # type: ignore[attr-defined]  # noqa: B018
db.session.exec  # type: ignore[attr-defined]  # noqa: B018
User.query  # type: ignore[attr-defined]  # noqa: B018
Database(model_class=Base)  # type: ignore[call-arg]
db.create_all(bind_key="audit")  # type: ignore[call-arg]
db.drop_all("audit")  # type: ignore[call-arg]

from flask_uow import SQLAlchemy  # type: ignore[attr-defined]  # noqa: E402, F401
