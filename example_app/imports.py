"""CSV files of transfers: read line by line, stored as a whole or not at all.

::

    from,to,amount,memo
    Bank,Rent,850.00,November
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import IO

from . import fields, ledger, money
from .errors import Refused
from .models import Account

_REQUIRED = ("from", "to", "amount")
_COLUMNS = (*_REQUIRED, "memo")
_BATCH = 1000
_LONGEST_LINE = 64 * 1024

Record = tuple[int, list[str]]


def load(stream: IO[bytes]) -> int:
    """Make all transfers of a file, and return how many there were.

    Only one batch is in memory at a time. Nothing here undoes the first batches if a later line
    is bad: the request fails, and with it its unit of work.

    :raises Refused: a line is bad; it names the line and the reason.
    """
    orders = _orders(_records(stream), ledger.lock_accounts())
    count = 0
    while batch := list(islice(orders, _BATCH)):
        ledger.transfer(batch)
        count += len(batch)
    if not count:
        raise Refused("The file contains no transfers.")
    return count


def _orders(records: Iterator[Record], accounts: Sequence[Account]) -> Iterator[ledger.Order]:
    columns = _read_header(records)
    by_name = {account.name: account for account in accounts}
    # Kept beside the accounts: within a batch, the constraints cannot tell which line it was.
    balances = {account.id: account.balance for account in accounts}
    for line, record in records:
        with _named(line):
            order = _order(_row(columns, record), by_name, balances)
        yield order


def _order(
    row: dict[str, str], accounts: dict[str, Account], balances: dict[int, int]
) -> ledger.Order:
    source = _account(row["from"], accounts)
    target = _account(row["to"], accounts)
    amount = money.read(row["amount"])
    memo = fields.text(row.get("memo"), "memo", longest=200, required=False)
    order = ledger.Order(source.id, target.id, amount, memo)
    if balances[source.id] < amount and not source.may_overdraw:
        has = money.show(balances[source.id])
        raise Refused(f'"{source.name}" has only {has} and cannot give {money.show(amount)}.')
    balances[source.id] -= amount
    balances[target.id] += amount
    return order


def _account(name: str, accounts: dict[str, Account]) -> Account:
    found = accounts.get(name.strip())
    if found is None:
        raise Refused(f'There is no account "{name.strip()[:80]}".')
    return found


def _row(columns: list[str], record: list[str]) -> dict[str, str]:
    if len(record) != len(columns):
        raise Refused(f"It has {len(record)} fields, and {len(columns)} are expected.")
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
    """The records that are not empty, each with the number of its first line."""
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
    """Decode line by line, so that a wrong byte is found in its line."""
    encoding = "utf-8-sig"  # spreadsheets write a mark at the beginning
    for number, line in enumerate(_split(stream), start=1):
        if len(line) > _LONGEST_LINE:
            raise _bad_line(number, f"It is longer than {_LONGEST_LINE:,} bytes.")
        try:
            yield line.decode(encoding) + "\n"
        except UnicodeDecodeError as error:
            raise _bad_line(number, "This is not text in UTF-8.") from error
        encoding = "utf-8"


def _split(stream: IO[bytes]) -> Iterator[bytes]:
    """The lines of *stream*; one that does not end is cut off when it is too long anyway."""
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
    """Let a refusal name the line that it is about."""
    try:
        yield
    except Refused as refused:
        raise _bad_line(line, refused.message) from refused


def _bad_line(line: int, reason: str) -> Refused:
    return Refused(f"Line {line}: {reason} Nothing was imported.", line=line)
