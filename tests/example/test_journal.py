"""What is kept of work that was not: refusals, imports with their progress; and receipts."""

from __future__ import annotations

import contextlib
import io
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from markupsafe import escape
from sqlalchemy import DateTime, bindparam, text
from sqlalchemy.orm import Session

from example_app import imports, journal, ledger, uploads
from example_app.database import db
from flask_uow import Flask, testing
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
    assert witness.ask(ATTEMPTS) == [('Transfer of 1,200.50 from "Bank" to "Till"', NOT_ENOUGH)]
    assert witness.ask(TRANSFERS) == [1]


@pytest.mark.parametrize("by", ["form", "json"])
def test_refusal_of_a_commit_is_in_the_journal(
    client: FlaskClient, ids: dict[str, int], witness: Witness, by: str
) -> None:
    """P3, P4: the same for a refusal that comes after the view."""
    body = {"name": "Bank"}
    by_form = by == "form"
    response = client.post(
        "/accounts/new" if by_form else "/api/accounts",
        data=body if by_form else None,
        json=None if by_form else body,
    )
    assert response.status_code == 409
    assert witness.ask(ATTEMPTS) == [
        ('Opening of the account "Bank"', "There is an account with this name already.")
    ]


@on_one_database
def test_entry_is_not_longer_than_its_column(
    client: FlaskClient, ids: dict[str, int], witness: Witness
) -> None:
    """Two long names and a large amount have more than 200 characters."""
    names = ["a" * 80, "b" * 80]
    numbers = [client.post("/api/accounts", json={"name": n}).get_json()["id"] for n in names]
    body = {"from": numbers[0], "to": numbers[1], "amount": "10000000000000"}
    assert client.post("/api/transfers", json=body).status_code == 409
    (what,) = witness.ask("SELECT what FROM attempts")
    assert len(what) == 200
    assert what.endswith("bbb…")


def test_import_is_in_the_journal_with_its_result(
    client: FlaskClient, ids: dict[str, int], witness: Witness
) -> None:
    """The result is stored together with the transfers that it speaks of."""
    good = b"from,to,amount\nBank,Till,60.00\nSource,Bank,5.00\n"
    client.post("/import", data={"file": (io.BytesIO(good), "november.csv")})
    client.post("/api/imports", data=good)

    assert witness.ask(ATTEMPTS) == [
        ("Import of november.csv", "Transfers: 2."),
        (
            "Import of a file without a name",
            'Line 2: "Bank" has only 45.00 and cannot pay 60.00. Nothing was imported.',
        ),
    ]
    assert witness.ask("SELECT progress FROM attempts") == [None, None]
    assert witness.ask(TRANSFERS) == [3]


