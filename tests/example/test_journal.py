"""What is kept of work that was not: refusals, imports that were begun; and receipts."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from example_app import ledger
from flask_uow import Flask
from tests.support.databases import on
from tests.support.witness import Witness

from .conftest import on_one_database

ATTEMPTS = "SELECT what, result FROM attempts ORDER BY id"
TRANSFERS = "SELECT COUNT(*) FROM transfers"
NOT_ENOUGH = "There is not enough money in the account."


@pytest.mark.parametrize("by", ["form", "json"])
def test_refused_transfer_is_in_the_journal(
    client: FlaskClient, ids: dict[str, int], witness: Witness, by: str
) -> None:
    """P4: what the error handler writes is stored, what the view has written is not."""
    path = "/transfers/new" if by == "form" else "/api/transfers"
    body: Any = {"from": ids["Bank"], "to": ids["Till"], "amount": "1200.5"}
    answer = client.post(path, data=body) if by == "form" else client.post(path, json=body)

    assert answer.status_code == 409
    what = f"Transfer of 1,200.50 from account {ids['Bank']} to {ids['Till']}"
    assert witness.ask(ATTEMPTS) == [(what, NOT_ENOUGH)]
    assert witness.ask(TRANSFERS) == [1]


def test_refusal_of_a_commit_is_in_the_journal(
    client: FlaskClient, ids: dict[str, int], witness: Witness
) -> None:
    """P3, P4: the same for a refusal that comes after the view."""
    assert client.post("/accounts/new", data={"name": "Bank"}).status_code == 409
    assert witness.ask(ATTEMPTS) == [
        ("POST /accounts/new", "There is an account with this name already.")
    ]


def test_import_is_in_the_journal_with_its_result(
    client: FlaskClient, ids: dict[str, int], witness: Witness
) -> None:
    """The result is stored together with the transfers that it speaks of."""
    good = b"from,to,amount\nBank,Till,60.00\nSource,Bank,5.00\n"
    client.post("/import", data={"file": (io.BytesIO(good), "november.csv")})
    client.post("/api/imports", data=good)

    assert witness.ask(ATTEMPTS)[0] == ("Import of november.csv", "Transfers: 2.")
    # The other one overdraws, so it has no result.
    assert witness.ask(ATTEMPTS)[1:] == [("Import of a file without a name", None)]
    assert witness.ask(TRANSFERS) == [3]


def test_import_in_which_the_worker_dies_is_in_the_journal(
    client: FlaskClient, ids: dict[str, int], witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An independent block is stored before the work begins; no error handler runs here."""

    def transfer(orders: list[ledger.PaymentOrder]) -> None:
        assert witness.ask(ATTEMPTS) == [("Import of a file without a name", None)]
        raise SystemExit

    monkeypatch.setattr(ledger, "transfer", transfer)
    with pytest.raises(SystemExit):
        client.post("/api/imports", data="from,to,amount\nBank,Till,60.00\n")

    assert witness.ask(ATTEMPTS) == [("Import of a file without a name", None)]
    assert witness.ask(TRANSFERS) == [1]


def test_receipt_is_sent_for_what_is_stored(
    client: FlaskClient, ids: dict[str, int], outbox: Path
) -> None:
    """P10: one for each single transfer, none for a refusal or for a file."""
    body = {
        "from": ids["Bank"],
        "to": ids["Till"],
        "amount": "40",
        "memo": "Small change",
    }
    assert client.post("/api/transfers", json=body).status_code == 201
    assert client.post("/api/transfers", json={**body, "amount": "60.01"}).status_code == 409
    client.post("/api/imports", data="from,to,amount\nBank,Till,60.00\n")

    opening, sent = sorted(outbox.iterdir())
    assert "100.00 from Source to Bank" in opening.read_text("utf-8")
    assert sent.name == "receipt-0000000002.txt"
    lines = sent.read_text("utf-8").splitlines()
    assert lines[0] == "Receipt 2"
    assert lines[2] == "40.00 from Bank to Till"
    assert lines[4] == "Small change"


def test_receipt_is_sent_when_the_transfer_is_stored(
    client: FlaskClient,
    ids: dict[str, int],
    witness: Witness,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P10: at that moment a second connection sees the transfer."""
    seen: list[int] = []
    write_text = Path.write_text

    def write(path: Path, *args: Any, **kwargs: Any) -> int:
        seen.extend(witness.ask(TRANSFERS))
        return write_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", write)
    body = {"from": ids["Bank"], "to": ids["Till"], "amount": "1"}
    assert client.post("/api/transfers", json=body).status_code == 201
    assert seen == [2]


@on_one_database
def test_receipt_that_cannot_be_sent_is_logged_and_the_transfer_stands(
    client: FlaskClient,
    ids: dict[str, int],
    outbox: Path,
    witness: Witness,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """P10: the money has moved, and the answer says so."""
    for file in outbox.iterdir():
        file.unlink()
    outbox.rmdir()
    outbox.write_text("no folder")
    body = {"from": ids["Bank"], "to": ids["Till"], "amount": "1"}
    assert client.post("/api/transfers", json=body).status_code == 201
    assert witness.ask(TRANSFERS) == [2]
    assert "FileExistsError" in caplog.text


@on("postgresql")
def test_transfer_that_meets_a_conflict_is_made_once_and_has_one_receipt(
    client: FlaskClient,
    ids: dict[str, int],
    witness: Witness,
    outbox: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P4, P10: the first attempt is undone with its promise, the second one is what is left."""
    attempts: list[Any] = []
    read = ledger.order

    def order(*args: Any) -> ledger.PaymentOrder:
        ledger.accounts()  # the view reads, and then another transaction changes what was read
        if not attempts:
            with witness.engine.begin() as connection:
                connection.exec_driver_sql("UPDATE accounts SET name = name")
        attempts.append(args)
        return read(*args)

    monkeypatch.setattr(ledger, "order", order)
    body = {"from": ids["Bank"], "to": ids["Till"], "amount": "1"}
    assert client.post("/api/transfers", json=body).status_code == 201
    assert len(attempts) == 2
    assert witness.ask(TRANSFERS) == [2]
    assert len(list(outbox.iterdir())) == 2  # the other is that of the opening


@on_one_database
def test_journal_is_a_page_and_json(
    app: Flask, client: FlaskClient, ids: dict[str, int], witness: Witness
) -> None:
    """Both list the newest first, and say what did not come to its end."""
    client.post("/api/imports", data="from,to,amount\n<Bank>,Till,60.00\n")
    body = {"from": ids["Bank"], "to": ids["Till"], "amount": "500"}
    client.post("/api/transfers", json=body)
    page = client.get("/journal").text
    attempts = client.get("/api/journal").get_json()["attempts"]

    assert [one["result"] for one in attempts] == [
        NOT_ENOUGH,
        None,
    ]
    assert page.index("Transfer of 500.00") < page.index("Import of a file without a name")
    assert "It did not finish, and nothing was stored." in page
    assert "100.00 from Source to Bank" in page
