"""CSV files: all of it or none of it, and the line and the reason when a line is bad."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import pytest
from flask.testing import FlaskClient
from markupsafe import escape
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

import example_app
from example_app import imports, uploads
from example_app.balances import Balances
from example_app.database import db as ledger_db
from example_app.ledger import PaymentOrder
from flask_uow import Flask, testing
from tests.support.witness import Witness

from .conftest import on_one_database

BALANCES = "SELECT name, balance FROM accounts ORDER BY name"
UNTOUCHED = [("Bank", 100_00), ("Source", -100_00), ("Till", 0)]
GOOD = "from,to,amount,memo\nBank,Till,60.00,First\nSource,Bank,5.00,\nTill,Bank,59.99,Last\n"


def upload(client: FlaskClient, file: IO[bytes] | str | bytes) -> TestResponse:
    """Send the form of the import page."""
    if isinstance(file, str):
        file = file.encode()
    content = io.BytesIO(file) if isinstance(file, bytes) else file
    return client.post("/import", data={"file": (content, "file.csv")}, follow_redirects=True)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred lines at a time."""
    monkeypatch.setattr(imports, "_BATCH", 100)


def test_good_file_is_imported_as_a_whole(
    app: Flask, client: FlaskClient, ids: dict[str, int], witness: Witness
) -> None:
    """Each line is a transfer, and a line may spend what an earlier line has brought."""
    answer = upload(client, GOOD)

    assert answer.request.path == "/"
    assert "Transfers imported: 3." in answer.text
    assert witness.ask(BALANCES) == [("Bank", 104_99), ("Source", -105_00), ("Till", 1)]
    assert witness.ask("SELECT memo FROM transfers ORDER BY id") == ["Opening", "First", "", "Last"]
    assert app.test_cli_runner().invoke(args=["audit"]).exit_code == 0


BAD_LINES = [
    ("Bank,Tll,1.00,", 'There is no account "Tll".'),
    (",Till,1.00,", 'There is no account "".'),
    ("Bank,Bank,1.00,", "The two accounts of a transfer must be different."),
    ("Bank,Till,,", "The amount is missing."),
    ("Bank,Till,one,", 'The amount "one" cannot be read. Write it like 1250.00.'),
    ("Bank,Till,-1.00,", "The amount must be more than zero."),
    ("Bank,Till,99999999999999999999,", "The amount is too large"),
    ("Bank,Till,40.01,", '"Bank" has only 40.00 and cannot pay 40.01.'),
    ("Bank,Till,1.00", "It has 3 fields, but 4 are expected."),
    ("Bank,Till,1.00,a,b", "It has 5 fields, but 4 are expected."),
    ('Bank,Till,1.00,"two\nlines"', "The memo must be one line of printable characters."),
    ('Bank,Till,1.00,"never closed', "This is not well-formed CSV"),
    ('Bank,Till,1.00,"a"b', "This is not well-formed CSV"),
    (f"Bank,Till,1.00,{'a' * 201}", "The memo has 201 characters; at most 200 are allowed."),
    (f"Bank,Till,1.00,{'a' * 70_000}", "It is longer than 65,536 bytes."),
    ("a" * 200_000, "It is longer than 65,536 bytes."),
]


@on_one_database
@pytest.mark.parametrize(("line", "reason"), BAD_LINES)
def test_bad_line_is_named_with_its_reason(
    client: FlaskClient, ids: dict[str, int], witness: Witness, line: str, reason: str
) -> None:
    """The line of the file and the reason are in the answer, and nothing is stored."""
    file = f"from,to,amount,memo\nBank,Till,60.00,Good\n\n{line}\nSource,Till,1.00,Good\n"
    answer = client.post("/api/imports", data=file, content_type="text/csv")

    assert answer.status_code == 422
    assert answer.get_json()["line"] == 4
    assert answer.get_json()["error"].startswith(f"Line 4: {reason}")
    assert answer.get_json()["error"].endswith(" Nothing was imported.")
    assert witness.ask(BALANCES) == UNTOUCHED


