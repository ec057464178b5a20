"""P10: hooks run once, after the fact."""

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, abort, after_this_request, stream_with_context
from flask.testing import FlaskClient
from sqlalchemy import delete, event, select
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flask_uow import Database, DiscardedWork, HookRefused, PartialCommit, Rollback, testing
from tests.conftest import MakeApp
from tests.support.databases import anywhere, concurrently, on
from tests.support.models import Post, User
from tests.support.witness import Witness


@pytest.fixture
def ran() -> list[str]:
    """What the hooks of a test have written down."""
    return []


# Once, after the COMMIT, before the answer -----------------------------------------------------


@concurrently
def test_hook_finds_the_work_stored(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """When it runs, a second connection sees the row; at no earlier moment does it run."""
    seen: list[list[str]] = []

    @app.post("/")
    def create() -> str:
        db.on_commit(lambda: seen.append(witness.names()))
        db.session.add(User(name="ada"))
        db.session.flush()
        assert seen == []
        return ""

    client.post("/")
    assert seen == [["ada"]]


def test_hooks_run_in_their_order_before_the_response_leaves(
    app: Flask, db: Database, client: FlaskClient, traffic: list[str]
) -> None:
    """After the ``after_request`` functions and the COMMIT, before the first byte."""

    @app.after_request
    def last(response: Response) -> Response:
        traffic.append("after_request")
        return response

    @app.post("/")
    def create() -> str:
        db.on_commit(traffic.append, "first")
        db.session.add(User(name="ada"))
        db.on_commit(traffic.append, "second")
        return ""

    client.post("/")
    words = [word for word in traffic if word in {"COMMIT", "first", "second", "after_request"}]
    assert words == ["after_request", "COMMIT", "first", "second"]


def test_hooks_that_add_work_have_ten_commits(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """P5: a hook that adds itself each time does not keep the response; what is lost is named."""
    ran: list[str] = []

    def hook() -> None:
        ran.append(f"hook {len(ran)}")
        db.session.add(Post(title=ran[-1]))
        db.on_commit(hook)

    @app.post("/")
    def create() -> str:
        db.on_commit(hook)
        db.session.add(User(name="ada"))
        return ""

    with pytest.warns(DiscardedWork, match="1 Post"):
        assert client.post("/").status_code == 200
    assert len(ran) == 10
    assert witness.names() == ["ada"]
    assert witness.titles() == ran[:9]


@anywhere
def test_hook_runs_once_though_the_request_commits_again(
    app: Flask, db: Database, client: FlaskClient, ran: list[str]
) -> None:
    """Neither an explicit commit nor that of an ``after_request`` function runs it again."""

    @app.after_request
    def late(response: Response) -> Response:
        db.session.add(User(name="late"))
        db.on_commit(ran.append, "late")
        return response

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="first"))
        db.on_commit(ran.append, "first")
        db.session.commit()
        assert ran == ["first"]
        db.session.add(User(name="second"))
        db.on_commit(ran.append, "second")
        return ""

    client.post("/")
    assert ran == ["first", "second", "late"]


@anywhere
def test_hook_of_a_unit_that_wrote_nothing_runs(
    app: Flask, db: Database, client: FlaskClient, ran: list[str]
) -> None:
    """The request succeeded, so what was to happen on success happens; also after a read."""

    @app.get("/<int:reads>")
    def index(reads: int) -> str:
        if reads:
            db.session.scalars(select(User)).all()
        db.on_commit(ran.append, f"{reads} reads")
        assert ran in ([], ["0 reads"])
        return ""

    client.get("/0")
    client.get("/1")
    assert ran == ["0 reads", "1 reads"]


@anywhere
def test_hook_in_a_request_that_has_not_used_the_session_waits(
    app: Flask, db: Database, client: FlaskClient, ran: list[str]
) -> None:
    """A refused request drops it, though nothing was there to be rolled back."""

    @app.before_request
    def prepare() -> None:
        db.on_commit(ran.append, "never")
        db.on_rollback(ran.append, "undone")

    @app.post("/")
    def refuse() -> str:
        abort(409)

    client.post("/")
    assert ran == ["undone"]


