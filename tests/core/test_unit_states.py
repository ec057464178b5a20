"""The state machine of ``UnitOfWork`` as one table, with no Flask and no database.

A driver that only writes down what it is asked to do stands for the database. Each row of the
table puts a unit into a state, makes one call, and says what that call sends, which hooks it runs,
which error it raises and how it leaves the unit.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest
from sqlalchemy import Engine, QueuePool, make_url, select
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flask_uow import RollbackOnly, TransactionLost, UnitEnded
from flask_uow._engine import lost_transactions
from flask_uow._unit.commit_hooks import Hook
from flask_uow._unit.session import UnitSession
from flask_uow._unit.unit import UnitOfWork

# States: "nothing" has happened; a "read"; an object is "added", not sent; it is "sent". A "sent"
# also adds two hooks, +1 for the commit and -1 for the rollback, the next ones +2 and -2; "hook"
# adds only these. "{" begins a block that is the whole unit, "[" one that is a part of it; "marked"
# is for rollback only.
#
# Calls: "]" ends the innermost block, "]error" because of an exception, "]kill" because of one that
# is no Exception. After a semicolon: what the driver fails at ("back" is ROLLBACK TO SAVEPOINT).
#
# Then: there is "work" that a commit would store; a transaction is "open", without work; it is
# "lost", and what comes next is refused; or "-", nothing is open. The phase is the one after it.

TABLE = """
state                    | call               | sends                    | hooks    | error  | then | phase

The unit itself: what a request, a command and the end of a context do with it.

nothing                  | commit             | -                        | -        | -      | -    | running
nothing                  | rollback           | -                        | -        | -      | -    | running
nothing                  | fail               | -                        | -        | -      | -    | running
nothing                  | release            | -                        | -        | -      | -    | running
nothing                  | end                | -                        | -        | -      | -    | ended
read                     | commit             | COMMIT                   | -        | -      | -    | running
read                     | fail               | -                        | -        | -      | open | running
read                     | release            | ROLLBACK                 | -        | -      | -    | running
added                    | commit             | BEGIN INSERT COMMIT      | -        | -      | -    | running
added                    | rollback           | -                        | -        | -      | -    | running
added                    | fail               | -                        | -        | -      | -    | running
sent                     | commit             | COMMIT                   | +1       | -      | -    | running
sent                     | rollback           | ROLLBACK                 | -1       | -      | -    | running
sent                     | fail               | ROLLBACK                 | -1       | -      | -    | running
sent                     | release            | ROLLBACK                 | -1       | -      | -    | running
sent                     | release-kill       | DISCARD                  | -1       | -      | -    | running
sent                     | end                | ROLLBACK                 | -1       | -      | -    | ended
sent                     | end-kill           | DISCARD                  | -1       | -      | -    | ended
sent sent                | commit             | COMMIT                   | +1 +2    | -      | -    | running
sent sent                | rollback           | ROLLBACK                 | -1 -2    | -      | -    | running
hook                     | commit             | -                        | +1       | -      | -    | running
hook                     | rollback           | -                        | -1       | -      | -    | running
hook                     | fail               | -                        | -1       | -      | -    | running
hook                     | release            | -                        | -1       | -      | -    | running
sent marked              | commit             | -                        | -        | marked | work | running
sent marked              | fail               | ROLLBACK                 | -1       | -      | -    | running
sent commit              | rollback           | -                        | -        | -      | -    | running
sent commit sent         | rollback           | ROLLBACK                 | -2       | -      | -    | running
sent end                 | read               | -                        | -        | ended  | -    | ended
sent end                 | end                | -                        | -        | -      | -    | ended
nothing                  | respond            | -                        | -        | -      | -    | responded
sent                     | respond            | -                        | -        | -      | work | responded
sent respond             | commit             | COMMIT                   | +1       | -      | -    | responded
sent respond             | end                | ROLLBACK                 | -1       | -      | -    | ended
nothing                  | stream             | -                        | -        | -      | -    | streaming
sent stream              | release            | ROLLBACK                 | -1       | -      | -    | streaming
sent stream release      | read               | BEGIN SELECT             | -        | -      | open | streaming
sent stream release      | end                | -                        | -        | -      | -    | ended
sent end                 | respond            | -                        | -        | -      | -    | ended
sent end                 | stream             | -                        | -        | -      | -    | ended

