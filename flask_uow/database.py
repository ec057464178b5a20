"""``Database``: what an application calls ``db``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar, cast, overload

from flask import Flask
from sqlalchemy import Engine, MetaData, Table
from sqlalchemy.orm import DeclarativeBase, Mapper, Session, registry, sessionmaker

from . import migrations
from ._config import reading
from ._config.options import UnitOptions, commit_rule, retries_option
from ._engine.build import Engines
from ._request import lifecycle, view_retry
from ._request.app_state import EXTENSION, AppState
from ._request.context import UnitRegistry
from ._request.proxy import SessionProxy
from ._request.view_options import CommitRule, F, attach_options
from ._transaction import routing
from ._unit import commit_hooks
from ._unit.blocks import Atomic, ExplicitCommit, Independent
from ._unit.session_class import session_class
from ._unit.unit import UnitOfWork
from .errors import ConfigError, SetupError, shown

P = ParamSpec("P")
T = TypeVar("T")


class Database:
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
        may name a subclass of it.
    :raises SetupError: a part is not a base, a registry or an app.
    :raises ConfigError: as :meth:`init_app`.
    """

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
            routing.note_bind_keys(registry_.mappers)  # for classes that are mapped already
        self.Model: Any = bases[0]
        options = dict(session_options or {})
        options["class_"] = session_class(options.get("class_", Session))
        self._session_options = options
        self._units: UnitRegistry[Session] = UnitRegistry()
        self.session: SessionProxy[Session] = SessionProxy(self._units)
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
        app.extensions[EXTENSION] = AppState(app, self._units, self._session_options)
        app.extensions.setdefault("sqlalchemy", self)  # other extensions look here
        lifecycle.install(app, self._units)
        app.shell_context_processor(self._shell_names)
        migrations.register(app, self)

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
    def sessionmaker(self) -> sessionmaker[Session]:
        """Creates sessions outside of any unit: the caller commits and closes these sessions.

        :raises OutsideContext: no Flask context is active.
        :raises ConfigError: a setting of the app cannot be used.
        :raises SetupError: the app is not registered with this ``Database``.
        """
        return cast("sessionmaker[Session]", self._units.state().sessionmaker)

    @property
    def mappers(self) -> list[Mapper[Any]]:
        """The mappers of all models."""
        return [mapper for registry in self._registries for mapper in registry.mappers]

    def current_unit(self) -> UnitOfWork | None:
        """Return the unit of work of the current context; None if it has not been opened."""
        return self._units.peek()

    @property
    def metadata(self) -> MetaData:
        """The first given ``MetaData``; without one, that of the first base."""
        return self.metadatas[0]

    @property
    def metadatas(self) -> list[MetaData]:
        """The given ``MetaData`` objects, then those of the bases and of their tables."""
        found = list(self._metadatas)
        for registry_ in self._registries:
            own = registry_.metadata
            found.append(own)
            found += [getattr(m.local_table, "metadata", own) for m in registry_.mappers]
        return list(dict.fromkeys(found))

    def create_all(self) -> None:
        """Create the tables that do not exist yet, each on its own engine.

        :raises UnknownEngine: a table names an engine that is not configured; no table is created.
        :raises OutsideContext: as :attr:`engines`; so are ``ConfigError`` and ``SetupError``.
        """
        for metadata, engine, tables in self._tables_by_engine():
            metadata.create_all(engine, tables=tables)

    def drop_all(self) -> None:
        """Drop all tables, each on its own engine.

        :raises UnknownEngine: a table names an engine that is not configured; no table is dropped.
        :raises OutsideContext: as :attr:`engines`; so are ``ConfigError`` and ``SetupError``.
        """
        for metadata, engine, tables in reversed(self._tables_by_engine()):
            metadata.drop_all(engine, tables=tables)

    def _shell_names(self) -> dict[str, object]:
        """Return the names that ``flask shell`` defines."""
        models = {mapper.class_.__name__: mapper.class_ for mapper in self.mappers}
        return {**models, "db": self}

    def _tables_by_engine(self) -> list[tuple[MetaData, Engine, list[Table]]]:
        engines = self.engines
        return [
            (metadata, engines[name], tables)
            for metadata in self.metadatas
            for name, tables in routing.group(metadata, engines).items()
        ]

    def unit(
        self,
        view: object = None,
        /,
        *,
        commit: CommitRule | None = None,
        isolation_level: str | None = None,
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
        :param isolation_level: such as ``"SERIALIZABLE"``. The database decides which levels exist;
            at the first use, an unknown level is a ``ConfigError``.
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
            isolation_level,
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
        isolation_level: str | None = None,
        read_only: bool = False,
        retries: int = 0,
    ) -> Atomic: ...

    def atomic(
        self,
        function: F | None = None,
        /,
        *,
        durable: bool = False,
        isolation_level: str | None = None,
        read_only: bool = False,
        retries: int = 0,
    ) -> F | Atomic:
        """All or nothing: ``with db.atomic() as session:``, ``@db.atomic``, ``@db.atomic(...)``.

        Inside a request or another block, the block is a savepoint: an exception that leaves it
        undoes only the block, and its work is committed with the rest. Elsewhere (command, worker,
        script) the outermost block is the whole transaction and commits at its end; loaded objects
        stay readable. ``raise Rollback`` undoes a block, and the code after it continues.

        An ``HTTPException`` below 400, such as a raised redirect, leaves the block like a return.

        ``commit()``, ``rollback()`` and ``close()`` are refused inside a block.

        :param durable: refuse to be a savepoint, so that the block ends with a COMMIT.
        :param isolation_level: of the transaction, such as ``"SERIALIZABLE"``.
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
            unit.add_hook(hook)
        elif on_commit:
            function(*args, **kwargs)
        return function

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