@anywhere
def test_hook_as_a_decorator_and_with_arguments(
    app: Flask, db: Database, client: FlaskClient, ran: list[Any]
) -> None:
    """``@db.on_commit`` above a ``def``; the function stays what it was."""

    def note(*args: Any, **kwargs: Any) -> None:
        ran.append((args, kwargs))

    @app.post("/")
    def create() -> str:
        @db.on_commit
        def decorated() -> str:
            ran.append("decorated")
            return "result"

        assert db.on_commit(note, 1, "two", key="three") is note
        assert decorated.__name__ == "decorated"
        return ""

    client.post("/")
    assert ran == ["decorated", ((1, "two"), {"key": "three"})]


@anywhere
def test_hooks_run_before_a_streamed_body_starts(
    app: Flask, db: Database, client: FlaskClient, ran: list[str]
) -> None:
    """The unit of a stream is committed before its first byte (P9), and so are its hooks run."""

    @app.post("/")
    def create() -> Response:
        db.session.add(User(name="ada"))
        db.on_commit(ran.append, "hook")

        def body() -> Any:
            ran.append("body")
            yield "done"

        return Response(stream_with_context(body()))

    assert client.post("/").text == "done"
    assert ran == ["hook", "body"]


# Dropped with the work ------------------------------------------------------------------------


def test_hooks_are_dropped_with_their_unit(
    app: Flask, db: Database, client: FlaskClient, ran: list[str]
) -> None:
    """Whatever the reason; those for the rollback run, and the handler's own ones as well."""

    @app.errorhandler(LookupError)
    def handle(error: LookupError) -> tuple[str, int]:
        db.on_commit(ran.append, "handled")
        return "", 500

    @app.post("/<how>")
    def fail(how: str) -> tuple[str, int]:
        db.session.add(User(name=how))
        db.session.flush()
        db.on_commit(ran.append, "never")
        db.on_rollback(ran.append, how)
        if how == "raised":
            raise LookupError
        if how == "marked":
            db.set_rollback_only()
            return "", 200
        if how == "by hand":
            db.session.rollback()
            return "", 200
        return "", 400

    for how in ("raised", "marked", "by hand", "refused"):
        client.post(f"/{how}")
    assert ran == ["raised", "handled", "marked", "by hand", "refused"]


def test_hook_for_the_rollback_runs_before_the_error_handler(
    app: Flask, db: Database, client: FlaskClient, ran: list[str]
) -> None:
    """It belongs to the rollback, which comes first (P4)."""
    app.register_error_handler(LookupError, lambda error: (",".join(ran), 400))

    @app.post("/")
    def fail() -> str:
        db.session.add(User(name="ada"))
        db.on_rollback(ran.append, "rolled back")
        raise LookupError

    assert client.post("/").text == "rolled back"


def test_hooks_are_dropped_where_the_commit_fails(
    app: Flask, db: Database, client: FlaskClient, ran: list[str]
) -> None:
    """At the flush or at the COMMIT itself: what is not stored has no mail sent about it."""
    app.register_error_handler(OperationalError, lambda error: ("", 503))

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        db.on_commit(ran.append, "never")
        db.on_rollback(ran.append, "undone")
        return ""

    for at in ("commit", "execute"):
        with testing.lose_connection(db, at=at, app=app):
            assert client.post("/").status_code == 503
    assert ran == ["undone", "undone"]


