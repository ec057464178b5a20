"""The table of ``docs/explanation/faults.md``, made of the tests.

``python -m tests.docs.faults`` writes it.

A test that shows what happens after a fault says so itself::

    @pytest.mark.fault("D1", fault="what goes wrong", then="what happens then")

The number names the fault and is how a reader finds its tests. A test may have several of these
marks, and several tests may have the same one, which is one row.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.docs.pages import DOCS, ROOT

PAGE = DOCS / "explanation" / "faults.md"
BEGIN = "<!-- The table: written by 'python -m tests.docs.faults'. -->"
END = "<!-- The end of the table. -->"

GROUPS = {
    "C": "At the commit",
    "D": "A transaction that is gone",
    "N": "The network and the server",
    "S": "SQLite",
    "W": "Forks, interruptions, threads",
    "K": "The pool",
}

KNOWN = {
    *(f"C{n}" for n in (1, 2, 3, *range(7, 14))),
    *(f"D{n}" for n in range(1, 11)),
    *(f"N{n}" for n in (9, 10, 12, 13)),
    *(f"S{n}" for n in range(1, 11)),
    *(f"W{n}" for n in range(1, 11)),
    *(f"K{n}" for n in range(1, 7)),
}
"""The faults of one server and its clients that there has to be an answer for."""

SQLITE, QUEUE = "core/test_sqlite.py", "core/test_queue.py"
MEMORY = "core/test_sqlite_memory.py"
POOL, DRIVERS, LIVENESS = "core/test_pool.py", "core/test_drivers.py", "core/test_liveness.py"

BELOW = [
    (
        "N3",
        "A server accepts connections and never responds",
        "An error after UOW_NETWORK_TIMEOUT seconds",
        [f"{DRIVERS}::test_a_server_that_never_answers_is_an_error_within_seconds"],
    ),
    (
        "N4",
        "A network partition: no packet arrives any more, in either direction",
        "An error after UOW_NETWORK_TIMEOUT seconds, while sending and while waiting",
        [f"{DRIVERS}::test_a_partition_is_an_error_within_seconds"],
    ),
    (
        "S1",
        "Sixteen threads read a row, change it and write it back",
        "No update is lost, and no thread fails",
        [
            f"{SQLITE}::test_no_update_is_lost_among_threads",
            f"{MEMORY}::test_no_update_is_lost_in_an_app",
        ],
    ),
    (
        "S2",
        "A transaction that has read writes, and another one has written in between",
        "The write is refused at once, and nothing is stored; after a rollback it works",
        [f"{SQLITE}::test_what_was_read_and_is_out_of_date_is_refused"],
    ),
    (
        "S3",
        "Many writers at once, in threads and processes",
        "First come, first served",
        [
            f"{QUEUE}::test_first_come_first_served_among_threads",
            f"{QUEUE}::test_first_come_first_served_among_processes",
        ],
    ),
    (
        "S4",
        "The process that has the turn to write is killed",
        "The kernel releases its lock, and the next writer gets the turn",
        [f"{QUEUE}::test_a_killed_holder_leaves_the_turn"],
    ),
    (
        "S4",
        "The writer that has the lock hangs",
        "An error after UOW_SQLITE_BUSY_TIMEOUT seconds names the thread or process",
        [
            f"{QUEUE}::test_the_wait_for_a_process_ends_and_names_it",
            f"{SQLITE}::test_who_waits_too_long_is_told_for_whom",
        ],
    ),
    (
        "S4",
        "The file of the queue is truncated, or comes from another boot or machine",
        "No process crashes, and none waits for a writer that does not exist",
        [
            f"{QUEUE}::test_a_file_that_is_truncated_ends_no_process",
            f"{QUEUE}::test_notes_of_another_boot_keep_no_process_waiting",
        ],
    ),
    (
        "S10",
        "A unit inside another one changes what the outer one has read, and commits",
        "An error if the outer unit overwrites the value without reading it again",
        [f"{SQLITE}::test_what_a_nested_unit_has_changed_is_not_overwritten"],
    ),
    (
        "S6",
        "The disk is full",
        "The error says so, and nothing is stored; with free space, writes work again",
        [f"{SQLITE}::test_a_full_disk", f"{SQLITE}::test_a_disk_that_is_really_full"],
    ),
    (
        "S6",
        "The file was deleted or replaced",
        "No commit goes to the deleted file, and no empty file takes its place",
        [f"{SQLITE}::test_a_deleted_database", f"{SQLITE}::test_a_replaced_database"],
    ),
    (
        "S6",
        "The file was replaced, and the log of the old file still exists",
        "The new file is not opened, and the error says why: that log would destroy it",
        [f"{SQLITE}::test_a_replaced_database_is_not_destroyed"],
    ),
    (
        "S6",
        "The log (-wal) exists, and its database does not",
        "The connection is refused: SQLite would delete the log, and the commits in it",
        [f"{SQLITE}::test_a_log_without_its_database"],
    ),
    (
        "S6",
        "The file or its folder is not writable, or does not exist",
        "The error names the path and the reason",
        [
            f"{SQLITE}::test_a_database_that_may_not_be_written",
            f"{SQLITE}::test_a_missing_folder",
        ],
    ),
    (
        "S7",
        "A reader that does not end lets the log (-wal) grow",
        "From 16 MB on, a warning in the app's log names the reader",
        [f"{SQLITE}::test_a_reader_that_keeps_the_log_growing_is_noticed"],
    ),
    (
        "S9",
        "Threads share a database in memory",
        "It is a temporary file: writers wait for each other, and readers do not wait",
        [
            f"{MEMORY}::test_writers_wait_for_each_other",
            f"{MEMORY}::test_readers_do_not_wait_for_a_writer",
        ],
    ),
    (
        "W7",
        "An exception interrupts a checkout from the pool",
        "The lost place in the pool is noticed, and gets a new connection",
        [f"{POOL}::test_lost_connections_are_replaced"],
    ),
    (
        "K5",
        "Many connections were opened at the same time",
        "Each is replaced at a different time",
        [f"{LIVENESS}::test_lifetimes_end_at_different_times"],
    ),
    (
        "K6",
        "The process has no file descriptors left",
        "The driver's error is raised; no connection is lost, and no restart is needed",
        [f"{POOL}::test_a_process_without_file_descriptors_recovers"],
    ),
]
"""Rows of tests of single modules, which are not written in terms of an app and its faults."""

OPEN: dict[str, tuple[str, str]] = {}
"""By number: a fault without a test, and why there is none."""


@dataclass
class Row:
    """One line of the table.

    :ivar tests: ``path::name``, below ``tests/``.
    """

    number: str
    fault: str
    then: str
    tests: list[str]

    def __str__(self) -> str:
        files = sorted({test.partition("::")[0] for test in self.tests})
        shown = ", ".join(f"`{file}`" for file in files)
        return f"| {self.number} | {self.fault} | {self.then} | {shown} |"


def rows() -> list[Row]:
    """Every row, in the order of the page."""
    found: dict[tuple[str, str, str], Row] = {}
    for number, fault, then, tests in [*BELOW, *_marked()]:
        row = found.setdefault((number, fault, then), Row(number, fault, then, []))
        row.tests += tests
    return sorted(found.values(), key=lambda row: _place(row.number))


def tests_of(path: Path) -> list[ast.FunctionDef]:
    """The test functions of a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return [function for function in found if function.name.startswith("test_")]


