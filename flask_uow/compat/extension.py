"""``SQLAlchemy``: Flask-SQLAlchemy's class, on top of :class:`flask_uow.Database`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import sqlalchemy
from flask import Flask, abort, has_app_context
from sqlalchemy import Engine, MetaData, Select, event, exc, orm

from .._engine.build import Engines
from .._request.app_state import EXTENSION
from .._request.proxy import SessionProxy
from .._transaction.routing import DEFAULT, unknown
from ..database import Database
from ..errors import SetupError, UnknownEngine
from . import config, model, table, track_modifications
from .pagination import Pagination, SelectPagination
from .query import Query
from .session import Session
from .units import AppContextUnits

if TYPE_CHECKING:
    from .model import NewModel

T = TypeVar("T")
BindKeys = str | None | list[str | None]

_ALL = "__all__"


class SQLAlchemy(Database):
    """What Flask-SQLAlchemy 3.1 calls ``SQLAlchemy``, for an app that changes one import.

    Everything there has its name and its meaning here; :class:`flask_uow.Database` has the rest.
    The app commits by itself, as before: ``UOW_COMMIT`` is ``"explicit"``. A view becomes a unit of
    work by ``@db.unit(commit="on_success")``, and the whole app by ``UOW_COMMIT = "on_success"``.

    :param app: an app to initialize now.
    :param metadata: the ``MetaData`` of models without a bind key; not with a *model_class* that is
        a subclass of ``DeclarativeBase``, which has one.
    :param session_options: for each session. ``"class_"`` is a subclass of
        :class:`~flask_uow.compat.session.Session`, ``"scopefunc"`` a function whose result names
        the current session; with it, sessions are none of a unit of work, and ``db.unit``,
        ``db.atomic`` and ``db.on_commit`` do not see them.
    :param query_class: the class of ``Model.query``.
    :param model_class: what ``db.Model`` inherits from: a subclass of
        :class:`~flask_uow.compat.model.Model`, of ``DeclarativeBase`` or ``DeclarativeBaseNoMeta``,
        or a complete base with a metaclass.
    :param engine_options: for each engine; ``app.config`` has precedence.
    :param add_models_to_shell: let ``flask shell`` know ``db`` and the models.
    :param disable_autonaming: do not name tables after their models.
    :raises ConfigError: *model_class* cannot be a base.
    :raises SetupError: as :meth:`init_app`; or a subclass overrides an internal method of
        Flask-SQLAlchemy that is never called here.
    """

    _registry_class = AppContextUnits
    _units: AppContextUnits

    if TYPE_CHECKING:
        Model: type[NewModel]  # type: ignore[assignment]

    def __init__(
        self,
        app: Flask | None = None,
        *,
        metadata: MetaData | None = None,
        session_options: dict[str, Any] | None = None,
        query_class: type[Query[Any]] = Query,
        model_class: Any = model.Model,
        engine_options: dict[str, Any] | None = None,
        add_models_to_shell: bool = True,
        disable_autonaming: bool = False,
    ) -> None:
        _refuse_overrides(type(self))
        self.Query = query_class
        self._by_bind_key: dict[str | None, MetaData] = {}
        self._engine_options = dict(engine_options or {})
        self._add_models_to_shell = add_models_to_shell
        self.Table = table.table_class(self)
        base = self._make_base(model_class, metadata, autonaming=not disable_autonaming)
        options = dict(session_options or {})
        scopefunc = options.pop("scopefunc", None)
        given = list(self._by_bind_key.values())
        super().__init__(base, metadata=given, session_options=self._completed(options))
        model.set_up_base(base, self)
        if scopefunc is not None:
            self.session = self._make_scoped_session({"scopefunc": scopefunc})
        if app is not None:
            self.init_app(app)

    def _make_base(self, model_class: Any, metadata: MetaData | None, *, autonaming: bool) -> Any:
        if metadata is not None and isinstance(model_class, type):
            if model.plain_base_of(model_class) is None:
                metadata.info["bind_key"] = None
                self._by_bind_key[None] = metadata
            else:
                warnings.warn(
                    f"'metadata' has no effect beside 'model_class={model_class.__name__}', which"
                    " has one. Write 'metadata = ...' in that class.",
                    DeprecationWarning,
                    stacklevel=3,
                )
        base = model.make_base(model_class, self, autonaming=autonaming)
        if None in self._by_bind_key:
            base.metadata = self._by_bind_key[None]
        else:
            base.metadata.info["bind_key"] = None
            self._by_bind_key[None] = base.metadata
        return base

    def _completed(self, session_options: dict[str, Any]) -> dict[str, Any]:
        options = {"class_": Session, "query_cls": self.Query, **session_options}
        if isinstance(options["class_"], type) and issubclass(options["class_"], Session):
            options["db"] = self
        return options

    def _make_scoped_session(self, options: dict[str, Any]) -> Any:
        """Make a session proxy like Flask-SQLAlchemy's; its sessions belong to no unit of work.

        :param options: for each session; ``"scopefunc"`` is the scope, by default the app context.
        """
        options = dict(options)
        scopefunc = options.pop("scopefunc", self._units.current_context)
        factory = _SessionFactory(self, **{**self._session_options, **options})
        return orm.scoped_session(factory, scopefunc)

    def init_app(self, app: Flask) -> None:
        """Prepare *app*, and create its engines: a later change of ``app.config`` has no effect.

        No connection is made.

        :raises SetupError: *app* has a ``SQLAlchemy`` or a ``Database`` already, or it has no
            database in its config.
        :raises ConfigError: a value in ``app.config`` cannot be used.
        """
        if isinstance(app, Flask):
            if "sqlalchemy" in app.extensions and EXTENSION not in app.extensions:
                raise SetupError(
                    f"The app {app.name!r} has another extension in 'app.extensions["
                    "\"sqlalchemy\"]'. Leave one of the two 'init_app' calls out, and import the"
                    " same 'db' everywhere."
                )
            config.set_defaults(app.config)
        super().init_app(app)
        for name in app.extensions[EXTENSION].engines:  # created here
            self._make_metadata(None if name == DEFAULT else name)
        if app.config["SQLALCHEMY_TRACK_MODIFICATIONS"]:
            self._track_modifications()
        app.teardown_appcontext(self._end_session)

    def _config_of(self, app: Flask) -> Mapping[str, object]:
        return config.with_engines(app.config, self._engine_options)

    _is_tracking = False

    def _track_modifications(self) -> None:
        if not self._is_tracking:
            self._is_tracking = True
            track_modifications.track(self._session_options["class_"])

    def _end_session(self, error: BaseException | None) -> None:
        """End the session of an app context: what earlier functions commit is work of their own."""
        context = self._units.current_context()
        if not isinstance(self.session, SessionProxy):  # a scope of the app, or made for a test
            self.session.remove()
        elif not self._units.has_unit(context):
            self._units.end(context, error)

    # Models and tables ------------------------------------------------------------------------

    def _make_metadata(self, bind_key: str | None) -> MetaData:
        """Return the ``MetaData`` of *bind_key*; create it if need be, with the default's names."""
        if bind_key not in self._by_bind_key:
            names = None if bind_key is None else self._make_metadata(None).naming_convention
            metadata = MetaData(naming_convention=names, info={"bind_key": bind_key})
            self._by_bind_key[bind_key] = metadata
            if bind_key is not None:  # else the constructor passes it on
                self._metadatas.append(metadata)
        return self._by_bind_key[bind_key]

    @property
    def metadatas(self) -> dict[str | None, MetaData]:  # type: ignore[override]
        """By bind key; ``None`` is the key of the default."""
        return self._by_bind_key

    @property
    def metadata(self) -> MetaData:
        """The ``MetaData`` of models and tables without a bind key."""
        return self._by_bind_key[None]

    def relationship(self, *args: Any, **kwargs: Any) -> orm.RelationshipProperty[Any]:
        """SQLAlchemy's ``relationship``, with the query class of the extension."""
        self._set_query_class(kwargs)
        return orm.relationship(*args, **kwargs)

    def dynamic_loader(self, argument: Any, **kwargs: Any) -> orm.RelationshipProperty[Any]:
        """SQLAlchemy's ``dynamic_loader``, with the query class of the extension."""
        self._set_query_class(kwargs)
        return orm.dynamic_loader(argument, **kwargs)

    def _set_query_class(self, options: dict[str, Any]) -> None:
        options.setdefault("query_class", self.Query)
        backref = options.get("backref")
        if isinstance(backref, tuple):  # as 'db.backref()' returns; a text cannot be dynamic
            backref[1].setdefault("query_class", self.Query)

    # Engines ----------------------------------------------------------------------------------

    @property
    def engines(self) -> EnginesByBindKey:
        """The engines of the current app by bind key; ``None`` is the key of the default.

        :raises OutsideContext: no Flask context is active.
        :raises SetupError: the app is not registered with this ``SQLAlchemy``.
        """
        return EnginesByBindKey(self._units.state().engines)

    def get_engine(self, bind_key: str | None = None, **kwargs: Any) -> Engine:  # type: ignore[override]
        """Return ``engines[bind_key]``; ``bind=`` is an older name of the parameter.

        :raises OutsideContext: as :attr:`engines`; so is ``SetupError``.
        """
        return self.engines[kwargs.pop("bind", bind_key)]

    def create_all(self, bind_key: BindKeys = _ALL) -> None:
        """Create the tables that do not exist yet.

        :param bind_key: a bind key or a list of them, ``None`` for the default; by default all.
        :raises UnknownEngine: no engine is configured for a bind key.
        :raises OutsideContext: as :attr:`engines`; so is ``SetupError``.
        """
        self._for_each(bind_key, MetaData.create_all)

    def drop_all(self, bind_key: BindKeys = _ALL) -> None:
        """Drop all tables. Parameter and errors are those of :meth:`create_all`."""
        self._for_each(bind_key, MetaData.drop_all)

    def reflect(self, bind_key: BindKeys = _ALL) -> None:
        """Read tables from the database. Parameter and errors are those of :meth:`create_all`."""
        self._for_each(bind_key, MetaData.reflect)

    def _for_each(self, bind_key: BindKeys, operation: Callable[[MetaData, Engine], None]) -> None:
        """
        :raises UnknownEngine: no engine is configured for a bind key.
        """
        engines = self.engines
        for key in self._keys(bind_key):
            if key not in engines:
                user = f"'create_all', 'drop_all' or 'reflect' for the bind key {key!r}"
                raise UnknownEngine(unknown(key or DEFAULT, engines.named, user))
            operation(self._by_bind_key[key], engines[key])

    def _keys(self, bind_key: BindKeys) -> Iterable[str | None]:
        if bind_key == _ALL:
            return list(self._by_bind_key)
        return [bind_key] if bind_key is None or isinstance(bind_key, str) else bind_key

    # Queries ----------------------------------------------------------------------------------

    def get_or_404(  # type: ignore[override]
        self, entity: type[T], ident: Any, *, description: str | None = None, **kwargs: Any
    ) -> T:
        """Return ``db.session.get(entity, ident, **kwargs)``; a row that is missing is a 404."""
        found = self.session.get(entity, ident, **kwargs)
        return abort(404, description=description) if found is None else found

    def first_or_404(  # type: ignore[override]
        self, statement: Select[Any], *, description: str | None = None
    ) -> Any:
        """Return the first column of the first row; no row, or NULL, is a 404."""
        found = self.session.execute(statement).scalar()
        return abort(404, description=description) if found is None else found

    def one_or_404(  # type: ignore[override]
        self, statement: Select[Any], *, description: str | None = None
    ) -> Any:
        """Return the first column of the only row; no row, or more than one, is a 404."""
        try:
            return self.session.execute(statement).scalar_one()
        except (exc.NoResultFound, exc.MultipleResultsFound):
            abort(404, description=description)

    def paginate(  # type: ignore[override]
        self,
        select: Select[Any],
        *,
        page: int | None = None,
        per_page: int | None = None,
        max_per_page: int | None = None,
        error_out: bool = True,
        count: bool = True,
    ) -> Pagination:
        """Return one page of the objects that *select* selects."""
        return SelectPagination(
            select=select,
            session=self.session(),
            page=page,
            per_page=per_page,
            max_per_page=max_per_page,
            error_out=error_out,
            count=count,
        )

    # Names ------------------------------------------------------------------------------------

    @property
    def sessionmaker(self) -> type[orm.sessionmaker[Any]]:  # type: ignore[override]
        """SQLAlchemy's class, as ``db.Column`` is; ``Database.sessionmaker`` is something else."""
        return orm.sessionmaker

    def __getattr__(self, name: str) -> Any:
        """Find *name* in ``sqlalchemy`` and ``sqlalchemy.orm``.

        :raises AttributeError: it is in neither.
        """
        if name == "relation":
            return self.relationship
        if name == "event":
            return event
        for module in (sqlalchemy, orm):
            if not name.startswith("_") and hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute {name!r}, and neither 'sqlalchemy'"
            " nor 'sqlalchemy.orm' has that name.",
            name=name,
            obj=self,
        )

    def __repr__(self) -> str:
        if not has_app_context():
            return f"<{type(self).__name__}>"
        engines = self.engines
        first = next(iter(engines.values())) if None not in engines else engines[None]
        more = f" +{len(engines) - 1}" if len(engines) > 1 else ""
        return f"<{type(self).__name__} {first.url}{more}>"

    def _shell_names(self) -> dict[str, object]:
        return super()._shell_names() if self._add_models_to_shell else {}

    def _migrated(self) -> Any:
        return _Migrated(self)