Failures of the driver: commit() raises and leaves the decision to its caller; the others log.

added                    | commit; flush      | BEGIN INSERT ROLLBACK    | -        | flush  | work | running
sent                     | commit; commit     | COMMIT ROLLBACK          | -        | commit | work | running
sent failed-commit       | fail               | -                        | -1       | -      | -    | running
sent                     | rollback; rollback | ROLLBACK x3 DISCARD      | -1       | -      | -    | running
sent                     | fail; rollback     | ROLLBACK x3 DISCARD      | -1       | -      | -    | running
sent                     | end; rollback      | ROLLBACK x3 DISCARD      | -1       | -      | -    | ended

A block that is the whole of its unit: no savepoint, its end decides.

nothing                  | {                  | -                        | -        | -      | -    | running
{ sent                   | ]                  | COMMIT                   | +1       | -      | -    | running
{ sent                   | ]error             | ROLLBACK                 | -1       | -      | -    | running
{ sent                   | ]kill              | DISCARD                  | -1       | -      | -    | running
{ sent marked            | ]                  | ROLLBACK                 | -1       | -      | -    | running
{ added                  | ]                  | BEGIN INSERT COMMIT      | -        | -      | -    | running
{ added                  | ]error             | -                        | -        | -      | -    | running
{ hook                   | ]                  | -                        | +1       | -      | -    | running
{ hook                   | ]error             | -                        | -1       | -      | -    | running
{ read                   | ]                  | COMMIT                   | -        | -      | -    | running
{ read                   | ]error             | ROLLBACK                 | -        | -      | -    | running
{ added                  | ]; flush           | BEGIN INSERT ROLLBACK    | -        | flush  | -    | running
{ sent                   | ]; commit          | COMMIT ROLLBACK          | -1       | commit | -    | running
{ sent                   | ]error; rollback   | ROLLBACK x3 DISCARD      | -1       | -      | -    | running

A block that is the first work of a unit that commits later: no savepoint, no COMMIT.

nothing                  | [                  | -                        | -        | -      | -    | running
read                     | [                  | -                        | -        | -      | open | running
[ sent                   | ]                  | -                        | -        | -      | work | running
[ sent                   | ]error             | ROLLBACK                 | -1       | -      | -    | running
[ sent marked            | ]                  | ROLLBACK                 | -1       | -      | -    | running
[ added                  | ]                  | BEGIN INSERT             | -        | -      | work | running
[ added                  | ]; flush           | BEGIN INSERT ROLLBACK    | -        | flush  | -    | running
[ sent ]                 | commit             | COMMIT                   | +1       | -      | -    | running
hook [ sent              | ]error             | ROLLBACK                 | -2       | -      | -    | running

A block after another statement: a savepoint.

read [ sent              | ]error             | BACK-TO                  | -1       | -      | open | running
sent                     | [                  | -                        | -        | -      | work | running
added                    | [                  | BEGIN INSERT             | -        | -      | work | running
sent [                   | ]                  | -                        | -        | -      | work | running
sent [ sent              | ]                  | RELEASE                  | -        | -      | work | running
sent [ sent              | ]error             | BACK-TO                  | -2       | -      | work | running
sent [ sent              | ]kill              | BACK-TO                  | -2       | -      | work | running
sent [ sent marked       | ]                  | BACK-TO                  | -2       | -      | work | running
sent [ added             | ]                  | SAVEPOINT INSERT RELEASE | -        | -      | work | running
sent [ added             | ]; flush           | SAVEPOINT INSERT BACK-TO | -        | flush  | work | running
sent [ sent ]            | commit             | COMMIT                   | +1 +2    | -      | -    | running
sent [ sent ]            | rollback           | ROLLBACK                 | -1 -2    | -      | -    | running
sent [ sent ]error       | commit             | COMMIT                   | +1       | -      | -    | running
sent [ sent ]error       | rollback           | ROLLBACK                 | -1       | -      | -    | running
sent [ sent ] [ sent     | ]error             | BACK-TO                  | -3       | -      | work | running
sent [ sent              | ]error; back       | BACK-TO                  | -2       | -      | lost | running
sent [ sent ]lost        | commit             | ROLLBACK                 | -        | lost   | work | running
sent [ sent ]lost        | sent               | ROLLBACK                 | -        | lost   | work | running
sent [ sent ]lost        | fail               | ROLLBACK                 | -1       | -      | -    | running

Blocks in blocks: each undoes its own, the outermost ends it all.

{ sent                   | [                  | -                        | -        | -      | work | running
{                        | [                  | -                        | -        | -      | -    | running
{ [ sent                 | ]                  | -                        | -        | -      | work | running
{ [ sent                 | ]error             | ROLLBACK                 | -1       | -      | -    | running
{ [ sent ]               | ]                  | COMMIT                   | +1       | -      | -    | running
{ sent [ sent ]          | ]                  | COMMIT                   | +1 +2    | -      | -    | running
{ sent [ sent ]          | ]error             | ROLLBACK                 | -1 -2    | -      | -    | running
{ sent [ sent ]error     | ]                  | COMMIT                   | +1       | -      | -    | running
{ sent [ sent [ sent     | ]error             | BACK-TO                  | -3       | -      | work | running
{ sent [ sent [ sent ]   | ]error             | BACK-TO                  | -2 -3    | -      | work | running
{ sent [ sent [ sent ] ] | ]                  | COMMIT                   | +1 +2 +3 | -      | -    | running
{ sent [ added           | ]; flush           | SAVEPOINT INSERT BACK-TO | -        | flush  | work | running
{ sent [ marked ]        | ]                  | COMMIT                   | +1       | -      | -    | running
"""  # noqa: E501

ROWS = [
    [cell.strip() for cell in line.split("|")]
    for line in TABLE.splitlines()
    if line.count("|") == 6 and not line.startswith("state")
]


# The driver that writes down -------------------------------------------------------------------


class DriverError(Exception):
    """What a driver raises."""


class Driver:
    """A DBAPI module and its connection in one.

    :ivar sent: the words that reached it.
    :ivar failing: the word at which it fails.
    :ivar is_open: it is in a transaction.
    """

    paramstyle = "qmark"
    Error = DriverError

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.failing = ""
        self.is_open = False

    def note(self, word: str) -> None:
        self.sent.append(word)
        if word == self.failing:
            raise DriverError(word)

    def cursor(self) -> Cursor:
        return Cursor(self.note)

    def begin(self) -> None:
        self.note("BEGIN")
        self.is_open = True

    def commit(self) -> None:
        self.note("COMMIT")
        self.is_open = False

    def rollback(self) -> None:
        if self.is_open:  # else there is nothing to send; the pool asks for one each time
            self.note("ROLLBACK")
            self.is_open = False

    def close(self) -> None:
        self.note("DISCARD")


class Cursor:
    description: Any = None
    rowcount = 1
    lastrowid = 1

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note

    def execute(self, statement: str, _parameters: object = ()) -> None:
        words = statement.split()
        self._note("BACK-TO" if words[:2] == ["ROLLBACK", "TO"] else words[0])
        self.description = [("id", *[None] * 6)] if words[0] == "SELECT" else None

    def fetchall(self) -> list[Any]:
        return []

    def close(self) -> None:
        pass


class RecordingDialect(DefaultDialect):
    name = driver = "recording"
    supports_statement_cache = True

    def do_begin(self, dbapi_connection: Any) -> None:
        dbapi_connection.dbapi_connection.begin()


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "things"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


# What states and calls are made of ------------------------------------------------------------

FAILURES = {
    "flush": "INSERT",
    "commit": "COMMIT",
    "rollback": "ROLLBACK",
    "back": "BACK-TO",
}
ERRORS: dict[str, type[Exception]] = {
    "marked": RollbackOnly,
    "ended": UnitEnded,
    "lost": TransactionLost,
    **dict.fromkeys(FAILURES, DBAPIError),
}


class Machine:
    """One unit of work, driven by the words of the table.

    :ivar ran: the hooks that were run.
    """

    def __init__(self) -> None:
        self.driver = Driver()
        dialect = RecordingDialect()
        dialect.dbapi = cast(Any, self.driver)
        pool = QueuePool(lambda: cast(Any, self.driver), dialect=dialect)
        engine = Engine(pool, dialect, make_url("recording://"))
        lost_transactions.watch_transactions(engine)
        self.unit = UnitOfWork(UnitSession(engines={"default": engine}), "on_success")
        self.ran: list[str] = []
        self._things = itertools.count(1)
        self._pairs = itertools.count(1)

    def do(self, words: str) -> None:
        for word in words.split():
            MEANINGS[word](self)

    def fail_at(self, word: str) -> None:
        self.driver.failing = word

    def add(self) -> None:
        self.unit.session.add(Thing(id=next(self._things)))

    def send(self) -> None:
        self.add()
        self.unit.session.flush()
        self.hook()

    def hook(self) -> None:
        number = next(self._pairs)
        self.unit.add_hook(Hook(True, self.ran.append, (f"+{number}",), {}))
        self.unit.add_hook(Hook(False, self.ran.append, (f"-{number}",), {}))

    def mark(self) -> None:
        self.unit.set_rollback_only()

    def leave(self, error: BaseException | None = None) -> None:
        self.unit.end_block(self.unit.blocks[-1], error)

    def commit_in_vain(self) -> None:
        self.fail_at("COMMIT")
        with pytest.raises(DBAPIError):
            self.unit.commit()
        self.fail_at("")

    def undo_in_vain(self) -> None:
        self.fail_at("BACK-TO")
        self.leave(LookupError())
        self.fail_at("")

    @property
    def then(self) -> str:
        if self.unit.session.record.is_lost:
            return "lost"
        if self.unit.has_work:
            return "work"
        return "open" if self.unit.session.in_transaction() else "-"


MEANINGS: Mapping[str, Callable[[Machine], object]] = {
    "nothing": lambda machine: None,
    "read": lambda machine: machine.unit.session.scalars(select(Thing)).all(),
    "added": Machine.add,
    "sent": Machine.send,
    "hook": Machine.hook,
    "marked": Machine.mark,
    "commit": lambda machine: machine.unit.commit(),
    "failed-commit": Machine.commit_in_vain,
    "]lost": Machine.undo_in_vain,
    "rollback": lambda machine: machine.unit.rollback(),
    "fail": lambda machine: machine.unit.fail(LookupError()),
    "release": lambda machine: machine.unit.release(warn=False),
    "release-kill": lambda machine: machine.unit.release(KeyboardInterrupt(), warn=False),
    "respond": lambda machine: machine.unit.respond(streaming=False),
    "stream": lambda machine: machine.unit.respond(streaming=True),
    "end": lambda machine: machine.unit.end(warn=False),
    "end-kill": lambda machine: machine.unit.end(KeyboardInterrupt(), warn=False),
    "{": lambda machine: machine.unit.begin_block(commits=True),
    "[": lambda machine: machine.unit.begin_block(commits=False),
    "]": Machine.leave,
    "]error": lambda machine: machine.leave(LookupError()),
    "]kill": lambda machine: machine.leave(KeyboardInterrupt()),
}


def in_short(words: list[str]) -> str:
    runs = [(word, len(list(same))) for word, same in itertools.groupby(words)]
    return " ".join(word if times == 1 else f"{word} x{times}" for word, times in runs) or "-"


@pytest.mark.parametrize(
    ("state", "call", "sends", "hooks", "error", "then", "phase"),
    [pytest.param(*row, id=f"{row[0]} -> {row[1]}") for row in ROWS],
)
def test_what_each_call_does_in_each_state(
    state: str, call: str, sends: str, hooks: str, error: str, then: str, phase: str
) -> None:
    """One row of the table."""
    machine = Machine()
    machine.do(state)
    machine.driver.sent.clear()
    machine.ran.clear()
    call, _, failure = call.partition("; ")
    machine.fail_at(FAILURES.get(failure, ""))
    with pytest.raises(ERRORS[error]) if error != "-" else contextlib.nullcontext():
        machine.do(call)
    seen = in_short(machine.driver.sent), " ".join(machine.ran) or "-"
    state_after = machine.then, machine.unit.phase.name.lower()
    machine.fail_at("")
    machine.unit.end(warn=False)
    assert (*seen, *state_after) == (sends, hooks, then, phase)


def test_no_row_is_there_twice() -> None:
    """A second one with another answer would never be missed."""
    assert len({(state, call) for state, call, *_ in ROWS}) == len(ROWS)
