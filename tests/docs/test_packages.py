"""The page about other packages and patterns: each of its recipes is run by a test."""

from __future__ import annotations

import re

from tests.docs.pages import ROOT
from tests.support.recipes import PAGE

_TEXT = PAGE.read_text(encoding="utf-8")
_HEADINGS = re.findall(r"^### (.+)$", _TEXT, re.MULTILINE)


def test_every_recipe_is_what_a_test_runs() -> None:
    """By its heading, in the file that the comment before it names."""
    sections = re.split(r"^### .+$", _TEXT, flags=re.MULTILINE)[1:]
    assert len(_HEADINGS) > 30
    for heading, section in zip(_HEADINGS, sections, strict=True):
        names = re.findall(
            r"^<!-- not run: (tests/\w+/\w+\.py) runs it -->$", section, re.MULTILINE
        )
        assert len(set(names)) == 1, heading
        assert len(names) == len(re.findall(r"^```\w", section, re.MULTILINE)), heading
        assert f'"{heading}"' in (ROOT / names[0]).read_text(encoding="utf-8"), heading
        assert section.count("```python") == 1, heading


def test_every_recipe_is_in_a_table() -> None:
    """And the other way round, but for a heading about one version."""
    rows = re.findall(r"^\| \[(.+?)\]\(#", _TEXT, re.MULTILINE)
    assert [heading for heading in _HEADINGS if not heading.endswith("2.2.1")] == rows


def test_packages_are_installed_by_the_ecosystem_session() -> None:
    """Each package of the table, under the name that pip knows."""
    noxfile = (ROOT / "noxfile.py").read_text(encoding="utf-8").lower()
    other = {"factory_boy": "factory-boy", "OpenTelemetry": "opentelemetry-sdk"}
    other |= {
        "Prometheus": "prometheus-client",
        "Sentry": "sentry-sdk",
        "Strawberry": "strawberry-",
    }
    names = re.findall(r"^\| \[(.+?)\]\(#.+?\) [\d.b]+ \|", _TEXT, re.MULTILINE)
    assert len(names) > 15
    for name in names:
        package = other[name] if name in other else str(name).lower()
        assert f'"{package}' in noxfile, name
