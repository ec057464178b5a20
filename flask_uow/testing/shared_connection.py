"""One real connection and one real transaction, which all code of a test shares unawares.

Each transaction of the code under test is a savepoint in the real one::

    the code                     the server
    --------                     ----------
                                 BEGIN
    INSERT                       SAVEPOINT uow_1, INSERT
    COMMIT                       RELEASE SAVEPOINT uow_1
    INSERT, ROLLBACK             SAVEPOINT uow_2, INSERT, ROLLBACK TO SAVEPOINT uow_2
                                 ROLLBACK

Savepoints form a stack, and transactions do not. Where the order differs:

- A transaction that has only read is released when another one needs the top of the stack, unless
  it has savepoints of its own.
- A thread waits until the transaction of another thread has ended, as for a lock of SQLite.
- A transaction that commits inside another one of the same thread (``db.independent()`` in a unit
  that has written) is undone if the outer one is rolled back. In production it stays. So it is
  carried out once more then: its statements were noted (:mod:`.redo`).
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.engine import Dialect

from .._drivers import outcomes
from .._transaction.statements import StatementEffect, reader_of, words_of
from ..errors import IsolationError
from .redo import Log
from .savepoints import Checkout, Floor, Savepoint

_REDO = "uow_redo"
_TEST = "uow_test"  # the savepoint below all others: it is there as long as the real transaction
_CHECK = (
    "SAVEPOINT uow_check; SET CONSTRAINTS ALL IMMEDIATE;"
    " ROLLBACK TO SAVEPOINT uow_check; RELEASE SAVEPOINT uow_check"
)
"""Of PostgreSQL: checks what a COMMIT checks, and leaves deferred what was deferred."""
_PATIENCE = 10.0
"""Seconds for which a thread waits for the transaction of another one."""

# Of MariaDB and MySQL, which commit by themselves before and after these.
_COMMITTING = frozenset(
    "alter analyze create drop flush grant install lock optimize rename repair reset revoke"
    " truncate uninstall unlock".split()
)
_ENDING = frozenset("abort begin commit end start xa".split())


class SharedConnection:
    """The real connection of one engine, and the stack of its savepoints.

    :ivar real: the connection of the driver.
    :ivar is_autocommit: outside of the isolation, each statement on it is committed.
    :ivar has_ended: the isolation is over.
    :ivar has_changed_session: a setting, a lock or a temporary table may outlive a rollback.
    """

    def __init__(self, engine: Engine, real: Any, name: str) -> None:
        self.real = real
        self.dialect: Dialect = engine.dialect
        self._name = name
        self._effect_of = reader_of(self.dialect.name).effect_of
        self._stack: list[Savepoint] = []
        self._is_free = threading.Condition(threading.RLock())
        self.has_ended = False
        self.is_autocommit = False
        self.has_changed_session = False

    @contextmanager
    def undoing(self) -> Iterator[None]:
        """Undo at the end what the block has done, and only that."""
        with self._is_free:
            floor = Floor()
            self._send(f"SAVEPOINT {floor.name}")
            self._stack.append(floor)
        try:
            yield
        finally:
            with self._is_free:
                self._send(f"ROLLBACK TO SAVEPOINT {floor.name}")
                self._release(floor)

    def begin(self) -> None:
        """Begin the real transaction."""
        mode = getattr(self.real, "get_autocommit", lambda: getattr(self.real, "autocommit", False))
        self.is_autocommit = mode() is True
        if self.is_autocommit:  # else the driver does so by itself
            self._send("BEGIN")
        self._send(f"SAVEPOINT {_TEST}")

    def end(self) -> None:
        """Roll everything back. Code that still has a transaction finds that it has ended.

        :raises IsolationError: something has ended the transaction earlier.
        """
        with self._is_free:
            self.has_ended = True
            self._stack.clear()
            self._is_free.notify_all()
            try:
                self._send(f"ROLLBACK TO SAVEPOINT {_TEST}")
            except Exception as error:
                if outcomes.is_disconnect(error):
                    return  # the server has rolled it back
                raise IsolationError(
                    f"The transaction of the engine {self._name!r} around a test had ended before"
                    " the test: a statement has committed it, such as a COMMIT among several"
                    " statements in one text, or in a procedure. What the test has written is"
                    " stored. Use 'testing.truncated(db)' for this test."
                ) from error
            finally:
                self._roll_back()

    def _roll_back(self) -> None:
        with suppress(self.dialect.loaded_dbapi.Error):  # the connection is lost
            if self.is_autocommit:
                self._send("ROLLBACK")  # psycopg2 would send nothing
            else:
                self.real.rollback()

    # Statements -------------------------------------------------------------------------------

    def execute(
        self,
        checkout: Checkout,
        cursor: Any,
        method: str,
        statement: object,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Send a statement, in the savepoint of its transaction."""
        text = _text_of(statement)
        with self._is_free:
            if self.has_ended:
                raise self.ended()
            self._refuse_ending(text)
            with self._in_savepoint(checkout, text) as savepoint:
                result = getattr(cursor, method)(statement, *args, **kwargs)
                savepoint.note(text)
                if savepoint.log is not None:
                    savepoint.log.note(cursor, method, statement, args)
                self._redo(savepoint.undone_by(text))
            if checkout.autocommit:
                self.commit(checkout)
            return result

    def prepare_to_write(self, checkout: Checkout) -> None:
        """Begin the transaction of *checkout*, for what is not a statement."""
        with self._is_free, self._in_savepoint(checkout, ""):
            pass

    @contextmanager
    def _in_savepoint(self, checkout: Checkout, statement: str) -> Iterator[Savepoint]:
        effect = self._effect_of(statement)
        self.has_changed_session |= effect is StatementEffect.SESSION
        # A savepoint of the code must last, though it has only read.
        writes = effect is not StatementEffect.READ or next(words_of(statement), "") == "savepoint"
        if writes:
            self._wait_for_others()
        savepoint = self._savepoint_for(checkout, writes=writes)
        savepoint.has_written = savepoint.has_written or writes
        try:
            yield savepoint
        except BaseException:
            if checkout.autocommit or not savepoint.has_written:
                # In production it would have run without a transaction, or in one that has nothing
                # to lose; here an error would end the transaction of the whole test.
                self._send(f"ROLLBACK TO SAVEPOINT {savepoint.name}")
                savepoint.has_written = False
            raise
        finally:
            if savepoint is not checkout.savepoint:
                self._release(savepoint)

    def _savepoint_for(self, checkout: Checkout, *, writes: bool) -> Savepoint:
        """Return that of *checkout*, at the top of the stack, or a new one for this read only."""
        savepoint, above = checkout.savepoint, self._above(checkout.savepoint)
        if any(other.has_written for other in above):
            if writes:
                raise self._interleaved()
            return self._push()
        if above:
            self._release(above[0])
        elif savepoint is None or savepoint not in self._stack:
            while self._stack and not self._stack[-1].has_written:
                self._release(self._stack[-1])
            savepoint = None
        if savepoint is None:
            savepoint = self._push()
            checkout.keep(savepoint)
        return savepoint

    def _above(self, savepoint: Savepoint | None) -> list[Savepoint]:
        if savepoint is None or savepoint not in self._stack:
            return []
        return self._stack[self._stack.index(savepoint) + 1 :]

    def _wait_for_others(self) -> None:
        """Wait until no other thread has a transaction that has written.

        :raises IsolationError: it takes too long.
        """
        me = threading.get_ident()

        def is_free() -> bool:
            return all(other.thread in {me, None} for other in self._stack if other.has_written)

        if not self._is_free.wait_for(is_free, timeout=_PATIENCE):
            raise IsolationError(
                f"A thread has waited {_PATIENCE:g} seconds for the transaction of another one. In"
                " an isolated test all threads share one connection, so the writers take turns."
                " Does the other thread wait for this one? Use 'testing.truncated(db)' for such"
                " code."
            )

    def _refuse_ending(self, statement: str) -> None:
        words = list(itertools.islice(words_of(statement), 3))
        first = words[0] if words else ""
        if first in _ENDING or (first == "rollback" and "to" not in words):
            raise IsolationError(
                f"{first.upper()} was sent as SQL in an isolated test. It would end the transaction"
                " of the whole test. Use 'db.session.commit()', 'rollback()' or 'db.atomic()', or"
                " 'testing.truncated(db)' for this test."
            )
        if words[:2] == ["set", "transaction"]:
            raise IsolationError(
                "SET TRANSACTION was sent as SQL in an isolated test, whose transactions are"
                " savepoints. Use 'db.atomic(isolation_level=..., read_only=...)', which sends no"
                " such statement in an isolated test, or 'testing.truncated(db)' for this test."
            )
        if self.dialect.name != "postgresql" and first in _COMMITTING and "temporary" not in words:
            raise IsolationError(
                f"{first.upper()} was sent in an isolated test. {self.dialect.name} commits before"
                " and after it, so neither it nor the work before it could be undone. Create and"
                " change tables before the isolation begins, or use 'testing.truncated(db)' for"
                " this test."
            )

    def ended(self) -> IsolationError:
        """Return the error for code that still uses the connection."""
        return IsolationError(
            f"A connection of the engine {self._name!r} was used after its isolation had ended."
            " Does a thread, or a context that a fixture has pushed, outlive the test? End it"
            " before the isolation ends."
        )

    def _interleaved(self) -> IsolationError:
        return IsolationError(
            "Two transactions of one thread write by turns, but an isolated test has one connection"
            " for both. End the inner one ('db.independent()', or a connection of the app's own)"
            " before the outer one writes again, or use 'testing.truncated(db)' for this test."
        )

    # Ends -------------------------------------------------------------------------------------

    def commit(self, checkout: Checkout) -> None:
        """Release the savepoint of *checkout*: its work now belongs to what is around it."""
        with self._is_free:
            savepoint = checkout.savepoint
            if self.has_ended or savepoint is None or savepoint not in self._stack:
                return  # it has not written: see _savepoint_for()
            if any(other.has_written for other in self._above(savepoint)):
                raise self._interleaved()
            self._check_constraints(savepoint)
            self._release(savepoint)
            checkout.keep(None)
            if savepoint.log is not None and self._stack:
                self._stack[-1].contain([savepoint.log])

    def _check_constraints(self, savepoint: Savepoint) -> None:
        is_inner = any(
            other.has_written and not isinstance(other, Floor)
            for other in self._stack[: self._stack.index(savepoint)]
        )
        # The check is about all rows, also about those of a transaction around this one.
        if savepoint.has_written and not is_inner and self.dialect.name == "postgresql":
            self._send(_CHECK)

    def roll_back(self, checkout: Checkout) -> None:
        """Undo the work of *checkout*."""
        with self._is_free:
            savepoint = checkout.savepoint
            if self.has_ended or savepoint is None or savepoint not in self._stack:
                return
            checkout.keep(None)
            open_ones = [other for other in self._above(savepoint) if other.has_written]
            if savepoint.has_written:
                self._send(f"ROLLBACK TO SAVEPOINT {savepoint.name}")
            self._release(savepoint)
            self._redo(savepoint.committed)
            if self._stack:
                self._stack[-1].contain(savepoint.committed)
            for other in open_ones:
                self._send(f"SAVEPOINT {other.name}")
                self._stack.append(other)
                self._redo([*other.committed, *filter(None, [other.log])])

    def _redo(self, logs: list[Log]) -> None:
        for log in logs:
            self._send(f"SAVEPOINT {_REDO}")
            try:
                log.run_again()
            except Exception as error:
                self._send(f"ROLLBACK TO SAVEPOINT {_REDO}")
                raise IsolationError(
                    "What 'db.independent()' had committed inside a unit that was rolled back could"
                    " not be sent again, which an isolated test has to do. Does it need a row that"
                    " the unit had written? In production it would not have found that row."
                    " Use 'testing.truncated(db)' for this test."
                ) from error
            finally:
                self._send(f"RELEASE SAVEPOINT {_REDO}")

    def _push(self) -> Savepoint:
        around = self._stack[-1] if self._stack else None
        savepoint = Savepoint()
        if around is not None and around.has_written and not isinstance(around, Floor):
            is_postgresql = self.dialect.name == "postgresql"
            savepoint.log = Log(self.real.cursor, is_postgresql=is_postgresql)
        self._send(f"SAVEPOINT {savepoint.name}")
        self._stack.append(savepoint)
        return savepoint

    def _release(self, savepoint: Savepoint) -> None:
        """Release *savepoint*, and those above it."""
        self._send(f"RELEASE SAVEPOINT {savepoint.name}")
        del self._stack[self._stack.index(savepoint) :]
        self._is_free.notify_all()

    def _send(self, statement: str) -> None:
        with closing(self.real.cursor()) as cursor:
            cursor.execute(statement)


def _text_of(statement: object) -> str:
    """Return the SQL; nothing, which may be anything, for an object of the driver."""
    if isinstance(statement, bytes):
        return statement.decode(errors="replace")
    return statement if isinstance(statement, str) else ""
