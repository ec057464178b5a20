"""The revisions of the ledger, on every database, and how a fresh clone starts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import Result
from sqlalchemy import DateTime, MetaData, bindparam, text
from sqlalchemy.exc import DBAPIError

import example_app
from example_app import create_app
from flask_uow import Flask
from tests.support import databases
from tests.support.databases import TestDatabase, anywhere, concurrently
from tests.support.witness import Witness

ROOT = Path(example_app.__file__).parent.parent
FIRST = "1f5c5c938859"  # before there were balances
BALANCE = "0c49506d851e"
BALANCES = "SELECT name, balance FROM accounts ORDER BY name"


@pytest.fixture
def app(database: TestDatabase) -> Iterator[Flask]:
    """The ledger, without a table."""
    if not database.is_sqlite:
        databases.wipe(database.url, MetaData())
    app = create_app({"SQLALCHEMY_DATABASE_URI": database.url})
    yield app
    with app.app_context():
        app.extensions["uow"].engines["default"].dispose()


def flask(app: Flask, *args: str) -> Result:
    return app.test_cli_runner().invoke(args=list(args))


def done(app: Flask, *args: str) -> str:
    result = flask(app, *args)
    assert result.exit_code == 0, result.output
    return str(result.output)


def write_old_books(witness: Witness, *, overdrawn: bool = False) -> None:
    """What the first version has stored: two accounts, one of them without limit, and an idle one.

    :param overdrawn: the money comes from the account that must not go below zero.
    """
    source, target = ("Bank", "Sales") if overdrawn else ("Sales", "Bank")
    number = {"Sales": 1, "Bank": 2, "Rent": 3}
    with witness.engine.begin() as connection:
        for name, row in number.items():
            values = {"id": row, "name": name, "may": name == "Sales"}
            connection.execute(text("INSERT INTO accounts VALUES (:id, :name, :may)"), values)
        for transfer, cents in enumerate([500_00, 70_01], start=1):
            values = {"id": transfer, "at": datetime(2026, 1, transfer), "memo": "Sales"}
            insert = text("INSERT INTO transfers VALUES (:id, :at, :memo)")
            connection.execute(insert.bindparams(bindparam("at", type_=DateTime())), values)
            for name, amount in ((source, -cents), (target, cents)):
                connection.execute(
                    text(
                        "INSERT INTO postings (transfer_id, account_id, amount)"
                        " VALUES (:transfer, :account, :amount)"
                    ),
                    {"transfer": transfer, "account": number[name], "amount": amount},
                )


@concurrently
def test_revisions_make_what_the_models_say(app: Flask) -> None:
    """To the newest, to nothing, and again; the models are what the database is."""
    done(app, "db", "upgrade")
    assert "match the models" in done(app, "db", "check")
    done(app, "db", "downgrade", "base")
    done(app, "db", "upgrade")
    assert "match the models" in done(app, "db", "check")
    assert done(app, "audit") == "Accounts: 0. Transfers: 0. All agree.\n"


@concurrently
def test_balances_are_made_of_the_postings_that_are_there(app: Flask, witness: Witness) -> None:
    """And the way back loses nothing: the next way there makes the same."""
    done(app, "db", "upgrade", FIRST)
    write_old_books(witness)
    expected = [("Bank", 570_01), ("Rent", 0), ("Sales", -570_01)]
    done(app, "db", "upgrade", BALANCE)
    assert witness.ask(BALANCES) == expected
    assert done(app, "audit") == "Accounts: 3. Transfers: 2. All agree.\n"
    done(app, "db", "downgrade")
    assert witness.ask("SELECT SUM(amount) FROM postings WHERE account_id = 2") == [570_01]
    done(app, "db", "upgrade")
    assert witness.ask(BALANCES) == expected


@concurrently
def test_books_that_are_overdrawn_stop_the_second_revision(app: Flask, witness: Witness) -> None:
    """The database stays at the first one, or (MariaDB) it is said what cannot be undone."""
    done(app, "db", "upgrade", FIRST)
    write_old_books(witness, overdrawn=True)
    result = flask(app, "db", "upgrade")
    assert result.exit_code == 1
    assert "The revision 0c49506d851e" in result.output
    assert "ck_accounts_no_overdraft" in result.output
    assert witness.ask("SELECT version_num FROM alembic_version") == [FIRST]
    assert witness.ask("SELECT COUNT(*) FROM postings") == [4]


@concurrently
def test_entries_of_the_journal_from_before_there_was_progress(
    app: Flask, witness: Witness
) -> None:
    """They are shown as they were: with their result, or as interrupted."""
    done(app, "db", "upgrade", BALANCE)
    with witness.engine.begin() as connection:
        insert = text("INSERT INTO attempts (at, what, result) VALUES (:at, :what, :result)")
        for what, result in (("Import of a.csv", None), ("Import of b.csv", "Transfers: 2.")):
            values = {"at": datetime(2026, 1, 2, 3, 4), "what": what, "result": result}
            connection.execute(insert.bindparams(bindparam("at", type_=DateTime())), values)
    done(app, "db", "upgrade")
    page = app.test_client().get("/journal").text
    assert "Interrupted: no news since 02 Jan 2026 03:04 UTC." in page
    assert "Transfers: 2." in page


@concurrently
def test_constraints_are_those_of_the_models(app: Flask, witness: Witness) -> None:
    """Alembic does not compare them, so the refusals are tried."""
    done(app, "db", "upgrade")
    client = app.test_client()
    for body in ({"name": "Bank"}, {"name": "Sales", "may_overdraw": True}):
        assert client.post("/api/accounts", json=body).status_code == 201
    order = {"from": 1, "to": 2, "amount": "0.01", "memo": "too much"}
    answer = client.post("/api/transfers", json=order)
    assert answer.status_code == 409
    assert answer.get_json()["error"].startswith("There is not enough money in the account.")
    assert witness.ask("SELECT balance FROM accounts") == [0, 0]
    with (
        pytest.raises(DBAPIError, match="ck_accounts_within_bounds"),
        witness.engine.begin() as own,
    ):
        own.execute(text("UPDATE accounts SET balance = 1000000000000000001"))


@anywhere
def test_tables_are_not_made_by_themselves(app: Flask, database: TestDatabase) -> None:
    """Nothing is asked of the database when the app is made."""
    assert not Path(database.url.removeprefix("sqlite:///")).exists()


# Processes -------------------------------------------------------------------------------------


def start_line() -> str:
    """The README's first command, from its first ``flask`` on; without the server."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^python3 .* install -e \. && (.*) && \S+flask .* run$", readme, re.M)
    return str(line)


