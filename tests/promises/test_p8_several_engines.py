"""A unit of work that spans engines: flushed first, then committed in the declared order."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flask_uow import Database, PartialCommit, testing
from tests.conftest import MakeApp
from tests.support.databases import TestDatabase
from tests.support.engines import checked_out
from tests.support.recording import record
from tests.support.witness import Witness


class Base(DeclarativeBase):
    pass


class Order(Base):
    """On the default engine."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str] = mapped_column(String(50))


class Audit(Base):
    """On an engine that the class names."""

    __tablename__ = "audit"
    __bind_key__ = "audit"

    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str] = mapped_column(String(50), unique=True)


class StatsBase(DeclarativeBase):
    metadata = MetaData(info={"bind_key": "stats"})


class Hit(StatsBase):
    """On an engine that its metadata names."""

    __tablename__ = "hits"

    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str] = mapped_column(String(50))


mails = Table(
    "mails",
    Base.metadata,
    Column("id", Integer, primary_key=True),
    Column("note", String(50)),
    info={"bind_key": "mail"},
)
"""On an engine that the table names."""

# Not in the order of their names, nor in that of their tables.
DECLARED = ("default", "stats", "mail", "audit")


class Witnesses:
    """One witness for each engine."""

    def __init__(self, urls: dict[str, str]) -> None:
        self.by_name = {name: Witness(url) for name, url in urls.items()}

    def notes(self) -> dict[str, list[str]]:
        """What is stored, by engine; empty tables are left out."""
        tables = {"default": "orders", "stats": "hits", "mail": "mails", "audit": "audit"}
        found = {
            name: witness.ask(f"SELECT note FROM {tables[name]} ORDER BY id")
            for name, witness in self.by_name.items()
        }
        return {name: notes for name, notes in found.items() if notes}


def everywhere(note: str) -> dict[str, list[str]]:
    """What :meth:`Witnesses.notes` says if *note* is the only row on each engine."""
    return {name: [note] for name in DECLARED}


@pytest.fixture
def urls(database: TestDatabase, tmp_path: Path) -> dict[str, str]:
    """Four engines: the test's database and three files beside it."""
    files = {name: f"sqlite:///{tmp_path / name}.db" for name in DECLARED[1:]}
    return {"default": database.url, **files}


@pytest.fixture
def db() -> Database:
    return Database(Base, StatsBase)


@pytest.fixture
def app(make_app: MakeApp, urls: dict[str, str]) -> Flask:
    return make_app(SQLALCHEMY_BINDS={name: urls[name] for name in DECLARED[1:]})


@pytest.fixture
def stored(urls: dict[str, str]) -> Witnesses:
    return Witnesses(urls)


def write_everywhere(db: Database, note: str) -> None:
    """Add to all engines, in an order that is not the declared one."""
    db.session.execute(insert(mails), {"note": note})
    db.session.add(Audit(note=note))
    db.session.add(Order(note=note))
    db.session.add(Hit(note=note))


@pytest.fixture(autouse=True)
def view(app: Flask, db: Database) -> None:
    """``POST /<note>`` writes to every engine."""

    @app.post("/<note>")
    def create(note: str) -> str:
        write_everywhere(db, note)
        if note == "bad":
            db.session.flush()
            raise LookupError
        return ""


def test_every_table_lands_on_its_engine(client: FlaskClient, stored: Witnesses) -> None:
    """``__bind_key__``, ``metadata.info`` and ``Table(info=...)`` are three ways to say it."""
    assert client.post("/first").status_code == 200
    assert stored.notes() == everywhere("first")
    assert checked_out() == 0


def test_models_are_read_from_their_engine(
    app: Flask, db: Database, client: FlaskClient, stored: Witnesses
) -> None:
    """One session reads from all of them, by class and by table."""
    client.post("/first")
    with app.app_context():
        for entity in (Order.note, Audit.note, Hit.note, mails.c.note):
            assert db.session.scalars(select(entity)).all() == ["first"]


def test_error_is_rolled_back_everywhere(client: FlaskClient, stored: Witnesses) -> None:
    """A view that fails leaves nothing on any engine."""
    assert client.post("/bad").status_code == 500
    assert stored.notes() == {}
    assert checked_out() == 0


@pytest.fixture
def log(app: Flask, db: Database) -> list[str]:
    """What happens on all engines, as a word and the name of the engine."""
    log: list[str] = []
    with app.app_context():
        for name in DECLARED:
            record(db.engines[name], partial(note, log, name))
    return log


def note(log: list[str], name: str, word: str) -> None:
    log.append(f"{word} {name}")


IN_ORDER = [f"COMMIT {name}" for name in DECLARED]


def test_engines_commit_in_their_declared_order(client: FlaskClient, log: list[str]) -> None:
    """The default first, then as the config lists them; not in the order of their first use."""
    assert client.post("/first").status_code == 200
    assert [entry for entry in log if "COMMIT" in entry] == IN_ORDER


def test_all_engines_are_flushed_before_the_first_commits(
    client: FlaskClient, log: list[str]
) -> None:
    """So that a constraint on any of them can still stop them all."""
    assert client.post("/first").status_code == 200
    inserts = [place for place, entry in enumerate(log) if "INSERT" in entry]
    assert len(inserts) == len(DECLARED)
    assert max(inserts) < log.index(IN_ORDER[0])


