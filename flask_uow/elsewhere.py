"""Messages for names of other extensions that ``Database`` does not have: what to write instead.

:data:`NAMES` has names of Flask-SQLAlchemy 2 and 3, Flask-SQLAlchemy-Lite and Alchemical. Names of
SQLAlchemy itself, such as ``db.Column``, are looked up. ``hasattr()`` is false for all these names,
and type checkers do not see them. Nothing here knows Flask.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

import sqlalchemy
import sqlalchemy.orm

P = ParamSpec("P")
T = TypeVar("T")

COMPAT = (
    " To keep the names of Flask-SQLAlchemy in an existing app, write"
    " 'from flask_uow.compat import SQLAlchemy'."
)
_CONFIG = "set {0} in 'app.config'"
_ASYNC = (
    "async engines are not supported. In 'async def' views, use 'db.session'; to await queries,"
    " create an engine with 'sqlalchemy.ext.asyncio.create_async_engine'"
)
_BINDS = (
    "it works on the tables of all engines. For one engine, write"
    ' \'db.metadatas["audit"].{0}(db.engines["audit"])\''
)
_OUTSIDE = (
    "write 'db.session' in a view, and 'with db.atomic() as session:' elsewhere; for a session"
    " outside the unit of work, write 'with db.independent() as session:'"
)

NAMES: Mapping[str, str] = {
    # Flask-SQLAlchemy 3
    "Query": "write 'db.session.scalars(sqlalchemy.select(User))'",
    "Table": "write 'sqlalchemy.Table(\"tags\", db.metadata, ...)'",
    "reflect": "write 'db.metadata.reflect(db.engine)' inside an app context",
    # Flask-SQLAlchemy 2
    "app": "write 'flask.current_app': one 'Database' may serve several apps",
    "get_app": "write 'flask.current_app': one 'Database' may serve several apps",
    "get_binds": "write 'db.engines'; a table's engine is in its 'info[\"bind_key\"]'",
    "get_tables_for_bind": "write 'db.metadatas[\"audit\"].tables'",
    "create_scoped_session": "write 'db.session', which always exists",
    "create_session": "write 'db.sessionmaker()'",
    "create_engine": f"{_CONFIG.format('SQLALCHEMY_DATABASE_URI or SQLALCHEMY_BINDS')}",
    "make_declarative_base": "give the base itself: 'Database(Base)'",
    # Flask-SQLAlchemy-Lite
    "get_session": _OUTSIDE,
    "get_or_abort": "write 'db.get_or_404(User, key)'",
    "one_or_abort": "write 'db.one_or_404(select)'",
    **dict.fromkeys(
        (
            "async_engine",
            "async_engines",
            "async_get_or_abort",
            "async_one_or_abort",
            "async_session",
            "async_sessionmaker",
            "async_test_isolation",
            "get_async_engine",
            "get_async_session",
        ),
        _ASYNC,
    ),
    # Alchemical
    "Session": _OUTSIDE,
    "begin": _OUTSIDE,
    "bind_names": "write 'db.engines'",
    "initialize": "set the configuration in 'app.config', and call 'db.init_app(app)'",
    "is_async": _ASYNC,
}
"""What to write instead of an attribute of ``db``."""

ARGUMENTS: Mapping[str, Mapping[str, str]] = {
    "__init__": {
        "add_models_to_shell": "leave it out: 'flask shell' always imports the models",
        "app": "write 'Database(app)', or 'db.init_app(app)'",
        "binds": _CONFIG.format("SQLALCHEMY_BINDS"),
        "disable_autonaming": (
            "give your own base, 'Database(Base)': only 'flask_uow.Model' and 'db.Model' name"
            " tables"
        ),
        "engine_options": _CONFIG.format("SQLALCHEMY_ENGINE_OPTIONS"),
        "model_class": "give the base itself: 'Database(Base)'",
        "naming_convention": "write 'metadata=MetaData(naming_convention=...)'",
        "query_class": (
            "leave it out: models have no 'query'. Write"
            " 'db.session.scalars(sqlalchemy.select(User))'"
        ),
        "require_default_engine": "leave it out: an engine must be configured only when it is used",
        "url": _CONFIG.format("SQLALCHEMY_DATABASE_URI"),
        "use_native_unicode": "leave it out: Python 3 strings are Unicode",
    },
    "create_all": dict.fromkeys(
        ("app", "bind", "bind_key", "checkfirst", "tables"), _BINDS.format("create_all")
    ),
    "drop_all": dict.fromkeys(
        ("app", "bind", "bind_key", "checkfirst", "tables"), _BINDS.format("drop_all")
    ),
}
"""By method of ``Database``: what to do instead of giving an argument that it does not have."""


class NotHere:
    """A descriptor for a missing attribute, whose ``AttributeError`` says what to write instead.

    A ``__getattr__`` would slow down every ``db.session``.
    """

    def __init__(self, place: str) -> None:
        self.place = place

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type) -> object:
        place = self.place.format(owner=owner.__name__)
        text = f"{owner.__name__!r} has no attribute {self.name!r}: {place}.{COMPAT}"
        raise AttributeError(text, name=self.name, obj=instance)


class Names:
    """The base of ``Database``, with a :class:`NotHere` for each missing name."""

    def __dir__(self) -> list[str]:
        """Return all names but the missing ones."""
        return [
            name
            for name in super().__dir__()
            if not isinstance(inspect.getattr_static(self, name, None), NotHere)
        ]


def _of_sqlalchemy() -> dict[str, str]:
    """Return a message for each name of SQLAlchemy that Flask-SQLAlchemy has on ``db``."""
    imports = {
        name: f"'from {module.__name__} import {name}'"
        for module in (sqlalchemy.orm, sqlalchemy)
        for name in dir(module)
    }
    found = {name: f"write {line}" for name, line in imports.items()}
    for name in dir(sqlalchemy.orm.scoped_session):
        found[name] = f"write 'db.session.{name}'"
        if name in imports:
            found[name] += f", or {imports[name]}"
    return {name: place for name, place in found.items() if not name.startswith("_")}


def _add_names() -> None:
    for name, place in {**_of_sqlalchemy(), **NAMES}.items():
        missing = NotHere(place)
        missing.__set_name__(Names, name)
        setattr(Names, name, missing)


_add_names()


def missing_name(name: str) -> ImportError | AttributeError:
    """Return the error for a name that the package ``flask_uow`` does not have.

    ``from flask_uow import name`` replaces the text of an ``AttributeError``, so there it is an
    ``ImportError``. Elsewhere, ``hasattr()`` needs an ``AttributeError``.
    """
    text = f"'flask_uow' has no {name!r}"
    if name == "SQLAlchemy":
        text += ": write 'from flask_uow import Database'." + COMPAT
    frame = inspect.currentframe()
    for _ in range(2):  # the module's '__getattr__', then its caller
        frame = frame and frame.f_back
    if name == "SQLAlchemy" and frame and frame.f_globals.get("__name__") in _IMPORTING:
        return ImportError(text, name="flask_uow")
    return AttributeError(text, name=name)


_IMPORTING = {"importlib._bootstrap", "_frozen_importlib"}


def explain_arguments(method: Callable[P, T]) -> Callable[P, T]:
    """Let *method* say what to write instead of an argument of Flask-SQLAlchemy.

    :raises TypeError: from *method*, for an argument that it does not have.
    """
    elsewhere = ARGUMENTS[method.__name__]
    signature = inspect.signature(method)

    @functools.wraps(method)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            unknown = [name for name in kwargs if name not in signature.parameters]
            name = unknown[0] if unknown else "bind_key"  # the first of 'create_all("audit")'
            called = f"{method.__qualname__.removesuffix('.__init__')}()"
            if name in elsewhere:
                text = f"{called} has no argument {name!r}: {elsewhere[name]}.{COMPAT}"
                raise TypeError(text) from None
            raise TypeError(f"{called}: {error}") from None
        return method(*args, **kwargs)

    return checked
