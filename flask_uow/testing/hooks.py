"""Hooks that a test looks at instead of running them: ``capture_on_commit()``."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol, cast

from flask import Flask, current_app, has_app_context

from .._request.context import UnitRegistry
from .._request.proxy import SessionProxy
from .._unit.commit_hooks import Hook
from ..errors import BlockRefused


class HasSession(Protocol):
    """A ``Database``."""

    @property
    def session(self) -> SessionProxy[Any]:
        """The session of the current unit."""
        ...


class CaptureOnCommit:
    """The context manager that :func:`capture_on_commit` returns."""

    def __init__(self, db: HasSession, app: Flask | None, *, run: bool) -> None:
        self._units = cast("UnitRegistry[Any]", db.session.registry)
        self._app, self._run = app, run
        self._hooks: list[Hook] | None = None
        if app is not None:
            with app.app_context():
                self._units.state()

    def __enter__(self) -> list[Hook]:
        if self._hooks is not None:
            raise BlockRefused(
                "This 'testing.capture_on_commit(...)' block is open already. Each 'with' needs one"
                " of its own: call 'testing.capture_on_commit(db)' again instead of keeping the"
                " object."
            )
        self._hooks = []
        self._before = self._units.run_hooks_by(self._capture)
        return self._hooks

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        hooks, self._hooks = self._hooks, None
        self._units.run_hooks_by(self._before)
        if self._run and error is None:
            for hook in hooks or ():
                hook.run()

    def _capture(self, hook: Hook) -> None:
        # A block inside that ended later may have left this one as what runs hooks.
        if self._hooks is None or not self._is_meant():
            self._before(hook)
        else:
            self._hooks.append(hook)

    def _is_meant(self) -> bool:
        return self._app is None or (has_app_context() and current_app == self._app)


def capture_on_commit(
    db: HasSession, *, run: bool = False, app: Flask | None = None
) -> CaptureOnCommit:
    """Keep the hooks whose time comes in the block, instead of running them.

    ::

        with testing.capture_on_commit(db) as hooks:
            client.post("/users", data={"name": "ada"})
        assert [hook.function for hook in hooks] == [send_welcome_mail]
        assert hooks[0].args == ("ada",)
        hooks[0].run()

    The list has what would have run: not the hooks of work that was rolled back, but the
    ``on_rollback`` hooks of it, whose ``on_commit`` is False.

    :param run: at the end of the block, run them after all, in their order. An error of a hook is
        raised and the following ones do not run, where production logs it and continues. Not after
        an exception in the block.
    :param app: only hooks of this app; by default those of all apps of *db*, which need no context.
    :raises BlockRefused: from the ``with``, if this same object is open already.
    :raises SetupError: the app is not registered with *db*.
    """
    return CaptureOnCommit(db, app, run=run)
