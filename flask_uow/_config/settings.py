"""The settings of an app, as frozen dataclasses that :mod:`.reading` creates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import URL

from .options import CommitRule

RETRY_PAUSE = 0.05
"""The longest pause before the second attempt, in seconds. Each later pause is twice as long."""


@dataclass(frozen=True)
class PoolSettings:
    """Settings for the pools of an app. All durations are seconds.

    :ivar liveness: at checkout, look whether the connection died in the pool. The option
        ``pool_pre_ping=True`` of an engine replaces this.
    :ivar ping_idle: after this time in the pool a connection is tested by a ping.
    :ivar recycle: the longest life of a connection if the engine has no ``pool_recycle``; None for
        no limit.
    :ivar network_timeout: after this time an unreachable server is an error; None leaves the
        timeout to the driver and the kernel, which may wait for hours.
    :ivar hold_warning: log a warning for a connection that is checked out for this long; None for
        never.
    :ivar stacks: remember the stack of each checkout.
    """

    liveness: bool = True
    ping_idle: float = 30.0
    recycle: float | None = 1800.0
    network_timeout: float | None = 4.0
    hold_warning: float | None = 60.0
    stacks: bool = False  # not a key: True in debug mode


@dataclass(frozen=True)
class SqliteProfile:
    """Settings for SQLite. The defaults suit a web application on one machine.

    :ivar journal_mode: with ``wal`` readers and the writer do not wait for each other; ``delete``,
        ``truncate`` and ``persist`` also work on network file systems.
    :ivar synchronous: with ``normal`` and WAL, the latest commits can disappear in a power failure,
        but not when a process is killed; ``full`` waits for the disk at each commit.
    :ivar foreign_keys: check foreign keys, which SQLite does not do by default.
    :ivar busy_timeout: seconds to wait for a writer. A ``timeout`` in ``connect_args`` or in the
        URL replaces it.
    :ivar begin: when a transaction begins with ``BEGIN IMMEDIATE``: ``auto`` for a unit that is
        expected to write, ``immediate`` always, ``deferred`` never. A deferred transaction that
        reads and then writes may be refused.
    :ivar queue: writers get the write lock in the order in which they asked for it.
    """

    journal_mode: str = "wal"
    synchronous: str = "normal"
    foreign_keys: bool = True
    busy_timeout: float = 5.0
    begin: str = "auto"
    queue: bool = True


@dataclass(frozen=True)
class EngineSettings:
    """The name and the URL of one engine, and its options for ``create_engine()``.

    :ivar where: the config key of the engine, for messages.
    """

    name: str
    url: URL
    options: Mapping[str, Any] = field(repr=False)
    where: str


@dataclass(frozen=True)
class CommitModes:
    """The effect of ``commit()``, where it depends on the code that calls it.

    :ivar packages: the effects by the name of a package or module.
    :ivar default: the effect in all other code.
    """

    packages: Mapping[str, str]
    default: str

    def of(self, module: str) -> str:
        """Return the effect of a call in the code of *module*; the innermost package decides."""
        while module and module not in self.packages:
            module = module.rpartition(".")[0]
        return self.packages.get(module, self.default) if module else self.default


@dataclass(frozen=True)
class Settings:
    """All settings of an app for its databases.

    :ivar explicit_commit: the effect of ``commit()`` in a request, by the name of the package that
        calls it or of the blueprint; ``""`` is for all other code. By default empty: ``commit()``
        commits.
    :ivar retry_pause: the longest pause before the second attempt, in seconds.
    :ivar begin: when the transaction of a unit begins: ``auto`` with the first statement that needs
        one, ``first`` with the first statement.
    :ivar record_queries: keep the statements of each context.
    """

    commit: CommitRule
    engines: tuple[EngineSettings, ...]
    pool: PoolSettings = field(default_factory=PoolSettings)
    sqlite: SqliteProfile = field(default_factory=SqliteProfile)
    explicit_commit: Mapping[str, str] = field(default_factory=dict)
    retry_pause: float = RETRY_PAUSE
    begin: str = "auto"
    record_queries: bool = False

    def explicit_commit_in(self, blueprints: Iterable[str]) -> str | CommitModes:
        """Return the effect of ``commit()`` in a request.

        :param blueprints: the names of the request's blueprints, the innermost first.
        """
        modes = self.explicit_commit
        default = next((modes[name] for name in (*blueprints, "") if name in modes), "allow")
        return CommitModes(modes, default) if modes.keys() - {""} else default


@dataclass(frozen=True)
class MigrationSettings:
    """The settings for migrations.

    :ivar group: the name of the command group, for messages.
    :ivar engines: the names of the engines to migrate, in order; None for all.
    :ivar options: options of Alembic's ``context.configure()``.
    """

    directory: str = "migrations"
    group: str = "db"
    engines: tuple[str, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