_NEVER_CALLED = {
    "_apply_driver_defaults": "'SQLAlchemy(engine_options=...)' or SQLALCHEMY_ENGINE_OPTIONS",
    "_make_declarative_base": "'SQLAlchemy(model_class=...)'",
    "_make_engine": "'SQLAlchemy(engine_options=...)' or SQLALCHEMY_ENGINE_OPTIONS",
    "_make_session_factory": "'SQLAlchemy(session_options=...)'",
    "_make_table_class": "a subclass of 'sqlalchemy.Table'",
}


def _refuse_overrides(kind: type[SQLAlchemy]) -> None:
    """
    :raises SetupError: *kind* overrides an internal method of Flask-SQLAlchemy.
    """
    for name, instead in _NEVER_CALLED.items():
        if hasattr(kind, name):
            raise SetupError(
                f"The class {kind.__name__!r} has a method {name!r}, which Flask-SQLAlchemy calls"
                f" and 'flask_uow.compat' does not: it would have no effect. Use {instead} instead."
            )


class EnginesByBindKey(Engines):
    """The engines of one app; the key of the default engine is None, and a wrong one KeyError."""

    def __getitem__(self, name: str | None) -> Engine:
        if name not in self:
            raise KeyError(unknown(name or DEFAULT, self.named, "the code ('db.engines[...]')"))
        return super().__getitem__(name)

    def __setitem__(self, name: str | None, engine: object) -> NoReturn:
        """
        :raises SetupError: always; a test that gives all sessions one connection writes this.
        """
        raise SetupError(
            f"'db.engines[{name!r}]' cannot be set. For a test whose commits are undone, write"
            " 'with app.app_context(), db.test_isolation():' in the fixture: it gives all sessions"
            " one connection, and rolls it back."
        )

    def __iter__(self) -> Iterator[Any]:
        return (None if name == DEFAULT else name for name in self.named)


class _SessionFactory(orm.sessionmaker[Any]):
    """Makes sessions of the current app that belong to no unit of work."""

    def __init__(self, extension: SQLAlchemy, /, **options: Any) -> None:
        super().__init__(**options)
        self._extension = extension

    def __call__(self, **local: Any) -> Any:
        engines = self._extension._units.state().engines
        return super().__call__(engines=engines, routes={}, **local)


class _Migrated:
    """What migrations ask of a ``Database``, where :class:`SQLAlchemy` has other names."""

    def __init__(self, db: SQLAlchemy) -> None:
        self._db = db

    @property
    def engines(self) -> Engines:
        return Engines(self._db.engines.named)

    @property
    def metadatas(self) -> Any:
        return super(SQLAlchemy, self._db).metadatas

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)
