"""What an error handler learns from ``is_transient()`` and ``constraint_of()``, on real databases.

Every name here is the one of the metadata, whatever the database calls its constraints.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import pytest
from flask.typing import ResponseReturnValue
from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    create_engine,
    delete,
    event,
    func,
    insert,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import INT4RANGE, ExcludeConstraint, Range
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from werkzeug.exceptions import InternalServerError

from flask_uow import Database, Flask
from flask_uow.errors import (
    MigrationFailed,
    PartialCommit,
    TransactionLost,
    UowError,
    constraint_of,
    is_transient,
)
from tests.faults.drivers import BACKENDS, DRIVERS, address
from tests.support.witness import Witness

_SLOW = {"pymysql", "psycopg2"}


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_N_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Person(Base):
    __tablename__ = "persons"
    __table_args__ = (
        CheckConstraint("age >= 0", name="age_not_negative"),
        UniqueConstraint("first", "last"),
        Index("ix_by_code", "code", unique=True),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50), unique=True)
    first: Mapped[str | None] = mapped_column(String(50))
    last: Mapped[str | None] = mapped_column(String(50))
    code: Mapped[str | None] = mapped_column(String(50))
    age: Mapped[int] = mapped_column(default=1)


class Pet(Base):
    __tablename__ = "pets"

    id: Mapped[int] = mapped_column(primary_key=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("persons.id"))


_EACH = [pytest.param(n, marks=pytest.mark.slow if n in _SLOW else ()) for n in DRIVERS]


@pytest.fixture(params=_EACH)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return address(request.param, request, tmp_path)


@pytest.fixture
def witness(url: str) -> Witness:
    return Witness(url)


@pytest.fixture
def db(url: str) -> Iterator[Database]:
    yield Database(Base)
    engine = create_engine(url)
    Base.metadata.drop_all(engine)
    engine.dispose()


@pytest.fixture
def app(url: str, db: Database) -> Flask:
    app = Flask("tests")
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    app.register_extension(db)
    with app.app_context():
        db.create_all()
        with db.atomic():
            db.session.add(ada := Person(name="ada", first="Ada", last="L", code="a"))
            db.session.flush()
            db.session.add(Pet(person_id=ada.id))

    @app.errorhandler(DBAPIError)
    def refused(error: DBAPIError) -> ResponseReturnValue:
        return {"constraint": constraint_of(error), "transient": is_transient(error)}, 409

    return app


def named(app: Flask, work: Callable[[], object]) -> str | None:
    """The constraint by which *work* in a view is refused."""
    app.add_url_rule("/", "view", lambda: str(work() and None), methods=["POST"])
    response = app.test_client().post("/")
    assert response.status_code == 409
    assert response.json is not None
    assert response.json["transient"] is False
    name: str | None = response.json["constraint"]
    return name


def new(**values: Any) -> Person:
    return Person(**{"name": "bob"} | values)


REFUSED: list[tuple[str, Callable[[Any], object]]] = [
    ("uq_persons_name", lambda db: db.session.add(new(name="ada"))),
    ("uq_persons_first_last", lambda db: db.session.add(new(first="Ada", last="L"))),
    ("ix_by_code", lambda db: db.session.add(new(code="a"))),
    ("pk_persons", lambda db: db.session.execute(insert(Person).values(id=1, name="bob"))),
    ("ck_persons_age_not_negative", lambda db: db.session.add(new(age=-1))),
    ("fk_pets_person_id", lambda db: db.session.add(Pet(person_id=99))),
    ("fk_pets_person_id", lambda db: db.session.execute(update(Pet).values(person_id=99))),
    ("fk_pets_person_id", lambda db: db.session.execute(delete(Person))),
    ("fk_pets_person_id", lambda db: db.session.delete(db.session.get(Person, 1))),
    ("persons.name", lambda db: db.session.add(Person(name=None))),
    ("persons.name", lambda db: db.session.execute(insert(Person), [{"name": None}])),
    ("persons.name", lambda db: db.session.execute(update(Person).values(name=None))),
    ("uq_persons_name", lambda db: db.session.add_all([new(name="x"), new(name="x")])),
    ("uq_persons_name", lambda db: db.session.execute(insert(Person), [{"name": "x"}] * 3)),
]


@pytest.mark.parametrize(
    ("name", "work"), REFUSED, ids=[f"{n}-{i}" for i, (n, _) in enumerate(REFUSED)]
)
def test_every_database_tells_the_same_name(
    name: str, work: Callable[[Any], object], app: Flask, db: Database, witness: Witness
) -> None:
    """In a statement of the view, and in the flush of the commit after it; nothing is stored."""
    assert named(app, lambda: work(db)) == name
    assert witness.ask(text("SELECT name FROM persons")) == ["ada"]


def test_statement_as_text_tells_what_the_server_tells(app: Flask, db: Database, url: str) -> None:
    """SQLite then names columns, as there are no tables to look into."""
    statement = text("INSERT INTO persons (id, name, age) VALUES (2, 'ada', 1)")
    name = named(app, lambda: db.session.execute(statement))
    assert name == ("persons.name" if url.startswith("sqlite") else "uq_persons_name")


def test_a_connection_of_the_engine_tells_the_same(app: Flask, db: Database) -> None:
    """Without a session."""

    def work() -> None:
        with db.engine.begin() as connection:
            connection.execute(insert(Person).values(name="ada"))

    assert named(app, work) == "uq_persons_name"


def test_an_error_can_be_pickled_as_without_us(app: Flask, db: Database) -> None:
    """A worker sends it to another process, although the statement itself refuses that."""
    insertion = insert(Person).values(name="ada")
    insertion.unpicklable = lambda: None  # type: ignore[attr-defined]
    with app.app_context(), pytest.raises(IntegrityError) as caught, db.atomic():
        db.session.execute(insertion)
    assert constraint_of(caught.value) == "uq_persons_name"
    other = pickle.loads(pickle.dumps(caught.value.orig))
    assert str(other) == str(caught.value.orig)


@pytest.mark.parametrize(
    "error",
    [
        PartialCommit(["default"], "audit", ["archive"]),
        TransactionLost(ValueError("refused")),
        MigrationFailed("It failed.", "audit", "a1b2c3"),
        UowError("It failed."),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("copied", [lambda e: pickle.loads(pickle.dumps(e)), copy, deepcopy])
def test_an_error_of_ours_can_be_copied(
    error: UowError, copied: Callable[[UowError], UowError]
) -> None:
    """With its message and what it knows, whatever it was made from."""
    other = copied(error)
    assert type(other) is type(error)
    assert (str(other), vars(other)) == (str(error), vars(error))


def test_an_unhandled_error_reaches_a_handler_of_500(app: Flask, db: Database) -> None:
    """Flask puts it into an ``InternalServerError``."""
    del app.error_handler_spec[None][None][DBAPIError]

    @app.errorhandler(InternalServerError)
    def failed(error: InternalServerError) -> ResponseReturnValue:
        return {"constraint": constraint_of(error), "transient": is_transient(error)}, 409

    assert named(app, lambda: db.session.add(new(name="ada"))) == "uq_persons_name"


@pytest.mark.parametrize("driver", [d for d in DRIVERS if BACKENDS.get(d) != "mariadb"])
def test_a_deferred_constraint_is_refused_by_the_commit(
    driver: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """PostgreSQL tells the name; SQLite does not, and there is no statement to look at."""
    metadata, url = MetaData(), address(driver, request, tmp_path)
    parent = Table("parents", metadata, *columns("id"))
    key = ForeignKeyConstraint(
        ["parent"], [parent.c.id], name="fk_later", deferrable=True, initially="DEFERRED"
    )
    child = Table("children", metadata, *columns("id", "parent"), key)
    db = Database(metadata=metadata)
    app = app_on(url, db)
    app.register_error_handler(DBAPIError, lambda error: (str(constraint_of(error)), 409))
    app.add_url_rule(
        "/", "view", lambda: str(db.session.execute(insert(child).values(id=1, parent=9)))
    )
    assert app.test_client().get("/").text == ("None" if driver == "sqlite" else "fk_later")
    assert Witness(url).ask("SELECT id FROM children") == []


def columns(*names: str) -> list[Any]:
    return [Column(name, Integer, primary_key=name == "id") for name in names]


def app_on(url: str, db: Database) -> Flask:
    app = Flask("tests")
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    app.register_extension(db)
    with app.app_context():
        db.create_all()
    return app


def test_an_exclusion_is_named(
    postgresql_url: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Which only PostgreSQL has."""
    from sqlalchemy import Column

    metadata, url = MetaData(), address("psycopg", request, tmp_path)
    exclusion = ExcludeConstraint(("during", "&&"), name="ex_overlap")
    stays = Table("stays", metadata, *columns("id"), Column("during", INT4RANGE), exclusion)
    db = Database(metadata=metadata)
    app = app_on(url, db)
    app.register_error_handler(DBAPIError, lambda error: (str(constraint_of(error)), 409))

    @app.get("/")
    def view() -> str:
        for _ in range(2):
            db.session.execute(insert(stays).values(during=Range(1, 5)))
        return ""

    assert app.test_client().get("/").text == "ex_overlap"
    assert Witness(url).ask("SELECT id FROM stays") == []


