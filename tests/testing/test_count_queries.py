"""``testing.count_queries(db)``: which statements count, and how they are shown."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, render_template
from sqlalchemy import create_engine, event, select, text
from sqlalchemy.exc import DBAPIError

from flask_uow import Database, OutsideContext, SetupError, testing
from flask_uow._transaction.statements import is_transaction_control
from tests.conftest import MakeApp
from tests.support.databases import anywhere, concurrently
from tests.support.models import Post, User

Use = Callable[[Database, Any], AbstractContextManager[object]]


def line_of(mark: str) -> str:
    """The place of the line of this file that ends with the comment *mark*."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    (number,) = (n for n, line in enumerate(lines, 1) if line.endswith(f"# {mark}"))
    return f"{__file__}:{number} in "


def first_words(queries: testing.CountedQueries) -> list[str]:
    return [query.statement.split()[0] for query in queries]


def store_posts(app: Flask, db: Database) -> None:
    with app.app_context(), db.atomic():
        for name in ("ada", "bob", "eve"):
            db.session.add(User(name=name, posts=[Post(title=f"by {name}")]))


@concurrently
def test_the_statements_of_a_request_are_counted(app: Flask, db: Database) -> None:
    """Those of the view, and the flush of the commit; not BEGIN, COMMIT and savepoints."""

    @app.post("/")
    def store() -> str:
        db.session.add(User(name="ada"))
        with db.atomic():
            db.session.add(User(name="bob"))
            db.session.flush()
        db.session.scalars(select(User)).all()  # the select
        with db.session.begin_nested():
            pass
        db.session.add(User(name="eve"))
        return ""

    with testing.count_queries(db, app=app) as queries:
        assert app.test_client().post("/").status_code == 200
        seen_inside = len(queries)
    assert first_words(queries)[-2:] == ["SELECT", "INSERT"]
    assert set(first_words(queries)) == {"SELECT", "INSERT"}
    assert seen_inside == len(queries) == queries.count
    assert queries[-1].location == "the commit at the end of the request"
    assert queries[-2].location.startswith(line_of("the select"))
    assert app.test_client().post("/missing").status_code == 404
    before = len(queries)
    with app.app_context():
        db.session.scalar(select(1))
    assert len(queries) == before  # the block has ended


@concurrently
def test_every_thread_and_every_way_to_send_counts(app: Flask, db: Database) -> None:
    """A thread, an engine without the session, an independent session, a failed statement."""

    def in_thread() -> None:
        with app.app_context():
            db.session.scalar(select(1))

    with app.app_context(), testing.count_queries(db) as queries:
        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join()
        with db.engine.connect() as connection:
            connection.exec_driver_sql("SELECT 2")
        with db.independent() as session:
            session.execute(text("SELECT 3"))
        with pytest.raises(DBAPIError):
            db.session.execute(text("SELECT x FROM no_such_table"))
        db.session.rollback()
    assert [query.statement for query in queries] == [
        "SELECT 1",
        "SELECT 2",
        "SELECT 3",
        "SELECT x FROM no_such_table",
    ]
    assert queries[3].error
    assert "no_such_table" in str(queries)


@anywhere
def test_many_rows_in_one_statement_count_once(app: Flask, db: Database) -> None:
    with app.app_context(), testing.count_queries(db) as queries:
        db.session.execute(text("UPDATE users SET name = :n"), [{"n": "a"}, {"n": "b"}])
        db.session.rollback()
    assert len(queries) == 1


@anywhere
def test_repeated_statements_are_pointed_out(app: Flask, db: Database) -> None:
    """With their count and their places: the lazy load in a loop, and the same one elsewhere."""
    store_posts(app, db)

    @app.get("/")
    def index() -> list[str]:
        posts = db.session.scalars(select(Post)).all()
        return [str(post.author and post.author.name) for post in posts]  # the loop

    with testing.count_queries(db, app=app) as queries:
        app.test_client().get("/")
    assert len(queries) == 4
    (repetition,) = queries.repeated()
    assert repetition.count == 3
    assert "FROM users" in repetition.statement
    (place,) = repetition.locations
    assert place.startswith(line_of("the loop"))
    report = str(queries)
    assert report.startswith("4 statements:\n  1. SELECT posts.id")
    assert "\n  4. SELECT" in report
    assert f"  3 times {testing.queries.shortened(repetition.statement)}\n     {place}" in report


@anywhere
def test_the_line_of_a_template_is_named(app: Flask, db: Database, tmp_path: Path) -> None:
    """Most loops that load one row in each round are in templates; Jinja is no place."""
    store_posts(app, db)
    template = tmp_path / "posts.html"
    template.write_text("<ul>\n{% for post in posts %}\n\n{{ post.author.name }}\n{% endfor %}")
    app.template_folder = str(tmp_path)

    @app.get("/")
    def index() -> str:
        return render_template("posts.html", posts=db.session.scalars(select(Post)).all())

    with testing.count_queries(db, app=app) as queries:
        assert "ada" in app.test_client().get("/").text
    (repetition,) = queries.repeated()
    assert repetition.locations == [f"{template}:4 in the template 'posts.html'"]


