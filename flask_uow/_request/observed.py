"""``ObservedUnit``: the unit of work that is used while a signal has receivers.

Without receivers, :class:`~.._unit.unit.UnitOfWork` is used, which does not know signals.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Sequence
from time import perf_counter
from typing import Any

from blinker import NamedSignal
from flask import current_app
from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

from .. import signals
from .._engine.checkouts import source_location
from .._transaction.statements import StatementEffect
from .._unit.commit_hooks import Hook, OutcomeListener
from .._unit.unit import UnitOfWork

logger = logging.getLogger(__name__)


class ObservedUnit(UnitOfWork):
    """A unit of work that sends :mod:`flask_uow.signals`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._app: Any = current_app._get_current_object()  # type: ignore[attr-defined]
        self._outcomes = _Outcomes(self.session, self._send)

    def _send(self, signal: NamedSignal, **details: object) -> None:
        if signal.is_muted:
            return
        for receiver in signal.receivers_for(self._app):
            try:
                self._app.ensure_sync(receiver)(self._app, **details)
            except Exception:  # noqa: PERF203  # the next receiver still runs
                logger.exception(
                    "A receiver of the signal %r failed. The unit of work stays as it is.",
                    signal.name,
                )

    def rollback(self) -> None:
        self._outcomes.note_work(self.has_work)
        super().rollback()

    def fail(self, error: BaseException | None = None) -> None:
        self._outcomes.note_cause(error)
        super().fail(error)

    def release(self, error: BaseException | None = None, *, warn: bool = True) -> None:
        self._outcomes.note_cause(error)
        super().release(error, warn=warn)

    def note_retry(self, error: BaseException, attempt: int) -> None:
        super().note_retry(error, attempt)
        self._send(signals.unit_retried, error=error, attempt=attempt)

    def note_failed_hook(self, hook: Hook, error: Exception) -> None:
        super().note_failed_hook(hook, error)
        self._send(signals.hook_failed, function=hook.function, error=error)

    def note_discarded(self, work: Counter[tuple[str, str]]) -> None:
        location = source_location(*self.place)
        self._send(signals.work_discarded, work=dict(work), location=location)
        super().note_discarded(work)  # last, because a warning may be an error


class _Outcomes(OutcomeListener):
    """Sends the signals for the transactions of one session."""

    _causes: Sequence[BaseException | None] = ()
    _had_work = False

    def __init__(self, session: Session, send: Any) -> None:
        super().__init__(session)
        self._send = send
        self._began = perf_counter()
        event.listen(session, "after_transaction_create", self._note_begin)

    def note_cause(self, error: BaseException | None) -> None:
        """Note the cause of a rollback that may follow."""
        self._causes = (error,)

    def note_work(self, has_work: bool) -> None:
        """Note whether the next rollback undoes work, including objects that were not flushed."""
        self._had_work = has_work

    def _note_begin(self, _session: Session, transaction: SessionTransaction) -> None:
        if transaction.parent is None:
            self._began = perf_counter()

    def note_outcome(
        self, session: Session, transaction: SessionTransaction, *, committed: bool
    ) -> None:
        if transaction.parent is not None:
            return
        # If the app itself called rollback(), it usually did so in an 'except' block.
        (error,), had_work = self._causes or sys.exc_info()[1:2], self._had_work
        self._causes, self._had_work = (), False
        record = session.record  # type: ignore[attr-defined]
        has_written = record.effect is not StatementEffect.READ
        duration = perf_counter() - self._began
        if committed and has_written:
            self._send(signals.unit_committed, duration=duration)
        elif not committed and (has_written or had_work or record.error):
            self._send(signals.unit_rolled_back, error=error, duration=duration)
