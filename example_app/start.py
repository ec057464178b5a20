"""The start of the app: its tables, and example data. Several workers may start at once."""

from __future__ import annotations

from contextlib import suppress

from flask import Flask
from sqlalchemy.exc import DBAPIError, IntegrityError

from . import seed
from .database import db


def prepare(app: Flask, *, fill: bool) -> None:
    """Create the tables that are missing, and *fill* an empty ledger with example data."""
    with app.app_context():
        _create_tables(attempts=len(db.metadata.tables))
    if fill:
        with suppress(IntegrityError), app.app_context():  # another worker was faster
            seed.sow()


def _create_tables(attempts: int) -> None:
    try:
        db.create_all()
    except DBAPIError:
        # Another worker has created the same table just now: look again.
        if attempts == 0:
            raise
        _create_tables(attempts - 1)
