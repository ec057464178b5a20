"""The lines of Python in messages are Python."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import flask_uow.migrations
from tests.migrations.projects import snippets

FOLDER = Path(flask_uow.migrations.__file__).parent


def _texts(path: Path) -> Iterator[str]:
    """The strings of a module; what is filled in is ``x``."""
    tree = ast.parse(path.read_text())
    parts = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values
            )
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts
        ):
            yield re.sub(r"\{\w*(!r)?\}", "x", node.value)  # of 'format()'


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.py")), ids=lambda path: path.name)
def test_each_call_in_a_message_is_python(path: Path) -> None:
    for text in _texts(path):
        snippets(text)


def test_a_call_in_quotes_of_its_own_is_found() -> None:
    assert snippets("Write op.execute('SELECT (1)'), or \"op.f('a')\"") == [
        "op.execute('SELECT (1)')",
        "op.f('a')",
    ]
    with pytest.raises(AssertionError, match="in its own quotes"):
        snippets("Write 'op.execute('SELECT 1')'")
    with pytest.raises(AssertionError, match="no Python"):
        snippets("Write op.execute('SELECT 'a'')")
