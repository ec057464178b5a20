"""Commits of PostgreSQL that did not wait for their standby: a line in the log.

With ``synchronous_standby_names`` set, COMMIT waits until a standby server has the work as well.
If somebody cancels that wait (``pg_cancel_backend``, or the driver itself after Ctrl-C), the
server cannot undo the commit. It reports success, with a notice that nobody reads: the work is on
this server only, and a failover loses it. The data is stored, so the request stays a success; but
whoever runs the servers has to know.

The drivers hand over each notice when it arrives, so nothing is paid for while there is none:

- *psycopg* tells which function of the server has sent it, in whatever language it is written.
- *psycopg2* has only the text. It is known by its first line, which has the word "synchronous" in
  the language of the server, and by the line of details below it.
- Other drivers have no such place, and nothing is logged.

Nothing here knows Flask or sessions.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, event

logger = logging.getLogger("flask_uow")

_FUNCTION = "SyncRepWaitForLSN"
# "Synchronous" in the languages that PostgreSQL's messages are translated to.
_SYNCHRONOUS = re.compile(
    "syn[ck]h?ron|s[ií]ncr[oó]n|синхрон|სინქრონ|同期|同步|동기", re.IGNORECASE
)


def install(engine: Engine, name: str) -> None:
    """Listen to the notices of each connection of *engine*, if its driver has a place for that.

    :param name: of the engine, for the log.
    """

    def tell(notice: str) -> None:
        logger.error(
            "PostgreSQL has committed work of the engine %r and has not waited for its standby: the"
            " wait for synchronous replication was cancelled. The work is stored on this server,"
            " and lost if this server fails over before a standby has it as well. Look whether"
            " pg_stat_replication shows the servers of 'synchronous_standby_names', and for who"
            " has called pg_cancel_backend(). The server's words: %s",
            name,
            " ".join(notice.split()),
        )

    connect = {"psycopg": _listen_to_psycopg, "psycopg2": _listen_to_psycopg2}.get(
        engine.dialect.driver
    )
    if connect is not None:
        event.listen(engine, "connect", lambda connection, _entry: connect(connection, tell))


def _listen_to_psycopg(connection: Any, tell: Callable[[str], None]) -> None:
    def on_notice(diagnostic: Any) -> None:
        if diagnostic.source_function == _FUNCTION:
            tell(f"{diagnostic.message_primary}: {diagnostic.message_detail}")

    connection.add_notice_handler(on_notice)


def _listen_to_psycopg2(connection: Any, tell: Callable[[str], None]) -> None:
    # Only a list is trimmed by psycopg2, and emptied by SQLAlchemy. Another object is the user's.
    if type(connection.notices) is list:
        connection.notices = _Notices(connection.notices, tell)


class _Notices(list[str]):
    """The notices of a connection of psycopg2, which appends each as one text."""

    def __init__(self, notices: list[str], tell: Callable[[str], None]) -> None:
        super().__init__(notices)
        self._tell = tell

    def append(self, notice: str) -> None:
        super().append(notice)
        if is_about_a_standby(notice):
            self._tell(notice)


def is_about_a_standby(notice: str) -> bool:
    """Is it, by its text alone, the one of a wait that was cancelled?"""
    first, *details = notice.strip().splitlines()
    return bool(details) and _SYNCHRONOUS.search(first) is not None
