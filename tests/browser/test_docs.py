"""The built docs in a browser: nothing that is to be read is out of sight."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.checks import too_wide
from tests.browser.conftest import OpenPage
from tests.docs.pages import DOCS
from tests.support.databases import missing

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow

# Python is not among them: it does not wrap, because its indentation has a meaning.
READ = (
    "html, .highlight-text pre, .highlight-sql pre, .highlight-console pre, .table-wrapper, table"
)


@pytest.fixture(scope="module")
def html(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built docs."""
    if find_spec("sphinx") is None:
        missing("sphinx", "pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("html")
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", str(DOCS), str(folder)]
    subprocess.run(command, check=True, cwd=DOCS.parent)
    return folder


def pages(html: Path) -> list[Path]:
    return [html / path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")]


@pytest.mark.parametrize("width", [1280, 375])
def test_nothing_has_to_be_scrolled_sideways(width: int, html: Path, open_page: OpenPage) -> None:
    """No page, and no error, SQL, command or table on it."""
    page = open_page(width)
    found = {}
    for path in pages(html):
        page.goto(path.as_uri())
        found[path.stem] = too_wide(page, READ)
    assert len(found) > 10
    assert {name: wide for name, wide in found.items() if wide} == {}


def test_stacked_tables_name_their_columns(html: Path, open_page: OpenPage) -> None:
    """On a phone, a table of many columns is a list; on a desktop it is a table."""
    for width, display in ((375, "block"), (1280, "table-row")):
        page = open_page(width)
        page.goto((html / "explanation" / "faults.html").as_uri())
        table = page.locator("table.stacked").first
        cell = table.locator("tbody td").nth(1)
        assert cell.get_attribute("data-label") == table.locator("th").nth(1).text_content()
        row = table.locator("tbody tr").first
        assert row.evaluate("row => getComputedStyle(row).display") == display
