"""Chromium, which is started once for all tests of a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

import pytest

from tests.support import programs

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Scheme = Literal["light", "dark"]
OpenPage = Callable[..., "Page"]


# Not for the whole session: Playwright keeps an event loop in this thread, and other tests start
# loops of their own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = programs.chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Opens an empty page of a width, in a light or a dark color scheme."""
    contexts = []

    def open_page(width: int, scheme: Scheme = "light") -> Page:
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        context.set_default_timeout(20_000)
        return context.new_page()

    yield open_page
    for context in contexts:
        context.close()
