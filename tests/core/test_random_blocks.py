"""Random trees of blocks, against a model of them in plain Python.

Hypothesis makes a tree of blocks up to four deep, of writes, reads, hooks and failures. It is run
as a command (the outermost ``db.atomic()`` is the unit) or as a request, and by a model that has
nothing but two lists. The same rows must be stored, the same hooks have run, in the same order, and
the same error have come out.

The default run always tries the same trees. ``-m stress`` tries many others and prints how to
repeat one that fails.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Union

import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings, strategies
from sqlalchemy import delete, insert, select
from sqlalchemy.exc import IntegrityError

from flask_uow import Database, Rollback
from tests.support.databases import on
from tests.support.engines import checked_out
from tests.support.models import User
from tests.support.witness import Witness

pytestmark = pytest.mark.slow

Action = Literal[
    "add", "flush", "insert", "read", "hooks", "mark", "fail", "duplicate", "undo", "undo outer"
]
TAKEN = "taken"  # the name of a user that is there before


@dataclass(frozen=True)
class Block:
    """
    :ivar kind: ``db.atomic()``, or SQLAlchemy's own ``begin_nested()``.
    :ivar duplicate_at_end: its last line adds an object that its end cannot store.
    :ivar caught: the lines around it go on behind an error.
    """

    kind: Literal["atomic", "begin_nested"]
    steps: tuple[Union[Action, Block], ...]
    duplicate_at_end: bool
    caught: bool


def blocks(depth: int) -> strategies.SearchStrategy[Block]:
    quiet: list[Action] = ["add", "flush", "insert", "read", "hooks"]
    loud: list[Action] = ["mark", "fail", "duplicate", "undo", "undo outer"]
    actions = strategies.sampled_from([*quiet * 4, *loud])
    step = strategies.one_of(actions, actions, blocks(depth - 1)) if depth > 1 else actions
    return strategies.builds(
        Block,
        kind=strategies.sampled_from(["atomic", "atomic", "atomic", "begin_nested"]),
        steps=strategies.lists(step, max_size=5).map(tuple),
        duplicate_at_end=strategies.sampled_from([False] * 7 + [True]),
        caught=strategies.sampled_from([True, True, False]),
    )


# What should happen ---------------------------------------------------------------------------


class Failed(Exception):
    """An error leaves a block."""


class Undone(Exception):
    """A ``Rollback`` on its way to the block of this depth; None if there is none."""

    def __init__(self, depth: int | None) -> None:
        self.depth = depth


class Model:
    """Two lists, cut back to what they were where a block is undone.

    :ivar stored: the rows that are stored.
    :ivar ran: the hooks that have run.
    """

    def __init__(self) -> None:
        self.stored: list[str] = []
        self.ran: list[str] = []
        self._rows: list[str] = []
        self._hooks: list[int] = []
        self._marked: list[bool] = []  # of each ``atomic`` block that is open
        self._unit_marked = False
        self._numbers = itertools.count(1)

    def command(self, root: Block) -> None:
        try:
            self._block(root)
        except Failed:
            return
        self._store()

    def request(self, root: Block) -> bool:
        """Does it answer with 200?"""
        try:
            self._steps(root)
            if root.duplicate_at_end and not self._unit_marked:
                raise Failed
        except (Failed, Undone):
            self._undo_to(0, 0)
            return False
        if self._unit_marked:
            self._undo_to(0, 0)
        self._store()
        return True

    def _store(self) -> None:
        self.stored = self._rows
        self.ran += [f"+{number}" for number in self._hooks]

    def _undo_to(self, rows: int, hooks: int) -> None:
        self.ran += [f"-{number}" for number in self._hooks[hooks:]]
        del self._rows[rows:]
        del self._hooks[hooks:]

    def _block(self, block: Block) -> None:
        before = len(self._rows), len(self._hooks)
        is_ours = block.kind == "atomic"
        depth = len(self._marked)
        if is_ours:
            self._marked.append(False)
        try:
            self._steps(block)
            if is_ours and self._marked[-1]:
                raise Undone(depth)
            if block.duplicate_at_end:
                raise Failed
        except (Failed, Undone) as error:
            self._undo_to(*before)
            caught = block.caught and isinstance(error, Failed)
            if not caught and not (is_ours and isinstance(error, Undone) and error.depth == depth):
                raise
        finally:
            if is_ours:
                self._marked.pop()

    def _steps(self, block: Block) -> None:
        for step in block.steps:
            if isinstance(step, Block):
                self._block(step)
            else:
                self._act(step)

    def _act(self, action: Action) -> None:
        if action in {"add", "insert"}:
            self._rows.append(f"row {next(self._numbers)}")
        elif action == "hooks":
            self._hooks.append(next(self._numbers))
        elif action == "mark":
            if self._marked:
                self._marked[-1] = True
            else:
                self._unit_marked = True
        elif action in {"fail", "duplicate"}:
            raise Failed
        elif action in {"undo", "undo outer"}:
            wanted = len(self._marked) - (2 if action == "undo outer" else 1)
            depth = wanted if wanted >= 0 else len(self._marked) - 1
            raise Undone(depth if depth >= 0 else None)


# What does happen -----------------------------------------------------------------------------


class Run:
    """The same with ``db``.

    :ivar ran: the hooks that have run.
    """

    def __init__(self, db: Database) -> None:
        self.ran: list[str] = []
        self._db = db
        self._open: list[Any] = []
        self._numbers = itertools.count(1)

    def block(self, block: Block) -> None:
        try:
            with self._entered(block.kind):
                self.steps(block)
        except (LookupError, IntegrityError):
            if not block.caught:
                raise

    @contextmanager
    def _entered(self, kind: str) -> Iterator[None]:
        if kind == "begin_nested":
            with self._db.session.begin_nested():
                yield
            return
        block = self._db.atomic()
        self._open.append(block)
        try:
            with block:
                yield
        finally:
            self._open.pop()

    def steps(self, block: Block) -> None:
        for step in block.steps:
            if isinstance(step, Block):
                self.block(step)
            else:
                self._act(step)
        if block.duplicate_at_end:
            self._db.session.add(User(name=TAKEN))

    def _act(self, action: Action) -> None:
        session = self._db.session
        if action == "add":
            session.add(User(name=f"row {next(self._numbers)}"))
        elif action == "insert":
            session.execute(insert(User), {"name": f"row {next(self._numbers)}"})
        elif action == "flush":
            session.flush()
        elif action == "read":
            session.scalars(select(User)).all()
        elif action == "hooks":
            number = next(self._numbers)
            self._db.on_commit(self.ran.append, f"+{number}")
            self._db.on_rollback(self.ran.append, f"-{number}")
        elif action == "mark":
            self._db.set_rollback_only()
        elif action == "fail":
            raise LookupError
        elif action == "duplicate":
            session.add(User(name=TAKEN))
            session.flush()
        elif action == "undo outer" and len(self._open) > 1:
            raise Rollback(self._open[-2])
        else:
            raise Rollback


def check_command(root: Block, app: Flask, db: Database, witness: Witness) -> None:
    model, run = Model(), Run(db)
    root = Block("atomic", root.steps, root.duplicate_at_end, root.caught)
    model.command(root)
    with app.app_context():
        try:
            run.block(root)
        except (LookupError, IntegrityError):
            assert not root.caught
    compare(model, run, witness)


def check_request(root: Block, app: Flask, db: Database, witness: Witness) -> None:
    model, run = Model(), Run(db)
    root = Block("begin_nested", root.steps, root.duplicate_at_end, caught=False)
    answered = model.request(root)

    def view() -> str:
        run.steps(root)
        return ""

    app.view_functions["view"] = view
    assert app.test_client().post("/").status_code == (200 if answered else 500)
    compare(model, run, witness)


def compare(model: Model, run: Run, witness: Witness) -> None:
    try:
        assert checked_out() == 0
        assert run.ran == model.ran
        assert sorted(witness.names()) == sorted([TAKEN, *model.stored])
    finally:
        with witness.engine.begin() as connection:
            connection.execute(delete(User).where(User.name != TAKEN))


@pytest.fixture
def app(app: Flask, witness: Witness) -> Flask:
    witness.store(User(name=TAKEN))
    app.add_url_rule("/", "view", lambda: "", methods=["POST"])
    return app


CHECKS = pytest.mark.parametrize("check", [check_command, check_request])
SETTINGS: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


@on("sqlite-memory")
@CHECKS
@given(root=blocks(4))
@settings(max_examples=80, derandomize=True, **SETTINGS)
def test_random_trees_of_blocks(
    root: Block, check: Any, app: Flask, db: Database, witness: Witness
) -> None:
    """As the model says."""
    check(root, app, db, witness)


@on("sqlite-file")
@CHECKS
@given(root=blocks(4))
@settings(max_examples=15, derandomize=True, **SETTINGS)
def test_random_trees_of_blocks_in_a_file(
    root: Block, check: Any, app: Flask, db: Database, witness: Witness
) -> None:
    """With a pool, and the queue of writers."""
    check(root, app, db, witness)


@pytest.mark.stress
@on("sqlite-memory", "sqlite-file", "postgresql", "mariadb")
@CHECKS
@given(root=blocks(4))
@settings(max_examples=300, print_blob=True, **SETTINGS)
def test_many_random_trees_of_blocks(
    root: Block, check: Any, app: Flask, db: Database, witness: Witness
) -> None:
    """Other ones each time, on every database."""
    check(root, app, db, witness)
