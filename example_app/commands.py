"""The commands of the ledger. A command is not a request: what it stores, it commits itself."""

from __future__ import annotations

import click
from flask import Flask

from . import audit, ledger, seed
from .database import db


def init_app(app: Flask) -> None:
    app.cli.command("seed")(seed_ledger)
    app.cli.command("audit")(audit_ledger)


def seed_ledger() -> None:
    """Fill an empty ledger with example data."""
    added = seed.sow()
    db.session.commit()
    if added:
        click.echo(f"Example data added. Transfers: {added}.")
    else:
        click.echo("There are accounts already; nothing was added.")


def audit_ledger() -> None:
    """Compare every transfer and every balance with its postings."""
    found = audit.differences()
    for difference in found:
        click.echo(difference)
    if found:
        raise click.exceptions.Exit(1)
    click.echo(f"Accounts: {len(ledger.accounts())}. Transfers: {audit.transfers()}. All agree.")
