"""The how-tos of ``docs/migrations.md`` are run as a reader would, each in an empty folder."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT

pytestmark = pytest.mark.slow

_FENCE = re.compile(
    r"^```(python|console|text)\n(.*?)^```$|^<!-- (before)\n(.*?)^-->$", re.DOTALL | re.MULTILINE
)
# What differs from one run to the next.
_VARIES = [(r"(?<![0-9a-f])[0-9a-f]{12}(?![0-9a-f])", "REVISION"), (r"\d\.\d\d s", "TIME")]


def test_how_to_from_an_empty_folder(tmp_path: Path) -> None:
    _follow("From an empty folder", tmp_path)


@pytest.mark.skipif(
    not (find_spec("flask_migrate") and find_spec("flask_sqlalchemy")),
    reason="the project to start from needs Flask-Migrate and Flask-SQLAlchemy",
)
def test_how_to_from_a_project_of_flask_migrate(tmp_path: Path) -> None:
    _follow("From a project of Flask-Migrate", tmp_path)


def _follow(title: str, folder: Path) -> None:
    """Write the Python of a section to its files, run its commands, compare what they print."""
    page = (DOCS / "migrations.md").read_text(encoding="utf-8")
    section = page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    printed = ""
    for match in _FENCE.finditer(section):
        language, body = match[1] or match[3], match[2] or match[4]
        if language == "python":
            _write(folder, body)
        elif language == "text":
            for line in _without_varying(body).splitlines():
                assert line in _without_varying(printed).splitlines()
        else:
            printed = "".join(_run(line, folder) for line in body.splitlines())


def _write(folder: Path, code: str) -> None:
    """A whole module, or a class that takes the place of the one that is there."""
    app = folder / "app.py"
    if "import run" in code:
        (folder / "migrations" / "env.py").write_text(code)
    elif code.startswith("class "):
        lines = app.read_text().splitlines()
        (new,) = ast.parse(code).body
        assert isinstance(new, ast.ClassDef)
        for old in ast.parse(app.read_text()).body:
            if isinstance(old, ast.ClassDef) and old.name == new.name:
                assert old.end_lineno is not None
                lines[old.lineno - 1 : old.end_lineno] = code.splitlines()
        app.write_text("\n".join(lines) + "\n")
    else:
        app.write_text(code)


def _run(line: str, folder: Path) -> str:
    if not line.startswith("flask "):
        return ""  # the folder and the environment are there
    scripts = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{scripts}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",  # the file may change twice in a second
    }
    done = subprocess.run(
        line, shell=True, cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _without_varying(text: str) -> str:
    for pattern, name in _VARIES:
        text = re.sub(pattern, name, text)
    return text