def test_hooks_of_a_savepoint_are_dropped_with_it(
    app: Flask, db: Database, client: FlaskClient, ran: list[str]
) -> None:
    """``db.atomic()`` and ``begin_nested()`` alike; what is around them stays."""

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        db.on_commit(ran.append, "around")
        for block in (db.atomic, db.session.begin_nested):
            with pytest.raises(LookupError):  # noqa: PT012
                with block():
                    db.session.add(User(name="bob"))
                    db.on_commit(ran.append, "never")
                    db.on_rollback(ran.append, "undone")
                    raise LookupError
        assert ran == ["undone", "undone"]
        return ""

    client.post("/")
    assert ran == ["undone", "undone", "around"]


def test_hooks_of_a_released_savepoint_wait_for_the_commit(
    app: Flask, db: Database, client: FlaskClient, ran: list[str]
) -> None:
    """A RELEASE stores nothing. They keep their place in the order."""

    @app.post("/<int:status>")
    def create(status: int) -> tuple[str, int]:
        db.session.add(User(name=f"ada {status}"))
        db.on_commit(ran.append, "1")
        for block in (db.atomic, db.session.begin_nested):
            with block():
                db.session.add(Post(title="inside"))
                db.on_commit(ran.append, "2")
                db.on_rollback(ran.append, "undone")
        db.on_commit(ran.append, "3")
        assert ran == []
        return "", status

    client.post("/200")
    assert ran == ["1", "2", "2", "3"]
    ran.clear()
    client.post("/400")
    assert ran == ["undone", "undone"]


def test_hooks_of_a_flush_that_failed_in_a_block(
    app: Flask, db: Database, client: FlaskClient, witness: Witness, ran: list[str]
) -> None:
    """The block is undone with its hooks, the unit goes on with its own."""
    witness.store(User(name="ada"))

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="bob"))
        db.on_commit(ran.append, "around")
        with pytest.raises(IntegrityError):  # noqa: PT012
            with db.atomic():
                db.on_commit(ran.append, "never")
                db.session.add(User(name="ada"))
        return ""

    assert client.post("/").status_code == 200
    assert (ran, witness.names()) == (["around"], ["ada", "bob"])


def test_block_that_is_undone_without_a_savepoint_keeps_the_hooks_before_it(
    app: Flask, db: Database, client: FlaskClient, ran: list[str]
) -> None:
    """As the first work it needs none; a hook that was there before belongs to the request."""

    @app.post("/")
    def create() -> str:
        db.on_commit(ran.append, "before")
        with db.atomic():
            db.session.add(User(name="ada"))
            db.session.flush()
            db.on_commit(ran.append, "never")
            raise Rollback
        return ""

    client.post("/")
    assert ran == ["before"]


# A hook that fails ----------------------------------------------------------------------------


