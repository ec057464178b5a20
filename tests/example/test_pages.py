"""What a person sees in the browser, and what a program sees in its place."""

from __future__ import annotations

from decimal import Decimal
from html.parser import HTMLParser

import pytest
from flask.testing import FlaskClient
from sqlalchemy import event

from flask_uow import Database, Flask

from .conftest import on_one_database

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
    for page in [*PAGES, "/accounts/3", "/accounts/3?page=2", "/accounts/5"]:
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
            assert link.startswith("/")
            with client.get(link) as answer:
                assert answer.status_code == 200, link


def test_statement_is_paged_and_its_balances_go_on(app: Flask, client: FlaskClient) -> None:
    """Twenty postings to a page, the newest first; the running balance spans the pages."""
    app.test_cli_runner().invoke(args=["seed"])
    first = client.get("/api/accounts/3").get_json()
    second = client.get("/api/accounts/3?page=2").get_json()
    beyond = client.get("/api/accounts/3?page=99").get_json()

    assert first["account"]["name"] == "Bank"
    assert (first["page"], first["pages"]) == (1, 2)
    assert len(first["postings"]) == 20
    balance = Decimal(first["account"]["balance"])
    for line in first["postings"] + second["postings"]:
        assert Decimal(line["balance"]) == balance
        balance -= Decimal(line["amount"])
    assert balance == 0
    assert beyond == second


@on_one_database
@pytest.mark.parametrize("page", ["0", "-1", "x", "", "9" * 30, "²"])
def test_page_that_cannot_be_is_the_nearest_one(app: Flask, client: FlaskClient, page: str) -> None:
    """A page number that is none is no reason for an error."""
    answer = client.get("/api/transfers", query_string={"page": page})
    assert answer.status_code == 200
    assert answer.get_json() == {"page": 1, "pages": 1, "transfers": []}


def test_list_of_transfers_is_paged(app: Flask, client: FlaskClient) -> None:
    """The API lists all transfers, the newest first, twenty to a page."""
    app.test_cli_runner().invoke(args=["seed"])
    first, last = (client.get(f"/api/transfers?page={page}").get_json() for page in (1, 3))
    assert (first["pages"], len(first["transfers"]), len(last["transfers"])) == (3, 20, 13)
    assert first["transfers"][0]["id"] == 53
    assert last["transfers"][-1] == {
        "id": 1,
        "at": last["transfers"][-1]["at"],
        "from": 1,
        "to": 3,
        "amount": "4200.00",
        "memo": "Opening balance",
    }


@on_one_database
def test_home_page_needs_few_statements(app: Flask, client: FlaskClient, db: Database) -> None:
    """However many accounts and transfers there are, the page sends four statements."""
    app.test_cli_runner().invoke(args=["seed"])
    statements: list[str] = []
    with app.app_context():
        event.listen(db.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    client.get("/")
    assert len(statements) == 4, statements


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
