"""The transactions of the code under test, which are savepoints, and the code that has them."""

from __future__ import annotations

import itertools
import threading

from .._transaction.statements import words_of
from .redo import Log


class Savepoint:
    """One transaction of the code under test.

    :ivar has_written: whether it may have written; one that has only read can be released at any
        time.
    :ivar thread: the one that has begun it.
    :ivar log: what it has sent, if it began inside another one that had written.
    :ivar committed: the logs of those that were committed inside it.
    """

    _numbers = itertools.count(1)

    def __init__(self) -> None:
        self.name = f"uow_{next(self._numbers)}"
        self.thread: int | None = threading.get_ident()
        self.has_written = False
        self.log: Log | None = None
        self.committed: list[Log] = []
        self._marks: dict[str, int] = {}  # by savepoint of the code, the length of 'committed'

    def note(self, statement: str) -> None:
        """Note a savepoint of the code."""
        words = list(words_of(statement))
        if words[:1] == ["savepoint"]:
            self._marks[words[-1]] = len(self.committed)

    def undone_by(self, statement: str) -> list[Log]:
        """Return what *statement* has undone of *committed*, by going back to a savepoint."""
        words = list(words_of(statement))
        is_return = words[:2] == ["rollback", "to"]
        return self.committed[self._marks.get(words[-1], 0) :] if is_return else []

    def contain(self, logs: list[Log]) -> None:
        """Note transactions that were committed inside it."""
        if self.has_written:
            self.committed.extend(logs)


class Floor(Savepoint):
    """Where an isolation inside of another one begins. It belongs to no thread."""

    def __init__(self) -> None:
        super().__init__()
        self.has_written = True
        self.thread = None


class Checkout:
    """The code that has checked out the connection of the test.

    :ivar savepoint: its running transaction; None before the first statement.
    :ivar autocommit: each of its statements is committed.
    """

    def __init__(self, *, autocommit: bool) -> None:
        self.savepoint: Savepoint | None = None
        self.autocommit = autocommit

    def keep(self, savepoint: Savepoint | None) -> None:
        """Make *savepoint* that of the running transaction."""
        self.savepoint = savepoint
