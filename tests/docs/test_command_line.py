"""The page about the command line has what Click prints, and its examples run."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from flask_uow.migrations.group import COMMANDS, LazyGroup
from tests.docs.pages import DOCS, fences
from tests.migrations.commands import flask

PAGE = DOCS / "reference" / "command-line.md"
SECTIONS = re.split(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
TEXTS = dict(zip(SECTIONS[1::2], SECTIONS[2::2], strict=True))
# What differs from one run to the next.
VARIES = [
    (r"(?<![0-9a-f])[0-9a-f]{12}(?![0-9a-f])", "REVISION"),
    (r"\d\.\d\d s", "TIME"),
    (r"sqlite:///\S+/instance", "FOLDER"),
]


def context_of(name: str | None) -> click.Context:
    """Click's context of ``flask db NAME``, or of the group."""
    group = LazyGroup("db")
    outer = click.Context(group, info_name="flask db")
    if name is None:
        return outer
    command = group.get_command(outer, name)
    assert command is not None
    return click.Context(command, info_name=name, parent=outer)


def test_page_has_every_command_and_no_other() -> None:
    """One heading for each, and one row of the first table."""
    headings = {title[1:-1].split()[-1] for title in TEXTS if title.startswith("`flask db")}
    rows = re.findall(r"^\| \[`(.+?)`\]\(#flask-db-\1\) \|", TEXTS["All commands"], re.MULTILINE)
    assert headings == COMMANDS
    assert sorted(rows) == sorted(COMMANDS)


@pytest.mark.parametrize("name", [None, *sorted(COMMANDS)])
def test_page_has_the_usage_and_the_options_of_a_command(name: str | None) -> None:
    """As ``--help`` prints them, in the same order."""
    context = context_of(name)
    text = TEXTS[f"`flask db {name}`" if name else "Options of the group"]
    (usage,) = re.findall(r"^\*\*Usage:\*\* `(.+)`$", text, re.MULTILINE)
    assert usage == " ".join(context.get_usage().removeprefix("Usage: ").split())
    options = [one for one in context.command.params if isinstance(one, click.Option)]
    records = [option.get_help_record(context) for option in options]
    rows = re.findall(r"^\| `(-.+?)` \| .+ \|$", text, re.MULTILINE)
    assert rows == [record[0] for record in records if record is not None]


@pytest.mark.slow
def test_examples_of_the_page_run(tmp_path: Path) -> None:
    """In one folder, from the first to the last; a text after a command is what it prints."""
    printed = ""
    for fence in fences(PAGE):
        if fence["language"] == "python":
            (tmp_path / "app.py").write_text(fence["body"])
        elif fence["language"] == "console":
            printed = "".join(_run(line, tmp_path) for line in fence["body"].splitlines())
        else:
            assert _without_varying(printed).endswith(_without_varying(fence["body"]))


def _run(line: str, folder: Path) -> str:
    done = flask(*[word.strip('"') for word in line.split()[1:]], folder=folder)
    assert done.exit_code == 0, f"{line}\n{done.output}"
    return done.output


def _without_varying(text: str) -> str:
    for pattern, name in VARIES:
        text = re.sub(pattern, name, text)
    return text
