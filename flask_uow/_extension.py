"""``Database``: what an application calls ``db``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from flask import Flask
from sqlalchemy import Engine, MetaData
from sqlalchemy.orm import DeclarativeBase, Session, registry, sessionmaker

from . import _binds, _hooks, _settings
from ._engines import Engines
from ._options import CommitRule, F, UnitOptions, commit_rule, mark
from ._scope import Scope, SessionProxy, current_context
from ._session import unit_session_class
from ._state import EXTENSION, AppState
from .errors import ConfigError, SetupError, shown


class Database:
    """Gives every request one unit of work.

    ::

        db = Database(Base)

        def create_app():
            app = Flask(__name__)
            app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///app.db"
            db.init_app(app)
            return app

    One object serves any number of apps: what belongs to an app is kept on the app, what belongs
    to a context on the context.

    :param parts: any of: declarative bases, registries, and the app itself, for a program that
        has just one. The first base, or a new one if there is none, is ``db.Model``.
    :param metadata: one or several, for tables that no class stands for and for imperative
        mappings.
    :param session_options: for the ``Session``, such as ``{"autoflush": False}``; ``"class_"``
        may name a subclass of it.
    :raises SetupError: a part is none of these.
    """

    def __init__(
        self,
        *parts: Flask | type[Any] | registry,
        metadata: MetaData | Iterable[MetaData] = (),
        session_options: Mapping[str, Any] | None = None,
    ) -> None:
        apps = [part for part in parts if isinstance(part, Flask)]
        bases = [part for part in parts if not isinstance(part, Flask)]
        self._metadatas = [metadata] if isinstance(metadata, MetaData) else list(metadata)
        if not bases:
            bases.append(_new_base(self._metadatas))
        self._registries = [_registry_of(base) for base in bases]
        for one in self._registries:
            _binds.stamp(one.mappers)  # classes that were mapped before
        self.Model: Any = bases[0]
        options = dict(session_options or {})
        options["class_"] = unit_session_class(options.get("class_", Session))
        self._session_options = options
        self._scope: Scope[Session] = Scope()
        self.session: SessionProxy[Session] = SessionProxy(self._scope)
        """The session of the current unit of work (P2): opened at its first use, committed or
        rolled back when the request is answered, closed when the context ends."""
        for app in apps:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Prepare *app*. Connects to nothing; engines are made at their first use.

        :raises SetupError: *app* is no Flask app, or has a ``Database`` already.
        :raises ConfigError: ``UOW_COMMIT`` is set and is no rule.
        """
        if not isinstance(app, Flask):
            raise SetupError(
                f"'init_app' was given {shown(app)}, which is not a Flask app. Write"
                " 'db.init_app(app)' with the object that 'Flask(__name__)' returned."
            )
        if EXTENSION in app.extensions:
            owner = "this" if app.extensions[EXTENSION].owner is self._scope else "another"
            raise SetupError(
                f"The app {app.name!r} is registered with {owner} Database already; a second"
                " registration would finish every request twice. Call 'init_app' (or"
                " 'register_extension') once for each app, on one 'Database()'."
            )
        _settings.read_commit_rule(app.config)
        app.extensions[EXTENSION] = AppState(
            app,
            self._scope,
            self._session_options,
            who=current_context,
            describe=self._scope.describe,
            has_place=self._scope.on,
        )
        app.extensions.setdefault("sqlalchemy", self)  # where other extensions look
        _hooks.install(app, self._scope)

    @property
    def engine(self) -> Engine:
        """The default engine of the current app.

        :raises OutsideContext: no Flask context is active.
        :raises UnknownEngine: the app has only named engines.
        """
        return self.engines[None]

    @property
    def engines(self) -> Engines:
        """The engines of the current app, by name; ``None`` and ``"default"`` are the same.

        :raises OutsideContext: no Flask context is active.
        """
        return Engines(self._scope.state().engines)

    def get_engine(self, name: str | None = None) -> Engine:
        """``engines[name]``, under the name that migration environments call.

        :raises UnknownEngine: no engine has that name.
        """
        return self.engines[name]

    @property
    def sessionmaker(self) -> sessionmaker[Session]:
        """Makes sessions that belong to no unit: the caller commits and closes them.

        :raises OutsideContext: no Flask context is active.
        """
        return cast("sessionmaker[Session]", self._scope.state().sessionmaker)

    @property
    def metadata(self) -> MetaData:
        """The metadata of the first base, or the first one that was given."""
        return self.metadatas[0]

    @property
    def metadatas(self) -> list[MetaData]:
        """All metadata: given ones, those of the bases, and those their models brought along."""
        found = list(self._metadatas)
        for one in self._registries:
            found.append(one.metadata)
            found += [getattr(m.local_table, "metadata", one.metadata) for m in one.mappers]
        return list(dict.fromkeys(found))

    def create_all(self) -> None:
        """Create the tables that do not exist yet, each on its own engine.

        :raises UnknownEngine: a table belongs to an engine that is not configured; no table was
            created.
        """
        for metadata, engine, tables in self._tables_by_engine():
            metadata.create_all(engine, tables=tables)

    def drop_all(self) -> None:
        """Drop all tables, each on its own engine.

        :raises UnknownEngine: as :meth:`create_all`.
        """
        for metadata, engine, tables in reversed(self._tables_by_engine()):
            metadata.drop_all(engine, tables=tables)

    def _tables_by_engine(self) -> list[tuple[MetaData, Engine, list[Any]]]:
        engines = self.engines
        return [
            (metadata, engines[name], tables)
            for metadata in self.metadatas
            for name, tables in _binds.group(metadata, engines).items()
        ]

    def unit(self, view: object = None, /, *, commit: CommitRule | None = None) -> Callable[[F], F]:
        """Say how the unit of one view runs.

        ::

            @app.post("/webhook")
            @db.unit(commit="always")     # store it, whatever is answered
            def webhook(): ...

        :param commit: the rule for this view, instead of ``UOW_COMMIT``: ``"on_success"``,
            ``"always"``, ``"explicit"`` or a function that gets the response and returns
            whether to commit.
        :raises ConfigError: *commit* is no rule, or the parentheses are missing.
        """
        if view is not None:
            raise ConfigError(
                "'@db.unit' was written without its options. Write for example"
                " '@db.unit(commit=\"always\")', or leave it out: every view has a unit."
            )
        rule = None if commit is None else commit_rule(commit, "'commit' of '@db.unit(...)'")
        options = UnitOptions(commit=rule)
        return lambda function: mark(function, options)

    def set_rollback_only(self) -> None:
        """Let the current unit be rolled back at its end, whatever the response says (P4).

        For an answer that reports an error with status 200, for instance. ``commit()`` is
        refused from here on. If an exception leaves the view afterwards, the mark goes with the
        work that is rolled back, and what the error handler writes is stored.

        :raises OutsideContext: no Flask context is active.
        """
        self._scope.unit().session.rollback_only = True

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.Model!r}>"


def _new_base(metadatas: list[MetaData]) -> type[DeclarativeBase]:
    attributes = {"metadata": metadatas[0]} if metadatas else {}
    return cast("type[DeclarativeBase]", type("Model", (DeclarativeBase,), attributes))


def _registry_of(base: object) -> registry:
    found = base if isinstance(base, registry) else getattr(base, "registry", None)
    if isinstance(found, registry):
        return found
    hint = (
        "'class Base(DeclarativeBase): pass' and pass 'Base'"
        if base is DeclarativeBase
        else "a declarative base ('Database(Base)'), a registry, an app, or 'metadata=...'"
    )
    raise SetupError(
        f"'Database' was given {shown(base)}, which has no registry of models. Write {hint}."
    )