def test_explicit_commit_has_the_same_order(app: Flask, db: Database, log: list[str]) -> None:
    """``db.session.commit()`` does what the automatic one does."""
    with app.app_context():
        write_everywhere(db, "first")
        db.session.commit()
    assert [entry for entry in log if "COMMIT" in entry] == IN_ORDER


def test_failing_flush_commits_no_engine(
    app: Flask, client: FlaskClient, stored: Witnesses
) -> None:
    """A constraint on the last engine is found before the first one commits."""
    app.register_error_handler(IntegrityError, lambda error: ("taken", 409))
    stored.by_name["audit"].store(Audit(note="first"))
    assert client.post("/first").status_code == 409
    assert stored.notes() == {"audit": ["first"]}
    assert checked_out() == 0


def test_first_commit_that_fails_is_the_error_itself(
    app: Flask, db: Database, client: FlaskClient, stored: Witnesses
) -> None:
    """Nothing was stored, so there is nothing partial about it."""
    app.register_error_handler(IntegrityError, lambda error: (str(error.orig), 409))
    with testing.fail_commit(db, engine="default", app=app):
        response = client.post("/first")
    assert response.status_code == 409
    assert "on_demand" in response.text
    assert stored.notes() == {}
    assert checked_out() == 0
    assert client.post("/second").status_code == 200
    assert stored.notes() == everywhere("second")


@pytest.mark.fault(
    "C14",
    fault="The second of two engines fails to commit",
    then="PartialCommit names the engine that has committed",
)
def test_later_commit_that_fails_says_which_engines_did_commit(
    app: Flask, db: Database, client: FlaskClient, stored: Witnesses
) -> None:
    """The error names the committed, the failed and those that were rolled back."""
    handled: list[PartialCommit] = []

    @app.errorhandler(PartialCommit)
    def handle(error: PartialCommit) -> tuple[str, int]:
        handled.append(error)
        return str(error), 500

    with testing.fail_commit(db, engine="mail", app=app):
        response = client.post("/first")
    assert response.status_code == 500
    [error] = handled
    assert error.committed == ["default", "stats"]
    assert error.failed == "mail"
    assert error.rolled_back == ["audit"]
    assert isinstance(error.__cause__, IntegrityError)
    for name in DECLARED:
        assert repr(name) in response.text
    assert stored.notes() == {"default": ["first"], "stats": ["first"]}
    assert checked_out() == 0
    assert client.post("/second").status_code == 200


def test_handler_of_a_partial_commit_can_write(
    app: Flask, db: Database, client: FlaskClient, stored: Witnesses
) -> None:
    """It has a clean session on all engines, and its note is stored."""

    @app.errorhandler(PartialCommit)
    def handle(error: PartialCommit) -> tuple[str, int]:
        db.session.add(Order(note=f"repair {error.failed}"))
        return "", 500

    with testing.fail_commit(db, engine="stats", app=app):
        client.post("/first")
    assert stored.notes() == {"default": ["first", "repair stats"]}


def test_engine_that_was_not_used_takes_no_part(
    app: Flask, db: Database, client: FlaskClient
) -> None:
    """Only engines with a transaction are asked to commit."""

    @app.post("/one/<note>")
    def one(note: str) -> str:
        db.session.add(Audit(note=note))
        return ""

    for name in DECLARED:
        failure = testing.fail_commit(db, engine=name, app=app, required=name == "audit")
        with failure:
            client.post(f"/one/{name}")
        assert failure.hits == (name == "audit")


def test_objects_of_all_engines_stay_readable_after_the_automatic_commit(
    app: Flask, db: Database, client: FlaskClient
) -> None:
    """They are not expired, whichever way the commit went."""
    made: list[Order | Audit | Hit] = []

    @app.after_request
    def after(response: object) -> object:
        with db.session.no_autoflush:
            assert [one.__dict__.get("note") for one in made] == ["made"] * 3
        return response

    @app.post("/made")
    def make() -> str:
        made.extend([Order(note="made"), Audit(note="made"), Hit(note="made")])
        db.session.add_all(made)
        return ""

    assert client.post("/made").status_code == 200
    assert len(made) == 3


@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit])
def test_base_exception_in_a_later_commit_gives_all_connections_back(
    signal: type[BaseException],
    app: Flask,
    db: Database,
    client: FlaskClient,
    stored: Witnesses,
) -> None:
    """What was committed stays, the rest is undone, and no connection is kept."""
    with testing.fail_commit(db, signal(), engine="mail", app=app), pytest.raises(signal):
        client.post("/first")
    assert stored.notes() == {"default": ["first"], "stats": ["first"]}
    assert checked_out() == 0


@pytest.mark.parametrize("repetition", range(8))
def test_connection_without_its_transaction_lets_none_commit(
    repetition: int, app: Flask, db: Database, client: FlaskClient
) -> None:
    """A ``rollback()`` of one connection by hand: nothing of the others is stored."""

    @app.post("/half")
    def half() -> str:
        db.session.add(Audit(note="half"))
        db.session.flush()
        db.session.connection().rollback()
        return ""

    assert client.post("/half").status_code == 500
    with app.app_context():
        assert db.session.scalars(select(Audit)).all() == []
