"""Random programs, run in production and in isolation: both must end alike.

Hypothesis makes a list of requests. Each writes in several ways: to its unit, in ``db.atomic()``
blocks, by ``db.independent()``, on a connection of its own; and ends in success, with an error
status or with an exception. The program is run once as it stands, and once in isolation; the
statuses and the rows must be the same, and the rows of ``independent()`` have the keys that the
code has seen.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Union

import pytest
from flask import Flask, abort
from hypothesis import HealthCheck, assume, given, settings, strategies
from sqlalchemy import delete, func, insert, select
from sqlalchemy.exc import OperationalError

from flask_uow import Database, Rollback, testing
from tests.conftest import MakeApp
from tests.support.databases import TestDatabase, concurrently
from tests.support.models import User

pytestmark = pytest.mark.slow

Step = Union[Literal["add", "flush", "read", "core", "independent", "commit", "duplicate"], "Block"]
Ending = Literal["return", "abort", "raise", "only"]


@dataclass(frozen=True)
class Block:
    """A ``db.atomic()`` block in a request.

    :ivar ending: whether it is left by ``Rollback`` or by an error that the view catches.
    """

    steps: tuple[Step, ...]
    ending: Literal["return", "rollback", "error"]


@dataclass(frozen=True)
class View:
    """One request."""

    steps: tuple[Step, ...]
    ending: Ending


@pytest.fixture
def app(make_app: MakeApp, database: TestDatabase) -> Flask:
    """On MariaDB, a wait for a lock is over soon."""
    short = {"init_command": "SET innodb_lock_wait_timeout = 1"}
    options = {"connect_args": short} if database.name == "mariadb" else {}
    return make_app(SQLALCHEMY_ENGINE_OPTIONS=options)


def programs() -> strategies.SearchStrategy[list[View]]:
    simple = strategies.sampled_from(
        ["add", "add", "flush", "read", "core", "independent", "duplicate"]
    )
    blocks = strategies.builds(
        Block,
        steps=strategies.lists(simple, max_size=4).map(tuple),
        ending=strategies.sampled_from(["return", "return", "rollback", "error"]),
    )
    step = strategies.one_of(simple, simple, blocks, strategies.just("commit"))
    views = strategies.builds(
        View,
        steps=strategies.lists(step, max_size=6).map(tuple),
        ending=strategies.sampled_from(["return", "return", "abort", "raise", "only"]),
    )
    return strategies.lists(views, min_size=1, max_size=4)


class Runner:
    """Runs programs on one app, and collects what a user would see of them."""

    def __init__(self, app: Flask, db: Database) -> None:
        self.db = db
        self.program: list[View] = []
        self.number = 0
        self.keys: list[tuple[int, str]] = []
        """The keys that code has seen of rows that ``independent()`` has stored."""
        self.has_waited = False
        """InnoDB locks gaps, and 'independent()' can wait for one of its own unit for ever."""
        app.register_error_handler(OperationalError, self.give_up)
        app.add_url_rule("/<int:number>", view_func=self.view, methods=["POST"])
        self.app = app

    def run(self, program: list[View]) -> list[object]:
        """Run the requests one after the other, and return what each of them has shown."""
        self.program, self.number, self.keys = program, 0, []
        self.has_waited = False
        client = self.app.test_client()
        seen: list[object] = []
        for number in range(len(program)):
            seen.append(client.post(f"/{number}").status_code)
            with self.app.app_context():
                rows = {user.id: user.name for user in self.db.session.scalars(select(User))}
                seen.append(sorted(rows.values()))
            seen.append([rows.get(key) == name for key, name in self.keys])
        return seen

    def view(self, number: int) -> str:
        view = self.program[number]
        self.take(view.steps)
        if view.ending == "abort":
            abort(400)
        if view.ending == "raise":
            raise ZeroDivisionError
        if view.ending == "only":
            self.db.set_rollback_only()
        return ""

    def give_up(self, _: Exception) -> tuple[str, int]:
        self.has_waited = True
        return "", 500

    def take(self, steps: tuple[Step, ...]) -> None:
        for step in steps:
            if isinstance(step, Block):
                with suppress(ZeroDivisionError), self.db.atomic():
                    self.take(step.steps)
                    if step.ending == "rollback":
                        raise Rollback
                    if step.ending == "error":
                        raise ZeroDivisionError
            else:
                do: Callable[[], Any] = getattr(self, step)
                do()

    def new(self) -> User:
        self.number += 1
        return User(name=f"name-{self.number}")

    def add(self) -> None:
        self.db.session.add(self.new())

    def flush(self) -> None:
        self.db.session.flush()

    def commit(self) -> None:
        self.db.session.commit()

    def read(self) -> None:
        self.db.session.scalar(select(func.count()).select_from(User))

    def core(self) -> None:
        self.db.session.execute(insert(User).values(name=self.new().name))

    def independent(self) -> None:
        with self.db.independent() as session:
            user = self.new()
            session.add(user)
            session.flush()
            key, name = user.id, user.name
        with self.app.app_context():
            found = self.db.session.scalar(select(User.name).where(User.id == key))
            assert found == name
        self.keys.append((key, name))

    def duplicate(self) -> None:
        if self.db.engine.dialect.name not in {"postgresql", "sqlite"}:
            return  # InnoDB locks the gap, for which 'independent()' would wait
        self.db.session.flush()
        with suppress(Exception), self.db.session.begin_nested():
            name = self.new().name
            self.db.session.execute(insert(User).values(name=name))
            self.db.session.execute(insert(User).values(name=name))


@concurrently
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(program=programs())
def test_a_program_ends_alike_in_isolation(app: Flask, db: Database, program: list[View]) -> None:
    """The production of the same machine is the oracle."""
    if "runner" not in app.extensions:
        app.extensions["runner"] = Runner(app, db)
    runner: Runner = app.extensions["runner"]

    def empty() -> None:
        with app.app_context(), db.atomic():
            db.session.execute(delete(User))

    empty()
    with testing.isolated(db, app=app):
        in_isolation = runner.run(program)
    with app.app_context():
        assert db.session.scalars(select(User)).all() == []
    in_production = runner.run(program)
    empty()
    assume(not runner.has_waited)
    assert in_isolation == in_production
