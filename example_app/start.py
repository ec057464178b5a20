"""The start of the app: its tables, and example data. Several workers may start at once."""

from __future__ import annotations

from contextlib import suppress

from flask import Flask
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from . import seed
from .database import db


def prepare(app: Flask, *, fill: bool) -> None:
    """Create the tables that are missing, and *fill* an empty ledger with example data."""
    with app.app_context():
        _create_tables(attempts=len(db.metadata.tables))
    if fill:
        _fill(app, attempts=3)


def _fill(app: Flask, attempts: int) -> None:
    try:
        with suppress(IntegrityError), app.app_context():  # another worker was faster
            seed.sow()
            db.session.commit()  # this is no request: nobody else commits here
    except OperationalError:
        # On SQLite: another worker is filling it now, so the look at it is out of date. Look again.
        if attempts == 0:
            raise
        _fill(app, attempts - 1)


def _create_tables(attempts: int) -> None:
    try:
        db.create_all()
    except DBAPIError:
        # Another worker has created the same table just now: look again.
        if attempts == 0:
            raise
        _create_tables(attempts - 1)
