"""``uow_access = guarded``: a test that did not ask for the database fails if it uses it."""

from __future__ import annotations

import pytest

from tests.support.databases import anywhere, concurrently
from tests.testing.conftest import Run

GUARDED = "uow_access = guarded"
SENTENCE = "*The test '*' used the database and had not asked for it*@pytest.mark.uow_access*"


@concurrently
def test_tests_that_ask_may_use_the_database(run_tests: Run) -> None:
    """By the mark, on a test or a module, or by the fixture; fixtures always may."""
    result = run_tests(
        """
@pytest.mark.uow_access
def test_marked(client):
    assert client.get("/posts").json

def test_with_the_fixture(client, uow_access):
    assert client.get("/posts").json

@pytest.fixture
def ada(app, uow_access):
    with app.app_context():
        return db.session.scalars(select(User.name)).first()

def test_with_a_fixture_that_asks(ada, client):
    assert client.get("/posts").json

def test_that_needs_none(app, client):
    assert client.get("/missing").status_code == 404
    with app.app_context():
        db.session()
""",
        ini=GUARDED,
    )
    result.assert_outcomes(passed=4)


@anywhere
@pytest.mark.parametrize(
    "use",
    [
        "client.get('/posts')",
        "client.post('/users/dan')",
        "with app.app_context(): db.session.get(User, 1)",
        "with app.app_context(): db.engine.connect()",
        "with app.app_context(): db.engine.raw_connection()",
        "pass\ndef test_it(kept):\n    kept.scalars(select(User)).all()",
        "shop = make_app()\n    shop.test_client().get('/posts')",
    ],
    ids=["read", "write", "session", "connection", "raw", "fixture's", "new"],
)
def test_a_test_that_did_not_ask_fails(use: str, run_tests: Run) -> None:
    """With a sentence and the line, whatever way it goes."""
    result = run_tests(
        f"""
@pytest.fixture
def kept(app):
    with app.app_context(), db.sessionmaker() as session:
        session.scalars(select(User)).all()
        yield session

def test_it(app, client):
    {use}
""",
        ini=GUARDED,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"E*{SENTENCE}"])


@anywhere
@pytest.mark.parametrize(
    "use",
    [
        "try:\n        client.get('/posts')\n    except BaseException: pass",
        "thread = threading.Thread(target=client.get, args=['/posts'])\n"
        "    threading.excepthook = print\n    thread.start()\n    thread.join()",
    ],
    ids=["swallowed", "thread"],
)
def test_an_error_that_is_not_seen_counts(use: str, run_tests: Run) -> None:
    result = run_tests(f"import threading\ndef test_it(client):\n    {use}\n", ini=GUARDED)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([SENTENCE])


@anywhere
def test_a_server_that_is_not_there_gives_the_sentence(run_tests: Run) -> None:
    """The refusal comes before the attempt to connect."""
    result = run_tests(
        """
@pytest.fixture
def away():
    app = Flask("away")
    app.config["SQLALCHEMY_DATABASE_URI"] = "postgresql+psycopg://127.0.0.1:1/shop"
    db.init_app(app)
    return app

def test_it(away):
    with away.app_context():
        db.session.get(User, 1)
""",
        ini=GUARDED,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"E*{SENTENCE}"])
    assert "connection failed" not in result.stdout.str()


@anywhere
def test_it_is_off_by_default(run_tests: Run) -> None:
    result = run_tests("def test_it(client):\n    assert client.get('/posts').json")
    result.assert_outcomes(passed=1)


@pytest.mark.slow
@anywhere
def test_the_guard_works_in_workers_in_random_order(run_tests: Run) -> None:
    result = run_tests(
        "def test_one(client):\n    client.get('/posts')\n"
        "@pytest.mark.uow_access\ndef test_two(client):\n    client.get('/posts')\n"
        "def test_three(client):\n    client.get('/missing')\n",
        "-n",
        "2",
        "--strict-markers",
        ini=GUARDED,
        in_process=False,
    )
    result.assert_outcomes(passed=2, failed=1)
