"""Stand-ins for the driver's connection and its cursors, for the code under test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from ..errors import IsolationError
from .savepoints import Checkout
from .shared_connection import SharedConnection

# Methods of cursors that send something without giving its text.
_SENDING = frozenset(["callproc", "copy", "copy_expert", "copy_from", "copy_to"])


class Facade(Checkout):
    """Stands in for the driver's connection, for one checkout.

    :cvar is_shared: other code needs the connection, so that it cannot really be cut.
    """

    is_shared = True

    def __init__(self, shared: SharedConnection) -> None:
        super().__init__(autocommit=shared.is_autocommit)
        self.shared = shared

    def __getattr__(self, name: str) -> Any:
        if name.startswith("tpc_"):
            raise IsolationError(
                "A two-phase commit was begun in an isolated test, whose transactions are"
                " savepoints. Use 'testing.truncated(db)' for this test."
            )
        return getattr(self.shared.real, name)

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        if self.shared.has_ended:
            return _EndedCursor(self.shared)
        return Cursor(self, self.shared.real.cursor(*args, **kwargs))

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """As ``psycopg.Connection.execute()``."""
        return self.cursor().execute(*args, **kwargs)

    @contextmanager
    def transaction(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """As ``psycopg.Connection.transaction()``: the outermost block commits."""
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

    ``cursor()`` itself raises nothing, because SQLAlchemy would wrap the error.
    """

    def __init__(self, shared: SharedConnection) -> None:
        self._shared = shared

    def close(self) -> None:
        """Do nothing."""

    def __getattr__(self, name: str) -> NoReturn:
        raise self._shared.ended()
