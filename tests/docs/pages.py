"""The Markdown pages of the project, and the Python in them.

What takes part:

- A fence of ``python`` is run, with the others of its page, in one module.
- A sentence before a fence can name its file: "In `shop.py`:" (see :func:`place_of`). Files other
  than `app.py` are not run, but written to the folder, so that the module, which is ``app``, can
  import them. How such a page is typed, with its commands, is in ``typed.py``.
- A fence of ``text`` right behind it that starts with ``SomeError: `` is the message of the
  error or warning that the code has to end with. Where the lines break says nothing.
- A fence of ``sql`` behind it is what the code has sent to SQLite, one statement a line. ``...``
  stands for any text, and a comment, ``-- why``, for nothing.
- A comment ``<!-- setup ... -->`` holds Python that is run as well, and that no reader sees. One
  between a fence of ``python`` and its ``text`` or ``sql`` belongs to it: it makes the request.
- A comment ``<!-- check ... -->`` is run when the page has come to its end: Flask takes no more
  views after the first request.
- A comment ``<!-- not run: reason -->`` right before a fence leaves that fence out.
"""

from __future__ import annotations

import ast
import contextlib
import re
import sqlite3
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, TypeGuard

import pytest
from sqlalchemy import Pool, event

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

LANGUAGES = {"python", "text", "sql", "console", "html", "ini", "toml", "{toctree}", "{eval-rst}"}

