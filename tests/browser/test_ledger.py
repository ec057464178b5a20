"""The ledger in a browser, at the width of a desktop and of phones."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest

from tests.browser.checks import too_wide, violations
from tests.browser.conftest import OpenPage, Scheme
from tests.support import ledger as ledgers

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow

DESKTOP, PHONE, SMALL_PHONE = 1280, 375, 320
FILES = ledgers.ROOT / "example_app" / "static"

on_each_width = pytest.mark.parametrize("width", [DESKTOP, PHONE, SMALL_PHONE])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the database."""
    return tmp_path_factory.mktemp("ledger")


@pytest.fixture(scope="module")
def ledger(browser: Browser, folder: Path) -> Iterator[str]:
    """The address of a ledger with example data, and with the longest values that it takes."""
    with ledgers.serving(folder) as address:
        source = _post(address, "accounts", name="W" * 80, may_overdraw=True)
        target = _post(address, "accounts", name="Large amounts")
        order = {"from": source, "to": target, "amount": "9999999999999.99", "memo": "M" * 200}
        _post(address, "transfers", **order)
        yield address


def _post(address: str, path: str, **body: object) -> int:
    headers = {"Content-Type": "application/json"}
    request = Request(f"{address}/api/{path}", json.dumps(body).encode(), headers)
    with urlopen(request) as response:
        number: int = json.load(response)["id"]
        return number


# The pages ------------------------------------------------------------------------------------

PATHS = [
    "/",
    "/accounts/new",
    "/accounts/3",
    "/accounts/5",
    "/accounts/10",
    "/transfers/new",
    "/import",
    "/journal",
    "/accounts/99",
    "/nothing",
]


def open_account(page: Page, name: str) -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_role("button", name="Open the account").click()


def transfer(page: Page, source: str, target: str, amount: str, memo: str = "") -> None:
    page.get_by_label("From").select_option(_option(page, source))
    page.get_by_label("To", exact=True).select_option(_option(page, target))
    page.get_by_label("Amount").fill(amount)
    page.get_by_label("Memo").fill(memo)
    page.get_by_role("button", name="Transfer").click()


def _option(page: Page, account: str) -> str | None:
    option = page.locator("#from option", has_text=f"{account} ·").first
    return option.get_attribute("value")


def upload(page: Page, file: str, *, skip_bad: bool = False) -> None:
    page.get_by_label("CSV file").set_input_files(FILES / file)
    page.get_by_label("Skip bad lines").set_checked(skip_bad)
    page.get_by_role("button", name="Import").click()


@dataclass(frozen=True)
class Refusal:
    """A form that is refused.

    :ivar field: the id of the field that is to blame.
    :ivar reason: how the reason begins.
    """

    path: str
    fill: Callable[[Page], None]
    field: str
    reason: str

    def show(self, page: Page, ledger: str) -> None:
        page.goto(ledger + self.path)
        self.fill(page)
        page.locator("#reason").wait_for()


def _submit_empty(page: Page) -> None:
    page.locator("form").evaluate("form => { form.noValidate = true; form.requestSubmit() }")


REFUSALS = {
    "name that exists": Refusal(
        "/accounts/new",
        lambda page: open_account(page, "Bank"),
        "name",
        "There is an account with this name",
    ),
    "empty form": Refusal("/transfers/new", _submit_empty, "from", "The source account is missing"),
    "same account": Refusal(
        "/transfers/new",
        lambda page: transfer(page, "Bank", "Bank", "1"),
        "to",
        "The two accounts of a transfer must be different",
    ),
    "unreadable amount": Refusal(
        "/transfers/new",
        lambda page: transfer(page, "Bank", "Till", "much"),
        "amount",
        'The amount "much" cannot be read',
    ),
    "too little money": Refusal(
        "/transfers/new",
        lambda page: transfer(page, "Till", "Bank", "1000000"),
        "amount",
        "There is not enough money in the account",
    ),
    "control character": Refusal(
        "/transfers/new",
        lambda page: transfer(page, "Bank", "Till", "1", "\a"),
        "memo",
        "The memo must be one line of printable characters",
    ),
    "bad file": Refusal(
        "/import",
        lambda page: upload(page, "bad.csv"),
        "file",
        'Line 4: There is no account "Bnak"',
    ),
}


