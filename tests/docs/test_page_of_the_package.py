"""The README as the page of the package on an index."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from tests.docs.pages import ROOT

pytest.importorskip("hatchling", reason="the page is made when the package is built")

from hatch_build import PageHook, page_of

_ADDRESS = "https://example.org/owner/name"
_RELATIVE = re.compile(r"\]\((?!https://)")


def metadata_with(repository: str) -> dict[str, Any]:
    """What the hook adds to the metadata."""
    metadata: dict[str, Any] = {}
    hook: Any = SimpleNamespace(root=str(ROOT), config={"repository": repository})
    PageHook.update(hook, metadata)
    return metadata


def test_links_of_the_page_are_absolute() -> None:
    """Files and pictures; an anchor stays."""
    readme = "[a](docs/a.md#part), ![b](b.png), [c](https://example.org/c.md), [d](#part)"
    assert page_of(readme, _ADDRESS) == (
        f"[a]({_ADDRESS}/blob/HEAD/docs/a.md#part), ![b]({_ADDRESS}/raw/HEAD/b.png),"
        " [c](https://example.org/c.md), [d](#part)"
    )
    metadata = metadata_with(_ADDRESS)
    assert not _RELATIVE.search(metadata["readme"]["text"])
    assert metadata["urls"]["Issues"] == f"{_ADDRESS}/issues"


@pytest.mark.parametrize(
    ("readme", "page", "without"),
    [
        (
            '[![a](b.svg "B")](LICENSE)',
            f'[![a]({_ADDRESS}/raw/HEAD/b.svg "B")]({_ADDRESS}/blob/HEAD/LICENSE)',
            "a",
        ),
        (
            "[![a](https://example.org/b.svg)](c.md)",
            f"[![a](https://example.org/b.svg)]({_ADDRESS}/blob/HEAD/c.md)",
            "![a](https://example.org/b.svg)",
        ),
        ("[`a`](b.md 'B')", f"[`a`]({_ADDRESS}/blob/HEAD/b.md 'B')", "`a`"),
        ("```\n[a](b)\n```\n", "```\n[a](b)\n```\n", "```\n[a](b)\n```\n"),
        ("x [a]\n\n[b] (c.md)", "x [a]\n\n[b] (c.md)", "x [a]\n\n[b] (c.md)"),
    ],
    ids=["badge", "badge elsewhere", "title", "code", "no link"],
)
def test_page_of_another_readme(readme: str, page: str, without: str) -> None:
    """With the address of the repository, and without."""
    assert page_of(readme, _ADDRESS) == page
    assert page_of(readme, "") == without


def test_page_has_no_links_without_an_address() -> None:
    """They would be dead; the rest of the README stays as it is."""
    assert page_of("See [a](a.md) and [c](https://example.org/c.md).", "") == (
        "See a and [c](https://example.org/c.md)."
    )
    metadata = metadata_with("")
    assert metadata["urls"] == {}
    text = metadata["readme"]["text"]
    assert not _RELATIVE.search(text)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^```.*?^```$", text, re.M | re.S) == re.findall(
        r"^```.*?^```$", readme, re.M | re.S
    )
