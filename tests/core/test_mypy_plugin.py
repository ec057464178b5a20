"""``flask_uow.mypy``: mypy accepts ``class User(db.Model)``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

pytest.importorskip("mypy", reason="the plugin is for mypy: pip install mypy")

MODELS = """
from flask import Flask
from sqlalchemy import ScalarResult, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from typing_extensions import assert_type

from flask_uow import Database, Model, SessionProxy

db = Database()


class Tag(db.Model):
    id: Mapped[int] = mapped_column(primary_key=True)


def takes_a_database(database: Database) -> None: ...


assert_type(Tag().id, int)
assert_type(db.session, SessionProxy[Session])
assert_type(db.session.scalars(select(Tag)), ScalarResult[Tag])
db.init_app(Flask(__name__))
db.create_all()
takes_a_database(db)
databases: list[Database] = [db]


class Base(Model, DeclarativeBase):
    pass


with_base = Database(Base)
assert_type(with_base, Database)
db.nonesuch  # type: ignore[attr-defined]
"""

IMPORTING = """
from sqlalchemy.orm import Mapped, mapped_column
from typing_extensions import assert_type

from models import db


class Vote(db.Model):
    id: Mapped[int] = mapped_column(primary_key=True)


assert_type(Vote().id, int)
"""


COMPAT = """
from flask import Flask
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from typing_extensions import assert_type

from flask_uow.compat import SQLAlchemy

app = Flask(__name__)
db = SQLAlchemy(app)


class Tag(db.Model):
    id: Mapped[int] = mapped_column(primary_key=True)
    name = db.Column(db.String)


assert_type(Tag(name="x").id, int)
assert_type(db.get_or_404(Tag, 1), Tag)
db.create_all("other")


class Base(DeclarativeBase):
    pass


with_base = SQLAlchemy(model_class=Base)
assert_type(with_base, SQLAlchemy)
"""


def check(folder: Path, config: str) -> str:
    (folder / "mypy.ini").write_text(f"[mypy]\nstrict = True\n{config}")
    command = [sys.executable, "-m", "mypy", "models.py", "importing.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout


def test_db_model_is_a_class_for_mypy(tmp_path: Path) -> None:
    """In strict mode, in another module, and from mypy's cache; without the plugin it is not."""
    (tmp_path / "models.py").write_text(MODELS)
    (tmp_path / "importing.py").write_text(IMPORTING)
    assert 'Name "db.Model" is not defined' in check(tmp_path, "")
    for _ in range(2):
        assert "Success" in check(tmp_path, "plugins = flask_uow.mypy\n")
        (tmp_path / "importing.py").write_text(IMPORTING + "\n")
    (tmp_path / "importing.py").write_text(IMPORTING + "Vote().nonesuch\n")
    assert '"Vote" has no attribute "nonesuch"' in check(tmp_path, "plugins = flask_uow.mypy\n")


def test_db_model_of_compat(tmp_path: Path) -> None:
    """The same for ``flask_uow.compat``."""
    (tmp_path / "models.py").write_text(COMPAT)
    (tmp_path / "importing.py").write_text("from models import db, Tag\nTag.query.first_or_404()\n")
    assert 'Name "db.Model" is not defined' in check(tmp_path, "")
    assert "Success" in check(tmp_path, "plugins = flask_uow.mypy\n")
