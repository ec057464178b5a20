"""What the pages say is true of the code: it is run."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from flask_uow._config import reading
from tests.docs import pages
from tests.docs.pages import DOCS, PAGES, ROOT

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@every_page
def test_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From top to bottom, in an empty folder, with the errors and messages that it shows."""
    pages.run(page, tmp_path, monkeypatch)


@every_page
def test_every_block_is_of_a_known_kind(page: Path) -> None:
    """So that no Python hides in a block that nobody runs."""
    fences = pages.fences(page)
    assert {fence["language"] for fence in fences} <= pages.LANGUAGES
    lines = page.read_text(encoding="utf-8").splitlines()
    marks = [line for line in lines if re.match(r"\s*(```|~~~)", line)]
    assert len(marks) == 2 * len(fences)  # neither indented nor of another kind
    sql = [fence for fence in fences if fence["language"] == "sql" and not fence["reason"]]
    assert len(sql) == len([1 for one in pages.snippets(page) if one.sends is not None])


def test_page_that_is_wrong_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing check, an unexpected error, a message that reads otherwise, other SQL."""
    page = tmp_path / "page.md"
    python = "```python\nfrom flask_uow import SetupError\nraise SetupError('a  b')\n```\n"
    sql = (
        "```python\nfrom sqlalchemy import create_engine, text\n"
        "with create_engine('sqlite://').connect() as one:\n    one.execute(text('SELECT  1'))\n"
        "```\n<!-- setup\n1\n-->\n"
    )
    for text in [
        "<!-- check\nassert False\n-->\n",
        python,
        f"{python}\n```text\nSetupError: a c\n```\n",
        f"{python}\n```text\nConfigError: a b\n```\n",
        f"{python}\nbetween\n\n```text\nSetupError: a b\n```\n",
        "```python\n1\n```\n\n```text\nSetupError: a b\n```\n",
        f"{sql}```sql\nSELECT 2\n```\n",
        f"{sql}```sql\nSELECT 1\nCOMMIT\n```\n",
        f"{sql}```sql\n```\n",
    ]:
        page.write_text(text)
        with pytest.raises(AssertionError):
            pages.run(page, tmp_path, monkeypatch)
    page.write_text(f"{python}\n```text\nSetupError: a\nb\n```\n<!-- not run: no -->\n{python}")
    pages.run(page, tmp_path, monkeypatch)
    page.write_text(f"{sql}```sql\nSELECT ...  -- why\n```\n{sql}```sql\nSELECT 1\n```\n")
    pages.run(page, tmp_path, monkeypatch)


def test_configuration_names_every_key_and_no_other() -> None:
    """One heading for each key that is read, and every old key is named."""
    text = (DOCS / "reference" / "configuration.md").read_text(encoding="utf-8")
    headings = set(re.findall(r"^## `(\w+)`", text, re.MULTILINE))
    assert headings == reading._KNOWN
    named = set(re.findall(r"`((?:SQLALCHEMY|UOW)_\w+)`", text))
    assert named == reading._KNOWN | set(reading._SUCCESSORS)


def test_configuration_tells_the_defaults() -> None:
    """Those of the table are what the code does."""
    text = (DOCS / "reference" / "configuration.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^\| \[`(UOW_\w+)`\]\(.*\) \|.*\| `(.+)` \|$", text, re.MULTILINE))
    settings = reading.read({"SQLALCHEMY_DATABASE_URI": "sqlite://"})
    read: dict[str, object] = {
        "UOW_COMMIT": "on_success",
        "UOW_EXPLICIT_COMMIT": settings.explicit_commit_in([]),
        "UOW_BEGIN": settings.begin,
        "UOW_RETRY_PAUSE": settings.retry_pause,
    }
    read |= {f"UOW_{name.upper()}": value for name, value in vars(settings.pool).items()}
    read |= {f"UOW_SQLITE_{name.upper()}": value for name, value in vars(settings.sqlite).items()}
    del read["UOW_STACKS"]  # set by DEBUG
    read["UOW_CLI_GROUP"], read["UOW_CHECK_MIGRATIONS"] = reading.read_migration_names({})
    read["UOW_MIGRATIONS"] = reading.read_migrations({}).directory
    assert {key: ast.literal_eval(value) for key, value in shown.items()} == read
    assert settings.commit == "on_success"


def test_readme_is_short() -> None:
    """At most 150 lines."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_no_command_installs_what_is_not_released() -> None:
    """As long as the README says that, pip finds no package of this name."""
    if "not been released" in (ROOT / "README.md").read_text(encoding="utf-8"):
        consoles = [
            fence["body"]
            for page in PAGES
            for fence in pages.fences(page)
            if fence["language"] == "console"
        ]
        assert re.findall(r"pip install.*\bflask-uow\b", "".join(consoles)) == []


def test_links_between_pages_lead_somewhere() -> None:
    """Relative links name files and headings that exist, also where Sphinx does not look."""
    others = [ROOT / "example_app" / "README.md", ROOT / "tests" / "benchmarks" / "README.md"]
    for page in {*PAGES, *ROOT.glob("*.md"), *others}:
        text = _without_code(page)
        for name, heading in re.findall(r"\]\(([^)#:\s]*)#?([^):\s]*)\)", text):
            target = page.parent / name if name else page
            assert target.exists(), f"{page.name}: {name}"
            assert not heading or heading in _headings(target), f"{page.name}: {name}#{heading}"


def _headings(page: Path) -> set[str]:
    """The anchors of the headings, as GitHub and Sphinx make them."""
    titles = re.findall(r"^#+ (.+)$", _without_code(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def _without_code(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)


def test_order_of_events_is_the_tested_one() -> None:
    """Each list of the page is, line by line, one that ``test_order_of_events.py`` asserts."""
    text = (DOCS / "explanation" / "order-of-events.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```text\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert shown
    source = (ROOT / "tests" / "test_order_of_events.py").read_text(encoding="utf-8")
    tested = [_of_flask_before_3_2(piece) for piece in re.findall(r'f"""(.*?)"""', source, re.S)]
    for block in shown:
        assert block.splitlines() in tested


def _of_flask_before_3_2(text: str) -> list[str]:
    """The lines of an asserted list, with the end of the context as the page spells it out."""
    text = text.replace("{between}", "teardown_request\nteardown_appcontext")
    text = re.sub(
        r"{end_of_context\((.*?)\)}",
        lambda call: "\n".join(
            ["teardown_request", *re.findall(r'"(.+?)"', call[1]), "teardown_appcontext"]
        ),
        text,
    )
    return [line.strip() for line in text.strip().splitlines()]
