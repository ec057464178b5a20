"""CSV files of transfers.

::

    from,to,amount,memo
    Bank,Rent,850.00,November

Nothing here uses the database.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from typing import IO, NamedTuple

from . import fields, money
from .ledger import PaymentOrder
from .refusals import Refused

_REQUIRED = ("from", "to", "amount")
_COLUMNS = (*_REQUIRED, "memo")
_LONGEST_LINE = 64 * 1024

Record = tuple[int, list[str]]


class Line(NamedTuple):
    """A line of the file: a transfer, or the reason why it is none."""

    number: int
    order: PaymentOrder | None
    reason: str = ""


def read(stream: IO[bytes], account_ids: Mapping[str, int]) -> Iterator[Line]:
    """Yield the lines that are not empty.

    :param account_ids: the accounts by their names.
    :raises Refused: the file is empty, it has a wrong header, it is not UTF-8 or CSV, or a line is
        too long, so that the rest cannot be read.
    """
    records = _records(stream)
    columns = _read_header(records)
    for number, record in records:
        yield _line(number, columns, record, account_ids)


def _line(
    number: int, columns: list[str], record: list[str], account_ids: Mapping[str, int]
) -> Line:
    try:
        return Line(number, _order(_row(columns, record), account_ids))
    except Refused as refused:
        return Line(number, None, refused.message)


def bad_line(number: int, reason: str) -> Refused:
    """Return the refusal of a whole file because of one line."""
    return Refused(f"Line {number}: {reason} Nothing was imported.", line=number)


def _order(row: dict[str, str], account_ids: Mapping[str, int]) -> PaymentOrder:
    source, target = (_account_id(row[name], account_ids) for name in ("from", "to"))
    amount = money.read(row["amount"])
    memo = fields.text(row.get("memo"), "memo", longest=200, required=False)
    return PaymentOrder(source, target, amount, memo)


def _account_id(name: str, account_ids: Mapping[str, int]) -> int:
    account_id = account_ids.get(name.strip())
    if account_id is None:
        raise Refused(f'There is no account "{name.strip()[:80]}".')
    return account_id


def _row(columns: list[str], record: list[str]) -> dict[str, str]:
    if len(record) != len(columns):
        raise Refused(f"It has {len(record)} fields, but {len(columns)} are expected.")
    return dict(zip(columns, record, strict=True))


def _read_header(records: Iterator[Record]) -> list[str]:
    line, record = next(records, (1, []))
    if not record:
        raise Refused("The file is empty.")
    columns = [name.strip().lower() for name in record]
    missing = [name for name in _REQUIRED if name not in columns]
    unknown = [name[:40] for name in columns if name not in _COLUMNS]
    expected = f"The columns must be {','.join(_COLUMNS)} (memo may be left out)"
    if missing:
        raise bad_line(line, f"{expected}; there is no {' and no '.join(missing)}.")
    if unknown or len(set(columns)) < len(columns):
        raise bad_line(line, f"{expected}, each of them once.")
    return columns


def _records(stream: IO[bytes]) -> Iterator[Record]:
    """Yield each record that is not empty, with the number of its first line."""
    reader = csv.reader(_lines(stream), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            record = next(reader, None)
        except csv.Error as error:
            raise bad_line(line, f"This is not well-formed CSV: {error}.") from error
        if record is None:
            return
        if record:
            yield line, record


def _lines(stream: IO[bytes]) -> Iterator[str]:
    """Decode line by line, so that an error can name the line of a wrong byte."""
    encoding = "utf-8-sig"  # spreadsheets write a byte order mark at the start
    for number, line in enumerate(_split(stream), start=1):
        if len(line) > _LONGEST_LINE:
            raise bad_line(number, f"It is longer than {_LONGEST_LINE:,} bytes.")
        try:
            yield line.decode(encoding) + "\n"
        except UnicodeDecodeError as error:
            raise bad_line(number, "This is not text in UTF-8.") from error
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
