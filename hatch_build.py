"""The page of the package on an index: the README, with links that work outside the repository.

``pyproject.toml`` has the address of the repository, in one place. As long as that is empty, the
page has the texts of the links without the links, and the package names no addresses.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

# Code, which stays as it is, or a picture or a link whose target is a file of the repository.
_PARTS = r"(?P<code>^```.*?^```$)|{}\((?P<target>[^)\s:#]+(?:#[^)\s]*)?)(?P<title>\s[^)]*)?\)"
_PICTURE = re.compile(_PARTS.format(r"!\[(?P<text>[^\]]*)\]"), re.DOTALL | re.MULTILINE)
_TEXT = r"(?:!\[[^\]]*\]\([^)]*\)|[^\[\]])*"  # with a picture, perhaps
_LINK = re.compile(_PARTS.format(rf"(?<!!)\[(?P<text>{_TEXT})\]"), re.DOTALL | re.MULTILINE)
_PAGES = {
    "Documentation": "/blob/HEAD/docs/index.md",
    "Changes": "/blob/HEAD/CHANGES.md",
    "Source": "",
    "Issues": "/issues",
}


class PageHook(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        repository: str = self.config["repository"]
        readme = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": page_of(readme, repository)}
        pages = _PAGES if repository else {}
        metadata["urls"] = {name: repository + path for name, path in pages.items()}


def page_of(readme: str, repository: str) -> str:
    """Return *readme* with absolute links, or without links if *repository* is empty."""

    def absolute(link: re.Match[str]) -> str:
        if link["code"]:
            return link["code"]
        if not repository:
            return link["text"]
        mark, kind = ("!", "raw") if link.re is _PICTURE else ("", "blob")
        target = f"{repository}/{kind}/HEAD/{link['target']}{link['title'] or ''}"
        return f"{mark}[{link['text']}]({target})"

    return _LINK.sub(absolute, _PICTURE.sub(absolute, readme))
