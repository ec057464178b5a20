"""Find a driver by the dialect of an engine, by a URL or by an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from . import mysql, oracle, postgresql, sql_server, sqlite
from .base import Driver

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect

DRIVERS: Mapping[str, Driver] = {
    driver.name: driver
    for family in (postgresql, mysql, sqlite, oracle, sql_server)
    for driver in family.DRIVERS
}
"""The drivers by SQLAlchemy's name; of the drivers for one dialect, the preferred one is first."""

DIALECTS = ("sqlite", "postgresql", "mysql", "mariadb", "oracle", "mssql")
"""The dialects that are part of SQLAlchemy."""

PACKAGES: Mapping[str, str] = {
    "access": "sqlalchemy-access",
    "awsathena": "PyAthena",
    "bigquery": "sqlalchemy-bigquery",
    "clickhouse": "clickhouse-sqlalchemy",
    "clickhousedb": "clickhouse-connect",
    "cockroachdb": "sqlalchemy-cockroachdb",
    "crate": "sqlalchemy-cratedb",
    "databricks": "databricks-sqlalchemy",
    "db2": "ibm_db_sa",
    "duckdb": "duckdb-engine",
    "firebird": "sqlalchemy-firebird",
    "hana": "sqlalchemy-hana",
    "ibm_db_sa": "ibm_db_sa",
    "libsql": "sqlalchemy-libsql",
    "redshift": "sqlalchemy-redshift",
    "snowflake": "snowflake-sqlalchemy",
    "spanner": "sqlalchemy-spanner",
    "teradatasql": "teradatasqlalchemy",
    "trino": "trino[sqlalchemy]",
}
"""Packages that add a dialect or a driver to SQLAlchemy, by its name in a URL."""

_BY_MODULE = {driver.module.partition(".")[0]: driver for driver in DRIVERS.values()}
_UNKNOWN: Mapping[str, Driver] = {"postgresql": postgresql.PostgreSQL()}
_SYNCHRONOUS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}


def driver_of(dialect: Dialect) -> Driver:
    """Return the driver of an engine; if it is unknown, the general one for its database."""
    return DRIVERS.get(dialect.driver) or _UNKNOWN.get(dialect.name, Driver())


def drivers_for(dialect: str) -> list[Driver]:
    """Return the drivers for a URL with *dialect* and no driver, the preferred one first."""
    return [driver for driver in DRIVERS.values() if dialect in driver.serves]


def synchronous(backend: str) -> str:
    """Return the dialect and driver to write instead of an asyncio driver of *backend*."""
    return _SYNCHRONOUS.get(backend, backend)


def driver_of_error(error: BaseException) -> Driver:
    """Return the driver that defines the class of *error*, or a base of it; else a general one."""
    for class_ in type(error).__mro__:
        driver = _BY_MODULE.get(class_.__module__.partition(".")[0])
        if driver is not None:
            return driver
    return Driver()
