"""Make the pictures of the README: ``python -m tests.pictures``, with the extra ``browser``.

Chromium takes the ledger. Each terminal shows commands that are run here, with their real output;
only the temporary folder has another name.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.text import Text

from tests.support import ledger, programs

HERE = Path(__file__).parent
PICTURES = ledger.ROOT / "docs" / "pictures"
COLUMNS = 90

# Rich names a font on another host.
_FONTS = re.compile(r" *@font-face \{.*?^    \}\n", re.DOTALL | re.MULTILINE)


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        take_ledger(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        take_terminals(Path(folder), PICTURES)


def take_terminals(folder: Path, pictures: Path) -> None:
    """Run the commands in the empty *folder*, and store what they print in *pictures*."""
    take_migrations(folder, pictures / "db-status.svg")
    shutil.copy(HERE / "blog.py", folder)
    shutil.copy(HERE / "blog_posts.py", folder / "test_posts.py")
    blog = Terminal(folder, dict(os.environ), hidden=folder)
    blog.run("tail -n 4 blog.py")
    blog.run("flask --app blog add-author mary")
    blog.save(pictures / "discarded-work.svg")
    blog.run("pytest -qq --tb=short")
    blog.save(pictures / "n-plus-one.svg")


def take_migrations(folder: Path, picture: Path) -> None:
    """``flask db`` on a ledger without a table."""
    status, upgrade = "flask --app example_app db status", "flask --app example_app db upgrade"
    terminal = Terminal(ledger.ROOT, ledger.environment(folder), hidden=folder)
    for command in (status, upgrade, status):
        terminal.run(command)
    terminal.save(picture)


def take_ledger(folder: Path) -> None:
    """The page of the accounts, with few colors: the file is a third as large."""
    with ledger.serving(folder) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=programs.chromium())
        page = browser.new_page(viewport={"width": 1000, "height": 400}, device_scale_factor=1.5)
        page.goto(address)
        picture = Image.open(io.BytesIO(page.screenshot(full_page=True)))
        browser.close()
    picture.convert("RGB").quantize(64).save(PICTURES / "ledger.png", optimize=True)


class Terminal:
    """A terminal in which programs of this environment are run.

    :param hidden: a folder that is shown as ``/srv``.
    """

    def __init__(self, folder: Path, environment: dict[str, str], hidden: Path) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        more = {"PATH": path, "PYTHONPATH": str(ledger.ROOT), "COLUMNS": str(COLUMNS)}
        self._environment = {**environment, **more, "FORCE_COLOR": "1"}
        for name in ("CI", "BUILD_NUMBER", "PYTEST_ADDOPTS"):  # pytest's output depends on them
            self._environment.pop(name, None)
        self._folder = folder
        self._hidden = str(hidden)
        self._console = Console(record=True, width=COLUMNS, file=io.StringIO())

    def run(self, command: str) -> None:
        done = subprocess.run(
            command.split(),
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self._console.print(Text(f"$ {command}", "bold cyan"))
        self._console.print(Text.from_ansi(done.stdout.replace(self._hidden, "/srv")))

    def save(self, picture: Path) -> None:
        """Store what has been printed as an SVG file, and clear the terminal."""
        svg = self._console.export_svg(title="", unique_id=picture.stem)
        picture.write_text(_FONTS.sub("", svg), encoding="utf-8")


if __name__ == "__main__":
    main()