# What SQLite does not tell --------------------------------------------------------------------


def on_sqlite(tmp_path: Path, *tables: Any, metadata: MetaData) -> tuple[Database, Flask]:
    db = Database(metadata=metadata)
    app = app_on(f"sqlite:///{tmp_path / 'test.db'}", db)
    app.register_error_handler(DBAPIError, lambda error: (str(constraint_of(error)), 409))
    return db, app


def test_one_of_two_foreign_keys_is_not_guessed(tmp_path: Path) -> None:
    """A wrong name would be worse than none."""
    metadata = MetaData()
    parent = Table("parents", metadata, *columns("id"))
    keys = [ForeignKeyConstraint([n], [parent.c.id], name=f"fk_{n}") for n in ("a", "b")]
    child = Table("children", metadata, *columns("id", "a", "b"), *keys)
    db, app = on_sqlite(tmp_path, metadata=metadata)
    app.add_url_rule("/", "view", lambda: str(db.session.execute(insert(child).values(a=1))))
    assert app.test_client().get("/").text == "None"


def test_a_foreign_key_that_cascades_has_not_refused(tmp_path: Path) -> None:
    """The one further on has, which the statement does not name."""
    metadata = MetaData()
    top = Table("tops", metadata, *columns("id"))
    down = ForeignKeyConstraint(["top"], [top.c.id], name="fk_down", ondelete="CASCADE")
    middle = Table("middles", metadata, *columns("id", "top"), down)
    last = ForeignKeyConstraint(["middle"], [middle.c.id], name="fk_last")
    bottom = Table("bottoms", metadata, *columns("id", "middle"), last)
    db, app = on_sqlite(tmp_path, metadata=metadata)
    with app.app_context(), db.atomic():
        db.session.execute(insert(top).values(id=1))
        db.session.execute(insert(middle).values(id=1, top=1))
        db.session.execute(insert(bottom).values(id=1, middle=1))
    app.add_url_rule("/", "view", lambda: str(db.session.execute(delete(top))))
    assert app.test_client().get("/").text == "None"


