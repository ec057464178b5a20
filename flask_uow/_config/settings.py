"""What ``app.config`` says, as frozen dataclasses; :mod:`.reading` makes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, cast

from sqlalchemy import URL

from ..errors import ConfigError, shown
from .options import CommitRule

RETRY_PAUSE = 0.05
"""Seconds before the second attempt, at most. The others pause twice as long as the one before."""


_LONGEST_TIMEOUT = 2_000_000  # SQLite counts milliseconds, in 31 bits


def refuse_timeout(name: str, value: object) -> None:
    """
    :raises ConfigError: *value* is no number of seconds that SQLite can wait for.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (is_number and 0 <= cast(float, value) <= _LONGEST_TIMEOUT):  # false for nan as well
        raise ConfigError(
            f"{name} is {shown(value)}, and it must be a number of seconds, 0 or more, and not"
            f" more than {_LONGEST_TIMEOUT} (23 days)."
        )


def _choice(key: str, value: Any, choices: tuple[str, ...]) -> str:
    if isinstance(value, str) and value.lower() in choices:
        return value.lower()
    why = ""
    if key.endswith("JOURNAL_MODE") and str(value).lower() in {"off", "memory"}:
        why = " Without a journal on disk, what is rolled back or interrupted cannot be undone."
    names = ", ".join(map(repr, choices[:-1]))
    raise ConfigError(f"{key} is {shown(value)}, and it must be {names} or {choices[-1]!r}.{why}")


@dataclass(frozen=True)
class PoolSettings:
    """What the pools of an app do beyond SQLAlchemy's. All durations are seconds.

    :ivar liveness: look for connections that died in the pool. The user's own
        ``pool_pre_ping=True`` takes its place.
    :ivar ping_idle: ask the server, after so long in the pool.
    :ivar recycle: the lifetime of a connection, where ``pool_recycle`` is not given; None for
        no end.
    :ivar network_timeout: when an unreachable server becomes an error; None leaves that to the
        driver and the kernel, which may take hours.
    :ivar hold_warning: warn of a connection that is held for so long; None for never.
    :ivar stacks: remember the stack of each checkout.
    """

    liveness: bool = True
    ping_idle: float = 30.0
    recycle: float | None = 1800.0
    network_timeout: float | None = 4.0
    hold_warning: float | None = 60.0
    stacks: bool = False


_CHOICES = {
    "journal_mode": ("wal", "delete", "truncate", "persist"),
    "synchronous": ("off", "normal", "full", "extra"),
    "begin": ("auto", "deferred", "immediate"),
}


@dataclass(frozen=True)
class SqliteProfile:
    """How SQLite is used. The defaults are for a web application on one machine.

    :ivar journal_mode: ``wal``: readers and the writer do not wait for each other. The others
        (``delete``, ``truncate``, ``persist``) work on network file systems as well.
    :ivar synchronous: ``normal``: with WAL the last commits may be lost if the power fails, never
        if a process does; ``full`` waits for the disk at each commit.
    :ivar foreign_keys: check them. SQLite by itself does not.
    :ivar busy_timeout: seconds to wait for a writer. ``timeout`` in ``connect_args`` or in the URL
        takes its place.
    :ivar begin: ``auto``: IMMEDIATE for what is going to write; ``immediate`` for everything;
        ``deferred`` for nothing, so that whoever reads before writing may be refused.
    :ivar queue: let writers wait for each other first come, first served.
    :raises ConfigError: a value is none of these.
    """

    journal_mode: str = "wal"
    synchronous: str = "normal"
    foreign_keys: bool = True
    busy_timeout: float = 5.0
    begin: str = "auto"
    queue: bool = True

    def __post_init__(self) -> None:
        for option in fields(self):
            key, value = f"UOW_SQLITE_{option.name.upper()}", getattr(self, option.name)
            if option.name in _CHOICES:
                value = _choice(key, value, _CHOICES[option.name])
                object.__setattr__(self, option.name, value)
            elif option.name == "busy_timeout":
                refuse_timeout(key, value)
            elif not isinstance(value, bool):
                raise ConfigError(f"{key} is {shown(value)}, and it must be True or False.")


@dataclass(frozen=True)
class EngineSettings:
    """One engine: its name, its URL, its options for ``create_engine()``.

    :ivar where: the config key that it comes from, for messages.
    """

    name: str
    url: URL
    options: Mapping[str, Any] = field(repr=False)
    where: str


@dataclass(frozen=True)
class Settings:
    """Everything that an app's config says about its databases.

    :ivar explicit_commit: what ``commit()`` does in a request, by the name of a blueprint; ``""``
        for all others. Empty if it commits.
    :ivar retry_pause: seconds before the first repetition, at most.
    """

    commit: CommitRule
    engines: tuple[EngineSettings, ...]
    pool: PoolSettings = field(default_factory=PoolSettings)
    sqlite: SqliteProfile = field(default_factory=SqliteProfile)
    explicit_commit: Mapping[str, str] = field(default_factory=dict)
    retry_pause: float = RETRY_PAUSE

    def explicit_commit_in(self, blueprints: Iterable[str]) -> str:
        """
        :param blueprints: of a request, the innermost first.
        """
        names = (*blueprints, "")
        return next((self.explicit_commit[n] for n in names if n in self.explicit_commit), "allow")


@dataclass(frozen=True)
class MigrationSettings:
    """Where the migrations are and how they are run.

    :ivar group: the name of the commands, for messages.
    :ivar engines: names of those that are migrated, in order; None for all.
    :ivar options: for Alembic's ``context.configure()``.
    """

    directory: str = "migrations"
    group: str = "db"
    engines: tuple[str, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
