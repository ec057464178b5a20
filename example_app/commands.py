"""The commands of the ledger.

A command is not a request, so nobody commits for it: ``db.atomic`` says what is all or nothing.
"""

from __future__ import annotations

import click
from flask import Flask
from sqlalchemy.exc import IntegrityError

from . import audit, ledger, seed
from .database import db


def init_app(app: Flask) -> None:
    app.cli.command("seed")(seed_ledger)
    app.cli.command("audit")(audit_ledger)


def seed_ledger() -> None:
    """Fill an empty ledger with example data."""
    try:
        added = seed.sow()
    except IntegrityError:  # somebody else has just done it: the names are unique
        added = 0
    if added:
        click.echo(f"Example data added. Transfers: {added}.")
    else:
        click.echo("There are accounts already; nothing was added.")


@db.atomic(read_only=True)  # whatever it meets, it repairs nothing
def audit_ledger() -> None:
    """Compare every transfer and every balance with its postings."""
    found = audit.differences()
    for difference in found:
        click.echo(difference)
    if found:
        raise click.exceptions.Exit(1)
    click.echo(f"Accounts: {len(ledger.accounts())}. Transfers: {audit.transfers()}. All agree.")
