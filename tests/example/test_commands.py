"""The commands, and what the app is made of."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from sqlalchemy import select, text

import example_app
from example_app import ledger
from example_app.database import db as ledger_db
from example_app.models import Account
from flask_uow import Database, Flask, ReadOnly
from tests.support.witness import Witness

MINUS = "\N{MINUS SIGN}"


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
    monkeypatch.setattr(ledger, "transfer_all", lambda *_: 1 / 0)
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
    """A balance or a posting that was changed by hand is named, and the exit code is 1."""
    with witness.engine.begin() as connection:
        connection.execute(text(damage))
    assert run(app, "audit") == (1, "".join(f"{line}\n" for line in complaints))


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


WEB = {"__init__", "api", "commands", "errors", "pages", "uploads"}


def imports_of(path: Path) -> set[str]:
    """The modules of the example, and the packages, that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            whole = node.level and not node.module
            found |= {one.name for one in node.names} if whole else {str(node.module)}
        elif isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
    return {name.partition(".")[0] for name in found}


def test_rules_of_the_ledger_know_no_requests() -> None:
    """Below the views, no module knows a request, a response or an error handler."""
    for path in Path(example_app.__file__).parent.glob("*.py"):
        if path.stem in WEB:
            continue
        imported = imports_of(path)
        assert not imported & {*WEB, "werkzeug"}, path
        if path.stem not in {"journal", "receipts"}:  # which use 'g' and 'current_app'
            assert "flask" not in imported, path


def test_database_object_is_the_apps(app: Flask, db: Database) -> None:
    """The example registers its ``db`` the way the documentation shows."""
    assert app.extensions["sqlalchemy"] is db