def start(folder: Path, **environment: str) -> subprocess.Popen[str]:
    """Run the start line of the README on a copy of the app in *folder*."""
    if not (folder / "example_app").exists():
        shutil.copytree(ROOT / "example_app", folder / "example_app")
    env = {key: value for key, value in os.environ.items() if not key.startswith("FLASK_")}
    return subprocess.Popen(
        ["bash", "-c", start_line().replace(".venv/bin/flask", '"$PYTHON" -m flask')],
        cwd=folder,
        env={**env, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_start_line_makes_tables_and_example_data(tmp_path: Path) -> None:
    """In the instance folder; a second start adds nothing."""
    first, _ = start(tmp_path).communicate(timeout=60)
    assert first.count("upgrade ") == 3
    assert first.endswith("Example data added. Transfers: 53.\n")
    second, _ = start(tmp_path).communicate(timeout=60)
    assert second.endswith("There are accounts already; nothing was added.\n")
    assert (tmp_path / "instance" / "ledger.db").exists()


@pytest.mark.stress
@concurrently
def test_several_that_start_at_once_do_not_get_in_each_others_way(
    tmp_path: Path, app: Flask, database: TestDatabase
) -> None:
    """One makes the tables, one the data; ``FLASK_SQLALCHEMY_DATABASE_URI`` names the database."""
    (tmp_path / "copy").mkdir()
    url = database.url
    started = [start(tmp_path / "copy", FLASK_SQLALCHEMY_DATABASE_URI=url) for _ in range(3)]
    outputs = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], outputs
    assert "".join(outputs).count("Example data added. Transfers: 53.") == 1
    assert done(app, "audit") == "Accounts: 9. Transfers: 53. All agree.\n"