def test_an_index_on_an_expression_is_named(tmp_path: Path) -> None:
    """SQLite names the index itself."""
    metadata = MetaData()
    words = Table("words", metadata, *columns("id", "word"))
    Index("ix_words_lower", func.lower(words.c.word), unique=True)
    db, app = on_sqlite(tmp_path, metadata=metadata)
    twice = [{"word": 1}, {"word": 1}]
    app.add_url_rule("/", "view", lambda: str(db.session.execute(insert(words), twice)))
    assert app.test_client().get("/").text == "ix_words_lower"


def test_a_constraint_without_a_name_is_told_in_the_words_of_the_server(tmp_path: Path) -> None:
    """Names come from a naming convention, or from the model."""
    metadata = MetaData()
    words = Table("words", metadata, *columns("id", "word"), UniqueConstraint("word"))
    db, app = on_sqlite(tmp_path, metadata=metadata)
    twice = [{"word": 1}, {"word": 1}]
    app.add_url_rule("/", "view", lambda: str(db.session.execute(insert(words), twice)))
    assert app.test_client().get("/").text == "words.word"


SERVERS_OWN = {
    "sqlite": ["words.word", "words.n", "n >= 0", "words.id"],
    "psycopg": ["words_word_key", "words.n", "words_n_check", "words_pkey"],
    "psycopg2": ["words_word_key", "words.n", "words_n_check", "words_pkey"],
    "pymysql": ["word", "words.n", "words.n", "PRIMARY"],
}


