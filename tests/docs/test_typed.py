"""The pages with commands are typed into a fresh environment, as they stand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.docs import typed
from tests.docs.pages import PAGES, ROOT, Place, fences, place_of
from tests.support.programs import curl

NO_COMMANDS = "no commands for an app that it builds"

# Why a page, or the pages of a folder, are not typed from top to bottom.
NOT_TYPED = {
    "README.md": "tests/docs/test_readme.py runs its app, and '.ci/run' its commands",
    "docs/index.md": "its app is the quickstart's",
    "docs/explanation": NO_COMMANDS,
    "docs/reference": "to look things up; no app",
    "docs/how-to/background-work.md": "needs brokers; tests/docs/test_background_work.py runs it",
    "docs/how-to/deployment.md": "several servers; tests/docs/test_deployment.py starts them",
    "docs/how-to/integrations.md": "a recipe for each package; 'nox -s ecosystem' runs them",
    "docs/how-to/models.md": NO_COMMANDS,
    "docs/how-to/moving-from-flask-sqlalchemy.md": NO_COMMANDS,
    "docs/how-to/moving-from-lite.md": NO_COMMANDS,
    "docs/how-to/moving-from-sessions.md": NO_COMMANDS,
    "docs/how-to/pages-by-key.md": NO_COMMANDS,
    "docs/how-to/queries.md": NO_COMMANDS,
    "docs/how-to/signals.md": NO_COMMANDS,
    "docs/how-to/testing.md": "tests/testing/test_testing_page.py",
    "docs/how-to/transactions.md": NO_COMMANDS,
}


def entries(page: Path) -> list[str]:
    """What the table says of *page*, by its own name or that of its folder."""
    name = page.relative_to(ROOT)
    return [entry for entry in (str(name), str(name.parent)) if entry in NOT_TYPED]


TYPED = [page for page in PAGES if not entries(page)]
NAMES = [page.relative_to(ROOT).as_posix() for page in TYPED]


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the package, for pages that install nothing."""
    return typed.make_environment(tmp_path_factory.mktemp("fresh"))