@anywhere
def test_counts_may_be_nested(app: Flask, db: Database) -> None:
    """Each has what was sent in its own block."""
    with app.app_context():
        with testing.count_queries(db) as outer:
            db.session.scalar(select(1))
            with testing.count_queries(db) as inner:
                db.session.scalar(select(1))
            with testing.count_queries(db) as nothing:
                pass
    assert (len(outer), len(inner), len(nothing)) == (2, 1, 0)
    assert str(nothing) == "No statements."
    assert repr(inner) == "<1 statement>"


@anywhere
def test_the_engines_of_the_app_and_no_other(
    make_app: MakeApp, db: Database, tmp_path: Path
) -> None:
    """All of the app's engines, by name; neither those of another app nor a plain one."""
    app = make_app(SQLALCHEMY_BINDS={"log": f"sqlite:///{tmp_path}/log.db"})
    other = make_app()
    plain = create_engine("sqlite://")
    with testing.count_queries(db, app=app) as queries:
        with app.app_context(), db.engines["log"].connect() as connection:
            connection.execute(select(1))
        with other.app_context():
            db.session.execute(text("SELECT 2"))
        with plain.connect() as connection:
            connection.execute(text("SELECT 3"))
    plain.dispose()
    assert [(query.statement, query.engine) for query in queries] == [("SELECT 1", "log")]
    assert "on the engine 'log'" in str(queries)


@anywhere
def test_recording_and_counting_do_not_disturb_each_other(make_app: MakeApp, db: Database) -> None:
    """A statement that ran is noted by both, and one that failed, too."""
    app = make_app(SQLALCHEMY_RECORD_QUERIES=True)
    with app.app_context(), testing.count_queries(db) as queries:
        db.session.scalar(select(1))
        with pytest.raises(DBAPIError):
            db.session.execute(text("SELECT x FROM no_such_table"))
        db.session.rollback()
        recorded = db.recorded_queries()
    assert [query.statement for query in recorded] == [query.statement for query in queries]
    assert len(recorded) == 2


@anywhere
def test_a_count_leaves_the_listeners_of_the_engine_alone(app: Flask, db: Database) -> None:
    """One is added at the first count: a thread that sends meanwhile is not disturbed."""
    with app.app_context():
        engine = db.engine
        listeners = engine.dispatch.before_cursor_execute
        with testing.count_queries(db):
            pass
        before = list(listeners)
        for _ in range(3):
            with testing.count_queries(db):
                pass
        assert list(listeners) == before

        @event.listens_for(engine, "before_cursor_execute")
        def count_meanwhile(*_: object) -> None:
            with testing.count_queries(db):
                pass

        assert db.session.scalar(select(1)) == 1


@anywhere
def test_a_long_report_is_cut(app: Flask, db: Database) -> None:
    """A long list, a long statement: the ends of a statement tell the most."""
    with app.app_context(), testing.count_queries(db) as queries:
        for number in range(40):
            db.session.execute(text(f"SELECT {number}"))
        db.session.execute(text(f"SELECT {', '.join(['1'] * 200)} WHERE 1 = 1"))
    report = str(queries)
    assert "\n 30. SELECT 29\n" in report
    assert "... and 11 more" in report
    long = testing.queries.shortened(queries[40].statement)
    assert long.startswith("SELECT 1, 1")
    assert long.endswith("WHERE 1 = 1")
    assert len(long) < 260


@anywhere
@pytest.mark.parametrize(
    ("use", "error", "words"),
    [
        (lambda db, _: testing.count_queries(db), OutsideContext, "'app=app'"),
        (lambda _, app: testing.count_queries(app), SetupError, "needs a 'Database'"),
        (lambda _, app: testing.count_queries(Database(), app=app), SetupError, "another one"),
    ],
    ids=["outside", "app", "stranger"],
)
def test_bad_input_gets_a_sentence(
    use: Use, error: type[Exception], words: str, app: Flask, db: Database
) -> None:
    with pytest.raises(error, match=words):
        with use(db, app):
            pass


@pytest.mark.parametrize(
    ("statement", "is_control"),
    [
        ("BEGIN", True),
        ("begin immediate", True),
        ("START TRANSACTION READ ONLY", True),
        ("-- why\nCOMMIT", True),
        ("SAVEPOINT sa_savepoint_1", True),
        ("RELEASE SAVEPOINT sa_savepoint_1", True),
        ("ROLLBACK TO SAVEPOINT sa_savepoint_1", True),
        ("BEGIN shop.close_books(:day); END;", False),
        ("SELECT 'commit'", False),
        ("", False),
    ],
)
def test_what_only_begins_or_ends_a_transaction(statement: str, is_control: bool) -> None:
    assert is_transaction_control(statement) is is_control