def test_hook_that_fails_is_logged_and_the_rest_run(
    app: Flask,
    db: Database,
    client: FlaskClient,
    witness: Witness,
    ran: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The answer stands, the row is stored: it is too late for an error."""

    def send_mail() -> None:
        raise LookupError("no mail server")

    @app.post("/")
    def create() -> tuple[str, int]:
        db.session.add(User(name="ada"))
        db.on_commit(send_mail)
        db.on_commit(ran.append, "the next")
        return "created", 201

    response = client.post("/")
    assert (response.status_code, response.text, ran) == (201, "created", ["the next"])
    assert witness.names() == ["ada"]
    (record,) = [one for one in caplog.records if one.name.startswith("flask_uow.")]
    assert record.levelno == logging.ERROR
    assert "send_mail failed. It was added by db.on_commit" in record.getMessage()
    assert "no mail server" in caplog.text


@anywhere
def test_database_error_in_a_hook_harms_nobody(
    app: Flask, db: Database, client: FlaskClient, witness: Witness, ran: list[str]
) -> None:
    """What the hook could not store is rolled back, and the next hook has a clean session."""
    witness.store(User(name="ada"))

    def duplicate() -> None:
        with db.atomic():
            db.session.add(User(name="ada"))

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="bob"))
        db.on_commit(duplicate)
        db.on_commit(lambda: ran.append(",".join(db.session.scalars(select(User.name)))))
        return ""

    assert client.post("/").status_code == 200
    assert ran == ["ada,bob"]


# Hooks that use the database ------------------------------------------------------------------


def test_hook_reads_and_writes(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """It has a new transaction of the same unit, which is committed before the answer leaves."""

    def follow_up(key: int) -> None:
        author = db.session.get_one(User, key)
        db.session.add(Post(title=f"by {author.name}"))

    @app.post("/")
    def create() -> str:
        ada = User(name="ada")
        db.session.add(ada)
        db.session.flush()
        db.on_commit(follow_up, ada.id)
        return ""

    assert client.post("/").status_code == 200
    assert witness.titles() == ["by ada"]


def test_hook_uses_blocks_and_further_hooks(
    app: Flask, db: Database, client: FlaskClient, witness: Witness, ran: list[str]
) -> None:
    """A block in a hook is undone by itself; a hook that a hook adds waits for the next commit."""

    def follow_up() -> None:
        with db.atomic():
            db.session.add(Post(title="kept"))
            db.on_commit(ran.append, "kept")
        with db.atomic():
            db.session.add(Post(title="undone"))
            db.on_commit(ran.append, "never")
            raise Rollback

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="ada"))
        db.on_commit(follow_up)
        return ""

    assert client.post("/").status_code == 200
    assert (witness.names(), witness.titles(), ran) == (["ada"], ["kept"], ["kept"])


@pytest.mark.parametrize("leave", [None, LookupError])
def test_hook_of_a_block_in_a_command_uses_the_database(
    leave: type[Exception] | None, app: Flask, db: Database, witness: Witness
) -> None:
    """Behind the block nothing is running, so the hook opens a block of its own."""

    def follow_up(title: str) -> None:
        with db.atomic() as session:
            session.add(Post(title=title))

    with app.app_context():
        try:
            with db.atomic() as session:
                db.on_commit(follow_up, "stored")
                db.on_rollback(follow_up, "undone")
                session.add(User(name="ada"))
                session.flush()
                if leave is not None:
                    raise leave
        except LookupError:
            pass
    assert witness.titles() == ["stored" if leave is None else "undone"]


@anywhere
@pytest.mark.parametrize(("name", "expected"), [("ada", ["stored"]), ("taken", ["undone"])])
def test_hook_that_is_added_by_the_flush_of_the_commit(
    name: str, expected: list[str], app: Flask, db: Database, witness: Witness, ran: list[str]
) -> None:
    """It runs: in a request, at the end of a block, at an explicit commit."""
    witness.store(User(name="taken"))

    def note_flush(_session: object, *_: object) -> None:
        db.on_commit(ran.append, "stored")
        db.on_rollback(ran.append, "undone")

    event.listen(db.session, "before_flush", note_flush)

    @app.post("/")
    def in_a_request() -> str:
        db.session.add(User(name=name))
        return ""

    @db.atomic
    def in_a_block() -> None:
        db.session.add(User(name=name))

    def by_hand() -> None:
        try:
            db.session.add(User(name=name))
            db.session.commit()
        except IntegrityError:
            db.session.rollback()

    def request() -> None:
        app.test_client().post("/")

    for write in (request, in_a_block, by_hand):
        ran.clear()
        with app.app_context(), contextlib.suppress(IntegrityError):
            write()
        assert ran == expected, write
        with witness.engine.begin() as connection:
            connection.execute(delete(User).where(User.name == "ada"))


@anywhere
def test_objects_are_readable_in_a_hook(
    app: Flask, db: Database, client: FlaskClient, traffic: list[str], ran: list[str]
) -> None:
    """The automatic commit expires nothing (P8): no statement is sent to read them."""

    @app.post("/")
    def create() -> str:
        ada = User(name="ada")
        db.session.add(ada)
        db.on_commit(lambda: ran.append(f"{ada.name} {len(traffic)}"))
        db.session.flush()
        return ""

    client.post("/")
    assert ran == [f"ada {traffic.index('COMMIT') + 2}"]  # with the checkin


# Outside of a request -------------------------------------------------------------------------


def test_hook_where_nothing_is_running_runs_at_once(
    app: Flask, db: Database, ran: list[str]
) -> None:
    """In a command without a block, and outside of any context; one for a rollback never does."""
    db.on_commit(ran.append, "no context")
    with app.app_context():
        db.on_commit(ran.append, "no unit")
        db.on_rollback(ran.append, "never")
        db.session.scalars(select(User)).all()
        db.session.commit()
        db.on_commit(ran.append, "nothing open")
    assert ran == ["no context", "no unit", "nothing open"]


def test_hook_of_an_explicit_commit_in_a_command(
    app: Flask, db: Database, witness: Witness, ran: list[str]
) -> None:
    """A transaction is open, so it waits for ``db.session.commit()`` or for the rollback."""
    with app.app_context():
        db.session.add(User(name="ada"))
        db.on_commit(ran.append, "stored")
        assert ran == []
        db.session.commit()
        assert ran == ["stored"]
        db.session.add(User(name="bob"))
        db.on_commit(ran.append, "never")
        db.on_rollback(ran.append, "undone")
        db.session.rollback()
    assert (ran, witness.names()) == (["stored", "undone"], ["ada"])


def test_hook_of_a_transaction_that_a_with_block_began(
    app: Flask, db: Database, witness: Witness, ran: list[str]
) -> None:
    """``with db.session.begin():`` is SQLAlchemy's own way, and its commit counts."""
    with app.app_context():
        with db.session.begin():
            db.session.add(User(name="ada"))
            db.on_commit(ran.append, "stored")
            assert ran == []
        assert ran == ["stored"]
        with pytest.raises(LookupError), db.session.begin():  # noqa: PT012
            db.session.add(User(name="bob"))
            db.on_commit(ran.append, "never")
            db.on_rollback(ran.append, "undone")
            raise LookupError
    assert (ran, witness.names()) == (["stored", "undone"], ["ada"])


def test_hooks_of_nested_blocks_in_a_command(
    app: Flask, db: Database, witness: Witness, ran: list[str]
) -> None:
    """They run behind the outermost block, in their order, without those that were undone."""
    with app.app_context():
        with db.atomic() as session:
            session.add(User(name="1"))
            db.on_commit(ran.append, "1")
            with db.atomic():
                session.add(User(name="2"))
                db.on_commit(ran.append, "2")
                with db.atomic():
                    session.add(User(name="3"))
                    db.on_commit(ran.append, "3")
                    raise Rollback
                db.on_commit(ran.append, "4")
            assert ran == []
        assert ran == ["1", "2", "4"]
    assert witness.names() == ["1", "2"]


@anywhere
def test_hooks_that_were_lost_are_counted_in_the_warning(
    app: Flask, db: Database, ran: list[str]
) -> None:
    """A context that ends without a commit names them beside the objects."""
    with pytest.warns(DiscardedWork, match=r"1 User \(new\).*2 hook.* \(not run\)|2 hook.*1 User"):
        with app.app_context():
            db.session.add(User(name="ada"))
            db.on_commit(ran.append, "never")
            db.on_commit(ran.append, "never")
    assert ran == []


@anywhere
def test_hook_after_the_rollback_of_a_context_that_ends(
    app: Flask, db: Database, ran: list[str]
) -> None:
    """``on_rollback`` hears of it, and may read; it leaves no unit behind."""
    with pytest.warns(DiscardedWork), app.app_context():
        db.session.add(User(name="ada"))
        db.on_rollback(lambda: ran.append(f"{len(db.session.scalars(select(User)).all())} users"))
    assert ran == ["0 users"]


# Engines and listeners ------------------------------------------------------------------------


class Base(DeclarativeBase):
    pass


class Here(Base):
    __tablename__ = "here"
    id: Mapped[int] = mapped_column(primary_key=True)


class There(Base):
    __tablename__ = "there"
    __bind_key__ = "other"
    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
def both() -> Database:
    return Database(Base)


@pytest.fixture
def two_engines(both: Database, make_app: MakeApp, tmp_path: Path) -> Flask:
    return make_app(both, SQLALCHEMY_BINDS={"other": f"sqlite:///{tmp_path / 'other.db'}"})


@anywhere
def test_hook_of_two_engines_runs_after_both_commits(
    two_engines: Flask, both: Database, ran: list[str]
) -> None:
    """Once, when everything is stored."""
    with two_engines.app_context():
        for name in ("default", "other"):
            event.listen(both.engines[name], "commit", lambda _, name=name: ran.append(name))

    @two_engines.post("/")
    def create() -> str:
        both.session.add_all([Here(), There()])
        both.on_commit(ran.append, "hook")
        return ""

    two_engines.test_client().post("/")
    assert ran == ["default", "other", "hook"]


@anywhere
def test_hook_of_two_engines_does_not_run_where_only_one_committed(
    two_engines: Flask, both: Database, ran: list[str]
) -> None:
    """Half of the work is not the work."""
    two_engines.register_error_handler(PartialCommit, lambda error: ("", 500))

    @two_engines.post("/")
    def create() -> str:
        both.session.add_all([Here(), There()])
        both.on_commit(ran.append, "never")
        both.on_rollback(ran.append, "undone")
        return ""

    with testing.fail_commit(both, engine="other", app=two_engines):
        assert two_engines.test_client().post("/").status_code == 500
    assert ran == ["undone"]


@anywhere
def test_hook_with_a_listener_of_the_users_own(
    app: Flask, db: Database, client: FlaskClient, ran: list[str]
) -> None:
    """A listener of ``after_commit`` makes the commit take another way; the hook runs once."""

    @app.post("/")
    def create() -> str:
        event.listen(db.session(), "after_commit", lambda _: ran.append("listener"))
        db.session.add(User(name="ada"))
        db.on_commit(ran.append, "hook")
        return ""

    client.post("/")
    assert ran == ["listener", "hook"]


@anywhere
def test_hook_of_a_view_that_commits_by_itself(
    app: Flask, db: Database, client: FlaskClient, ran: list[str]
) -> None:
    """With the rule "explicit" the hooks go with the view's commits; the rest is dropped."""

    @app.post("/")
    @db.unit(commit="explicit")
    def create() -> str:
        db.session.add(User(name="ada"))
        db.on_commit(ran.append, "stored")
        db.session.commit()
        db.session.add(User(name="bob"))
        db.on_commit(ran.append, "never")
        return ""

    client.post("/")
    assert ran == ["stored"]


# Functions that a hook adds in after_request --------------------------------------------------


@anywhere
def test_hook_of_late_work_runs_before_the_answer_leaves(
    app: Flask, db: Database, client: FlaskClient, ran: list[str]
) -> None:
    """What ``after_request`` functions write is committed by P5, and its hooks run then."""

    @app.post("/")
    def create() -> str:
        @after_this_request
        def late(response: Response) -> Response:
            db.session.add(User(name="late"))
            db.on_commit(ran.append, "late")
            return response

        return ""

    client.post("/")
    assert ran == ["late"]


# Bad input ------------------------------------------------------------------------------------


async def _coroutine() -> None: ...


class _AsyncCallable:
    async def __call__(self) -> None: ...


@pytest.mark.parametrize("add", ["on_commit", "on_rollback"])
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((3,), "was given 3, which cannot be called. Write 'db.{}(function, argument, ...)'"),
        ((None,), "was given None, which cannot be called"),
        ((_coroutine,), "the coroutine function '_coroutine', which would never be awaited"),
        ((_AsyncCallable(),), "would never be awaited"),
        ((print, User()), "(print, ...)' was given an object of the model 'User'"),
    ],
)
def test_hook_that_cannot_run_later_is_refused(
    add: str, arguments: tuple[Any, ...], sentence: str, db: Database
) -> None:
    """At once, where it was written, in one sentence."""
    with pytest.raises(HookRefused) as caught:
        getattr(db, add)(*arguments)
    assert sentence.format(add) in str(caught.value)
    assert f"'db.{add}" in str(caught.value)


