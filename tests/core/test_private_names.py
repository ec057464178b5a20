"""The private names of Flask that the package uses exist; CI runs this on several versions.

And those of all libraries stand in one list each.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, after_this_request, request

import flask_uow
from flask_uow._request import flask_private
from flask_uow._request.flask_private import current_app_context, current_request_context

PACKAGE = Path(flask_uow.__file__).parent


@pytest.fixture
def bare_app() -> Flask:
    """An app without any extension."""
    return Flask(__name__)


def test_the_current_contexts(bare_app: Flask) -> None:
    """They are found, and known to be active until they are popped."""
    assert current_app_context(None) is current_request_context(None) is None
    assert flask_private.current_context() is None
    with bare_app.app_context() as outer:
        assert flask_private.current_context() is current_app_context(None) is outer
        with bare_app.test_request_context() as inner:
            assert flask_private.current_context() is current_request_context(None) is inner
            assert flask_private.is_open(inner)
        assert not flask_private.is_open(inner)
    assert not flask_private.is_open(outer)


def test_a_request_knows_the_app_context_that_it_pushed(bare_app: Flask) -> None:
    """Another one that is pushed inside it is the current one."""
    with bare_app.test_request_context() as outer:
        assert flask_private.current_context() is outer
        with bare_app.app_context() as inner:
            assert flask_private.current_context() is inner
        assert flask_private.current_context() is outer


def test_the_contexts_around_one(bare_app: Flask) -> None:
    """A served request has none; a request of a test has those of its thread."""
    with bare_app.test_request_context() as served:
        assert list(flask_private.contexts_around(served)) == []
    with bare_app.app_context() as outer, bare_app.test_request_context() as middle:
        assert flask_private.contexts_around(middle) == [outer]
        with bare_app.app_context() as inner, middle:
            assert set(flask_private.contexts_around(inner)) == {outer, middle}


def test_the_functions_after_this_request(bare_app: Flask) -> None:
    """They are those that a view has added."""

    def function(response: Any) -> Any:
        return response

    with bare_app.test_request_context() as context:
        assert flask_private.after_this_request_functions(context) == []
        after_this_request(function)
        assert flask_private.after_this_request_functions(context) == [function]


def test_the_cached_body_of_a_request(bare_app: Flask) -> None:
    """Its JSON is parsed again once it was forgotten."""
    with bare_app.test_request_context(method="POST", json=["a"]) as context:
        assert not flask_private.has_cached_body(context.request)
        parsed = request.get_json()
        assert flask_private.has_cached_body(context.request)
        parsed.append("b")
        assert request.get_json() == ["a", "b"]
        flask_private.forget_json(context.request)
        assert request.get_json() == ["a"]


LISTS = ["flask_private.py", "sqlalchemy_private.py", "alembic_private.py"]


@pytest.mark.slow
def test_private_names_of_others_stand_in_one_list_each() -> None:
    """A private name that the package does not define itself is that of a library."""
    trees = {path: ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
    own = set().union(*map(defined_in, trees.values()))
    found = {
        (path.relative_to(PACKAGE).as_posix(), name)
        for path, tree in trees.items()
        if path.name not in LISTS
        for name in private_names_in(tree) - own
    }
    assert found == {
        # All that is known of a driver is in its file.
        ("_drivers/mysql.py", "_read_timeout"),
        ("_drivers/mysql.py", "_sock"),
        # These have an underscore and are documented.
        ("_engine/checkouts.py", "_getframe"),
        ("_engine/recording.py", "_getframe"),
        ("_request/observed.py", "_get_current_object"),
        ("compat/track_modifications.py", "_get_current_object"),
        ("migrations/_env/run.py", "_get_current_object"),
        ("migrations/api.py", "_get_current_object"),
        ("migrations/_run/timeouts.py", "_replace"),
    }


def defined_in(tree: ast.Module) -> set[str]:
    """The names of functions, classes, variables and attributes that a module sets."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
    return found


def private_names_in(tree: ast.Module) -> set[str]:
    """The private attributes that a module reads, also by ``getattr()``."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"getattr", "hasattr"}:
            found.update(str(arg.value) for arg in node.args[1:2] if isinstance(arg, ast.Constant))
    return {name for name in found if re.match("_[^_]", name)}
