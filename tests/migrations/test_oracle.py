"""One story, told to Flask-Migrate and to ours: the same commands, files, output and exit codes.

Both have the same models, on Flask-SQLAlchemy's base and on one of ours. What is meant to differ
is listed here, and nothing else may.
"""

from __future__ import annotations

import ast
import contextlib
import re
import shlex
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.migrations import commands
from tests.migrations.commands import Done
from tests.migrations.schemas import schema_of

pytest.importorskip("flask_migrate", reason="Flask-Migrate is the oracle here")
pytest.importorskip("flask_sqlalchemy", reason="Flask-Migrate's own apps need it")

_MODELS = """
import os
import sqlalchemy as sa

VERSION = int(os.environ["MODELS"])
URL = "sqlite:///" + os.path.abspath("main.db")
BINDS = {"audit": "sqlite:///" + os.path.abspath("audit.db")} if os.environ["SEVERAL"] else {}
NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

def define(Model):
    class Person(Model):
        __tablename__ = "people"
        id = sa.Column(sa.Integer, primary_key=True)
        name = sa.Column(
            sa.String(50 if VERSION == 1 else 80),
            nullable=VERSION == 1,
            server_default="nobody" if VERSION == 3 else None,
        )
        if VERSION == 1:
            nick = sa.Column(sa.String(9), server_default="it's")
        else:
            age = sa.Column(sa.Integer, index=True)
            mail = sa.Column(sa.String(9), unique=True)

    class Pet(Model):
        __tablename__ = "pets"
        id = sa.Column(sa.Integer, primary_key=True)
        name = sa.Column(sa.String(20), index=VERSION == 1)
        if VERSION == 1:
            owner = sa.Column(sa.ForeignKey("people.id"))
        else:
            person = sa.Column(sa.ForeignKey("people.id", ondelete="CASCADE"))

    if VERSION == 1:
        class Old(Model):
            __tablename__ = "old"
            id = sa.Column(sa.Integer, primary_key=True)
    else:
        class New(Model):
            __tablename__ = "new"
            pet = sa.Column(sa.ForeignKey("pets.id"), primary_key=True)
            at = sa.Column(sa.DateTime, nullable=False)

    if BINDS:
        class Entry(Model):
            __bind_key__ = "audit"
            __tablename__ = "entries"
            id = sa.Column(sa.Integer, primary_key=True)
            what = sa.Column(sa.String(20), nullable=False)
            if VERSION > 1:
                n = sa.Column(sa.Numeric(10, 2))
"""

_THEIRS = """
import warnings
warnings.filterwarnings("ignore", "'get_engine' is deprecated")  # their env.py calls it
from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from models import *

app = Flask("story")
app.config.update(SQLALCHEMY_DATABASE_URI=URL, SQLALCHEMY_BINDS=BINDS)
db = SQLAlchemy(app, metadata=sa.MetaData(naming_convention=NAMES))
Migrate(app, db)
define(db.Model)
"""

_OURS = """
from flask_uow import Database, Flask
from sqlalchemy.orm import DeclarativeBase
from models import *

class Base(DeclarativeBase):
    metadata = sa.MetaData(naming_convention=NAMES)

define(Base)
app = Flask("story")
app.config.update(SQLALCHEMY_DATABASE_URI=URL, SQLALCHEMY_BINDS=BINDS)
app.register_extension(Database(Base))
"""

# The story: the version of the models, and a command.
_LOOKS = [
    *("heads", "heads -v", "current", "current -v", "history", "history -v", "history -i"),
    *("history -r base:current", "history -r :head", "branches", "branches -v", "show"),
]
_BEGIN = [
    "1 upgrade",  # there is no folder
    "1 init",
    "1 init",  # there is one
    "1 heads",
    "1 history",
    "1 current",
    "1 branches",
    "1 downgrade",  # nothing to undo
    "1 migrate -m first --rev-id a1",
    "1 check",  # behind
    "1 migrate",  # behind
    "1 upgrade --sql",
    "1 upgrade",
    "1 upgrade",  # nothing to do
    "1 migrate",  # nothing to do
    "1 check",
    "2 check",  # the models differ
    "2 migrate -m 'Add, and drop: ÄÖ (a very long message that is cut in the name)' --rev-id b2",
    "2 upgrade --sql a1:b2",  # SQLite would have to look at the table
    "2 downgrade --sql a1:base",
    "2 upgrade",
    "2 check",
    "3 check",  # a server default differs, and no option compares it
    *(f"2 {look}" for look in _LOOKS if "branches" not in look),
    "2 downgrade",
    "2 current",
    "2 downgrade base",
    "2 upgrade a1",
    "2 upgrade +1",
]
_REST = [
    "2 revision -m left --rev-id left --branch-label sinister",
    "2 revision -m right --rev-id right --head b2 --splice",
    "2 revision --rev-id none",  # two heads
    "2 revision --rev-id none --head b2",  # no head
    "2 migrate",  # two heads
    "2 upgrade",  # two heads
    "2 upgrade heads",
    *(f"2 {look}" for look in _LOOKS),
    "2 show heads",
    "2 show sinister",
    "2 downgrade b2",
    "2 upgrade left",
    "2 merge -m both --rev-id both heads",
    "2 merge nosuch left",
    "2 upgrade",
    *(f"2 {look}" for look in ("heads -v", "current -v", "history -v", "history", "branches")),
    "2 history -r b2:both",
    "2 history -r b2",  # no range
    "2 history -r nosuch:",
    "2 stamp a1",
    "2 current",
    "2 stamp --sql b2:both",
    "2 stamp nosuch",
    "2 stamp --purge head",
    "2 edit",
    "2 edit a1",
    "2 edit nosuch",
    "2 show nosuch",
    "2 upgrade nosuch",
    "2 upgrade +9",
    "2 downgrade nosuch",
    "2 nosuch",
    "2 upgrade --nosuch",
]

