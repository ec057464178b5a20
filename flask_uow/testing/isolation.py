"""Isolation: what happens inside is undone at its end, and the code under test notices nothing.

The seam is the pool of each engine. While isolation lasts, the engine has another pool:

- On SQLite, one whose connections open a copy of the file (:mod:`.sqlite_copy`).
- On a server, one whose connections share one real connection, in one transaction that is rolled
  back at the end. Each transaction of the code is a savepoint in it (:mod:`.shared_connection`).

So sessions, Core and connections of the app's own are isolated alike, in all threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from weakref import WeakSet

from flask import Flask
from sqlalchemy import Engine

from .._engine.pool import ConnectionPool
from ..errors import IsolationError
from . import shared_pool, sqlite_copy
from .targets import HasEngines, checkouts_of, end_unit_of, engines_of, take_connections_back


@contextmanager
def isolated(db: HasEngines, *, app: Flask | None = None) -> Iterator[None]:
    """Undo at the end whatever the block has done to the databases of an app.

    ::

        with testing.isolated(db, app=app):
            client.post("/users", data={"name": "ada"})   # commits
            ...
        # the row is gone

    Code in it commits, rolls back, uses savepoints, threads and several engines as in production.
    Create the tables before it. What it cannot do is in the docs: several processes, isolation
    levels, DDL on MariaDB and MySQL.

    :param app: the app whose engines are meant; by default the current one.
    :raises IsolationError: the engines are isolated already, a connection is in use, or the
        database is not one that can be isolated.
    :raises OutsideContext: no Flask context is active, and no app was given.
    :raises SetupError: the app is not registered with *db*.
    """
    for name, engine in engines_of(db, app).items():
        if engine in _isolated:
            raise IsolationError(
                f"The engine {name!r} is isolated already. Isolation does not nest: what the outer"
                " block undoes, the inner one could not keep. Leave the inner 'isolated()' out."
            )
    with undone(db, app=app):
        yield


@contextmanager
def undone(db: HasEngines, *, app: Flask | None = None) -> Iterator[None]:
    """Do the same, perhaps inside of an isolation: for each example of a Hypothesis test.

    :raises IsolationError: as :func:`isolated`; so are ``OutsideContext`` and ``SetupError``.
    """
    engines = engines_of(db, app)
    unit = db.current_unit()
    if unit is not None:
        unit.expire(end_reads=True)  # it may have a connection for what it has read
    with ExitStack() as stack:
        for name, engine in engines.items():
            stack.enter_context(_isolate(engine, name))
        try:
            yield
        finally:
            end_unit_of(db)


_isolated: WeakSet[Engine] = WeakSet()


@contextmanager
def _isolate(engine: Engine, name: str) -> Iterator[None]:
    _refuse_in_use(engine, name)
    way = sqlite_copy if engine.dialect.name == "sqlite" else shared_pool
    is_outermost = engine not in _isolated
    with way.isolate(engine, name):
        _isolated.add(engine)
        try:
            yield
        finally:
            if is_outermost:
                _isolated.discard(engine)


def _refuse_in_use(engine: Engine, name: str) -> None:
    take_connections_back(engine)
    pool = engine.pool
    if isinstance(pool, ConnectionPool) and pool.checkedout():
        report = checkouts_of(engine, "They are checked out by:")
        raise IsolationError(
            f"Isolation of the engine {name!r} was refused: connections are in use, and what is"
            f" done on them would not be isolated.{report} Begin isolation before the first"
            " statement, and end the session ('db.session.remove()') or the context that is open."
        )
