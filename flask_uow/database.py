"""``Database``: what an application calls ``db``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast, overload

from flask import Flask
from sqlalchemy import Engine, MetaData
from sqlalchemy.orm import DeclarativeBase, Mapper, Session, registry, sessionmaker

from . import migrations
from ._config import reading
from ._config.options import UnitOptions, commit_rule, retries_option
from ._engine.build import Engines
from ._request import lifecycle, view_retry
from ._request.app_state import EXTENSION, AppState
from ._request.context import UnitRegistry
from ._request.proxy import SessionProxy
from ._request.view_options import CommitRule, F, mark
from ._transaction import routing
from ._unit import commit_hooks
from ._unit.blocks import Atomic, ExplicitCommit, Independent
from ._unit.session import unit_session_class
from ._unit.unit import UnitOfWork
from .errors import ConfigError, SetupError, shown

C = TypeVar("C", bound=Callable[..., Any])


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
            routing.stamp(one.mappers)  # classes that were mapped before
        self.Model: Any = bases[0]
        options = dict(session_options or {})
        options["class_"] = unit_session_class(options.get("class_", Session))
        self._session_options = options
        self._units: UnitRegistry[Session] = UnitRegistry()
        self.session: SessionProxy[Session] = SessionProxy(self._units)
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
            owner = "this" if app.extensions[EXTENSION].owner is self._units else "another"
            raise SetupError(
                f"The app {app.name!r} is registered with {owner} Database already; a second"
                " registration would finish every request twice. Call 'init_app' (or"
                " 'register_extension') once for each app, on one 'Database()'."
            )
        reading.read_commit_rule(app.config)
        app.extensions[EXTENSION] = AppState(
            app,
            self._units,
            self._session_options,
        )
        app.extensions.setdefault("sqlalchemy", self)  # where other extensions look
        lifecycle.install(app, self._units)
        app.shell_context_processor(self._shell_names)
        migrations.install(app, self)

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
        return Engines(self._units.state().engines)

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
        return cast("sessionmaker[Session]", self._units.state().sessionmaker)

    @property
    def mappers(self) -> list[Mapper[Any]]:
        """The mappers of all models."""
        return [mapper for registry in self._registries for mapper in registry.mappers]

    def current_unit(self) -> UnitOfWork | None:
        """The unit of work of the current context, if it was opened."""
        return self._units.peek()

    @property
    def _scope(self) -> UnitRegistry[Session]:
        return self._units

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

    def _shell_names(self) -> dict[str, Any]:
        """What ``flask shell`` offers."""
        models = {mapper.class_.__name__: mapper.class_ for mapper in self.mappers}
        return {**models, "db": self}

    def _tables_by_engine(self) -> list[tuple[MetaData, Engine, list[Any]]]:
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
        """Say how the unit of one view runs.

        ::

            @app.post("/webhook")
            @db.unit(commit="always")     # store it, whatever is answered
            def webhook(): ...

        It is known before the view starts, because the route is: a ``before_request`` function
        that loads the user reads at the same isolation level.

        :param commit: the rule for this view, instead of ``UOW_COMMIT``: ``"on_success"``,
            ``"always"``, ``"explicit"`` or a function that gets the response and returns
            whether to commit.
        :param isolation_level: such as ``"SERIALIZABLE"``; which ones there are depends on the
            database, and one that it does not know is a ``ConfigError`` at the first use.
        :param read_only: what writes is refused (``ReadOnly``), also for a ``POST``.
        :param retries: how often the view is run again after a conflict with another transaction
            (serialization failure, deadlock, lock timeout), after a short pause, with ``g`` and
            the cookie session as they were before it. Only where nothing happened that cannot be
            undone: a commit, a write before the view, a body that can be read once. 0, because
            code that is run twice has to be written for it.
        :raises ConfigError: a value is none of these, or the parentheses are missing.
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
        return lambda function: mark(view_retry.watch_view(function, self._units, options), options)

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
        function: Any = None,
        /,
        *,
        durable: bool = False,
        isolation_level: str | None = None,
        read_only: bool = False,
        retries: int = 0,
    ) -> Any:
        """All or nothing: ``with db.atomic() as session:``, ``@db.atomic``, ``@db.atomic(...)``.

        Inside a request, or another block, a part of what is running: undone by a savepoint if an
        exception leaves it, committed with the rest. Elsewhere (command, worker, script) the
        outermost block is the whole unit, and commits at its end; objects stay readable. To leave
        a block undone and go on behind it, ``raise Rollback``.

        ``commit()``, ``rollback()`` and ``close()`` are refused inside.

        :param durable: refuse to be a part of anything, so that the end of the block is a COMMIT.
        :param isolation_level: of the transaction, such as ``"SERIALIZABLE"``.
        :param read_only: what writes is refused.
        :param retries: how often the function is run again after a conflict with another
            transaction, in a new one, after a pause (``UOW_RETRY_PAUSE``). Not for ``with``.
        :raises BlockRefused: one of the options was given to a block that is not the outermost, or
            uncommitted work comes before the outermost; nothing was done.
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
        """A session of its own, committed at the end of the block whatever becomes of the request.

        ::

            with db.independent() as session:
                session.add(FailedLogin(name=name))

        ``db.session`` stays what it is. On SQLite, which has one writer at a time, the block is
        refused at once if the unit around it has written already: write in it first. Elsewhere it
        would wait for ever for a row that the unit has locked: write other rows.

        :raises OutsideContext: no Flask context is active.
        """
        return Independent(self._units)

    def explicit_commit(self, mode: str) -> ExplicitCommit:
        """Say what ``db.session.commit()`` does inside a ``with`` block, for code of others.

        :param mode: ``"allow"``: it commits; ``"flush"``: it only flushes, and the request, or the
            block, stays all or nothing; ``"forbid"``: it is refused. See ``UOW_EXPLICIT_COMMIT``.
        :raises ConfigError: *mode* is none of these.
        """
        return ExplicitCommit(self._units, mode)

    def on_commit(self, function: C, /, *args: Any, **kwargs: Any) -> C:
        """Call ``function(*args, **kwargs)`` when the work so far is stored (P10).

        After the COMMIT and before the answer leaves, in the order in which they were added. What
        is rolled back, by itself or with a block, drops its hooks. One that fails is logged; the
        rest run, and the answer stands. Where nothing is running that could be committed, it is
        called at once. May be used as a decorator.

        :raises HookRefused: it is a coroutine function, or an argument is an ORM object.
        """
        return self._add_hook(True, function, args, kwargs)

    def on_rollback(self, function: C, /, *args: Any, **kwargs: Any) -> C:
        """As :meth:`on_commit`, but when the work so far was undone, by itself or with its block.

        Where nothing is running it is not called at all.

        :raises HookRefused: as :meth:`on_commit`.
        """
        return self._add_hook(False, function, args, kwargs)

    def _add_hook(self, on_commit: bool, function: C, args: Any, kwargs: Any) -> C:
        hook = commit_hooks.checked(on_commit, function, args, kwargs)
        unit = self._units.unit_awaiting_outcome()
        if unit is not None:
            unit.add_hook(hook)
        elif on_commit:
            function(*args, **kwargs)
        return function

    def set_rollback_only(self) -> None:
        """Let the current unit be rolled back at its end, whatever the response says (P4).

        For an answer that reports an error with status 200, for instance. ``commit()`` is
        refused from here on. If an exception leaves the view afterwards, the mark goes with the
        work that is rolled back, and what the error handler writes is stored.

        Inside ``db.atomic()`` it is only that block, the innermost, which is undone at its end.

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