def test_running_import_is_shown_as_running(
    client: FlaskClient, ids: dict[str, int], witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its progress, which is committed while the file is read; another client sees it."""
    monkeypatch.setattr(imports, "_REPORT", 2)
    seen: list[tuple[str, str, Any]] = []

    class File(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            other = client.application.test_client()
            entry = other.get("/api/journal").get_json()["attempts"][0]
            seen.append((other.get("/import").text, other.get("/journal").text, entry))
            return super().read(60)

    file = File(b"from,to,amount\n" + b"Source,Till,1.00\n" * 5)
    monkeypatch.setattr(uploads, "stream", lambda: file)
    assert client.post("/api/imports").status_code == 201

    for page in seen[0][:2]:
        assert "Import of a file without a name" in page
        assert "<small>Running.</small>" in page
    assert seen[0][2]["running"]
    for page in seen[-1][:2]:
        assert "Running. Lines read: 4. Nothing is stored yet." in page
    assert seen[-1][2]["progress"] == "Lines read: 4. Nothing is stored yet."
    assert seen[-1][2]["result"] is None
    assert "Running imports" not in client.get("/import").text
    assert "Transfers: 5." in client.get("/journal").text


@pytest.mark.parametrize("by", ["", "?skip=bad"])
def test_import_in_which_the_worker_dies_is_interrupted(
    client: FlaskClient,
    ids: dict[str, int],
    witness: Witness,
    monkeypatch: pytest.MonkeyPatch,
    by: str,
) -> None:
    """An independent block is stored before the work begins; no error handler runs here.

    As long as it may be running, it is shown as running.
    """

    def transfer_all(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr(ledger, "transfer_all", transfer_all)
    with pytest.raises(SystemExit):
        client.post(f"/api/imports{by}", data="from,to,amount\nBank,Till,60.00\n")

    assert witness.ask(ATTEMPTS) == [("Import of a file without a name", None)]
    assert witness.ask(TRANSFERS) == [1]
    assert "Running." in client.get("/journal").text
    with witness.engine.begin() as connection:
        long_ago = {"long_ago": datetime(2026, 1, 31, 12, 30)}
        statement = text("UPDATE attempts SET progress_at = :long_ago")
        connection.execute(statement.bindparams(bindparam("long_ago", type_=DateTime())), long_ago)
    journal = client.get("/journal").text
    assert "Interrupted: no news since 31 Jan 2026 12:30 UTC." in journal
    assert ("Storing all lines at once: 1." in journal) is (by == "")
    assert "Running imports" not in client.get("/import").text


@pytest.mark.parametrize("line", ["a\0b,Till,1.00", "Source,Till,a\0b"], ids=["name", "amount"])
def test_reason_with_a_character_that_a_database_refuses(
    client: FlaskClient, ids: dict[str, int], witness: Witness, line: str
) -> None:
    """The reason quotes the file, and the import must not stay a running one."""
    response = client.post("/api/imports", data=f"from,to,amount\n{line}\n")
    assert response.status_code == 422
    ((_, result),) = witness.ask(ATTEMPTS)
    assert '"a?b"' in result


def test_import_that_is_stored_while_the_connection_is_lost_says_so(
    client: FlaskClient, ids: dict[str, int], witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller is told to look, and the journal has the truth."""
    add_result = journal.add_result
    with contextlib.ExitStack() as stack:

        def add(*args: Any) -> None:
            add_result(*args)
            with client.application.app_context():
                stack.enter_context(testing.lose_connection(db, "commit", stored=True))

        monkeypatch.setattr(journal, "add_result", add)
        response = client.post("/api/imports", data="from,to,amount\nBank,Till,60.00\n")
    assert response.status_code in {500, 503}  # SQLite has lost no connection: it is a fault
    assert witness.ask(TRANSFERS) == [2]
    assert witness.ask(ATTEMPTS) == [("Import of a file without a name", "Transfers: 1.")]


@on_one_database
def test_import_that_meets_a_fault_says_so(
    client: FlaskClient, ids: dict[str, int], witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With how far it has come: a batch that is stored stays stored."""
    monkeypatch.setattr(imports, "_BATCH", 2)
    transfer_all, calls = ledger.transfer_all, []

    def fail_later(session: Session, orders: list[ledger.PaymentOrder]) -> None:
        calls.append(orders)
        if len(calls) == 2:
            session.execute(text("SELECT * FROM nowhere"))
        transfer_all(session, orders)

    monkeypatch.setattr(ledger, "transfer_all", fail_later)
    lines = "Source,Till,1.00\n" * 5
    response = client.post("/api/imports?skip=bad", data=f"from,to,amount\n{lines}")

    assert response.status_code == 500
    assert witness.ask(TRANSFERS) == [1 + 2]
    page = client.get("/journal").text
    assert "It was stopped by an error. Lines stored or skipped: 2 of 5." in page


@on_one_database
def test_import_that_finds_the_database_busy_says_so(
    app: Flask,
    client: FlaskClient,
    ids: dict[str, int],
    witness: Witness,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The response is a 503, and the journal has the reason, too."""
    transfer_all = ledger.transfer_all

    def busy(session: Session, orders: list[ledger.PaymentOrder]) -> None:
        with testing.deadlock_once(db, app=app):
            transfer_all(session, orders)

    monkeypatch.setattr(ledger, "transfer_all", busy)
    response = client.post("/api/imports", data="from,to,amount\nSource,Till,1.00\n")
    assert response.status_code == 503
    assert witness.ask(TRANSFERS) == [1]
    assert witness.ask("SELECT result FROM attempts") == [
        "It was stopped by a database that was busy or away."
    ]


def test_progress_that_cannot_be_recorded_does_not_stop_an_import(
    app: Flask, client: FlaskClient, ids: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that is busy at that moment is no reason to refuse a file."""
    monkeypatch.setattr(imports, "_REPORT", 2)
    progress = journal.progress

    def refused(number: int, text: str) -> None:
        with testing.deadlock_once(db, app=app):
            progress(number, text)

    monkeypatch.setattr(journal, "progress", refused)
    file = "from,to,amount\n" + "Source,Till,1.00\n" * 5
    assert client.post("/api/imports", data=file).status_code == 201


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
    """Both list the newest first, and say why an import failed; the rest has a page of its own."""
    client.post("/api/imports", data="from,to,amount\n<Bank>,Till,60.00\n")
    body = {"from": ids["Bank"], "to": ids["Till"], "amount": "500"}
    client.post("/api/transfers", json=body)
    page = client.get("/journal").text
    response = client.get("/api/journal?per_page=1")
    other = client.get(re.findall(r'<([^>]+)>; rel="next"', response.headers["Link"])[0])
    reason = 'Line 2: There is no account "<Bank>". Nothing was imported.'

    results = [one.get_json()["attempts"][0]["result"] for one in (response, other)]
    assert results == [NOT_ENOUGH, reason]
    assert page.index("Transfer of 500.00") < page.index("Import of a file without a name")
    assert str(escape(reason)) in page
    assert "100.00 from Source to Bank" in page