# What is meant to differ: 'check' says by its code what it has found ...
_CODES = {"2 check": {(1, 3), (0, 0)}}
# ... settings may be in 'pyproject.toml' ...
_ONLY_THEIRS = {"migrations/alembic.ini"}
# ... the default engine has a name ...
_NAMES = {"upgrade_": "upgrade_default", "downgrade_": "downgrade_default"}
# ... a table may note to which engine it belongs ...
_NOTE = ", info={'bind_key': 'audit'}"
# ... what drops data is said in the file ...
_COMMENT = re.compile(r"^ +# (This drops|If .* was renamed|    ).*\n", re.MULTILINE)
# ... functions say what they return ...
_ANNOTATION = " -> None:"
# ... SQLite can roll back DDL (they think not) ...
_TRANSACTION = {"BEGIN", "COMMIT"}
# ... databases have the names of their engines, and are asked in one go.
_HEADINGS = re.compile(
    r"^(INFO  \[.*|(WARN|ERROR) +\[.*|Current revision\(s\) for .*|default:|audit:)\n", re.MULTILINE
)
_FOR_EACH_DATABASE = {"2 history -i", "2 history -r base:current"}


@dataclass
class Side:
    """What one of them did.

    :ivar done: the commands, in the order of the story.
    :ivar files: the files of the migrations after each of them.
    """

    folder: Path
    done: list[Done] = field(default_factory=list)
    files: list[set[str]] = field(default_factory=list)

    @property
    def revisions(self) -> dict[str, str]:
        """By name of file, what is in it, without the time."""
        found = (self.folder / "migrations" / "versions").glob("*.py")
        return {path.name: self.plain(path.read_text(encoding="utf-8")) for path in found}

    def plain(self, text: str) -> str:
        text = text.replace(str(self.folder), "FOLDER")
        return re.sub(r"Create Date: .*", "Create Date: NOW", text)


@dataclass
class Story:
    """:ivar several: with a second database."""

    several: bool
    lines: list[str]
    theirs: Side
    ours: Side

    def results(self, *commands: str) -> list[tuple[str, Done, Done]]:
        """What both did, command by command; of *commands*, if any are given."""
        found = list(zip(self.lines, self.theirs.done, self.ours.done, strict=True))
        return [one for one in found if not commands or one[0].split()[1] in commands]


@pytest.fixture(scope="module", params=[False, True], ids=["one", "several"])
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Story:
    several: bool = request.param
    root = tmp_path_factory.mktemp("oracle")
    lines = _BEGIN if several else _BEGIN + _REST
    theirs = _told(lines, root / "theirs", _THEIRS, several=several)
    return Story(several, lines, theirs, _told(lines, root / "ours", _OURS, several=several))


def _told(lines: list[str], folder: Path, app: str, *, several: bool) -> Side:
    side = Side(folder)
    folder.mkdir()
    (folder / "models.py").write_text(_MODELS)
    (folder / "app.py").write_text(app)
    editor = folder / "editor"
    editor.write_text('#!/bin/sh\nbasename "$1" >> edited\n')
    editor.chmod(0o755)
    for line in lines:
        version, _, command = line.partition(" ")
        args = shlex.split(command)
        if several and args == ["init"]:
            args.append("--multidb")
        if app is _OURS and args[0] == "migrate":
            args.append("--drop-unknown")  # theirs drops without a word
        environment = {
            "MODELS": version,
            "SEVERAL": "yes" if several else "",
            **dict.fromkeys(("EDITOR", "VISUAL"), str(editor)),
        }
        side.done.append(
            commands.flask("--app", "app", "db", *args, folder=folder, environment=environment)
        )
        found = (folder / "migrations").rglob("*")
        side.files.append({str(one.relative_to(folder)) for one in found if one.is_file()})
    return side


def test_exit_codes_are_theirs(story: Story) -> None:
    """And no command ends with a traceback."""
    for line, theirs, ours in story.results():
        meant = _CODES.get(line, {(0, 0), (1, 1), (2, 2)})
        assert (theirs.exit_code, ours.exit_code) in meant, (line, theirs.output, ours.output)
        assert "Traceback" not in theirs.output + ours.output
        if ours.exit_code == 1 and not line.endswith("check"):
            assert re.fullmatch(r"Error: .*\n", ours.output), line
    assert {theirs.exit_code for _, theirs, _ in story.results()} >= {0, 1}