_PIECE = re.compile(
    r"^<!-- (?P<comment>setup|check)\n(?P<hidden>.*?)^-->$"
    r"|^(?:<!-- not run: (?P<reason>[^\n]+) -->\n+)?"
    r"^```(?P<language>[^\n]*)\n(?P<body>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_MESSAGE = re.compile(r"(\w+): (.+)", re.DOTALL)
_PLACE = re.compile(
    r"\b(as|in|into|to)\s`([\w./-]+\.(?:py|html|ini|toml|cfg|conf))`", re.IGNORECASE
)


@dataclass(frozen=True)
class Place:
    """The file that a reader types a fence into.

    :ivar is_all_of_it: the fence is the whole file, whatever was there.
    """

    name: str
    is_all_of_it: bool

    def write(self, folder: Path, text: str) -> None:
        """Type *text* into the file, as a reader would; folders on the way are made."""
        path = folder / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        old = path.read_text(encoding="utf-8") if path.exists() and not self.is_all_of_it else ""
        path.write_text(_merged(old, text) if old else text, encoding="utf-8")


def place_of(fence: re.Match[str]) -> Place | None:
    """The file that the sentence before *fence* names, if it ends with a colon.

    "Save this as `app.py`:" is for a whole file. "In `app.py`:" and "Add to `app.py`:" are for more
    of it: imports go to the top, a class or function that is there is replaced, and the rest goes
    to the end.
    """
    paragraph = fence.string[: fence.start()].rstrip().rpartition("\n\n")[2]
    named = _PLACE.search(re.split(r"(?<=[.!?])\s", paragraph)[-1])
    if fence["language"] in {"console", "text", "sql"} or paragraph[-1:] != ":" or not named:
        return None
    return Place(named[2], named[1].lower() == "as")


def _merged(old: str, new: str) -> str:
    """Imports go to the top, a definition to where it is already, the rest to the end."""
    there = {node.name: _source(old, node) for node in ast.parse(old).body if _is_definition(node)}
    rest = new
    for node in ast.parse(new).body:
        text = _source(new, node)
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            old, rest = text + old, rest.replace(text, "", 1)
        elif _is_definition(node) and node.name in there:
            old, rest = old.replace(there[node.name], text), rest.replace(text, "", 1)
    return f"{old.rstrip()}\n\n\n{rest.strip()}\n" if rest.strip() else old


def _is_definition(node: ast.stmt) -> TypeGuard[ast.ClassDef | ast.FunctionDef]:
    return isinstance(node, (ast.ClassDef, ast.FunctionDef))


def _source(text: str, node: ast.stmt) -> str:
    """The lines of *node*, with its decorators."""
    first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
    return "".join(text.splitlines(keepends=True)[first - 1 : node.end_lineno])


@dataclass(frozen=True)
class Snippet:
    """Python of a page.

    :ivar line: where it starts in the page, for tracebacks.
    :ivar hidden: no reader sees it.
    :ivar ends_with: ``(class, message)`` of the error or warning that it shows.
    :ivar sends: the SQL that it shows: what was sent from the last fence of Python on.
    :ivar place: the file that it is written to, instead of being run.
    """

    code: str
    line: int
    hidden: bool = False
    ends_with: tuple[str, str] | None = None
    sends: list[str] | None = None
    place: Place | None = None


def fences(page: Path) -> list[re.Match[str]]:
    """Every fenced block of *page*."""
    return [piece for piece in _pieces(page) if piece["language"] is not None]


def snippets(page: Path) -> list[Snippet]:
    """What of *page* has to run, in order."""
    text = page.read_text(encoding="utf-8")
    found: list[Snippet] = []
    checks: list[Snippet] = []
    end_of_python: int | None = None
    for piece in _pieces(page):
        is_behind = end_of_python is not None and not text[end_of_python : piece.start()].strip()
        if piece["comment"] == "check":
            checks.append(_snippet(piece, "hidden"))
        elif piece["comment"]:
            found.append(_snippet(piece, "hidden"))
            end_of_python = piece.end() if is_behind else None
            continue
        elif piece["reason"]:
            pass
        elif (place := place_of(piece)) and place.name != "app.py":
            found.append(replace(_snippet(piece, "body"), place=place))
        elif piece["language"] == "python":
            found.append(_snippet(piece, "body"))
            end_of_python = piece.end()
            continue
        elif is_behind and piece["language"] == "sql":
            found[-1] = replace(found[-1], sends=_statements(piece["body"]))
        elif is_behind and piece["language"] == "text":
            message = _MESSAGE.fullmatch(piece["body"].strip())
            if message:
                found[-1] = replace(found[-1], ends_with=(message[1], _folded(message[2])))
            end_of_python = piece.end()  # of the error, what was sent until then may follow
            continue
        end_of_python = None
    return found + checks


def run(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the snippets of *page* in one module, which lies in *folder*."""
    module = ModuleType(page.stem.replace("-", "_"))
    module.__dict__.update(__file__=str(folder / "app.py"), monkeypatch=monkeypatch)
    for name in (module.__name__, "app"):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    with _what_is_sent() as sent, _modules_forgotten(folder):
        for snippet in snippets(page):
            if snippet.place:
                snippet.place.write(folder, snippet.code)
                continue
            if not snippet.hidden:
                sent.clear()
            # The empty lines let a traceback name the line of the page.
            code = compile("\n" * snippet.line + snippet.code, str(page), "exec", dont_inherit=True)
            shown = _run(code, module)
            where = f"{page.name}, line {snippet.line + 1}"
            assert shown == snippet.ends_with, f"{where}: {shown}"
            if snippet.sends is not None:
                assert _are_shown(sent, snippet.sends), f"{where}:\n" + "\n".join(sent)


@contextlib.contextmanager
def _modules_forgotten(folder: Path) -> Iterator[None]:
    """What a page has imported from *folder* is not there for the next page."""
    known = set(sys.modules)
    try:
        yield
    finally:
        for name in set(sys.modules) - known:
            if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
                del sys.modules[name]


def _run(code: CodeType, module: ModuleType) -> tuple[str, str] | None:
    """Run *code*; return the class and text of the error or warning that it ends with."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            exec(code, module.__dict__)
        except AssertionError:
            raise
        except Exception as error:
            if not type(error).__module__.startswith("flask_uow"):
                raise
            return type(error).__name__, _folded(str(error))
    for warning in caught:
        return warning.category.__name__, _folded(str(warning.message))
    return None


@contextlib.contextmanager
def _what_is_sent() -> Iterator[list[str]]:
    """What SQLite is told, by whatever connection; but for how connections are set up."""
    sent: list[str] = []

    def note(statement: str) -> None:
        if not statement.startswith("PRAGMA"):
            sent.append(_folded(statement))

    def watch(connection: Any, _record: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.set_trace_callback(note)

    event.listen(Pool, "connect", watch)
    try:
        yield sent
    finally:
        event.remove(Pool, "connect", watch)


def _statements(sql: str) -> list[str]:
    lines = [line.partition("--")[0].strip() for line in sql.splitlines()]
    return [line for line in lines if line]


def _are_shown(sent: list[str], shown: list[str]) -> bool:
    patterns = [re.escape(line).replace(re.escape("..."), ".*") for line in shown]
    return len(sent) == len(shown) and all(map(re.fullmatch, patterns, sent))


def _snippet(piece: re.Match[str], group: str) -> Snippet:
    line = piece.string.count("\n", 0, piece.start(group))
    return Snippet(piece[group], line, hidden=group == "hidden")


def _folded(text: str) -> str:
    return " ".join(text.split())


def _pieces(page: Path) -> list[re.Match[str]]:
    return list(_PIECE.finditer(page.read_text(encoding="utf-8")))