# What is checked ------------------------------------------------------------------------------


@on_each_width
def test_no_page_is_wider_than_the_screen(width: int, ledger: str, open_page: OpenPage) -> None:
    """Whatever is on it: the longest name, the largest amount, the reason of a refusal."""
    page = open_page(width)
    for path in PATHS:
        page.goto(ledger + path)
        assert too_wide(page) == [], path
    for case, refusal in REFUSALS.items():
        refusal.show(page, ledger)
        assert too_wide(page) == [], case


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_axe_finds_nothing(width: int, scheme: Scheme, ledger: str, open_page: OpenPage) -> None:
    """On any page, and on any refused form."""
    page = open_page(width, scheme)
    for path in PATHS:
        page.goto(ledger + path)
        assert violations(page) == [], path
    for case, refusal in REFUSALS.items():
        refusal.show(page, ledger)
        assert violations(page) == [], case


@pytest.mark.parametrize("case", REFUSALS)
def test_reason_of_a_refusal_has_the_focus(case: str, ledger: str, open_page: OpenPage) -> None:
    """And the field that is to blame, no other, is marked and described by it."""
    refusal = REFUSALS[case]
    page = open_page(PHONE)
    page.goto(ledger + refusal.path)
    assert page.locator("[aria-invalid]").count() == 0

    refusal.fill(page)
    page.locator("#reason:focus").wait_for()

    assert page.locator("#reason").inner_text().startswith(refusal.reason)
    assert page.title().startswith("Error: ")
    wrong = page.locator("[aria-invalid=true]")
    assert [field.get_attribute("id") for field in wrong.all()] == [refusal.field]
    assert wrong.get_attribute("aria-describedby") == "reason"


@on_each_width
def test_transfer_is_on_both_statements(width: int, ledger: str, open_page: OpenPage) -> None:
    """The statement follows the form, with the amount; the other one shows it, too."""
    page = open_page(width)
    page.goto(ledger)
    page.get_by_role("link", name="New transfer").click()
    transfer(page, "Bank", "Savings", "1.25", f"Width {width}")

    page.get_by_role("heading", name="Bank").wait_for()
    assert page.get_by_role("status").inner_text() == "1.25 transferred."
    paid = page.get_by_role("row", name=f"Width {width}")
    assert "to Savings" in paid.inner_text()
    assert "\N{MINUS SIGN}1.25" in paid.inner_text()

    page.get_by_role("link", name="Accounts").click()
    page.get_by_role("link", name="Savings").click()
    assert "+1.25" in page.get_by_role("row", name=f"Width {width}").inner_text()


@on_each_width
def test_import_is_all_or_nothing_unless_asked(
    width: int, ledger: str, open_page: OpenPage
) -> None:
    """A bad line refuses the file, or is listed while the others are imported."""
    page = open_page(width)
    page.goto(f"{ledger}/import")
    upload(page, "bad.csv")
    assert "Nothing was imported." in page.get_by_role("alert").inner_text()

    upload(page, "bad.csv", skip_bad=True)
    assert "Lines skipped: 1." in page.get_by_role("status").inner_text()
    assert "Line 4" in page.get_by_role("region", name="Skipped lines").inner_text()
    assert too_wide(page) == []
    assert violations(page) == []

    upload(page, "good.csv")
    page.get_by_role("heading", name="Accounts").wait_for()
    assert page.get_by_role("status").inner_text().startswith("Transfers imported: ")


