"""Signals: they report the outcomes of units of work, for metrics and logs.

They work like Flask's own signals. The app is the sender::

    from flask_uow.signals import unit_committed

    @unit_committed.connect_via(app)
    def count(app, duration, **extra):
        commits.observe(duration)

Accept ``**extra``, because a later version may send more arguments. An error of a receiver is
logged and changes nothing. Do not use the database in a receiver: use ``db.on_commit()`` for that.

Without receivers, signals cost nothing. Connect receivers before the first request: a unit that is
already open sends nothing.
"""

from __future__ import annotations

from blinker import Namespace

_signals = Namespace()

unit_committed = _signals.signal(
    "unit-committed",
    """Sent after a COMMIT that stored work: by a request, ``db.session.commit()``, the outermost
    ``db.atomic()`` or ``db.independent()``. A unit that only read sends nothing.

    *duration*: seconds since the first use of the session in this transaction.
    """,
)
unit_rolled_back = _signals.signal(
    "unit-rolled-back",
    """Sent after a ROLLBACK that undid work. A unit that only read, and a savepoint, send nothing.

    *error*: the exception that caused it; None if there was none, as for a status of 400 or more.

    *duration*: seconds since the first use of the session in this transaction.
    """,
)
unit_retried = _signals.signal(
    "unit-retried",
    """Sent before a view or a function runs again because of ``retries=``.

    *error*: the conflict.

    *attempt*: the number of the next run; 2 for the first retry.
    """,
)
hook_failed = _signals.signal(
    "hook-failed",
    """Sent after a function that was given to ``db.on_commit()`` or ``db.on_rollback()`` raised an
    exception. The exception is logged as well.

    *function*, *error*: the function, and the exception.
    """,
)
work_discarded = _signals.signal(
    "work-discarded",
    """Sent when a context ends with uncommitted work, together with the warning
    :class:`~flask_uow.DiscardedWork`.

    *work*: a dict of what was lost, by name and kind: ``{("User", "new"): 2}``.

    *location*: the file, line and function that opened the unit.
    """,
)

SIGNALS = (unit_committed, unit_rolled_back, unit_retried, hook_failed, work_discarded)