@pytest.mark.parametrize("driver", _EACH)
def test_what_a_constraint_without_a_name_is_called(
    driver: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """By the server, as the docs say: unique, not null, a CHECK at its column, primary key."""
    metadata, url = MetaData(), address(driver, request, tmp_path)
    column = Column("n", Integer, CheckConstraint("n >= 0"), nullable=False)
    words = Table("words", metadata, *columns("id"), Column("word", String(9), unique=True), column)
    db = Database(metadata=metadata)
    app = app_on(url, db)
    app.register_error_handler(DBAPIError, lambda error: str(constraint_of(error)))
    rows = [
        {"id": 2, "word": "a", "n": 1},
        {"id": 2, "word": "b", "n": None},
        {"id": 2, "word": "b", "n": -1},
        {"id": 1, "word": "b", "n": 1},
    ]

    @app.get("/<int:number>")
    def view(number: int) -> str:
        db.session.execute(insert(words), rows[number])
        return ""

    with app.app_context(), db.atomic():
        db.session.execute(insert(words), {"id": 1, "word": "a", "n": 1})
    found = [app.test_client().get(f"/{number}").text for number in range(len(rows))]
    assert found == SERVERS_OWN[driver]


# 503 ------------------------------------------------------------------------------------------


SHORT_WAIT = {
    "postgresql": "SET lock_timeout = '100ms'",
    **dict.fromkeys(("mysql", "mariadb"), "SET innodb_lock_wait_timeout = 1"),
}


def in_thread(action: Callable[[], None]) -> None:
    thread = threading.Thread(target=action)
    thread.start()
    thread.join(30)


def test_a_lock_timeout_and_a_full_pool_are_transient(app: Flask, db: Database, url: str) -> None:
    """The error is the one that the view's statement raises."""
    options: dict[str, Any] = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.1}
    if url.startswith("sqlite"):
        options["connect_args"] = {"timeout": 0.1}
    small = Flask("tests")
    small.config.update(SQLALCHEMY_DATABASE_URI=url, SQLALCHEMY_ENGINE_OPTIONS=options)
    small.register_extension(db)
    statuses: list[int] = []

    @small.errorhandler(Exception)
    def failed(error: Exception) -> ResponseReturnValue:
        assert constraint_of(error) is None
        return "", 503 if is_transient(error) else 500

    @small.post("/")
    def write() -> str:
        timeout = {
            "postgresql": "SET lock_timeout = '100ms'",
            **dict.fromkeys(("mysql", "mariadb"), "SET innodb_lock_wait_timeout = 1"),
        }
        if statement := timeout.get(db.engine.dialect.name.replace("mariadb", "mysql")):
            db.session.execute(text(statement))
        db.session.execute(update(Person).values(age=2))
        return ""

    with app.app_context(), db.atomic():
        db.session.execute(update(Person).values(age=3))
        post = threading.Thread(
            target=lambda: statuses.append(small.test_client().post("/").status_code)
        )
        post.start()
        post.join(30)
    with small.app_context(), db.engine.connect():
        post = threading.Thread(
            target=lambda: statuses.append(small.test_client().post("/").status_code)
        )
        post.start()
        post.join(30)
    assert statuses == [503, 503]
    assert small.test_client().post("/").status_code == 200
    assert Witness(url).ask("SELECT age FROM persons") == [2]


@pytest.mark.parametrize("scheme", ["postgresql+psycopg", "postgresql+psycopg2", "mysql+pymysql"])
def test_a_server_that_is_away_is_transient(scheme: str) -> None:
    """Nothing listens on this port."""
    engine = create_engine(f"{scheme}://ada@127.0.0.1:1/shop")
    with pytest.raises(DBAPIError) as caught:
        engine.connect()
    assert is_transient(caught.value)


def test_a_listener_that_replaces_the_error_keeps_what_is_known(app: Flask, db: Database) -> None:
    """SQLAlchemy chains the new error to the driver's."""

    class Taken(Exception):
        pass

    with app.app_context():

        @event.listens_for(db.engine, "handle_error")
        def replace(_context: object) -> None:
            raise Taken

    app.register_error_handler(Taken, app.error_handler_spec[None][None][DBAPIError])
    assert named(app, lambda: db.session.add(new(name="ada"))) == "uq_persons_name"
