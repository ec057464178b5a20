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
import os
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any, NoReturn

from sqlalchemy import Engine
from sqlalchemy.engine import Dialect
from sqlalchemy.pool import ConnectionPoolEntry, Pool

from .._drivers import outcomes
from .._engine.plain_reads import without_deferring
from .._engine.pool import ConnectionPool
from .._transaction import sqlalchemy_private
from .._transaction.statements import StatementEffect, reader_of, words_of
from ..errors import IsolationError
from .redo import Log

_REDO = "uow_redo"
_TEST = "uow_test"  # the savepoint below all others: it is there as long as the real transaction
_CHECK = (
    "SAVEPOINT uow_check; SET CONSTRAINTS ALL IMMEDIATE;"
    " ROLLBACK TO SAVEPOINT uow_check; RELEASE SAVEPOINT uow_check"
)
"""Of PostgreSQL: checks what a COMMIT checks, and leaves deferred what was deferred."""
_PATIENCE = 10.0
"""Seconds for which a thread waits for the transaction of another one."""

_DIALECTS = {"postgresql", "mysql", "mariadb"}
# Methods of cursors that send something without giving its text.
_SENDING = frozenset(["callproc", "copy", "copy_expert", "copy_from", "copy_to"])
# Of MariaDB and MySQL, which commit by themselves before and after these.
_COMMITTING = frozenset(
    "alter analyze create drop flush grant install lock optimize rename repair reset revoke"
    " truncate uninstall unlock".split()
)
_ENDING = frozenset("abort begin commit end start xa".split())


@contextmanager
def isolate(engine: Engine, name: str) -> Iterator[None]:
    """Let *engine* work in one transaction on one connection, and roll it back at the end.

    :raises IsolationError: the database has no savepoints that are known here.
    """
    if engine.dialect.name not in _DIALECTS:
        raise IsolationError(
            f"The engine {name!r} cannot be isolated: {engine.dialect.name!r} is not one of SQLite,"
            " PostgreSQL, MariaDB and MySQL, whose savepoints the testing kit knows. Use"
            " 'testing.truncated(db)', which empties the tables after the test."
        )
    pool = engine.pool
    if isinstance(pool, SharedPool):
        with pool.shared.undoing():
            yield
        return
    with engine.connect() as connection:
        proxy = connection.connection
        shared = SharedConnection(engine, proxy.dbapi_connection, name)
        shared.begin()
        engine.pool = SharedPool(shared, pool)
        try:
            with without_deferring(engine), _replaced(engine.dialect):
                yield
        finally:
            engine.pool = pool
            shared.end()
            if shared.has_changed_session:  # which no rollback sets back
                connection.invalidate()


@contextmanager
def _replaced(dialect: Dialect) -> Iterator[None]:
    """Replace what *dialect* does to a connection of the driver and must not do to a shared one.

    - Isolation levels have no effect but AUTOCOMMIT: they are those of the real transaction. To set
      them differs by driver: attributes, methods, and that of MySQL sends a COMMIT.
    - Cursors of the server become plain ones: on MySQL, the next statement would end their rows.
    """

    def set_isolation_level(connection: Any, level: object) -> None:
        connection.autocommit = level == "AUTOCOMMIT"

    def reset_isolation_level(connection: Any) -> None:
        connection.autocommit = connection.shared.is_autocommit

    def ignore(*_: object) -> None: ...

    replacements = {
        "set_isolation_level": set_isolation_level,
        "reset_isolation_level": reset_isolation_level,
        "set_readonly": ignore,
        "set_deferrable": ignore,
        "supports_server_side_cursors": False,
    }
    own = vars(dialect)
    before = {name: own[name] for name in replacements if name in own}
    own.update(replacements)
    try:
        yield
    finally:
        for name in replacements:
            del own[name]
        own.update(before)


class SharedPool(Pool):
    """Lends a :class:`Facade` of the shared connection for each checkout.

    :param original: the pool that it stands in for, whose listeners are called.
    """

    def __init__(self, shared: SharedConnection, original: Pool) -> None:
        super().__init__(shared.facade, dialect=shared.dialect, _dispatch=original.dispatch)
        self.shared = shared
        self._original = original
        self._process = os.getpid()

    def _do_get(self) -> ConnectionPoolEntry:
        # Listeners for "connect" have had the real connection.
        entry = sqlalchemy_private.unconnected_entry(self, self.shared.facade)
        if isinstance(self._original, ConnectionPool) and self._original.tracker is not None:
            self._original.tracker.add(entry)
        return entry

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        """Keep nothing: the next checkout gets another facade."""

    def status(self) -> str:
        return "one connection, shared by all code of a test"

    def dispose(self) -> None:
        """Do nothing: the connection belongs to the isolation."""

    def recreate(self) -> Pool:
        """Return itself: 'engine.dispose()' does not end isolation. A forked child is not in it."""
        return self if self._process == os.getpid() else self._original.recreate()


