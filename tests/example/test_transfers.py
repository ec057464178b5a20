"""Moving money: what is stored, what is refused, and that both are whole."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from example_app import ledger
from example_app.database import db
from example_app.ledger import PaymentOrder
from example_app.models import LARGEST_BALANCE, Transfer
from example_app.money import LARGEST_TRANSFER
from flask_uow import Flask
from tests.support.databases import TestDatabase
from tests.support.witness import Witness

from .conftest import on_one_database

BALANCES = "SELECT name, balance FROM accounts ORDER BY name"
UNTOUCHED = [("Bank", 100_00), ("Source", -100_00), ("Till", 0)]


def stored(witness: Witness) -> dict[str, int]:
    return {name: int(balance) for name, balance in witness.ask(BALANCES)}


def audit(app: Flask) -> str:
    return app.test_cli_runner().invoke(args=["audit"]).output


def test_transfer_is_two_postings_that_sum_to_zero(
    app: Flask, client: FlaskClient, ids: dict[str, int], witness: Witness
) -> None:
    """A transfer takes from one account what it gives to the other, and is stored when answered."""
    body = {"from": ids["Bank"], "to": ids["Till"], "amount": "12.50", "memo": "Change ☕"}
    answer = client.post("/api/transfers", json=body)

    assert answer.status_code == 201
    assert {**body, "id": 2}.items() <= answer.get_json().items()
    postings = "SELECT account_id, amount FROM postings WHERE transfer_id = 2 ORDER BY amount"
    assert witness.ask(postings) == [(ids["Bank"], -12_50), (ids["Till"], 12_50)]
    assert stored(witness) == {"Bank": 87_50, "Source": -100_00, "Till": 12_50}
    assert "All agree" in audit(app)


def test_transfer_form_leads_to_the_statement_and_says_so(
    client: FlaskClient, ids: dict[str, int], witness: Witness
) -> None:
    """The form answers with a redirect; the page it leads to has the message and the posting."""
    form = {"from": ids["Bank"], "to": ids["Till"], "amount": "12.50", "memo": "Small <change>"}
    answer = client.post("/transfers/new", data=form, follow_redirects=True)

    assert answer.request.path == f"/accounts/{ids['Bank']}"
    assert "12.50 transferred." in answer.text
    assert "Small &lt;change&gt;" in answer.text
    assert stored(witness)["Till"] == 12_50


def test_overdraft_is_refused_by_the_database(
    client: FlaskClient, ids: dict[str, int], witness: Witness
) -> None:
    """An overdraft is a 409 from the error handler, and neither side of it is stored."""
    # The account that gets has the smaller id: it is changed before the refusal.
    assert ids["Till"] < ids["Bank"]
    body = {"from": ids["Bank"], "to": ids["Till"], "amount": "100.01"}
    answer = client.post("/api/transfers", json=body)

    assert answer.status_code == 409
    assert answer.get_json() == {
        "error": "There is not enough money in the account. Nothing was stored."
    }
    assert witness.ask(BALANCES) == UNTOUCHED
    assert witness.ask("SELECT COUNT(*) FROM transfers") == [1]


def test_refused_form_is_shown_again_with_what_was_typed(
    client: FlaskClient, ids: dict[str, int], witness: Witness
) -> None:
    """The 409 of a form is the form: the reason, the values, and the accounts as they are."""
    form = {"from": ids["Bank"], "to": ids["Till"], "amount": "100.01", "memo": "Too much"}
    answer = client.post("/transfers/new", data=form)

    assert answer.status_code == 409
    assert "There is not enough money" in answer.text
    assert 'value="100.01"' in answer.text
    assert 'value="Too much"' in answer.text
    assert "Bank · 100.00" in answer.text
    assert witness.ask(BALANCES) == UNTOUCHED


def test_balance_cannot_leave_its_bounds(
    client: FlaskClient, ids: dict[str, int], witness: Witness
) -> None:
    """A balance is refused long before it is too large for 64 bits."""
    largest = f"{LARGEST_TRANSFER // 100}"
    body = {"from": ids["Source"], "to": ids["Till"], "amount": largest}
    answers = [client.post("/api/transfers", json=body).status_code for _ in range(2)]
    lines = f"Source,Till,{largest}\n" * (LARGEST_BALANCE // LARGEST_TRANSFER)
    refused = client.post("/api/imports", data=f"from,to,amount\n{lines}")

    assert answers == [201, 201]
    assert refused.status_code == 422
    assert "Line 999: The account cannot hold that much." in refused.get_json()["error"]
    assert stored(witness)["Till"] == 2 * LARGEST_TRANSFER


def test_name_that_exists_is_refused_when_it_is_committed(
    client: FlaskClient, ids: dict[str, int], witness: Witness
) -> None:
    """The view has answered and flashed its success when the commit fails: none of it is seen."""
    answer = client.post("/accounts/new", data={"name": "Bank", "may_overdraw": "on"})
    later = client.get("/")

    assert answer.status_code == 409
    assert "There is an account with this name already." in answer.text
    assert "checked" in answer.text
    assert "is open" not in answer.text + later.text
    assert witness.ask(BALANCES) == UNTOUCHED


def test_names_differ_by_case(client: FlaskClient, ids: dict[str, int], witness: Witness) -> None:
    """Two names are the same only if all their letters are, on every database."""
    assert client.post("/api/accounts", json={"name": "BANK"}).status_code == 201
    assert client.post("/api/accounts", json={"name": "Bank"}).status_code == 409
    assert {"BANK", "Bank"} <= set(stored(witness))


@pytest.mark.parametrize("account_id", [99, 0, 2**31, 2**63, 10**9])
def test_unknown_account_is_a_404(
    client: FlaskClient, ids: dict[str, int], witness: Witness, account_id: int
) -> None:
    """A number that no account has, or could have, is answered with 404 and moves nothing."""
    pages = [f"/accounts/{account_id}", f"/accounts/{account_id}/statement.csv"]
    answers = [client.get(page) for page in (*pages, f"/api/accounts/{account_id}")]
    to_it = {"from": ids["Bank"], "to": account_id, "amount": "1"}
    from_it = {"from": account_id, "to": ids["Bank"], "amount": "1"}
    answers += [client.post("/api/transfers", json=body) for body in (to_it, from_it)]

    for answer in answers:
        # More than ten digits are no number of an account at all.
        assert answer.status_code == 404 or (account_id == 2**63 and answer.status_code == 422)
    assert f"There is no account {account_id}." in answers[0].text
    assert witness.ask(BALANCES) == UNTOUCHED


BAD_TRANSFERS: list[tuple[dict[str, Any], str]] = [
    ({"amount": ""}, "The amount is missing."),
    ({"amount": None}, "The amount is missing."),
    ({"amount": True}, "The amount is missing."),
    ({"amount": "twelve"}, 'The amount "twelve" cannot be read. Write it like 1250.00.'),
    ({"amount": "12,50"}, 'The amount "12,50" cannot be read.'),
    ({"amount": "1.999"}, 'The amount "1.999" cannot be read.'),
    ({"amount": "١٢"}, "cannot be read."),
    ({"amount": [1]}, "cannot be read."),
    ({"amount": 1e300}, "cannot be read."),
    ({"amount": "-5"}, "The amount must be more than zero."),
    ({"amount": "0.00"}, "The amount must be more than zero."),
    ({"amount": 2**64}, "The amount is too large: the limit is 10,000,000,000,000.00."),
    ({"amount": "9" * 4000}, "The amount is too large"),
    ({"to": None}, "The target account is missing."),
    ({"from": ""}, "The source account is missing."),
    ({"from": True}, "The source account must be an account number."),
    ({"from": "Bank"}, "The source account must be an account number."),
    ({"from": 10**40}, "The source account must be an account number."),
    ({"to": 3}, "The two accounts of a transfer must be different."),
    ({"memo": 5}, "The memo must be text."),
    ({"memo": "a" * 201}, "The memo has 201 characters; at most 200 are allowed."),
    ({"memo": "two\nlines"}, "The memo must be one line of printable characters."),
    ({"memo": "nul\0"}, "The memo must be one line of printable characters."),
    ({"memo": "\ud800"}, "The memo must be one line of printable characters."),
]


@on_one_database
@pytest.mark.parametrize(("change", "sentence"), BAD_TRANSFERS)
def test_bad_transfer_gets_a_sentence(
    client: FlaskClient, ids: dict[str, int], witness: Witness, change: Any, sentence: str
) -> None:
    """What cannot be a transfer is a 422 with the reason, and is not stored."""
    assert ids["Bank"] == 3
    body = {"from": ids["Bank"], "to": ids["Till"], "amount": "1", "memo": "", **change}
    answer = client.post("/api/transfers", json=body)

    assert answer.status_code == 422
    assert sentence in answer.get_json()["error"]
    assert witness.ask(BALANCES) == UNTOUCHED


@on_one_database
@pytest.mark.parametrize(
    ("amount", "cents"),
    [("1", 1_00), ("1.5", 1_50), ("01.05", 1_05), (" 0.01 ", 1), (2, 2_00), (2.5, 2_50)],
)
def test_amounts_are_read_to_the_cent(
    client: FlaskClient, ids: dict[str, int], witness: Witness, amount: Any, cents: int
) -> None:
    """Text and JSON numbers mean the same cents that a person would read."""
    body = {"from": ids["Bank"], "to": ids["Till"], "amount": amount}
    assert client.post("/api/transfers", json=body).status_code == 201
    assert stored(witness)["Till"] == cents


@on_one_database
@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "The name is missing."),
        ({"name": "  "}, "The name is missing."),
        ({"name": ["Bank"]}, "The name must be text."),
        ({"name": "a" * 81}, "The name has 81 characters; at most 80 are allowed."),
        ({"name": "\x07"}, "The name must be one line of printable characters."),
        ({"name": "A", "may_overdraw": "yes"}, "The field may_overdraw must be true or false."),
    ],
)
def test_bad_account_gets_a_sentence(
    client: FlaskClient, witness: Witness, body: Any, sentence: str
) -> None:
    """What cannot be an account is a 422 with the reason, and is not stored."""
    answer = client.post("/api/accounts", json=body)
    assert (answer.status_code, answer.get_json()) == (422, {"error": sentence})
    assert witness.ask(BALANCES) == []


@on_one_database
@pytest.mark.parametrize("body", ["", "{", "[]", '"text"', "null", "9" * 5000])
@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
def test_body_that_is_no_json_object_gets_a_sentence(
    client: FlaskClient, body: str, content_type: str
) -> None:
    """Whatever else is sent as a body is a 400 that says what is expected."""
    for path in ("/api/accounts", "/api/transfers"):
        answer = client.post(path, data=body, content_type=content_type)
        assert answer.status_code == 400
        assert answer.get_json()["error"] == (
            "The body must be a JSON object, sent as application/json."
        )


def test_transfer_runs_at_the_level_that_its_database_is_right_at(
    client: FlaskClient,
    ids: dict[str, int],
    database: TestDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A payment is serializable, except where this would lock what others read."""
    levels: list[str] = []
    transfer, transfer_all = ledger.transfer, ledger.transfer_all

    def noting(order: PaymentOrder) -> Transfer:
        levels.append(db.session.connection().get_isolation_level())
        return transfer(order)

    def noting_all(session: Session, orders: Sequence[PaymentOrder]) -> None:
        levels.append(session.connection().get_isolation_level())
        transfer_all(session, orders)

    monkeypatch.setattr(ledger, "transfer", noting)
    monkeypatch.setattr(ledger, "transfer_all", noting_all)
    form = {"from": ids["Bank"], "to": ids["Till"], "amount": "1"}
    client.post("/api/transfers", json=form)
    client.post("/transfers/new", data=form)
    client.post("/api/imports", data="from,to,amount\nBank,Till,1\n")

    expected = {
        "postgresql": ["SERIALIZABLE", "SERIALIZABLE", "READ COMMITTED"],
        "mariadb": ["REPEATABLE READ"] * 3,
    }
    assert levels == expected.get(database.name, ["SERIALIZABLE"] * 3)


