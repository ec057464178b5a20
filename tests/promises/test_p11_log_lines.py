"""P11: no text from a request goes into a log or a message unescaped.

A path, a method and a host come from the client, and so may values in an error of the database. A
line break in them would forge a line of the log, an escape sequence would reach the terminal on
which it is read, and a path may contain a token.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from werkzeug.test import EnvironBuilder, TestResponse

from flask_uow import Database, DiscardedWork, Flask, PoolExhausted, ReadOnly, TransactionLost
from flask_uow._drivers.known import DRIVERS
from flask_uow._request.context import request_name
from flask_uow._unit.unit import _warn
from flask_uow.errors import escaped, shown
from flask_uow.migrations.connectivity import driver_message
from flask_uow.migrations.messages import command_error
from flask_uow.migrations.results import named
from tests.conftest import MakeApp
from tests.support.databases import anywhere, on
from tests.support.models import User

TOKEN = "s3cr3t"
FORGED = "2026-11-28 CRITICAL auth: admin logged in"
BREAKS = ("\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029")
HOSTILE = f"{TOKEN}{''.join(line + FORGED for line in BREAKS)}\x1b[31m\x00\x07\u202e\u200b\udc80"


def assert_clean(message: str, *, token: bool = False) -> None:
    """No line of *message* is forged, and all of its characters can be printed.

    :param token: the text that came from outside may be named, if it is escaped.
    """
    lines = message.split("\n")  # a report of the package has several
    assert all(line.isprintable() for line in lines), message
    assert not any(line.startswith(FORGED) for line in lines), message
    assert token or (TOKEN not in message and FORGED not in message), message


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the package has logged."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("flask_uow")]


def send(client: FlaskClient, rule: str, **environ: str) -> TestResponse:
    """A request whose path, query, host and client address are hostile."""
    overrides = {"PATH_INFO": _latin(rule + HOSTILE), "QUERY_STRING": TOKEN, **environ}
    return client.open(
        EnvironBuilder(method="GET", environ_overrides=overrides).get_environ()
        | {"HTTP_HOST": f"x{TOKEN}", "REMOTE_ADDR": HOSTILE}
    )


def _latin(path: str) -> str:
    """Encode *path* as WSGI does."""
    return path.encode("utf-8", "surrogateescape").decode("latin-1")


@pytest.fixture
def slow(make_app: MakeApp, db: Database) -> Flask:
    """An app that names each checkout in its log."""
    app = make_app(UOW_HOLD_WARNING=0)

    @app.get("/user/<path:name>")
    def user(name: str) -> str:
        assert FORGED in name
        return str(db.session.connection().scalar(text("SELECT 1")))

    return app


@anywhere
def test_a_long_hold_names_the_rule(slow: Flask, caplog: pytest.LogCaptureFixture) -> None:
    """With its endpoint, and without what the client has put into the path."""
    assert send(slow.test_client(), "/user/").status_code == 200
    (message,) = messages(caplog)
    assert "by GET /user/<path:name> (endpoint 'user'), from " in message
    assert_clean(message)


@anywhere
@pytest.mark.parametrize("method", ["GET", f"G{HOSTILE}"], ids=["path", "method"])
def test_a_request_without_a_rule_has_no_path(
    slow: Flask, db: Database, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    """A scanner sends the wildest paths."""

    @slow.before_request
    def look() -> None:
        db.session.connection()  # a transaction begins

    assert send(slow.test_client(), "/nowhere/", REQUEST_METHOD=method).status_code == 404
    (message,) = messages(caplog)
    assert ", which no rule of the app matches, from " in message
    assert_clean(message, token=method != "GET")


@on("sqlite-file", "postgresql")
def test_an_exhausted_pool_names_the_rules(
    make_app: MakeApp, db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """The error that one client gets does not show the path of another."""
    options = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.05}
    app = make_app(SQLALCHEMY_ENGINE_OPTIONS=options, UOW_HOLD_WARNING=0)
    caplog.clear()  # of 'create_all()'
    errors: list[Exception] = []

    @app.get("/user/<path:name>")
    def user(name: str) -> str:
        db.session.connection()  # a transaction begins
        with pytest.raises(PoolExhausted) as caught, db.engine.connect():
            pass
        errors.append(caught.value)
        return name[:1]

    assert send(app.test_client(), "/user/").status_code == 200
    for message in [str(errors[0]), *messages(caplog)]:
        assert "GET /user/<path:name> (endpoint 'user')" in message
        assert_clean(message)


@anywhere
def test_a_view_that_runs_again_is_named_by_its_rule(
    app: Flask, db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Flask's own name of a request has the whole URL in it."""
    attempts: list[str] = []

    @app.get("/user/<path:name>")
    @db.unit(retries=1)
    def user(name: str) -> str:
        attempts.append(name)
        if len(attempts) == 1:
            error = db.engine.dialect.loaded_dbapi.OperationalError("database is locked")
            raise DBAPIError("", {}, error)
        return ""

    with caplog.at_level(logging.INFO, "flask_uow"):
        assert send(app.test_client(), "/user/").status_code == 200
    (message,) = messages(caplog)
    assert "A conflict: GET /user/<path:name> (endpoint 'user') is run again" in message
    assert_clean(message)