class Facade:
    """What a checkout gets in place of the driver's connection.

    :ivar savepoint: the transaction of its code; None before the first statement.
    :ivar autocommit: each statement is committed.
    :cvar is_shared: other code needs the connection, so that it cannot really be cut.
    """

    is_shared = True

    def __init__(self, shared: SharedConnection) -> None:
        self.shared = shared
        self.savepoint: _Savepoint | None = None
        self.autocommit = shared.is_autocommit

    def __getattr__(self, name: str) -> Any:
        if name.startswith("tpc_"):
            raise IsolationError(
                "A two-phase commit was begun in an isolated test, whose transactions are"
                " savepoints. Use 'testing.truncated(db)' for this test."
            )
        return getattr(self.shared.real, name)

    def keep(self, savepoint: _Savepoint | None) -> None:
        """Make *savepoint* that of the running transaction."""
        self.savepoint = savepoint

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        return self.shared.cursor(self, *args, **kwargs)

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Do as a connection of psycopg."""
        return self.cursor().execute(*args, **kwargs)

    @contextmanager
    def transaction(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Do as a connection of psycopg: the outermost block commits."""
        is_outermost = self.savepoint is None
        self.shared.prepare_to_write(self)
        with self.shared.real.transaction(*args, **kwargs) as transaction:
            yield transaction
        if is_outermost:
            self.commit()

    def commit(self) -> None:
        self.shared.commit(self)

    def rollback(self) -> None:
        self.shared.roll_back(self)

    def close(self) -> None:
        self.shared.roll_back(self)


class Cursor:
    """A cursor of the driver, each of whose statements is sent in the savepoint of *facade*."""

    _facade: Facade
    _cursor: Any

    def __init__(self, facade: Facade, cursor: Any) -> None:
        vars(self).update(_facade=facade, _cursor=cursor)  # past __setattr__()

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        return self._execute("execute", *args, **kwargs)

    def executemany(self, *args: Any, **kwargs: Any) -> Any:
        return self._execute("executemany", *args, **kwargs)

    def _execute(self, method: str, *args: Any, **kwargs: Any) -> Any:
        result = self._facade.shared.execute(self._facade, self._cursor, method, *args, **kwargs)
        return self if result is self._cursor else result

    def __getattr__(self, name: str) -> Any:
        if name in _SENDING:
            self._facade.shared.prepare_to_write(self._facade)
        return getattr(self._cursor, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._cursor, name, value)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._cursor)

    def __enter__(self) -> Cursor:
        return self

    def __exit__(self, *_: object) -> None:
        self._cursor.close()


class _EndedCursor:
    """The cursor of a connection whose isolation has ended.

    Asking for it raises nothing, because SQLAlchemy wraps what is raised before there is one.

    :param name: of the engine.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def close(self) -> None:
        """Do nothing."""

    def __getattr__(self, name: str) -> NoReturn:
        raise _ended(self._name)


def _ended(name: str) -> IsolationError:
    return IsolationError(
        f"A connection of the engine {name!r} was used after its isolation had ended."
        " Does a thread, or a context that a fixture has pushed, outlive the test? End it before"
        " the isolation ends."
    )


class _Savepoint:
    """One transaction of the code under test.

    :ivar has_written: it may have; else it can be released at any time.
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


class _Floor(_Savepoint):
    """Where an isolation inside of another one begins. It belongs to no thread."""

    def __init__(self) -> None:
        super().__init__()
        self.has_written = True
        self.thread = None


