"""Only one thread at a time may use a session, in the process that created it.

Nothing here knows Flask.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Protocol, TypeVar, cast

from sqlalchemy import Connection, Engine

from .._engine import fork
from .._engine.idle import waiters
from ..errors import ConcurrentUse, ForkedUnit


class Exclusive(Protocol):
    """An object whose methods exclude each other.

    :ivar lock: locked while a thread is inside.
    :ivar owner_thread: the thread that is inside.
    :ivar generation: the fork generation of its process; see ``_engine.fork``.
    :ivar connections: those of its transaction.
    """

    connections: Mapping[Engine, Connection]
    lock: threading.Lock
    owner_thread: int | None
    generation: int

    def give_way(self) -> bool:
        """Return connections that it keeps without need: a thread waits for one."""
        ...

    def return_overdue(self) -> None:
        """Return such connections if they may be lost."""
        ...


_MOMENT = 1.0  # seconds

M = TypeVar("M", bound=Callable[..., Any])


def exclusive(method: M, *, patience: float = 0) -> M:
    """Make *method* refuse a thread while another is in such a method.

    :param patience: wait for the other thread, for as many seconds, before it is refused.
    :raises ConcurrentUse: the other thread is in it.
    :raises ForkedUnit: a parent process has created the object.
    """

    @wraps(method)
    def inside(self: Exclusive, *args: Any, **kwargs: Any) -> Any:
        # Asked through the module: gevent replaces the function when it patches.
        me = threading.get_ident()
        if self.generation != fork.generation:
            raise ForkedUnit(_FORKED)
        if self.owner_thread == me:  # inside already: a flush inside a commit
            return method(self, *args, **kwargs)
        if not self.lock.acquire(False):
            # The lock has no owner while another thread is in give_way(), which takes a moment.
            seconds = patience or (0 if self.owner_thread else _MOMENT)
            if not (seconds and self.lock.acquire(timeout=seconds)):
                raise concurrent_use()
        self.owner_thread = me
        try:
            if self.connections:
                self.return_overdue()
            return method(self, *args, **kwargs)
        finally:
            self.owner_thread = None
            self.lock.release()
            if waiters:
                self.give_way()

    return cast(M, inside)


_FORKED = (
    "This unit of work was open when the process forked: its connection belongs to the parent"
    " process, which continues to use it. Give the child a context of its own ('with"
    " app.app_context():' in it), or fork before the first use of 'db.session'."
)


def concurrent_use() -> ConcurrentUse:
    """The error for the second thread."""
    return ConcurrentUse(
        "This unit of work is in use by another thread: a statement of it is running there. A"
        " session and its connection can do one thing at a time. Give the second thread a"
        " context of its own ('with app.app_context():' in it, or 'copy_current_request_context'),"
        " or wait for the first to finish."
    )


# SQLAlchemy's warnings skip the frames of modules with such a name, and show the line of the app.
__name__ = "sqlalchemy.flask_uow"
