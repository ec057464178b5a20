"""P4: a mapper event of the app refuses an object, and the error handler starts clean."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient
from sqlalchemy import String, TypeDecorator, event, select
from sqlalchemy.exc import DontWrapMixin, PendingRollbackError, StatementError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flask_uow import Database
from tests.promises.test_p4_retries import conflict
from tests.support.databases import TestDatabase, anywhere
from tests.support.faults import Faults
from tests.support.models import Post, User
from tests.support.witness import Witness


class Invalid(Exception):
    """The app refuses to store an object."""


class Unbindable(ValueError, DontWrapMixin):
    """An error that SQLAlchemy does not wrap."""


@pytest.fixture(autouse=True)
def refusing() -> Iterator[None]:
    """The name "bad" is refused by events of the mapper, before any SQL is sent for it."""

    def refuse(_mapper: object, _connection: object, user: User) -> None:
        if user.name == "bad":
            raise Invalid("bad")

    names = ("before_insert", "before_update", "before_delete")
    for name in names:
        event.listen(User, name, refuse)
    yield
    for name in names:
        event.remove(User, name, refuse)


@pytest.fixture
def handled(app: Flask, db: Database) -> Flask:
    """The app has a handler that reads and writes."""

    @app.errorhandler(Invalid)
    def handle(error: Exception) -> tuple[str, int]:
        names = ",".join(db.session.scalars(select(User.name).order_by(User.id)))
        db.session.add(Post(title="refused"))
        return names, 409

    return app


def _add(db: Database) -> None:
    db.session.add(User(name="bad"))


def _insert(db: Database) -> None:
    _add(db)
    db.session.flush()


def _insert_good_and_bad(db: Database) -> None:
    db.session.add(User(name="good"))
    db.session.flush()
    _insert(db)


def _update(db: Database) -> None:
    db.session.scalars(select(User)).one().name = "bad"
    db.session.flush()


def _delete(db: Database) -> None:
    user = db.session.scalars(select(User)).one()
    with db.session.no_autoflush:
        user.name = "bad"
        db.session.delete(user)
    db.session.flush()


def _autoflush(db: Database) -> None:
    _add(db)
    db.session.scalars(select(User)).all()


def _in_a_block(db: Database) -> None:
    with db.atomic():
        _add(db)


def _in_a_savepoint(db: Database) -> None:
    db.session.scalars(select(User)).all()
    with db.atomic(), db.atomic():
        _add(db)


def _in_a_savepoint_by_hand(db: Database) -> None:
    with db.session.begin_nested():
        _add(db)


_WAYS = [
    _add,
    _insert,
    _update,
    _delete,
    _autoflush,
    _in_a_block,
    _in_a_savepoint,
    _in_a_savepoint_by_hand,
    _insert_good_and_bad,
]


@pytest.mark.parametrize("way", _WAYS)
def test_error_handler_reads_and_writes_after_a_refused_flush(
    way: Callable[[Database], None], handled: Flask, db: Database, witness: Witness
) -> None:
    """No ``PendingRollbackError``: a flush that failed without a SQL error is a failure, too."""
    witness.store(User(name="ada"))

    @handled.post("/")
    def create() -> str:
        way(db)
        return "stored"

    response = handled.test_client().post("/")
    assert (response.status_code, response.text) == (409, "ada")
    assert witness.names() == ["ada"]
    assert witness.count(Post) == 1


def test_error_handler_continues_after_a_refused_flush_that_the_view_translated(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The exception that leaves the view does not mention a flush, but the session knows of it."""

    @app.errorhandler(LookupError)
    def handle(error: Exception) -> tuple[str, int]:
        db.session.add(Post(title="refused"))
        return str(len(db.session.scalars(select(User)).all())), 409

    @app.post("/")
    def create() -> str:
        try:
            _insert(db)
        except Invalid as error:
            raise LookupError from error
        return "not reached"

    response = client.post("/")
    assert (response.status_code, response.text) == (409, "0")
    assert witness.count(Post) == 1


def test_access_log_is_written_after_a_refused_flush_that_the_view_handled(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """A returned 409 undoes the flush before the ``after_request`` functions."""

    @app.after_request
    def log(response: Response) -> Response:
        db.session.add(Post(title=str(response.status_code)))
        return response

    @app.post("/")
    def create() -> tuple[str, int]:
        try:
            _insert(db)
        except Invalid:
            return "refused", 409
        return "not reached", 200

    assert client.post("/").status_code == 409
    assert witness.titles() == ["409"]


def test_refused_flush_that_the_view_swallowed_is_no_success(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """What the flush had to store is lost; the handler of SQLAlchemy's own error starts clean."""

    @app.errorhandler(PendingRollbackError)
    def handle(error: Exception) -> tuple[str, int]:
        return str(len(db.session.scalars(select(User)).all())), 503

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="good"))
        with contextlib.suppress(Invalid):
            _insert(db)
        return "stored"

    response = client.post("/")
    assert (response.status_code, response.text) == (503, "0")
    assert witness.names() == []


