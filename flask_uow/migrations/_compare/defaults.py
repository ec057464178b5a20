"""Are two server defaults the same? Databases report them in words of their own.

Alembic compares texts, and would find ``now()`` of a model and ``current_timestamp()`` of MariaDB
different for ever, or ``''`` and ``('')`` of SQLite. PostgreSQL it asks for the values of both,
which are two for ``random()``; with a quote in a text the statement cannot be parsed.

So a database that rewrites defaults is given that of the model, in a temporary table, and is asked
what it has made of it. SQLite reports what it was given.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sqlalchemy import Column, Connection, MetaData, Table, inspect
from sqlalchemy.exc import DataError, SQLAlchemyError
from sqlalchemy.schema import CreateTable

_MYSQL = {"mysql", "mariadb"}
_REWRITE = {"postgresql", *_MYSQL}

_SYNONYMS = {
    "current_timestamp": "now",
    "current_timestamp()": "now",
    "now()": "now",
    "true": "1",
    "false": "0",
}

_Value = tuple[str, bool]


def differ(
    context: Any,
    _inspected_column: object,
    column: Any,
    inspected: str | None,
    default: Any,
    rendered: str | None,
) -> bool | None:
    """Alembic's hook of that name.

    :returns: None if Alembic has to decide.
    """
    wanted = getattr(default, "arg", None)
    if wanted is None or context.dialect.name not in {"sqlite", *_REWRITE}:
        return None
    if inspected is None:
        return _cannot_be_seen(context, column, wanted)
    found = _value(inspected)
    expected = (wanted, True) if isinstance(wanted, str) else _value(rendered or "")
    if _same(found, expected):
        return False
    if context.dialect.name == "sqlite":
        return True
    try:
        reported = _ask(context.connection, column, wanted, _reflected)
    except DataError:
        return True  # it is no value of the type that the column has now
    except SQLAlchemyError:  # no right to make a temporary table, or no table at all
        quoted = isinstance(wanted, str) and "'" in wanted
        return True if quoted else None
    return not _same(found, _value(str(reported)))


def _cannot_be_seen(context: Any, column: Column[Any], wanted: Any) -> bool | None:
    """On MariaDB, SQLAlchemy finds no default in ``DEFAULT ucase('abc')``: look for it.

    :returns: False if *column* has the default *wanted*, or nobody can tell.
    """
    if context.dialect.name not in _MYSQL:
        return None
    try:
        if _ask(context.connection, column, wanted, _reflected) is not None:
            return None
        shown = _ask(context.connection, column, wanted, _shown)
        return shown != _shown(context.connection, column)
    except SQLAlchemyError:
        return None


def _ask(
    connection: Connection,
    column: Column[Any],
    wanted: Any,
    look: Callable[[Connection, Column[Any]], str | None],
) -> str | None:
    """How the database would report *column* with the default *wanted*."""
    like = Column("value", column.type, server_default=wanted, nullable=column.nullable)
    table = Table("flask_uow_default", MetaData(), like, prefixes=["TEMPORARY"])
    before = connection.begin_nested()
    try:
        connection.execute(CreateTable(table))
        try:
            return look(connection, like)
        finally:
            if connection.dialect.name in _MYSQL:  # where it survives the rollback
                connection.exec_driver_sql(f"DROP TEMPORARY TABLE {table.name}")
    finally:
        before.rollback()


def _reflected(connection: Connection, column: Column[Any]) -> str | None:
    (found,) = inspect(connection).get_columns(column.table.name)
    return found["default"]


def _shown(connection: Connection, column: Column[Any]) -> str | None:
    name = connection.dialect.identifier_preparer.format_table(column.table)
    rows = connection.exec_driver_sql(f"SHOW COLUMNS FROM {name}").mappings()
    return next((row["Default"] for row in rows if row["Field"] == column.name), None)


def _same(one: _Value, other: _Value) -> bool:
    """With or without quotes, a number is the same; a text is no expression."""
    if one[1] and other[1]:
        return one == other
    value, another = (_SYNONYMS.get(text, text) for text, _ in (one, other))
    return value == another and (one[1] == other[1] or _NUMBER.fullmatch(value) is not None)


_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?")
_TEXT = re.compile(r"'((?:[^']|'')*)'(?:::[\w\s.\"\[\]]+(?:\([\d,\s]*\)[\w\s]*)?)?")
_PARTS = re.compile(r"""('(?:[^']|'')*'|"[^"]*"|`[^`]*`)|([^'"`]+)""")


def _value(default: str) -> _Value:
    """A default without what the database has put round it; and whether it is a text."""
    default = default.strip()
    while default.startswith("(") and default.endswith(")"):
        default = default[1:-1].strip()
    quoted = _TEXT.fullmatch(default)
    if quoted:
        return quoted[1].replace("''", "'"), True
    return _PARTS.sub(lambda part: part[1] or part[2].lower(), default), False
