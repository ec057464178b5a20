"""An outbox: messages that are stored with the work, and sent by a worker."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from flask_uow import Database
from tests.support.databases import TestDatabase
from tests.support.recipes import Recipe
from tests.support.witness import Witness


class Receiver:
    """What is sent, and when it fails.

    :ivar during: is called while a message is sent.
    """

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.woken = 0
        self.during: Any = lambda: None

    def send(self, number: int, body: dict[str, str]) -> None:
        if body["to"] == "nowhere":
            raise ConnectionError
        self.during()
        self.sent.append(body["to"])

    def wake(self) -> None:
        self.woken += 1


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def shop(recipe: Recipe, receiver: Receiver, app: Flask, models: Any, db: Database) -> Any:
    names = recipe("Outbox", send=receiver.send, wake_worker=receiver.wake)

    @app.post("/<to>/<int:status>")
    def order(to: str, status: int) -> tuple[str, int]:
        names.send_later(to=to)
        db.session.flush()
        return "", status

    return names


def run(app: Flask) -> None:
    result = app.test_cli_runner().invoke(args=["send-messages"])
    assert result.exit_code == 0, result.output


def test_a_message_is_sent_if_the_work_is_stored(
    shop: Any, receiver: Receiver, app: Flask, witness: Witness
) -> None:
    """Once; and the worker is woken after the commit only."""
    client = app.test_client()
    client.post("/ada/400")
    assert receiver.woken == 0
    client.post("/bob/200")
    assert receiver.woken == 1
    run(app)
    run(app)
    assert receiver.sent == ["bob"]
    assert witness.ask("SELECT id FROM outbox") == []


def test_a_message_that_cannot_be_sent_waits(
    shop: Any, receiver: Receiver, app: Flask, witness: Witness
) -> None:
    """The others are sent; it is due again later."""
    client = app.test_client()
    for name in ("nowhere", "ada"):
        client.post(f"/{name}/200")
    run(app)
    assert receiver.sent == ["ada"]
    assert witness.ask("SELECT count(*) FROM outbox") == [1]
    with witness.engine.begin() as connection:
        connection.execute(text("UPDATE outbox SET due = 0"))
        connection.execute(text("DELETE FROM outbox"))


def test_a_worker_that_is_killed_leaves_the_message(
    shop: Any, receiver: Receiver, app: Flask, witness: Witness
) -> None:
    """It is sent again."""

    def die() -> None:
        receiver.during = lambda: None
        raise KeyboardInterrupt

    app.test_client().post("/ada/200")
    receiver.during = die
    with app.app_context(), pytest.raises(KeyboardInterrupt):
        shop.send_next()
    assert witness.ask("SELECT count(*) FROM outbox") == [1]
    run(app)
    assert receiver.sent == ["ada"]


def test_two_workers_take_different_messages(
    shop: Any, receiver: Receiver, app: Flask, database: TestDatabase, witness: Witness
) -> None:
    """On PostgreSQL at the same time; on SQLite one after the other."""
    client = app.test_client()
    for name in ("ada", "bob"):
        client.post(f"/{name}/200")
    together = threading.Barrier(2 if not database.is_sqlite else 1)
    receiver.during = lambda: together.wait(5)

    def work() -> None:
        with app.app_context():
            shop.send_next()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(receiver.sent) == ["ada", "bob"]
    assert witness.ask("SELECT id FROM outbox") == []
