"""What a person sees in the browser, and what a program sees in its place."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from decimal import Decimal
from html import unescape
from html.parser import HTMLParser
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from flask_uow import Database, Flask

from .conftest import on_one_database

pytestmark = pytest.mark.uow_isolated

PAGES = ["/", "/accounts/new", "/transfers/new", "/import", "/journal"]


class Outline(HTMLParser):
    """The parts of a page that tests ask for."""

    VOID = frozenset("meta link input img br hr".split())

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.labels: set[str | None] = set()
        self.fields: set[str | None] = set()
        self.links: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "label":
            self.labels.add(attributes["for"])
        if tag in ("input", "select"):
            self.fields.add(attributes["id"])
        self.links += [value for name, value in attrs if name in ("href", "src") and value]

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.open.pop()


def test_every_page_renders_before_and_after_there_is_data(app: Flask, client: FlaskClient) -> None:
    """Each page is 200 on an empty ledger and on a full one, and its tags are closed."""
    for page in PAGES:
        Outline(client.get(page).text)
    assert "There are no accounts yet" in client.get("/").text

    assert app.test_cli_runner().invoke(args=["seed"]).exit_code == 0
    for page in [*PAGES, "/accounts/3", "/accounts/5"]:
        answer = client.get(page)
        assert answer.status_code == 200
        Outline(answer.text)
    assert "Sum of all accounts" in client.get("/").text


@on_one_database
def test_every_field_has_a_label_and_every_link_an_end(client: FlaskClient, app: Flask) -> None:
    """Fields can be found by their label; no link is dead or leads to another host."""
    app.test_cli_runner().invoke(args=["seed"])
    for page in [*PAGES, "/accounts/3"]:
        outline = Outline(client.get(page).text)
        assert outline.fields == outline.labels
        for link in outline.links:
            if link == "#main":
                continue
            assert link.startswith(("/", "http://localhost/"))
            with client.get(link) as answer:
                assert answer.status_code == 200, link


def links(response: TestResponse) -> dict[str, str]:
    """The URLs of the ``Link`` header by their relations."""
    found = re.findall(r'<([^>]+)>; rel="(\w+)"', response.headers["Link"])
    return {relation: url for url, relation in found}


def test_statement_is_paged_and_its_balances_go_on(app: Flask, client: FlaskClient) -> None:
    """Twenty postings to a page, the newest first; the running balance spans the pages."""
    app.test_cli_runner().invoke(args=["seed"])
    first = client.get("/api/accounts/3")
    second = client.get(links(first)["next"])
    last = client.get(links(first)["last"])
    back = client.get(links(second)["prev"])

    assert first.get_json()["account"]["name"] == "Bank"
    assert len(first.get_json()["postings"]) == 20
    assert "prev" not in links(first)
    assert "next" not in links(second)
    balance = Decimal(first.get_json()["account"]["balance"])
    for line in first.get_json()["postings"] + second.get_json()["postings"]:
        assert Decimal(line["balance"]) == balance
        balance -= Decimal(line["amount"])
    assert balance == 0
    assert back.get_json() == first.get_json()
    assert last.get_json()["postings"][-1] == second.get_json()["postings"][-1]


def test_page_of_the_statement_stays_while_money_is_moved(app: Flask, client: FlaskClient) -> None:
    """A new transfer neither moves a row to another page nor changes the balance of a row."""
    app.test_cli_runner().invoke(args=["seed"])
    next_page = links(client.get("/api/accounts/3"))["next"]
    before = client.get(next_page).get_json()["postings"]
    client.post("/api/transfers", json={"from": 3, "to": 4, "amount": "1"})
    assert client.get(next_page).get_json()["postings"] == before


@on_one_database
def test_statement_page_leads_to_its_neighbors(app: Flask, client: FlaskClient) -> None:
    """By buttons that name the direction; a page that fits has none."""
    app.test_cli_runner().invoke(args=["seed"])
    first = client.get("/accounts/3").text
    (older,) = re.findall(r'rel="next" href="([^"]+)"', first)
    second = client.get(unescape(older)).text
    (newer,) = re.findall(r'rel="prev" href="([^"]+)"', second)

    assert 'rel="prev"' not in first
    assert 'rel="next"' not in second
    assert client.get(unescape(newer)).text.count("<time") == 20
    assert 'aria-label="Pages"' not in client.get("/accounts/9").text


@on_one_database
@pytest.mark.parametrize("path", ["/api/transfers", "/api/accounts/3", "/api/journal", "/journal"])
@pytest.mark.parametrize("query", ["after=x", "before=%00", "after=a&before=b", "per_page=0"])
def test_page_that_cannot_be_is_a_sentence(
    app: Flask, client: FlaskClient, path: str, query: str
) -> None:
    """A cursor that the app has not made, or an impossible size, is a 400."""
    app.test_cli_runner().invoke(args=["seed"])
    response = client.get(f"{path}?{query}")
    assert response.status_code == 400
    assert "per_page" in response.text or "cursor" in response.text or "after" in response.text


def test_list_of_transfers_is_paged(app: Flask, client: FlaskClient) -> None:
    """The API lists all transfers, the newest first, twenty to a page, with links to the others."""
    app.test_cli_runner().invoke(args=["seed"])
    pages = [client.get("/api/transfers")]
    while url := links(pages[-1]).get("next"):
        pages.append(client.get(url))
    transfers = [transfer for page in pages for transfer in page.get_json()["transfers"]]

    assert [len(page.get_json()["transfers"]) for page in pages] == [20, 20, 13]
    assert [transfer["id"] for transfer in transfers] == [*range(53, 0, -1)]
    assert transfers[-1] == {
        "id": 1,
        "at": transfers[-1]["at"],
        "from": 1,
        "to": 3,
        "amount": "4200.00",
        "memo": "Opening balance",
    }


@on_one_database
@pytest.mark.parametrize(
    ("page", "statements"),
    [("/", 3), ("/accounts/3", 4), ("/api/transfers", 2), ("/transfers/new", 1), ("/journal", 1)],
)
def test_page_needs_few_statements(
    app: Flask,
    client: FlaskClient,
    assert_queries: Callable[[int], AbstractContextManager[Any]],
    page: str,
    statements: int,
) -> None:
    """However many accounts and transfers there are."""
    app.test_cli_runner().invoke(args=["seed"])
    with assert_queries(statements):
        assert client.get(page).status_code == 200


@on_one_database
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("GET", "/accounts/7", 404), ("DELETE", "/import", 405)],
)
def test_error_is_a_page_for_people_and_json_for_programs(
    client: FlaskClient, method: str, path: str, status: int
) -> None:
    """The same error is a page, or JSON if the client prefers it."""
    page = client.open(path, method=method, headers={"Accept": "text/html"})
    program = client.open(path, method=method, headers={"Accept": "application/json"})

    assert (page.status_code, page.mimetype) == (status, "text/html")
    assert str(status) in page.text
    Outline(page.text)
    assert (program.status_code, program.mimetype) == (status, "application/json")
    assert program.get_json()["error"] in page.text
    assert ("Allow" in page.headers) is (status == 405)


@on_one_database
def test_unknown_address_of_the_api_is_json(client: FlaskClient) -> None:
    """Below /api, every answer is JSON."""
    answer = client.get("/api/nothing", headers={"Accept": "text/html"})
    assert (answer.status_code, answer.mimetype) == (404, "application/json")


@on_one_database
def test_fault_is_a_page_that_needs_no_database(
    app: Flask, client: FlaskClient, db: Database
) -> None:
    """When the database fails, the answer is a 500 with the page for it."""
    with app.app_context():
        db.drop_all()
    for path in ("/", "/transfers/new"):
        answer = (
            client.post(path, data={"from": "1", "to": "2", "amount": "1"})
            if (path != "/")
            else client.get(path)
        )
        assert answer.status_code == 500
        assert "Back to the accounts" in answer.text
