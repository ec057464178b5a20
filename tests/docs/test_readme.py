"""The README keeps what it says: its app runs as it stands, and its figures are true."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import flask_uow
from tests.docs import pages
from tests.docs.pages import ROOT
from tests.support import programs

README = ROOT / "README.md"
_ADDRESS = "http://127.0.0.1:5000"


def shown_commands() -> list[tuple[str, str]]:
    """Each command of the README after a prompt, and the output that is shown."""
    (console,) = [fence["body"] for fence in pages.fences(README) if fence["body"].startswith("$ ")]
    pieces = re.split(r"^\$ (.+)\n", console, flags=re.MULTILINE)[1:]
    return list(zip(pieces[::2], pieces[1::2], strict=True))


@pytest.fixture
def served_at(tmp_path: Path) -> Iterator[str]:
    """The address at which ``flask run`` serves the README's sample, saved as ``app.py``."""
    (sample,) = [fence["body"] for fence in pages.fences(README) if fence["language"] == "python"]
    (tmp_path / "app.py").write_text(sample)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "flask", "run", "--port", str(port)],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if not key.startswith("FLASK_")},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    try:
        for line in server.stderr:
            if "Running on" in line:
                break
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.communicate()


@pytest.mark.slow
def test_sample_runs_as_it_stands(served_at: str) -> None:
    """Saved and started, it responds to each command with the output that is shown."""
    programs.curl()
    for command, output in shown_commands():
        assert _ADDRESS in command
        run = subprocess.run(
            ["bash", "-c", command.replace(_ADDRESS, served_at)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout == output


def test_comparison_is_of_this_version() -> None:
    assert f"| | flask_uow {flask_uow.__version__} | " in README.read_text(encoding="utf-8")


def test_lines_of_the_package_are_about_as_many_as_the_table_says() -> None:
    """Within ten percent."""
    text = README.read_text(encoding="utf-8")
    (shown,) = re.findall(
        r"^\| \*\*lines of Python, with comments\*\* \| ([\d,]+) \|", text, re.MULTILINE
    )
    files = (ROOT / "flask_uow").rglob("*.py")
    lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
    assert int(shown.replace(",", "")) == pytest.approx(lines, rel=0.1)