@anywhere
def test_a_hook_is_named_without_its_arguments(
    app: Flask, db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """The repr() of a partial function shows them."""

    def send_mail(_address: str) -> None:
        raise RuntimeError

    @app.get("/user/<path:name>")
    def user(name: str) -> str:
        db.on_commit(partial(send_mail, name))
        return ""

    assert send(app.test_client(), "/user/").status_code == 200
    (message,) = messages(caplog)
    assert "send_mail failed. It was added by db.on_commit" in message
    assert_clean(message)


@anywhere
def test_the_name_of_a_thread_is_escaped(
    slow: Flask, db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Servers and libraries name threads after the request that they serve."""
    with slow.app_context():
        engine = db.engine
    thread = threading.Thread(target=lambda: engine.connect().close(), name=HOSTILE)
    thread.start()
    thread.join()
    (message,) = messages(caplog)
    assert f"by the thread {HOSTILE!r}, from " in message
    assert_clean(message, token=True)


@on("sqlite-file")
def test_the_thread_that_has_the_write_lock_is_escaped(make_app: MakeApp, db: Database) -> None:
    """The error of a writer whose turn did not come names it."""
    app = make_app(UOW_SQLITE_BUSY_TIMEOUT=0.05)
    inside, done = threading.Event(), threading.Event()

    def hold() -> None:
        with app.app_context(), db.atomic():
            db.session.add(User(name="ada"))
            db.session.flush()
            inside.set()
            done.wait(20)

    thread = threading.Thread(target=hold, name=HOSTILE)
    thread.start()
    inside.wait(20)
    with app.app_context(), pytest.raises(DBAPIError) as caught, db.atomic():
        db.session.execute(text("SELECT 1"))
    done.set()
    thread.join()
    message = str(caught.value.orig)
    assert repr(HOSTILE) in message
    assert_clean(message, token=True)


@anywhere
def test_the_text_of_a_refused_statement_is_escaped(app: Flask, db: Database) -> None:
    """A name that an app puts into its SQL may come from a client."""
    with app.app_context(), db.atomic(read_only=True), pytest.raises(ReadOnly) as caught:
        db.session.execute(text(f"DELETE FROM users -- \x1b[31m{HOSTILE}".replace("\x00", "")))
    assert_clean(str(caught.value), token=True)


@on("postgresql")
def test_the_error_that_has_ended_a_transaction_is_escaped(app: Flask, db: Database) -> None:
    """PostgreSQL shows the value of a duplicate key as it is."""
    name = HOSTILE.replace("\x00", "").replace("\udc80", "")
    with app.app_context():
        db.session.add(User(name="ada"))
        db.session.commit()
        insert = text("INSERT INTO users (id, name) VALUES (CAST(:name AS int), :name)")
        with pytest.raises(DBAPIError):
            db.session.execute(insert, {"name": name})
        with pytest.raises(TransactionLost) as caught:
            db.session.execute(text("SELECT 1"))
        db.session.rollback()
    assert TOKEN in str(caught.value)
    assert_clean(str(caught.value), token=True)


def test_a_notice_of_the_server_is_escaped(caplog: pytest.LogCaptureFixture) -> None:
    """A notice comes from the server, but its text is whatever arrives over the network."""
    engine = create_engine("postgresql+psycopg://")
    handlers: list[Any] = []
    DRIVERS["psycopg"].watch_notices(engine, "default")
    (listener,) = [one for one in engine.pool.dispatch.connect if one.__qualname__[:7] == "Psycopg"]
    listener(SimpleNamespace(add_notice_handler=handlers.append), None)
    handlers[0](
        SimpleNamespace(
            source_function="SyncRepWaitForLSN", message_primary=HOSTILE, message_detail=HOSTILE
        )
    )
    (message,) = messages(caplog)
    assert_clean(message, token=True)


def test_all_other_text_from_outside_is_escaped() -> None:
    """Text of an object, a driver, a class, a request, and the arguments of a command."""

    class Value:
        def __repr__(self) -> str:
            return HOSTILE

    with pytest.warns(DiscardedWork) as caught:
        _warn(Counter({(HOSTILE, "new"): 1}), None, None)
    request = EnvironBuilder(method="GET").get_request()
    request.method, request.url_rule = HOSTILE, None  # type: ignore[attr-defined]
    for message in (
        shown(Value()),
        driver_message(RuntimeError(HOSTILE)),
        str(command_error(RuntimeError(HOSTILE), Path("migrations"), "db")),
        named(SimpleNamespace(revision="a1", doc=HOSTILE)),  # type: ignore[arg-type]
        str(caught[0].message),
        request_name(request),  # type: ignore[arg-type]
    ):
        assert TOKEN in message
        assert_clean(message, token=True)


def test_ordinary_text_stays_as_it_is() -> None:
    """Letters of every script, and the backslash of a path of Windows."""
    for line in ("", "Grüße, 東京 🎉", r"C:\apps\shop", 'it\'s "quoted"'):
        assert escaped(line) == line
    assert escaped(" two\n  lines\t") == "two lines"
    assert escaped("\x1b[31m\u202e") == r"\x1b[31m\u202e"
