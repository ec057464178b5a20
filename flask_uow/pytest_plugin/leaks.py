"""What a test leaves open is an error: ``uow_leaks``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ..testing.leaks import LeakDetector


class LeakCheck:
    """Looks after each test for contexts, sessions and connections that it has left open.

    What a fixture of a wider scope than a test opens, or a module when it is imported, is no leak.
    Nothing is done before the suite has imported a ``Database``.
    """

    def __init__(self) -> None:
        self._detector: LeakDetector | None = None

    def _find(self) -> LeakDetector | None:
        if self._detector is None and "flask_uow.database" in sys.modules:
            from ..testing.leaks import LeakDetector

            self._detector = LeakDetector()
        return self._detector

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> Iterator[None]:
        if detector := self._find():
            detector.accept()  # what was opened before the test, such as by an import
        yield

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
        detector = None if fixturedef.scope == "function" else self._find()
        with detector.accepting() if detector else nullcontext():
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Iterator[None]:
        leaks: list[str] = []
        try:
            yield
        finally:  # an error of a fixture is reported; what it left open must not outlive the test
            if detector := self._find():
                leaks = detector.close()
        if leaks:
            from ..testing.leaks import report

            pytest.fail(report(leaks), pytrace=False)

    def pytest_unconfigure(self) -> None:
        if self._detector is not None:
            self._detector.stop()
