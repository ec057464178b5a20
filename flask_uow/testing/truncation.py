"""Empty tables, for tests whose code really has to commit: several processes, LISTEN, DDL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from flask import Flask
from sqlalchemy import Connection, Engine, MetaData, Table, exists, inspect, literal, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import sort_tables_and_constraints

from .._transaction import routing
from ..errors import IsolationError
from .targets import HasEngines, checkouts_of, end_unit_of, engines_of, take_connections_back

_PATIENCE = 5
"""Seconds to wait for the locks of other connections."""


class HasTables(HasEngines, Protocol):
    """A ``Database``."""

    @property
    def metadatas(self) -> Sequence[MetaData] | Mapping[str | None, MetaData]:
        """The metadata with its tables; in ``flask_uow.compat`` by bind key."""
        ...


@contextmanager
def truncated(db: HasTables, *, app: Flask | None = None) -> Iterator[None]:
    """Empty all tables of the models at the end of the block.

    Slower than :func:`~flask_uow.testing.isolated`, and everything in it is as in production. All
    rows go, also those that were there before the block: rows that every test needs are added in
    a fixture inside it. Only tables that have rows are touched; generated keys continue. Other
    tables, such as that of the migrations, are left alone.

    :param app: the app whose engines are meant; by default the current one.
    :raises IsolationError: a connection that is still in use has locked a table.
    :raises OutsideContext: no Flask context is active, and no app was given.
    :raises SetupError: the app is not registered with *db*.
    """
    engines = engines_of(db, app)
    try:
        yield
    finally:
        end_unit_of(db)
        metadatas = db.metadatas
        for metadata in metadatas.values() if isinstance(metadatas, Mapping) else metadatas:
            for name, tables in routing.group(metadata, engines).items():
                if tables:
                    _empty(engines[name], name, tables)


def _empty(engine: Engine, name: str, tables: list[Table]) -> None:
    take_connections_back(engine)
    try:
        with engine.begin() as connection:
            _prepare(connection)
            existing = _existing(connection, tables)
            used = _with_rows(connection, existing)
            if used:
                _delete(connection, existing, used)
    except DBAPIError as error:
        raise IsolationError(_blocked(engine, name, error)) from error


def _blocked(engine: Engine, name: str, error: DBAPIError) -> str:
    report = checkouts_of(engine, "Connections in use:")
    return (
        f"The tables of the engine {name!r} could not be emptied after the test: {error.orig}."
        f"{report} End the session ('db.session.remove()'), the context or the thread that the test"
        " has left open."
    )


# By dialect. What changes the session closes the connection when it comes back (P13).
_PREPARE = {
    "postgresql": [f"SET LOCAL lock_timeout = '{_PATIENCE}s'"],
    "sqlite": ["PRAGMA defer_foreign_keys = ON"],
    # InnoDB checks foreign keys row by row, also those of a table to itself.
    "mysql": ["SET foreign_key_checks = 0", f"SET innodb_lock_wait_timeout = {_PATIENCE}"],
}
_PREPARE["mariadb"] = _PREPARE["mysql"]


def _prepare(connection: Connection) -> None:
    for statement in _PREPARE.get(connection.dialect.name, []):
        connection.execute(text(statement))


def _existing(connection: Connection, tables: list[Table]) -> list[Table]:
    inspector = inspect(connection)
    found = {
        (schema, name)
        for schema in {table.schema for table in tables}
        for name in inspector.get_table_names(schema=schema)
    }
    return [table for table in tables if (table.schema, table.name) in found]


def _with_rows(connection: Connection, tables: list[Table]) -> list[Table]:
    if not tables:
        return []
    columns = [exists(select(literal(1)).select_from(table)) for table in tables]
    row = connection.execute(select(*columns)).one()
    return [table for table, has_rows in zip(tables, row, strict=True) if has_rows]


def _delete(connection: Connection, tables: list[Table], used: list[Table]) -> None:
    """Delete the rows of *used*. Of a few rows this is faster than TRUNCATE, whose files are new.

    :param tables: those of the engine.
    """
    ordered = sort_tables_and_constraints(used)  # type: ignore[no-untyped-call]
    has_circle = bool(ordered and ordered[-1][0] is None and ordered[-1][1])
    if has_circle and connection.dialect.name == "postgresql":
        quoted = connection.dialect.identifier_preparer.format_table
        connection.execute(text(f"TRUNCATE {', '.join(map(quoted, tables))}"))
        return
    for table, _ in reversed(ordered):
        if table is not None:
            connection.execute(table.delete())