def test_hook_with_an_object_as_a_keyword_is_refused(db: Database) -> None:
    """The sentence says what to pass instead."""
    with pytest.raises(HookRefused, match="Pass its primary key, and load it again"):
        db.on_commit(print, file=User())  # type: ignore[arg-type]


@on("postgresql")
def test_hook_is_not_run_where_the_server_threw_the_transaction_away(
    app: Flask, db: Database, client: FlaskClient, witness: Witness, ran: list[str]
) -> None:
    """A COMMIT that would store nothing is a failed commit (P3)."""
    witness.store(User(name="ada"))

    @app.post("/")
    def create() -> str:
        db.on_commit(ran.append, "never")
        db.session.add(Post(title="lost"))
        db.session.flush()
        with contextlib.suppress(IntegrityError):
            db.session.connection().exec_driver_sql("INSERT INTO users (name) VALUES ('ada')")
        return ""

    assert client.post("/").status_code == 500
    assert (ran, witness.titles()) == ([], [])


# The small print ------------------------------------------------------------------------------


def test_hook_that_ends_the_process_does_not_take_the_others_along(
    app: Flask, db: Database, witness: Witness, ran: list[str]
) -> None:
    """The work is stored, so what waits for that runs; then the exception goes on."""

    @db.atomic
    def create() -> None:
        db.session.add(User(name="ada"))
        db.on_commit(sys.exit)
        db.on_commit(ran.append, "behind it")

    with app.app_context(), pytest.raises(SystemExit):
        create()
    assert (witness.names(), ran) == (["ada"], ["behind it"])