def test_files_are_theirs_after_each_command(story: Story) -> None:
    """Their names; what is refused leaves none."""
    for line, theirs, ours in zip(story.lines, story.theirs.files, story.ours.files, strict=True):
        assert ours == theirs - _ONLY_THEIRS, line
    cut = "migrations/versions/b2_add_and_drop_äö_a_very_long_message_.py"
    assert {"migrations/env.py", "migrations/versions/a1_first.py", cut} <= story.ours.files[-1]


def test_header_of_revisions_is_theirs(story: Story) -> None:
    """To the letter."""
    theirs, ours = story.theirs.revisions, story.ours.revisions
    assert ours.keys() == theirs.keys()
    for name, text in theirs.items():
        assert ours[name].partition("def ")[0] == text.partition("def ")[0]


def test_body_of_revisions_is_theirs(story: Story) -> None:
    """The same changes in the same order; with one database to the letter."""
    theirs, ours = story.theirs.revisions, story.ours.revisions
    for name, text in theirs.items():
        if not story.several:
            assert _COMMENT.sub("", ours[name]).replace(" -> None:", ":") == text
        assert _bodies(ours[name]) == {
            _NAMES.get(function, function): body for function, body in _bodies(text).items()
        }
    assert any(_COMMENT.search(text) for text in ours.values())


def _bodies(text: str) -> dict[str, str]:
    """By name of function, but for those that only call one of the others."""
    functions = [one for one in ast.parse(text).body if isinstance(one, ast.FunctionDef)]
    return {
        one.name: "\n".join(map(ast.unparse, one.body)).replace(_NOTE, "")
        for one in functions
        if not one.args.args
    }


def test_what_is_shown_is_theirs(story: Story) -> None:
    """heads, current, history, branches, show; with and without ``-v``."""
    seen = set()
    for line, theirs, ours in story.results("heads", "current", "history", "branches", "show"):
        if theirs.exit_code:
            continue
        expected = _shown(story.theirs, theirs.output)
        found = _shown(story.ours, ours.output)
        if story.several and line in _FOR_EACH_DATABASE:
            assert expected == found * 2, line
        elif "branches" in line or "current" in line:  # theirs comes from a set
            assert sorted(filter(None, found)) == sorted(filter(None, expected)), line
        else:
            assert found == expected, line
        if found:
            seen.add(line.partition(" ")[2])
    assert seen >= {"heads -v", "current -v", "history -v", "history -i", "show"}
    assert story.several or seen >= {"branches -v", "show heads", "history -r b2:both"}


def _shown(side: Side, output: str) -> list[str]:
    return _HEADINGS.sub("", side.plain(output)).splitlines()


def test_steps_are_theirs(story: Story) -> None:
    """Which revisions run, in which order, on which database."""
    some = False
    for line, theirs, ours in story.results("upgrade", "downgrade"):
        if "--sql" in line:
            continue
        log = re.findall(r"Running (upgrade|downgrade) (.*?) -> (.*?), ", theirs.output)
        expected = [(way, old if way == "downgrade" else new) for way, old, new in log]
        found = re.findall(r"^(?:\w+: )?(upgrade|downgrade) (\S+) .*\d s$", ours.output, re.M)
        assert found == expected, line
        some = some or bool(found)
    assert some


def test_sql_is_theirs(story: Story) -> None:
    """But for white space, comments and transactions."""
    for line, theirs, ours in story.results("upgrade", "downgrade", "stamp"):
        if "--sql" not in line or theirs.exit_code or story.several:
            continue
        assert _statements(ours.output) == _statements(theirs.output) != [], line
    if story.several:  # the last ones
        for theirs_name, ours_name in ((".sql", "default.sql"), ("audit.sql", "audit.sql")):
            expected = (story.theirs.folder / theirs_name).read_text()
            found = (story.ours.folder / ours_name).read_text()
            assert _statements(found) == _statements(expected) != []


def _statements(script: str) -> list[str]:
    script = re.sub(r"^(--|INFO ).*$", "", script, flags=re.MULTILINE)
    found = (" ".join(one.split()) for one in script.split(";"))
    return [one for one in found if one and one not in _TRANSACTION]


def test_databases_are_theirs_in_the_end(story: Story) -> None:
    """The schema, and the note of the revision."""
    for name in ("main.db", "audit.db") if story.several else ("main.db",):
        theirs, ours = story.theirs.folder / name, story.ours.folder / name
        assert schema_of(f"sqlite:///{ours}") == schema_of(f"sqlite:///{theirs}") != {}
        notes = []
        for path in (theirs, ours):
            with contextlib.closing(sqlite3.connect(path)) as connection:
                notes.append(connection.execute("SELECT * FROM alembic_version").fetchall())
        assert notes[0] == notes[1] == [("b2" if story.several else "both",)]


def test_edit_opens_the_same_files(story: Story) -> None:
    expected = "" if story.several else "both_both.py\na1_first.py\n"
    for side in (story.theirs, story.ours):
        edited = side.folder / "edited"
        assert (edited.read_text() if edited.exists() else "") == expected
