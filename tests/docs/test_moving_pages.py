"""The apps on the pages about moving respond alike before and after the move."""

from __future__ import annotations

import importlib.util
import inspect
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.docs.pages import DOCS
from tests.migrations.commands import flask

LITE = DOCS / "how-to" / "moving-from-lite.md"
SESSIONS = DOCS / "how-to" / "moving-from-sessions.md"
REQUESTS = [
    ("POST", "/users", {"name": "ada"}),
    ("POST", "/users", {"name": "grace"}),
    ("POST", "/users", {"name": "ada"}),
    ("GET", "/users", {}),
    ("GET", "/users/2", {}),
    ("GET", "/users/3", {}),
    ("GET", "/names/ada", {}),
    ("GET", "/names/alan", {}),
]

needs_lite = pytest.mark.skipif(
    importlib.util.find_spec("flask_sqlalchemy_lite") is None,
    reason="Flask-SQLAlchemy-Lite is not installed",
)


def apps_of(page: Path) -> list[str]:
    """The Python of the section "Before and after"."""
    section = page.read_text(encoding="utf-8").partition("\n## Before and after\n")[2]
    section = section.partition("\n## ")[0]
    return re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


def run(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    folder.mkdir()
    monkeypatch.chdir(folder)
    module: Any = ModuleType("app")
    monkeypatch.setitem(sys.modules, "app", module)
    exec(compile(code, str(folder / "app.py"), "exec", dont_inherit=True), vars(module))
    return module


def responses_of(app: Any) -> list[tuple[int, str]]:
    client = app.test_client()
    found = [client.open(path, method=method, data=data) for method, path, data in REQUESTS]
    return [(response.status_code, response.text) for response in found]


@needs_lite
def test_app_of_lite_responds_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every status and body, of stored, refused and missing rows."""
    before, after = apps_of(LITE)
    old = run(before, tmp_path / "before", monkeypatch)
    expected = responses_of(old.app)
    with old.app.app_context():
        old.db.engine.dispose()
    new = run(after, tmp_path / "after", monkeypatch)
    assert responses_of(new.app) == expected
    assert [status for status, _ in expected] == [201, 201, 409, 405, 200, 404, 200, 404]


@needs_lite
def test_views_of_lite_work_with_explicit_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 2: the old views, with the new object and ``UOW_COMMIT``."""
    before, after = apps_of(LITE)
    expected = responses_of(run(before, tmp_path / "before", monkeypatch).app)
    views = before[before.index("@app.post") :].replace("_or_abort", "_or_404")
    setup = after.partition("\n@app.errorhandler")[0]
    setup = setup.replace("db.init_app", 'app.config["UOW_COMMIT"] = "explicit"\ndb.init_app')
    new = run(f"{setup}\n{views}", tmp_path / "after", monkeypatch)
    assert responses_of(new.app) == expected


@needs_lite
def test_page_has_every_name_of_lite() -> None:
    """Its attributes, and the arguments of its functions."""
    table = LITE.read_text(encoding="utf-8").partition("\n## Names\n")[2]
    named = set(re.findall(r"\w+", table.partition("\n## ")[0]))
    db = import_module("flask_sqlalchemy_lite").SQLAlchemy
    wanted = {name for name in vars(db) if not name.startswith("_")}
    wanted |= set(inspect.signature(db).parameters) - {"app"}
    for method in (db.get_or_abort, db.one_or_abort):
        wanted |= set(inspect.signature(method).parameters)
    assert wanted - {"self", "entity", "ident", "select"} <= named


def test_app_with_sessions_responds_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The app on flask_uow has no tables of its own yet."""
    before, after = apps_of(SESSIONS)
    old = run(before, tmp_path / "before", monkeypatch)
    expected = responses_of(old.app)
    old.engine.dispose()
    new = run(after, tmp_path / "after", monkeypatch)
    with new.app.app_context():
        new.db.create_all()
    assert responses_of(new.app) == expected
    assert [status for status, _ in expected][:4] == [201, 201, 409, 200]


@pytest.mark.slow
def test_folder_of_alembic_is_taken_over(tmp_path: Path) -> None:
    """Made by Alembic's own program; with the ``env.py`` of the page, it goes on."""
    _, after = apps_of(SESSIONS)
    page = SESSIONS.read_text(encoding="utf-8")
    (env,) = re.findall(
        r"`alembic/env\.py`:\n+<!-- .+ -->\n```python\n(.*?)^```", page, re.S | re.M
    )
    (setting,) = re.findall(r'^app\.config\["UOW_MIGRATIONS"\].+$', page, re.MULTILINE)
    (tmp_path / "app.py").write_text(after.replace("db.init_app", f"{setting}\ndb.init_app"))
    _alembic("init alembic", tmp_path)
    ini, old_env = tmp_path / "alembic.ini", tmp_path / "alembic" / "env.py"
    ini.write_text(
        re.sub(r"(?m)^sqlalchemy.url =.*", "sqlalchemy.url = sqlite:///app.db", ini.read_text())
    )
    models = "from app import Base; target_metadata = Base.metadata"
    old_env.write_text(old_env.read_text().replace("target_metadata = None", models))
    _alembic("revision --autogenerate -m users", tmp_path)
    _alembic("upgrade head", tmp_path)
    old_env.write_text(env)
    for command in ("status", "check"):
        done = flask("db", command, folder=tmp_path)
        assert (done.exit_code, "up to date" in done.output) == (0, True), done.output


def _alembic(arguments: str, folder: Path) -> None:
    command = [sys.executable, "-m", "alembic", *arguments.split()]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
