"""P9: the unit is committed before a streamed body starts, and closed when it is over."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import closing
from io import BytesIO
from typing import Any

import pytest
from flask import Flask, Response, send_file, stream_template_string, stream_with_context
from flask.testing import FlaskClient
from sqlalchemy import select
from sqlalchemy.orm import Session

from flask_uow import Database, DiscardedWork, OutsideContext, UnitEnded
from tests.support.engines import checked_out
from tests.support.models import Post, User
from tests.support.witness import Witness


def streamed(body: Callable[[], Iterator[str]]) -> Response:
    return Response(stream_with_context(body()))


@pytest.fixture
def ada(witness: Witness) -> None:
    """A stored user with two posts."""
    witness.store(User(name="ada", posts=[Post(title="first"), Post(title="second")]))


# Before the body ------------------------------------------------------------------------------


def test_commit_comes_before_the_first_chunk(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """When the body starts, what the view wrote is stored."""

    @app.post("/")
    def create() -> Response:
        db.session.add(User(name="ada"))

        def body() -> Iterator[str]:
            yield ",".join(witness.names())

        return streamed(body)

    with closing(client.post("/")) as response:
        assert response.text == "ada"


def test_commit_does_not_wait_for_the_body(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """It is done when the status is known, though nobody has read a byte yet."""

    @app.post("/")
    def create() -> Response:
        db.session.add(User(name="ada"))
        return streamed(lambda: iter(["a", "b"]))

    with closing(client.post("/")) as response:
        assert response.status_code == 200
        assert witness.names() == ["ada"]


def test_commit_that_fails_stops_the_stream(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """No byte of the body leaves, and the client gets an error."""
    witness.store(User(name="ada"))
    chunks: list[str] = []

    @app.post("/")
    def create() -> Response:
        db.session.add(User(name="ada"))

        def body() -> Iterator[str]:
            chunks.append("sent")
            yield "sent"

        return streamed(body)

    with closing(client.post("/")) as response:
        assert response.status_code == 500
        assert "sent" not in response.text
    assert chunks == []
    assert checked_out() == 0


def test_stream_of_a_refused_answer_is_rolled_back(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """A streamed 400 stores nothing, and its body works."""

    @app.post("/")
    def create() -> tuple[Response, int]:
        db.session.add(User(name="ada"))
        db.session.flush()

        def body() -> Iterator[str]:
            yield str(db.session.query(User).count())

        return streamed(body), 400

    with closing(client.post("/")) as response:
        assert (response.status_code, response.text) == (400, "0")
    assert witness.names() == []


# In the body ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("ada")
@pytest.mark.parametrize("touched", [True, False])
def test_session_works_in_the_body(
    touched: bool, app: Flask, db: Database, client: FlaskClient
) -> None:
    """Whether the view has used it or the body is the first."""

    @app.get("/")
    def index() -> Response:
        if touched:
            db.session.query(User).count()

        def body() -> Iterator[str]:
            for title in db.session.scalars(select(Post.title).order_by(Post.id)):
                yield f"{title} "

        return streamed(body)

    with closing(client.get("/")) as response:
        assert response.text == "first second "
    assert checked_out() == 0


@pytest.mark.usefixtures("ada")
def test_body_has_the_session_of_its_view(app: Flask, db: Database, client: FlaskClient) -> None:
    """One context, one session: what the view loaded is found in the body."""
    seen: list[Session] = []

    @app.get("/")
    def index() -> Response:
        user = db.session.get_one(User, 1)
        seen.append(db.session())

        def body() -> Iterator[str]:
            seen.append(db.session())
            yield str(user in db.session)

        return streamed(body)

    with closing(client.get("/")) as response:
        assert response.text == "True"
    assert seen[0] is seen[1]


@pytest.mark.fault(
    "D10",
    fault="A streamed body reads what the view has not loaded yet",
    then="It works: the session is open until the body ends",
)
@pytest.mark.usefixtures("ada")
@pytest.mark.parametrize("wrote", [True, False])
def test_stream_template_can_lazy_load(
    wrote: bool, app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """Objects that the view loaded are still attached, after a commit as well."""

    @app.post("/")
    def create() -> Iterator[str]:
        user = db.session.get_one(User, 1)
        if wrote:
            user.email = "new"
        template = "{{ user.name }}:{% for post in user.posts %} {{ post.title }}{% endfor %}"
        return stream_template_string(template, user=user)

    with closing(client.post("/")) as response:
        assert response.text == "ada: first second"
    assert witness.ask(select(User.email)) == ["new" if wrote else None]
    assert checked_out() == 0


@pytest.mark.fault(
    "D10",
    fault="A streamed body reads what the view has not loaded yet",
    then="It works: the session is open until the body ends",
)
@pytest.mark.usefixtures("ada")
def test_plain_generator_can_lazy_load(app: Flask, db: Database, client: FlaskClient) -> None:
    """Without a context there is no ``db.session``, but loaded objects are still attached."""

    @app.get("/")
    def index() -> Iterator[str]:
        user = db.session.get_one(User, 1)

        def body() -> Iterator[str]:
            yield ",".join(post.title for post in user.posts)
            try:
                db.session.query(User)
            except OutsideContext:
                yield " refused"

        return body()

    with closing(client.get("/")) as response:
        assert response.text == "first,second refused"
    assert checked_out() == 0


def test_write_in_the_body_needs_an_explicit_commit(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """What the body commits is stored."""

    @app.post("/")
    def create() -> Response:
        def body() -> Iterator[str]:
            for number in range(3):
                db.session.add(Post(title=f"chunk {number}"))
                db.session.commit()
                yield str(number)

        return streamed(body)

    with closing(client.post("/")) as response:
        assert response.text == "012"
    assert witness.titles() == ["chunk 0", "chunk 1", "chunk 2"]


@pytest.mark.parametrize("touched", [True, False])
def test_write_in_the_body_without_a_commit_is_lost_and_named(
    touched: bool, app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """The answer has left already: nothing commits by itself, and a warning says so."""

    @app.post("/")
    def create() -> Response:
        if touched:
            db.session.add(User(name="ada"))

        def body() -> Iterator[str]:
            db.session.add(Post(title="lost"))
            yield "done"

        return streamed(body)

    with pytest.warns(DiscardedWork, match=r"1 Post \(new\)"):
        client.post("/", buffered=True)
    assert (witness.names(), witness.titles()) == (["ada"] if touched else [], [])
    assert checked_out() == 0


# The end of the body --------------------------------------------------------------------------


def start(app: Flask, db: Database, *, touched: bool) -> tuple[list[Session], FlaskClient]:
    """An app with a stream of three chunks; the first sends SQL, the second raises on demand."""
    seen: list[Session] = []

    @app.get("/<int:fail>")
    def index(fail: int) -> Response:
        if touched:
            db.session.query(User).count()

        def body() -> Iterator[str]:
            seen.append(db.session())
            yield str(db.session.query(User).count())
            if fail:
                raise LookupError
            yield "second"
            yield "third"

        return streamed(body)

    return seen, app.test_client()


def assert_over(session: Session) -> None:
    """The session has ended and every connection is back."""
    assert checked_out() == 0
    with pytest.raises(UnitEnded):
        session.scalars(select(User))


@pytest.mark.parametrize("touched", [True, False])
def test_stream_that_was_read_to_its_end_is_closed(touched: bool, app: Flask, db: Database) -> None:
    """The session has ended when the response is closed."""
    seen, client = start(app, db, touched=touched)
    with closing(client.get("/0")) as response:
        assert response.text == "0secondthird"
    assert_over(seen[0])


@pytest.mark.parametrize("touched", [True, False])
def test_stream_that_fails_is_closed(touched: bool, app: Flask, db: Database) -> None:
    """An error in the body ends the unit like its end does."""
    seen, client = start(app, db, touched=touched)
    with closing(client.get("/1")) as response, pytest.raises(LookupError):
        response.get_data()
    assert_over(seen[0])


@pytest.mark.fault(
    "W8",
    fault="The client disconnects in the middle of a stream",
    then="The session is closed; what the view wrote is stored",
)
@pytest.mark.parametrize("touched", [True, False])
def test_stream_that_is_abandoned_is_closed(touched: bool, app: Flask, db: Database) -> None:
    """A client that goes away: the server closes the response after the first chunk."""
    seen, client = start(app, db, touched=touched)
    with closing(client.get("/0")) as response:
        assert next(response.iter_encoded()) == b"0"
    assert_over(seen[0])


@pytest.mark.slow
@pytest.mark.fault(
    "K2",
    fault="A server forgets to close a streamed body",
    then="The body is closed when it is garbage-collected",
)
@pytest.mark.parametrize("touched", [True, False])
def test_stream_that_is_forgotten_is_closed_with_its_response(
    touched: bool, app: Flask, db: Database
) -> None:
    """A server that drops the response without closing it: the generator's own end must do."""
    seen, client = start(app, db, touched=touched)
    response = client.get("/0")
    assert next(response.iter_encoded()) == b"0"
    del response
    gc.collect()
    assert len(seen) == 1
    assert checked_out() == 0


