"""Import files of transfers, as a whole or without their bad lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from time import sleep
from typing import IO

from sqlalchemy import select

from . import journal, ledger, transfer_files
from .balances import Balances
from .database import db
from .models import Account
from .refusals import Refused
from .transfer_files import Line

_BATCH = 5000
_BREAK = 0.1
_REPORT = 5000
_LISTED = 100


@dataclass(frozen=True)
class SkippedLine:
    """A line that was left out."""

    line: int
    reason: str


@dataclass
class Result:
    """The outcome of an import.

    :ivar count: the number of transfers that were stored.
    :ivar skipped: the number of lines that were left out.
    :ivar reasons: the reasons for the first hundred of these lines.
    """

    count: int = 0
    skipped: int = 0
    reasons: list[SkippedLine] = field(default_factory=list)

    def skip(self, line: int, reason: str) -> None:
        self.skipped += 1
        if len(self.reasons) < _LISTED:
            self.reasons.append(SkippedLine(line, reason))

    def __str__(self) -> str:
        left_out = f" Lines skipped: {self.skipped:,}." if self.skipped else ""
        return f"Transfers: {self.count:,}.{left_out}"


def load(stream: IO[bytes], name: str, *, skip_bad: bool = False) -> Result:
    """Store the transfers of a file: all of them, or all good ones.

    The file is read and checked before the accounts are locked, so that other transfers need not
    wait for a slow network or a long file. Only then are the lines stored, in bulk: all of them in
    one transaction, or some thousands in each. The journal has the progress and the result;
    see :func:`journal.attempt`.

    :param name: the name of the file, for the journal.
    :param skip_bad: leave out the lines that are refused.
    :raises Refused: a line is bad; the message names the line and the reason. With *skip_bad*,
        only if the file cannot be read to its end, or has no lines.
    """
    with journal.attempt(f"Import of {name}") as attempt:
        lines = list(_read(stream, attempt, skip_bad=skip_bad))
        if not lines:
            raise Refused("The file contains no transfers.")
        if not skip_bad:
            journal.progress(attempt, f"Storing all lines at once: {len(lines):,}.")
        return _store(lines, attempt, skip_bad=skip_bad)


def _read(stream: IO[bytes], attempt: int, *, skip_bad: bool) -> Iterator[Line]:
    for count, line in enumerate(transfer_files.read(stream, _account_ids()), start=1):
        if line.order is None and not skip_bad:
            raise transfer_files.bad_line(line.number, line.reason)
        if count % _REPORT == 0:
            journal.progress(attempt, f"Lines read: {count:,}. Nothing is stored yet.")
        yield line


def _account_ids() -> dict[str, int]:
    # The unit of work of a POST would keep SQLite's write lock until the response.
    with db.independent() as session:
        return {account.name: account.id for account in session.scalars(select(Account))}


def _store(lines: list[Line], attempt: int, *, skip_bad: bool) -> Result:
    """Store *lines* in transactions of their own: one for all of them, or one for each batch."""
    result = Result()
    size = _BATCH if skip_bad else len(lines)
    for start in range(0, len(lines), size):
        if start:
            # PostgreSQL refuses a serializable transfer that has waited for the last batch. It is
            # tried again after UOW_RETRY_PAUSE: now, before the next batch locks the accounts.
            sleep(_BREAK)
        batch = lines[start : start + size]
        with db.independent() as session:
            orders = _check(batch, Balances(session), result, skip_bad=skip_bad)
            ledger.transfer_all(session, orders)
            result.count += len(orders)
            done = start + len(batch)
            if done < len(lines):
                text = f"Lines stored or skipped: {done:,} of {len(lines):,}."
                journal.add_progress(session, attempt, text)
            else:
                journal.add_result(session, attempt, str(result))
    return result


def _check(
    lines: list[Line], balances: Balances, result: Result, *, skip_bad: bool
) -> list[ledger.PaymentOrder]:
    """Return the orders of the good lines.

    :raises Refused: a line is bad, and may not be skipped.
    """
    orders = []
    for line in lines:
        reason = _refusal(line, balances)
        if reason and not skip_bad:
            raise transfer_files.bad_line(line.number, reason)
        if reason:
            result.skip(line.number, reason)
        elif line.order is not None:
            orders.append(line.order)
    return orders


def _refusal(line: Line, balances: Balances) -> str:
    """Change *balances* as *line* says, or return the reason why it is refused."""
    if line.order is not None:
        try:
            balances.change(line.order)
        except Refused as refused:
            return refused.message
    return line.reason
