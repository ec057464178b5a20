"""CSV files: all of it or none of it, and the line and the reason when a line is bad."""

from __future__ import annotations

import csv
import gc
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import pytest
from flask.testing import FlaskClient
from markupsafe import escape
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from werkzeug.test import TestResponse

import example_app
from example_app import imports, ledger
from example_app.database import db as ledger_db
from example_app.ledger import PaymentOrder
from example_app.models import Transfer
from flask_uow import Database, DiscardedWork, Flask
from tests.support.databases import on
from tests.support.recording import record
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


def test_bad_line_undoes_the_batches_before_it(
    client: FlaskClient, ids: dict[str, int], witness: Witness, small_batches: None
) -> None:
    """A file whose last line is bad has written hundreds of rows, and leaves none of them."""
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
        (b"", "Line 1: The columns must be from,to,amount,memo (memo may be left out);"),
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
NOT_ENOUGH = "There is not enough money in the account."
REASONS = [
    (2, NOT_ENOUGH),
    (4, 'There is no account "Tll".'),
    (5, NOT_ENOUGH),
    (6, "It has 3 fields, but 4 are expected."),
    (9, "The two accounts of a transfer must be different."),
]


def test_bad_lines_can_be_skipped(
    app: Flask, client: FlaskClient, ids: dict[str, int], witness: Witness
) -> None:
    """P4: a line that the database refuses undoes itself, not the lines before and after it."""
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


def test_skipping_does_not_hide_what_is_no_fault_of_a_line(
    app: Flask,
    client: FlaskClient,
    ids: dict[str, int],
    witness: Witness,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fault of the database fails the import as a whole, also after good lines."""
    transfer, calls = ledger.transfer, []

    def fail_later(orders: list[PaymentOrder]) -> list[Transfer]:
        calls.append(orders)
        if len(calls) == 3:
            ledger_db.session.execute(text("SELECT * FROM nowhere"))
        return transfer(orders)

    monkeypatch.setattr(ledger, "transfer", fail_later)
    lines = "Source,Till,1.00\n" * 4
    answer = client.post("/api/imports?skip=bad", data=f"from,to,amount\n{lines}")
    assert answer.status_code == 500
    assert witness.ask(BALANCES) == UNTOUCHED
    assert witness.ask("SELECT result FROM attempts") == [None]


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


@on("postgresql")
def test_each_line_is_a_savepoint(
    app: Flask, client: FlaskClient, ids: dict[str, int], db: Database
) -> None:
    """P4: the good lines are released, those that the database refuses are rolled back to, others
    send nothing; there is one COMMIT for all of them."""
    log: list[str] = []
    with app.app_context():
        record(db.engine, log.append)
    client.post("/api/imports?skip=bad", data=SOME_BAD)
    assert (log.count("SAVEPOINT"), log.count("RELEASE"), log.count("ROLLBACK")) == (5, 3, 2)
    assert log.count("COMMIT") == 2  # one of them is that of the journal


class Growing(io.BytesIO):
    """A file of transfers that is written while it is read.

    It comes in small pieces, as from a network.

    :ivar alive: how many orders and transfers were in memory, each time that more was read.
    """

    def __init__(self, lines: int, piece: int) -> None:
        super().__init__()
        self.waiting = b"from,to,amount,memo\n"
        self.lines = lines
        self.piece = piece
        self.alive: list[int] = []

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert 0 < size <= 100_000
        size = min(size, self.piece)
        gc.collect()
        self.alive.append(
            sum(isinstance(one, (PaymentOrder, Transfer)) for one in gc.get_objects())
        )
        while len(self.waiting) < size and self.lines:
            self.waiting += b"Source,Till,1.00,Number %d\n" % self.lines
            self.lines -= 1
        chunk, self.waiting = self.waiting[:size], self.waiting[size:]
        return chunk


@pytest.mark.slow
@on_one_database
@pytest.mark.parametrize(
    ("skip_bad", "lines", "piece", "most"), [(False, 600, 8192, 201), (True, 600, 8192, 3)]
)
def test_large_file_is_never_in_memory_as_a_whole(
    app: Flask,
    db: Database,
    ids: dict[str, int],
    witness: Witness,
    small_batches: None,
    skip_bad: bool,
    lines: int,
    piece: int,
    most: int,
) -> None:
    """One batch of lines is in memory at a time; or one line, if each is judged by itself."""
    file = Growing(lines, piece)
    with app.test_request_context(), db.atomic():
        assert imports.load(file, "large.csv", skip_bad=skip_bad).count == lines

    assert len(file.alive) > 2
    assert max(file.alive) <= most
    assert witness.ask("SELECT COUNT(*) FROM transfers") == [lines + 1]
    assert app.test_cli_runner().invoke(args=["audit"]).exit_code == 0


@pytest.mark.parametrize("database", ["postgresql", "mariadb"], indirect=True)
def test_import_locks_the_accounts(app: Flask, ids: dict[str, int], witness: Witness) -> None:
    """While a file is read, no other transaction can change the balances."""
    refusals = []

    class File(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            with pytest.raises(OperationalError) as refusal:
                witness.ask("SELECT balance FROM accounts WHERE id = 1 FOR UPDATE NOWAIT")
            refusals.append(refusal)
            return super().read(size)

    with pytest.warns(DiscardedWork), app.test_request_context():
        assert imports.load(File(GOOD.encode()), "good.csv").count == 3
    assert len(refusals) == 2


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
