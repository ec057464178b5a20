"""Only one thread at a time may use a session, in the process that created it.

Nothing here knows Flask.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, Protocol, TypeVar, cast

from .._engine import fork
from ..errors import ConcurrentUse, ForkedUnit


class Exclusive(Protocol):
    """An object whose methods exclude each other.

    :ivar lock: locked while a thread is inside.
    :ivar owner_thread: the thread that is inside.
    :ivar generation: the fork generation of its process; see ``_engine.fork``.
    """

    lock: threading.Lock
    owner_thread: int | None
    generation: int


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
        if not self.lock.acquire(False) and not (patience and self.lock.acquire(timeout=patience)):
            raise concurrent_use()
        self.owner_thread = me
        try:
            return method(self, *args, **kwargs)
        finally:
            self.owner_thread = None
            self.lock.release()

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