@pytest.mark.slow
@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_concurrent_transfers_lose_nothing(
    app: Flask,
    ids: dict[str, int],
    witness: Witness,
    outbox: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Eight threads move the same money in all directions, some of them by files: none waits for
    ever, what was answered with 201 is stored, all else is not, and the ledger agrees.

    P4, P10: On PostgreSQL they meet conflicts, and are run again until they are right; whatever
    the number of their attempts, each transfer has one receipt and each refusal one entry.
    """
    caplog.set_level("INFO", "flask_uow")
    ways = [(a, b) for a in ids.values() for b in ids.values() if a != b]
    file = "from,to,amount\nTill,Bank,1\nBank,Till,1\nSource,Till,2\n"
    transfers: list[int] = []
    imports: list[int] = []
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        client = app.test_client()
        barrier.wait()
        for step in range(14):
            if step % 7 == number % 7:
                imports.append(client.post("/api/imports", data=file).status_code)
                continue
            source, target = ways[(number + step) % len(ways)]
            body = {"from": source, "to": target, "amount": f"{1 + step * 5}"}
            transfers.append(client.post("/api/transfers", json=body).status_code)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(transfers) + len(imports) == 8 * 14
    assert set(transfers) == {201, 409}
    assert set(imports) <= {201, 422}  # a file names the line that would overdraw
    made = 1 + transfers.count(201) + 3 * imports.count(201)
    assert witness.ask("SELECT COUNT(*) FROM transfers") == [made]
    assert "All agree" in audit(app)
    assert len(list(outbox.iterdir())) == 1 + transfers.count(201)
    refused = "SELECT COUNT(*) FROM attempts WHERE what LIKE 'Transfer%'"
    assert witness.ask(refused) == [transfers.count(409)]
    if witness.engine.dialect.name == "postgresql":
        assert "is run again" in caplog.text