@pytest.mark.slow
@pytest.mark.parametrize("page", TYPED, ids=NAMES)
def test_page_is_typed_from_an_empty_folder(
    page: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Its files are saved, its commands are run, and they print what it shows."""
    if "curl " in typed.commands(page):
        curl()
    if "-m venv" in typed.commands(page):
        programs = Path(sys.base_prefix, "bin")
    elif "pip install" in typed.commands(page):
        programs = typed.make_environment(tmp_path / "fresh")
    else:
        programs = request.getfixturevalue("fresh")
    folder = tmp_path / "folder"
    folder.mkdir()
    typed.type_page(page, folder, programs)


def test_every_page_is_typed_or_says_why_not() -> None:
    """And no reason outlives its page, or that the page gets commands."""
    has_nothing_to_type = [page.name for page in TYPED if not typed.is_typed(page)]
    assert has_nothing_to_type == []
    assert {entry for page in PAGES for entry in entries(page)} == NOT_TYPED.keys()
    without = [page for page in PAGES if NO_COMMANDS in map(NOT_TYPED.get, entries(page))]
    assert [page.name for page in without if typed.is_typed(page)] == []


FILE = """{sentence}

<!-- not run: it is an example -->
```python
{code}
```
"""


@pytest.mark.parametrize(
    ("sentence", "place"),
    [
        ("Save this as `app.py`:", Place("app.py", is_all_of_it=True)),
        ("It has two parts. In `shop/models.py`:", Place("shop/models.py", is_all_of_it=False)),
        ("A view, of course. Add it to\n`app.py`:", Place("app.py", is_all_of_it=False)),
        ("Save this as `app.py`.", None),
        ("In `app.py`, this was the last line.\nBut then:", None),
        ("In `app.config`:", None),
        ("In `app.py`:\n\nThis:", None),
    ],
)
def test_sentence_names_the_file(sentence: str, place: Place | None, tmp_path: Path) -> None:
    """The last one before the fence, if it ends with a colon."""
    page = tmp_path / "page.md"
    page.write_text(FILE.format(sentence=sentence, code="import os"))
    (fence,) = fences(page)
    assert place_of(fence) == place


def test_file_is_typed_piece_by_piece(tmp_path: Path) -> None:
    """Imports go to the top, known definitions are replaced, and the rest comes to the end."""
    part, whole = Place("shop/app.py", is_all_of_it=False), Place("shop/app.py", is_all_of_it=True)
    part.write(tmp_path, "import a\n\n\n@a.b\ndef f():\n    return 1\n\n\nx = f()\n")
    part.write(tmp_path, "import c\n\n\n@a.d\ndef f():\n    return 2\n\n\ndef g(): ...\n")
    typed_text = (tmp_path / "shop" / "app.py").read_text()
    assert typed_text == (
        "import c\nimport a\n\n\n@a.d\ndef f():\n    return 2\n\n\nx = f()\n\n\ndef g(): ...\n"
    )
    whole.write(tmp_path, "y = 1\n")
    assert (tmp_path / "shop" / "app.py").read_text() == "y = 1\n"


@pytest.mark.parametrize(
    ("shown", "is_shown"),
    [
        ("one\ntwo in 0.52 s\n", True),
        ("...\ntwo in ... s", True),
        ("one\n...", True),
        ("...", True),
        ("one", False),
        ("two in 0.03 s", False),
        ("one\nthree\ntwo in 0.03 s", False),
        ("one\n...\nthree", False),
    ],
)
def test_output_is_compared_as_a_whole(shown: str, is_shown: bool) -> None:
    """But for times, and what the page leaves out."""
    assert typed.is_shown("one\ntwo in 0.03 s\n", shown) is is_shown


PAGE = """
In `app.py`:

```python
import flask

app = flask.Flask(__name__)


@app.get("/")
def index():
    return "{response}"
```

```console
mkdir deep && cd deep
export WORD=yes
cd ..
flask run --debug
curl http://127.0.0.1:5000
```

```text
one
```

In `app.py`:

```python
@app.get("/")
def index():
    return "two"
```

```console
curl http://127.0.0.1:5000
echo "$WORD at http://127.0.0.1:5000"
{command}
```
"""
SHOWN = "\n```text\ntwo\nyes at http://127.0.0.1:5000\n```\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("response", "command", "end", "error"),
    [
        ("one", "true", SHOWN, None),
        ("one", "false", SHOWN, None),  # a command may fail, if the page shows how
        ("one", "true", f"{SHOWN}\n```console\nfalse\n```\n", "'false' has ended with 1"),
        ("three", "true", SHOWN, "page.md, line 15"),
        ("one", "echo more", SHOWN, "more"),
        ("one", "true", "", "page.md, line 35: no output"),
    ],
    ids=["right", "fails as shown", "fails", "other output", "more output", "unseen response"],
)
def test_page_that_is_wrong_fails(
    response: str, command: str, end: str, error: str | None, tmp_path: Path
) -> None:
    """A command that fails, and another output, also of a server that reloads."""
    curl()
    page, folder = tmp_path / "page.md", tmp_path / "folder"
    page.write_text(PAGE.format(response=response, command=command) + end)
    folder.mkdir()
    if error is None:
        typed.type_page(page, folder, Path(sys.executable).parent)
    else:
        with pytest.raises(AssertionError, match=error):
            typed.type_page(page, folder, Path(sys.executable).parent)


def test_program_that_the_page_has_not_installed_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment of the tests has more programs than that of a reader, if it is activated."""
    tests, folder = tmp_path / "tests", tmp_path / "folder"
    (tests / "bin").mkdir(parents=True)
    folder.mkdir()
    program = tests / "bin" / "some-program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "prefix", str(tests))
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    page = tmp_path / "page.md"
    page.write_text("```console\nsome-program\n```\n")
    with pytest.raises(AssertionError, match="'some-program' has ended with 127"):
        typed.type_page(page, folder, tmp_path / "programs")
