"""How far a request, or a command, walks through the files of flask_uow: calls, files, changes.

``sys.setprofile`` hears of each call of a Python function. Counted are those of functions that lie
in the package: how many there are, in how many files, and how often a call lies in another file
than the one before it. The figures do not depend on the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from flask import Flask
from sqlalchemy.exc import IntegrityError
from werkzeug.test import EnvironBuilder

import flask_uow
from flask_uow import Database

from ._measure import table, versions
from ._stacks import OURS, WAYS, Stack, add_url

PACKAGE = f"{Path(flask_uow.__file__).parent}{os.sep}"
WARM_UP = 5
# What some versions of Python compile to a function of its own.
_NO_CALLS = {"<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>", "<module>"}


class Walk:
    """The calls of functions of the package, in their order.

    :ivar files: the file of each call, relative to the package.
    """

    def __init__(self) -> None:
        self.files: list[str] = []
        self.names: list[str] = []

    def __call__(self, frame: FrameType, happening: str, _: Any) -> None:
        code = frame.f_code
        is_ours = happening == "call" and code.co_filename.startswith(PACKAGE)
        if is_ours and code.co_name not in _NO_CALLS:
            self.files.append(code.co_filename.removeprefix(PACKAGE))
            self.names.append(f"{self.files[-1]}:{frame.f_lineno} {code.co_name}")

    def row(self, name: str) -> list[object]:
        """What the table says of it."""
        pairs = zip(self.files, self.files[1:], strict=False)
        changes = sum(before != after for before, after in pairs)
        return [name, len(self.files), len(set(self.files)), changes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_url(parser)
    parser.add_argument("--calls", metavar="WALK", help="name each call of one of the walks")
    options = parser.parse_args()
    logging.disable()
    print(versions("Flask", "SQLAlchemy", "alembic"), "\n", file=sys.stderr)
    walks = dict(_requests(options.url))
    if options.url == "sqlite://":
        walks.update(_upgrades())
    if options.calls:
        print("\n".join(walks[options.calls].names))
    else:
        head = ["walk", "calls", "files", "changes of file"]
        print(table(head, [walk.row(name) for name, walk in walks.items()]))


@contextlib.contextmanager
def _walking() -> Iterator[Walk]:
    walk = Walk()
    sys.setprofile(walk)
    try:
        yield walk
    finally:
        sys.setprofile(None)


# Requests -------------------------------------------------------------------------------------


def _requests(url: str) -> Iterator[tuple[str, Walk]]:
    with TemporaryDirectory() as folder:
        file = f"sqlite:///{Path(folder, 'walks.db')}"
        stack = WAYS[OURS].build(file if url == "sqlite://" else url, "benchmark_walks")
        _add_failing_view(stack)
        stack.fill()
        try:
            yield "untouched", _walk_of(stack.request("untouched"))
            yield from _accesses(stack)
            yield "GET, one SELECT", _walk_of(stack.request("read by key"))
            yield "POST, one INSERT", _walk_of(stack.request("insert"))
            yield "failing commit, handled", _walk_of(_failing(stack.app))
        finally:
            stack.remove()


def _walk_of(request: Callable[[], object]) -> Walk:
    for _ in range(WARM_UP):
        request()
    with _walking() as walk:
        request()
    return walk


def _accesses(stack: Stack) -> Iterator[tuple[str, Walk]]:
    with stack.app.test_request_context("/"):
        for name in ("first", "second"):
            with _walking() as walk:
                stack.db.session.autoflush  # noqa: B018
            yield f"{name} access", walk


def _add_failing_view(stack: Stack) -> None:
    """A view whose commit fails, and an error handler that has a response for it."""

    @stack.app.post("/users/again")
    def insert_again() -> str:
        stack.db.session.add(stack.user(id=1, name="Ada"))
        return ""

    stack.app.register_error_handler(IntegrityError, lambda _: ("", 409))


def _failing(app: Flask) -> Callable[[], None]:
    environ = EnvironBuilder("/users/again", method="POST").get_environ()
    seen: list[str] = []

    def request() -> None:
        fresh = {**environ, "wsgi.input": io.BytesIO()}
        start_response: Any = lambda status, *_: seen.append(status)  # noqa: E731
        body: Any = app.wsgi_app(fresh, start_response)
        body.close()
        assert seen.pop().startswith("409")

    return request


# Commands -------------------------------------------------------------------------------------

_REVISION = '''"""Add people"""

import sqlalchemy as sa
from alembic import op

revision = "1234567890ab"
down_revision = None
branch_labels = None
depends_on = None


def upgrade():
    op.create_table("people", sa.Column("id", sa.Integer(), primary_key=True))


def downgrade():
    op.drop_table("people")
'''


def _upgrades() -> Iterator[tuple[str, Walk]]:
    """Each command in an app of its own, whose engine is made and whose imports are done."""
    with TemporaryDirectory() as folder, _inside(folder):
        _run(_app(folder, "warm"), "init")
        versions_folder = Path(folder, "migrations", "versions")
        versions_folder.joinpath("1234567890ab_add_people.py").write_text(_REVISION)
        _run(_app(folder, "warm"), "upgrade")
        for name in ("one revision", "nothing to do"):
            yield f"flask db upgrade, {name}", _run(_app(folder, "walks"), "upgrade")


@contextlib.contextmanager
def _inside(folder: str) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _app(folder: str, name: str) -> Flask:
    db = Database()
    app = Flask(__name__, root_path=folder, instance_path=folder)
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{Path(folder, name)}.db"
    db.init_app(app)
    with app.app_context():
        db.engines["default"].connect().close()  # what any process does once
    return app


def _run(app: Flask, command: str) -> Walk:
    runner = app.test_cli_runner()
    with _walking() as walk:
        result = runner.invoke(args=["db", command])
    assert result.exit_code == 0, result.output
    return walk


if __name__ == "__main__":
    main()
