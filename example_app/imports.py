"""Import CSV files of transfers, as a whole or without their bad lines.

::

    from,to,amount,memo
    Bank,Rent,850.00,November
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import IO

from sqlalchemy.exc import IntegrityError, OperationalError

from . import fields, journal, ledger, money, refusals
from .database import db
from .models import Account
from .refusals import Refused

_REQUIRED = ("from", "to", "amount")
_COLUMNS = (*_REQUIRED, "memo")
_BATCH = 1000
_LONGEST_LINE = 64 * 1024
_LISTED = 100

Record = tuple[int, list[str]]


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
    :ivar reasons: the reasons for the first hundred of these lines, so that a file of bad lines
        cannot fill the memory.
    """

    count: int = 0
    skipped: int = 0
    reasons: list[SkippedLine] = field(default_factory=list)

    def skip(self, line: int, reason: str) -> None:
        self.skipped += 1
        if len(self.reasons) < _LISTED:
            self.reasons.append(SkippedLine(line, reason))


def load(stream: IO[bytes], name: str, *, skip_bad: bool = False) -> Result:
    """Store the transfers of a file: all of them, or all good ones.

    Only one batch is in memory at a time. Nothing here undoes the first batches if a later line
    is bad: the request fails, and its unit of work is rolled back as a whole. The attempt itself
    stays in the journal, whatever happens; see :func:`journal.begin`.

    :param name: the name of the file, for the journal.
    :param skip_bad: leave out the lines that are refused.
    :raises Refused: a line is bad; the message names the line and the reason. With *skip_bad*,
        only for a bad header, no lines, text that is not UTF-8 or CSV, or a line that is too long.
    """
    attempt = journal.begin(f"Import of {name}")
    # Locked in the order of the ids, as by 'ledger.transfer', for the whole file.
    accounts = ledger.lock_accounts()
    records = _records(stream)
    columns = _read_header(records)
    by_name = {account.name: account for account in accounts}
    load_rest = _load_good if skip_bad else _load_all
    result = load_rest(records, columns, by_name)
    if not (result.count or result.skipped):
        raise Refused("The file contains no transfers.")
    left_out = f" Lines skipped: {result.skipped:,}." if result.skipped else ""
    journal.end(attempt, f"Transfers: {result.count:,}.{left_out}")
    return result


def _load_all(
    records: Iterator[Record], columns: list[str], accounts: dict[str, Account]
) -> Result:
    orders = _orders(records, columns, accounts)
    result = Result()
    while batch := list(islice(orders, _BATCH)):
        ledger.transfer(batch)
        result.count += len(batch)
    return result


def _load_good(
    records: Iterator[Record], columns: list[str], accounts: dict[str, Account]
) -> Result:
    """Store each line in a savepoint of its own, so that a refused line undoes only itself.

    This is slower than a batch: it takes a few more statements for each line.
    """
    result = Result()
    for line, record in records:
        reason = _store_or_refuse(columns, record, accounts)
        if reason is None:
            result.count += 1
        else:
            result.skip(line, reason)
    return result


def _store_or_refuse(
    columns: list[str], record: list[str], accounts: dict[str, Account]
) -> str | None:
    """Store one line, or return the reason why it is refused."""
    try:
        with db.atomic():
            ledger.transfer([_order(_row(columns, record), accounts)])
    except Refused as refused:
        return refused.message
    except (IntegrityError, OperationalError) as error:
        reason = refusals.reason(error)
        if reason is None:  # a fault, not a bad line: the import fails
            raise
        return reason
    return None


def _orders(
    records: Iterator[Record], columns: list[str], accounts: dict[str, Account]
) -> Iterator[ledger.PaymentOrder]:
    # Counted here as well, because a constraint that fails for a batch does not name the line.
    balances = {account.id: account.balance for account in accounts.values()}
    for line, record in records:
        with _named(line):
            row = _row(columns, record)
            order = _order(row, accounts)
            _change(balances, order, accounts[row["from"].strip()])
        yield order


def _order(row: dict[str, str], accounts: dict[str, Account]) -> ledger.PaymentOrder:
    source = _account(row["from"], accounts)
    target = _account(row["to"], accounts)
    amount = money.read(row["amount"])
    memo = fields.text(row.get("memo"), "memo", longest=200, required=False)
    return ledger.PaymentOrder(source.id, target.id, amount, memo)


def _change(balances: dict[int, int], order: ledger.PaymentOrder, source: Account) -> None:
    if balances[source.id] < order.amount and not source.may_overdraw:
        has = money.show(balances[source.id])
        raise Refused(f'"{source.name}" has only {has} and cannot pay {money.show(order.amount)}.')
    balances[order.source] -= order.amount
    balances[order.target] += order.amount


def _account(name: str, accounts: dict[str, Account]) -> Account:
    account = accounts.get(name.strip())
    if account is None:
        raise Refused(f'There is no account "{name.strip()[:80]}".')
    return account


def _row(columns: list[str], record: list[str]) -> dict[str, str]:
    if len(record) != len(columns):
        raise Refused(f"It has {len(record)} fields, but {len(columns)} are expected.")
    return dict(zip(columns, record, strict=True))


def _read_header(records: Iterator[Record]) -> list[str]:
    line, record = next(records, (1, []))
    columns = [name.strip().lower() for name in record]
    missing = [name for name in _REQUIRED if name not in columns]
    unknown = [name[:40] for name in columns if name not in _COLUMNS]
    expected = f"The columns must be {','.join(_COLUMNS)} (memo may be left out)"
    if missing:
        raise _bad_line(line, f"{expected}; there is no {' and no '.join(missing)}.")
    if unknown or len(set(columns)) < len(columns):
        raise _bad_line(line, f"{expected}, each of them once.")
    return columns


def _records(stream: IO[bytes]) -> Iterator[Record]:
    """Yield each record that is not empty, with the number of its first line."""
    reader = csv.reader(_lines(stream), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            record = next(reader, None)
        except csv.Error as error:
            raise _bad_line(line, f"This is not well-formed CSV: {error}.") from error
        if record is None:
            return
        if record:
            yield line, record


def _lines(stream: IO[bytes]) -> Iterator[str]:
    """Decode line by line, so that an error can name the line of a wrong byte."""
    encoding = "utf-8-sig"  # spreadsheets write a byte order mark at the start
    for number, line in enumerate(_split(stream), start=1):
        if len(line) > _LONGEST_LINE:
            raise _bad_line(number, f"It is longer than {_LONGEST_LINE:,} bytes.")
        try:
            yield line.decode(encoding) + "\n"
        except UnicodeDecodeError as error:
            raise _bad_line(number, "This is not text in UTF-8.") from error
        encoding = "utf-8"


def _split(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines of *stream*; stop reading in a line that is already too long."""
    rest = b""
    while chunk := stream.read(_LONGEST_LINE):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
        if len(rest) > _LONGEST_LINE:
            break
    if rest:
        yield rest


@contextmanager
def _named(line: int) -> Iterator[None]:
    """Add the number of the line to a refusal."""
    try:
        yield
    except Refused as refused:
        raise _bad_line(line, refused.message) from refused


def _bad_line(line: int, reason: str) -> Refused:
    return Refused(f"Line {line}: {reason} Nothing was imported.", line=line)
