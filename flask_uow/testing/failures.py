"""Failures on demand: a commit that fails, a lost connection, a deadlock, a slow database.

::

    with testing.fail_commit(db, constraint="uq_users_name"):
        assert client.post("/users", data={"name": "ada"}).status_code == 409

Each is the next one that comes, in whichever thread, so a test knows what happens when.
"""

from __future__ import annotations

import difflib
import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Literal, NamedTuple

from flask import Flask, current_app, has_request_context, request
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from .._drivers.known import driver_of
from .._engine.build import Engines
from .._transaction.record import deferred_record_of
from .._transaction.statements import StatementEffect, reader_of
from ..errors import BlockRefused, ConfigError, shown
from . import driver_errors
from .calls import Call, listening
from .targets import HasEngines, engines_of


class _Where(NamedTuple):
    """The calls that a failure is meant for.

    :ivar engines: of these engines, by name.
    :ivar endpoint: of the requests to this one; None for all calls.
    """

    engines: Mapping[str, Engine]
    endpoint: str | None

    @classmethod
    def of(
        cls, db: HasEngines, app: Flask | None, engine: str | None, endpoint: str | None
    ) -> _Where:
        engines = engines_of(db, app)
        if engine is not None:
            engines = {engine: Engines(engines)[engine]}
        if endpoint is not None:
            _refuse_unknown_endpoint(app or current_app, endpoint)
        return cls(engines, endpoint)

    def __str__(self) -> str:
        names = " or ".join(map(repr, self.engines))
        return f"the engine {names}" + (f", by {self.endpoint!r}" if self.endpoint else "")

    def includes_caller(self) -> bool:
        if self.endpoint is None:
            return True
        return has_request_context() and request.endpoint == self.endpoint


