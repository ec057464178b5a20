"""The plugin's isolation: an option for a whole suite, marks and fixtures for one test."""

from __future__ import annotations

import pytest
from sqlalchemy import NullPool, create_engine, select

from tests.support.databases import TestDatabase, anywhere, concurrently
from tests.support.models import User
from tests.testing.conftest import Run

# A suite whose app is made once, so that a row of one test would be there in the next.
SUITE = """
import pytest
from sqlalchemy import select

def names():
    with app_of_the_session().app_context():
        return sorted(db.session.scalars(select(User.name)))

def app_of_the_session():
    import flask_uow
    return THE_APP[0]

THE_APP = []

@pytest.fixture(autouse=True)
def keep(app):
    THE_APP[:] = [app]

@pytest.fixture
def prepared(app):
    with app.app_context(), db.atomic():
        db.session.add(User(name="prepared"))

@pytest.mark.parametrize("turn", [1, 2])
def test_commit(client, turn):
    assert client.post("/users/new").status_code == 200
    assert names() == ["ada", "bob", "eve", "new"]

@pytest.mark.parametrize("turn", [1, 2])
def test_with_a_fixture(prepared, client, turn):
    assert client.post("/users/new").status_code == 200
    assert names() == ["ada", "bob", "eve", "new", "prepared"]

@pytest.mark.parametrize("turn", [1, 2])
def test_in_a_context(app, client, turn):
    with app.app_context():
        db.session.add(User(name="mine"))
        db.session.commit()
        assert client.post("/users/new").status_code == 200
        assert names() == ["ada", "bob", "eve", "mine", "new"]

def test_last(app):
    assert names() == ["ada", "bob", "eve"]
"""


def stored(database: TestDatabase) -> list[str]:
    """What is in the database after the run."""
    engine = create_engine(database.url, poolclass=NullPool)
    with engine.connect() as connection:
        return sorted(connection.scalars(select(User.name)))


@concurrently
def test_a_suite_that_is_isolated(run_tests: Run, database: TestDatabase) -> None:
    """Each test begins with the rows of the session's app, also those that prepare some."""
    result = run_tests(SUITE, ini="uow_isolation = isolated", scope="session")
    result.assert_outcomes(passed=7)
    assert stored(database) == ["ada", "bob", "eve"]


@pytest.mark.slow
@concurrently
def test_the_same_suite_without_isolation_fails(run_tests: Run, database: TestDatabase) -> None:
    """So the test above can fail."""
    result = run_tests(SUITE, scope="session")
    assert result.parseoutcomes()["failed"] >= 4
    assert "new" in stored(database)


@concurrently
def test_a_mark_and_a_fixture_isolate_one_test(run_tests: Run, database: TestDatabase) -> None:
    """Nothing is set for the suite."""
    result = run_tests(
        """
import pytest

@pytest.mark.uow_isolated
def test_mark(client):
    assert client.post("/users/one").status_code == 200

def test_fixture(client, uow_isolated):
    assert client.post("/users/two").status_code == 200

def test_neither(client):
    assert client.post("/users/three").status_code == 200
""",
        scope="session",
    )
    result.assert_outcomes(passed=3)
    assert stored(database) == ["ada", "bob", "eve", "three"]


@concurrently
def test_a_test_that_truncates(run_tests: Run, database: TestDatabase) -> None:
    """Its mark goes before the option of the suite; all rows go."""
    result = run_tests(
        """
import pytest

def test_first(client):
    assert client.post("/users/one").status_code == 200

@pytest.mark.uow_truncated
def test_truncated(client):
    assert client.post("/users/two").status_code == 200

def test_last(app):
    with app.app_context():
        assert db.session.query(User).count() == 0
""",
        "-p",
        "no:randomly",
        ini="uow_isolation = isolated",
        scope="session",
    )
    result.assert_outcomes(passed=3)
    assert stored(database) == []


