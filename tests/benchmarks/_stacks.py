"""One small app, written once for each way to use SQLAlchemy with Flask, as its docs say.

A way whose package is not installed is left out.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from flask import Flask, current_app
from sqlalchemy import Connection, Engine, String, create_engine, event, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from werkzeug.test import EnvironBuilder

from flask_uow import Database

from ._measure import versions

HAND_WRITTEN, CONTROL, OURS = "hand-written", "hand-written again", "flask_uow"
SAME_ENGINE, TUNED = "hand-written, our engine", "hand-written, WAL and BEGIN"
PACKAGES = ("Flask", "SQLAlchemy", "psycopg", "PyMySQL", "Flask-SQLAlchemy",
            "Flask-SQLAlchemy-Lite", "advanced-alchemy", "alchemical")  # fmt: skip

UNTOUCHED = "untouched"
REQUESTS = {
    UNTOUCHED: ("GET", "/", 200),
    "touch": ("GET", "/touched", 200),
    "1,000 x session.info": ("GET", "/info", 200),
    "read by key": ("GET", "/users/1", 200),
    "read 10 by key": ("GET", "/users", 200),
    "insert": ("POST", "/users", 201),
    "insert, answer with the row": ("POST", "/users/shown", 201),
    "read + update": ("POST", "/users/1", 200),
    "insert + handled error": ("POST", "/users/refused", 422),
}
PAGES = {
    "read, render": ("GET", "/users/1/page", 200),
    "read + update, render": ("POST", "/users/1/page", 200),
    "read, wait, read": ("GET", "/users/1/twice", 200),
}
NO_OPTIONS: Mapping[str, object] = MappingProxyType({})
"""Options for ``create_engine()``: what SQLAlchemy does by default."""
_PAUSE = "BENCHMARK_PAUSE"


class Refused(Exception):
    """What a view raises after its flush, for an error handler to answer."""


class Columns:
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))  # MariaDB needs a length
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

    def pause_by(self, pause: Callable[[], object]) -> None:
        """Call *pause* where the views of ``PAGES`` render, or wait for another service."""
        self.app.config[_PAUSE] = pause

    def request(self, name: str) -> Callable[[], bytes]:
        """A function that sends request *name* to the app, as a server would."""
        method, path, expected = (REQUESTS | PAGES)[name]
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


def _pause() -> None:
    current_app.config[_PAUSE]()


def _render(user: Any) -> Any:
    shown = user.shown()
    _pause()
    return shown


def _new_base() -> Any:
    return type("Base", (DeclarativeBase,), {})


def _new_user(base: Any, table: str) -> Any:
    return type("User", (Columns, base), {"__tablename__": table})


def hand_written(url: str, table: str, options: Mapping[str, object] = NO_OPTIONS) -> Stack:
    return hand_written_on(create_engine(url, **options), table)


def hand_written_on(engine: Engine, table: str) -> Stack:
    """The leanest code that is correct: a session and a transaction in every view.

    It closes its session before it renders, and before it waits for another service.
    """
    app, user = _new_app(), _new_user(_new_base(), table)

    @app.get("/touched")
    def touch() -> Any:
        with Session(engine) as session, session.begin():
            return {"touched": not session.info}

    @app.get("/info")
    def info() -> Any:
        with Session(engine) as session, session.begin():
            for _ in range(1000):
                session.info  # noqa: B018
        return {}

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

    @app.get("/users/<int:key>/page")
    def page(key: int) -> Any:
        with Session(engine) as session, session.begin():
            shown = session.get_one(user, key).shown()
        _pause()
        return shown

    @app.post("/users/<int:key>/page")
    def update_page(key: int) -> Any:
        with Session(engine) as session, session.begin():
            found = session.get_one(user, key)
            found.visits += 1
            shown = found.shown()
        _pause()
        return shown

    @app.get("/users/<int:key>/twice")
    def read_twice(key: int) -> Any:
        with Session(engine) as session, session.begin():
            first = session.get_one(user, key).name
        _pause()
        with Session(engine) as session, session.begin():
            return [first, session.scalars(select(user.name).where(user.id == key + 1)).one()]

    return Stack(app, engine, user)


def same_engine(url: str, table: str, options: Mapping[str, object] = NO_OPTIONS) -> Stack:
    """The same, on an engine as flask_uow makes it: what is left is what a unit costs."""
    app, db = _new_app(), Database(_new_base())
    app.config.update(SQLALCHEMY_DATABASE_URI=url, SQLALCHEMY_ENGINE_OPTIONS=dict(options))
    db.init_app(app)
    with app.app_context():
        return hand_written_on(db.engine, table)


def tuned(url: str, table: str, options: Mapping[str, object] = NO_OPTIONS) -> Stack:
    """The same, on an engine for SQLite that does what an engine of flask_uow does."""
    engine = create_engine(url, **options)
    tune(engine)
    return hand_written_on(engine, table)


def tune(engine: Engine, begin: str = "BEGIN") -> None:
    """Give *engine*, for SQLite, what a careful engineer does.

    :param begin: the statement that begins a transaction.
    """

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _: object) -> None:
        connection.isolation_level = None  # else sqlite3 begins transactions, and too late
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA busy_timeout = 30000")

    @event.listens_for(engine, "begin")
    def send_begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)


def _add_views(app: Flask, db: Any, user: Any, *, commit: bool) -> None:
    """The same views with ``db.session``.

    :param commit: the extension leaves the commit to the view.
    """

    @app.get("/touched")
    def touch() -> Any:
        return {"touched": not db.session.info}

    @app.get("/info")
    def info() -> Any:
        for _ in range(1000):
            db.session.info  # noqa: B018
        return {}

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

    @app.get("/users/<int:key>/page")
    def page(key: int) -> Any:
        return _render(db.session.get_one(user, key))

    @app.post("/users/<int:key>/page")
    def update_page(key: int) -> Any:
        found = db.session.get_one(user, key)
        found.visits += 1
        if commit:
            db.session.commit()
        return _render(found)

    @app.get("/users/<int:key>/twice")
    def read_twice(key: int) -> Any:
        first = db.session.get_one(user, key).name
        _pause()
        return [first, db.session.scalars(select(user.name).where(user.id == key + 1)).one()]


def _with_extension(app: Flask, db: Any, user: Any, *, commit: bool) -> Stack:
    db.init_app(app)
    _add_views(app, db, user, commit=commit)
    with app.app_context():
        return Stack(app, db.engine, user, db)


def flask_uow(url: str, table: str, options: Mapping[str, object] = NO_OPTIONS) -> Stack:
    app, base = _new_app(), _new_base()
    app.config.update(SQLALCHEMY_DATABASE_URI=url, SQLALCHEMY_ENGINE_OPTIONS=dict(options))
    return _with_extension(app, Database(base), _new_user(base, table), commit=False)


def flask_sqlalchemy(url: str, table: str, options: Mapping[str, object] = NO_OPTIONS) -> Stack:
    app = _new_app()
    app.config.update(SQLALCHEMY_DATABASE_URI=url, SQLALCHEMY_ENGINE_OPTIONS=dict(options))
    db = import_module("flask_sqlalchemy").SQLAlchemy(model_class=_new_base())
    return _with_extension(app, db, _new_user(db.Model, table), commit=True)


def flask_sqlalchemy_lite(
    url: str, table: str, options: Mapping[str, object] = NO_OPTIONS
) -> Stack:
    app = _new_app()
    app.config["SQLALCHEMY_ENGINES"] = {"default": {"url": url, **options}}
    db = import_module("flask_sqlalchemy_lite").SQLAlchemy()
    return _with_extension(app, db, _new_user(_new_base(), table), commit=True)


def advanced_alchemy(url: str, table: str, options: Mapping[str, object] = NO_OPTIONS) -> Stack:
    app, user = _new_app(), _new_user(_new_base(), table)
    package = import_module("advanced_alchemy.extensions.flask")
    config = package.SQLAlchemySyncConfig(
        connection_string=url,
        commit_mode="autocommit",
        engine_config=package.EngineConfig(**options),
    )

    class Extension(package.AdvancedAlchemy):  # type: ignore[misc, name-defined]
        session = property(lambda self: self.get_sync_session())

    db = Extension(config, app)
    _add_views(app, db, user, commit=False)
    return Stack(app, config.get_engine(), user, db)


def alchemical(url: str, table: str, options: Mapping[str, object] = NO_OPTIONS) -> Stack:
    app = _new_app()
    app.config.update(ALCHEMICAL_DATABASE_URL=url, ALCHEMICAL_ENGINE_OPTIONS=dict(options))
    db = import_module("alchemical.flask").Alchemical(model_class=_new_base())
    db.init_app(app)
    user = _new_user(db.Model, table)
    _add_views(app, db, user, commit=True)
    return Stack(app, db.get_engine(), user, db)


class Build(Protocol):
    def __call__(
        self, url: str, table: str, options: Mapping[str, object] = NO_OPTIONS, /
    ) -> Stack: ...


class Way(NamedTuple):
    """One way to write the app.

    :ivar module: without it the way is left out.
    :ivar only: the one database that the way is for, if it is not for all.
    """

    build: Build
    module: str
    only: str = ""

    def is_for(self, url: str) -> bool:
        return url.startswith(self.only) and find_spec(self.module) is not None


WAYS = {
    HAND_WRITTEN: Way(hand_written, "sqlalchemy"),
    CONTROL: Way(hand_written, "sqlalchemy"),
    SAME_ENGINE: Way(same_engine, "flask_uow"),
    TUNED: Way(tuned, "sqlalchemy", only="sqlite"),
    OURS: Way(flask_uow, "flask_uow"),
    "Flask-SQLAlchemy": Way(flask_sqlalchemy, "flask_sqlalchemy"),
    "Lite": Way(flask_sqlalchemy_lite, "flask_sqlalchemy_lite"),
    "Advanced Alchemy": Way(advanced_alchemy, "advanced_alchemy"),
    "Alchemical": Way(alchemical, "alchemical"),
}
COMPARED = [name for name in WAYS if name not in {CONTROL, SAME_ENGINE, TUNED}]
"""The ways without those that only explain a figure."""


@contextmanager
def open_stacks(
    url: str, ways: Iterable[str] = tuple(WAYS), options: Mapping[str, object] = NO_OPTIONS
) -> Iterator[dict[str, Stack]]:
    """Build the apps of *ways*, each with a table of its own.

    :param url: of the database; ``sqlite://`` stands for a file for each app.
    :param options: for ``create_engine()``.
    """
    with TemporaryDirectory() as folder:
        stacks: dict[str, Stack] = {}
        try:
            for number, (name, way) in enumerate(WAYS.items()):
                if name in ways and way.is_for(url):
                    file = f"sqlite:///{Path(folder, f'{number}.db')}"
                    place = file if url == "sqlite://" else url
                    stack = way.build(place, f"benchmark_{number}", options)
                    stack.fill()
                    stacks[name] = stack
            yield stacks
        finally:
            for stack in stacks.values():
                stack.remove()


def add_url(parser: argparse.ArgumentParser, default: str = "sqlite://") -> None:
    """Give *parser* the option ``--url``."""
    parser.add_argument("--url", default=default, help=f"of the database; default: {default}")


def print_versions() -> None:
    print(versions(*PACKAGES), "\n")
