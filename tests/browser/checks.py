"""What is checked on every page: nothing is out of sight, and axe-core finds nothing.

After a click, an element of the next page can be there before the stylesheet is. So both checks
wait until the page has loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

_TOO_WIDE = """selector => [...document.querySelectorAll(selector)]
    .filter(element => element.scrollWidth > element.clientWidth)
    .map(element => `${element.scrollWidth - element.clientWidth} px: `
                    + element.textContent.trim().slice(0, 60))"""


def too_wide(page: Page, selector: str = "html") -> list[str]:
    """The elements of *page* that have to be scrolled sideways."""
    page.wait_for_load_state()
    found: list[str] = page.evaluate(_TOO_WIDE, selector)
    return found


def violations(page: Page) -> list[str]:
    """What axe-core finds on *page*, with the first element that is to blame."""
    from axe_playwright_python.sync_playwright import Axe

    page.wait_for_load_state()
    found = Axe().run(page).response["violations"]
    return [f"{rule['id']}: {rule['nodes'][0]['html']}" for rule in found]
