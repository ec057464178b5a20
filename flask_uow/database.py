"""``Database``: what an application calls ``db``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast, overload

from flask import Flask
from sqlalchemy import Engine, MetaData, Table
from sqlalchemy.orm import DeclarativeBase, Mapper, Session, registry, sessionmaker

from . import elsewhere, migrations
from ._config import reading
from ._config.options import IsolationLevel, UnitOptions, commit_rule, level_option, retries_option
from ._engine import recording
from ._engine.build import Engines
from ._engine.recording import RecordedQuery
from ._request import lifecycle, view_retry
from ._request.app_state import EXTENSION, AppState
from ._request.context import UnitRegistry
from ._request.proxy import SessionProxy, proxy_with_names_of
from ._request.view_options import CommitRule, F, attach_options
from ._transaction import routing
from ._transaction.metadatas import Metadatas
from ._transaction.sqlalchemy_private import mappers_of, registry_of
from ._unit import commit_hooks
from ._unit.blocks import Atomic, ExplicitCommit, Independent
from ._unit.session_class import check_options, session_class
from ._unit.unit import UnitOfWork
from .errors import ConfigError, SetupError, shown
from .models import Model
from .query.queries import Queries

P = ParamSpec("P")
T = TypeVar("T")


if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    S = TypeVarWithDefault("S", bound=Session, default=Session)
else:
    S = TypeVar("S", bound=Session)


class Database(Queries, elsewhere.Names, Generic[S]):
    """Give every request one unit of work.

    ::

        db = Database(Base)

        def create_app():
            app = Flask(__name__)
            app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///app.db"
            db.init_app(app)
            return app

    One object serves any number of apps: the engines are kept on the app, the unit of work on the
    context.

    :param parts: declarative bases, registries, and apps. The first base is ``db.Model``; without
        one, a new base is created.
    :param metadata: one or several, for tables without a class and for imperative mappings.
    :param session_options: for the ``Session``, such as ``{"autoflush": False}``; ``"class_"``
        may name a subclass of it. For type checkers, that class is a parameter:
        ``Database[MySession](session_options={"class_": MySession})``.
    :raises SetupError: a part is not a base, a registry or an app, or an option of the session does
        not exist.
    :raises ConfigError: as :meth:`init_app`.
    """

    @elsewhere.explain_arguments
    def __init__(
        self,
        *parts: Flask | type[object] | registry,
        metadata: MetaData | Iterable[MetaData] = (),
        session_options: Mapping[str, Any] | None = None,
    ) -> None:
        apps = [part for part in parts if isinstance(part, Flask)]
        bases = [part for part in parts if not isinstance(part, Flask)]
        self._metadatas = [metadata] if isinstance(metadata, MetaData) else list(metadata)
        if not bases:
            bases.append(_new_base(self._metadatas))
        self._registries = [_registry_of(base) for base in bases]
        for registry_ in self._registries:
            routing.note_bind_keys(mappers_of(registry_))  # for classes that are mapped already
        self.Model = cast("type[_NewBase]", bases[0])
        options = dict(session_options or {})
        own_class = options.pop("class_", Session)
        unit_class = session_class(own_class)
        check_options(own_class, options)
        options["class_"] = unit_class
        self._session_options = options
        self._units = self._registry_class()
        proxy = proxy_with_names_of(own_class)
        self.session: SessionProxy[S] = proxy(self._units, unit_class)
        """The session of the current unit of work.

        Opened at its first use, committed or rolled back before the response is sent, closed when
        the context ends."""
        for app in apps:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Prepare *app*. No connection is made; each engine is created at its first use.

        :raises SetupError: *app* is not a Flask app, or has a ``Database`` already.
        :raises ConfigError: the value of ``UOW_COMMIT`` is not a commit rule.
        """
        if not isinstance(app, Flask):
            raise SetupError(
                f"'init_app' was given {shown(app)}, which is not a Flask app. Write"
                " 'db.init_app(app)' with the object that 'Flask(__name__)' returned."
            )
        if EXTENSION in app.extensions:
            owner = "this" if app.extensions[EXTENSION].owner is self._units else "another"
            raise SetupError(
                f"The app {app.name!r} is registered with {owner} Database already; a second"
                " registration would finish every request twice. Call 'init_app' (or"
                " 'register_extension') once for each app, on one 'Database()'."
            )
        reading.read_commit_rule(app.config)
        config = self._config_of(app)
        app.extensions[EXTENSION] = AppState(app, self._units, self._session_options, config, self)
        app.extensions.setdefault("sqlalchemy", self)  # other extensions look here
        lifecycle.install(app, self._units)
        app.shell_context_processor(self._shell_names)
        migrations.register(app, self._migrated())

    # What a subclass changes.

    _registry_class: type[UnitRegistry[Session]] = UnitRegistry

    def _config_of(self, app: Flask) -> Mapping[str, object]:
        """Return what the settings are read from; it may change until their first use."""
        return app.config

    def _migrated(self) -> migrations.MigratedDatabase:
        """Return what migrations ask for models and engines."""
        return self

    @property
    def engine(self) -> Engine:
        """The default engine of the current app.

        :raises OutsideContext: no Flask context is active.
        :raises UnknownEngine: the app has no default engine.
        :raises ConfigError: a setting of the app cannot be used.
        :raises SetupError: the app is not registered with this ``Database``.
        """
        return self.engines[None]

    @property
    def engines(self) -> Engines:
        """The engines of the current app, by name; ``None`` and ``"default"`` are the same.

        :raises OutsideContext: no Flask context is active.
        :raises ConfigError: a setting of the app cannot be used.
        :raises SetupError: the app is not registered with this ``Database``.
        """
        return Engines(self._units.state().engines)

    def get_engine(self, name: str | None = None) -> Engine:
        """Return ``engines[name]``; migration environments use this method.

        :raises UnknownEngine: no engine has this name.
        :raises OutsideContext: as :attr:`engines`; so are ``ConfigError`` and ``SetupError``.
        """
        return self.engines[name]

    @property
    def sessionmaker(self) -> sessionmaker[S]:
        """Creates sessions outside of any unit: the caller commits and closes these sessions.

        :raises OutsideContext: no Flask context is active.
        :raises ConfigError: a setting of the app cannot be used.
        :raises SetupError: the app is not registered with this ``Database``.
        """
        return cast("sessionmaker[S]", self._units.state().sessionmaker)

    @property
    def mappers(self) -> list[Mapper[Any]]:
        """The mappers of all models."""
        return [mapper for registry in self._registries for mapper in mappers_of(registry)]

    def current_unit(self) -> UnitOfWork | None:
        """Return the unit of work of the current context; None if it has not been opened."""
        return self._units.peek()

    def recorded_queries(self) -> list[RecordedQuery]:
        """Return the statements that the current context has sent, the oldest first.

        Empty unless ``SQLALCHEMY_RECORD_QUERIES`` is true: keeping them takes time and memory. At
        most the last 10,000 are kept. The commit of a request, with its flush, comes after the
        ``after_request`` functions; a ``teardown_request`` function finds its statements here, too.

        :raises OutsideContext: no Flask context is active.
        :raises SetupError: the app is not registered with this ``Database``.
        """
        self._units.state()  # which says what is wrong outside of a context
        return recording.recorded(self._units.current_context())

    @property
    def metadata(self) -> MetaData:
        """The first given ``MetaData``; without one, that of the first base."""
        return self.metadatas[0]

    @property
    def metadatas(self) -> Metadatas:
        """The given ``MetaData`` objects, then those of the bases and of their tables.

        ``metadatas[None]`` has the tables of the default engine, and ``metadatas["audit"]`` those
        of another one: the ``MetaData`` itself, or a copy if it has tables of several engines.
        """
        found = list(self._metadatas)
        for registry_ in self._registries:
            own = registry_.metadata
            found.append(own)
            found += [getattr(m.local_table, "metadata", own) for m in mappers_of(registry_)]
        return Metadatas(dict.fromkeys(found))

    @elsewhere.explain_arguments
    def create_all(self) -> None:
        """Create the tables that do not exist yet, each on its own engine.

        :raises UnknownEngine: a table names an engine that is not configured; no table is created.
        :raises SetupError: two tables of one engine have the same name.
        :raises OutsideContext: as :attr:`engines`; so are ``ConfigError`` and ``SetupError``.
        """
        for metadata, engine, tables in self._tables_by_engine():
            metadata.create_all(engine, tables=tables)

    @elsewhere.explain_arguments
    def drop_all(self) -> None:
        """Drop all tables, each on its own engine.

        :raises UnknownEngine: a table names an engine that is not configured; no table is dropped.
        :raises SetupError: two tables of one engine have the same name.
        :raises OutsideContext: as :attr:`engines`; so are ``ConfigError`` and ``SetupError``.
        """
        for metadata, engine, tables in reversed(self._tables_by_engine()):
            metadata.drop_all(engine, tables=tables)

    def _shell_names(self) -> dict[str, object]:
        """Return the names that ``flask shell`` defines."""
        models = {mapper.class_.__name__: mapper.class_ for mapper in self.mappers}
        return {**models, "db": self}

    def _tables_by_engine(self) -> list[tuple[MetaData, Engine, list[Table]]]:
        """
        :raises SetupError: two tables of one engine have the same name.
        """
        engines, found = self.engines, []
        seen: set[tuple[str, str]] = set()
        for metadata in self.metadatas:
            for name, tables in routing.group(metadata, engines).items():
                found.append((metadata, engines[name], tables))
                keys = {(name, table.fullname) for table in tables}
                if twice := seen & keys:
                    raise SetupError(_TWO_TABLES.format(*min(twice)))
                seen |= keys
        return found

    def unit(
        self,
        view: object = None,
        /,
        *,
        commit: CommitRule | None = None,
        isolation_level: IsolationLevel | None = None,
        read_only: bool = False,
        retries: int = 0,
    ) -> Callable[[F], F]:
        """Set the options of the unit of one view.

        ::

            @app.post("/webhook")
            @db.unit(commit="always")     # store it, whatever the status
            def webhook(): ...

        The options hold from the start of the request: a ``before_request`` function that loads the
        user reads at the same isolation level as the view.

        :param commit: the rule for this view, instead of ``UOW_COMMIT``: ``"on_success"``,
            ``"always"``, ``"explicit"`` or a function that receives the response and
            returns whether to commit.
        :param isolation_level: such as ``"SERIALIZABLE"``, or by dialect:
            ``{"postgresql": "SERIALIZABLE"}``, where other databases keep their default. The
            database decides which levels exist; at the first use, an unknown level is a
            ``ConfigError``.
        :param read_only: statements that write are refused (``ReadOnly``), also in a ``POST``.
        :param retries: how often the view is run again after a conflict with another transaction
            (serialization failure, deadlock, lock timeout). Each attempt begins after a short
            pause, with ``g`` and the cookie session as they were before the view. A view is not run
            again if part of its work cannot be undone: a commit, a write before the view, or a body
            that can be read only once. The default is 0, because a view must be written for this.
        :raises ConfigError: an option has a wrong value, or the parentheses are missing.
        """
        if view is not None:
            raise ConfigError(
                "'@db.unit' was written without its options. Write for example"
                " '@db.unit(commit=\"always\")', or leave it out: every view has a unit."
            )
        options = UnitOptions(
            None if commit is None else commit_rule(commit, "'commit' of '@db.unit(...)'"),
            level_option(isolation_level, "'isolation_level' of '@db.unit(...)'"),
            read_only,
            retries_option(retries, "'retries' of '@db.unit(...)'"),
        )
        return lambda function: attach_options(
            view_retry.watch_view(function, self._units, options), options
        )

    @overload
    def atomic(self, function: F, /) -> F: ...

    @overload
    def atomic(
        self,
        function: None = None,
        /,
        *,
        durable: bool = False,
        isolation_level: IsolationLevel | None = None,
        read_only: bool = False,
        retries: int = 0,
    ) -> Atomic: ...

    def atomic(
        self,
        function: F | None = None,
        /,
        *,
        durable: bool = False,
        isolation_level: IsolationLevel | None = None,
        read_only: bool = False,
        retries: int = 0,
    ) -> F | Atomic:
        """All or nothing: ``with db.atomic() as session:``, ``@db.atomic``, ``@db.atomic(...)``.

        Inside a request or another block, the block is a savepoint: an exception that leaves it
        undoes only the block, and its work is committed with the rest. Elsewhere (command, worker,
        script) the outermost block is the whole transaction and commits at its end; loaded objects
        stay readable. ``raise Rollback`` undoes a block, and the code after it continues.

        Everything in it runs in a transaction, plain reads included. On SQLite its first statement
        takes the write lock, unless the block is read-only.

        An ``HTTPException`` below 400, such as a raised redirect, leaves the block like a return.

        ``commit()``, ``rollback()`` and ``close()`` are refused inside a block.

        :param durable: refuse to be a savepoint, so that the block ends with a COMMIT.
        :param isolation_level: of the transaction, as in :meth:`unit`.
        :param read_only: statements that write are refused.
        :param retries: how often the decorated function is run again after a conflict with another
            transaction, each time in a new transaction and after a pause (``UOW_RETRY_PAUSE``).
            Not possible with ``with``, which cannot run its lines twice.
        :raises BlockRefused: an option was given inside a request or another block, or there is
            uncommitted work before the block; nothing was done.
        :raises RollbackOnly: ``db.set_rollback_only()`` was called before.
        :raises ConfigError: an option has a wrong value, or *function* is not a function.
        :raises OutsideContext: no Flask context is active.
        """
        block = Atomic(
            self._units,
            durable=durable,
            isolation_level=isolation_level,
            read_only=read_only,
            retries=retries,
        )
        return block if function is None else block(function)

    def independent(self) -> Independent:
        """Open a session that is committed at the end of the block, even if the unit is not.

        ::

            with db.independent() as session:
                session.add(FailedLogin(name=name))

        ``db.session`` is not changed. On SQLite, which has one writer at a time, the block is
        refused if the unit has written before it: write inside the block first. On other
        databases, a block that writes a row that the unit has locked would wait for ever: write
        other rows.

        :raises OutsideContext: no Flask context is active.
        """
        return Independent(self._units)

    def explicit_commit(self, mode: str) -> ExplicitCommit:
        """Set the effect of ``db.session.commit()`` in a ``with`` block, for third-party code.

        :param mode: ``"allow"``: it commits; ``"flush"``: it only flushes, and the unit stays all
            or nothing; ``"forbid"``: it is refused. See ``UOW_EXPLICIT_COMMIT``.
        :raises ConfigError: *mode* is another value.
        """
        return ExplicitCommit(self._units, mode)

    def on_commit(
        self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Callable[P, T]:
        """Call ``function(*args, **kwargs)`` after the work so far has been committed.

        Hooks run after the COMMIT and before the response is sent, in the order in which they were
        added. A rollback of the unit or of a block drops the hooks that were added in it. The error
        of a hook is logged; the other hooks run, and the response is sent. If no commit is to
        come, it is called at once. Can be used as a decorator.

        :raises HookRefused: *function* is a coroutine function, or an argument is an ORM object.
        """
        return self._add_hook(True, function, *args, **kwargs)

    def on_rollback(
        self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Callable[P, T]:
        """Call ``function(*args, **kwargs)`` after the work so far, or its block, was rolled back.

        Otherwise as :meth:`on_commit`; but if no commit is to come, it is never called.

        :raises HookRefused: *function* is a coroutine function, or an argument is an ORM object.
        """
        return self._add_hook(False, function, *args, **kwargs)

    def _add_hook(
        self, on_commit: bool, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Callable[P, T]:
        hook = commit_hooks.checked(on_commit, function, args, kwargs)
        unit = self._units.unit_awaiting_outcome()
        if unit is not None:
            unit.add_hook(hook, self._units.run_hook)
        elif on_commit:
            self._units.run_hook(hook)
        return function

    def test_isolation(self) -> AbstractContextManager[None]:
        """Undo at the end whatever the block has done: ``with db.test_isolation():`` in a test.

        The engines are those of the current app; see :func:`flask_uow.testing.isolated`, which can
        be given an app.

        :raises IsolationError: the engines are isolated already, a connection is in use, or the
            database is not one that can be isolated.
        :raises OutsideContext: no Flask context is active.
        """
        from .testing.isolation import isolated  # only tests need it

        return isolated(self)

    def set_rollback_only(self) -> None:
        """Roll back the current unit at its end, whatever the status of the response.

        For a response that reports an error with status 200, for instance. From then on,
        ``commit()`` is refused. If an exception leaves the view later, the work is rolled back and
        the mark is removed, so the writes of an error handler are committed.

        Inside ``db.atomic()``, only the innermost block is marked and undone at its end.

        :raises OutsideContext: no Flask context is active.
        """
        self._units.unit().set_rollback_only()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.Model!r}>"


_TWO_TABLES = (
    "The engine {0!r} has two tables of the name {1!r}, each in a 'MetaData' of its own: only one"
    " of them could exist. No table was created or dropped. Rename one of them, or give it another"
    " engine ('__bind_key__')."
)


class _NewBase(Model, DeclarativeBase):
    """For type checkers: what ``db.Model`` is if no base was given."""


def _new_base(metadatas: list[MetaData]) -> type[object]:
    attributes = {"metadata": metadatas[0]} if metadatas else {}
    return type("Model", (Model, DeclarativeBase), attributes)


def _registry_of(base: object) -> registry:
    found = base if isinstance(base, registry) else registry_of(base)
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
