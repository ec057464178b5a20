"""P14: random units against a model of what must be stored, with more threads than connections."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable, Iterator

import pytest
from flask import Flask, request
from sqlalchemy import func, insert, make_url, select, text
from sqlalchemy.exc import DBAPIError

from flask_uow import Database
from tests.conftest import MakeApp
from tests.support.databases import TestDatabase
from tests.support.engines import checked_out
from tests.support.models import Post, User
from tests.support.threads import in_threads
from tests.support.witness import Witness

pytestmark = pytest.mark.slow

THREADS = 6
UNITS = 40
"""Of each thread."""

FUNCTIONS = """
    CREATE FUNCTION store(title text) RETURNS text LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO posts (title) VALUES (title); RETURN title; END $$;
    CREATE TYPE titled AS (title text);
    CREATE FUNCTION hidden(titled) RETURNS text LANGUAGE sql AS 'SELECT store($1.title)'
"""
CALL = text("SELECT store(:title)")
HIDDEN_CALL = text("SELECT (row(:title)::titled).hidden")  # by its words it only reads


class Failed(Exception):
    """What a view or a part of it raises."""


class Unit:
    """A request that takes random steps, and the model of what it must store.

    :param kind: ``"sqlite"``, or a driver of PostgreSQL.
    :ivar status: that of its response.
    :ivar committed: the titles that it has committed itself.
    :ivar waiting: the titles that are stored with its response.
    """

    def __init__(self, db: Database, name: str, chosen: random.Random, kind: str) -> None:
        self.status = chosen.choice([200, 200, 200, 400, 500])
        self.committed: list[str] = []
        self.waiting: list[str] = []
        self._has_begun = False  # perhaps: something else than a plain read has run
        self._db = db
        self._chosen = chosen
        self._titles = (f"{name}.{number}" for number in itertools.count())
        self._calls = {"sqlite": [], "psycopg": [CALL, HIDDEN_CALL], "psycopg2": [CALL]}[kind]
        self._is_sqlite = kind == "sqlite"
        self._steps: list[Callable[[], None]] = [
            *[self._read] * 8,
            *[self._call] * 2,
            *[self._savepoint, self._block, self._block, self._swallow, self._swallow],
            *[self._lock, self._stream, self._add, self._flush, self._insert],
        ]

    @property
    def stored(self) -> list[str]:
        """The titles that are stored in the end."""
        return self.committed + (self.waiting if self.status == 200 else [])

    def run(self) -> tuple[str, int]:
        """Be the view."""
        for _ in range(self._chosen.randrange(8)):
            if self._chosen.random() < 0.1:
                self._end_by_hand()
            self._chosen.choice(self._steps)()
        if self.status == 500:
            raise Failed
        return "", self.status

    def _end_by_hand(self) -> None:
        if self._chosen.random() < 0.5:
            self._db.session.commit()
            self.committed += self.waiting
        else:
            self._db.session.rollback()
        self.waiting, self._has_begun = [], False

    # Reads

    def _read(self) -> None:
        session, mine = self._db.session(), self.committed + self.waiting
        kind = self._chosen.randrange(4)
        if kind == 0:
            user = session.get_one(User, 1)
            session.expire(user)
            assert [post.title for post in user.posts] == ["first"]
        elif kind == 1:
            assert {*mine, "first"} <= {*session.scalars(select(Post.title))}
        elif kind == 2:
            assert next(iter(session.scalars(select(Post.title))))  # the others are not fetched
        else:
            assert session.scalar(select(func.count()).where(Post.title.in_(mine))) == len(mine)

    def _lock(self) -> None:
        self._has_begun = True
        assert self._db.session.get_one(User, 1, with_for_update=True).name == "ada"

    def _stream(self) -> None:
        if self._is_sqlite and not self.waiting:
            return  # it would begin by reading there, and a write might be refused
        self._has_begun = True
        titles = select(Post.title).execution_options(yield_per=3)
        assert {*self.waiting} <= {*self._db.session.scalars(titles)}

    # Writes

    def _add(self) -> None:
        self._db.session.add(Post(title=self._note()))

    def _flush(self) -> None:
        self._add()
        self._db.session.flush()

    def _insert(self) -> None:
        self._db.session.execute(insert(Post).values(title=self._note()))

    def _call(self) -> None:
        if self._calls:
            title = self._note()
            assert self._db.session.scalar(self._chosen.choice(self._calls), {"title": title})

    def _note(self) -> str:
        self._has_begun = True
        self.waiting.append(title := next(self._titles))
        return title

    # Parts that may fail

    def _swallow(self) -> None:
        """A failed statement aborts a transaction that has begun, or else nothing."""
        block = self._db.atomic() if self._has_begun else contextlib.nullcontext()
        with contextlib.suppress(DBAPIError), block:
            self._db.session.execute(text("SELECT nothing FROM users"))

    def _savepoint(self) -> None:
        with self._part(), self._db.session.begin_nested():
            self._some_steps()

    def _block(self) -> None:
        with self._part(), self._db.atomic():
            self._some_steps()

    @contextlib.contextmanager
    def _part(self) -> Iterator[None]:
        self._has_begun, before = True, [*self.waiting]
        try:
            yield
        except Failed:
            self.waiting = before

    def _some_steps(self) -> None:
        for _ in range(self._chosen.randrange(4)):
            self._chosen.choice(self._steps)()
        if self._chosen.random() < 0.3:
            raise Failed


@pytest.fixture
def functions(database: TestDatabase, witness: Witness) -> Iterator[None]:
    if database.is_sqlite:
        yield
        return
    with witness.engine.begin() as connection:
        connection.exec_driver_sql(FUNCTIONS)
    yield
    with witness.engine.begin() as connection:
        connection.exec_driver_sql("DROP FUNCTION store; DROP TYPE titled CASCADE")


@pytest.mark.parametrize(
    ("database", "kind"),
    [("sqlite-file", "sqlite"), ("postgresql", "psycopg"), ("postgresql", "psycopg2")],
    indirect=["database"],
)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.usefixtures("functions")
def test_what_random_units_store(
    seed: int, kind: str, make_app: MakeApp, db: Database, witness: Witness, database: TestDatabase
) -> None:
    """Responses and stored data agree, and units that take turns do not disturb each other."""
    url = make_url(database.url)
    if not database.is_sqlite:
        url = url.set(drivername=f"postgresql+{kind}")
    app = make_app(
        url=url.render_as_string(hide_password=False),
        SQLALCHEMY_ENGINE_OPTIONS={"pool_size": 2, "max_overflow": 0, "pool_timeout": 30},
        UOW_SQLITE_BUSY_TIMEOUT=30,
    )
    app.add_url_rule("/", "run", lambda: request.environ["unit"].run(), methods=["GET", "POST"])
    witness.store(User(name="ada", posts=[Post(title="first")]))
    numbers = itertools.count()

    def stored() -> list[str]:
        return run_units(app, db, f"{seed}.{next(numbers)}", kind)

    expected = [title for titles in in_threads(stored, times=THREADS) for title in titles]
    assert witness.titles() == sorted([*expected, "first"])
    assert checked_out() == 0
    assert len(expected) > UNITS  # else it has shown little


def run_units(app: Flask, db: Database, name: str, kind: str) -> list[str]:
    """Make requests, and return the titles that must be stored."""
    chosen, client, stored = random.Random(name), app.test_client(), []
    for number in range(UNITS):
        unit = Unit(db, f"{name}.{number}", chosen, kind)
        method = chosen.choice(["GET", "POST"])
        response = client.open("/", method=method, environ_overrides={"unit": unit})
        assert response.status_code == unit.status, response.text
        stored += unit.stored
    return stored
