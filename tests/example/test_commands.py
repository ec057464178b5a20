"""The commands, and how the app starts."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError

import example_app
from example_app import create_app, ledger, seed, start
from example_app.database import db as ledger_db
from example_app.models import Account
from flask_uow import Database, Flask, ReadOnly
from tests.support.databases import TestDatabase, on
from tests.support.witness import Witness

MINUS = "\N{MINUS SIGN}"
ROOT = Path(example_app.__file__).parent.parent


def run(app: Flask, command: str) -> tuple[int, str]:
    result = app.test_cli_runner().invoke(args=[command])
    return result.exit_code, result.output


def test_seed_fills_an_empty_ledger_once(app: Flask, witness: Witness) -> None:
    """The example data is stored, agrees, never overdraws; a second time nothing is added."""
    assert run(app, "seed") == (0, "Example data added. Transfers: 53.\n")
    assert run(app, "seed") == (0, "There are accounts already; nothing was added.\n")
    assert run(app, "audit") == (0, "Accounts: 9. Transfers: 53. All agree.\n")
    assert witness.ask("SELECT COUNT(*) FROM transfers") == [53]
    history = (
        "SELECT SUM(amount) OVER (PARTITION BY account_id ORDER BY postings.id)"
        " FROM postings JOIN accounts ON accounts.id = account_id WHERE NOT may_overdraw"
    )
    assert min(witness.ask(history)) >= 0


def test_seed_that_fails_leaves_nothing(
    app: Flask, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P4: the accounts were written when the transfers fail; all of it is one block."""
    monkeypatch.setattr(ledger, "transfer", lambda _: 1 / 0)
    result = app.test_cli_runner().invoke(args=["seed"])
    assert isinstance(result.exception, ZeroDivisionError)
    assert witness.ask("SELECT COUNT(*) FROM accounts") == [0]


@pytest.mark.usefixtures("ids")
def test_audit_cannot_repair(app: Flask, witness: Witness, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only looks is refused to write, in words, and stores nothing."""

    def accounts() -> list[Account]:
        ledger.account(3).balance = 0
        return list(ledger_db.session.scalars(select(Account)))

    monkeypatch.setattr(ledger, "accounts", accounts)
    result = app.test_cli_runner().invoke(args=["audit"])
    assert isinstance(result.exception, ReadOnly)
    assert "Account (balance)" in str(result.exception)
    assert witness.ask("SELECT balance FROM accounts WHERE id = 3") == [100_00]


def test_audit_of_an_empty_ledger_agrees(app: Flask) -> None:
    """Nothing agrees with nothing."""
    assert run(app, "audit") == (0, "Accounts: 0. Transfers: 0. All agree.\n")


@pytest.mark.parametrize(
    ("damage", "complaints"),
    [
        (
            "UPDATE accounts SET balance = balance + 1 WHERE name = 'Bank'",
            ['Account 3 "Bank": the balance is 100.01, the postings sum to 100.00.'],
        ),
        (
            "UPDATE postings SET amount = 99 WHERE account_id = 3",
            [
                f"Transfer 1: 2 postings, which sum to {MINUS}99.01.",
                'Account 3 "Bank": the balance is 100.00, the postings sum to 0.99.',
            ],
        ),
        (
            "DELETE FROM postings",
            [
                "Transfer 1: 0 postings, which sum to 0.00.",
                f'Account 2 "Source": the balance is {MINUS}100.00, the postings sum to 0.00.',
                'Account 3 "Bank": the balance is 100.00, the postings sum to 0.00.',
            ],
        ),
    ],
)
@pytest.mark.usefixtures("ids")
def test_audit_finds_what_does_not_agree(
    app: Flask, witness: Witness, damage: str, complaints: list[str]
) -> None:
    """A balance or a posting that somebody changed is named, and the exit code is 1."""
    with witness.engine.begin() as connection:
        connection.execute(text(damage))
    assert run(app, "audit") == (1, "".join(f"{line}\n" for line in complaints))


def flask(folder: Path, *commands: str, **environment: str) -> list[str]:
    """Run ``flask --app example_app COMMAND`` as processes that all start at once.

    The app is a copy in *folder*: a fresh clone, so to speak.
    """
    if not (folder / "example_app").exists():
        shutil.copytree(Path(example_app.__file__).parent, folder / "example_app")
    env = {key: value for key, value in os.environ.items() if not key.startswith("FLASK_")}
    env |= {"PYTHONPATH": str(ROOT), **environment}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", "example_app", command],
            cwd=folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command in commands
    ]
    return [process.communicate(timeout=60)[0] for process in processes]


def test_fresh_clone_starts_with_example_data(tmp_path: Path) -> None:
    """With no set-up there is a SQLite file in the instance folder, filled by the first start;
    processes that start at once do not get in each other's way."""
    outputs = flask(tmp_path, "audit", "audit", "audit")
    assert outputs == ["Accounts: 9. Transfers: 53. All agree.\n"] * 3
    assert (tmp_path / "instance" / "ledger.db").exists()
    assert flask(tmp_path, "seed") == ["There are accounts already; nothing was added.\n"]


@on("postgresql")
def test_environment_names_the_database(tmp_path: Path, database: TestDatabase) -> None:
    """``FLASK_SQLALCHEMY_DATABASE_URI`` is used, and is not filled without being asked."""
    url = database.url
    outputs = flask(tmp_path, "audit", "audit", FLASK_SQLALCHEMY_DATABASE_URI=url)
    assert outputs == ["Accounts: 0. Transfers: 0. All agree.\n"] * 2
    assert not (tmp_path / "instance").exists()
    [seeded] = flask(tmp_path, "seed", FLASK_SQLALCHEMY_DATABASE_URI=url)
    assert seeded == "Example data added. Transfers: 53.\n"


def test_worker_that_finds_the_tables_created_meanwhile_starts(
    app: Flask, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three tables can be created by another worker between the look and the CREATE TABLE."""
    create_all, collisions = db.create_all, 0

    def collide() -> None:
        nonlocal collisions
        collisions += 1
        if collisions <= 3:
            db.metadata.create_all(db.engine, checkfirst=False)
        create_all()

    monkeypatch.setattr(db, "create_all", collide)
    start.prepare(app, fill=False)
    assert collisions == 4


def test_worker_that_finds_the_data_added_meanwhile_starts(
    app: Flask, monkeypatch: pytest.MonkeyPatch, witness: Witness
) -> None:
    """Example data that another worker has added after the look is not added again."""
    assert run(app, "seed")[0] == 0
    monkeypatch.setattr(seed, "sow", ledger_db.atomic(lambda: ledger.open_account("Bank")))
    start.prepare(app, fill=True)
    assert witness.ask("SELECT COUNT(*) FROM accounts") == [9]


def test_database_that_cannot_be_reached_stops_the_start(tmp_path: Path) -> None:
    """Only a table that is there now is a reason to go on."""
    url = f"sqlite:///{tmp_path}/nowhere/ledger.db"
    with pytest.raises(OperationalError, match="unable to open"):
        create_app({"SQLALCHEMY_DATABASE_URI": url})


def test_nothing_commits_rolls_back_or_closes() -> None:
    """Neither views nor commands end a unit of work: they only say where it begins."""
    found = set()
    for path in Path(example_app.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and re.search(
                "^(?!on_)(.*commit|.*rollback|close|remove|begin_nested|invalidate)", node.attr
            ):
                found.add((path.name, node.attr))
    assert found == set()


def test_database_object_is_the_apps(app: Flask, db: Database) -> None:
    """The example registers its ``db`` the way the documentation shows."""
    assert app.extensions["sqlalchemy"] is db