@on_each_width
def test_journal_shows_refusals_and_receipts(width: int, ledger: str, open_page: OpenPage) -> None:
    """After a refused transfer and one that is carried out."""
    page = open_page(width)
    REFUSALS["too little money"].show(page, ledger)
    transfer(page, "Bank", "Till", "2", f"Receipt at {width}")
    page.get_by_role("heading", name="Bank").wait_for()
    page.get_by_role("link", name="Journal").click()

    refused = page.get_by_role("region", name="Refused transfers and imports").inner_text()
    assert "There is not enough money in the account." in refused
    assert f"Receipt at {width}" in page.get_by_role("region", name="Receipts sent").inner_text()
    assert too_wide(page) == []


@on_each_width
def test_statement_leads_to_older_lines(width: int, ledger: str, open_page: OpenPage) -> None:
    """And back again, with the same checks on each page."""
    page = open_page(width)
    page.goto(f"{ledger}/accounts/3")
    newest = page.get_by_role("row").nth(1).inner_text()
    for link in ("Older", "Newer"):
        page.get_by_role("link", name=link).click()
        page.get_by_role("link", name="Older" if link == "Newer" else "Newer").wait_for()
        assert too_wide(page) == []
        assert violations(page) == []
    assert page.get_by_role("row").nth(1).inner_text() == newest


@on_each_width
def test_running_import_is_shown_as_running(width: int, ledger: str, open_page: OpenPage) -> None:
    """On the page of imports and in the journal; other transfers are carried out meanwhile."""
    page = open_page(width)
    with importing(ledger):
        page.goto(f"{ledger}/import")
        assert "Running." in page.get_by_role("region", name="Running imports").inner_text()
        assert too_wide(page) == []
        assert violations(page) == []

        page.goto(f"{ledger}/transfers/new")
        transfer(page, "Bank", "Till", "1")
        page.get_by_role("heading", name="Bank").wait_for()

        page.get_by_role("link", name="Journal").click()
        page.get_by_text("Running.").first.wait_for()
        assert too_wide(page) == []
        assert violations(page) == []
    page.reload()
    assert "Transfers: 2." in page.get_by_role("region", name="Refused transfers").inner_text()


@contextmanager
def importing(ledger: str) -> Iterator[None]:
    """Import a file whose last line arrives when the block has ended."""
    start, end = b"from,to,amount\nSales,Till,1\n", b"Till,Bank,1\n"
    address = urlsplit(ledger)
    with closing(HTTPConnection(address.netloc, timeout=20)) as connection:
        connection.putrequest("POST", "/api/imports")
        connection.putheader("Content-Length", str(len(start + end)))
        connection.endheaders(start)
        while not _has_running_import(ledger):
            time.sleep(0.05)
        yield
        connection.send(end)
        assert connection.getresponse().status == 201


def _has_running_import(ledger: str) -> bool:
    with urlopen(f"{ledger}/import") as page:
        return b"Running." in page.read()


@pytest.mark.parametrize("width", [DESKTOP, SMALL_PHONE])
def test_busy_database_has_a_page_of_its_own(
    width: int, ledger: str, folder: Path, open_page: OpenPage
) -> None:
    """While another program has the write lock for longer than a request waits."""
    page = open_page(width)
    page.goto(f"{ledger}/accounts/new")
    with closing(sqlite3.connect(folder / "ledger.db", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        open_account(page, "Late")
        page.get_by_role("heading", name="The ledger is busy").wait_for()
    assert too_wide(page) == []
    assert violations(page) == []
    page.get_by_role("link", name="Back to the accounts").click()
    page.get_by_role("heading", name="Accounts").wait_for()
    assert page.get_by_role("link", name="Late").count() == 0


@on_each_width
def test_keyboard_skips_the_navigation(width: int, ledger: str, open_page: OpenPage) -> None:
    """The first stop of the Tab key is a visible link to the content."""
    page = open_page(width)
    page.goto(ledger)
    page.keyboard.press("Tab")
    skip = page.locator(":focus")
    assert skip.inner_text() == "Skip to the content"
    box = skip.bounding_box()
    assert box is not None
    assert box["x"] >= 0
