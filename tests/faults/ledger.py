"""A small ledger that is easily proved wrong: what random runs and kill loops write to.

A transfer moves money between two accounts. Its two postings sum to zero, and the balance of an
account is the sum of its postings. A half-stored unit, a lost update and a unit that is stored
twice all show in :func:`differences`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

from sqlalchemy import ForeignKey, String, insert, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flask_uow import Database, Flask
from tests.support.witness import Witness

ACCOUNTS = 6

Step: TypeAlias = Callable[[], None]


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    balance: Mapped[int] = mapped_column(default=0)


class Transfer(Base):
    """The token is what the client knows; that it is stored once is not for a constraint to say."""

    __tablename__ = "transfers"

    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(String(64))


class Posting(Base):
    __tablename__ = "postings"

    id: Mapped[int] = mapped_column(primary_key=True)
    transfer_id: Mapped[int] = mapped_column(ForeignKey("transfers.id"))
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"))
    amount: Mapped[int]


def make_app(url: str, **config: Any) -> tuple[Flask, Database]:
    """An app with one view, ``POST /transfers/<token>``, on the tables of :func:`prepare`."""
    app, db = Flask("ledger"), Database(Base)
    app.config.update(SQLALCHEMY_DATABASE_URI=url, **config)
    app.register_extension(db)

    @app.post("/transfers/<token>")
    def create(token: str) -> tuple[str, int]:
        transfer(db, token)
        return token, 201

    return app, db


def prepare(url: str) -> Witness:
    """Create the tables and the accounts in an empty database; a witness of what follows."""
    witness = Witness(url)
    Base.metadata.create_all(witness.engine)
    witness.store(*[Account(id=number, balance=0) for number in range(ACCOUNTS)])
    return witness


def transfer(db: Database, token: str) -> None:
    """Read two balances, change them, and write down why; in the order that avoids deadlocks."""
    for step in steps(db, token):
        step()


def steps(db: Database, token: str, *, ordered: bool = True, orm: bool = True) -> list[Step]:
    """The work of :func:`transfer`, one thing after the other.

    :param ordered: lock the accounts in the order of their numbers.
    :param orm: change objects and flush; else send the statements.
    """
    numbers = random.sample(range(ACCOUNTS), 2)
    amount = random.randint(1, 100)
    amounts = dict(zip(numbers, [amount, -amount], strict=True))
    made = _make_with_objects if orm else _make_with_statements
    create, move, note = made(db, token)
    work: list[Step] = [create]
    for number in sorted(numbers) if ordered else numbers:
        work += [partial(move, number, amounts[number]), partial(note, number, amounts[number])]
    return work


Change: TypeAlias = Callable[[int, int], None]


def _make_with_objects(db: Database, token: str) -> tuple[Step, Change, Change]:
    done = Transfer(token=token)

    def create() -> None:
        db.session.add(done)
        db.session.flush()

    def move(number: int, amount: int) -> None:
        db.session.get_one(Account, number, with_for_update=True).balance += amount
        db.session.flush()

    def note(number: int, amount: int) -> None:
        db.session.add(Posting(transfer_id=done.id, account_id=number, amount=amount))
        db.session.flush()

    return create, move, note


def _make_with_statements(db: Database, token: str) -> tuple[Step, Change, Change]:
    execute, mine = db.session.execute, select(Transfer.id).where(Transfer.token == token)

    def create() -> None:
        execute(insert(Transfer), {"token": token})

    def move(number: int, amount: int) -> None:
        one = Account.id == number
        balance = execute(select(Account.balance).where(one).with_for_update()).scalar_one()
        execute(update(Account).where(one).values(balance=balance + amount))

    def note(number: int, amount: int) -> None:
        row = {"transfer_id": mine.scalar_subquery(), "account_id": number, "amount": amount}
        execute(insert(Posting).values(row))

    return create, move, note


def make_unit(url: str) -> Callable[[str], None]:
    """For ``kill_at_random()``: stores a transfer through a request."""
    app, _ = make_app(url)
    client = app.test_client()

    def unit(token: str) -> None:
        answer = client.post(f"/transfers/{token}")
        if answer.status_code != 201:
            raise RuntimeError(f"{answer.status} {answer.text}")

    return unit


def tokens(witness: Witness) -> list[str]:
    """The token of each stored transfer, for ``History.check()``."""
    return witness.ask("SELECT token FROM transfers")


def differences(witness: Witness) -> list[str]:
    """What does not add up, a sentence each."""
    return list(_differences(witness))


_AUDIT = {
    "The transfer {} has {} postings, which sum to {}.": (
        "SELECT transfers.id, count(postings.id), coalesce(sum(amount), 0) FROM transfers"
        " LEFT JOIN postings ON postings.transfer_id = transfers.id GROUP BY transfers.id"
        " HAVING count(postings.id) <> 2 OR coalesce(sum(amount), 0) <> 0"
    ),
    "The balance of the account {} is {}, and its postings sum to {}.": (
        "SELECT accounts.id, min(balance), coalesce(sum(amount), 0) FROM accounts"
        " LEFT JOIN postings ON postings.account_id = accounts.id GROUP BY accounts.id"
        " HAVING min(balance) <> coalesce(sum(amount), 0)"
    ),
}


def _differences(witness: Witness) -> Iterator[str]:
    for sentence, query in _AUDIT.items():
        for row in witness.ask(query):
            yield sentence.format(*row)
