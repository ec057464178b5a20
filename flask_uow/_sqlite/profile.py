"""What is particular to SQLite: how it is used, where its file lies, when memory is a file.

Nothing here knows Flask, sessions or connections.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from sqlalchemy import URL, Engine
from sqlalchemy.pool import QueuePool

from .._config.settings import SqliteProfile
from ..errors import ConfigError

# Where the database is ------------------------------------------------------------------------


def is_memory(url: URL) -> bool:
    """Tell whether *url* names a database in memory."""
    database = url.database or ""
    return database in {"", ":memory:", "file::memory:"} or url.query.get("mode") == "memory"


def memory_options(url: URL, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options for an engine in memory: the pool that lets it have a temporary file.

    :param given: the options of the user, whose own pool stays as SQLAlchemy has it.
    """
    own_pool = any(given.get(name) is not None for name in ("creator", "pool", "poolclass"))
    return {} if own_pool or _is_shared_cache(url) else {"poolclass": QueuePool}


def has_temporary_file(engine: Engine) -> bool:
    """Tell whether the database of *engine*, in memory by its URL, is a temporary file.

    It is where the pool may open several connections, which would be several databases otherwise.
    """
    url = engine.url
    return is_memory(url) and not _is_shared_cache(url) and isinstance(engine.pool, QueuePool)


def ends_with_its_connections(engine: Engine) -> bool:
    """Tell whether *engine* has a SQLite database in memory that is no temporary file."""
    is_sqlite = engine.dialect.name == "sqlite"
    return is_sqlite and is_memory(engine.url) and not has_temporary_file(engine)


def _is_shared_cache(url: URL) -> bool:
    """Tell whether SQLite gives all connections to *url* the same memory, or is asked by a mode."""
    return url.query.get("mode") == "memory" or url.query.get("cache") == "shared"


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


# File systems of other machines; SQLite's locks, or the memory that WAL shares, fail on them.
_NETWORK = frozenset(
    """
    nfs nfs4 cifs smb3 smbfs ncpfs afs coda ceph lustre davfs
    fuse.sshfs fuse.glusterfs fuse.cephfs fuse.s3fs fuse.gcsfuse fuse.rclone fuse.davfs2
    """.split()
)


def file_system_of(path: str) -> str:
    """The type of the file system that *path* is on, as Linux calls it; else an empty string."""
    try:
        mounts, place = dict(_mounts()), Path(path).resolve()  # the last one covers the others
    except (OSError, IndexError):  # unreadable, or of another form than we know
        return ""
    return next((mounts[str(at)] for at in (place, *place.parents) if str(at) in mounts), "")


_OCTAL = re.compile(r"\\(\d{3})")  # a blank is written as \040


def _mounts() -> Iterator[tuple[str, str]]:
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        left, _, right = line.partition(" - ")
        mount = _OCTAL.sub(lambda found: chr(int(found[1], 8)), left.split()[4])
        yield mount, right.split()[0]


def refuse_network(path: str, profile: SqliteProfile) -> None:
    """
    :raises ConfigError: the file is on another machine, and *profile* needs it to be on this one.
    """
    kind = file_system_of(path)
    if kind not in _NETWORK or not (profile.journal_mode == "wal" or profile.queue):
        return
    raise ConfigError(
        f"The SQLite file {path!r} is on a network file system ({kind}), where neither WAL mode"
        " nor the write queue can be trusted: each machine has memory and locks of its own. Put the"
        " file on a local disk, use a database server, or, if one machine alone uses it, set"
        " UOW_SQLITE_JOURNAL_MODE = 'delete' and UOW_SQLITE_QUEUE = False."
    )


def path_of(location: str, *, is_uri: bool) -> tuple[str, dict[str, str]]:
    """The path that a file name or URI means, empty in memory; and the query of the URI."""
    options: dict[str, str] = {}
    if is_uri and location.startswith("file:"):
        location, _, query = location.removeprefix("file:").partition("?")
        options = {key: values[-1] for key, values in parse_qs(query).items()}
        if location.startswith("//"):  # file://localhost/path
            location = "/" + location[2:].partition("/")[2]
        location = unquote(location)
    if location in {"", ":memory:"} or options.get("mode") == "memory":
        return "", options
    return str(Path(location).absolute()), options