def table() -> str:
    """What stands between :data:`BEGIN` and :data:`END`."""
    parts = []
    for letter, title in GROUPS.items():
        lines = [str(row) for row in rows() if row.number.startswith(letter)]
        if lines:
            head = [f"### {title}", "", "| | what goes wrong | what happens then | tests |"]
            parts.append("\n".join([*head, "|---|---|---|---|", *lines]))
    reasons = [
        f"| {number} | {OPEN[number][0]} | {OPEN[number][1]} |"
        for number in sorted(OPEN, key=_place)
    ]
    if reasons:
        head = ["### What no test shows", "", "| | what goes wrong | why there is no test |"]
        parts.append("\n".join([*head, "|---|---|---|", *reasons]))
    return "\n\n".join(parts)


def written(page: str) -> str:
    """*page* with the table as it has to be."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


def _marked() -> Iterator[tuple[str, str, str, list[str]]]:
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if "mark.fault" not in path.read_text(encoding="utf-8"):
            continue
        where = path.relative_to(ROOT / "tests").as_posix()
        for function in tests_of(path):
            for decorator in function.decorator_list:
                if isinstance(decorator, ast.Call) and _is_fault(decorator.func):
                    number, fault, then = _arguments(decorator)
                    yield number, fault, then, [f"{where}::{function.name}"]


def _is_fault(function: ast.expr) -> bool:
    return ast.unparse(function) == "pytest.mark.fault"


def _arguments(call: ast.Call) -> tuple[str, str, str]:
    [number] = [ast.literal_eval(argument) for argument in call.args]
    texts = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    return number, texts["fault"], texts["then"]


def _place(number: str) -> tuple[int, int]:
    match = re.fullmatch(r"([A-Z])(\d+)", number)
    if match is None or match[1] not in GROUPS:
        raise ValueError(f"{number!r} is not the number of a fault: a letter of {[*GROUPS]}")
    return [*GROUPS].index(match[1]), int(match[2])


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
