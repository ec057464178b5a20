"""The test of one picture. It fails, so its name is not one that pytest looks for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

AssertMaxQueries = Callable[[int], AbstractContextManager[Any]]


@pytest.fixture
def app() -> Flask:
    blog: Flask = import_module("blog").app
    return blog


def test_list_posts(client: FlaskClient, assert_max_queries: AssertMaxQueries) -> None:
    with assert_max_queries(2):
        client.get("/posts")
