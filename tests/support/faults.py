"""Failure on demand: what fails is the call into the driver, as if the driver had failed.

::

    faults = Faults(db.engine)
    faults.fail("commit")                    # the next COMMIT
    faults.fail("statement", nth=3)          # the third statement from now on
    faults.fail("rollback", times=None)      # every ROLLBACK, those of the pool too
    faults.fail("close", KeyboardInterrupt())
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

from sqlalchemy import Connection, Engine

from .witness import Witness

Step = Literal["commit", "rollback", "close", "statement"]

_METHODS: dict[str, Step] = {
    "do_commit": "commit",
    "do_rollback": "rollback",
    "do_close": "close",
    "do_execute": "statement",
    "do_executemany": "statement",
}


class Faults:
    """Stands between one engine and its driver, and raises what it was told to raise.

    :ivar calls: how often each step was asked for, the failed ones included.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.calls: Counter[Step] = Counter()
        self._planned: list[_Fault] = []
        for name, step in _METHODS.items():
            self._wrap(name, step)

    def fail(
        self,
        step: Step,
        error: BaseException | None = None,
        *,
        nth: int = 1,
        times: int | None = 1,
    ) -> None:
        """Let a step fail.

        :param error: what is raised; by default the driver's ``OperationalError``.
        :param nth: which call from now on is the first to fail.
        :param times: how many calls fail; None means all.
        """
        driver: Any = self.engine.dialect.loaded_dbapi
        fault = error or driver.OperationalError(f"the {step} failed on demand")
        first = self.calls[step] + nth
        last = None if times is None else first + times - 1
        self._planned.append(_Fault(step, fault, first, last))

    def stop(self) -> None:
        """Let nothing fail any more."""
        self._planned.clear()

    def _wrap(self, name: str, step: Step) -> None:
        original: Callable[..., Any] = getattr(self.engine.dialect, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[step] += 1
            for fault in self._planned:
                if fault.is_due(step, self.calls[step]):
                    if step == "close":  # a driver that fails to say goodbye has hung up too
                        original(*args, **kwargs)
                    raise fault.error
            return original(*args, **kwargs)

        setattr(self.engine.dialect, name, call)


class _Fault:
    def __init__(self, step: Step, error: BaseException, first: int, last: int | None) -> None:
        self.step = step
        self.error = error
        self.first = first
        self.last = last

    def is_due(self, step: Step, call: int) -> bool:
        return self.step == step and self.first <= call and (self.last is None or call <= self.last)


# Killed backends ------------------------------------------------------------------------------

_OWN_ID = {"postgresql": "SELECT pg_backend_pid()", "mariadb": "SELECT connection_id()"}
_KILL = {"postgresql": "SELECT pg_terminate_backend({})", "mariadb": "KILL {}"}
_IS_ALIVE = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE pid = {}",
    "mariadb": "SELECT count(*) FROM information_schema.processlist WHERE id = {}",
}


def backend_id(connection: Connection) -> int:
    """The number under which the server knows *connection*."""
    number: int = connection.exec_driver_sql(_OWN_ID[connection.dialect.name]).scalar_one()
    return number


def kill_backend(witness: Witness, number: int) -> None:
    """End a connection from the server's side, as a restart or an administrator does."""
    name = witness.engine.dialect.name
    with witness.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(_KILL[name].format(number))
        for _ in range(200):
            if not connection.exec_driver_sql(_IS_ALIVE[name].format(number)).scalar_one():
                return
            time.sleep(0.05)
    raise AssertionError(f"the backend {number} did not end")