def test_bad_line_at_the_end_is_in_time(
    client: FlaskClient, ids: dict[str, int], witness: Witness
) -> None:
    """A file whose last line is bad stores none of its lines."""
    lines = "Source,Till,10.00,\n" * 120
    answer = upload(client, f"from,to,amount,memo\n{lines}Till,Bank,1200.01,\n")

    assert answer.status_code == 422
    assert "Line 122: &#34;Till&#34; has only 1,200.00 and cannot pay 1,200.01." in answer.text
    assert "Nothing was imported." in answer.text
    assert witness.ask(BALANCES) == UNTOUCHED
    assert witness.ask("SELECT COUNT(*) FROM postings") == [2]


@on_one_database
@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"", "The file is empty."),
        (b"\n\r\n", "The file is empty."),
        (b"\xef\xbb\xbf", "The file is empty."),
        (b"\n\nfrom,amount\n", "Line 3: The columns must be"),
        (b"from,to\n", "from,to,amount,memo (memo may be left out); there is no amount."),
        (b"from;to;amount\n", "Line 1: The columns must be"),
        (b"from,amount\n", "there is no to. Nothing was imported."),
        (b"from,to,amount,note\n", "each of them once. Nothing was imported."),
        (b"from,to,amount,to\n", "each of them once. Nothing was imported."),
        ("from,to,amount\n".encode("utf-16"), "Line 1: This is not text in UTF-8."),
        (b"from,to,amount\nBank,Till,1\nBank,Caf\xe9,1\n", "Line 3: This is not text in UTF-8."),
        (b"\0" * 100, "Line 1: "),
    ],
)
def test_file_that_is_no_such_csv_gets_a_sentence(
    client: FlaskClient, ids: dict[str, int], witness: Witness, file: bytes, reason: str
) -> None:
    """Missing and unknown columns and other encodings are answered like a bad line."""
    answer = client.post("/api/imports", data=file)
    assert answer.status_code == 422
    assert reason in answer.get_json()["error"]
    assert witness.ask(BALANCES) == UNTOUCHED


@on_one_database
@pytest.mark.parametrize(
    "file",
    [
        b"\xef\xbb\xbf" + GOOD.encode(),
        GOOD.replace("\n", "\r\n").encode(),
        GOOD.replace(",", " , ").replace("from", "FROM").encode(),
        GOOD.rstrip().encode(),
    ],
    ids=["with a byte order mark", "with CRLF", "with spaces and capitals", "without a last line"],
)
def test_files_of_spreadsheets_are_understood(
    client: FlaskClient, ids: dict[str, int], witness: Witness, file: bytes
) -> None:
    """Marks, line ends and spaces that programs add do no harm."""
    assert client.post("/api/imports", data=file).get_json() == {"transfers": 3}
    assert ("Till", 1) in witness.ask(BALANCES)


@on_one_database
@pytest.mark.parametrize(
    "content_type", [None, "text/csv", "application/x-www-form-urlencoded", "application/json"]
)
def test_file_is_the_body_whatever_its_type(
    client: FlaskClient, ids: dict[str, int], content_type: str | None
) -> None:
    """``curl --data-binary`` calls it a form, unless it is told otherwise."""
    response = client.post("/api/imports", data=GOOD, content_type=content_type)
    assert response.get_json() == {"transfers": 3}


@on_one_database
def test_file_without_transfers_and_form_without_file_are_refused(
    client: FlaskClient, ids: dict[str, int]
) -> None:
    """An import of nothing is a mistake, and is answered as one."""
    empty = upload(client, "from,to,amount\n")
    missing = client.post("/import", data={"file": (io.BytesIO(), "")})
    other = client.post("/import", data={"csv": (io.BytesIO(b"x"), "x.csv")})

    assert [answer.status_code for answer in (empty, missing, other)] == [422, 422, 422]
    assert "The file contains no transfers." in empty.text
    assert "Choose a CSV file first." in missing.text
    assert "Choose a CSV file first." in other.text