def test_stream_that_is_never_started_is_closed(
    app: Flask, db: Database, client: FlaskClient
) -> None:
    """A client that goes away before the first chunk, or asked with HEAD."""
    seen: list[Session] = []

    @app.get("/")
    def index() -> Response:
        db.session.query(User).count()
        seen.append(db.session())
        return streamed(lambda: iter(["never read"]))

    client.get("/").close()
    client.head("/").close()
    assert len(seen) == 2
    for session in seen:
        assert_over(session)


@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_base_exception_in_a_stream_is_closed(
    signal: type[BaseException], app: Flask, db: Database, traffic: list[str]
) -> None:
    """A stopped worker discards the connection; a closed generator is an ordinary end."""

    @app.get("/")
    def index() -> Response:
        db.session.query(User).count()

        def body() -> Iterator[str]:
            yield str(db.session.query(User).count())
            raise signal

        return streamed(body)

    with closing(app.test_client().get("/")) as response, pytest.raises(signal):
        response.get_data()
    assert checked_out() == 0
    assert ("discard" in traffic) is (signal is not GeneratorExit)


def test_connection_is_free_between_the_view_and_the_body(
    app: Flask, db: Database, client: FlaskClient, traffic: list[str]
) -> None:
    """A slow client that has not asked for the first chunk holds no connection."""

    @app.get("/")
    def index() -> Response:
        db.session.query(User).count()
        return streamed(lambda: iter([str(db.session.query(User).count())]))

    with closing(client.get("/")) as response:
        assert checked_out() == 0
        assert response.text == "0"


