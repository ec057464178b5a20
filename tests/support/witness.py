"""The witness: a second connection that tells what is really stored."""

from __future__ import annotations

import functools
from typing import Any

from sqlalchemy import Engine, NullPool, create_engine, event, func, select, text
from sqlalchemy.orm import DeclarativeBase, Session

from flask_uow._sqlite import temporary

from .models import Base, Post, User


class Witness:
    """Looks with an engine and connections of its own, a new one for every question.

    With ``sqlite://`` it looks at the temporary file of the engine that connected last.
    """

    def __init__(self, url: str) -> None:
        self.engine = _engine(url) if url.startswith("sqlite") else _engine_of_a_server(url)
        if url == "sqlite://":
            event.listen(self.engine, "do_connect", _connect_to_newest_file)

    def ask(self, statement: Any, **parameters: Any) -> list[Any]:
        """The rows of a SELECT, given as text or as a construct; of one column only its values."""
        if isinstance(statement, str):
            statement = text(statement)
        with self.engine.connect() as connection:
            rows = connection.execute(statement, parameters).all()
        return [row[0] if len(row) == 1 else tuple(row) for row in rows]

    def names(self) -> list[str]:
        """The names of the stored users, sorted."""
        return sorted(self.ask(select(User.name)))

    def titles(self) -> list[str]:
        """The titles of the stored posts, sorted."""
        return sorted(self.ask(select(Post.title)))

    def count(self, model: type[Base] = User) -> int:
        """How many rows of *model* are stored."""
        number: int = self.ask(select(func.count()).select_from(model))[0]
        return number

    def store(self, *instances: DeclarativeBase) -> None:
        """Store *instances* and commit, for tests that need rows to begin with."""
        with Session(self.engine) as session, session.begin():
            session.add_all(instances)


def _engine(url: str) -> Engine:
    return create_engine(url, poolclass=NullPool)


_engine_of_a_server = functools.cache(_engine)  # a new engine asks the server for its version


def _connect_to_newest_file(_dialect: object, _entry: object, args: list[Any], _: object) -> None:
    args[0] = temporary.path_for(list(temporary._folders)[-1])