SOME_BAD = (
    "from,to,amount,memo\n"
    "Bank,Till,100.01,too much at once\n"
    "Bank,Till,60.00,First\n"
    "Bank,Tll,1.00,no such account\n"
    "Bank,Till,40.01,too much by now\n"
    "Till,Bank,1.00\n"
    "Source,Till,9999999999999,\n"
    "Till,Bank,0.50,Last\n"
    "Bank,Bank,1.00,to itself\n"
)
REASONS = [
    (2, '"Bank" has only 100.00 and cannot pay 100.01.'),
    (4, 'There is no account "Tll".'),
    (5, '"Bank" has only 40.00 and cannot pay 40.01.'),
    (6, "It has 3 fields, but 4 are expected."),
    (9, "The two accounts of a transfer must be different."),
]


def test_bad_lines_can_be_skipped(
    app: Flask, client: FlaskClient, ids: dict[str, int], witness: Witness
) -> None:
    """A bad line is left out, not the lines before and after it."""
    answer = client.post("/api/imports?skip=bad", data=SOME_BAD)

    assert answer.status_code == 201
    assert answer.get_json() == {
        "transfers": 3,
        "skipped": 5,
        "reasons": [{"line": line, "reason": reason} for line, reason in REASONS],
    }
    assert witness.ask("SELECT memo FROM transfers ORDER BY id") == ["Opening", "First", "", "Last"]
    assert witness.ask("SELECT balance FROM accounts WHERE name = 'Bank'") == [40_50]
    assert witness.ask("SELECT result FROM attempts") == ["Transfers: 3. Lines skipped: 5."]
    assert app.test_cli_runner().invoke(args=["audit"]).exit_code == 0


def test_page_lists_the_skipped_lines(
    client: FlaskClient, ids: dict[str, int], witness: Witness
) -> None:
    """The answer to the form is its page with the lines and their reasons."""
    data = {"file": (io.BytesIO(SOME_BAD.encode()), "bad.csv"), "skip_bad": "on"}
    answer = client.post("/import", data=data)

    assert answer.status_code == 200
    assert "Transfers imported: 3." in answer.text
    assert "Lines skipped: 5." in answer.text
    for line, reason in REASONS:
        assert f"<div>{escape(reason)}</div>" in answer.text
        assert f">Line {line}<" in answer.text
    assert "checked" in answer.text
    assert witness.ask("SELECT COUNT(*) FROM transfers") == [4]


@pytest.mark.parametrize("query", ["", "?skip=bad"])
def test_constraints_are_checked_as_well(
    client: FlaskClient,
    ids: dict[str, int],
    witness: Witness,
    monkeypatch: pytest.MonkeyPatch,
    query: str,
) -> None:
    """What the check of the lines has missed is refused by the database."""
    monkeypatch.setattr(Balances, "change", lambda *_: None)
    response = client.post(f"/api/imports{query}", data="from,to,amount\nBank,Till,100.01\n")
    assert response.status_code == 409
    assert witness.ask(BALANCES) == UNTOUCHED
    assert witness.ask("SELECT COUNT(*) FROM transfers") == [1]


@on_one_database
def test_file_of_bad_lines_only_is_answered_with_the_first_hundred(
    client: FlaskClient, ids: dict[str, int], witness: Witness
) -> None:
    """However many there are, they do not fill memory or page."""
    file = b"from,to,amount\n" + b"Bank,Till,none\n" * 130
    data = {"file": (io.BytesIO(file), "bad.csv"), "skip_bad": "on"}
    page = client.post("/import", data=data).text
    answer = client.post("/api/imports?skip=bad", data=file).get_json()

    assert (answer["transfers"], answer["skipped"], len(answer["reasons"])) == (0, 130, 100)
    assert "Line 101<" in page
    assert "Line 102<" not in page
    assert "and 30 more" in page
    assert witness.ask(BALANCES) == UNTOUCHED