def test_hook_of_a_block_that_was_interrupted_before_its_first_statement_is_dropped(
    app: Flask, db: Database, ran: list[str]
) -> None:
    """The next block does not run it."""

    @db.atomic
    def interrupted() -> None:
        db.on_commit(ran.append, "of the interrupted")
        raise KeyboardInterrupt

    with app.app_context():
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        with db.atomic():
            db.session.add(User(name="ada"))
    assert ran == []


def test_hooks_that_hooks_add_run_as_well_and_what_they_write_is_stored(
    app: Flask, db: Database, client: FlaskClient, witness: Witness, ran: list[str]
) -> None:
    """P5: late work is not lost, however late."""

    def again(left: int) -> None:
        ran.append(f"{left} left")
        db.session.add(User(name=f"{left} left"))
        if left:
            db.on_commit(again, left - 1)

    @app.post("/")
    def create() -> str:
        db.on_commit(again, 2)
        return ""

    assert client.post("/").status_code == 200
    assert ran == ["2 left", "1 left", "0 left"]
    assert witness.names() == sorted(ran)


def test_hook_is_not_bound_by_the_options_of_its_block(
    app: Flask, db: Database, witness: Witness
) -> None:
    """A block that only reads may have something written when it is over."""

    def note() -> None:
        with db.atomic():
            db.session.add(User(name="report sent"))

    with app.app_context(), db.atomic(read_only=True):
        db.session.scalars(select(User)).all()
        db.on_commit(note)
    assert witness.names() == ["report sent"]


def test_engine_as_an_argument_is_not_connected(
    app: Flask, db: Database, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether an argument is an ORM object is seen without asking the database."""
    with app.app_context():
        monkeypatch.setattr(db.engine.pool, "connect", None)
        db.on_commit(ran.append, db.engine)  # type: ignore[arg-type]
    assert len(ran) == 1
