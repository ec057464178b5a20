"""What is particular to SQLite: where its file lies, and that memory is shared."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sqlalchemy import URL
from sqlalchemy.pool import StaticPool

from .errors import ConfigError


def is_memory(url: URL) -> bool:
    """Does *url* name a database that lives in memory?"""
    database = url.database or ""
    return database in ("", ":memory:", "file::memory:") or url.query.get("mode") == "memory"


def memory_options() -> dict[str, Any]:
    """One connection for everybody: a second one would see a database of its own, empty."""
    return {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}


def in_folder(url: URL, folder: str, where: str) -> URL:
    """Let a relative file name mean one in *folder*, which is created.

    A path relative to the current directory would be another file for each way to start the app.

    :param where: the config key, for the message.
    :raises ConfigError: the folder, or the file in it, cannot be created.
    """
    prefix = "file:" if (url.database or "").startswith("file:") else ""
    name = (url.database or "").removeprefix(prefix)
    path = Path(folder, name)  # the name alone, if it is absolute
    if path == Path(name):
        return url
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not (path.exists() or os.access(path.parent, os.W_OK | os.X_OK)):
            raise PermissionError(f"no file can be made in {str(path.parent)!r}")
    except OSError as error:
        raise ConfigError(
            f"{where} names the SQLite file {name!r}, which belongs in the instance folder, and"
            f" it cannot be created there: {error}. Make the folder writable, give Flask another"
            " one ('Flask(__name__, instance_path=...)'), or write an absolute path"
            " ('sqlite:////var/lib/app/app.db')."
        ) from error
    return url.set(database=f"{prefix}{path}")