@on_one_database
def test_file_that_cannot_be_read_on_is_refused_as_a_whole(
    client: FlaskClient, ids: dict[str, int], witness: Witness
) -> None:
    """Where the start of the next line cannot be found, no line can be skipped."""
    file = 'from,to,amount\nBank,Till,1.00\nBank,Till,"1.00'
    answer = client.post("/api/imports?skip=bad", data=file)
    assert answer.status_code == 422
    assert answer.get_json()["line"] == 3
    assert witness.ask(BALANCES) == UNTOUCHED


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_file_takes_few_statements(
    app: Flask, client: FlaskClient, ids: dict[str, int], witness: Witness
) -> None:
    """Rows are inserted in bulk, and each balance is changed once.

    On SQLite, where a statement is no round trip, SQLAlchemy sends one for each transfer.
    """
    lines = "Source,Till,1.00,Sales\nTill,Bank,1.00,Cash\n" * 300
    with testing.count_queries(ledger_db, app=app) as queries:
        response = client.post("/api/imports", data=f"from,to,amount,memo\n{lines}")
    assert response.get_json() == {"transfers": 600}
    assert len(queries) < 20, queries
    assert witness.ask("SELECT COUNT(*) FROM postings") == [2 + 1200]


@pytest.mark.parametrize("query", ["", "?skip=bad"])
def test_transfers_are_made_while_a_file_is_read(
    app: Flask,
    client: FlaskClient,
    ids: dict[str, int],
    witness: Witness,
    monkeypatch: pytest.MonkeyPatch,
    query: str,
) -> None:
    """No lock is held until the whole file has been read and checked."""
    body = {"from": ids["Bank"], "to": ids["Till"], "amount": "1"}
    statuses = []

    def pay() -> None:
        statuses.append(app.test_client().post("/api/transfers", json=body).status_code)

    class File(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            thread = threading.Thread(target=pay)  # a unit lends its lock to its own thread
            thread.start()
            thread.join()
            return super().read(size)

    monkeypatch.setattr(uploads, "stream", lambda: File(GOOD.encode()))
    response = client.post(f"/api/imports{query}")
    assert response.get_json()["transfers"] == 3
    assert statuses
    assert set(statuses) == {201}
    assert witness.ask("SELECT COUNT(*) FROM transfers") == [1 + 3 + len(statuses)]
    assert app.test_cli_runner().invoke(args=["audit"]).exit_code == 0


def test_transfers_are_made_between_the_batches(
    app: Flask,
    client: FlaskClient,
    ids: dict[str, int],
    witness: Witness,
    small_batches: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each batch of good lines is a transaction of its own, with the progress so far."""
    body = {"from": ids["Source"], "to": ids["Till"], "amount": "1"}
    seen: list[tuple[int, str | None]] = []

    def between(session: Session) -> Balances:
        transfers = witness.ask("SELECT COUNT(*) FROM transfers")
        seen.extend(zip(transfers, witness.ask("SELECT progress FROM attempts"), strict=True))
        assert app.test_client().post("/api/transfers", json=body).status_code == 201
        return Balances(session)

    monkeypatch.setattr(imports, "Balances", between)
    lines = "Till,Bank,0.01\n" * 230
    response = client.post("/api/imports?skip=bad", data=f"from,to,amount\n{lines}")

    assert response.get_json()["transfers"] == 230
    assert seen == [
        (1, None),
        (102, "Lines stored or skipped: 100 of 230."),
        (203, "Lines stored or skipped: 200 of 230."),
    ]
    assert app.test_cli_runner().invoke(args=["audit"]).exit_code == 0


@pytest.mark.slow
@pytest.mark.parametrize("query", ["", "?skip=bad"])
def test_transfers_are_made_during_a_long_import(
    app: Flask, client: FlaskClient, ids: dict[str, int], witness: Witness, query: str
) -> None:
    """None of them is refused, and the ledger agrees."""
    lines = "Source,Till,1.00,Sales\nTill,Bank,0.50,Cash\n" * 7_500
    statuses: list[int] = []
    is_over = threading.Event()

    def pay() -> None:
        other = app.test_client()
        body = {"from": ids["Source"], "to": ids["Bank"], "amount": "1"}
        while not is_over.is_set():
            statuses.append(other.post("/api/transfers", json=body).status_code)

    thread = threading.Thread(target=pay)
    thread.start()
    try:
        response = client.post(f"/api/imports{query}", data=f"from,to,amount,memo\n{lines}")
    finally:
        is_over.set()
        thread.join()

    assert response.get_json()["transfers"] == 15_000
    assert set(statuses) == {201}
    assert witness.ask("SELECT COUNT(*) FROM transfers") == [1 + 15_000 + len(statuses)]
    assert app.test_cli_runner().invoke(args=["audit"]).exit_code == 0


@on_one_database
def test_file_that_is_too_large_is_refused(app: Flask, client: FlaskClient) -> None:
    """It is in memory until it is stored, so its size has a limit."""
    app.config["MAX_CONTENT_LENGTH"] = 1000
    file = b"from,to,amount\n" + b"Bank,Till,1.00\n" * 100
    form = client.post("/import", data={"file": (io.BytesIO(file), "large.csv")})
    body = client.post("/api/imports", data=file)
    for response in (form, body):
        assert response.status_code == 413
        assert "The file is too large." in response.text


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
@pytest.mark.parametrize("query", ["", "?skip=bad"])
def test_import_locks_the_accounts(
    client: FlaskClient,
    ids: dict[str, int],
    witness: Witness,
    monkeypatch: pytest.MonkeyPatch,
    query: str,
) -> None:
    """From the check of the balances on, no other transaction can change them."""
    change, refusals = Balances.change, []

    def refused(balances: Balances, order: PaymentOrder) -> None:
        with pytest.raises(OperationalError) as refusal:
            witness.ask("SELECT balance FROM accounts WHERE id = 1 FOR UPDATE NOWAIT")
        refusals.append(refusal)
        change(balances, order)

    monkeypatch.setattr(Balances, "change", refused)
    assert client.post(f"/api/imports{query}", data=GOOD).status_code == 201
    assert len(refusals) == 3


def test_samples_work_with_the_example_data(app: Flask, client: FlaskClient) -> None:
    """Of the two files to try, one is imported, the other refused with its line 4."""
    app.test_cli_runner().invoke(args=["seed"])
    page = client.get("/import").text
    for name in ("good.csv", "bad.csv"):
        assert f'href="/static/{name}"' in page
    folder = Path(example_app.__file__).parent / "static"

    with (folder / "good.csv").open("rb") as good, (folder / "bad.csv").open("rb") as bad:
        assert "Transfers imported: 4." in upload(client, good).text
        assert "Line 4: There is no account &#34;Bnak&#34;." in upload(client, bad).text


def test_statement_as_a_file_has_every_line(
    client: FlaskClient, ids: dict[str, int], witness: Witness
) -> None:
    """The download is streamed, oldest first, and its balances end with that of the account."""
    lines = "".join(f'Source,Till,1.00,"Number, {number}"\n' for number in range(600))
    upload(client, f"from,to,amount,memo\n{lines}")
    answer = client.get(f"/accounts/{ids['Till']}/statement.csv")
    header, *rows = csv.reader(io.StringIO(answer.text))

    assert "Content-Length" not in answer.headers
    assert answer.mimetype == "text/csv"
    assert header == ["at", "memo", "other account", "amount", "balance"]
    assert [row[1:] for row in rows[:2]] == [
        ["Number, 0", "Source", "1.00", "1.00"],
        ["Number, 1", "Source", "1.00", "2.00"],
    ]
    assert len(rows) == 600
    assert rows[-1][-1] == "600.00"


def test_statement_that_is_not_read_to_its_end_gives_its_connection_back(
    client: FlaskClient, ids: dict[str, int]
) -> None:
    """A client that disconnects in mid-stream leaves no connection checked out (leak detector)."""
    lines = "Source,Till,1.00,\n" * 600
    upload(client, f"from,to,amount,memo\n{lines}")
    answer = client.get(f"/accounts/{ids['Till']}/statement.csv", buffered=False)
    stream = cast("Iterator[bytes]", iter(answer.response))
    assert next(stream).startswith(b"at,")
    assert b"1.00" in next(stream)
    answer.close()
