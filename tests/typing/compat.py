# pyright: strict
"""What an app of ``flask_uow.compat`` writes: pyright knows ``db.Model``, and what is below it.

mypy needs the plugin ``flask_uow.mypy`` for ``class User(db.Model)``.
"""

from __future__ import annotations

from typing import Any

from flask import Flask
from sqlalchemy import Engine, MetaData
from sqlalchemy.orm import Mapped, Session, mapped_column
from typing_extensions import assert_type

from flask_uow import SessionProxy
from flask_uow.compat import SQLAlchemy
from flask_uow.compat.pagination import Pagination
from flask_uow.compat.query import Query

app = Flask(__name__)
db = SQLAlchemy(app, session_options={"autoflush": False})


class User(db.Model):  # type: ignore[name-defined,misc]
    id: Mapped[int] = mapped_column(primary_key=True)
    name = db.Column(db.String(80))


tags = db.Table("tags", db.Column("id", db.Integer), bind_key="other")

assert_type(db.get_or_404(User, 1), User)
assert_type(User(name="ada").id, int)
assert_type(db.session, SessionProxy[Session])
assert_type(db.engine, Engine)
assert_type(db.engines[None], Engine)
assert_type(db.metadatas["other"], MetaData)
assert_type(db.metadata, MetaData)
assert_type(db.paginate(db.select(User), per_page=5), Pagination)
assert_type(db.Model.query, Query[Any])
assert_type(db.joinedload, Any)
db.create_all("other")
db.drop_all(["other", None])


@app.get("/")
@db.unit(commit="on_success")
def index() -> str:
    return str(User.query.paginate(page=1).total)


assert_type(index(), str)
