"""The words of the package, the example app and the docs: plain English, with nouns as subjects.

``CONTRIBUTING.md`` has the words to use. This test reads docstrings, comments, messages, templates
and pages, and knows the words that are not used.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEMPLATES = {".html", ".mako"}
READ = ("flask_uow", "example_app", "docs")
FILES = sorted(
    path
    for paths in (ROOT.glob("*.md"), *((ROOT / name).rglob("*") for name in READ))
    for path in paths
    if path.suffix in {".py", ".md", *TEMPLATES}
    and path.name != "CONTRIBUTING.md"  # which quotes them
    and "_build" not in path.parts
)
# What of a page is not a sentence: code, comments, and the targets of links.
_CODE = re.compile(r"^```.*?^```$|^<!--.*?-->$", re.DOTALL | re.MULTILINE)
_PARAGRAPH = re.compile(r"(\n\s*\n|\n(?=[-#|]|\d+\. ))")

# Words that are not used, and what to write instead.
REFUSED = {
    r"somebody|someone": "the caller, the thread, another process",
    r"nobody|no one": "no caller, no thread, no process",
    r"who(?:m|se)?ever": "the caller, the thread, another process",
    r"anew": "again",
    r"(?:go|goes|going|went) on": "continue",
    r"lies (?:in|above|below|next|between)|(?:come|comes) to lie": "is in",
    r"is said (?:here|there|below|above)": "this page says",
    r"shall": "must, or is to",
    r"afterwards": "after that",
    r"mails|(?:an?|the|this|each) mail": "email",
    r"hears?|heard": "gets, is notified",
    r"signs? of life": "a probe, a heartbeat",
    r"without a word": "silently",
    r"behind": "after; or add the sentence to SPATIAL",
    r"belongs? into": "belongs in",
    r"answer(?:s|ed|ing)?": "response, respond",
    r"mend(?:s|ed|ing)?": "fix",
    r"(?<!users )(?<!developers )(?<!people )(?<!readers )who(?! are you)": ("a noun of the code"),
}

# Sentences in which "behind" is a place.
SPATIAL = ("kept behind PgBouncer",)


def texts_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield each text of a file with the line in which it starts, its white space folded."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        yield from _paragraphs(source)
        return
    if path.suffix in TEMPLATES:
        yield from enumerate(source.splitlines(), 1)
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, " ".join(node.value.split())
    yield from _comments(source)


def _paragraphs(page: str) -> Iterator[tuple[int, str]]:
    page = _CODE.sub(lambda code: "\n" * code[0].count("\n"), page)
    start = 1
    for paragraph in _PARAGRAPH.split(page):
        words = re.sub(r"`+[^`]+`+", "``", re.sub(r"\]\([^)]*\)", "]", paragraph))
        yield start, " ".join(words.split())
        start += paragraph.count("\n")


def _comments(source: str) -> Iterator[tuple[int, str]]:
    """Yield comments; those on consecutive lines are one text, as a sentence may be."""
    start, end, words = 0, -1, ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line, text = token.start[0], token.string.lstrip("#: ")
            if line == end + 1:
                end, words = line, f"{words} {text}"
            else:
                if words:
                    yield start, words
                start, end, words = line, line, text
    if words:
        yield start, words


def refused_in(text: str) -> list[str]:
    """Return each refused word of a text, with the words to write instead."""
    for sentence in SPATIAL:
        text = text.replace(sentence, "")
    # Names of parameters are code: ":param who:", "*who*", "``who``".
    text = re.sub(r":param who:|:ivar behind:|\*who\*|``who``|'who'", "", text)
    return [
        f"{match[0]!r} (write: {instead}) in: {text[max(0, match.start() - 60) : match.end() + 60]}"
        for words, instead in REFUSED.items()
        for match in re.finditer(rf"\b(?:{words})\b", text, re.IGNORECASE)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_words_that_are_not_used(path: Path) -> None:
    """No docstring, comment, message or template has one."""
    found = [f"line {line}: {what}" for line, text in texts_of(path) for what in refused_in(text)]
    assert not found, "\n".join(found)


def test_every_sentence_of_the_exceptions_is_there() -> None:
    """So that no exception outlives its sentence."""
    written = " ".join(text for path in FILES for _, text in texts_of(path))
    assert [sentence for sentence in SPATIAL if sentence not in written] == []


@pytest.mark.parametrize(
    "text",
    [
        "Somebody waits.",
        "It runs behind the commit.",
        "Begin anew",
        "It belongs into the queue.",
        "Mended.",
        "Who waits is let in.",
        "before the answer leaves",
        "whatever is answered",
        "an answer without a body",
        "the thread who waits",
        "the code goes on with it",
        "The file lies in the folder.",
        "All that is said here is true.",
        "It is closed afterwards.",
        "A mail is sent.",
        "The clients hear of it.",
        "The server hears nothing.",
        "Ask for a sign of life.",
        "Lost without a word.",
    ],
)
def test_refused_words_are_found(text: str) -> None:
    assert refused_in(text)


@pytest.mark.parametrize(
    "text",
    [
        "The caller waits.",
        "It recommends a manew.",
        "users who upgrade",
        "Pass *who*.",
        "The email is sent by send_mail().",
    ],
)
def test_other_words_are_not(text: str) -> None:
    assert not refused_in(text)
