"""What a database says that its schema is, in a form that can be compared."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, NullPool, create_engine, inspect


def schema_of(url: str) -> dict[str, Any]:
    """By table, all that SQLAlchemy can reflect of it; the names of constraints, too."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        inspector = inspect(connection)
        found: dict[str, Any] = {
            name: {
                "columns": [_column(column, connection) for column in inspector.get_columns(name)],
                "primary key": inspector.get_pk_constraint(name),
                "indexes": _sorted(inspector.get_indexes(name)),
                "uniques": _sorted(inspector.get_unique_constraints(name)),
                "foreign keys": _sorted(inspector.get_foreign_keys(name)),
                "checks": _sorted(inspector.get_check_constraints(name)),
                "comment": _comment(inspector, name, connection),
            }
            for name in inspector.get_table_names()
            if name != "alembic_version"
        }
        if connection.dialect.name == "postgresql":
            found["types"] = inspector.get_enums()  # type: ignore[attr-defined]
    return found


def without_order(schema: dict[str, Any]) -> dict[str, Any]:
    """A column that was dropped and comes back is the last one."""
    return {
        name: {**table, "columns": _sorted(table["columns"])} if name != "types" else table
        for name, table in schema.items()
    }


def _column(column: Any, connection: Connection) -> dict[str, Any]:
    return {**column, "type": column["type"].compile(connection.dialect)}


def _comment(inspector: Any, name: str, connection: Connection) -> Any:
    supported = connection.dialect.supports_comments
    return inspector.get_table_comment(name)["text"] if supported else None


def _sorted(found: list[Any]) -> list[Any]:
    return sorted(found, key=lambda one: str(one["name"]))
