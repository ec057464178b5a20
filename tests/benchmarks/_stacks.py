"""One small app, written once for each way to use SQLAlchemy with Flask, as its docs say.

A way whose package is not installed is left out.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flask import Flask
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from werkzeug.test import EnvironBuilder

from flask_uow import Database

from ._measure import versions

HAND_WRITTEN, CONTROL, OURS = "hand-written", "hand-written again", "flask_uow"
SAME_ENGINE = "hand-written, our engine"
PACKAGES = ("Flask", "SQLAlchemy", "psycopg", "Flask-SQLAlchemy", "Flask-SQLAlchemy-Lite",
            "advanced-alchemy")  # fmt: skip

REQUESTS = {
    "untouched": ("GET", "/", 200),
    "read by key": ("GET", "/users/1", 200),
    "read 10 by key": ("GET", "/users", 200),
    "insert": ("POST", "/users", 201),
    "insert, answer with the row": ("POST", "/users/shown", 201),
    "read + update": ("POST", "/users/1", 200),
    "insert + handled error": ("POST", "/users/refused", 422),
}


class Refused(Exception):
    """What a view raises after its flush, for an error handler to answer."""


class Columns:
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    visits: Mapped[int] = mapped_column(default=0)

    def shown(self) -> dict[str, Any]:
        return {"id": self.id, "name": self.name, "visits": self.visits}


@dataclass
class Stack:
    """An app and what a benchmark needs to use it.

    :ivar user: the model.
    :ivar db: the extension object, if there is one.
    """

    app: Flask
    engine: Engine
    user: Any
    db: Any = None

    def request(self, name: str) -> Callable[[], bytes]:
        """A function that sends request *name* to the app, as a server would."""
        method, path, expected = REQUESTS[name]
        environ = EnvironBuilder(path, method=method).get_environ()
        wsgi_app = self.app.wsgi_app
        status = ""

        def start_response(line: str, *_: Any) -> Callable[[bytes], object]:
            nonlocal status
            status = line
            return lambda _: None

        def request() -> bytes:
            body: Any = wsgi_app({**environ, "wsgi.input": io.BytesIO()}, start_response)
            try:
                return b"".join(body)
            finally:
                body.close()

        request()
        if not status.startswith(str(expected)):
            raise RuntimeError(f"{method} {path} of {self.app.name!r} answered {status!r}")
        return request

    def fill(self) -> None:
        """Create the table anew, with ten rows."""
        self.user.metadata.drop_all(self.engine)
        self.user.metadata.create_all(self.engine)
        with Session(self.engine) as session, session.begin():
            session.add_all(self.user(name=f"User {number}") for number in range(10))

    def remove(self) -> None:
        self.user.metadata.drop_all(self.engine)
        self.engine.dispose()


# The ways ----------------------------------------------------------------------------------------


def _new_app() -> Flask:
    app = Flask(__name__)
    app.register_error_handler(Refused, lambda _: ({"error": "refused"}, 422))
    app.add_url_rule("/", view_func=lambda: {"touched": False})
    return app


def _new_base() -> Any:
    return type("Base", (DeclarativeBase,), {})


def _new_user(base: Any, table: str) -> Any:
    return type("User", (Columns, base), {"__tablename__": table})


def hand_written(url: str, table: str, engine: Engine | None = None) -> Stack:
    """The leanest code that is correct: a session and a transaction in every view."""
    app, user = _new_app(), _new_user(_new_base(), table)
    engine = engine or create_engine(url)

    @app.get("/users/<int:key>")
    def read(key: int) -> Any:
        with Session(engine) as session, session.begin():
            return session.get_one(user, key).shown()

    @app.get("/users")
    def read_ten() -> Any:
        with Session(engine) as session, session.begin():
            return [session.get_one(user, key).name for key in range(1, 11)]

    @app.post("/users")
    def insert() -> Any:
        with Session(engine) as session, session.begin():
            session.add(user(name="Ada"))
        return {}, 201

    @app.post("/users/shown")
    def insert_shown() -> Any:
        with Session(engine) as session, session.begin():
            ada = user(name="Ada")
            session.add(ada)
            session.flush()
            return ada.shown(), 201

    @app.post("/users/<int:key>")
    def update(key: int) -> Any:
        with Session(engine) as session, session.begin():
            session.get_one(user, key).visits += 1
        return {}

    @app.post("/users/refused")
    def refuse() -> Any:
        with Session(engine) as session, session.begin():
            session.add(user(name="Ada"))
            session.flush()
            raise Refused

    return Stack(app, engine, user)


def same_engine(url: str, table: str) -> Stack:
    """The same, on an engine as flask_uow makes it: what is left is what a unit costs."""
    app, db = _new_app(), Database(_new_base())
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    db.init_app(app)
    with app.app_context():
        return hand_written(url, table, db.engine)


def _add_views(app: Flask, db: Any, user: Any, *, commit: bool) -> None:
    """The same views with ``db.session``.

    :param commit: the extension leaves the commit to the view.
    """

    @app.get("/users/<int:key>")
    def read(key: int) -> Any:
        return db.session.get_one(user, key).shown()

    @app.get("/users")
    def read_ten() -> Any:
        return [db.session.get_one(user, key).name for key in range(1, 11)]

    @app.post("/users")
    def insert() -> Any:
        db.session.add(user(name="Ada"))
        if commit:
            db.session.commit()
        return {}, 201

    @app.post("/users/shown")
    def insert_shown() -> Any:
        ada = user(name="Ada")
        db.session.add(ada)
        if commit:
            db.session.commit()
        else:
            db.session.flush()
        return ada.shown(), 201

    @app.post("/users/<int:key>")
    def update(key: int) -> Any:
        db.session.get_one(user, key).visits += 1
        if commit:
            db.session.commit()
        return {}

    @app.post("/users/refused")
    def refuse() -> Any:
        db.session.add(user(name="Ada"))
        db.session.flush()
        raise Refused


def _with_extension(app: Flask, db: Any, user: Any, *, commit: bool) -> Stack:
    db.init_app(app)
    _add_views(app, db, user, commit=commit)
    with app.app_context():
        return Stack(app, db.engine, user, db)


def flask_uow(url: str, table: str) -> Stack:
    app, base = _new_app(), _new_base()
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    return _with_extension(app, Database(base), _new_user(base, table), commit=False)


def flask_sqlalchemy(url: str, table: str) -> Stack:
    app = _new_app()
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    db = import_module("flask_sqlalchemy").SQLAlchemy(model_class=_new_base())
    return _with_extension(app, db, _new_user(db.Model, table), commit=True)


def flask_sqlalchemy_lite(url: str, table: str) -> Stack:
    app = _new_app()
    app.config["SQLALCHEMY_ENGINES"] = {"default": url}
    db = import_module("flask_sqlalchemy_lite").SQLAlchemy()
    return _with_extension(app, db, _new_user(_new_base(), table), commit=True)


def advanced_alchemy(url: str, table: str) -> Stack:
    app, user = _new_app(), _new_user(_new_base(), table)
    package = import_module("advanced_alchemy.extensions.flask")
    config = package.SQLAlchemySyncConfig(connection_string=url, commit_mode="autocommit")

    class Extension(package.AdvancedAlchemy):  # type: ignore[misc, name-defined]
        session = property(lambda self: self.get_sync_session())

    db = Extension(config, app)
    _add_views(app, db, user, commit=False)
    return Stack(app, config.get_engine(), user, db)


# name -> how to build it, and the module it needs
WAYS: dict[str, tuple[Callable[[str, str], Stack], str]] = {
    HAND_WRITTEN: (hand_written, "sqlalchemy"),
    CONTROL: (hand_written, "sqlalchemy"),
    SAME_ENGINE: (same_engine, "flask_uow"),
    OURS: (flask_uow, "flask_uow"),
    "Flask-SQLAlchemy": (flask_sqlalchemy, "flask_sqlalchemy"),
    "Lite": (flask_sqlalchemy_lite, "flask_sqlalchemy_lite"),
    "Advanced Alchemy": (advanced_alchemy, "advanced_alchemy"),
}


@contextmanager
def open_stacks(url: str) -> Iterator[dict[str, Stack]]:
    """Build the apps of all ways, each with a table of its own.

    :param url: of the database; ``sqlite://`` stands for a file for each app.
    """
    print(versions(*PACKAGES), "\n")
    with TemporaryDirectory() as folder:
        stacks: dict[str, Stack] = {}
        try:
            for number, (name, (build, module)) in enumerate(WAYS.items()):
                if find_spec(module):
                    file = f"sqlite:///{Path(folder, f'{number}.db')}"
                    stack = build(file if url == "sqlite://" else url, f"benchmark_{number}")
                    stack.fill()
                    stacks[name] = stack
            yield stacks
        finally:
            for stack in stacks.values():
                stack.remove()


def add_url(parser: argparse.ArgumentParser, default: str = "sqlite://") -> None:
    """Give *parser* the option ``--url``."""
    parser.add_argument("--url", default=default, help=f"of the database; default: {default}")