@anywhere
def test_both_marks_are_refused(run_tests: Run) -> None:
    """In words."""
    result = run_tests(
        """
import pytest

@pytest.mark.uow_isolated
@pytest.mark.uow_truncated
def test_it(app):
    pass
"""
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*has the marks 'uow_isolated' and 'uow_truncated'. Keep one.*"])


@anywhere
def test_a_suite_without_an_app(run_tests: Run) -> None:
    """Tests that do not use one are left alone, and a mark on such a test is told."""
    result = run_tests(
        """
import pytest

def test_no_app():
    pass

@pytest.mark.uow_isolated
def test_marked(app):
    pass
""",
        ini="uow_isolation = isolated",
    )
    result.assert_outcomes(passed=2)


@concurrently
def test_hypothesis(run_tests: Run, database: TestDatabase) -> None:
    """Each example begins with what the fixtures have prepared."""
    result = run_tests(
        """
import pytest
from hypothesis import HealthCheck, given, settings, strategies
from sqlalchemy import select

@pytest.fixture
def prepared(app):
    with app.app_context(), db.atomic():
        db.session.add(User(name="prepared"))

@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(name=strategies.sampled_from(["one", "two", "three"]))
def test_examples(prepared, app, client, name):
    assert client.post(f"/users/{name}").status_code == 200
    with app.app_context():
        found = db.session.scalars(select(User.name).order_by(User.name)).all()
    assert found == sorted(["ada", "bob", "eve", "prepared", name])
""",
        ini="uow_isolation = isolated",
        scope="session",
    )
    result.assert_outcomes(passed=1)
    assert stored(database) == ["ada", "bob", "eve"]


@pytest.mark.slow
@anywhere
def test_unittest_classes(run_tests: Run, database: TestDatabase) -> None:
    """A ``TestCase`` gets its app by a fixture of the suite, as in the docs of pytest."""
    result = run_tests(
        """
import unittest
import pytest

@pytest.mark.uow_isolated
class TestUsers(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def _app(self, app):
        self.client = app.test_client()

    def test_one(self):
        assert self.client.post("/users/new").status_code == 200

    def test_two(self):
        assert self.client.post("/users/new").status_code == 200
""",
        scope="session",
    )
    result.assert_outcomes(passed=2)
    assert stored(database) == ["ada", "bob", "eve"]


@pytest.mark.slow
@concurrently
def test_factory_boy(run_tests: Run, database: TestDatabase) -> None:
    """Factories that commit, with ``db.session`` as their session."""
    result = run_tests(
        """
import factory
import pytest
from sqlalchemy.exc import IntegrityError

class UserFactory(factory.alchemy.SQLAlchemyModelFactory):
    class Meta:
        model = User
        sqlalchemy_session = db.session
        sqlalchemy_session_persistence = "commit"

    name = factory.Sequence(lambda n: f"user-{n}")

@pytest.mark.parametrize("turn", [1, 2])
def test_factory(app, client, turn):
    with app.app_context():
        user = UserFactory(name="made")
        with pytest.raises(IntegrityError):
            client.post("/users/made")
        assert user.id
""",
        ini="uow_isolation = isolated",
        scope="session",
    )
    result.assert_outcomes(passed=2)
    assert stored(database) == ["ada", "bob", "eve"]


# Suites that move over ----------------------------------------------------------------------------


@concurrently
def test_a_suite_of_pytest_flask_sqlalchemy(run_tests: Run, database: TestDatabase) -> None:
    """Its fixtures ``db_session`` and ``_db``, in the lines that the docs give."""
    result = run_tests(
        """
import pytest
from sqlalchemy.exc import IntegrityError

def test_a_transaction_does_not_persist(db_session):
    db_session.add(User(name="one"))
    db_session.commit()
    assert db_session.query(User).filter_by(name="one").count() == 1

def test_it_is_gone(db_session):
    assert db_session.query(User).filter_by(name="one").count() == 0

def test_a_view_finds_what_was_not_committed(db_session, client):
    db_session.add(User(name="two"))
    db_session.flush()
    with pytest.raises(IntegrityError):  # the name is taken
        client.post("/users/two")
    assert db_session.query(User).filter_by(name="two").count() == 1

def test_a_rollback_of_the_test(db_session):
    db_session.add(User(name="three"))
    db_session.rollback()
    assert db_session.query(User).filter_by(name="three").count() == 0
""",
        conftest="""
@pytest.fixture
def db_session(app, uow_isolated, uow_commit_before_requests):
    with app.app_context():
        yield db.session
        db.session.rollback()
""",
        ini="",
        scope="session",
    )
    result.assert_outcomes(passed=4)
    assert stored(database) == ["ada", "bob", "eve"]


@concurrently
def test_a_suite_of_the_recipe_of_flask_sqlalchemy(run_tests: Run, database: TestDatabase) -> None:
    """A context that is pushed around each test, ``create_all()`` before and ``drop_all()`` after.

    As its docs and the Mega-Tutorial have it: the test reads, a request writes, the test reads
    and writes again. Neither stale rows, nor a lock, nor a ``drop_all()`` that hangs.
    """
    result = run_tests(
        """
import pytest
import unittest

@pytest.fixture(autouse=True)
def app_context(app):
    with app.app_context():
        db.create_all()
        yield
        db.session.remove()
        db.drop_all()
        db.create_all()

@pytest.mark.parametrize("turn", [1, 2])
def test_read_write_read(client, turn):
    assert db.session.query(User).filter_by(name="new").count() == 0
    assert client.post("/users/new").status_code == 200
    user = db.session.query(User).filter_by(name="new").one()
    user.email = "new@example.org"
    db.session.commit()
    assert client.post("/users/newer").status_code == 200
    assert db.session.query(User).filter_by(name="newer").count() == 1
""",
    )
    result.assert_outcomes(passed=2)


@pytest.mark.slow
@concurrently
def test_in_parallel(run_tests: Run, database: TestDatabase) -> None:
    """``-n 2`` in random order, each worker with a database of its own."""
    result = run_tests(
        SUITE.replace("def test_last", "def test_unprepared"),
        "-n",
        "2",
        conftest=f"""
from flask_uow import testing

@pytest.fixture(scope="session")
def url():
    with testing.worker_database({database.url!r}, Base.metadata.create_all) as url:
        yield url

@pytest.fixture(scope="session")
def app(url):
    app = Flask("shop")
    app.config.update(TESTING=True, SQLALCHEMY_DATABASE_URI=url)
    db.init_app(app)

    @app.post("/users/<name>")
    def create(name):
        db.session.add(User(name=name))
        return ""

    with app.app_context(), db.atomic():
        for name in ("ada", "bob", "eve"):
            db.session.add(User(name=name))
    yield app
    with app.app_context():
        db.engine.dispose()
""",
        ini="uow_isolation = isolated",
        in_process=False,
    )
    result.assert_outcomes(passed=7)