class Failure:
    """A failure, for the time of a ``with`` block.

    :ivar hits: how often it has happened so far.
    """

    def __init__(
        self,
        name: str,
        where: _Where,
        awaited: str,
        picks: Callable[[Call], bool],
        act: Callable[[Call], None],
        *,
        nth: int | None = 1,
        required: bool,
    ) -> None:
        """
        :param name: of the function that the test has called.
        :param awaited: the calls that it waits for, in words.
        :param picks: tells whether a call is one of them.
        :param act: makes the failure.
        :param nth: which of them fails; None for all.
        :param required: it must have happened at the end of the block.
        """
        self.hits = 0
        self._name, self._where, self._awaited = name, where, awaited
        self._picks, self._act, self._nth = picks, act, nth
        self._required = required
        self._seen = 0
        self._lock = threading.Lock()
        self._stack: ExitStack | None = None

    def __enter__(self) -> Failure:
        if self._stack is not None:
            raise BlockRefused(
                f"This 'testing.{self._name}(...)' block is open already. Each 'with' needs one of"
                f" its own: call 'testing.{self._name}(...)' again instead of keeping the object."
            )
        self._seen = self.hits = 0
        self._stack = ExitStack()
        for dialect in {engine.dialect for engine in self._where.engines.values()}:
            self._stack.enter_context(listening(dialect, self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            stack.close()
        if error is None and self._required and not self.hits:
            raise AssertionError(
                f"'testing.{self._name}' has done nothing: it waited for {self._awaited} of"
                f" {self._where}, and the block sent {self._seen or 'none'}. The failure"
                " did not happen, so the test has tested nothing. If it need not happen, write"
                " 'required=False'."
            )

    def meet(self, call: Call) -> None:
        """Let *call* fail, if it is the one."""
        if not self._where.includes_caller() or not self._picks(call):
            return
        with self._lock:
            self._seen += 1
            is_due = self._nth in {None, self._seen}
            self.hits += is_due
        if is_due:
            self._act(call)


def fail_commit(
    db: HasEngines,
    error: BaseException | None = None,
    *,
    constraint: str = "on_demand",
    endpoint: str | None = None,
    engine: str | None = None,
    app: Flask | None = None,
    required: bool = True,
) -> Failure:
    """Let the next COMMIT fail. Nothing is stored.

    ::

        with testing.fail_commit(db, constraint="uq_users_name"):
            assert client.post("/users", data={"name": "ada"}).status_code == 409

    By default it is the ``IntegrityError`` of a unique constraint, which the database itself
    raises, so that its driver's code and fields are there.

    :param error: another error, which is raised as it is. SQLAlchemy wraps it if it is one of the
        driver; of an error of SQLAlchemy, which would not be wrapped, the driver's ``orig`` is
        raised if there is one.
    :param constraint: its name in the default error.
    :param endpoint: only in a request to this endpoint, such as ``"shop.create"``.
    :param engine: only on the engine of this name; by default on whichever commits first.
    :param app: the app whose engines are meant; by default the current one.
    :param required: at the end of the block it must have happened, or an ``AssertionError`` is
        raised: the test would pass without testing anything.
    :raises ConfigError: *error* is not an exception, *constraint* is not a name, the endpoint does
        not exist, or the kit does not know the errors of this database.
    :raises UnknownEngine: no engine has this name.
    :raises OutsideContext: no Flask context is active, and no app was given.
    :raises SetupError: the app is not registered with *db*.
    """
    where = _Where.of(db, app, engine, endpoint)
    _refuse_no_error(error)
    _refuse_no_name(constraint)
    if error is None:
        _refuse_unknown_dialects(where)

    def fail(call: Call) -> None:
        if error is not None:
            raise _of_the_driver(error, call)
        driver_errors.violate(call.dialect, call.connection, constraint)

    return Failure("fail_commit", where, "a COMMIT", _is_commit, fail, required=required)


def lose_connection(
    db: HasEngines,
    at: Literal["commit", "execute"] | int,
    *,
    stored: bool = False,
    endpoint: str | None = None,
    engine: str | None = None,
    app: Flask | None = None,
    required: bool = True,
) -> Failure:
    """Cut the connection at the next COMMIT or statement, as a restart of the server does.

    The socket is closed under the driver, so the error is its own, the connection is invalidated
    and the pool replaced. SQLite has no connection to lose: there it is a ``disk I/O error``, the
    error of a file that cannot be reached, and the connection stays. Inside isolation, where tests
    share one connection, the same error is raised and nothing is cut.

    :param at: ``"commit"``, ``"execute"`` for the next statement, or a number: 3 is the third
        statement from now. Savepoints are statements; BEGIN is not.
    :param stored: at ``"commit"``, whether the server carries out the COMMIT before the connection
        is lost. Both happen in production, and the error is the same.
    :raises ConfigError: *at* is something else, *stored* is given for a statement; otherwise as
        :func:`fail_commit`, as are the other parameters and errors.
    """
    where = _Where.of(db, app, engine, endpoint)
    _refuse_unknown_dialects(where)
    _refuse_no_place(at, stored=stored)

    def lose(call: Call) -> None:
        if stored:
            call.proceed()
        driver_errors.lose(call.dialect, call.connection)
        if not stored:
            call.proceed()
        driver_errors.use(call.connection)  # it was not needed before

    picks, awaited = (_is_commit, "a COMMIT") if at == "commit" else (_is_statement, "a statement")
    if isinstance(at, int):
        awaited = f"{at} statements"
    nth = at if isinstance(at, int) else 1
    return Failure("lose_connection", where, awaited, picks, lose, nth=nth, required=required)


def deadlock_once(
    db: HasEngines,
    *,
    endpoint: str | None = None,
    engine: str | None = None,
    app: Flask | None = None,
    required: bool = True,
) -> Failure:
    """Let the next statement that may write be the victim of a deadlock.

    The transaction is gone, as after a real one, and ``retries`` run the view or the function
    again. On SQLite, which has no deadlocks, the error is ``database is locked``. For several
    conflicts in a row, open several blocks.

    :raises ConfigError: as :func:`fail_commit`, as are the parameters and the other errors.
    """
    where = _Where.of(db, app, engine, endpoint)
    _refuse_unknown_dialects(where)

    def fail(call: Call) -> None:
        driver_errors.deadlock(call.dialect, call.connection)

    awaited = "a statement that may write"
    return Failure("deadlock_once", where, awaited, _may_write, fail, required=required)


def slow(
    db: HasEngines,
    seconds: float,
    *,
    at: Literal["commit", "execute"] = "execute",
    endpoint: str | None = None,
    engine: str | None = None,
    app: Flask | None = None,
    required: bool = True,
) -> Failure:
    """Let each statement take *seconds* longer.

    A server sleeps itself, so a timeout for statements ends the sleep, with its own error. With
    SQLite the thread sleeps. Either way the connection is in use meanwhile.

    :param seconds: may be a fraction.
    :param at: ``"execute"`` for each statement, ``"commit"`` for each COMMIT, before which the
        thread sleeps, with its locks.
    :raises ConfigError: *seconds* is not a positive number, *at* is something else; otherwise as
        :func:`fail_commit`, as are the other parameters and errors.
    """
    where = _Where.of(db, app, engine, endpoint)
    _refuse_no_duration(seconds)
    if at not in ("commit", "execute"):
        raise ConfigError(
            f"'at' of 'testing.slow' is {shown(at)}. Write 'execute' to slow down each statement,"
            " 'commit' for each COMMIT."
        )

    def sleep(call: Call) -> None:
        if call.statement is None:
            time.sleep(seconds)
        else:
            _sleep_in_server(call, seconds)

    picks, awaited = (_is_commit, "a COMMIT") if at == "commit" else (_is_statement, "a statement")
    return Failure("slow", where, awaited, picks, sleep, nth=None, required=required)


# Which calls ----------------------------------------------------------------------------------


def _is_commit(call: Call) -> bool:
    return call.is_commit


def _is_statement(call: Call) -> bool:
    return call.statement is not None


def _may_write(call: Call) -> bool:
    statement = call.statement
    if statement is None:
        return False
    return reader_of(call.dialect.name).effect_of(statement) is not StatementEffect.READ


# What happens then ----------------------------------------------------------------------------


def _of_the_driver(error: BaseException, call: Call) -> BaseException:
    """Return what the driver would have raised; SQLAlchemy does not wrap its own errors again."""
    orig = error.orig if isinstance(error, DBAPIError) else None
    driver: Any = call.dialect.loaded_dbapi
    return orig if orig is not None and isinstance(orig, driver.Error) else error


_SLEEP = {
    "postgresql": "SELECT pg_sleep({!r})",
    "mysql": "SELECT SLEEP({!r})",
    "mariadb": "SELECT SLEEP({!r})",
}


def _sleep_in_server(call: Call, seconds: float) -> None:
    driver, statement = driver_of(call.dialect), _SLEEP.get(call.dialect.name)
    # An aborted transaction would refuse it, and ROLLBACK TO SAVEPOINT may be about to heal it.
    if statement is None or driver.is_aborted(call.connection, None):
        time.sleep(seconds)
        return

    def run(cursor: Any) -> None:
        cursor.execute(statement.format(float(seconds)))

    cursor = call.connection.cursor()
    try:
        is_plain = call.context is not None and deferred_record_of(call.context) is not None
        # A plain read stays one (P14): it is not to begin a transaction here.
        if not (is_plain and driver.read_plainly(run, cursor)):
            run(cursor)
    finally:
        cursor.close()


# Bad input ------------------------------------------------------------------------------------


def _refuse_no_error(error: object) -> None:
    if error is not None and not isinstance(error, BaseException):
        raise ConfigError(
            f"'testing.fail_commit' was given {shown(error)}, which is not an exception. Give it an"
            " object, such as 'RuntimeError(\"out of order\")', or leave it out for the"
            " 'IntegrityError' of the database itself."
        )


def _refuse_no_name(constraint: object) -> None:
    if not isinstance(constraint, str) or not constraint:
        raise ConfigError(
            f"'constraint' of 'testing.fail_commit' is {shown(constraint)}; it is the name of a"
            " constraint, such as 'uq_users_name'."
        )


def _refuse_no_place(at: object, *, stored: bool) -> None:
    is_number = isinstance(at, int) and not isinstance(at, bool) and at > 0
    if not is_number and at not in ("commit", "execute"):
        raise ConfigError(
            f"'at' of 'testing.lose_connection' is {shown(at)}. Write 'commit', 'execute', or the"
            " number of a statement: 1 for the next one, 3 for the third from now."
        )
    if stored and at != "commit":
        raise ConfigError(
            "'stored' of 'testing.lose_connection' is about a COMMIT: write at='commit', or leave"
            " it out. What a statement has written is gone with its connection."
        )


def _refuse_no_duration(seconds: object) -> None:
    number = seconds if isinstance(seconds, (int, float)) else 0
    if isinstance(seconds, bool) or not 0 < number < math.inf:
        raise ConfigError(
            f"'seconds' of 'testing.slow' is {shown(seconds)}. Write a positive number, such as 0.2"
            " for a fifth of a second."
        )


def _refuse_unknown_dialects(where: _Where) -> None:
    for engine in where.engines.values():
        driver_errors.refuse_unknown(engine.dialect)


def _refuse_unknown_endpoint(app: Flask, endpoint: str) -> None:
    if endpoint in app.view_functions:
        return
    near = difflib.get_close_matches(str(endpoint), app.view_functions, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else "'flask routes' lists them."
    raise ConfigError(
        f"The app {app.name!r} has no endpoint {shown(endpoint)}, so no request to it can fail."
        f" {hint} The endpoint of a view in a blueprint has its name in front: 'shop.create'."
    )
