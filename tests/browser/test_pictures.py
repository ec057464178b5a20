"""The pictures of the README show what the commands print today."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import programs

pytestmark = pytest.mark.slow


def shown(picture: Path) -> str:
    """The text of a picture of a terminal, without the times that the steps took."""
    text = "".join(re.findall(r"<text .+?>(.*?)</text>", picture.read_text(encoding="utf-8")))
    return re.sub(r"\d+\.\d+(?=&#160;s)", "", text)


def test_terminals_show_what_the_commands_print(tmp_path: Path) -> None:
    """``python -m tests.pictures`` makes them again. Each file has less than 100 KB."""
    programs.chromium()  # with its Python packages, such as Rich
    from tests.pictures import __main__ as pictures

    pictures.take_terminals(tmp_path, tmp_path)
    made = sorted(tmp_path.glob("*.svg"))
    assert len(made) == 3
    for picture in made:
        hint = f"run 'python -m tests.pictures' to renew {picture.name}"
        assert shown(pictures.PICTURES / picture.name) == shown(picture), hint
    sizes = {file.name: file.stat().st_size for file in pictures.PICTURES.iterdir()}
    assert len(sizes) == 4
    assert max(sizes.values()) < 100_000, sizes