@pytest.mark.parametrize("earlier", [False, True])
def test_refused_flush_that_the_error_handler_swallowed_is_no_success(
    earlier: bool, app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The handler returns success, but its note is not stored: a 500, as for any failed commit."""

    @app.errorhandler(LookupError)
    def handle(error: Exception) -> tuple[str, int]:
        if earlier:
            db.session.add(Post(title="note"))
        _add(db)
        with contextlib.suppress(Invalid):
            db.session.flush()
        return "noted", 409

    @app.post("/")
    def create() -> str:
        raise LookupError

    assert client.post("/").status_code == 500
    assert witness.count(Post) == 0


def test_flush_that_is_refused_in_an_after_request_function_is_an_error(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The handler of the 500 reads and writes, and the work of the view is gone."""

    @app.errorhandler(500)
    def handle(error: Exception) -> tuple[str, int]:
        db.session.add(Post(title="failed"))
        return str(len(db.session.scalars(select(User)).all())), 500

    @app.after_request
    def add(response: Response) -> Response:
        if response.status_code < 400:
            _insert(db)
        return response

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="good"))
        return "stored"

    response = client.post("/")
    assert (response.status_code, response.text) == (500, "0")
    assert witness.names() == []
    assert witness.count(Post) == 1


def test_block_whose_flush_was_refused_is_undone_alone(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The view catches the error outside of the block and continues."""

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="before"))
        try:
            with db.atomic():
                db.session.add(User(name="inside"))
                db.session.flush()
                _add(db)
        except Invalid:
            db.session.add(User(name="after"))
        return "stored"

    assert client.post("/").status_code == 200
    assert witness.names() == ["after", "before"]


def test_attempt_whose_flush_is_refused_is_handled_as_the_first_would_be(
    handled: Flask, db: Database, database: TestDatabase, faults: Faults, witness: Witness
) -> None:
    """A view with retries meets a conflict, and a flush of its second attempt is refused."""
    attempts: list[int] = []

    @handled.post("/")
    @db.unit(retries=2)
    def create() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            faults.fail("statement", conflict(database))
        _insert_good_and_bad(db)
        return "not reached"

    response = handled.test_client().post("/")
    assert (response.status_code, response.text) == (409, "")
    assert len(attempts) == 2
    assert witness.names() == []
    assert witness.count(Post) == 1


class OwnBase(DeclarativeBase):
    """Models whose values fail in a flush."""


class Strict(TypeDecorator[str]):
    impl = String(20)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: object) -> str | None:
        if value == "bad":
            raise Unbindable
        if value == "wrapped":
            raise ValueError
        return value


def _default() -> str:
    raise Invalid


class Thing(OwnBase):
    __tablename__ = "things"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Strict)
    code: Mapped[str] = mapped_column(String(20), default=_default)


class Elsewhere(OwnBase):
    """A model of an engine that is not configured."""

    __tablename__ = "elsewhere"
    __bind_key__ = "elsewhere"

    id: Mapped[int] = mapped_column(primary_key=True)


@anywhere
@pytest.mark.parametrize(
    "make",
    [
        lambda: Thing(name="bad", code="x"),
        lambda: Thing(name="wrapped", code="x"),
        lambda: Thing(name="good"),
        lambda: Elsewhere(),
    ],
)
def test_values_that_are_refused_in_a_flush(
    make: Callable[[], object], app: Flask, db: Database, client: FlaskClient
) -> None:
    """The type of a column, a default and the search for an engine fail in a flush, too."""
    with app.app_context():
        OwnBase.metadata.create_all(db.engine)

    @app.errorhandler(Exception)
    def handle(error: Exception) -> tuple[str, int]:
        assert not isinstance(error, PendingRollbackError)
        assert isinstance(error, (Unbindable, StatementError, Invalid, LookupError, ValueError))
        return str(len(db.session.scalars(select(User)).all())), 409

    @app.post("/")
    def create() -> str:
        db.session.add(make())
        return "not reached"

    response = client.post("/")
    assert (response.status_code, response.text) == (409, "0")