class SharedConnection:
    """The real connection of one engine, and the stack of its savepoints.

    :ivar is_autocommit: outside of the isolation, each statement on it is committed.
    :ivar has_changed_session: a setting, a lock or a temporary table may outlive a rollback.
    """

    def __init__(self, engine: Engine, real: Any, name: str) -> None:
        self.real = real
        self.dialect: Dialect = engine.dialect
        self._name = name
        self._effect_of = reader_of(self.dialect.name).effect_of
        self._stack: list[_Savepoint] = []
        self._is_free = threading.Condition(threading.RLock())
        self._has_ended = False
        self.is_autocommit = False
        self.has_changed_session = False

    def facade(self) -> Any:
        """Return what a checkout gets."""
        return Facade(self)

    @contextmanager
    def undoing(self) -> Iterator[None]:
        """Undo at the end what the block has done, and only that."""
        with self._is_free:
            floor = _Floor()
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
            self._has_ended = True
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

    def cursor(self, facade: Facade, *args: Any, **kwargs: Any) -> Any:
        """Open a cursor of the driver, for the code that has *facade*."""
        if self._has_ended:
            return _EndedCursor(self._name)
        return Cursor(facade, self.real.cursor(*args, **kwargs))

    # Statements -------------------------------------------------------------------------------

    def execute(
        self, facade: Facade, cursor: Any, method: str, statement: object, *args: Any, **kwargs: Any
    ) -> Any:
        """Send a statement, in the savepoint of its transaction."""
        text = _text_of(statement)
        with self._is_free:
            if self._has_ended:
                raise _ended(self._name)
            self._refuse_ending(text)
            with self._in_savepoint(facade, text) as savepoint:
                result = getattr(cursor, method)(statement, *args, **kwargs)
                savepoint.note(text)
                if savepoint.log is not None:
                    savepoint.log.note(cursor, method, statement, args)
                self._redo(savepoint.undone_by(text))
            if facade.autocommit:
                self.commit(facade)
            return result

    def prepare_to_write(self, facade: Facade) -> None:
        """Begin the transaction of *facade*, for what is not a statement."""
        with self._is_free, self._in_savepoint(facade, ""):
            pass

    @contextmanager
    def _in_savepoint(self, facade: Facade, statement: str) -> Iterator[_Savepoint]:
        effect = self._effect_of(statement)
        self.has_changed_session |= effect is StatementEffect.SESSION
        # A savepoint of the code must last, though it has only read.
        writes = effect is not StatementEffect.READ or next(words_of(statement), "") == "savepoint"
        if writes:
            self._wait_for_others()
        savepoint = self._savepoint_for(facade, writes=writes)
        savepoint.has_written = savepoint.has_written or writes
        try:
            yield savepoint
        except BaseException:
            if facade.autocommit or not savepoint.has_written:
                # In production it would have run without a transaction, or in one that has nothing
                # to lose; here an error would end the transaction of the whole test.
                self._send(f"ROLLBACK TO SAVEPOINT {savepoint.name}")
                savepoint.has_written = False
            raise
        finally:
            if savepoint is not facade.savepoint:
                self._release(savepoint)

    def _savepoint_for(self, facade: Facade, *, writes: bool) -> _Savepoint:
        """Return the savepoint of *facade*, at the top of the stack, or one for this read only."""
        savepoint, above = facade.savepoint, self._above(facade.savepoint)
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
            facade.keep(savepoint)
        return savepoint

    def _above(self, savepoint: _Savepoint | None) -> list[_Savepoint]:
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

    def _interleaved(self) -> IsolationError:
        return IsolationError(
            "Two transactions of one thread write by turns, but an isolated test has one connection"
            " for both. End the inner one ('db.independent()', or a connection of the app's own)"
            " before the outer one writes again, or use 'testing.truncated(db)' for this test."
        )

    # Ends -------------------------------------------------------------------------------------

    def commit(self, facade: Facade) -> None:
        """Release the savepoint of *facade*: its work now belongs to what is around it."""
        with self._is_free:
            savepoint = facade.savepoint
            if self._has_ended or savepoint is None or savepoint not in self._stack:
                return  # it has not written: see _savepoint_for()
            if any(other.has_written for other in self._above(savepoint)):
                raise self._interleaved()
            self._check_constraints(savepoint)
            self._release(savepoint)
            facade.keep(None)
            if savepoint.log is not None and self._stack:
                self._stack[-1].contain([savepoint.log])

    def _check_constraints(self, savepoint: _Savepoint) -> None:
        is_inner = any(
            other.has_written and not isinstance(other, _Floor)
            for other in self._stack[: self._stack.index(savepoint)]
        )
        # The check is about all rows, also about those of a transaction around this one.
        if savepoint.has_written and not is_inner and self.dialect.name == "postgresql":
            self._send(_CHECK)

    def roll_back(self, facade: Facade) -> None:
        """Undo the work of *facade*."""
        with self._is_free:
            savepoint = facade.savepoint
            if self._has_ended or savepoint is None or savepoint not in self._stack:
                return
            facade.keep(None)
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

    def _push(self) -> _Savepoint:
        around = self._stack[-1] if self._stack else None
        savepoint = _Savepoint()
        if around is not None and around.has_written and not isinstance(around, _Floor):
            is_postgresql = self.dialect.name == "postgresql"
            savepoint.log = Log(self.real.cursor, is_postgresql=is_postgresql)
        self._send(f"SAVEPOINT {savepoint.name}")
        self._stack.append(savepoint)
        return savepoint

    def _release(self, savepoint: _Savepoint) -> None:
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
