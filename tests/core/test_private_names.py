"""The private names of Flask that the package uses exist; CI runs this on several versions."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, after_this_request, request

import flask_uow
from flask_uow._request import flask_private
from flask_uow._request.flask_private import current_app_context, current_request_context

PACKAGE = Path(flask_uow.__file__).parent
PRIVATE = {
    "_request": {
        "_cv_app",
        "_cv_request",
        "_cv_tokens",
        "_cv_token",
        "_after_request_functions",
        "_cached_data",
        "_cached_json",
    },
    "_unit": {"_trans_context_manager", "_sa_instance_state", "dispatch"},
}


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
            assert flask_private.is_pushed(inner)
        assert not flask_private.is_pushed(inner)
    assert not flask_private.is_pushed(outer)


def test_a_request_knows_the_app_context_that_it_pushed(bare_app: Flask) -> None:
    """Another one that is pushed inside it is the current one."""
    with bare_app.test_request_context() as outer:
        assert flask_private.current_context() is outer
        with bare_app.app_context() as inner:
            assert flask_private.current_context() is inner
        assert flask_private.current_context() is outer


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


@pytest.mark.parametrize("floor", PRIVATE)
def test_private_names_stand_in_one_list(floor: str) -> None:
    """No other module of the floor names one."""
    for path in (PACKAGE / floor).glob("*.py"):
        if path.stem != "flask_private":
            assert not names_in(path) & PRIVATE[floor], path.name


def names_in(path: Path) -> set[str]:
    """The attributes, and the strings, of a module."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return attributes | {str(node.value) for node in nodes if isinstance(node, ast.Constant)}
