"""Tests have to ask for the database: ``uow_access = guarded``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

_NAME = "uow_access"  # of the option, the mark and the fixture


class AccessGuard:
    """Fails a test that uses an SQLAlchemy engine and neither has the mark nor the fixture.

    What fixtures do is not refused: a test asks for that by their names.
    """

    def __init__(self) -> None:
        self._refused: str | None = None  # the message, while such a test is running
        self._was_used = False
        self._listened: list[tuple[Any, str, Callable[..., None]]] = []

    @pytest.hookimpl(wrapper=True, trylast=True)  # inside of others: only the test itself
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        if item.get_closest_marker(_NAME) or _NAME in getattr(item, "fixturenames", ()):
            return (yield)
        self._listen()
        message = self._message(item)
        self._refused, self._was_used = message, False
        try:
            result = yield
        finally:
            self._refused = None
        if self._was_used:  # and the error was swallowed, or raised in another thread
            pytest.fail(message, pytrace=False)
        return result

    def _listen(self) -> None:
        if not self._listened:
            from sqlalchemy import Engine, Pool, event

            self._listened = [
                (Engine, "do_connect", self._check),  # a server that is not there, too
                (Pool, "checkout", self._check),
                (Engine, "before_cursor_execute", self._check),  # a connection of a fixture
            ]
            for listened in self._listened:
                event.listen(*listened)

    def pytest_unconfigure(self) -> None:
        if self._listened:
            from sqlalchemy import event

            for listened in self._listened:
                event.remove(*listened)

    def _check(self, *_: object) -> None:
        if self._refused is not None:
            self._was_used = True
            pytest.fail(self._refused)

    def _message(self, item: pytest.Item) -> str:
        return (
            f"The test {item.nodeid!r} used the database and had not asked for it ('{_NAME} ="
            f" guarded' in the configuration of pytest). Mark it with '@pytest.mark.{_NAME}', or"
            f" let it, or a fixture that it requests, request the fixture '{_NAME}'."
        )
