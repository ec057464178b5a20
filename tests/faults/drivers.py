"""Every driver in turn, on a database that is empty."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import make_url

from tests.support import databases
from tests.support.models import Base

BACKENDS = {"psycopg": "postgresql", "psycopg2": "postgresql", "pymysql": "mariadb"}
DRIVERS = ("sqlite", *BACKENDS)


def address(driver: str, request: pytest.FixtureRequest, folder: Path) -> str:
    """The URL of a database for *driver*, one of :data:`DRIVERS`.

    :param folder: where the file of SQLite lies.
    """
    if driver == "sqlite":
        return databases.sqlite_file(folder).url
    server = request.getfixturevalue(f"{BACKENDS[driver]}_url")
    databases.wipe(server, Base.metadata)
    return by(driver, server)


def by(driver: str, server: str) -> str:
    """The URL *server* with this driver."""
    url = make_url(server).set(drivername=f"{BACKENDS[driver]}+{driver}")
    if driver == "pymysql":  # which else reads all certificates of the system for each connection
        url = url.update_query_dict({"ssl_disabled": "yes"})
    return url.render_as_string(hide_password=False)