def test_file_is_closed_like_a_stream(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """``send_file()`` answers with a body that the server reads: committed first, closed last."""

    @app.post("/")
    def create() -> Response:
        db.session.add(User(name="ada"))
        return send_file(BytesIO(b"content"), mimetype="text/plain")

    with closing(client.post("/")) as response:
        assert response.data == b"content"
        assert witness.names() == ["ada"]
    assert checked_out() == 0


class _Lines:
    """A body that can be read again and again, of unknown length."""

    def __iter__(self) -> Iterator[str]:
        yield "line"


def test_response_that_is_sent_again_closes_the_stream_of_each_request(
    app: Flask, db: Database, client: FlaskClient
) -> None:
    """A response of a module, which two requests send at a time, and a thousand in all."""
    kept, seen = Response(_Lines()), list[Session]()

    @app.get("/")
    def export() -> Response:
        seen.append(db.session())
        return kept

    with closing(client.get("/")) as first:
        with closing(client.get("/")) as second:
            assert second.text == "line"
        assert_over(seen[1])
        seen[0].scalars(select(User))
        assert first.text == "line"
    assert_over(seen[0])
    for _ in range(1000):
        with closing(client.get("/")) as response:
            assert response.text == "line"
        assert_over(seen.pop())


def test_next_request_after_an_abandoned_stream_is_clean(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """Nothing of it is committed later, by anybody."""

    @app.post("/stream")
    def stream() -> Response:
        def body() -> Iterator[str]:
            db.session.add(User(name="lost"))
            db.session.flush()
            yield "first"
            db.session.commit()
            yield "second"

        return streamed(body)

    @app.post("/")
    def create() -> str:
        db.session.add(User(name="kept"))
        return ""

    with closing(client.post("/stream")) as response:
        next(response.iter_encoded())
    client.post("/")
    assert witness.names() == ["kept"]


def test_stream_whose_close_raises_gives_its_connection_back(
    app: Flask, db: Database, client: FlaskClient, witness: Witness
) -> None:
    """Also if what the view loaded was read by the body, outside of any context."""
    witness.store(User(name="ada", posts=[Post(title="one")]))
    kept: list[Any] = []

    @app.get("/")
    def read() -> Response:
        user = db.session.query(User).one()
        kept.append(db.session())

        def body() -> Iterator[str]:
            try:
                yield user.posts[0].title
                yield "never"
            finally:
                raise ValueError("from close()")

        return Response(body())

    response = client.get("/")
    assert next(response.response) == b"one"  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="from close"):
        response.close()
    assert checked_out() == 0
    with pytest.raises(UnitEnded):
        kept[0].query(User).all()
