"""The commands of the ledger.

A command is not a request, so nothing is committed automatically: ``db.atomic`` makes the function
that it decorates all or nothing.
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
    except IntegrityError:  # another process has just added it: the names are unique
        added = 0
    if added:
        click.echo(f"Example data added. Transfers: {added}.")
    else:
        click.echo("There are accounts already; nothing was added.")


@db.atomic(read_only=True)  # an audit must not repair what it finds
def audit_ledger() -> None:
    """Compare every transfer and every balance with its postings."""
    differences = audit.differences()
    for difference in differences:
        click.echo(difference)
    if differences:
        raise click.exceptions.Exit(1)
    click.echo(f"Accounts: {len(ledger.accounts())}. Transfers: {audit.transfers()}. All agree.")
