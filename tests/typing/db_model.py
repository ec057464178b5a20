# pyright: strict
"""``class User(db.Model)``: pyright knows the class.

mypy follows no attribute of an object as a base class, whatever its type. For mypy, write the base:
``class Base(Model, DeclarativeBase)``, as in ``models_and_hooks.py``.
"""

from __future__ import annotations

from sqlalchemy import MetaData, ScalarResult, select
from sqlalchemy.orm import Mapped, mapped_column
from typing_extensions import assert_type

from flask_uow import Database

db = Database()


class Tag(db.Model):  # type: ignore[name-defined,misc]
    id: Mapped[int] = mapped_column(primary_key=True)


class Vote(db.Model):  # type: ignore[name-defined,misc]
    id: Mapped[int] = mapped_column(primary_key=True)
    tag: Mapped[Tag]


assert_type(Tag().id, int)
assert_type(Vote().tag, Tag)
assert_type(db.session.scalars(select(Vote)), ScalarResult[Vote])
assert_type(db.Model.metadata, MetaData)
