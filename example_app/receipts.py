"""Receipts, one for each single transfer: files in the folder ``OUTBOX``, instead of mail."""

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


def send_later(transfer: Transfer) -> None:
    """Send a receipt after *transfer* has been committed, and only then.

    The COMMIT comes after the view and may fail. The transfer is then refused or tried again, and
    a receipt that was already sent would be wrong. The hook is given the id, not the object,
    because the object belongs to a transaction that has ended by then.
    """
    db.on_commit(_send, transfer.id)


def _send(transfer_id: int) -> None:
    transfer = db.session.get_one(Transfer, transfer_id)
    paid, received = transfer.postings
    text = _RECEIPT.format(
        id=transfer.id,
        amount=show(received.amount),
        source=paid.account.name,
        target=received.account.name,
        at=transfer.at,
        memo=transfer.memo,
    )
    folder = _outbox()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"receipt-{transfer_id:010}.txt").write_text(text, encoding="utf-8")


def latest(size: int) -> list[str]:
    """Return the latest receipts, newest first."""
    files = sorted(_outbox().glob("receipt-*.txt"), reverse=True)
    return [file.read_text(encoding="utf-8") for file in islice(files, size)]


def _outbox() -> Path:
    return Path(current_app.config["OUTBOX"])
