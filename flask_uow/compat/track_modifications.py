"""Signals that name the changed models of a commit: ``SQLALCHEMY_TRACK_MODIFICATIONS``.

The sender is the app, and ``changes`` is a list of tuples: a model, and ``"insert"``, ``"update"``
or ``"delete"``. Of a model that was changed several times, the last operation counts.
"""

from __future__ import annotations

from typing import Any, cast

from blinker import NamedSignal, Namespace
from flask import Flask, current_app, has_app_context
from sqlalchemy import event, inspect
from sqlalchemy.orm import Session

_signals = Namespace()

models_committed = _signals.signal("models-committed")
"""Sent after a commit of changed models."""

before_models_committed = _signals.signal("before-models-committed")
"""Sent before it; a receiver that raises prevents the commit."""

_CHANGES = "flask_uow.compat.changes"  # in 'Session.info': by the savepoint that they belong to


def track(session_class: type[Session]) -> None:
    """Let the sessions of this class note their changes, and send the signals."""
    event.listen(session_class, "before_flush", _note_changes)
    event.listen(session_class, "before_commit", _send_before)
    event.listen(session_class, "after_commit", _send_after)
    event.listen(session_class, "after_rollback", _forget)


def _tracking_app() -> Flask | None:
    """The current app, if it tracks modifications."""
    if not (has_app_context() and current_app.config.get("SQLALCHEMY_TRACK_MODIFICATIONS")):
        return None
    return cast(Flask, cast(Any, current_app)._get_current_object())


def _note_changes(session: Session, *_: object) -> None:
    if _tracking_app() is None:
        return
    changes = _changes(session)
    kinds = (session.new, "insert"), (session.dirty, "update"), (session.deleted, "delete")
    for instances, operation in kinds:
        for instance in instances:
            state: Any = inspect(instance)
            key = state.identity_key if state.has_identity else id(instance)
            changes[key] = instance, operation


def _changes(session: Session) -> dict[Any, tuple[object, str]]:
    """The changes since the innermost savepoint."""
    by_savepoint = session.info.setdefault(_CHANGES, {})
    found: dict[Any, tuple[object, str]] = by_savepoint.setdefault(
        session.get_nested_transaction(), {}
    )
    return found


def _send(session: Session, signal: NamedSignal) -> None:
    app, changes = _tracking_app(), _changes(session)
    if app is not None and changes:
        signal.send(app, changes=list(changes.values()))


def _send_before(session: Session) -> None:
    _note_changes(session)
    if not session.in_nested_transaction():  # the release of a savepoint stores nothing yet
        _send(session, before_models_committed)


def _send_after(session: Session) -> None:
    released = session.get_nested_transaction()
    if released is None:
        _send(session, models_committed)
        _forget(session)
        return
    changes, parent = session.info.get(_CHANGES, {}), released.parent
    around = parent if parent is not None and parent.nested else None
    changes.setdefault(around, {}).update(changes.pop(released, {}))


def _forget(session: Session) -> None:
    session.info.get(_CHANGES, {}).pop(session.get_nested_transaction(), None)
