"""Receipts, one for each single transfer: files in the folder ``OUTBOX``, in place of mail."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from flask import Flask, current_app

from .database import db
from .models import Transfer
from .money import show

_RECEIPT = """\
Receipt {id}

{amount} from {source} to {target}
{at:%d %b %Y %H:%M} UTC
{memo}
"""


def init_app(app: Flask) -> None:
    app.config.setdefault("OUTBOX", Path(app.instance_path, "outbox"))


def promise(transfer: Transfer) -> None:
    """Let a receipt be sent when *transfer* is stored, and only then.

    The COMMIT comes after the view and may fail; then the transfer was refused or is tried once
    more, and a receipt that had been sent would be a lie. The id is passed, not the transfer: an
    object belongs to the transaction that is over by then.
    """
    db.on_commit(_send, transfer.id)


def _send(transfer_id: int) -> None:
    transfer = db.session.get_one(Transfer, transfer_id)
    giving, getting = transfer.postings
    text = _RECEIPT.format(
        id=transfer.id,
        amount=show(getting.amount),
        source=giving.account.name,
        target=getting.account.name,
        at=transfer.at,
        memo=transfer.memo,
    )
    folder = _outbox()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"receipt-{transfer_id:010}.txt").write_text(text, encoding="utf-8")


def latest(size: int) -> list[str]:
    """The receipts that were sent last, the newest first."""
    files = sorted(_outbox().glob("receipt-*.txt"), reverse=True)
    return [file.read_text(encoding="utf-8") for file in islice(files, size)]


def _outbox() -> Path:
    return Path(current_app.config["OUTBOX"])
